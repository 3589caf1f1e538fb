//! UARTs, as embedded-io's `Read` and `Write`.
//!
//! They are used as Linux left them: speed, line settings, FIFOs and clocks stay; transmitter and
//! receiver are switched on and flow control by wires off. A full FIFO is waited for, but not for
//! ever: once it has stayed full for [`STUCK_AFTER_US`] (a line that is held, a clock that was
//! switched off), the port counts as stuck, and as long as it is, writes fail at once instead of
//! costing that wait for each byte. A read waits as long at the most.

mod cadence;
mod imx;
mod lpuart;
mod meson;
mod mvebu;
mod ns16550;
mod pl011;
mod qualcomm;

use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write, WriteReady};
use kdraw_pipeline::ports::Clock;

pub use ns16550::Ns16550;
use qualcomm::{geni, uartdm};

use crate::registers::Registers;
use crate::wait_until;

/// Microseconds that a full FIFO is waited for: 24 times what a byte takes at 9600 baud.
pub const STUCK_AFTER_US: u64 = 25_000;

/// Microseconds that a FIFO may take to be emptied: 128 bytes at 9600 baud.
pub const FLUSH_US: u64 = 150_000;

/// Which UART it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Arm's PL011.
    Pl011,
    /// An 8250 or one of its descendants.
    Ns16550(Ns16550),
    /// NXP's i.MX UART.
    Imx,
    /// Amlogic's.
    Meson,
    /// Cadence's.
    Cadence,
    /// NXP's low power UART of the i.MX, 32 bits wide.
    Lpuart,
    /// Marvell's of the Armada 3700.
    Mvebu,
    /// Qualcomm's UARTDM; it only sends.
    UartDm,
    /// Qualcomm's GENI; it only sends.
    Geni,
}

/// What a model tells of its transmit FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// No byte more fits, or that is not known.
    Full,
    /// One byte fits for sure.
    Partly,
    /// All of it can be filled.
    Empty,
}

impl Fill {
    const fn of(full: bool, empty: bool) -> Self {
        match (full, empty) {
            (true, _) => Self::Full,
            (false, true) => Self::Empty,
            (false, false) => Self::Partly,
        }
    }
}

/// Why output or input failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UartError {
    /// The transmit FIFO stays full.
    #[error("UART transmits nothing: its FIFO stays full (flow control, or its clock is off?)")]
    Stuck,
    /// Nothing is received.
    #[error("UART receives nothing")]
    Silent,
}

impl embedded_io::Error for UartError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::TimedOut
    }
}

/// What is known of a UART that was switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchedOn {
    model: Model,
    /// Bytes that can be written once the transmitter is empty.
    fifo: usize,
}

impl SwitchedOn {
    /// Switches transmitter and receiver on of the UART behind `registers`, all that the device
    /// tree says it has.
    pub fn new(registers: &impl Registers, model: Model) -> Self {
        let fifo = match model {
            Model::Pl011 => pl011::enable(registers),
            Model::Ns16550(ns) => ns.enable(registers),
            Model::Imx => imx::enable(registers),
            Model::Meson => meson::enable(registers),
            Model::Cadence => cadence::enable(registers),
            Model::Lpuart => lpuart::enable(registers),
            Model::Mvebu => mvebu::FIFO,
            Model::UartDm => uartdm::enable(registers),
            Model::Geni => geni::enable(registers),
        };
        Self { model, fifo }
    }
}

/// A UART.
#[derive(Debug)]
pub struct Uart<R, C> {
    registers: R,
    clock: C,
    model: Model,
    fifo: usize,
    stuck: bool,
}

impl<R: Registers, C: Clock> Uart<R, C> {
    /// Uses the UART behind `registers`, without a look at them.
    pub fn new(registers: R, uart: SwitchedOn, clock: C) -> Self {
        Self {
            registers,
            clock,
            model: uart.model,
            fifo: uart.fifo,
            stuck: false,
        }
    }

    /// How many bytes can be written at once.
    fn room(&self) -> usize {
        let registers = &self.registers;
        let fill = match self.model {
            Model::Pl011 => pl011::fill(registers),
            Model::Ns16550(ns) => ns.fill(registers),
            Model::Imx => imx::fill(registers),
            Model::Meson => meson::fill(registers),
            Model::Cadence => cadence::fill(registers),
            Model::Lpuart => lpuart::fill(registers),
            Model::Mvebu => mvebu::fill(registers),
            Model::UartDm => qualcomm::fill(uartdm::is_idle(registers)),
            Model::Geni => qualcomm::fill(geni::is_idle(registers)),
        };
        match fill {
            Fill::Full => 0,
            Fill::Partly => 1,
            Fill::Empty => self.fifo,
        }
    }

