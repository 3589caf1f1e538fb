//! Arm's PL011 UART and the SBSA generic UART.
//!
//! Source: PrimeCell UART (PL011) TRM, DDI 0183, chapter 3; the SBSA generic UART has the
//! registers used here but for UARTLCR_H and UARTCR.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;

use super::Fill;
use crate::registers::{Offset, Registers};

register_bitfields! [u32,
    UARTFR [
        BUSY OFFSET(3) NUMBITS(1) [],
        RXFE OFFSET(4) NUMBITS(1) [],
        TXFF OFFSET(5) NUMBITS(1) [],
        TXFE OFFSET(7) NUMBITS(1) []
    ],
    UARTLCR_H [
        FEN OFFSET(4) NUMBITS(1) []
    ],
    UARTCR [
        UARTEN OFFSET(0) NUMBITS(1) [],
        TXE OFFSET(8) NUMBITS(1) [],
        RXE OFFSET(9) NUMBITS(1) [],
        CTSEN OFFSET(15) NUMBITS(1) []
    ]
];

const DATA: Offset<u32> = Offset::new(0x00);
const FLAGS: Offset<u32, UARTFR::Register> = Offset::new(0x18);
const LINE: Offset<u32, UARTLCR_H::Register> = Offset::new(0x2c);
const CONTROL: Offset<u32, UARTCR::Register> = Offset::new(0x30);

/// Bytes in the transmit FIFO of the oldest revision.
const FIFO: usize = 16;

/// Switches it on and flow control off, as Linux does around its own console output when no
/// terminal holds the port open. Returns how many bytes an empty FIFO takes.
// Field masks are combined by `+`, which is an OR.
#[allow(clippy::arithmetic_side_effects)]
pub(super) fn enable(registers: &impl Registers) -> usize {
    registers
        .at(CONTROL)
        .modify(UARTCR::UARTEN::SET + UARTCR::TXE::SET + UARTCR::RXE::SET + UARTCR::CTSEN::CLEAR);
    match registers.at(LINE).is_set(UARTLCR_H::FEN) {
        true => FIFO,
        false => 1,
    }
}

pub(super) fn fill(registers: &impl Registers) -> Fill {
    let flags = registers.at(FLAGS).extract();
    Fill::of(flags.is_set(UARTFR::TXFF), flags.is_set(UARTFR::TXFE))
}

pub(super) fn put(registers: &impl Registers, byte: u8) {
    registers.at(DATA).set(byte.into());
}

pub(super) fn has(registers: &impl Registers) -> bool {
    !registers.at(FLAGS).is_set(UARTFR::RXFE)
}

pub(super) fn get(registers: &impl Registers) -> u8 {
    registers.at(DATA).get() as u8
}

pub(super) fn is_idle(registers: &impl Registers) -> bool {
    !registers.at(FLAGS).is_set(UARTFR::BUSY)
}
