//! One dump being written: slot choice, header, chunks strictly forward, trailer.
//!
//! A chunk that the device fails to write, for a bad block on its medium, is written again further
//! on. Headers have one place, and a plain partition's core too: there a failed write is the end.

use core::fmt::Write as _;

use kdraw_format::addr::PartOffset;
use kdraw_format::chunk::{
    Body, ChunkSpec, Class, ClassSet, Codec, Content, Kind, Run, data_offset, relocate, seal,
    seal_header,
};
use kdraw_format::layout::{BLOCK, JOURNAL_RECORDS, SlotPlace, Superblock};
use kdraw_format::records::RecordWriter;
use kdraw_format::slot::{Outcome, SlotHeader};
use kdraw_format::trailer::{self, CLASS_COUNT, Checkpoints, ClassCount};
use kdraw_format::working_memory::CHUNK_STORED;

use crate::partition::{Partition, TargetError};
use crate::plain::MAX_SUMS_CHUNK;
use crate::ports::DmaBuffer;
use crate::task::Product;
use crate::worth::Found;

/// Bytes that a buffer must have for any chunk.
pub const CHUNK_BUFFER: usize = CHUNK_STORED as usize;
/// Bytes at the end of the stream that pages and the kernel's log never use: for a plain core's
/// checksums and unreadable frames, the payload's log, the index and the trailer.
const TAIL_ROOM: u64 = MAX_SUMS_CHUNK as u64 + (64 << 10);
/// Checkpoints kept for the index.
const CHECKPOINTS: usize = 512;

/// Bytes of text about the device.
const MAX_DEVICE: usize = 192;

/// Chooses the slot for a new dump, and tells how its header reads now: the first free one,
/// or on a partition formatted to allow it the one written longest ago. `None`: every slot
/// holds a dump that nobody has extracted, so only the journal may be written.
///
/// # Errors
/// What reading the headers failed with.
pub fn choose_slot(
    partition: &mut Partition<'_>,
) -> Result<Option<(SlotPlace, SlotHeader)>, TargetError> {
    let superblock = partition.superblock().clone();
    let mut oldest: Option<(SlotPlace, SlotHeader)> = None;
    for index in 0..superblock.slots {
        let Some(place) = superblock.slot(index) else {
            break;
        };
        // A slot whose header is damaged in both copies may hold a dump: it is not free.
        let Some(header) = read_header(partition, &place)? else {
            continue;
        };
        if header.is_free() {
            return Ok(Some((place, header)));
        }
        if oldest
            .as_ref()
            .is_none_or(|(_, old)| header.generation < old.generation)
        {
            oldest = Some((place, header));
        }
    }
    Ok(oldest.filter(|_| superblock.overwrite))
}

fn read_header(
    partition: &mut Partition<'_>,
    place: &SlotPlace,
) -> Result<Option<SlotHeader>, TargetError> {
    let mut block = [0; BLOCK];
    partition.read_block(place.header(0), &mut block)?;
    let a = SlotHeader::decode(&block, place.index);
    partition.read_block(place.header(1), &mut block)?;
    let b = SlotHeader::decode(&block, place.index);
    Ok(SlotHeader::newest(a, b))
}

/// Writes both copies of a slot's header, durably one after the other, so that a cut leaves
/// one of them whole.
///
/// # Errors
/// What the device failed with.
pub fn write_header(
    partition: &mut Partition<'_>,
    place: &SlotPlace,
    header: &SlotHeader,
) -> Result<(), TargetError> {
    for copy in 0..2 {
        write_copy(partition, place, header, copy)?;
        partition.flush()?;
    }
    Ok(())
}

/// Writes one copy of a slot's header, not durably yet.
fn write_copy(
    partition: &mut Partition<'_>,
    place: &SlotPlace,
    header: &SlotHeader,
    copy: u64,
) -> Result<(), TargetError> {
    let buffer = partition.buffer()?;
    let Some(block) = buffer.bytes.first_chunk_mut::<BLOCK>() else {
        return Err(kdraw_format::chunk::ChunkError::TooLarge.into());
    };
    header.encode(block);
    partition.write(place.header(copy), buffer, BLOCK)
}

