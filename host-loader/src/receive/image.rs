//! The image file that a dump is received into: a signed partition of one slot that grows with the
//! dump.
//!
//! At any moment the file can be read as it is: the superblock's second copy is written before the
//! first one that names its place, and the chunks come in their order of worth.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kdraw_format::addr::PartOffset;
use kdraw_format::chunk::{ChunkHeader, Kind};
use kdraw_format::layout::{BLOCK, DATA_START, SLOT_UNIT, START_UNKNOWN, SlotPlace, Superblock};
use kdraw_format::slot::{Outcome, SlotHeader};

use crate::black_box::BlackBox;
use crate::error::Error;

/// The largest image that a sender may ask for.
const MAX_LEN: u64 = 1 << 40;

/// Why what was received cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be made, read or written.
    #[error(transparent)]
    File(#[from] Error),
    /// There is a file, and not of this dump.
    #[error("{path} exists and is not of dump {wanted}; name another file with -o")]
    OfAnother {
        /// The file.
        path: PathBuf,
        /// The dump that is being sent, as its id begins.
        wanted: String,
    },
    /// A write outside of where a dump can lie.
    #[error("the sender wants to write {len} bytes at byte {at}, which is no place for a dump")]
    Outside {
        /// Where.
        at: u64,
        /// How many.
        len: u64,
    },
}

/// The file.
#[derive(Debug)]
pub struct Image {
    file: File,
    path: PathBuf,
    dump_id: [u8; 16],
    slot: SlotPlace,
    len: u64,
    /// Where what was written ends.
    end: u64,
    outcome: Outcome,
    black_box: Option<BlackBox>,
}

/// A dump's id as it stands in names: its first eight digits.
pub fn short(dump_id: &[u8; 16]) -> String {
    dump_id
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Image {
    /// Opens the image of a dump, or makes it.
    ///
    /// # Errors
    /// [`ImageError::File`] or [`ImageError::OfAnother`].
    pub fn open(path: &Path, dump_id: [u8; 16]) -> Result<Self, ImageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Memory holds keys and passwords.
            .mode(0o600)
            .open(path)
            .map_err(Error::io("open", path))?;
        let found = file.metadata().map_err(Error::io("measure", path))?.len();
        let of_another = || ImageError::OfAnother {
            path: path.to_owned(),
            wanted: short(&dump_id),
        };
        let mut known = None;
        if found > 0 {
            let mut block = [0; BLOCK];
            file.read_exact_at(&mut block, 0)
                .map_err(|_| of_another())?;
            let superblock = Superblock::decode(&block).map_err(|_| of_another())?;
            if superblock.uuid != dump_id || superblock.partition_len > found {
                return Err(of_another());
            }
            known = Some(superblock.partition_len);
        }
        let first = signature(dump_id, SLOT_UNIT).and_then(|superblock| superblock.slot(0));
        let mut this = Self {
            file,
            path: path.to_owned(),
            dump_id,
            slot: first.ok_or_else(of_another)?,
            len: known.unwrap_or(0),
            end: known.map_or(0, |len| len.saturating_sub(BLOCK as u64)),
            outcome: Outcome::Writing,
            black_box: None,
        };
        if known.is_none() {
            this.reach(DATA_START)?;
            let mut block = [0; BLOCK];
            SlotHeader::default().encode(&mut block);
            for copy in [0, 1] {
                this.put(this.slot.header(copy).0, &block)?;
            }
        }
        Ok(this)
    }

    /// Writes what a sender wrote: `bytes`, then zeros up to `len`.
    ///
    /// # Errors
    /// [`ImageError::Outside`], or that the file cannot be written.
    pub fn write(&mut self, at: u64, bytes: &[u8], len: u64) -> Result<(), ImageError> {
        let outside = ImageError::Outside { at, len };
        let end = at.checked_add(len).filter(|end| *end <= MAX_LEN);
        let Some(end) = end.filter(|_| at >= self.slot.start.0 && bytes.len() as u64 <= len) else {
            return Err(outside);
        };
        self.reach(end)?;
        let mut whole = bytes.to_vec();
        whole.resize(len as usize, 0);
        self.put(at, &whole)?;
        self.end = self.end.max(end);
        self.look_at(at, &whole);
        Ok(())
    }

    /// Keeps what is worth telling at once.
    fn look_at(&mut self, at: u64, bytes: &[u8]) {
        if at == self.slot.header(1).0
            && let Some(header) = SlotHeader::decode(bytes, 0)
        {
            self.outcome = header.outcome;
        }
        if at == self.slot.stream_start().0
            && let Ok(header) = ChunkHeader::decode(bytes)
            && header.kind == Kind::BlackBox
            && let Ok(data) = header.data(bytes)
        {
            self.black_box = Some(BlackBox::parse(data));
        }
    }

    /// The black box, when it has just come.
    pub fn new_black_box(&mut self) -> Option<BlackBox> {
        self.black_box.take()
    }

    /// Whether the dump has ended, and how.
    pub fn outcome(&self) -> Option<Outcome> {
        Some(self.outcome).filter(|outcome| !matches!(outcome, Outcome::Empty | Outcome::Writing))
    }

    /// Bytes up to the end of what was written.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// What the system said.
    pub fn sync(&self) -> Result<(), ImageError> {
        let synced = self.file.sync_data();
        Ok(synced.map_err(Error::io("flush", &self.path))?)
    }

    /// Cuts the file to what the dump needs, durably.
    ///
    /// # Errors
    /// What the system said.
    pub fn fit(&mut self) -> Result<(), ImageError> {
        self.sign(self.end)?;
        self.file
            .set_len(self.len)
            .and_then(|()| self.file.sync_all())
            .map_err(Error::io("cut", &self.path))?;
        Ok(())
    }

    /// Makes room up to byte `end`, and more, so as not to do it each time.
    fn reach(&mut self, end: u64) -> Result<(), ImageError> {
        if end <= self.len.saturating_sub(BLOCK as u64) {
            return Ok(());
        }
        self.sign(end.saturating_add(end / 8))
    }

    /// Signs the image for a dump that ends at byte `end`.
    fn sign(&mut self, end: u64) -> Result<(), ImageError> {
        let slot = end.saturating_sub(DATA_START).max(1);
        let slot = slot.next_multiple_of(SLOT_UNIT);
        let Some(superblock) = signature(self.dump_id, slot) else {
            return Err(ImageError::Outside { at: 0, len: end });
        };
        let len = superblock.partition_len;
        if len > self.len {
            self.file
                .set_len(len)
                .map_err(Error::io("grow", &self.path))?;
        }
        let mut block = [0; BLOCK];
        superblock.encode(&mut block);
        self.put(Superblock::second_copy(len).0, &block)?;
        self.put(0, &block)?;
        self.len = len;
        Ok(())
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let put = self.file.write_all_at(bytes, PartOffset(at).0);
        Ok(put.map_err(Error::io("write to", &self.path))?)
    }
}

/// The superblock of an image whose slot has `slot` bytes.
fn signature(dump_id: [u8; 16], slot: u64) -> Option<Superblock> {
    let len = DATA_START.checked_add(slot)?.checked_add(BLOCK as u64)?;
    Superblock::new(dump_id, START_UNKNOWN, len, 1, false).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_received_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.img");
        Image::open(&path, [7; 16]).unwrap();
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
