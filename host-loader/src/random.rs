//! Random bytes from the kernel.

use std::fs::File;
use std::io::Read;

use crate::error::Error;

/// Reads as many bytes as asked for from /dev/urandom.
///
/// # Errors
/// [`Error::Io`] if the kernel gives none.
pub fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    const DEVICE: &str = "/dev/urandom";
    let mut bytes = [0; N];
    File::open(DEVICE)
        .and_then(|mut device| device.read_exact(&mut bytes))
        .map_err(Error::io("read", DEVICE))?;
    Ok(bytes)
}
