//! Lines for people on the board's UART. A machine without a known UART is silent.

use core::fmt::Write as _;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use embedded_io::Write as _;
use kdraw_boards::ConsoleKind;
use kdraw_boards::machine::Machine;
use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::pl011::{self, Pl011};

use crate::clock::Counter;
use crate::mmu::{self, Use};

static REGISTERS: AtomicUsize = AtomicUsize::new(0);

/// Finds the console that the device tree names.
pub fn find(machine: &Machine<'_>) {
    let Some(console) = machine.console() else {
        return;
    };
    // A damaged tree must not make us write to memory.
    if machine
        .memory()
        .any(|memory| memory.overlaps(&console.registers))
    {
        return;
    }
    match console.kind {
        ConsoleKind::Pl011 => {
            if let Ok(seen) = mmu::map(console.registers, Use::Registers) {
                REGISTERS.store(seen.as_ptr().addr(), Ordering::Relaxed);
                if let Some(mut uart) = uart() {
                    uart.enable_transmitter();
                }
            }
        }
    }
}

/// The console. A new one each time: a fault in the middle of a line leaves no lock behind.
fn uart() -> Option<Pl011<MmioRegion, Counter>> {
    let base = NonNull::new(REGISTERS.load(Ordering::Relaxed) as *mut u8)?;
    // SAFETY: `find` mapped the registers there as Device memory, and nothing else in the
    // payload uses them; what two writers do to each other is mixed text.
    let registers = unsafe { MmioRegion::new(base, pl011::SIZE) };
    Some(Pl011::new(registers, Counter))
}

struct Line(Pl011<MmioRegion, Counter>);

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
    if let Some(uart) = uart() {
        // A stuck UART must not stop the capture.
        let _ = writeln!(Line(uart), "kdraw: {text}");
    }
}

/// Waits until the last line is on the wire.
pub fn flush() {
    if let Some(mut uart) = uart() {
        let _ = uart.flush();
    }
}

/// Writes one line to the console, formatted like `println!`.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use say;
