//! The raw ELF core of a plain partition: what `dd` alone recovers.
//!
//! The core lies at 1 MiB, not in chunks: header, notes, then every page of every range, strictly
//! forward. Only what proves it is in the slot's chunk stream, written after it: one checksum
//! per piece ([`CoreSums`]), and the frames that could not be read, as runs of a chunk of pages
//! without data; in the core they are zero.
//!
//! The header comes first and names everything that is meant to follow. As soon as it is
//! durable, the slot's header tells the core's length, so that a core whose end was never
//! written is found, and the core of an older dump is never taken for this one's.

use kdraw_format::addr::{FRAME_SIZE, PartOffset, Pfn, PhysRange};
use kdraw_format::checksum::Checksum;
use kdraw_format::chunk::{Class, Content, HEADER, Kind, Run, data_offset};
use kdraw_format::trailer::{CORE_SUMS_HEAD, CoreSums};
use kdraw_linux::core_elf::{CoreElfError, CoreLayout};
use kdraw_linux::elfcorehdr::MAX_RANGES;
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::PhysMem;

use crate::dump::{CHUNK_BUFFER, Dump, PagesEnded, write_header};
use crate::partition::TargetError;
use crate::ports::{Deadline, DmaBuffer};

/// The shortest piece that is summed, in bytes; doubled until the sums fit their chunk.
const MIN_PIECE: u64 = 1 << 20;
/// Bytes that the chunk of sums may take; a part of the stream is kept for it.
pub(crate) const MAX_SUMS_CHUNK: usize = 128 << 10;
/// The most sums.
const MAX_SUMS: u64 = ((MAX_SUMS_CHUNK - HEADER - CORE_SUMS_HEAD) / 8) as u64;
/// Runs of unreadable frames that are told apart.
const MAX_UNREADABLE: usize = 128;

/// The crashed kernel, as far as the core's header tells of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel<'n> {
    /// How it lies in memory, if that is known.
    pub layout: Option<KernelLayout>,
    /// Where its image is.
    pub image: Option<PhysRange>,
    /// The notes of all CPUs and VMCOREINFO.
    pub notes: &'n [u8],
}

/// A core being written.
pub struct Core {
    segments: heapless::Vec<PhysRange, MAX_RANGES>,
    cut: bool,
    start: PartOffset,
    len: u64,
    sums: PieceSums,
    unreadable: heapless::Vec<Run, MAX_UNREADABLE>,
}

impl Core {
    /// Begins the core of `ranges` at `start`, where it has `room` bytes: writes its header and
    /// makes it durable, then the slot's header. What does not fit is cut off the last ranges.
    ///
    /// Needs two buffers of the partition's, and keeps one.
    ///
    /// # Errors
    /// What the device failed with, or [`TargetError::Core`].
    pub fn begin(
        dump: &mut Dump<'_, '_>,
        (start, room): (PartOffset, u64),
        ranges: impl IntoIterator<Item = PhysRange>,
        kernel: &Kernel<'_>,
        incomplete: bool,
    ) -> Result<Self, TargetError> {
        let mut segments = ranges.into_iter().take(MAX_RANGES).collect();
        let cut = cut_to(&mut segments, kernel, room)?;
        let layout = lay_out(&segments, kernel)?;
        let mut sums = PieceSums::new(dump.partition.buffer()?, layout.file_len());
        let buffer = dump.partition.buffer()?;
        let header_len =
            layout.write_header(kernel.notes, incomplete || cut, &mut *buffer.bytes)?;
        sums.add(buffer.bytes.get(..header_len).unwrap_or_default());
        dump.partition.write(start, buffer, header_len)?;
        dump.partition.flush()?;
        dump.header.plain_len = layout.file_len();
        dump.header.generation = dump.header.generation.saturating_add(1);
        write_header(dump.partition, &dump.place, &dump.header)?;
        Ok(Self {
            segments,
            cut,
            start,
            len: header_len as u64,
            sums,
            unreadable: heapless::Vec::new(),
        })
    }

    /// Writes the pages, then the chunks that prove them.
    ///
    /// # Errors
    /// The outer error is the device's; the inner tells why not every page was written.
    pub fn write(
        mut self,
        dump: &mut Dump<'_, '_>,
        memory: &impl PhysMem,
        deadline: Deadline,
    ) -> Result<Result<(), PagesEnded>, TargetError> {
        let ended = self.pages(dump, memory, deadline)?;
        dump.header.plain_len = self.len;
        let (buffer, sums_len) = self.sums.end(self.len);
        dump.seal_and_write(Kind::CoreSums, buffer, &[], sums_len)?;
        if !self.unreadable.is_empty() {
            let buffer = dump.partition.buffer()?;
            dump.seal_and_write(Kind::Pages, buffer, &self.unreadable, 0)?;
        }
        Ok(match ended {
            Ok(()) if self.cut => Err(PagesEnded::SlotFull),
            other => other,
        })
    }

