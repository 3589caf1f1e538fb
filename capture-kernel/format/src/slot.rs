//! A slot's header: what became of the dump in it. Two copies, the newer whole one counts.
//!
//! | at | size | field |
//! |--|--|--|
//! | 0 | 8 | magic `KDRAWSL\0` |
//! | 8 | 8 | XXH64 of bytes 16..4096 |
//! | 16 | 2 | format version |
//! | 18 | 1 | outcome: 0 empty, 1 writing, 2 complete, 3 truncated, 4 failed |
//! | 19 | 1 | extracted: 0 no, 1 yes |
//! | 20 | 4 | slot number |
//! | 24 | 8 | generation: counts every write of this header |
//! | 32 | 16 | dump id |
//! | 48 | 8 | stream length in bytes, 0 while writing |
//! | 56 | 8 | chunks, 64: frames stored, 72: frames unreadable |
//! | 80 | 8 | time from the payload's first instruction to the trailer, microseconds |
//! | 88 | 8 | plain: length of the ELF core at 1 MiB, bytes; while writing: as planned, 0 before its header is durable |
//! | 96 | 4 | epitaph: 0 none, else its kind |
//! | 104 | 80 | epitaph: ELR, ESR, FAR, SP, LR, SPSR, time µs, three reserved |
//! | 184 | 8 | extraction time, seconds since 1970 |
//! | 192 | 256 | epitaph's message, UTF-8, zero-padded |
//! | 448 | 1 | dump level, makedumpfile's bits 0 to 31 |
//! | 449 | 1 | classes left out because the slot is too small, [`ClassSet`] |
//! | 450 | 6 | reserved, 0 |
//! | 456 | 8 | frames of one repeated byte, told by their runs |
//!
//! The payload writes *writing* before the first chunk and the outcome after the trailer is
//! durable. `kdraw extract` sets *extracted* after its files are durable. A slot is free when
//! it is empty or extracted.

use crate::bytes::{Get, Put};
use crate::checksum::{block_is_whole, seal_block};
use crate::chunk::ClassSet;
use crate::layout::{BLOCK, VERSION};

const MAGIC: [u8; 8] = *b"KDRAWSL\0";

/// What became of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// No dump was ever begun here.
    #[default]
    Empty,
    /// Begun and not ended: the power went, or the payload could not even write its epitaph.
    Writing,
    /// Everything that was meant to be kept is there, up to the trailer.
    Complete,
    /// Ended in order, but something is missing: room, time, or unreadable memory.
    Truncated,
    /// The payload itself failed; the epitaph says why.
    Failed,
}

/// What brought the payload down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EpitaphKind {
    /// It ended in order.
    #[default]
    None,
    /// A Rust panic in the payload.
    Panic,
    /// A synchronous exception in the payload.
    Fault,
    /// An SError outside of reading evidence.
    SystemError,
    /// The target failed or stopped to answer.
    Device,
    /// The total time budget was used up.
    OutOfTime,
}

/// The payload's last words: what, where, registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epitaph {
    /// What happened.
    pub kind: EpitaphKind,
    /// Address of the instruction: as linked, so that it can be looked up in capture.elf.
    pub elr: u64,
    /// Exception syndrome (ESR_ELx).
    pub esr: u64,
    /// Fault address (FAR_ELx).
    pub far: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Link register (x30).
    pub lr: u64,
    /// Saved program status.
    pub spsr: u64,
    /// Microseconds since the payload's first instruction.
    pub at_us: u64,
    /// In words.
    pub message: heapless::String<256>,
}

/// One slot's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotHeader {
    /// What became of the dump.
    pub outcome: Outcome,
    /// When `kdraw extract` saved it, in seconds since 1970; `None` if it did not.
    pub extracted: Option<u64>,
    /// The slot's number.
    pub index: u32,
    /// How often this header was written; the copy with the higher one counts.
    pub generation: u64,
    /// The dump's id, that every chunk of it carries.
    pub dump_id: [u8; 16],
    /// Bytes of the chunk stream, trailer included; 0 as long as it is not known.
    pub stream_len: u64,
    /// Chunks in the stream.
    pub chunks: u64,
    /// Frames whose content is stored.
    pub frames: u64,
    /// Frames that could not be read.
    pub unreadable: u64,
    /// Microseconds from the payload's first instruction to the durable trailer.
    pub elapsed_us: u64,
    /// On a plain partition: the ELF core's length in bytes; while writing, the length that it
    /// is meant to get, or 0 as long as its header is not durable.
    pub plain_len: u64,
    /// The payload's last words, if it failed.
    pub epitaph: Epitaph,
    /// The dump level: which classes were not wanted, as makedumpfile's bits 0 to 31.
    pub level: u8,
    /// The classes that were wanted and left out, because the slot is too small for them.
    pub left_out: ClassSet,
    /// Frames that hold one repeated byte: their runs tell it, no data is stored.
    pub filled: u64,
}

impl SlotHeader {
    /// Whether a new dump may be written here without losing one.
    pub fn is_free(&self) -> bool {
        self.outcome == Outcome::Empty || self.extracted.is_some()
    }

