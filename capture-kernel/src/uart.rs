//! From a UART of the device tree to its driver.

use core::ptr::NonNull;

use kdraw_boards::ConsoleKind;
use kdraw_boards::machine::{Console, Machine};
use kdraw_drivers::line::Port;
use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::uart::{Model, Ns16550, SwitchedOn};

use crate::clock::Counter;
use crate::mmu::{self, Use};

/// Where a UART is: its registers are mapped, and it is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    base: usize,
    len: usize,
    uart: SwitchedOn,
}

impl Place {
    /// Maps a UART's registers and switches it on; `None` if that cannot be done.
    pub fn of(machine: &Machine<'_>, uart: &Console) -> Option<Self> {
        // A damaged tree must not make us write to memory.
        let overlaps = |memory: kdraw_format::addr::PhysRange| memory.overlaps(&uart.registers);
        if machine.memory().any(overlaps) {
            return None;
        }
        let ns = |mini| {
            Model::Ns16550(Ns16550 {
                shift: uart.shift,
                wide: uart.wide,
                mini,
            })
        };
        let model = match uart.kind {
            ConsoleKind::Pl011 => Model::Pl011,
            ConsoleKind::Ns16550 | ConsoleKind::Ns16550Wide => ns(false),
            ConsoleKind::MiniUart => ns(true),
            ConsoleKind::Imx => Model::Imx,
            ConsoleKind::Meson => Model::Meson,
            ConsoleKind::Cadence => Model::Cadence,
            ConsoleKind::Lpuart => Model::Lpuart,
            ConsoleKind::Mvebu => Model::Mvebu,
            ConsoleKind::UartDm => Model::UartDm,
            ConsoleKind::Geni => Model::Geni,
        };
        let seen = mmu::map(uart.registers, Use::Registers).ok()?;
        let len = uart.registers.len() as usize;
        // SAFETY: `len` bytes were mapped there as Device memory, for good, and this module is the
        // only one that opens UARTs; what two writers do to each other is mixed text.
        let registers = unsafe { MmioRegion::new(seen, len) };
        Some(Self {
            base: seen.as_ptr().addr(),
            len,
            uart: Port::switch_on(&registers, model),
        })
    }

    /// Opens it, any number of times.
    pub fn open(&self) -> Port {
        let base = NonNull::new(self.base as *mut u8).unwrap_or(NonNull::dangling());
        // SAFETY: as in `of`, which found both values.
        let registers = unsafe { MmioRegion::new(base, self.len) };
        Port::new(registers, self.uart, &Counter)
    }
}