    fn put(&self, byte: u8) {
        match self.model {
            Model::Pl011 => pl011::put(&self.registers, byte),
            Model::Ns16550(ns) => ns.put(&self.registers, byte),
            Model::Imx => imx::put(&self.registers, byte),
            Model::Meson => meson::put(&self.registers, byte),
            Model::Cadence => cadence::put(&self.registers, byte),
            Model::Lpuart => lpuart::put(&self.registers, byte),
            Model::Mvebu => mvebu::put(&self.registers, byte),
            Model::UartDm => uartdm::put(&self.registers, byte),
            Model::Geni => geni::put(&self.registers, byte),
        }
    }

    fn has(&self) -> bool {
        match self.model {
            Model::Pl011 => pl011::has(&self.registers),
            Model::Ns16550(ns) => ns.has(&self.registers),
            Model::Imx => imx::has(&self.registers),
            Model::Meson => meson::has(&self.registers),
            Model::Cadence => cadence::has(&self.registers),
            Model::Lpuart => lpuart::has(&self.registers),
            Model::Mvebu => mvebu::has(&self.registers),
            Model::UartDm | Model::Geni => false,
        }
    }

    fn get(&self) -> u8 {
        match self.model {
            Model::Pl011 => pl011::get(&self.registers),
            Model::Ns16550(ns) => ns.get(&self.registers),
            Model::Imx => imx::get(&self.registers),
            Model::Meson => meson::get(&self.registers),
            Model::Cadence => cadence::get(&self.registers),
            Model::Lpuart => lpuart::get(&self.registers),
            Model::Mvebu => mvebu::get(&self.registers),
            // Never asked for: they have nothing.
            Model::UartDm | Model::Geni => 0,
        }
    }

    fn is_idle(&self) -> bool {
        match self.model {
            Model::Pl011 => pl011::is_idle(&self.registers),
            Model::Ns16550(ns) => ns.is_idle(&self.registers),
            Model::Imx => imx::is_idle(&self.registers),
            Model::Meson => meson::is_idle(&self.registers),
            Model::Cadence => cadence::is_idle(&self.registers),
            Model::Lpuart => lpuart::is_idle(&self.registers),
            Model::Mvebu => mvebu::is_idle(&self.registers),
            Model::UartDm => uartdm::is_idle(&self.registers),
            Model::Geni => geni::is_idle(&self.registers),
        }
    }

    /// Waits for `condition`, at most [`STUCK_AFTER_US`], and not at all if the port is stuck.
    fn wait(&self, condition: impl FnMut() -> bool) -> bool {
        let patience = if self.stuck { 0 } else { STUCK_AFTER_US };
        wait_until(&self.clock, self.clock.deadline(patience), condition)
    }
}

impl<R, C> ErrorType for Uart<R, C> {
    type Error = UartError;
}

impl<R: Registers, C: Clock> WriteReady for Uart<R, C> {
    fn write_ready(&mut self) -> Result<bool, UartError> {
        Ok(self.room() > 0)
    }
}

impl<R: Registers, C: Clock> Write for Uart<R, C> {
    /// Writes as many bytes as the UART takes now, and waits only for the first.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, UartError> {
        let mut room = 0;
        let ready = self.wait(|| {
            room = self.room();
            room > 0
        });
        self.stuck = !ready;
        if !ready {
            return Err(UartError::Stuck);
        }
        let mut written: usize = 0;
        for &byte in bytes {
            if room == 0 {
                room = self.room();
            }
            let Some(left) = room.checked_sub(1) else {
                break;
            };
            self.put(byte);
            room = left;
            written = written.saturating_add(1);
        }
        Ok(written)
    }

    /// Waits until the last bit is on the line, at most [`FLUSH_US`]: call it before a reset, which
    /// would cut the output short.
    fn flush(&mut self) -> Result<(), UartError> {
        let deadline = self.clock.deadline(FLUSH_US);
        let sent = wait_until(&self.clock, deadline, || self.is_idle());
        if sent { Ok(()) } else { Err(UartError::Stuck) }
    }
}

impl<R: Registers, C: Clock> ReadReady for Uart<R, C> {
    fn read_ready(&mut self) -> Result<bool, UartError> {
        Ok(self.has())
    }
}

impl<R: Registers, C: Clock> Read for Uart<R, C> {
    /// Reads what has been received, and waits only for the first byte, at most
    /// [`STUCK_AFTER_US`].
    fn read(&mut self, into: &mut [u8]) -> Result<usize, UartError> {
        let deadline = self.clock.deadline(STUCK_AFTER_US);
        if !into.is_empty() && !wait_until(&self.clock, deadline, || self.has()) {
            return Err(UartError::Silent);
        }
        let mut count: usize = 0;
        for place in into {
            if !self.has() {
                break;
            }
            *place = self.get();
            count = count.saturating_add(1);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
