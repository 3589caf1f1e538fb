//! The bytes of a dump partition, wherever they are: its device, a partition of a disk, an image
//! file of either.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kdraw_format::addr::PartOffset;
use kdraw_format::layout::{BLOCK, LayoutError, Superblock};
use kdraw_format::partition_table::{Partition, partitions};
use kdraw_format::walk::{ReadAt, ReadFailed};

use crate::block::BlockDevice;
use crate::error::Error;
use crate::system::System;

/// What is meant to be done with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and mark slots; falls back to reading where writing is not allowed.
    Mark,
    /// Overwrite; the kernel refuses a device that is in use.
    Overwrite,
}

/// A partition's bytes, offset 0 being the partition's first.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    base: u64,
    len: u64,
    writable: bool,
}

impl Source {
    /// Opens a whole device or file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, access: Access) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read);
        if access == Access::Overwrite {
            // On a block device: fails with EBUSY if it is mounted or held; see open(2).
            options.custom_flags(libc::O_EXCL);
        }
        let (mut file, writable) = match options.open(path) {
            Ok(file) => (file, access != Access::Read),
            Err(_) if access == Access::Mark => {
                let file = File::open(path).map_err(Error::io("open", path))?;
                (file, false)
            }
            Err(source) => return Err(Error::io("open", path)(source)),
        };
        let len = file
            .seek(SeekFrom::End(0))
            .map_err(Error::io("measure", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            base: 0,
            len,
            writable,
        })
    }

    /// Opens the kdraw partition that `path` is or contains; `number` chooses one of several.
    ///
    /// # Errors
    /// [`Error::Unsigned`], [`Error::SeveralSigned`], [`Error::NoSuchPartition`], [`Error::Io`].
    pub fn open_signed(
        system: &System,
        path: &Path,
        number: Option<u32>,
        access: Access,
    ) -> Result<Self, Error> {
        let mut whole = Self::open(path, access)?;
        let why = match whole.superblock() {
            Ok(_) if number.is_none() => return Ok(whole),
            Ok(_) => LayoutError::Unsigned,
            Err(why) => why,
        };
        let signed = whole.signed_partitions();
        let numbers = || signed.iter().map(|found| found.number).collect();
        let chosen = match (number, &signed[..]) {
            (None, []) => {
                return Err(Error::Unsigned {
                    path: path.to_owned(),
                    source: why,
                });
            }
            (None, [one]) => one,
            (None, _) => {
                return Err(Error::SeveralSigned {
                    path: path.to_owned(),
                    numbers: numbers(),
                });
            }
            (Some(number), _) => signed
                .iter()
                .find(|found| found.number == number)
                .ok_or_else(|| Error::NoSuchPartition {
                    path: path.to_owned(),
                    number,
                    signed: numbers(),
                })?,
        };
        // A disk's and its partition's device have separate caches: use the partition's.
        if let Some(disk) = BlockDevice::of(system, path)? {
            let mut names = disk.partitions().into_iter();
            let own = names.find(|(number, _)| *number == u64::from(chosen.number));
            if let Some((_, name)) = own {
                return Self::open(&system.path(format!("/dev/{name}")), access);
            }
        }
        whole.base = chosen.start;
        whole.len = chosen.len;
        Ok(whole)
    }

    /// The superblock: the first copy, or the second if the first is damaged.
    ///
    /// # Errors
    /// What is wrong with the first copy.
    pub fn superblock(&mut self) -> Result<Superblock, LayoutError> {
        let [first, second] = self.superblock_copies();
        first.or_else(|why| second.map_err(|_| why))
    }

    /// Both copies of the superblock. The second lies where the first says, or where the
    /// source's length says if there is no first.
    pub fn superblock_copies(&mut self) -> [Result<Superblock, LayoutError>; 2] {
        let first = self.superblock_at(PartOffset(0));
        let len = first.as_ref().map_or(self.len, |first| first.partition_len);
        let second = self.superblock_at(Superblock::second_copy(len));
        [first, second]
    }

    fn superblock_at(&mut self, at: PartOffset) -> Result<Superblock, LayoutError> {
        let mut block = [0; BLOCK];
        self.read_at(at.0, &mut block)
            .map_err(|_| LayoutError::Unsigned)?;
        Superblock::decode(&block)
    }

    /// The partitions of this disk that are signed.
    fn signed_partitions(&mut self) -> Vec<Partition> {
        let mut all = Vec::new();
        // An image file does not say its disk's block size; GPT counts in it.
        for block_size in [512, 4096] {
            let table = partitions(self, block_size, |partition| {
                all.push(partition);
                true
            });
            if table == Ok(true) && !all.is_empty() {
                break;
            }
        }
        let (base, len) = (self.base, self.len);
        all.retain(|partition| {
            self.base = partition.start;
            self.len = partition.len;
            self.superblock().is_ok()
        });
        (self.base, self.len) = (base, len);
        all
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it may be written.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Writes bytes inside the partition.
    ///
    /// # Errors
    /// [`Error::Io`], also if they would reach beyond its end.
    pub fn write_at(&mut self, at: PartOffset, bytes: &[u8]) -> Result<(), Error> {
        let end = at.0.checked_add(bytes.len() as u64);
        let outside = std::io::Error::from(std::io::ErrorKind::InvalidInput);
        end.filter(|end| *end <= self.len)
            .and_then(|_| self.base.checked_add(at.0))
            .ok_or(outside)
            .and_then(|at| self.file.write_all_at(bytes, at))
            .map_err(Error::io("write to", &self.path))
    }

    /// Writes zeros from `from` up to `to`.
    ///
    /// # Errors
    /// As [`Source::write_at`].
    pub fn zero(&mut self, from: u64, to: u64) -> Result<(), Error> {
        let zeros = vec![0; 64 << 10];
        let mut at = from;
        while at < to {
            let piece = to.saturating_sub(at).min(zeros.len() as u64);
            let bytes = zeros.get(..piece as usize).unwrap_or_default();
            self.write_at(PartOffset(at), bytes)?;
            at = at.saturating_add(piece);
        }
        Ok(())
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::io("flush", &self.path))
    }
}

/// Bytes that several threads may read at once.
pub trait SharedRead: Sync {
    /// Fills `into` from byte `offset` on.
    ///
    /// # Errors
    /// [`ReadFailed`] if not all of it could be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed>;

    /// How many bytes there are.
    fn size(&self) -> u64;
}

impl<R: SharedRead + Send + ?Sized> SharedRead for Box<R> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        (**self).read_at(offset, into)
    }

    fn size(&self) -> u64 {
        (**self).size()
    }
}

impl SharedRead for Source {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        let failed = ReadFailed { offset };
        let end = offset.checked_add(into.len() as u64).ok_or(failed)?;
        if end > self.len {
            return Err(failed);
        }
        let at = self.base.checked_add(offset).ok_or(failed)?;
        self.file.read_exact_at(into, at).map_err(|_| failed)
    }

    fn size(&self) -> u64 {
        self.len
    }
}

impl ReadAt for Source {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        SharedRead::read_at(self, offset, into)
    }
}
