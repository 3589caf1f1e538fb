//! What fake devices stand in: memory that they share with the driver, and a clock.

use std::cell::Cell;
use std::ptr::NonNull;

use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::registers::{Registers, Width};
use kdraw_pipeline::ports::{Clock, DmaBuffer};

/// Memory that was handed out; a device that reaches beyond it panics.
#[derive(Debug, Default)]
pub struct Memory(Vec<(u64, NonNull<u8>, usize)>);

impl Memory {
    /// Hands out memory that the device sees at an address of its own.
    pub fn allocate(&mut self, len: usize) -> DmaBuffer {
        let device_addr = 0x1_4000_0000 + 0x10_0000 * self.0.len() as u64;
        self.allocate_at(len, device_addr)
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
        let (start, base, _) = self.0.iter().find(inside).expect("wild device address");
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

/// A clock on which each look takes a millisecond.
#[derive(Debug, Default)]
pub struct SlowClock(Cell<u64>);

impl Clock for SlowClock {
    fn now_us(&self) -> u64 {
        self.0.set(self.0.get() + 1000);
        self.0.get()
    }
}
