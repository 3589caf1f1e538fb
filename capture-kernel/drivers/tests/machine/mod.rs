//! What fake devices stand in: memory that they share with the driver, a clock, and requests.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::cell::Cell;
use std::ptr::NonNull;

use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::registers::{Registers, Width};
use kdraw_format::addr::Lba;
use kdraw_pipeline::ports::{BlockDevice, Clock, DeviceError, DmaBuffer, Operation, Request};

/// Memory that was handed out; a device that reaches beyond it panics.
#[derive(Debug, Default)]
pub struct Memory(Vec<(u64, NonNull<u8>, usize)>);

impl Memory {
    /// Hands out memory that the device sees at an address of its own.
    pub fn allocate(&mut self, len: usize) -> DmaBuffer {
        let device_addr = 0x1_4000_0000 + 0x10_0000 * self.pieces();
        self.allocate_at(len, device_addr)
    }

    /// How many pieces were handed out.
    pub fn pieces(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn allocate_at(&mut self, len: usize, device_addr: u64) -> DmaBuffer {
        // Of u64, for its alignment; leaked, as the payload's memory lives for ever.
        let bytes = Box::leak(vec![u64::MAX; len.div_ceil(8)].into_boxed_slice());
        let base = NonNull::from(bytes).cast::<u8>();
        self.0.push((device_addr, base, len));
        // SAFETY: `len` leaked bytes, to which the device goes back only while the driver has
        // handed them to it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), len) };
        DmaBuffer { bytes, device_addr }
    }

    /// `len` bytes of memory at the device address `at`.
    pub fn at(&self, at: u64, len: usize) -> MmioRegion {
        let inside = |&&(start, _, size): &&(u64, NonNull<u8>, usize)| {
            start <= at && at + len as u64 <= start + size as u64
        };
        let found = self.0.iter().find(inside);
        let (start, base, _) = found.unwrap_or_else(|| panic!("wild device address {at:#x}"));
        // SAFETY: the range was just checked to lie inside this leaked allocation.
        let base = unsafe { base.add((at - start) as usize) };
        // SAFETY: likewise; the driver, on the same thread, is not at it meanwhile.
        unsafe { MmioRegion::new(base, len) }
    }

    pub fn get(&self, at: u64, width: Width) -> u64 {
        self.at(at, width.bytes()).read(0, width)
    }

    pub fn set(&self, at: u64, width: Width, value: u64) {
        self.at(at, width.bytes()).write(0, width, value);
    }
}

/// A clock on which each look takes so many microseconds.
#[derive(Debug, Default)]
pub struct SteppingClock<const STEP_US: u64>(Cell<u64>);

/// A clock on which each look takes a millisecond.
pub type SlowClock = SteppingClock<1000>;

impl<const STEP_US: u64> Clock for SteppingClock<STEP_US> {
    fn now_us(&self) -> u64 {
        self.0.set(self.0.get() + STEP_US);
        self.0.get()
    }
}

/// A request for a whole buffer.
pub fn request(operation: Operation, lba: u64, buffer: DmaBuffer) -> Request {
    Request {
        operation,
        lba: Lba(lba),
        len: buffer.bytes.len(),
        buffer,
    }
}

pub fn start(device: &mut dyn BlockDevice, request: Request) -> Result<(), DeviceError> {
    device.start(request).map_err(|(error, _)| error)
}

/// Starts a write that does not fit the device: it is refused, and the buffer comes back.
pub fn refuses_write(device: &mut dyn BlockDevice, lba: u64, len: usize, buffer: DmaBuffer) {
    let buffer_len = buffer.bytes.len();
    let request = Request {
        len,
        ..request(Operation::Write, lba, buffer)
    };
    let (error, buffer) = device.start(request).unwrap_err();
    assert_eq!(error, DeviceError::BadRequest, "{len} bytes at {lba}");
    assert_eq!(buffer.bytes.len(), buffer_len);
}

/// Flushes, within the deadline.
pub fn flush(device: &mut dyn BlockDevice) -> Result<(), DeviceError> {
    let clock = SlowClock::default();
    let result = device.flush(&clock, clock.deadline(50_000));
    assert!(clock.now_us() < 100_000, "the deadline was not kept");
    result
}
