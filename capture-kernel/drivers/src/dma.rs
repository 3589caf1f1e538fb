//! Memory that a device reads and writes while the CPU may look at it.
//!
//! A `&mut [u8]` promises the compiler that nobody else writes those bytes, which is not true
//! while a device works on them. So a driver turns each [`DmaBuffer`] that it is given into a
//! [`DmaMemory`], which holds no reference and accesses memory as [`MmioRegion`] does, and makes
//! a [`DmaBuffer`] of it again when the device is done.
//!
//! Limit: the device must be coherent with the CPU's caches, as virtio devices are.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use kdraw_pipeline::ports::DmaBuffer;

use crate::mmio::MmioRegion;
use crate::registers::{Registers, Width};

/// A [`DmaBuffer`] in the hands of a device.
#[derive(Debug)]
pub struct DmaMemory {
    region: MmioRegion,
    device_addr: u64,
}

impl DmaMemory {
    /// Takes `buffer` for a device to work on.
    pub fn new(buffer: DmaBuffer) -> Self {
        let DmaBuffer { bytes, device_addr } = buffer;
        let len = bytes.len();
        // SAFETY: the bytes are mapped writable, and the exclusive reference to them has just
        // been given up for good, so nothing else in the program accesses them.
        let region = unsafe { MmioRegion::new(NonNull::from(bytes).cast(), len) };
        Self {
            region,
            device_addr,
        }
    }

    /// Gives the buffer back, with what the device wrote.
    ///
    /// Call it when the device has told that it is done, after [`crate::barrier::acquire`].
    pub fn into_buffer(self) -> DmaBuffer {
        // SAFETY: base and length are those of the `&'static mut [u8]` that `new` took, and
        // `self`, the only access to it since, ends here.
        let bytes = unsafe {
            core::slice::from_raw_parts_mut(self.region.base().as_ptr(), self.region.size())
        };
        DmaBuffer {
            bytes,
            device_addr: self.device_addr,
        }
    }

    /// Where the device sees the first byte.
    pub const fn device_addr(&self) -> u64 {
        self.device_addr
    }
}

impl Registers for DmaMemory {
    fn size(&self) -> usize {
        self.region.size()
    }

    #[inline(always)]
    fn read(&self, offset: usize, width: Width) -> u64 {
        self.region.read(offset, width)
    }

    #[inline(always)]
    fn write(&self, offset: usize, width: Width, value: u64) {
        self.region.write(offset, width, value);
    }
}
