//! What is sent: a file, or a text that is made here.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kdraw::error::Error;

/// Bytes that have a name at the other end.
pub struct Source {
    /// The name.
    pub name: String,
    /// How many there are.
    pub len: u64,
    bytes: Origin,
}

enum Origin {
    File(File, PathBuf),
    Text(Bytes),
}

impl Source {
    /// A file of `folder`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn file(folder: &Path, name: &str) -> Result<Self, Error> {
        let path = folder.join(name);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let len = file.metadata().map_err(Error::io("look at", &path))?.len();
        Ok(Self {
            name: name.to_owned(),
            len,
            bytes: Origin::File(file, path),
        })
    }

    /// A text.
    pub fn text(name: &str, text: String) -> Self {
        Self {
            name: name.to_owned(),
            len: text.len() as u64,
            bytes: Origin::Text(text.into()),
        }
    }

    /// Reads `len` bytes at `at`.
    ///
    /// # Errors
    /// [`Error::Io`]; also if the file has become shorter.
    pub fn read(&self, at: u64, len: usize) -> Result<Bytes, Error> {
        match &self.bytes {
            Origin::File(file, path) => {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, at)
                    .map_err(Error::io("read", path))?;
                Ok(bytes.into())
            }
            Origin::Text(text) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(text.len());
                Ok(text.slice(from..from.saturating_add(len).min(text.len())))
            }
        }
    }

    /// Everything at once; a file is mapped, so that it takes no memory of its own.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn whole(&self) -> Result<Bytes, Error> {
        let (file, path) = match &self.bytes {
            Origin::File(file, path) => (file, path),
            Origin::Text(text) => return Ok(text.clone()),
        };
        // SAFETY: the file is open, and nobody writes into a dump's files: they appear under their
        // names when they are complete, and kdraw only ever unlinks them. Should someone cut it
        // short nevertheless, SIGBUS ends this program, which has changed nothing here.
        #[expect(unsafe_code, reason = "mapping a file")]
        let mapped = unsafe { memmap2::Mmap::map(file) };
        Ok(Bytes::from_owner(mapped.map_err(Error::io("map", path))?))
    }
}
