//! Working memory: what the crash region has beside the segments, carved once and never given
//! back.
//!
//! It comes as the dead kernel left it, not zeroed. How much a capture takes is computed in
//! [`kdraw_format::working_memory`], by which `kdraw load` also knows whether it is there.

use core::sync::atomic::{AtomicBool, Ordering};

use kdraw_format::addr::{FRAME_SIZE, PhysRange};
use kdraw_format::working_memory::Room;
use kdraw_pipeline::ports::DmaBuffer;

use crate::mmu::{self, Use};

static OPENED: AtomicBool = AtomicBool::new(false);

/// The crash region's free memory.
#[derive(Debug)]
pub struct Arena {
    room: Room,
}

impl Arena {
    /// Opens the crash region but for `segments`, which must be all that the payload still reads
    /// or runs in it. Any but the first arena is empty.
    pub fn open(region: PhysRange, segments: impl IntoIterator<Item = PhysRange>) -> Self {
        let room = match OPENED.swap(true, Ordering::Relaxed) {
            false => Room::new(region, segments),
            true => Room::default(),
        };
        Self { room }
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.room.left()
    }

    /// Carves `len` bytes at a multiple of 4 KiB; `None` if they are not there in one piece.
    pub fn bytes(&mut self, len: usize) -> Option<&'static mut [u8]> {
        self.carve(len).map(|(_, bytes)| bytes)
    }

    /// Carves `len` bytes that a device may work on; a multiple of 4 KiB is had.
    pub fn dma(&mut self, len: usize) -> Option<DmaBuffer> {
        let len = len.checked_next_multiple_of(FRAME_SIZE as usize)?;
        let (frames, bytes) = self.carve(len)?;
        Some(DmaBuffer {
            bytes,
            device_addr: frames.start.0,
        })
    }

    /// Carves a stack of `len` bytes and returns its end. The frame below is never mapped: a
    /// stack that overflows faults.
    pub fn stack(&mut self, len: usize) -> Option<u64> {
        self.room.take(FRAME_SIZE)?;
        let (_, stack) = self.carve(len.checked_next_multiple_of(FRAME_SIZE as usize)?)?;
        Some(stack.as_mut_ptr_range().end.addr() as u64)
    }

    /// Puts a value into frames of its own, for good; `None` if there are none.
    pub fn keep<T: Sync>(&mut self, value: T) -> Option<&'static T> {
        const { assert!(align_of::<T>() <= FRAME_SIZE as usize) };
        let (_, bytes) = self.carve(size_of::<T>())?;
        let place = bytes.as_mut_ptr().cast::<T>();
        // SAFETY: the bytes are as many as the value has, at the start of a frame, and nobody
        // else has them.
        unsafe { place.write(value) };
        // SAFETY: the value was just written there; it is neither moved nor dropped.
        Some(unsafe { &*place })
    }

    fn carve(&mut self, len: usize) -> Option<(PhysRange, &'static mut [u8])> {
        let frames = self.room.take(len as u64)?;
        let seen = mmu::map(frames, Use::Working).ok()?;
        // SAFETY: `map` just mapped these bytes writable, for good. They are handed out here only
        // and once, since there is one room and it takes no frame twice; the segments are not in
        // it, and nobody else knows of the rest of the region. Any value is a valid byte.
        let bytes = unsafe { core::slice::from_raw_parts_mut(seen.as_ptr(), len) };
        Some((frames, bytes))
    }
}