    /// Writes it into a block of [`BLOCK`] bytes, sealed.
    pub fn encode(&self, block: &mut [u8; BLOCK]) {
        let outcome = match self.outcome {
            Outcome::Empty => 0,
            Outcome::Writing => 1,
            Outcome::Complete => 2,
            Outcome::Truncated => 3,
            Outcome::Failed => 4,
        };
        let kind = match self.epitaph.kind {
            EpitaphKind::None => 0,
            EpitaphKind::Panic => 1,
            EpitaphKind::Fault => 2,
            EpitaphKind::SystemError => 3,
            EpitaphKind::Device => 4,
            EpitaphKind::OutOfTime => 5,
        };
        Put::new(block)
            .bytes(&MAGIC)
            .u64(0)
            .u16(VERSION)
            .u8(outcome)
            .u8(u8::from(self.extracted.is_some()))
            .u32(self.index)
            .u64(self.generation)
            .bytes(&self.dump_id)
            .u64(self.stream_len)
            .u64(self.chunks)
            .u64(self.frames)
            .u64(self.unreadable)
            .u64(self.elapsed_us)
            .u64(self.plain_len)
            .u32(kind)
            .u32(0)
            .u64(self.epitaph.elr)
            .u64(self.epitaph.esr)
            .u64(self.epitaph.far)
            .u64(self.epitaph.sp)
            .u64(self.epitaph.lr)
            .u64(self.epitaph.spsr)
            .u64(self.epitaph.at_us)
            .zeros(24)
            .u64(self.extracted.unwrap_or(0))
            .text(&self.epitaph.message, 256)
            .u8(self.level)
            .u8(self.left_out.0)
            .zeros(6)
            .u64(self.filled)
            .finish();
        seal_block(block);
    }

    /// Reads it from a block; `None` if the block is not a whole header of slot `index`.
    pub fn decode(block: &[u8], index: u32) -> Option<Self> {
        let block = block.get(..BLOCK)?;
        if !block_is_whole(block, MAGIC) {
            return None;
        }
        let mut get = Get::new(block);
        get.skip(16);
        if get.u16() != VERSION {
            return None;
        }
        let outcome = match get.u8() {
            0 => Outcome::Empty,
            1 => Outcome::Writing,
            2 => Outcome::Complete,
            3 => Outcome::Truncated,
            4 => Outcome::Failed,
            _ => return None,
        };
        let extracted = get.u8() != 0;
        let mut header = Self {
            outcome,
            index: get.u32(),
            generation: get.u64(),
            dump_id: get.array(),
            stream_len: get.u64(),
            chunks: get.u64(),
            frames: get.u64(),
            unreadable: get.u64(),
            elapsed_us: get.u64(),
            plain_len: get.u64(),
            ..Self::default()
        };
        header.epitaph.kind = match get.u32() {
            0 => EpitaphKind::None,
            1 => EpitaphKind::Panic,
            2 => EpitaphKind::Fault,
            3 => EpitaphKind::SystemError,
            4 => EpitaphKind::Device,
            5 => EpitaphKind::OutOfTime,
            _ => return None,
        };
        get.skip(4);
        header.epitaph.elr = get.u64();
        header.epitaph.esr = get.u64();
        header.epitaph.far = get.u64();
        header.epitaph.sp = get.u64();
        header.epitaph.lr = get.u64();
        header.epitaph.spsr = get.u64();
        header.epitaph.at_us = get.u64();
        get.skip(24);
        let when = get.u64();
        header.extracted = extracted.then_some(when);
        header.epitaph.message = get.text(256);
        header.level = get.u8();
        header.left_out = ClassSet(get.u8());
        get.skip(6);
        header.filled = get.u64();
        (get.finish() && header.index == index).then_some(header)
    }

    /// The header that counts of the two copies; `None` if neither is whole.
    pub fn newest(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.generation > a.generation { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> SlotHeader {
        SlotHeader {
            outcome: Outcome::Failed,
            extracted: Some(1_763_600_000),
            index: 2,
            generation: 9,
            dump_id: [3; 16],
            stream_len: 1 << 33,
            chunks: 11,
            frames: 22,
            unreadable: 33,
            elapsed_us: 44,
            plain_len: 55,
            epitaph: Epitaph {
                kind: EpitaphKind::Fault,
                elr: 1,
                esr: 2,
                far: 3,
                sp: 4,
                lr: 5,
                spsr: 6,
                at_us: 7,
                message: heapless::String::try_from("data abort").unwrap(),
            },
            level: 31,
            left_out: ClassSet(0x80),
            filled: 66,
        }
    }

    #[test]
    fn header_round_trips_in_its_own_slot_only() {
        let mut block = [0; BLOCK];
        failed().encode(&mut block);
        assert_eq!(SlotHeader::decode(&block, 2), Some(failed()));
        assert_eq!(SlotHeader::decode(&block, 1), None);
        block[500] ^= 1;
        assert_eq!(SlotHeader::decode(&block, 2), None);
    }

    #[test]
    fn newer_whole_copy_counts() {
        let newer = SlotHeader {
            generation: 10,
            ..failed()
        };
        assert_eq!(
            SlotHeader::newest(Some(failed()), Some(newer.clone())),
            Some(newer.clone())
        );
        assert_eq!(
            SlotHeader::newest(Some(newer.clone()), Some(failed())),
            Some(newer.clone())
        );
        assert_eq!(SlotHeader::newest(None, Some(failed())), Some(failed()));
        assert_eq!(SlotHeader::newest(None, None), None);
    }
}
