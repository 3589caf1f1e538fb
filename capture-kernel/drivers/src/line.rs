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
pub struct Port(Uart<MmioRegion, &'static dyn Clock>);

impl Port {
    /// As [`Uart::new`].
    pub fn new(registers: MmioRegion, uart: SwitchedOn, clock: &'static dyn Clock) -> Self {
        Self(Uart::new(registers, uart, clock))
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
        self.0.read(into)
    }
}

impl ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, UartError> {
        self.0.read_ready()
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, UartError> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<(), UartError> {
        self.0.flush()
    }
}

impl WriteReady for Port {
    fn write_ready(&mut self) -> Result<bool, UartError> {
        self.0.write_ready()
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
