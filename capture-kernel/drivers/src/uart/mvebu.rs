//! Marvell's UART of the Armada 3700, the first of its two kinds. It is always on.
//!
//! Source: Linux drivers/tty/serial/mvebu-uart.c; the manual is not public.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_bitfields;

use super::Fill;
use crate::registers::{Offset, Registers};

register_bitfields! [u32,
    STATUS [
        TX_FIFO_EMPTY OFFSET(13) NUMBITS(1) [],
        TX_FIFO_FULL OFFSET(11) NUMBITS(1) [],
        TX_EMPTY OFFSET(6) NUMBITS(1) [],
        RX_READY OFFSET(4) NUMBITS(1) []
    ]
];

const RECEIVED: Offset<u32> = Offset::new(0x00);
const TRANSMIT: Offset<u32> = Offset::new(0x04);
const STATUS_AT: Offset<u32, STATUS::Register> = Offset::new(0x0c);

pub(super) const FIFO: usize = 32;

pub(super) fn fill(registers: &impl Registers) -> Fill {
    let status = registers.at(STATUS_AT).extract();
    Fill::of(
        status.is_set(STATUS::TX_FIFO_FULL),
        status.is_set(STATUS::TX_FIFO_EMPTY),
    )
}

pub(super) fn put(registers: &impl Registers, byte: u8) {
    registers.at(TRANSMIT).set(byte.into());
}

pub(super) fn has(registers: &impl Registers) -> bool {
    registers.at(STATUS_AT).is_set(STATUS::RX_READY)
}

pub(super) fn get(registers: &impl Registers) -> u8 {
    registers.at(RECEIVED).get() as u8
}

pub(super) fn is_idle(registers: &impl Registers) -> bool {
    let status = registers.at(STATUS_AT).extract();
    status.is_set(STATUS::TX_FIFO_EMPTY) && status.is_set(STATUS::TX_EMPTY)
}
