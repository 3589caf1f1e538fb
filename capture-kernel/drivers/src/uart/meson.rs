//! Amlogic's UART (Meson8 to G12).
//!
//! Sources: Linux `drivers/tty/serial/meson_uart.c`; S905X3 Public Datasheet, UART.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;

use super::Fill;
use crate::registers::{Offset, Registers};

register_bitfields! [u32,
    CONTROL [
        TX_EN OFFSET(12) NUMBITS(1) [],
        RX_EN OFFSET(13) NUMBITS(1) [],
        /// No flow control: two wires are all there is.
        TWO_WIRE_EN OFFSET(15) NUMBITS(1) []
    ],
    STATUS [
        RX_EMPTY OFFSET(20) NUMBITS(1) [],
        TX_FULL OFFSET(21) NUMBITS(1) [],
        TX_EMPTY OFFSET(22) NUMBITS(1) [],
        XMIT_BUSY OFFSET(25) NUMBITS(1) []
    ]
];

const TRANSMIT: Offset<u32> = Offset::new(0x00);
const RECEIVED: Offset<u32> = Offset::new(0x04);
const CONTROL_AT: Offset<u32, CONTROL::Register> = Offset::new(0x08);
const STATUS_AT: Offset<u32, STATUS::Register> = Offset::new(0x0c);

const FIFO: usize = 64;

// Field masks are combined by `+`, which is an OR.
#[allow(clippy::arithmetic_side_effects)]
pub(super) fn enable(registers: &impl Registers) -> usize {
    registers
        .at(CONTROL_AT)
        .modify(CONTROL::TX_EN::SET + CONTROL::RX_EN::SET + CONTROL::TWO_WIRE_EN::SET);
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
    registers.at(TRANSMIT).set(byte.into());
}

pub(super) fn has(registers: &impl Registers) -> bool {
    !registers.at(STATUS_AT).is_set(STATUS::RX_EMPTY)
}

pub(super) fn get(registers: &impl Registers) -> u8 {
    registers.at(RECEIVED).get() as u8
}

pub(super) fn is_idle(registers: &impl Registers) -> bool {
    let status = registers.at(STATUS_AT).extract();
    status.is_set(STATUS::TX_EMPTY) && !status.is_set(STATUS::XMIT_BUSY)
}