    fn pages(
        &mut self,
        dump: &mut Dump<'_, '_>,
        memory: &impl PhysMem,
        deadline: Deadline,
    ) -> Result<Result<(), PagesEnded>, TargetError> {
        for segment in self.segments.clone() {
            let end = segment.end.pfn();
            let mut next = segment.start.pfn();
            while next < end {
                if deadline.passed(dump.partition.clock()) {
                    return Ok(Err(PagesEnded::OutOfTime));
                }
                let buffer = dump.partition.buffer()?;
                let most = buffer.bytes.len().min(CHUNK_BUFFER) as u64 / FRAME_SIZE;
                let frames = end.0.saturating_sub(next.0).min(most);
                let len = frames.saturating_mul(FRAME_SIZE) as usize;
                let bytes = buffer.bytes.get_mut(..len).unwrap_or_default();
                let unreadable = self.read(next, bytes, memory);
                let header = &mut dump.header;
                header.unreadable = header.unreadable.saturating_add(unreadable);
                header.frames = header
                    .frames
                    .saturating_add(frames.saturating_sub(unreadable));
                self.sums.add(bytes);
                let at = PartOffset(self.start.0.saturating_add(self.len));
                dump.partition.write(at, buffer, len)?;
                self.len = self.len.saturating_add(len as u64);
                next = Pfn(next.0.saturating_add(frames));
            }
        }
        Ok(Ok(()))
    }

    /// Reads frames from `first` on; returns how many could not be read and are zero.
    fn read(&mut self, first: Pfn, into: &mut [u8], memory: &impl PhysMem) -> u64 {
        let read =
            |pfn: Pfn, into: &mut [u8]| pfn.addr().is_some_and(|at| memory.read(at, into).is_ok());
        if read(first, into) {
            return 0;
        }
        let mut unreadable = 0u64;
        for (frame, pfn) in into.chunks_mut(FRAME_SIZE as usize).zip(first.0..) {
            if !read(Pfn(pfn), frame) {
                frame.fill(0);
                unreadable = unreadable.saturating_add(1);
                self.note_unreadable(Pfn(pfn));
            }
        }
        unreadable
    }

    /// When there are more runs than can be told, the last one reaches over the frames between:
    /// they count as unreadable to a reader, though they are in the core.
    fn note_unreadable(&mut self, pfn: Pfn) {
        let full = self.unreadable.is_full();
        match self.unreadable.last_mut() {
            Some(last) if full || last.first.0.saturating_add(u64::from(last.frames)) == pfn.0 => {
                let frames = pfn.0.saturating_sub(last.first.0).saturating_add(1);
                last.frames = u32::try_from(frames).unwrap_or(u32::MAX);
            }
            _ => {
                let _ = self.unreadable.push(Run {
                    first: pfn,
                    frames: 1,
                    content: Content::Unreadable,
                    class: Class::Unclassified,
                });
            }
        }
    }
}

fn lay_out<'s>(
    segments: &'s [PhysRange],
    kernel: &Kernel<'_>,
) -> Result<CoreLayout<'s>, CoreElfError> {
    CoreLayout::new(segments, kernel.layout, kernel.image, kernel.notes.len())
}

/// Cuts `segments` from their end until the core fits `room` bytes; tells whether it had to.
fn cut_to(
    segments: &mut heapless::Vec<PhysRange, MAX_RANGES>,
    kernel: &Kernel<'_>,
    room: u64,
) -> Result<bool, CoreElfError> {
    let mut cut = false;
    loop {
        let excess = lay_out(segments, kernel)?.file_len().saturating_sub(room);
        let Some(last) = segments.last_mut().filter(|_| excess > 0) else {
            return Ok(cut);
        };
        cut = true;
        // Both are whole frames, and so is what stays.
        last.end.0 = last.end.0.saturating_sub(excess).max(last.start.0);
        if last.is_empty() {
            segments.pop();
        }
    }
}

/// The sums of a core's pieces, gathered where their chunk will be sealed.
struct PieceSums {
    buffer: DmaBuffer,
    used: usize,
    piece_len: u64,
    piece: Checksum,
    /// Bytes until the piece ends.
    left: u64,
}

impl PieceSums {
    fn new(buffer: DmaBuffer, core_len: u64) -> Self {
        let mut piece_len = MIN_PIECE;
        while core_len.div_ceil(piece_len) > MAX_SUMS {
            piece_len = piece_len.saturating_mul(2);
        }
        Self {
            buffer,
            used: CORE_SUMS_HEAD,
            piece_len,
            piece: Checksum::default(),
            left: piece_len,
        }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.left as usize));
            self.piece.add(now);
            self.left = self.left.saturating_sub(now.len() as u64);
            if self.left == 0 {
                self.end_piece();
            }
            bytes = later;
        }
    }

    fn end_piece(&mut self) {
        let sum = core::mem::take(&mut self.piece).finish();
        let at = self.used;
        self.used = at.saturating_add(8);
        self.left = self.piece_len;
        self.put(at, &sum.to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let at = data_offset(0).saturating_add(at);
        let end = at.saturating_add(bytes.len());
        if let Some(place) = self.buffer.bytes.get_mut(at..end) {
            place.copy_from_slice(bytes);
        }
    }

    /// Ends the sums of a core that came to have `core_len` bytes: the buffer, and the length of
    /// the chunk's data in it.
    fn end(mut self, core_len: u64) -> (DmaBuffer, usize) {
        if self.left < self.piece_len {
            self.end_piece();
        }
        self.put(0, &CoreSums::head(self.piece_len, core_len));
        (self.buffer, self.used)
    }
}
