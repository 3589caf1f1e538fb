//! Cadence's UART, as Zynq and ZynqMP have it.
//!
//! Source: Zynq UltraScale+ Device TRM (UG1085), UART, and its register reference (UG1087).

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;

use super::Fill;
use crate::registers::{Offset, Registers};

register_bitfields! [u32,
    CONTROL [
        RX_EN OFFSET(2) NUMBITS(1) [],
        RX_DIS OFFSET(3) NUMBITS(1) [],
        TX_EN OFFSET(4) NUMBITS(1) [],
        TX_DIS OFFSET(5) NUMBITS(1) []
    ],
    STATUS [
        RX_EMPTY OFFSET(1) NUMBITS(1) [],
        TX_EMPTY OFFSET(3) NUMBITS(1) [],
        TX_FULL OFFSET(4) NUMBITS(1) [],
        TX_ACTIVE OFFSET(11) NUMBITS(1) []
    ]
];

const CONTROL_AT: Offset<u32, CONTROL::Register> = Offset::new(0x00);
const STATUS_AT: Offset<u32, STATUS::Register> = Offset::new(0x2c);
const DATA: Offset<u32> = Offset::new(0x30);

const FIFO: usize = 64;

// Field masks are combined by `+`, which is an OR.
#[allow(clippy::arithmetic_side_effects)]
pub(super) fn enable(registers: &impl Registers) -> usize {
    registers.at(CONTROL_AT).modify(
        CONTROL::RX_EN::SET + CONTROL::RX_DIS::CLEAR + CONTROL::TX_EN::SET + CONTROL::TX_DIS::CLEAR,
    );
    FIFO
}

pub(super) fn fill(registers: &impl Registers) -> Fill {
    let status = registers.at(STATUS_AT).extract();
    Fill::of(
        status.is_set(STATUS::TX_FULL),
        status.is_set(STATUS::TX_EMPTY),
    )
}

pub(super) fn put(registers: &impl Registers, byte: u8) {
    registers.at(DATA).set(byte.into());
}

pub(super) fn has(registers: &impl Registers) -> bool {
    !registers.at(STATUS_AT).is_set(STATUS::RX_EMPTY)
}

pub(super) fn get(registers: &impl Registers) -> u8 {
    registers.at(DATA).get() as u8
}

pub(super) fn is_idle(registers: &impl Registers) -> bool {
    let status = registers.at(STATUS_AT).extract();
    status.is_set(STATUS::TX_EMPTY) && !status.is_set(STATUS::TX_ACTIVE)
}
