//! Qualcomm's two UARTs: UARTDM (of SoCs up to the MSM8998) and the serial engine GENI (from the
//! SDM845 on).
//!
//! Both send what they were told the length of, and both pack received bytes four to a word, so
//! that one must know how many there will be. Each byte is sent as a transfer of its own, when the
//! one before it has left; nothing is received.
//!
//! Source: Linux drivers/tty/serial/msm_serial.c, qcom_geni_serial.c,
//! include/linux/soc/qcom/geni-se.h; the manuals are not public.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;

use super::Fill;
use crate::registers::{Offset, Registers};

/// Bytes that a transfer has.
pub(super) const FIFO: usize = 1;

pub(super) mod uartdm {
    use super::*;

    register_bitfields! [u32,
        MR1 [
            /// Waits for the other side's readiness to receive.
            CTS_CTL OFFSET(6) NUMBITS(1) []
        ],
        SR [
            TX_EMPTY OFFSET(3) NUMBITS(1) []
        ],
        CR [
            TX_ENABLE OFFSET(2) NUMBITS(1) []
        ]
    ];

    const MODE_1: Offset<u32, MR1::Register> = Offset::new(0x00);
    const STATUS: Offset<u32, SR::Register> = Offset::new(0x08);
    /// Commands; zeros change nothing.
    const COMMAND: Offset<u32, CR::Register> = Offset::new(0x10);
    /// Who fills and empties the FIFOs: zero is the CPU.
    const DATA_MOVER: Offset<u32> = Offset::new(0x3c);
    /// How many bytes will be sent.
    const COUNT: Offset<u32> = Offset::new(0x40);
    const TRANSMIT: Offset<u32> = Offset::new(0x70);

    pub(in super::super) fn enable(registers: &impl Registers) -> usize {
        registers.at(DATA_MOVER).set(0);
        registers.at(MODE_1).modify(MR1::CTS_CTL::CLEAR);
        registers.at(COMMAND).write(CR::TX_ENABLE::SET);
        FIFO
    }

    pub(in super::super) fn is_idle(registers: &impl Registers) -> bool {
        registers.at(STATUS).is_set(SR::TX_EMPTY)
    }

    pub(in super::super) fn put(registers: &impl Registers, byte: u8) {
        registers.at(COUNT).set(1);
        registers.at(TRANSMIT).set(byte.into());
    }
}

pub(super) mod geni {
    use super::*;

    register_bitfields! [u32,
        STATUS [
            M_CMD_ACTIVE OFFSET(0) NUMBITS(1) []
        ],
        M_CMD0 [
            OPCODE OFFSET(27) NUMBITS(5) [
                StartTx = 1
            ]
        ],
        M_CMD_CTRL [
            CANCEL OFFSET(2) NUMBITS(1) []
        ]
    ];

    const STATUS_AT: Offset<u32, STATUS::Register> = Offset::new(0x40);
    const LENGTH: Offset<u32> = Offset::new(0x270);
    const COMMAND: Offset<u32, M_CMD0::Register> = Offset::new(0x600);
    const CONTROL: Offset<u32, M_CMD_CTRL::Register> = Offset::new(0x604);
    const TRANSMIT: Offset<u32> = Offset::new(0x700);

    /// Cancels a transfer that the crashed kernel began and nobody will feed any more. One of a
    /// single byte is ours, and ends by itself.
    pub(in super::super) fn enable(registers: &impl Registers) -> usize {
        if !is_idle(registers) && registers.at(LENGTH).get() != 1 {
            registers.at(CONTROL).write(M_CMD_CTRL::CANCEL::SET);
        }
        FIFO
    }

    pub(in super::super) fn is_idle(registers: &impl Registers) -> bool {
        !registers.at(STATUS_AT).is_set(STATUS::M_CMD_ACTIVE)
    }

    pub(in super::super) fn put(registers: &impl Registers, byte: u8) {
        registers.at(LENGTH).set(1);
        registers.at(COMMAND).write(M_CMD0::OPCODE::StartTx);
        registers.at(TRANSMIT).set(byte.into());
    }
}

/// What can be sent when the transmitter is idle or not.
pub(super) const fn fill(is_idle: bool) -> Fill {
    Fill::of(!is_idle, is_idle)
}
