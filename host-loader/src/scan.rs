//! Reads a slot from its first chunk to its last, checks every checksum, unpacks what is packed,
//! and says what is there and what is lost. `info`, `extract` and `verify` all begin with it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use kdraw_format::addr::PartOffset;
use kdraw_format::chunk::{ChunkHeader, Class, Codec, Content, Kind, Run};
use kdraw_format::layout::SlotPlace;
use kdraw_format::memory_map::{self, Fate, MapEntry};
use kdraw_format::records::records;
use kdraw_format::slot::{Outcome, SlotHeader};
use kdraw_format::trailer::{ClassCount, tag};
use kdraw_format::walk::{ReadAt, Step, WALK_BUFFER, Walk};
use kdraw_linux::classify::PageClass;
use serde::{Deserialize, Serialize};

use crate::black_box::{BlackBox, text};
use crate::frame_index::{FrameIndex, Place, StoredChunk};
use crate::frames::FrameSet;
use crate::parallel;
use crate::partition::DumpPartition;
use crate::summary;
use crate::unpack::unpack;

/// The most bytes kept of each kind of chunk that is not pages.
const MAX_SMALL: usize = 64 << 20;

/// The most entries of the memory map that are kept, give or take a chunk of them.
const MAX_MAP: usize = 64 << 10;

/// The most frames that are known by what they are filled with: 1 TiB of memory.
const MAX_FILLED: u64 = 1 << 28;

/// A part of the stream that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Its first byte, in the slot's stream.
    pub from: u64,
    /// The byte after its last.
    pub to: u64,
    /// What is wrong there.
    pub why: String,
    /// The frames that were stored there, if the chunk's header survived.
    pub frames: Option<u64>,
}

/// What the payload counted and noted in the trailer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    /// Frames stored.
    pub frames: u64,
    /// Frames that could not be read.
    pub unreadable: u64,
    /// Ranges of the elfcorehdr that were dropped.
    pub dropped_ranges: u64,
    /// Chunks before the trailer.
    pub chunks: u64,
    /// Phase and the microseconds after entry at which it ended.
    pub phases: Vec<(String, u64)>,
    /// Why the dump is not complete.
    pub truncated: Option<String>,
    /// What became of the frames of each class, most valuable first; empty in dumps of no class.
    pub classes: Vec<ClassFate>,
    /// Why frames were taken as kernel memory though something about them was implausible, and
    /// how many.
    pub doubts: Vec<(String, u64)>,
    /// What the target's device was and how it was run; empty in dumps of older payloads.
    pub device: String,
    /// How many writes failed, and how; empty if none did.
    pub failures: String,
    /// Bytes that were written to it before the trailer.
    pub written_bytes: u64,
    /// Microseconds during which it had something to do.
    pub written_us: u64,
}

/// What became of the frames of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassFate {
    /// The class, as [`summary::class`] names it.
    ///
    /// [`summary::class`]: crate::summary::class
    pub class: Cow<'static, str>,
    /// Frames of it in the crashed kernel's memory.
    pub found: u64,
    /// Frames of it that were kept.
    pub kept: u64,
}

/// The chunks that hold one class of pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassPart {
    /// The class.
    pub class: Cow<'static, str>,
    /// Where the first of them begins in the stream, in bytes.
    pub from: u64,
    /// Where the last of them ends.
    pub to: u64,
    /// How many chunks.
    pub chunks: u64,
    /// Frames that are stored.
    pub frames: u64,
    /// Frames that are told to be filled with one byte.
    pub filled: u64,
    /// Bytes of the stored frames.
    pub raw_bytes: u64,
    /// Bytes that they take in the stream.
    pub stored_bytes: u64,
}

