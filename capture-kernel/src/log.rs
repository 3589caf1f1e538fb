//! The payload's own log: defmt frames (rzcobs) in memory, saved in the dump.
//!
//! The first [`LOG_LEN`] bytes are kept: what happened first explains most. Only the first CPU
//! logs; what another has to say it leaves for that one.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kdraw_pipeline::ports::Clock as _;

use crate::entry;

/// Bytes of log that are kept.
pub const LOG_LEN: usize = 16 << 10;

struct Log {
    bytes: UnsafeCell<[u8; LOG_LEN]>,
    encoder: UnsafeCell<defmt::Encoder>,
}

// SAFETY: both cells are only accessed by the first CPU, between `acquire` and `release` of the
// logger that set BUSY, or in `with_bytes`, up to USED, which bytes are never written again.
unsafe impl Sync for Log {}

static LOG: Log = Log {
    bytes: UnsafeCell::new([0; LOG_LEN]),
    encoder: UnsafeCell::new(defmt::Encoder::new()),
};
static BUSY: AtomicBool = AtomicBool::new(false);
/// Set while a second logger is let through without effect, so that it need not wait.
static MUTED: AtomicBool = AtomicBool::new(false);
static USED: AtomicUsize = AtomicUsize::new(0);

#[defmt::global_logger]
struct Logger;

fn append(bytes: &[u8]) {
    let used = USED.load(Ordering::Relaxed);
    let end = used.saturating_add(bytes.len());
    if end > LOG_LEN {
        // Full for good: a later, shorter piece would follow a torn frame.
        USED.store(LOG_LEN, Ordering::Relaxed);
        return;
    }
    let start = LOG.bytes.get().cast::<u8>().wrapping_add(used);
    // SAFETY: `used..end` lies inside the array, no reference to that part exists, and only
    // the holder of BUSY comes here.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
    USED.store(end, Ordering::Release);
}

fn with_encoder(act: impl FnOnce(&mut defmt::Encoder)) {
    if entry::cpu() == 0 && !MUTED.load(Ordering::Relaxed) {
        // SAFETY: only the holder of BUSY, on the first CPU, comes here, and `append` does not use the encoder.
        act(unsafe { &mut *LOG.encoder.get() });
    }
}

// SAFETY: `acquire` lets one logger of the first CPU through at a time; one that nests in it, by
// a fault, is muted until its release. Other CPUs are without effect.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        if entry::cpu() != 0 {
            return;
        }
        if BUSY.swap(true, Ordering::Acquire) {
            MUTED.store(true, Ordering::Relaxed);
        }
        with_encoder(|encoder| encoder.start_frame(append));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        with_encoder(|encoder| encoder.end_frame(append));
        if entry::cpu() == 0 && !MUTED.swap(false, Ordering::Relaxed) {
            BUSY.store(false, Ordering::Release);
        }
    }

    unsafe fn write(bytes: &[u8]) {
        with_encoder(|encoder| encoder.write(bytes, append));
    }
}

defmt::timestamp!("{=u64:us}", crate::clock::Counter.now_us());

/// The log so far.
pub fn bytes() -> &'static [u8] {
    let used = USED.load(Ordering::Acquire).min(LOG_LEN);
    // SAFETY: the first USED bytes are written and never change again.
    unsafe { core::slice::from_raw_parts(LOG.bytes.get().cast::<u8>(), used) }
}
