//! NXP's low power UART of the i.MX 7ULP and 8QXP to the 95: the 32-bit one, four words into its
//! registers. (Layerscape's begins at once, and has the other byte order.)
//!
//! Source: i.MX 93 Applications Processor Reference Manual, chapter LPUART; Linux
//! drivers/tty/serial/fsl_lpuart.c for which of it the 7ULP has, too.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;

use super::Fill;
use crate::registers::{Offset, Registers};

register_bitfields! [u32,
    STAT [
        /// The FIFO holds no more than its watermark, which is below its depth.
        TDRE OFFSET(23) NUMBITS(1) [],
        /// Nothing is on its way.
        TC OFFSET(22) NUMBITS(1) []
    ],
    CTRL [
        TE OFFSET(19) NUMBITS(1) [],
        RE OFFSET(18) NUMBITS(1) []
    ],
    MODIR [
        /// Waits for the other side's readiness to receive.
        TXCTSE OFFSET(0) NUMBITS(1) []
    ],
    FIFO [
        TXEMPT OFFSET(23) NUMBITS(1) [],
        RXEMPT OFFSET(22) NUMBITS(1) [],
        TXFE OFFSET(7) NUMBITS(1) [],
        TXFIFOSIZE OFFSET(4) NUMBITS(3) []
    ]
];

const STATUS: Offset<u32, STAT::Register> = Offset::new(0x14);
const CONTROL: Offset<u32, CTRL::Register> = Offset::new(0x18);
const DATA: Offset<u32> = Offset::new(0x1c);
const MODEM: Offset<u32, MODIR::Register> = Offset::new(0x24);
const FIFO_AT: Offset<u32, FIFO::Register> = Offset::new(0x28);

// Field masks are combined by `+`, which is an OR.
#[allow(clippy::arithmetic_side_effects)]
pub(super) fn enable(registers: &impl Registers) -> usize {
    registers.at(MODEM).modify(MODIR::TXCTSE::CLEAR);
    registers.at(CONTROL).modify(CTRL::TE::SET + CTRL::RE::SET);
    let fifo = registers.at(FIFO_AT).extract();
    // 1, 4, 8, 16, … words.
    match fifo.read(FIFO::TXFIFOSIZE) {
        size if size > 0 && fifo.is_set(FIFO::TXFE) => 2 << size,
        _ => 1,
    }
}

pub(super) fn fill(registers: &impl Registers) -> Fill {
    let full = !registers.at(STATUS).is_set(STAT::TDRE);
    Fill::of(full, registers.at(FIFO_AT).is_set(FIFO::TXEMPT))
}

pub(super) fn put(registers: &impl Registers, byte: u8) {
    registers.at(DATA).set(byte.into());
}

pub(super) fn has(registers: &impl Registers) -> bool {
    !registers.at(FIFO_AT).is_set(FIFO::RXEMPT)
}

pub(super) fn get(registers: &impl Registers) -> u8 {
    registers.at(DATA).get() as u8
}

pub(super) fn is_idle(registers: &impl Registers) -> bool {
    registers.at(STATUS).is_set(STAT::TC)
}
