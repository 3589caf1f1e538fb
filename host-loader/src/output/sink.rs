//! Where a vmcore is written to: a file, or makedumpfile's flattened stream.
//!
//! Flattened: a header of 4096 bytes ("makedumpfile", then type 1 and version 1 as big-endian
//! numbers at byte 16), then records {offset i64, size i64, data}, big-endian, that say where in
//! the file the data belongs; a record of offset and size −1 ends it.
//!
//! Source: makedumpfile `IMPLEMENTATION` and `makedumpfile.h`.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kdraw_format::addr::FRAME_SIZE;

use crate::error::Error;

/// Bytes of a flattened stream's header.
pub const FLAT_HEADER: usize = 4096;
/// How a flattened stream begins.
pub const FLAT_SIGNATURE: &[u8; 16] = b"makedumpfile\0\0\0\0";
/// Type and version of a flattened stream.
pub const FLAT_TYPE_VERSION: [i64; 2] = [1, 1];
/// The offset and size that end it.
pub const FLAT_END: i64 = -1;

/// Something that a file's bytes can be written to, in any order.
pub trait Sink {
    /// Writes bytes at an offset of the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Ends the file, which has `len` bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn end(&mut self, len: u64) -> Result<(), Error>;

    /// Whether what is never written reads as zeros.
    fn is_sparse(&self) -> bool;

    /// Writes bytes; leaves out frames of zeros where they read as zeros anyway.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn put_sparse(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        if !self.is_sparse() {
            return self.put(at, bytes);
        }
        let mut begun = 0usize;
        let mut here = 0usize;
        for frame in bytes.chunks(FRAME_SIZE as usize) {
            let end = here.saturating_add(frame.len());
            if is_zero(frame) {
                let piece = bytes.get(begun..here).unwrap_or_default();
                self.put_piece(at, begun, piece)?;
                begun = end;
            }
            here = end;
        }
        let piece = bytes.get(begun..).unwrap_or_default();
        self.put_piece(at, begun, piece)
    }

    /// Writes a piece that begins `begun` bytes after `at`, if it has a byte.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn put_piece(&mut self, at: u64, begun: usize, piece: &[u8]) -> Result<(), Error> {
        if piece.is_empty() {
            return Ok(());
        }
        self.put(at.saturating_add(begun as u64), piece)
    }
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

/// A file, sparse where nothing is written.
#[derive(Debug)]
pub struct SparseFile<'a> {
    file: &'a File,
    path: &'a Path,
}

impl<'a> SparseFile<'a> {
    /// A new, empty file, and its name for messages.
    pub fn new(file: &'a File, path: &'a Path) -> Self {
        Self { file, path }
    }
}

impl Sink for SparseFile<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all_at(bytes, at)
            .map_err(Error::io("write", self.path))
    }

    fn end(&mut self, len: u64) -> Result<(), Error> {
        self.file
            .set_len(len)
            .map_err(Error::io("set the length of", self.path))
    }

    fn is_sparse(&self) -> bool {
        true
    }
}

/// A flattened stream.
#[derive(Debug)]
pub struct Flattened<W> {
    out: W,
    name: PathBuf,
    begun: bool,
}

impl<W: Write> Flattened<W> {
    /// A stream to `out`, whose name is for messages.
    pub fn new(out: W, name: PathBuf) -> Self {
        Self {
            out,
            name,
            begun: false,
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        let mut header = FLAT_SIGNATURE.to_vec();
        for number in FLAT_TYPE_VERSION {
            header.extend(number.to_be_bytes());
        }
        header.resize(FLAT_HEADER, 0);
        self.out.write_all(&header)
    }

    fn record(&mut self, offset: i64, size: i64, bytes: &[u8]) -> io::Result<()> {
        self.begin()?;
        self.out.write_all(&offset.to_be_bytes())?;
        self.out.write_all(&size.to_be_bytes())?;
        self.out.write_all(bytes)
    }
}

impl<W: Write> Sink for Flattened<W> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let numbers = i64::try_from(at).and_then(|at| Ok((at, i64::try_from(bytes.len())?)));
        let numbers = numbers.map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
        numbers
            .and_then(|(at, size)| self.record(at, size, bytes))
            .map_err(Error::io("write", &self.name))
    }

    fn end(&mut self, _len: u64) -> Result<(), Error> {
        self.record(FLAT_END, FLAT_END, &[])
            .and_then(|()| self.out.flush())
            .map_err(Error::io("write", &self.name))
    }

    fn is_sparse(&self) -> bool {
        false
    }
}