/// Everything that was found in a slot, but the pages themselves.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The slot's header, or what could be made up for it.
    pub header: SlotHeader,
    /// The black box.
    pub black_box: Option<BlackBox>,
    /// The memory map; empty if lost.
    pub memory_map: Vec<MapEntry>,
    /// ELF notes.
    pub notes: Vec<u8>,
    /// The kernel log as the payload wrote it.
    pub kernel_log: Vec<u8>,
    /// The payload's log, still encoded.
    pub payload_log: Vec<u8>,
    /// The trailer.
    pub trailer: Option<Trailer>,
    /// Checksums of a plain partition's core.
    pub core_sums: Option<Vec<u8>>,
    /// Whole chunks, the trailer included.
    pub chunks: u64,
    /// Where the last whole chunk ends.
    pub stream_len: u64,
    /// Frames whose content is there.
    pub stored: FrameSet,
    /// Frames that are known to be filled with one byte.
    pub filled: FrameSet,
    /// Frames that the payload could not read.
    pub unreadable: FrameSet,
    /// Frames that were stored in chunks that are lost but for their headers.
    pub lost_frames: FrameSet,
    /// Where the frames are.
    pub index: FrameIndex,
    /// The parts of the stream that hold pages, by class, in the order of the stream.
    pub parts: Vec<ClassPart>,
    /// How the pages are packed: of each codec the number of chunks.
    pub codecs: Vec<(&'static str, u64)>,
    /// What is lost.
    pub lost: Vec<Lost>,
    /// Holes in the stream of which nothing is lost: what the device failed to write there was
    /// written again further on.
    pub holes: Vec<Lost>,
    /// Sequence numbers of the chunks that are whole.
    sequences: BTreeSet<u64>,
    /// Pieces of texts by kind and sequence number.
    pieces: BTreeMap<(u8, u64), Vec<u8>>,
    /// Bytes in all pieces.
    pieces_len: usize,
}

/// Kinds of text.
const NOTES: u8 = 0;
const KERNEL_LOG: u8 = 1;
const PAYLOAD_LOG: u8 = 2;

/// A packed chunk of pages, on its way to be tried.
struct Packed {
    number: u32,
    header: ChunkHeader,
    data: Vec<u8>,
}

/// A chunk of pages that cannot be unpacked.
struct Spoilt {
    number: u32,
    header: ChunkHeader,
    why: String,
}

