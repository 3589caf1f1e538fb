//! Where things lie on a dump partition, and the superblock that says so.
//!
//! ```text
//! 0        superblock A                            4 KiB
//! 64 KiB   black-box journal: 8 records            256 KiB
//! 512 KiB  plain only: slot 0 (headers, chunks)    512 KiB
//! 1 MiB    slots, equal, each a multiple of 1 MiB; plain: the raw ELF core
//! end-4K   superblock B
//! ```
//!
//! What lies between them is zero. Superblock, offsets in bytes:
//!
//! | at | size | field |
//! |--|--|--|
//! | 0 | 8 | magic `KDRAWSB\0` |
//! | 8 | 8 | XXH64 of bytes 16..4096 |
//! | 16 | 2 | format version |
//! | 18 | 2 | flags: bit 0 plain, bit 1 unextracted dumps may be overwritten |
//! | 20 | 4 | number of slots, 1 to [`MAX_SLOTS`] |
//! | 24 | 16 | partition UUID, drawn by `kdraw format` |
//! | 40 | 8 | partition start on its disk, bytes; all ones: not known (image file) |
//! | 48 | 8 | partition length, bytes |
//! | 56 | 8 | length of a slot, bytes |
//! | 64 | 8 | creation, seconds since 1970 |
//! | 72 | 32 | label, UTF-8, zero-padded |

use crate::addr::PartOffset;
use crate::bytes::{Get, Put};
use crate::checksum::{block_is_whole, seal_block};

/// Everything on the partition is a multiple of this and aligned to it: the largest logical
/// block size in use, and the page size of flash translation layers.
pub const BLOCK: usize = 4096;
/// The format version that this crate writes, and the only one it reads.
pub const VERSION: u16 = 1;
/// The most slots that a partition can have.
pub const MAX_SLOTS: u32 = 16;
/// Where the black-box journal begins.
pub const JOURNAL_START: u64 = 64 << 10;
/// Bytes in a journal record.
pub const JOURNAL_RECORD: u64 = 32 << 10;
/// Records in the journal.
pub const JOURNAL_RECORDS: u64 = 8;
/// Where a plain partition's only slot keeps its headers and chunks.
pub const PLAIN_SLOT_START: u64 = 512 << 10;
/// Where slots begin, or on a plain partition the ELF core.
pub const DATA_START: u64 = 1 << 20;
/// Slots are multiples of this.
pub const SLOT_UNIT: u64 = 1 << 20;
/// Bytes of a slot taken by the two copies of its header; its chunks follow.
pub const SLOT_HEADERS: u64 = 2 * BLOCK as u64;
/// The smallest partition that can be formatted, in bytes: one slot of 1 MiB.
pub const MIN_PARTITION: u64 = DATA_START + SLOT_UNIT + BLOCK as u64;
/// `partition_start` of a superblock written to an image file.
pub const START_UNKNOWN: u64 = u64::MAX;

const MAGIC: [u8; 8] = *b"KDRAWSB\0";
const FLAG_PLAIN: u16 = 1 << 0;
const FLAG_OVERWRITE: u16 = 1 << 1;

/// Why a partition cannot hold dumps, or is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No superblock: not a kdraw partition.
    #[error("no kdraw superblock (magic or checksum differs)")]
    Unsigned,
    /// A superblock of a version that is not known here.
    #[error("dump format version {0} is not known here (this is version {VERSION})")]
    Version(u16),
    /// The superblock contradicts itself.
    #[error("superblock field makes no sense: {0}")]
    Nonsense(&'static str),
    /// Less than [`MIN_PARTITION`], or than the slots asked for.
    #[error("partition of {have} bytes is too small, at least {need} are needed")]
    TooSmall {
        /// Its length in bytes.
        have: u64,
        /// The least that would do, in bytes.
        need: u64,
    },
    /// Zero slots, more than [`MAX_SLOTS`], or more than one on a plain partition.
    #[error("{0} slots asked for; 1 to {MAX_SLOTS} are possible, and 1 on a plain partition")]
    Slots(u32),
}