/// Writes the black box into the journal: the only thing that is kept of a crash when every
/// slot is taken. The journal is a ring; the oldest record goes.
///
/// # Errors
/// What the device failed with.
pub fn write_journal(
    partition: &mut Partition<'_>,
    dump_id: [u8; 16],
    fill: impl FnOnce(&mut RecordWriter<'_>),
) -> Result<(), TargetError> {
    let mut next = 0;
    for index in 0..JOURNAL_RECORDS {
        let mut block = [0; BLOCK];
        partition.read_block(Superblock::journal_record(index), &mut block)?;
        if let Ok(header) = kdraw_format::chunk::ChunkHeader::decode(&block) {
            next = header.sequence.saturating_add(1).max(next);
        }
    }
    let at = Superblock::journal_record(next);
    let buffer = partition.buffer()?;
    let len = seal_records(
        &mut *buffer.bytes,
        Kind::BlackBox,
        dump_id,
        next,
        at.0,
        kdraw_format::black_box::BLACK_BOX_CHUNK,
        fill,
    )?;
    partition.write(at, buffer, len)?;
    partition.flush()
}

fn seal_records(
    bytes: &mut [u8],
    kind: Kind,
    dump_id: [u8; 16],
    sequence: u64,
    stream_offset: u64,
    limit: usize,
    fill: impl FnOnce(&mut RecordWriter<'_>),
) -> Result<usize, TargetError> {
    let data = data_offset(0);
    let room = bytes.get_mut(data..limit).unwrap_or_default();
    let mut records = RecordWriter::new(room);
    fill(&mut records);
    let len = records.len();
    let spec = ChunkSpec {
        kind,
        codec: Codec::Raw,
        dump_id,
        sequence,
        stream_offset,
        runs: &[],
        stored_len: len,
        raw_len: len,
    };
    Ok(seal(bytes, &spec)?)
}

/// Why the pages of a range were not all written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PagesEnded {
    /// The slot is full.
    #[error("the slot is full")]
    SlotFull,
    /// The time budget is used up.
    #[error("the time budget is used up")]
    OutOfTime,
}

/// A dump being written into its slot.
pub struct Dump<'p, 'a> {
    pub(crate) partition: &'p mut Partition<'a>,
    pub(crate) place: SlotPlace,
    pub(crate) header: SlotHeader,
    sequence: u64,
    at: u64,
    checkpoints: Checkpoints<CHECKPOINTS>,
    /// Chunks that the device failed to write and for which there was no other room.
    unwritten: u64,
    /// Frames of each class that are stored or told to be filled.
    kept: [u64; Class::ALL.len()],
}

/// What a dump's trailer says beside its counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending<'t> {
    /// Why the dump is not complete, if it is not.
    pub truncated: Option<&'t str>,
    /// Claimed ranges that are left out.
    pub dropped_ranges: u64,
    /// When each phase ended, as lines.
    pub phases: &'t str,
    /// Frames of each class in the evidence.
    pub found: Found,
    /// Pages that something was implausible about, as lines.
    pub doubts: &'t str,
    /// CPUs that worked, and CPUs that the machine has.
    pub cpus: [u64; 2],
}

impl<'p, 'a> Dump<'p, 'a> {
    /// Begins a dump of a dump level: the slot's header says *writing* from now on, in its first
    /// copy. The second follows by [`Dump::first_is_durable`], so that one flush does for header
    /// and black box.
    ///
    /// # Errors
    /// What the device failed with.
    pub fn begin(
        partition: &'p mut Partition<'a>,
        place: SlotPlace,
        old: &SlotHeader,
        dump_id: [u8; 16],
        level: u8,
    ) -> Result<Self, TargetError> {
        let header = SlotHeader {
            level,
            outcome: Outcome::Writing,
            index: place.index,
            generation: old.generation.saturating_add(1),
            dump_id,
            ..SlotHeader::default()
        };
        partition.keep_failed();
        write_copy(partition, &place, &header, 0)?;
        if !old.is_free() {
            // What is overwritten must not be claimed any more.
            partition.flush()?;
        }
        Ok(Self {
            partition,
            place,
            header,
            sequence: 0,
            at: 0,
            checkpoints: Checkpoints::default(),
            unwritten: 0,
            kept: [0; Class::ALL.len()],
        })
    }