impl Scan {
    /// Scans a slot; `progress` hears how far it came and how far it may go, in bytes.
    pub fn of(
        partition: &mut DumpPartition,
        slot: &SlotPlace,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Self {
        let header = partition.header(slot);
        let mut scan = Self::default();
        if header.outcome != Outcome::Empty {
            let walk = Walk::new(&mut partition.source, slot, &header);
            let start = slot.stream_start().0;
            let spoilt = scan.walk(walk, start, progress);
            scan.join_pieces();
            scan.tell_holes();
            scan.spoil(&spoilt);
        }
        scan.header = header;
        scan.index.tidy();
        scan.limit_filled();
        scan.stored = scan
            .index
            .frames(|place| matches!(place, Place::Stored { .. }));
        scan.filled = scan.index.frames(|place| matches!(place, Place::Filled(_)));
        scan.unreadable.tidy();
        scan.lost_frames.tidy();
        scan.parts.sort_by_key(|part| part.from);
        scan
    }

    /// Takes every chunk; the packed ones are tried by other threads meanwhile. Returns those
    /// that cannot be unpacked.
    fn walk<R: ReadAt>(
        &mut self,
        mut walk: Walk<R>,
        start: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Vec<Spoilt> {
        let threads = parallel::threads();
        let (send, receive) = sync_channel(threads.saturating_mul(2));
        let receive = Mutex::new(receive);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| try_packed(&receive)))
                .collect();
            let mut buffer = vec![0; WALK_BUFFER];
            while let Some(step) = walk.step(&mut buffer) {
                self.take(&step, start, &send);
                progress(walk.position(), walk.limit());
            }
            drop(send);
            let spoilt = workers.into_iter().flat_map(|worker| worker.join());
            spoilt.flatten().collect()
        })
    }

    fn take(&mut self, step: &Step<'_>, start: u64, packed: &SyncSender<Packed>) {
        match step {
            Step::Chunk {
                header,
                chunk,
                data,
            } => {
                self.stream_len = end_of(header);
                if !self.sequences.insert(header.sequence) {
                    return; // written once more, because the device had erred for nothing
                }
                self.chunks = self.chunks.saturating_add(1);
                match header.kind {
                    Kind::Pages => self.keep_pages(header, chunk, data, start, packed),
                    Kind::Unknown {
                        number,
                        optional: false,
                    } => {
                        let why = format!(
                            "chunk of kind {number}, which this version does not know; \
                             use a newer kdraw"
                        );
                        self.lose(header.stream_offset, self.stream_len, why, None);
                    }
                    _ => match unpack(header, data) {
                        Ok(data) => self.keep(header, &data),
                        Err(why) => {
                            let why = why.to_string();
                            self.lose(header.stream_offset, self.stream_len, why, None);
                        }
                    },
                }
            }
            Step::Lost {
                from,
                to,
                why,
                header,
                chunk,
            } => {
                let frames = header.map(|header| self.keep_told(&header, chunk));
                self.lose(*from, *to, why.to_string(), frames);
            }
        }
    }

    fn lose(&mut self, from: u64, to: u64, why: String, frames: Option<u64>) {
        self.lost.push(Lost {
            from,
            to,
            why,
            frames,
        });
    }

    fn keep(&mut self, header: &ChunkHeader, data: &[u8]) {
        match header.kind {
            Kind::BlackBox => self.black_box = Some(BlackBox::parse(data)),
            Kind::Notes => self.keep_piece(NOTES, header.sequence, data),
            Kind::KernelLog => self.keep_piece(KERNEL_LOG, header.sequence, data),
            Kind::PayloadLog => self.keep_piece(PAYLOAD_LOG, header.sequence, data),
            Kind::MemoryMap if self.memory_map.len() < MAX_MAP => {
                self.memory_map.extend(memory_map::entries(data));
            }
            Kind::Trailer => self.trailer = Some(Trailer::parse(data)),
            Kind::CoreSums => self.core_sums = Some(data.to_vec()),
            Kind::MemoryMap | Kind::Pages | Kind::Index | Kind::Unknown { .. } => {}
        }
    }

    fn keep_piece(&mut self, kind: u8, sequence: u64, data: &[u8]) {
        self.pieces_len = self.pieces_len.saturating_add(data.len());
        if self.pieces_len <= MAX_SMALL.saturating_mul(3) {
            self.pieces.insert((kind, sequence), data.to_vec());
        }
    }

    fn join_pieces(&mut self) {
        for ((kind, _), data) in std::mem::take(&mut self.pieces) {
            let text = match kind {
                NOTES => &mut self.notes,
                KERNEL_LOG => &mut self.kernel_log,
                _ => &mut self.payload_log,
            };
            append(text, &data);
        }
    }

    /// Sixteen bytes in a chunk's header can tell of 2^32 filled frames, each of which costs a vmcore
    /// its descriptor: only frames of the crashed kernel's memory count, and not without number.
    fn limit_filled(&mut self) {
        let ram = (!self.memory_map.is_empty()).then(|| self.promised());
        let left_out = self.index.limit_filled(ram.as_ref(), MAX_FILLED);
        if left_out > 0 {
            let why = format!(
                "{left_out} frames that are told to be filled with one byte are outside of the \
                 memory map, or more than {MAX_FILLED}"
            );
            self.lose(0, self.stream_len, why, Some(left_out));
        }
    }

    /// If every chunk is there that the trailer counts, what is damaged between them is no loss.
    fn tell_holes(&mut self) {
        let Some(trailer) = &self.trailer else { return };
        let whole = self.sequences.range(..trailer.chunks).count() as u64;
        if whole == trailer.chunks {
            self.holes = std::mem::take(&mut self.lost);
        }
    }

    fn keep_pages(
        &mut self,
        header: &ChunkHeader,
        chunk: &[u8],
        data: &[u8],
        start: u64,
        packed: &SyncSender<Packed>,
    ) {
        let number = self.index.add_chunk(StoredChunk {
            at: PartOffset(start.saturating_add(header.stream_offset)),
            len: header.chunk_len,
        });
        let mut before = 0u16;
        for run in header.runs(chunk).flatten() {
            self.index.add(&run, number, before);
            self.unreadable_run(&run);
            self.count(header, &run);
            if run.content == Content::Stored {
                before = before.saturating_add(run.frames as u16); // 128 at most in all
            }
        }
        self.count_chunk(header);
        if header.codec != Codec::Raw {
            // Fails if every worker is gone, and that they are not.
            let _ = packed.send(Packed {
                number,
                header: *header,
                data: data.to_vec(),
            });
        }
    }

    /// Keeps what the header of a chunk tells whose data is lost; returns how many stored frames
    /// are lost with it.
    fn keep_told(&mut self, header: &ChunkHeader, chunk: &[u8]) -> u64 {
        let mut gone = 0u64;
        if header.kind == Kind::Pages {
            for run in header.runs(chunk).flatten() {
                if run.content == Content::Stored {
                    gone = gone.saturating_add(run.frames.into());
                    self.lost_frames.add(run.first, run.frames.into());
                    continue;
                }
                self.index.add(&run, 0, 0);
                self.unreadable_run(&run);
            }
        }
        gone
    }

    fn unreadable_run(&mut self, run: &Run) {
        if run.content == Content::Unreadable {
            self.unreadable.add(run.first, run.frames.into());
        }
    }

    /// Chunks whose data cannot be unpacked are lost but for what their headers tell.
    fn spoil(&mut self, spoilt: &[Spoilt]) {
        let mut frames: BTreeMap<u32, u64> =
            spoilt.iter().map(|spoilt| (spoilt.number, 0)).collect();
        let lost_frames = &mut self.lost_frames;
        self.index.forget(|chunk, extent| {
            let count = frames.get_mut(&chunk)?;
            *count = count.saturating_add(extent.frames.into());
            lost_frames.add(extent.first, extent.frames.into());
            Some(())
        });
        for Spoilt {
            number,
            header,
            why,
        } in spoilt
        {
            let frames = frames.get(number).copied();
            self.lose(header.stream_offset, end_of(header), why.clone(), frames);
        }
    }

    fn part(&mut self, class: Class, from: u64) -> Option<&mut ClassPart> {
        let class = summary::class(class);
        let known = self.parts.iter().position(|part| part.class == class);
        let index = known.unwrap_or(self.parts.len());
        if known.is_none() {
            self.parts.push(ClassPart::new(class, from));
        }
        self.parts.get_mut(index)
    }

    fn count(&mut self, header: &ChunkHeader, run: &Run) {
        let Some(part) = self.part(run.class, header.stream_offset) else {
            return;
        };
        part.to = part.to.max(end_of(header));
        match run.content {
            Content::Stored => part.frames = part.frames.saturating_add(run.frames.into()),
            Content::Filled(_) => part.filled = part.filled.saturating_add(run.frames.into()),
            Content::Unreadable => {}
        }
        part.raw_bytes = part.raw_bytes.saturating_add(run.stored_len());
    }

    fn count_chunk(&mut self, header: &ChunkHeader) {
        if let Some(part) = self.part(header.class, header.stream_offset) {
            part.chunks = part.chunks.saturating_add(1);
            part.stored_bytes = part.stored_bytes.saturating_add(header.chunk_len.into());
        }
        let codec = header.codec.name();
        match self.codecs.iter_mut().find(|(name, _)| *name == codec) {
            Some((_, chunks)) => *chunks = chunks.saturating_add(1),
            None => self.codecs.push((codec, 1)),
        }
    }

    /// All frames of which the content is known.
    pub fn known(&self) -> FrameSet {
        self.index.frames(|_| true)
    }

    /// Whether frames were left out on purpose: filtered, for want of room, or because they are
    /// never read.
    pub fn is_filtered(&self) -> bool {
        let trailer = || self.trailer.iter();
        let never_read = [PageClass::HwPoison, PageClass::Offline].map(PageClass::name);
        self.header.level != 0
            || !self.header.left_out.is_empty()
            || trailer()
                .flat_map(|trailer| &trailer.classes)
                .any(|class| class.kept < class.found)
            || trailer()
                .flat_map(|trailer| &trailer.doubts)
                .any(|(reason, _)| never_read.contains(&reason.as_str()))
    }

    /// All frames that the memory map promises.
    pub fn promised(&self) -> FrameSet {
        let mut promised = FrameSet::default();
        for entry in &self.memory_map {
            if entry.fate == Fate::Memory {
                promised.add_range(entry.range);
            }
        }
        promised.tidy();
        promised
    }

    /// The frames that should be known and are not: of what the memory map promises if nothing
    /// was left out on purpose, else of what the headers of lost chunks tell.
    pub fn missing(&self) -> FrameSet {
        let should = match self.is_filtered() {
            true => self.lost_frames.clone(),
            false => self.promised(),
        };
        should.without(&self.known()).without(&self.unreadable)
    }

    /// When it crashed, in seconds since 1970.
    pub fn crash_time(&self) -> Option<u64> {
        self.black_box.as_ref().and_then(|found| found.crash_time)
    }
}

