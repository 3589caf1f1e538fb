//! Memory that a device reads and writes while the CPU may look at it.
//!
//! A `&mut [u8]` promises the compiler that nobody else writes those bytes, which is not true
//! while a device works on them. So a driver turns each [`DmaBuffer`] that it is given into a
//! [`DmaMemory`], which holds no reference and accesses memory as [`MmioRegion`] does, and makes
//! a [`DmaBuffer`] of it again when the device is done.
//!
//! A device that does not see the CPU's caches needs [`DmaMemory::clean_and_invalidate`] before it
//! works on memory, and before the CPU looks at what it wrote.
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

    /// Writes what the CPU's caches have of the first `len` bytes to memory, and forgets it there.
    ///
    /// Before a device reads, so that it sees what was written; before it writes, so that no
    /// dirty line is written over it later; and after it wrote, so that no line fetched
    /// meanwhile hides it.
    pub fn clean_and_invalidate(&self, len: usize) {
        #[cfg(target_arch = "aarch64")]
        {
            use aarch64_cpu::asm::barrier;

            let types: usize;
            // SAFETY: reads CTR_EL0, which every exception level but EL0 may.
            unsafe {
                core::arch::asm!(
                    "mrs {}, CTR_EL0",
                    out(reg) types,
                    options(nomem, nostack, preserves_flags)
                );
            }
            // DminLine: log2 of the words in the smallest line (Arm ARM DDI 0487, CTR_EL0).
            let line = 4_usize << (types >> 16 & 0xf);
            let base = self.region.base().as_ptr();
            for offset in (0..len.min(self.region.size())).step_by(line) {
                let address = base.wrapping_add(offset);
                // SAFETY: cleans a line of this region, which is mapped (contract of
                // `MmioRegion::new`); it changes no byte that the CPU sees.
                unsafe {
                    core::arch::asm!(
                        "dc civac, {}",
                        in(reg) address,
                        options(nostack, preserves_flags)
                    );
                }
            }
            barrier::dsb(barrier::SY);
        }
        // Off arm64, where only tests run, fake devices share the caches.
        #[cfg(not(target_arch = "aarch64"))]
        let _ = len;
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

/// Splits a buffer in two; `None` if it is shorter than `at`.
pub fn split(buffer: DmaBuffer, at: usize) -> Option<(DmaBuffer, DmaBuffer)> {
    let (head, tail) = buffer.bytes.split_at_mut_checked(at)?;
    let tail_addr = buffer.device_addr.checked_add(at as u64)?;
    Some((
        DmaBuffer {
            bytes: head,
            device_addr: buffer.device_addr,
        },
        DmaBuffer {
            bytes: tail,
            device_addr: tail_addr,
        },
    ))
}
