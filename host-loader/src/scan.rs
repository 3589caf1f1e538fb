//! Reads a slot from its first chunk to its last, checks every checksum, and says what is there
//! and what is lost. `info`, `extract` and `verify` all begin with it.

use kdraw_format::addr::{PartOffset, Pfn};
use kdraw_format::chunk::{ChunkHeader, Codec, Content, Kind};
use kdraw_format::layout::SlotPlace;
use kdraw_format::memory_map::{self, Fate, MapEntry};
use kdraw_format::records::records;
use kdraw_format::slot::{Outcome, SlotHeader};
use kdraw_format::trailer::tag;
use kdraw_format::walk::{Step, WALK_BUFFER, Walk};
use serde::Serialize;

use crate::black_box::{BlackBox, text};
use crate::frames::FrameSet;
use crate::partition::DumpPartition;

/// The most bytes kept of each kind of chunk that is not pages.
const MAX_SMALL: usize = 64 << 20;

/// The most entries of the memory map that are kept, give or take a chunk of them.
const MAX_MAP: usize = 64 << 10;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// Frames that are known to be zero.
    pub zero: FrameSet,
    /// Frames that the payload could not read.
    pub unreadable: FrameSet,
    /// Where the stored frames' bytes are: one entry per run, by first frame.
    pub places: Vec<Place>,
    /// What is lost.
    pub lost: Vec<Lost>,
}

/// Frames whose bytes lie together on the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The first frame.
    pub first: Pfn,
    /// How many.
    pub frames: u64,
    /// Where the first one's bytes are.
    pub at: PartOffset,
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
            let mut walk = Walk::new(&mut partition.source, slot, &header);
            let mut buffer = vec![0; WALK_BUFFER];
            let start = slot.stream_start().0;
            while let Some(step) = walk.step(&mut buffer) {
                scan.take(&step, start);
                progress(walk.position(), walk.limit());
            }
        }
        scan.header = header;
        scan.stored.tidy();
        scan.zero.tidy();
        scan.unreadable.tidy();
        scan.places.sort_unstable();
        scan
    }

    fn take(&mut self, step: &Step<'_>, start: u64) {
        match step {
            Step::Chunk {
                header,
                chunk,
                data,
            } => {
                self.chunks = self.chunks.saturating_add(1);
                self.stream_len = header
                    .stream_offset
                    .saturating_add(u64::from(header.chunk_len));
                match unusable(header) {
                    Some(why) => self.lose(header.stream_offset, self.stream_len, why, None),
                    None => self.keep(header, chunk, data, start),
                }
            }
            Step::Lost {
                from,
                to,
                why,
                header,
                chunk,
            } => {
                let frames = header.map(|header| stored_frames(&header, chunk));
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

    fn keep(&mut self, header: &ChunkHeader, chunk: &[u8], data: &[u8], start: u64) {
        match header.kind {
            Kind::BlackBox => self.black_box = Some(BlackBox::parse(data)),
            Kind::MemoryMap if self.memory_map.len() < MAX_MAP => {
                self.memory_map.extend(memory_map::entries(data));
            }
            Kind::Notes => append(&mut self.notes, data),
            Kind::KernelLog => append(&mut self.kernel_log, data),
            Kind::PayloadLog => append(&mut self.payload_log, data),
            Kind::Trailer => self.trailer = Some(Trailer::parse(data)),
            Kind::CoreSums => self.core_sums = Some(data.to_vec()),
            Kind::Pages => {
                let mut at = start
                    .saturating_add(header.stream_offset)
                    .saturating_add(u64::from(header.header_len));
                for run in header.runs(chunk).flatten() {
                    let frames = u64::from(run.frames);
                    if run.content == Content::Stored {
                        self.places.push(Place {
                            first: run.first,
                            frames,
                            at: PartOffset(at),
                        });
                        at = at.saturating_add(run.stored_len());
                    }
                    let set = match run.content {
                        Content::Stored => &mut self.stored,
                        Content::Filled(0) => &mut self.zero,
                        Content::Unreadable | Content::Filled(_) => &mut self.unreadable,
                    };
                    set.add(run.first, frames);
                }
            }
            Kind::MemoryMap | Kind::Index | Kind::Unknown { .. } => {}
        }
    }

    /// All frames of which the content is known.
    pub fn known(&self) -> FrameSet {
        let mut known = self.stored.clone();
        for (first, end) in self.zero.ranges() {
            known.add(Pfn(*first), end.saturating_sub(*first));
        }
        known.tidy();
        known
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

    /// The promised frames that are neither known nor told to be unreadable.
    pub fn missing(&self) -> FrameSet {
        let told = self.promised().without(&self.known());
        told.without(&self.unreadable)
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
                    found.phases = text(bytes)
                        .lines()
                        .filter_map(|line| {
                            let (name, at) = line.split_once('=')?;
                            Some((name.to_owned(), at.parse().ok()?))
                        })
                        .collect();
                }
                tag::TRUNCATED => found.truncated = Some(text(bytes)),
                _ => {}
            }
        }
        found
    }
}

/// Why a whole chunk cannot be used by this version.
fn unusable(header: &ChunkHeader) -> Option<String> {
    match (header.kind, header.codec) {
        (
            Kind::Unknown {
                number,
                optional: false,
            },
            _,
        ) => Some(format!(
            "chunk of kind {number}, which this version does not know; use a newer kdraw"
        )),
        (_, Codec::Lz4) => {
            Some("chunk packed with LZ4, which this version does not unpack".to_owned())
        }
        _ => None,
    }
}

fn stored_frames(header: &ChunkHeader, chunk: &[u8]) -> u64 {
    header
        .runs(chunk)
        .flatten()
        .filter(|run| run.content == Content::Stored)
        .fold(0, |sum, run| u64::from(run.frames).saturating_add(sum))
}

fn append(to: &mut Vec<u8>, data: &[u8]) {
    if to.len().saturating_add(data.len()) <= MAX_SMALL {
        to.extend_from_slice(data);
    }
}

#[cfg(test)]
mod tests {
    use kdraw_format::chunk::{ChunkSpec, Run, data_offset, seal};

    use super::*;

    #[test]
    fn frames_are_sorted_by_what_is_told_of_them() {
        let contents = [Content::Filled(0), Content::Stored, Content::Unreadable];
        let runs = [0, 1, 2].map(|index| Run {
            first: Pfn(0x40000 + 16 * index as u64),
            frames: 1 + index as u32,
            content: contents[index],
            ..Run::default()
        });
        let mut buffer = vec![0; 16 << 10];
        let spec = ChunkSpec {
            kind: Kind::Pages,
            codec: Codec::Raw,
            dump_id: [1; 16],
            sequence: 0,
            stream_offset: 0x3000,
            runs: &runs,
            stored_len: 2 * 4096,
            raw_len: 2 * 4096,
        };
        let len = seal(&mut buffer, &spec).unwrap();
        let chunk = &buffer[..len];
        let header = ChunkHeader::decode(chunk).unwrap();
        let mut scan = Scan::default();
        scan.keep(&header, chunk, header.data(chunk).unwrap(), 0x10_0000);
        assert_eq!(scan.zero.ranges(), [(0x40000, 0x40001)]);
        assert_eq!(scan.stored.ranges(), [(0x40010, 0x40012)]);
        assert_eq!(scan.unreadable.ranges(), [(0x40020, 0x40023)]);
        let place = Place {
            first: Pfn(0x40010),
            frames: 2,
            at: PartOffset(0x10_3000 + data_offset(3) as u64),
        };
        assert_eq!(scan.places, [place]);
        assert_eq!(scan.known().count(), 3);
    }
}
