//! The target's device, past the page cache: what it holds, and how fast it reads. No device writes
//! faster, so that bounds a dump's time.

use std::fs::{File, OpenOptions};
use std::io;
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

/// Opens a device so that reads go past the page cache.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// Calls `read` with a buffer of `len` bytes that O_DIRECT takes.
fn with_aligned<T>(len: usize, read: impl FnOnce(&mut [u8]) -> io::Result<T>) -> io::Result<T> {
    let mut buffer = vec![0; len.saturating_add(ALIGN)];
    let skip = buffer.as_ptr().align_offset(ALIGN);
    let aligned = buffer.get_mut(skip..).and_then(|rest| rest.get_mut(..len));
    read(aligned.ok_or(io::ErrorKind::OutOfMemory)?)
}

/// Reads `len` bytes from `at` on, past the page cache where the file system can: what the device
/// has, whatever was written to it lately.
///
/// # Errors
/// What the device says, or that it ends before.
pub fn read_past_cache(path: &Path, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let file = match open(path) {
        Err(why) if why.kind() == io::ErrorKind::InvalidInput => File::open(path)?,
        other => other?,
    };
    with_aligned(len, |buffer| {
        file.read_exact_at(buffer, at)?;
        Ok(buffer.to_vec())
    })
}

/// Reads from `at` on, past the page cache; bytes per second. `None` if the device does not take
/// such reads, as some file systems do not.
pub fn read_speed(path: &Path, at: u64) -> Option<u64> {
    let file = open(path).ok()?;
    let began = Instant::now();
    let read = |buffer: &mut [u8]| {
        let mut done = 0u64;
        for _ in 0..READS {
            let len = file.read_at(buffer, at.saturating_add(done))?;
            done = done.saturating_add(len as u64);
            if len < READ || began.elapsed() > TIME {
                break;
            }
        }
        Ok(done)
    };
    let done = with_aligned(READ, read).ok()?;
    let micros = began.elapsed().as_micros().max(1);
    let speed = u128::from(done).saturating_mul(1_000_000);
    u64::try_from(speed.checked_div(micros)?)
        .ok()
        .filter(|speed| *speed > 0)
}