impl Trailer {
    fn parse(data: &[u8]) -> Self {
        let mut found = Self::default();
        for (tag, bytes) in records(data) {
            let mut words = bytes
                .chunks_exact(8)
                .map(|word| word.try_into().map_or(0, u64::from_le_bytes));
            let mut next = || words.next().unwrap_or(0);
            match tag {
                tag::COUNTS => {
                    (found.frames, found.unreadable) = (next(), next());
                    (found.dropped_ranges, found.chunks) = (next(), next());
                }
                tag::PHASES => {
                    found.phases = counts(bytes);
                }
                tag::TRUNCATED => found.truncated = Some(text(bytes)),
                tag::CLASSES => {
                    found.classes = ClassCount::decode_all(bytes)
                        .map(|count| ClassFate {
                            class: summary::class(count.class).into(),
                            found: count.found,
                            kept: count.kept,
                        })
                        .collect();
                }
                tag::DOUBTS => found.doubts = counts(bytes),
                tag::DEVICE => found.device = text(bytes),
                tag::FAILURES => found.failures = text(bytes),
                tag::WRITTEN => (found.written_bytes, found.written_us) = (next(), next()),
                _ => {}
            }
        }
        found
    }
}

/// `name=number` lines.
fn counts(bytes: &[u8]) -> Vec<(String, u64)> {
    text(bytes)
        .lines()
        .filter_map(|line| {
            let (name, number) = line.split_once('=')?;
            Some((name.to_owned(), number.parse().ok()?))
        })
        .collect()
}

