//! The memory that devices may touch: fixed buffers in the image's data.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use kdraw_pipeline::dump::CHUNK_BUFFER;
use kdraw_pipeline::ports::DmaBuffer;

use crate::entry;

/// Chunks in the making or in flight.
pub const CHUNK_BUFFERS: usize = 4;
/// Bytes of a small buffer: a device's rings, or two blocks.
pub const SMALL: usize = 16 << 10;
/// Small buffers: rings and a header for the capture, the same once more for an epitaph.
const SMALL_BUFFERS: usize = 4;

#[repr(C, align(4096))]
struct Memory<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: each is handed out once, by `take`.
unsafe impl<const N: usize> Sync for Memory<N> {}

static CHUNKS: [Memory<CHUNK_BUFFER>; CHUNK_BUFFERS] =
    [const { Memory(UnsafeCell::new([0; CHUNK_BUFFER])) }; CHUNK_BUFFERS];
static SMALLS: [Memory<SMALL>; SMALL_BUFFERS] =
    [const { Memory(UnsafeCell::new([0; SMALL])) }; SMALL_BUFFERS];
static CHUNKS_TAKEN: AtomicUsize = AtomicUsize::new(0);
static SMALLS_TAKEN: AtomicUsize = AtomicUsize::new(0);

fn take<const N: usize>(pool: &'static [Memory<N>], taken: &AtomicUsize) -> Option<DmaBuffer> {
    let memory = pool.get(taken.fetch_add(1, Ordering::Relaxed))?;
    // SAFETY: the counter never goes back, so no memory is handed out twice, and nothing else
    // refers to it.
    let bytes: &'static mut [u8] = unsafe { &mut *memory.0.get() };
    let device_addr = entry::physical(bytes.as_ptr().addr());
    Some(DmaBuffer { bytes, device_addr })
}

/// The next chunk buffer; `None` when all are taken.
pub fn chunk() -> Option<DmaBuffer> {
    take(&CHUNKS, &CHUNKS_TAKEN)
}

/// The next small buffer; `None` when all are taken.
pub fn small() -> Option<DmaBuffer> {
    take(&SMALLS, &SMALLS_TAKEN)
}
