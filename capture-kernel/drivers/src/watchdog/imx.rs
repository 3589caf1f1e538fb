//! NXP's watchdog, as i.MX 2 to 8M and Layerscape have it: 16-bit registers, big-endian on some
//! of the latter. Once it runs it cannot be stopped.
//!
//! Sources: i.MX 8M Mini Reference Manual, WDOG; Linux `drivers/watchdog/imx2_wdt.c`
//! and the binding `watchdog/fsl-imx-wdt.yaml`.

use crate::registers::{Registers, Width};

/// How one is wired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imx {
    /// Its registers are big-endian (`big-endian`).
    pub big_endian: bool,
    /// It resets the board by a pin, not the chip (`fsl,ext-reset-output`).
    pub by_pin: bool,
}

const CONTROL: usize = 0x0;
const SERVICE: usize = 0x2;

const ENABLE: u16 = 1 << 2;
/// The chip's reset and the pin's: each is asserted by a 0.
const CHIP: u16 = 1 << 4;
const PIN: u16 = 1 << 5;
const SERVICE_KEYS: [u16; 2] = [0x5555, 0xaaaa];
/// Writes that make a reset certain: erratum ERR004346 of the i.MX6 asks for two of them within
/// one cycle of 32 kHz.
const RESET_WRITES: usize = 3;

impl Imx {
    pub(super) fn is_running(self, registers: &impl Registers) -> bool {
        let control = registers.read(CONTROL, Width::W16) as u16;
        self.in_order(control) & ENABLE != 0
    }

    pub(super) fn pet(self, registers: &impl Registers) {
        for key in SERVICE_KEYS {
            self.write(registers, SERVICE, key);
        }
    }

    pub(super) fn reset(self, registers: &impl Registers) {
        let not = if self.by_pin { CHIP } else { PIN };
        for _ in 0..RESET_WRITES {
            self.write(registers, CONTROL, ENABLE | not);
        }
    }

    fn write(self, registers: &impl Registers, offset: usize, value: u16) {
        registers.write(offset, Width::W16, self.in_order(value).into());
    }

    const fn in_order(self, value: u16) -> u16 {
        match self.big_endian {
            true => value.swap_bytes(),
            false => value,
        }
    }
}