impl ClassPart {
    fn new(class: &'static str, from: u64) -> Self {
        Self {
            class: class.into(),
            from,
            to: from,
            chunks: 0,
            frames: 0,
            filled: 0,
            raw_bytes: 0,
            stored_bytes: 0,
        }
    }
}

/// Where a chunk ends in the stream.
fn end_of(header: &ChunkHeader) -> u64 {
    header.stream_offset.saturating_add(header.chunk_len.into())
}

/// Tries to unpack chunks until there are no more; returns those that could not be.
fn try_packed(chunks: &Mutex<Receiver<Packed>>) -> Vec<Spoilt> {
    let mut spoilt = Vec::new();
    loop {
        let next = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(packed) = next else {
            return spoilt;
        };
        if let Err(why) = unpack(&packed.header, &packed.data) {
            spoilt.push(Spoilt {
                number: packed.number,
                header: packed.header,
                why: why.to_string(),
            });
        }
    }
}

fn append(to: &mut Vec<u8>, data: &[u8]) {
    if to.len().saturating_add(data.len()) <= MAX_SMALL {
        to.extend_from_slice(data);
    }
}

#[cfg(test)]
mod tests {
    use kdraw_format::addr::Pfn;
    use kdraw_format::chunk::{ChunkSpec, seal};
    use kdraw_format::layout::{DATA_START, Superblock};

    use super::*;
    use crate::source::{Access, Source};

    const STREAM_AT: usize = 2 * 4096;

    fn run(first: u64, frames: u32, content: Content) -> Run {
        Run {
            first: Pfn(first),
            frames,
            content,
            class: Class::Kernel,
        }
    }

    /// An LZ4 block of one literal run.
    fn literals(data: &[u8]) -> Vec<u8> {
        let mut block = vec![0xf0];
        let mut rest = data.len() - 15;
        while rest >= 255 {
            block.push(255);
            rest -= 255;
        }
        block.push(rest as u8);
        block.extend(data);
        block
    }

    /// So many bytes of 7, by somebody else's Deflate.
    fn deflated(len: usize) -> Vec<u8> {
        use flate2::{Compress, Compression, FlushCompress};
        let mut stream = Vec::with_capacity(100);
        Compress::new(Compression::fast(), false)
            .compress_vec(&vec![7; len], &mut stream, FlushCompress::Finish)
            .unwrap();
        stream
    }