/// What `kdraw format` writes and everything else checks before it touches the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// A raw ELF core at 1 MiB instead of chunks.
    pub plain: bool,
    /// Whether a dump that nobody has extracted may be overwritten.
    pub overwrite: bool,
    /// How many dumps there is room for.
    pub slots: u32,
    /// This partition's name for the plan, drawn at random when it was formatted.
    pub uuid: [u8; 16],
    /// Where the partition begins on its disk, in bytes; [`START_UNKNOWN`] in an image file.
    pub partition_start: u64,
    /// The partition's length in bytes.
    pub partition_len: u64,
    /// A slot's length in bytes. On a plain partition: from 512 KiB to the ELF core.
    pub slot_len: u64,
    /// When it was formatted, in seconds since 1970.
    pub created: u64,
    /// A name for people.
    pub label: heapless::String<32>,
}

impl Superblock {
    /// Lays out a partition of `partition_len` bytes.
    ///
    /// # Errors
    /// [`LayoutError::TooSmall`] or [`LayoutError::Slots`].
    pub fn new(
        uuid: [u8; 16],
        partition_start: u64,
        partition_len: u64,
        slots: u32,
        plain: bool,
    ) -> Result<Self, LayoutError> {
        if slots == 0 || slots > MAX_SLOTS || (plain && slots != 1) {
            return Err(LayoutError::Slots(slots));
        }
        let need = DATA_START
            .saturating_add(u64::from(slots).saturating_mul(SLOT_UNIT))
            .saturating_add(BLOCK as u64);
        if partition_len < need {
            return Err(LayoutError::TooSmall {
                have: partition_len,
                need,
            });
        }
        let slot_len = if plain {
            DATA_START.saturating_sub(PLAIN_SLOT_START)
        } else {
            let room = partition_len
                .saturating_sub(DATA_START)
                .saturating_sub(BLOCK as u64);
            let share = room.checked_div(u64::from(slots)).unwrap_or(0);
            share.saturating_sub(share % SLOT_UNIT)
        };
        Ok(Self {
            plain,
            overwrite: false,
            slots,
            uuid,
            partition_start,
            partition_len,
            slot_len,
            created: 0,
            label: heapless::String::new(),
        })
    }

    /// Writes it into a block of [`BLOCK`] bytes, sealed.
    pub fn encode(&self, block: &mut [u8; BLOCK]) {
        let flags = if self.plain { FLAG_PLAIN } else { 0 }
            | if self.overwrite { FLAG_OVERWRITE } else { 0 };
        Put::new(block)
            .bytes(&MAGIC)
            .u64(0)
            .u16(VERSION)
            .u16(flags)
            .u32(self.slots)
            .bytes(&self.uuid)
            .u64(self.partition_start)
            .u64(self.partition_len)
            .u64(self.slot_len)
            .u64(self.created)
            .text(&self.label, 32)
            .finish();
        seal_block(block);
    }

    /// Reads it back from a block and checks that it is whole and makes sense.
    ///
    /// # Errors
    /// [`LayoutError::Unsigned`], [`LayoutError::Version`] or [`LayoutError::Nonsense`].
    pub fn decode(block: &[u8]) -> Result<Self, LayoutError> {
        let block = block.get(..BLOCK).ok_or(LayoutError::Unsigned)?;
        if !block_is_whole(block, MAGIC) {
            return Err(LayoutError::Unsigned);
        }
        let mut get = Get::new(block);
        get.skip(16);
        let version = get.u16();
        if version != VERSION {
            return Err(LayoutError::Version(version));
        }
        let flags = get.u16();
        let superblock = Self {
            plain: flags & FLAG_PLAIN != 0,
            overwrite: flags & FLAG_OVERWRITE != 0,
            slots: get.u32(),
            uuid: get.array(),
            partition_start: get.u64(),
            partition_len: get.u64(),
            slot_len: get.u64(),
            created: get.u64(),
            label: get.text(32),
        };
        let laid_out = Self::new(
            superblock.uuid,
            superblock.partition_start,
            superblock.partition_len,
            superblock.slots,
            superblock.plain,
        )
        .map_err(|_| LayoutError::Nonsense("slots or partition length"))?;
        if laid_out.slot_len != superblock.slot_len {
            return Err(LayoutError::Nonsense("slot length"));
        }
        Ok(superblock)
    }

