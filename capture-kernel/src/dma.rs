//! Memory that devices may touch and that is always there: small fixed buffers in the image's
//! data, for a capture's rings and for an epitaph.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use kdraw_pipeline::ports::DmaBuffer;

use crate::entry;

/// Bytes of a buffer: a device's rings, or two blocks.
pub const SMALL: usize = 16 << 10;
/// Rings and a header for the capture, the same once more for an epitaph.
const SMALL_BUFFERS: usize = 4;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; SMALL]>);

// SAFETY: each is handed out once, by `small`.
unsafe impl Sync for Memory {}

static SMALLS: [Memory; SMALL_BUFFERS] =
    [const { Memory(UnsafeCell::new([0; SMALL])) }; SMALL_BUFFERS];
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The next buffer; `None` when all are taken.
pub fn small() -> Option<DmaBuffer> {
    let memory = SMALLS.get(TAKEN.fetch_add(1, Ordering::Relaxed))?;
    // SAFETY: the counter never goes back, so no memory is handed out twice, and nothing else
    // refers to it.
    let bytes: &'static mut [u8] = unsafe { &mut *memory.0.get() };
    let device_addr = entry::physical(bytes.as_ptr().addr());
    Some(DmaBuffer { bytes, device_addr })
}