    /// Scans a slot of these chunks: codec, runs, data as stored, its raw length.
    fn scanned(chunks: &[(Codec, &[Run], &[u8], usize)]) -> (Scan, DumpPartition) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.img");
        let superblock = Superblock::new([1; 16], 0, 4 << 20, 1, false).unwrap();
        let mut image = vec![0; 4 << 20];
        let mut at = 0;
        for (sequence, (codec, runs, data, raw_len)) in chunks.iter().enumerate() {
            let mut buffer = vec![0; 64 << 10];
            let from = kdraw_format::chunk::data_offset(runs.len());
            buffer[from..from + data.len()].copy_from_slice(data);
            let spec = ChunkSpec {
                kind: Kind::Pages,
                codec: *codec,
                dump_id: [9; 16],
                sequence: sequence as u64,
                stream_offset: at as u64,
                runs,
                stored_len: data.len(),
                raw_len: *raw_len,
            };
            let len = seal(&mut buffer, &spec).unwrap();
            let start = DATA_START as usize + STREAM_AT + at;
            image[start..start + len].copy_from_slice(&buffer[..len]);
            at += len;
        }
        let mut block = [0; 4096];
        superblock.encode(&mut block);
        image[..4096].copy_from_slice(&block);
        let slot = superblock.slot(0).unwrap();
        let header = SlotHeader {
            outcome: Outcome::Writing,
            dump_id: [9; 16],
            ..SlotHeader::default()
        };
        header.encode(&mut block);
        for copy in [0, 1] {
            let at = slot.header(copy).0 as usize;
            image[at..at + 4096].copy_from_slice(&block);
        }
        std::fs::write(&path, image).unwrap();
        let mut partition = DumpPartition {
            source: Source::open(&path, Access::Read).unwrap(),
            superblock,
        };
        let scan = Scan::of(&mut partition, &slot, &mut |_, _| {});
        (scan, partition)
    }

    #[test]
    fn frames_are_sorted_by_what_is_told_of_them() {
        let runs = [
            run(0x40000, 1, Content::Filled(0)),
            run(0x40010, 2, Content::Stored),
            run(0x40020, 3, Content::Unreadable),
            run(0x40030, 4, Content::Filled(0xcc)),
        ];
        let (scan, _) = scanned(&[(Codec::Raw, &runs, &[5; 8192], 8192)]);
        assert_eq!(scan.stored.ranges(), [(0x40010, 0x40012)]);
        assert_eq!(
            scan.filled.ranges(),
            [(0x40000, 0x40001), (0x40030, 0x40034)]
        );
        assert_eq!(scan.unreadable.ranges(), [(0x40020, 0x40023)]);
        assert_eq!(scan.known().count(), 7);
        let filled = scan.index.find(Pfn(0x40032)).unwrap();
        assert_eq!((filled.frames, filled.place), (2, Place::Filled(0xcc)));
        let part = &scan.parts[0];
        assert_eq!((part.class.as_ref(), part.chunks), ("kernel", 1));
        assert_eq!((part.frames, part.filled, part.raw_bytes), (2, 5, 8192));
        assert_eq!(scan.codecs, [("raw", 1)]);
    }

    #[test]
    fn what_cannot_be_unpacked_is_lost_and_the_header_still_counts() {
        let whole = literals(&[7; 4096]);
        let short = literals(&[7; 4095]);
        let stored = |first| run(first, 1, Content::Stored);
        let filled = run(0x50000, 1, Content::Filled(1));
        let (scan, _) = scanned(&[
            (Codec::Lz4, &[stored(0x40000)], &whole, 4096),
            (Codec::Lz4, &[stored(0x40001), filled], &short, 4096),
            (Codec::Lz4, &[stored(0x40002)], &[0xff; 300], 4096),
            (Codec::Lz4, &[stored(0x40003)], &whole, 4096),
            (Codec::Deflate, &[stored(0x40010)], &deflated(4096), 4096),
            (Codec::Deflate, &[stored(0x40011)], &deflated(4095), 4096),
            (Codec::Deflate, &[stored(0x40012)], &deflated(4097), 4096),
            (Codec::Deflate, &[stored(0x40013)], &[0xff; 300], 4096),
        ]);
        assert_eq!(
            scan.stored.ranges(),
            [(0x40000, 0x40001), (0x40003, 0x40004), (0x40010, 0x40011)]
        );
        assert_eq!(scan.filled.ranges(), [(0x50000, 0x50001)]);
        assert_eq!(
            scan.lost_frames.ranges(),
            [(0x40001, 0x40003), (0x40011, 0x40014)]
        );
        assert_eq!(scan.chunks, 8);
        let by = |codec| move |lost: &&Lost| lost.why.contains(codec) && lost.frames == Some(1);
        let lost = |codec| scan.lost.iter().filter(by(codec)).count();
        assert_eq!((lost("LZ4"), lost("Deflate"), scan.lost.len()), (2, 3, 5));
    }
}
