//! The 8250 and its descendants: 16550, DesignWare's, OMAP's, the mini-UART of the BCM2835.
//!
//! They differ in how far apart the registers lie and how wide they are accessed
//! ([`Ns16550`]), and in what "transmitter empty" means: to all but the mini-UART, an empty FIFO.
//!
//! Sources: PC16550D data sheet, section 8; Linux `drivers/tty/serial/8250/8250_dw.c` (DesignWare's
//! line control register ignores writes while it is busy, so it is only written if it must be);
//! AM64x TRM, UART (registers 4 bytes apart, mode in MDR1); BCM2835 ARM Peripherals, section 2.2;
//! the binding `serial/8250.yaml` of Linux.

use super::Fill;
use crate::registers::{Registers, Width};

/// Where a member of the family has its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ns16550 {
    /// The distance of two registers in bytes, as a power of two (`reg-shift`), at most 4.
    pub shift: u8,
    /// Registers are accessed as 32 bits (`reg-io-width` 4), else as bytes.
    pub wide: bool,
    /// An empty transmitter takes one byte only, whatever the FIFO's register says: the
    /// mini-UART says empty as soon as there is room for one.
    pub mini: bool,
}

/// Transmit and receive buffer.
const DATA: usize = 0;
/// Interrupt identification: bits 7 and 6 tell whether the FIFOs are on.
const IDENTIFICATION: usize = 2;
const FIFOS_ON: u8 = 0xc0;
/// Line control: bit 7 puts the divisor in the place of the data.
const LINE_CONTROL: usize = 3;
const DIVISOR_ACCESS: u8 = 1 << 7;
/// Line status.
const LINE_STATUS: usize = 5;
const DATA_READY: u8 = 1 << 0;
const EMPTY: u8 = 1 << 5;
const IDLE: u8 = 1 << 6;
/// Bytes in the FIFO of a 16550; others have more.
const FIFO: usize = 16;

impl Ns16550 {
    fn read(self, registers: &impl Registers, number: usize) -> u8 {
        registers.read(self.offset(number), self.width()) as u8
    }

    fn write(self, registers: &impl Registers, number: usize, value: u8) {
        registers.write(self.offset(number), self.width(), value.into());
    }

    fn offset(self, number: usize) -> usize {
        number << self.shift.min(4)
    }

    fn width(self) -> Width {
        match self.wide {
            true => Width::W32,
            false => Width::W8,
        }
    }

    /// Makes the data register reachable. Returns how many bytes an empty transmitter takes.
    pub(super) fn enable(self, registers: &impl Registers) -> usize {
        let line = self.read(registers, LINE_CONTROL);
        if line & DIVISOR_ACCESS != 0 {
            self.write(registers, LINE_CONTROL, line & !DIVISOR_ACCESS);
        }
        let on = self.read(registers, IDENTIFICATION) & FIFOS_ON == FIFOS_ON;
        if on && !self.mini { FIFO } else { 1 }
    }

    /// It tells only whether its FIFO is empty.
    pub(super) fn fill(self, registers: &impl Registers) -> Fill {
        match self.read(registers, LINE_STATUS) & EMPTY {
            0 => Fill::Full,
            _ => Fill::Empty,
        }
    }

    pub(super) fn put(self, registers: &impl Registers, byte: u8) {
        self.write(registers, DATA, byte);
    }

    pub(super) fn has(self, registers: &impl Registers) -> bool {
        self.read(registers, LINE_STATUS) & DATA_READY != 0
    }

    pub(super) fn get(self, registers: &impl Registers) -> u8 {
        self.read(registers, DATA)
    }

    pub(super) fn is_idle(self, registers: &impl Registers) -> bool {
        self.read(registers, LINE_STATUS) & IDLE != 0
    }
}
