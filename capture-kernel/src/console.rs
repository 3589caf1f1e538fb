//! Lines for people on the board's UART. A machine without a known UART is silent.

use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, Ordering};

use embedded_io::Write as _;
use kdraw_boards::machine::Machine;
use kdraw_drivers::line::Port;

use crate::uart::Place;

static CONSOLE: spin::Once<Place> = spin::Once::new();
/// The line that a dump goes over, if it is another one.
static OTHER: spin::Once<Place> = spin::Once::new();

/// Finds the console that the device tree names.
pub fn find(machine: &Machine<'_>) {
    let console = machine.console();
    if let Some(place) = console.and_then(|console| Place::of(machine, &console)) {
        CONSOLE.call_once(|| place);
    }
}

/// Set once frames go over a line: what is said begins a line of its own.
static AMONG_FRAMES: AtomicBool = AtomicBool::new(false);

/// Says everything there too: whoever only records that line reads what happened.
pub fn speak_there_too(place: Place) {
    AMONG_FRAMES.store(true, Ordering::Relaxed);
    if CONSOLE.get() != Some(&place) {
        OTHER.call_once(|| place);
    }
}

/// The ports that lines are written to. New ones each time: a fault in the middle of a line leaves
/// no lock behind.
fn ports() -> impl Iterator<Item = Port> {
    let places = [CONSOLE.get(), OTHER.get()];
    places.into_iter().flatten().map(Place::open)
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
    let begin = match AMONG_FRAMES.load(Ordering::Relaxed) {
        true => "\n",
        false => "",
    };
    for port in ports() {
        // A stuck UART must not stop the capture.
        let _ = writeln!(Line(port), "{begin}kdraw: {text}");
    }
}

/// Waits until the last line is on the wire.
pub fn flush() {
    for mut port in ports() {
        let _ = port.flush();
    }
}

/// Writes one line to the console, formatted like `println!`.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use say;
