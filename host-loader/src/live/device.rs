//! How fast the target's device reads: no device writes faster, so it bounds a dump's time.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes per read; a multiple of every block size.
const READ: usize = 1 << 20;
/// Alignment of the buffer, for O_DIRECT.
const ALIGN: usize = 4096;
/// Reads, at most.
const READS: u64 = 8;
/// Reading ends after this.
const TIME: Duration = Duration::from_millis(500);

/// Reads from `at` on, past the page cache; bytes per second. `None` if the device does not take
/// such reads, as some file systems do not.
pub fn read_speed(path: &Path, at: u64) -> Option<u64> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .ok()?;
    let mut buffer = vec![0; READ.checked_add(ALIGN)?];
    let skip = buffer.as_ptr().align_offset(ALIGN);
    let aligned = buffer.get_mut(skip..skip.checked_add(READ)?)?;
    let began = Instant::now();
    let mut done = 0;
    for index in 0..READS {
        let here = at.checked_add(index.checked_mul(READ as u64)?)?;
        let len = file.read_at(aligned, here).ok()?;
        done = u64::try_from(len).ok()?.checked_add(done)?;
        if len < READ || began.elapsed() > TIME {
            break;
        }
    }
    let micros = began.elapsed().as_micros().max(1);
    let speed = u128::from(done).saturating_mul(1_000_000);
    u64::try_from(speed.checked_div(micros)?)
        .ok()
        .filter(|speed| *speed > 0)
}
