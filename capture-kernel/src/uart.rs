//! From a UART of the device tree to its driver.

use core::ptr::NonNull;

use kdraw_boards::ConsoleKind;
use kdraw_boards::machine::{Console, Machine};
use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::uart::{Model, Ns16550, Uart};

use crate::clock::Counter;
use crate::mmu::{self, Use};

/// A UART that can be used.
pub type Port = Uart<MmioRegion, Counter>;

/// Where a UART is: its registers are mapped.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    base: usize,
    len: usize,
    model: Model,
}

impl Place {
    /// Maps a UART's registers; `None` if that cannot be done.
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
        Some(Self {
            base: seen.as_ptr().addr(),
            len: uart.registers.len() as usize,
            model,
        })
    }

    /// Opens it, any number of times.
    pub fn open(&self) -> Port {
        let base = NonNull::new(self.base as *mut u8).unwrap_or(NonNull::dangling());
        // SAFETY: `of` mapped `len` bytes there as Device memory, for good, and this module is
        // the only one that opens UARTs; what two writers do to each other is mixed text.
        let registers = unsafe { MmioRegion::new(base, self.len) };
        Uart::new(registers, self.model, Counter)
    }
}