    /// The slot's header as it was written last.
    pub fn header(&self) -> &SlotHeader {
        &self.header
    }

    /// Frames stored and frames unreadable so far.
    pub fn frames(&self) -> (u64, u64) {
        (self.header.frames, self.header.unreadable)
    }

    /// How many writes the device failed to do so far.
    pub fn failures(&self) -> u32 {
        self.partition.failures().0
    }

    /// Bytes of stream written so far.
    pub fn len(&self) -> u64 {
        self.at
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// Bytes of text that fit before the part of the stream that is kept for its end.
    pub fn text_room(&self) -> u64 {
        let left = self
            .place
            .stream_len()
            .saturating_sub(self.at)
            .saturating_sub(TAIL_ROOM);
        let chunks = left.div_ceil(CHUNK_BUFFER as u64);
        left.saturating_sub(chunks.saturating_mul(data_offset(0) as u64))
    }

    /// The partition's superblock.
    pub fn superblock(&self) -> &Superblock {
        self.partition.superblock()
    }

    /// Gives the partition more buffers to work with.
    pub fn give_buffers(&mut self, buffers: impl IntoIterator<Item = DmaBuffer>) {
        self.partition.give(buffers);
    }

    /// Waits until the header's first copy and what was written since are durable, and begins the
    /// second copy: one of them is whole at any time.
    ///
    /// # Errors
    /// What the device failed with.
    pub fn first_is_durable(&mut self) -> Result<(), TargetError> {
        self.settle()?;
        self.partition.flush()?;
        write_copy(self.partition, &self.place, &self.header, 1)
    }

    /// Waits until every chunk is written, be it elsewhere.
    fn settle(&mut self) -> Result<(), TargetError> {
        loop {
            self.partition.drain()?;
            if !self.rewrite_failed()? {
                return Ok(());
            }
        }
    }

    /// Writes chunks that the device failed to write further on in the stream; whether there were
    /// any. One that has no room there is lost.
    ///
    /// # Errors
    /// The device's, also if what it failed to write is no chunk: that has one place only.
    pub(crate) fn rewrite_failed(&mut self) -> Result<bool, TargetError> {
        let mut any = false;
        while let Some(buffer) = self.partition.take_failed() {
            any = true;
            let Ok(len) = relocate(&mut *buffer.bytes, self.header.dump_id, self.at) else {
                self.partition.release(buffer);
                return Err(self.partition.failures().1.into());
            };
            // Index and trailer are one block, and have the room that is kept for the end.
            let room = match len {
                BLOCK => self.place.stream_len().saturating_sub(self.at),
                _ => self.room(),
            };
            if len as u64 > room {
                self.unwritten = self.unwritten.saturating_add(1);
                self.partition.release(buffer);
                continue;
            }
            let end = self.at.saturating_add(len as u64);
            let at = PartOffset(self.place.stream_start().0.saturating_add(self.at));
            self.partition.write(at, buffer, len)?;
            self.at = end;
        }
        Ok(any)
    }

    /// Writes a chunk of records.
    ///
    /// # Errors
    /// What the device failed with.
    pub fn records(
        &mut self,
        kind: Kind,
        limit: usize,
        fill: impl FnOnce(&mut RecordWriter<'_>),
    ) -> Result<(), TargetError> {
        let buffer = self.partition.buffer()?;
        let (id, sequence, at) = (self.header.dump_id, self.sequence, self.at);
        let len = seal_records(&mut *buffer.bytes, kind, id, sequence, at, limit, fill)?;
        self.write_sealed(buffer, len)
    }

    /// Writes a text, as many chunks as it takes: `fill` is called with a sink that takes its
    /// pieces.
    ///
    /// # Errors
    /// What the device failed with; the rest of the text is dropped then.
    pub fn text(
        &mut self,
        kind: Kind,
        fill: impl FnOnce(&mut dyn FnMut(&[u8])),
    ) -> Result<(), TargetError> {
        let start = data_offset(0);
        let mut result = Ok(());
        let mut current = Some(self.partition.buffer()?);
        let mut used = 0usize;
        fill(&mut |mut piece: &[u8]| {
            while !piece.is_empty() && result.is_ok() {
                let Some(buffer) = &mut current else { return };
                let room = buffer
                    .bytes
                    .get_mut(start.saturating_add(used)..CHUNK_BUFFER);
                let room = room.unwrap_or_default();
                let take = piece.len().min(room.len());
                let (now, later) = piece.split_at(take);
                if let Some(place) = room.get_mut(..take) {
                    place.copy_from_slice(now);
                }
                used = used.saturating_add(take);
                piece = later;
                if !piece.is_empty() {
                    result = self.next_text_buffer(kind, &mut current, used);
                    used = 0;
                }
            }
        });
        result?;
        match current {
            Some(buffer) if used > 0 => self.seal_and_write(kind, buffer, &[], used),
            Some(buffer) => {
                self.partition.release(buffer);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn next_text_buffer(
        &mut self,
        kind: Kind,
        current: &mut Option<DmaBuffer>,
        used: usize,
    ) -> Result<(), TargetError> {
        if let Some(full) = current.take() {
            self.seal_and_write(kind, full, &[], used)?;
        }
        *current = Some(self.partition.buffer()?);
        Ok(())
    }

    /// Writes the chunk that a task made in `buffer`; false, and nothing written, if it does not
    /// fit before the part of the stream that is kept for its end.
    ///
    /// # Errors
    /// What the device failed with.
    pub(crate) fn write_pages(
        &mut self,
        buffer: DmaBuffer,
        product: &Product,
        body: &Body,
    ) -> Result<bool, TargetError> {
        let spec = ChunkSpec {
            codec: product.codec,
            raw_len: product.raw_len,
            ..self.spec(Kind::Pages, &product.runs, product.stored_len)
        };
        let len = seal_header(&mut *buffer.bytes, &spec, body)?;
        if len as u64 > self.room() {
            self.partition.release(buffer);
            return Ok(false);
        }
        self.count(&product.runs);
        self.write_sealed(buffer, len)?;
        Ok(true)
    }

    /// Writes runs of frames that have no data; false, and nothing written, if they do not fit.
    ///
    /// # Errors
    /// What the device failed with.
    pub(crate) fn write_told(
        &mut self,
        buffer: DmaBuffer,
        runs: &[Run],
    ) -> Result<bool, TargetError> {
        if BLOCK as u64 > self.room() {
            self.partition.release(buffer);
            return Ok(false);
        }
        self.count(runs);
        self.seal_and_write(Kind::Pages, buffer, runs, 0)?;
        Ok(true)
    }

    /// Bytes of stream before the part that is kept for its end.
    pub(crate) fn room(&self) -> u64 {
        let end = self.place.stream_len().saturating_sub(TAIL_ROOM);
        end.saturating_sub(self.at)
    }

    /// Notes in the slot's header, durably, that `classes` are left out for want of room.
    pub(crate) fn leave_out(&mut self, classes: ClassSet) -> Result<(), TargetError> {
        self.header.left_out = classes;
        self.header.generation = self.header.generation.saturating_add(1);
        write_header(self.partition, &self.place, &self.header)
    }

    fn count(&mut self, runs: &[Run]) {
        for run in runs {
            let count = match run.content {
                Content::Stored => &mut self.header.frames,
                Content::Filled(_) => &mut self.header.filled,
                Content::Unreadable => &mut self.header.unreadable,
            };
            *count = count.saturating_add(u64::from(run.frames));
            if run.content != Content::Unreadable
                && let Some(kept) = self.kept.get_mut(run.class as usize)
            {
                *kept = kept.saturating_add(u64::from(run.frames));
            }
        }
    }

    /// Ends the dump: index, trailer, flush, and the slot's header with the outcome.
    ///
    /// # Errors
    /// What the device failed with; the slot then still says *writing*.
    pub fn close(mut self, ending: &Ending<'_>) -> Result<SlotHeader, TargetError> {
        let buffer = self.partition.buffer()?;
        let room = buffer
            .bytes
            .get_mut(data_offset(0)..CHUNK_BUFFER)
            .unwrap_or_default();
        let len = self.checkpoints.encode(room);
        self.seal_and_write(Kind::Index, buffer, &[], len)?;
        // A reader ends at the trailer: nothing may have to be written behind it.
        self.settle()?;
        let counts = [
            self.header.frames,
            self.header.unreadable,
            ending.dropped_ranges,
            self.sequence,
        ];
        let classes = self.classes(&ending.found);
        let mut device = heapless::String::<MAX_DEVICE>::new();
        // What does not fit is left out.
        let _ = self.partition.device().describe(&mut device);
        let (bytes, busy_us) = self.partition.written();
        let (failures, failure) = self.partition.failures();
        let mut told = heapless::String::<MAX_DEVICE>::new();
        let _ = write!(told, "{failures} writes failed, the last one: {failure}");
        self.records(Kind::Trailer, BLOCK, |records| {
            let counts = counts.map(u64::to_le_bytes);
            records.put(trailer::tag::COUNTS, &counts.each_ref().map(|c| &c[..]));
            records.put(trailer::tag::PHASES, &[ending.phases.as_bytes()]);
            if let Some(why) = ending.truncated {
                records.put(trailer::tag::TRUNCATED, &[why.as_bytes()]);
            }
            records.put(trailer::tag::CLASSES, &[classes.as_flattened()]);
            if !ending.doubts.is_empty() {
                records.put(trailer::tag::DOUBTS, &[ending.doubts.as_bytes()]);
            }
            let cpus = ending.cpus.map(u64::to_le_bytes);
            records.put(trailer::tag::CPUS, &cpus.each_ref().map(|c| &c[..]));
            records.put(trailer::tag::DEVICE, &[device.as_bytes()]);
            let written = [bytes, busy_us].map(u64::to_le_bytes);
            records.put(trailer::tag::WRITTEN, &written.each_ref().map(|w| &w[..]));
            if failures > 0 {
                records.put(trailer::tag::FAILURES, &[told.as_bytes()]);
            }
        })?;
        self.settle()?;
        self.partition.flush()?;
        let lossless = self.header.unreadable == 0 && self.unwritten == 0;
        let complete = ending.truncated.is_none() && lossless;
        self.header.outcome = if complete {
            Outcome::Complete
        } else {
            Outcome::Truncated
        };
        self.header.stream_len = self.at;
        self.header.chunks = self.sequence;
        self.header.elapsed_us = self.partition.clock().now_us();
        self.header.generation = self.header.generation.saturating_add(1);
        write_header(self.partition, &self.place, &self.header)?;
        Ok(self.header)
    }

    /// The trailer's record of what became of each class that there is.
    fn classes(&self, found: &Found) -> heapless::Vec<[u8; CLASS_COUNT], { Class::ALL.len() }> {
        let kept = Class::ALL.into_iter().zip(self.kept);
        let counts = kept.map(|(class, kept)| ClassCount {
            class,
            found: found.frames(class).max(kept),
            kept,
        });
        let there = counts.filter(|count| count.found > 0);
        there.map(|count| count.encode()).collect()
    }

    pub(crate) fn seal_and_write(
        &mut self,
        kind: Kind,
        buffer: DmaBuffer,
        runs: &[Run],
        data: usize,
    ) -> Result<(), TargetError> {
        let spec = self.spec(kind, runs, data);
        let len = seal(&mut *buffer.bytes, &spec)?;
        self.write_sealed(buffer, len)
    }

    /// What the next chunk's header says if its data is raw.
    fn spec<'r>(&self, kind: Kind, runs: &'r [Run], data: usize) -> ChunkSpec<'r> {
        ChunkSpec {
            kind,
            codec: Codec::Raw,
            dump_id: self.header.dump_id,
            sequence: self.sequence,
            stream_offset: self.at,
            runs,
            stored_len: data,
            raw_len: data,
        }
    }

    fn write_sealed(&mut self, buffer: DmaBuffer, len: usize) -> Result<(), TargetError> {
        let end = self.at.saturating_add(len as u64);
        if end > self.place.stream_len() {
            self.partition.release(buffer);
            return Err(TargetError::OutOfBounds {
                at: PartOffset(self.at),
                len: len as u64,
            });
        }
        let at = PartOffset(self.place.stream_start().0.saturating_add(self.at));
        self.partition.write(at, buffer, len)?;
        self.checkpoints.note(self.sequence, self.at);
        self.sequence = self.sequence.saturating_add(1);
        self.at = end;
        self.rewrite_failed().map(|_| ())
    }
}
