//! Lines for people on the board's UART. A machine without a known UART is silent.

use core::fmt::Write as _;

use embedded_io::Write as _;
use kdraw_boards::machine::{Console, Machine};

use crate::uart::{self, Port};

static PORT: spin::Once<uart::Place> = spin::Once::new();

/// Finds the console that the device tree names.
pub fn find(machine: &Machine<'_>) {
    if let Some(console) = machine.console() {
        open(machine, &console);
    }
}

/// Makes a UART the console, if there is none yet.
fn open(machine: &Machine<'_>, console: &Console) {
    if let Some(place) = uart::Place::of(machine, console) {
        PORT.call_once(|| place);
    }
}

/// The console. A new one each time: a fault in the middle of a line leaves no lock behind.
fn port() -> Option<Port> {
    PORT.get().map(uart::Place::open)
}

struct Line(Port);

impl core::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.as_bytes() {
            let bytes = match byte {
                b'\n' => b"\r\n",
                byte => core::slice::from_ref(byte),
            };
            self.0.write_all(bytes).map_err(|_| core::fmt::Error)?;
        }
        Ok(())
    }
}

/// Writes one line, prefixed by `kdraw: `.
pub fn line(text: core::fmt::Arguments<'_>) {
    if let Some(uart) = port() {
        // A stuck UART must not stop the capture.
        let _ = writeln!(Line(uart), "kdraw: {text}");
    }
}

/// Waits until the last line is on the wire.
pub fn flush() {
    if let Some(mut uart) = port() {
        let _ = uart.flush();
    }
}

/// Writes one line to the console, formatted like `println!`.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use say;
