//! Arm's PL011 UART and the SBSA generic UART, for output.
//!
//! It is used as Linux left it: line settings, FIFO and clocks stay. A full FIFO is waited for,
//! but not for ever: once it has stayed full for [`STUCK_AFTER_US`] (a line held by flow control,
//! a clock that was switched off), the port counts as stuck, and as long as it is, writes fail at
//! once instead of costing that wait for each byte.
//!
//! Source: PrimeCell UART (PL011) TRM, DDI 0183, chapter 3; the SBSA generic UART has the
//! registers used here but for UARTCR.

use embedded_io::{ErrorKind, ErrorType, Write};
use kdraw_pipeline::ports::Clock;
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;

use crate::registers::{Offset, Registers};
use crate::wait_until;

/// Microseconds that a full FIFO is waited for: 24 times what a byte takes at 9600 baud.
pub const STUCK_AFTER_US: u64 = 25_000;

/// Bytes of register space that the driver needs.
pub const SIZE: usize = 0x48;

register_bitfields! [u32,
    UARTFR [
        BUSY OFFSET(3) NUMBITS(1) [],
        TXFF OFFSET(5) NUMBITS(1) []
    ],
    UARTCR [
        UARTEN OFFSET(0) NUMBITS(1) [],
        TXE OFFSET(8) NUMBITS(1) [],
        CTSEN OFFSET(15) NUMBITS(1) []
    ]
];

const DATA: Offset<u32> = Offset::new(0x00);
const FLAGS: Offset<u32, UARTFR::Register> = Offset::new(0x18);
const CONTROL: Offset<u32, UARTCR::Register> = Offset::new(0x30);

/// Why output failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Pl011Error {
    /// The transmit FIFO stays full.
    #[error("UART transmits nothing: its FIFO stays full (flow control, or its clock is off?)")]
    Stuck,
}

impl embedded_io::Error for Pl011Error {
    fn kind(&self) -> ErrorKind {
        ErrorKind::TimedOut
    }
}

/// A PL011 that is written to.
#[derive(Debug)]
pub struct Pl011<R, C> {
    registers: R,
    clock: C,
    stuck: bool,
}

impl<R: Registers, C: Clock> Pl011<R, C> {
    /// Uses the UART behind `registers` ([`SIZE`] bytes) as it is.
    pub const fn new(registers: R, clock: C) -> Self {
        Self {
            registers,
            clock,
            stuck: false,
        }
    }

    /// Switches the transmitter on and flow control off, as Linux does around its own console
    /// output when no terminal holds the port open. For `arm,pl011` only: the SBSA generic UART
    /// has no such register.
    // Field masks are combined by `+`, which is an OR.
    #[allow(clippy::arithmetic_side_effects)]
    pub fn enable_transmitter(&mut self) {
        self.registers
            .at(CONTROL)
            .modify(UARTCR::UARTEN::SET + UARTCR::TXE::SET + UARTCR::CTSEN::CLEAR);
    }

    /// Waits until the FIFO has room, briefly if the last wait was in vain.
    fn wait_for_room(&mut self) -> Result<(), Pl011Error> {
        let patience = if self.stuck { 0 } else { STUCK_AFTER_US };
        let room = wait_until(&self.clock, self.clock.deadline(patience), || {
            !self.registers.at(FLAGS).is_set(UARTFR::TXFF)
        });
        self.stuck = !room;
        if room { Ok(()) } else { Err(Pl011Error::Stuck) }
    }
}

impl<R, C> ErrorType for Pl011<R, C> {
    type Error = Pl011Error;
}

impl<R: Registers, C: Clock> Write for Pl011<R, C> {
    /// Writes as many bytes as the UART takes; an error only if it takes none.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Pl011Error> {
        let mut written: usize = 0;
        for &byte in bytes {
            match self.wait_for_room() {
                Ok(()) => self.registers.at(DATA).set(u32::from(byte)),
                Err(error) if written == 0 => return Err(error),
                Err(_) => break,
            }
            written = written.saturating_add(1);
        }
        Ok(written)
    }

    /// Waits until the last bit is on the line, at most [`STUCK_AFTER_US`]: call it before a
    /// reset, which would cut the output short.
    fn flush(&mut self) -> Result<(), Pl011Error> {
        let sent = wait_until(&self.clock, self.clock.deadline(STUCK_AFTER_US), || {
            !self.registers.at(FLAGS).is_set(UARTFR::BUSY)
        });
        if sent { Ok(()) } else { Err(Pl011Error::Stuck) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::{Cell, RefCell};
    use std::vec::Vec;

    use super::*;
    use crate::registers::Width;

    /// Takes `room` bytes, then its FIFO is full until more room is made.
    #[derive(Default)]
    struct Fake {
        room: Cell<usize>,
        line: RefCell<Vec<u8>>,
        control: Cell<u64>,
    }

    impl Registers for &Fake {
        fn size(&self) -> usize {
            SIZE
        }

        fn read(&self, offset: usize, width: Width) -> u64 {
            assert_eq!(width, Width::W32);
            match offset {
                0x18 if self.room.get() == 0 => 0x28, // TXFF and BUSY
                0x18 => 0x80,                         // TXFE
                0x30 => self.control.get(),
                _ => panic!("read of {offset:#x}"),
            }
        }

        fn write(&self, offset: usize, width: Width, value: u64) {
            assert_eq!(width, Width::W32);
            match offset {
                0x00 => {
                    self.room.set(self.room.get() - 1);
                    self.line.borrow_mut().push(u8::try_from(value).unwrap());
                }
                0x30 => self.control.set(value),
                _ => panic!("write of {offset:#x}"),
            }
        }
    }

    /// Each look takes a millisecond.
    #[derive(Default)]
    struct SlowClock(Cell<u64>);

    impl Clock for SlowClock {
        fn now_us(&self) -> u64 {
            self.0.set(self.0.get() + 1000);
            self.0.get()
        }
    }

    #[test]
    fn a_stuck_line_costs_one_wait_and_recovers() {
        let fake = Fake::default();
        let clock = SlowClock::default();
        let mut uart = Pl011::new(&fake, &clock);

        fake.room.set(3);
        assert_eq!(
            uart.write(b"abcdef"),
            Ok(3),
            "a partial write tells how far it got"
        );
        let waited = clock.0.get();
        assert!(waited > STUCK_AFTER_US);
        for _ in 0..100 {
            assert_eq!(uart.write(b"x"), Err(Pl011Error::Stuck));
        }
        assert!(
            clock.0.get() - waited < 100 * 5_000,
            "later writes must not wait"
        );
        assert_eq!(uart.flush(), Err(Pl011Error::Stuck));

        fake.room.set(10);
        uart.write_all(b"def").unwrap();
        uart.flush().unwrap();
        assert_eq!(*fake.line.borrow(), b"abcdef");
    }

    #[test]
    fn enabling_leaves_the_other_control_bits() {
        let fake = Fake::default();
        fake.control.set(0xc200); // CTSEN, RTSEN, RXE
        Pl011::new(&fake, SlowClock::default()).enable_transmitter();
        assert_eq!(fake.control.get(), 0x4301);
    }
}