    /// Where the second copy of the superblock lies.
    pub fn second_copy(partition_len: u64) -> PartOffset {
        let end = partition_len & !(BLOCK as u64).saturating_sub(1);
        PartOffset(end.saturating_sub(BLOCK as u64))
    }

    /// Where slot `index` lies; `None` if there is no such slot.
    pub fn slot(&self, index: u32) -> Option<SlotPlace> {
        if index >= self.slots {
            return None;
        }
        let start = if self.plain {
            PLAIN_SLOT_START
        } else {
            DATA_START.checked_add(self.slot_len.checked_mul(u64::from(index))?)?
        };
        Some(SlotPlace {
            index,
            start: PartOffset(start),
            len: self.slot_len,
        })
    }

    /// Where a plain partition's ELF core lies, and how long it can be.
    pub fn plain_core(&self) -> Option<(PartOffset, u64)> {
        let end = Self::second_copy(self.partition_len).0;
        self.plain
            .then_some((PartOffset(DATA_START), end.saturating_sub(DATA_START)))
    }

    /// Where journal record `index` lies.
    pub fn journal_record(index: u64) -> PartOffset {
        let index = index % JOURNAL_RECORDS;
        PartOffset(JOURNAL_START.saturating_add(index.saturating_mul(JOURNAL_RECORD)))
    }
}

/// The room of one dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPlace {
    /// Its number, from 0.
    pub index: u32,
    /// Its first byte: header copy A; copy B follows, then the chunks.
    pub start: PartOffset,
    /// Its length in bytes, headers included.
    pub len: u64,
}

impl SlotPlace {
    /// Where the header's copy (0 or 1) lies.
    pub fn header(&self, copy: u64) -> PartOffset {
        PartOffset(
            self.start
                .0
                .saturating_add((copy % 2).saturating_mul(BLOCK as u64)),
        )
    }

    /// Where the chunk stream begins: chunk offsets count from here.
    pub fn stream_start(&self) -> PartOffset {
        PartOffset(self.start.0.saturating_add(SLOT_HEADERS))
    }

    /// The most bytes that the chunk stream can have.
    pub fn stream_len(&self) -> u64 {
        self.len.saturating_sub(SLOT_HEADERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblock_round_trips_and_every_flipped_bit_shows() {
        let mut superblock = Superblock::new([7; 16], 1 << 30, 300 << 20, 3, false).unwrap();
        superblock.label.push_str("board 12").unwrap();
        superblock.overwrite = true;
        let mut block = [0; BLOCK];
        superblock.encode(&mut block);
        assert_eq!(Superblock::decode(&block), Ok(superblock));
        for byte in 0..BLOCK {
            block[byte] ^= 0x10;
            assert!(Superblock::decode(&block).is_err(), "flip in byte {byte}");
            block[byte] ^= 0x10;
        }
    }

    #[test]
    fn slots_lie_apart_and_inside() {
        for (len, slots) in [(MIN_PARTITION, 1), (300 << 20, 3), ((300 << 20) + 511, 16)] {
            let superblock = Superblock::new([1; 16], 0, len, slots, false).unwrap();
            let mut free_from = JOURNAL_START + JOURNAL_RECORD * JOURNAL_RECORDS;
            for index in 0..slots {
                let slot = superblock.slot(index).unwrap();
                assert!(slot.start.0 >= free_from);
                free_from = slot.start.0 + slot.len;
            }
            assert!(free_from <= Superblock::second_copy(len).0);
            assert_eq!(superblock.slot(slots), None);
        }
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused() {
        let new = |len, slots, plain| Superblock::new([0; 16], 0, len, slots, plain);
        assert!(matches!(
            new(MIN_PARTITION - 1, 1, false),
            Err(LayoutError::TooSmall { .. })
        ));
        assert_eq!(new(1 << 30, 0, false), Err(LayoutError::Slots(0)));
        assert_eq!(new(1 << 30, 17, false), Err(LayoutError::Slots(17)));
        assert_eq!(new(1 << 30, 2, true), Err(LayoutError::Slots(2)));
    }
}
