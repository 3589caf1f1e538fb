//! A UART for the payload, and the image at the other end of one.
//!
//! Both are [`Uart`] and [`SerialDisk`] with everything about them known, so that they are compiled
//! here, for size.

use core::fmt;

use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use kdraw_link::frame::Tape;
use kdraw_pipeline::ports::{
    BlockDevice, Clock, Completion, Deadline, DeviceError, DmaBuffer, Geometry, Request,
};
use kdraw_pipeline::serial::{Patience, SerialDisk};

use crate::mmio::MmioRegion;
use crate::uart::{Model, SwitchedOn, Uart, UartError};

/// A UART behind registers in memory.
pub struct Port {
    uart: Uart<MmioRegion, &'static dyn Clock>,
    taken: fn(),
}

impl Port {
    /// As [`Uart::new`].
    pub fn new(registers: MmioRegion, uart: SwitchedOn, clock: &'static dyn Clock) -> Self {
        Self {
            uart: Uart::new(registers, uart, clock),
            taken: || {},
        }
    }

    /// Calls `taken` whenever the UART has taken bytes.
    pub fn telling(self, taken: fn()) -> Self {
        Self { taken, ..self }
    }

    /// As [`SwitchedOn::new`].
    pub fn switch_on(registers: &MmioRegion, model: Model) -> SwitchedOn {
        SwitchedOn::new(registers, model)
    }
}

impl ErrorType for Port {
    type Error = UartError;
}

impl Read for Port {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, UartError> {
        self.uart.read(into)
    }
}

impl ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, UartError> {
        self.uart.read_ready()
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, UartError> {
        let count = self.uart.write(bytes)?;
        if count > 0 {
            (self.taken)();
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), UartError> {
        self.uart.flush()
    }
}

impl WriteReady for Port {
    fn write_ready(&mut self) -> Result<bool, UartError> {
        self.uart.write_ready()
    }
}

/// The image at the other end of a [`Port`].
pub struct Line(SerialDisk<Port, &'static dyn Clock>);

impl Line {
    /// As [`SerialDisk::new`].
    ///
    /// # Errors
    /// As there.
    pub fn new(
        port: Port,
        clock: &'static dyn Clock,
        tape: Tape,
        patience: Patience,
    ) -> Result<Self, DeviceError> {
        SerialDisk::new(port, clock, tape, patience).map(Self)
    }
}

impl BlockDevice for Line {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)> {
        self.0.start(request)
    }

    fn poll(&mut self) -> Option<Completion> {
        self.0.poll()
    }

    fn flush(&mut self, clock: &dyn Clock, deadline: Deadline) -> Result<(), DeviceError> {
        self.0.flush(clock, deadline)
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.0.describe(out)
    }

    fn patience_us(&self) -> u64 {
        self.0.patience_us()
    }
}
