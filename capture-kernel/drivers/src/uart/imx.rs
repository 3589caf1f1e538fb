//! NXP's i.MX UART, from the i.MX21 to the i.MX8M.
//!
//! Source: i.MX 8M Mini Applications Processor Reference Manual, UART.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;

use super::Fill;
use crate::registers::{Offset, Registers};

register_bitfields! [u32,
    UCR1 [
        UARTEN OFFSET(0) NUMBITS(1) []
    ],
    UCR2 [
        RXEN OFFSET(1) NUMBITS(1) [],
        TXEN OFFSET(2) NUMBITS(1) [],
        /// Ignores the other side's request to stop.
        IRTS OFFSET(14) NUMBITS(1) []
    ],
    USR2 [
        RDR OFFSET(0) NUMBITS(1) [],
        TXDC OFFSET(3) NUMBITS(1) []
    ],
    UTS [
        TXFULL OFFSET(4) NUMBITS(1) [],
        TXEMPTY OFFSET(6) NUMBITS(1) []
    ]
];

const RECEIVED: Offset<u32> = Offset::new(0x00);
const TRANSMIT: Offset<u32> = Offset::new(0x40);
const CONTROL_1: Offset<u32, UCR1::Register> = Offset::new(0x80);
const CONTROL_2: Offset<u32, UCR2::Register> = Offset::new(0x84);
const STATUS_2: Offset<u32, USR2::Register> = Offset::new(0x98);
const TEST: Offset<u32, UTS::Register> = Offset::new(0xb4);

const FIFO: usize = 32;

// Field masks are combined by `+`, which is an OR.
#[allow(clippy::arithmetic_side_effects)]
pub(super) fn enable(registers: &impl Registers) -> usize {
    registers.at(CONTROL_1).modify(UCR1::UARTEN::SET);
    registers
        .at(CONTROL_2)
        .modify(UCR2::RXEN::SET + UCR2::TXEN::SET + UCR2::IRTS::SET);
    FIFO
}

pub(super) fn fill(registers: &impl Registers) -> Fill {
    let test = registers.at(TEST).extract();
    Fill::of(test.is_set(UTS::TXFULL), test.is_set(UTS::TXEMPTY))
}

pub(super) fn put(registers: &impl Registers, byte: u8) {
    registers.at(TRANSMIT).set(byte.into());
}

pub(super) fn has(registers: &impl Registers) -> bool {
    registers.at(STATUS_2).is_set(USR2::RDR)
}

pub(super) fn get(registers: &impl Registers) -> u8 {
    registers.at(RECEIVED).get() as u8
}

pub(super) fn is_idle(registers: &impl Registers) -> bool {
    registers.at(STATUS_2).is_set(USR2::TXDC)
}
