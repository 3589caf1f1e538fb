//! Chunks: what a dump is made of, on a partition and on a wire.
//!
//! A chunk is a header, its runs, padding to a multiple of 64 bytes, the stored data, padding to
//! 4 KiB.
//! Chunks follow each other without a gap. Each says whose it is (dump id), which it is
//! (sequence), and where it stands (stream offset), so that a chunk of an older dump, or a
//! copy of one that was caught in a captured page, is never taken for a part of this dump.
//!
//! Where the device failed to write a chunk, the stream has a hole: the chunk is written again
//! further on, with the same sequence number. So a dump with holes whose chunks are all there is
//! whole; a chunk may be there twice; and texts are put together in the order of sequence numbers.
//!
//! | at | size | field |
//! |--|--|--|
//! | 0 | 8 | magic `KDRAWCK\0` |
//! | 8 | 8 | XXH64 of the header and runs, bytes 16..header length |
//! | 16 | 8 | XXH64 of everything after the header, padding included |
//! | 24 | 2 | format version |
//! | 26 | 2 | kind; bit 15: may be skipped by a reader that does not know it |
//! | 28 | 1 | codec: 0 raw, 1 LZ4 block, 2 raw Deflate stream |
//! | 29 | 1 | encryption: 0 none |
//! | 30 | 1 | class of the pages, see [`Class`] |
//! | 31 | 1 | reserved, 0 |
//! | 32 | 16 | dump id |
//! | 48 | 8 | sequence, from 0 |
//! | 56 | 8 | stream offset of this chunk, bytes, a multiple of 4096 |
//! | 64 | 4 | header length: bytes from the chunk's start to its data, a multiple of 64, at most 4096 |
//! | 68 | 4 | stored length: bytes of data as stored |
//! | 72 | 4 | raw length: bytes of data after decoding |
//! | 76 | 4 | number of runs |
//! | 80 | 4 | chunk length: all of it, a multiple of 4096, at most [`MAX_CHUNK`] |
//! | 84 | 12 | reserved, 0 |
//! | 96 | 16 | authentication tag if encrypted, else 0 |
//! | 112 | 16 | reserved, 0 |
//! | 128 | 16 × runs | runs: first frame (u64), frames (u32), content (u8), class (u8), fill byte (u8), reserved (u8) |

use crate::addr::{FRAME_SIZE, Pfn};
use crate::bytes::{Get, Put};
use crate::checksum::checksum;
use crate::layout::{BLOCK, VERSION};

/// The longest chunk that a reader must take, in bytes.
pub const MAX_CHUNK: usize = 512 << 10;
/// Bytes of a header without runs.
pub const HEADER: usize = 128;
/// Bytes of a run.
pub const RUN: usize = 16;
/// The most runs in one chunk: header and runs fit one block.
pub const MAX_RUNS: usize = (BLOCK - HEADER) / RUN;

const MAGIC: [u8; 8] = *b"KDRAWCK\0";
const HEADER_ALIGN: usize = 64;
const OPTIONAL: u16 = 1 << 15;

/// What a chunk carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The black box, see [`crate::black_box`]. Always the first chunk.
    BlackBox,
    /// The memory map, see [`crate::memory_map`].
    MemoryMap,
    /// ELF notes of all CPUs and VMCOREINFO, as one PT_NOTE has them. Several such chunks
    /// are one text in sequence order.
    Notes,
    /// The kernel log as text. Several such chunks are one text.
    KernelLog,
    /// Page frames: the runs say which.
    Pages,
    /// The payload's own log: defmt frames, rzcobs. Several such chunks are one text.
    PayloadLog,
    /// Checkpoints, see [`crate::trailer`]. A shortcut only.
    Index,
    /// The end of a dump, see [`crate::trailer`].
    Trailer,
    /// On a plain partition: checksums of the ELF core, see [`crate::trailer::CoreSums`].
    CoreSums,
    /// A kind that this version does not know.
    Unknown {
        /// Its number.
        number: u16,
        /// Whether it may be skipped without loss.
        optional: bool,
    },
}

impl Kind {
    const fn number(self) -> u16 {
        match self {
            Self::BlackBox => 1,
            Self::MemoryMap => 2,
            Self::Notes => 3,
            Self::KernelLog => 4,
            Self::Pages => 5,
            Self::PayloadLog => 6 | OPTIONAL,
            Self::Index => 7 | OPTIONAL,
            Self::Trailer => 8,
            Self::CoreSums => 9 | OPTIONAL,
            Self::Unknown { number, optional } => number | if optional { OPTIONAL } else { 0 },
        }
    }

    const fn from_number(number: u16) -> Self {
        let optional = number & OPTIONAL != 0;
        match number & !OPTIONAL {
            1 => Self::BlackBox,
            2 => Self::MemoryMap,
            3 => Self::Notes,
            4 => Self::KernelLog,
            5 => Self::Pages,
            6 => Self::PayloadLog,
            7 => Self::Index,
            8 => Self::Trailer,
            9 => Self::CoreSums,
            number => Self::Unknown { number, optional },
        }
    }
}

/// How a chunk's data is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    #[default]
    Raw,
    /// One LZ4 block.
    Lz4,
    /// One raw Deflate stream (RFC 1951), without zlib's or gzip's header.
    Deflate,
}

impl Codec {
    /// The codec of a number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Lz4),
            2 => Some(Self::Deflate),
            _ => None,
        }
    }

    /// Its name, as people and `--compress` have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lz4 => "lz4",
            Self::Deflate => "deflate",
        }
    }
}

/// What pages are worth, most valuable first: the order in which a dump holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Not classified: treated as kernel memory.
    #[default]
    Unclassified = 0,
    /// Page tables of the kernel, its image's data, the start of its rodata.
    KernelCore = 1,
    /// Set aside at boot (per-CPU areas), slab (task structures), mapped by vmalloc (stacks).
    KernelData = 2,
    /// The rest of the kernel's image, its struct pages, its other pages.
    Kernel = 3,
    /// Page cache with private data (buffer heads).
    CachePrivate = 4,
    /// Other page cache.
    Cache = 5,
    /// User memory: anonymous and hugetlb.
    User = 6,
    /// Free pages.
    Free = 7,
}

impl Class {
    /// All classes, most valuable first.
    pub const ALL: [Self; 8] = [
        Self::Unclassified,
        Self::KernelCore,
        Self::KernelData,
        Self::Kernel,
        Self::CachePrivate,
        Self::Cache,
        Self::User,
        Self::Free,
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// A set of classes, as one byte: bit n is the class of number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassSet(pub u8);

impl ClassSet {
    /// Adds a class.
    pub fn insert(&mut self, class: Class) {
        self.0 |= 1u8.checked_shl(class as u32).unwrap_or(0);
    }

    /// Whether a class is in it.
    pub fn contains(self, class: Class) -> bool {
        self.0 & 1u8.checked_shl(class as u32).unwrap_or(0) != 0
    }

    /// Its classes that are not in `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no class is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its classes, most valuable first.
    pub fn iter(self) -> impl Iterator<Item = Class> {
        Class::ALL
            .into_iter()
            .filter(move |class| self.contains(*class))
    }
}

/// What a chunk holds of a run's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Their bytes, in the chunk's data, in order.
    #[default]
    Stored,
    /// Nothing: reading them faulted.
    Unreadable,
    /// Nothing: all their bytes are this one.
    Filled(u8),
}

impl Content {
    /// Its number, and the byte beside it.
    const fn numbers(self) -> (u8, u8) {
        match self {
            Self::Stored => (0, 0),
            Self::Unreadable => (1, 0),
            Self::Filled(byte) => (2, byte),
        }
    }

    const fn from_numbers(content: u8, byte: u8) -> Option<Self> {
        Some(match content {
            0 => Self::Stored,
            1 => Self::Unreadable,
            2 => Self::Filled(byte),
            _ => return None,
        })
    }
}

/// Consecutive frames of one fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The first frame.
    pub first: Pfn,
    /// How many.
    pub frames: u32,
    /// What is stored of them.
    pub content: Content,
    /// What they were.
    pub class: Class,
}

impl Run {
    /// Bytes that its frames take in the chunk's raw data.
    pub fn stored_len(&self) -> u64 {
        match self.content {
            Content::Stored => u64::from(self.frames).saturating_mul(FRAME_SIZE),
            Content::Unreadable | Content::Filled(_) => 0,
        }
    }
}

/// Why bytes are not a chunk of this dump, or not a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// No chunk begins here.
    #[error("no chunk here")]
    NotAChunk,
    /// It looks like a chunk, but its header does not match its checksum.
    #[error("chunk header damaged")]
    HeaderDamaged,
    /// Its data does not match its checksum.
    #[error("chunk data damaged")]
    DataDamaged,
    /// A chunk of another dump: left over from an earlier one.
    #[error("chunk of another dump")]
    Stale,
    /// A whole chunk, but it says that it belongs elsewhere.
    #[error("chunk displaced")]
    Displaced,
    /// Of a format version that is not known here.
    #[error("chunk of format version {0}, known is {VERSION}")]
    Version(u16),
    /// Packed by a codec that is not known here: the chunk is whole, and cannot be read.
    #[error("chunk packed by codec {0}, which this version does not know; a newer one may")]
    Codec(u8),
    /// Lengths, runs or kinds in it contradict each other.
    #[error("chunk field makes no sense: {0}")]
    Nonsense(&'static str),
    /// A chunk that does not fit its buffer or has too many runs cannot be built.
    #[error("chunk too large")]
    TooLarge,
}

/// A chunk's header, without its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// What it carries.
    pub kind: Kind,
    /// How its data is packed.
    pub codec: Codec,
    /// The least valuable class of page in it.
    pub class: Class,
    /// Whose it is.
    pub dump_id: [u8; 16],
    /// Which it is, from 0.
    pub sequence: u64,
    /// Where in the stream it stands, in bytes.
    pub stream_offset: u64,
    /// Bytes from its start to its data.
    pub header_len: u32,
    /// Bytes of data as stored.
    pub stored_len: u32,
    /// Bytes of data when decoded.
    pub raw_len: u32,
    /// How many runs follow the header.
    pub runs: u32,
    /// Bytes of the whole chunk.
    pub chunk_len: u32,
}

/// Bytes from a chunk's start to its data, at the least, if it has `runs` runs.
pub const fn data_offset(runs: usize) -> usize {
    HEADER
        .saturating_add(runs.saturating_mul(RUN))
        .next_multiple_of(HEADER_ALIGN)
}

/// Whether a chunk's data may begin there: behind the header, in the first block or at its end.
const fn is_header_len(len: usize) -> bool {
    HEADER <= len && len <= BLOCK && len.is_multiple_of(HEADER_ALIGN)
}

/// What the builder of a chunk decides; lengths and sums follow from the data.
#[derive(Clone, Copy, Debug)]
pub struct ChunkSpec<'a> {
    /// What it carries.
    pub kind: Kind,
    /// How its data is packed.
    pub codec: Codec,
    /// Whose it is.
    pub dump_id: [u8; 16],
    /// Which it is.
    pub sequence: u64,
    /// Where in the stream it will stand.
    pub stream_offset: u64,
    /// Its runs, at most [`MAX_RUNS`].
    pub runs: &'a [Run],
    /// Bytes of data as they stand in the buffer.
    pub stored_len: usize,
    /// Bytes of data when decoded.
    pub raw_len: usize,
}

/// A chunk's body, padded and summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    header_len: usize,
    stored_len: usize,
    chunk_len: usize,
    checksum: u64,
}

impl Body {
    /// Bytes of the whole chunk.
    pub fn chunk_len(&self) -> usize {
        self.chunk_len
    }
}

/// Pads and sums the data that stands at `header_len` in `buffer`: all of the sealing that can be
/// done before it is known where in the stream the chunk will stand.
///
/// # Errors
/// [`ChunkError::TooLarge`] if it does not fit `buffer` or [`MAX_CHUNK`], or if `header_len` is no
/// [`data_offset`] of any number of runs.
pub fn seal_body(
    buffer: &mut [u8],
    header_len: usize,
    stored_len: usize,
) -> Result<Body, ChunkError> {
    if !is_header_len(header_len) {
        return Err(ChunkError::TooLarge);
    }
    let chunk_len = header_len
        .checked_add(stored_len)
        .and_then(|end| end.checked_next_multiple_of(BLOCK))
        .filter(|len| *len <= MAX_CHUNK)
        .ok_or(ChunkError::TooLarge)?;
    let body = buffer
        .get_mut(header_len..chunk_len)
        .ok_or(ChunkError::TooLarge)?;
    body.get_mut(stored_len..)
        .ok_or(ChunkError::TooLarge)?
        .fill(0);
    Ok(Body {
        header_len,
        stored_len,
        chunk_len,
        checksum: checksum(body),
    })
}

/// Makes a chunk of a buffer whose data already stands at [`data_offset`]: pads, writes the
/// header and runs, and sums. Returns the chunk's length.
///
/// # Errors
/// [`ChunkError::TooLarge`] if it does not fit `buffer` or [`MAX_CHUNK`].
pub fn seal(buffer: &mut [u8], spec: &ChunkSpec<'_>) -> Result<usize, ChunkError> {
    let body = seal_body(buffer, data_offset(spec.runs.len()), spec.stored_len)?;
    seal_header(buffer, spec, &body)
}

/// Writes the header and runs over a body that [`seal_body`] made in the same buffer. Returns
/// the chunk's length.
///
/// # Errors
/// [`ChunkError::TooLarge`] if the body is not `spec`'s: no room for its runs, another length.
pub fn seal_header(
    buffer: &mut [u8],
    spec: &ChunkSpec<'_>,
    body: &Body,
) -> Result<usize, ChunkError> {
    let Body {
        header_len,
        chunk_len,
        ..
    } = *body;
    if header_len < data_offset(spec.runs.len()) || body.stored_len != spec.stored_len {
        return Err(ChunkError::TooLarge);
    }
    let header = buffer.get_mut(..header_len).ok_or(ChunkError::TooLarge)?;
    let narrow = |value: usize| u32::try_from(value).map_err(|_| ChunkError::TooLarge);
    let class = spec
        .runs
        .iter()
        .map(|run| run.class)
        .max()
        .unwrap_or_default();
    let mut put = Put::new(header);
    put.bytes(&MAGIC)
        .u64(0)
        .u64(body.checksum)
        .u16(VERSION)
        .u16(spec.kind.number())
        .u8(spec.codec as u8)
        .u8(0)
        .u8(class as u8)
        .u8(0)
        .bytes(&spec.dump_id)
        .u64(spec.sequence)
        .u64(spec.stream_offset)
        .u32(narrow(header_len)?)
        .u32(narrow(spec.stored_len)?)
        .u32(narrow(spec.raw_len)?)
        .u32(narrow(spec.runs.len())?)
        .u32(narrow(chunk_len)?)
        .zeros(HEADER.saturating_sub(84));
    for run in spec.runs {
        let (content, byte) = run.content.numbers();
        put.u64(run.first.0)
            .u32(run.frames)
            .u8(content)
            .u8(run.class as u8)
            .u8(byte)
            .u8(0);
    }
    put.finish();
    let sum = checksum(header.get(16..).unwrap_or_default());
    if let Some(place) = header.get_mut(8..16) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    Ok(chunk_len)
}

/// Makes the whole chunk in `buffer`, which must be one of dump `dump_id`, one that stands at
/// `stream_offset`; its sequence number stays. Returns the chunk's length.
///
/// # Errors
/// As [`ChunkHeader::decode`], and [`ChunkError::Stale`].
pub fn relocate(
    buffer: &mut [u8],
    dump_id: [u8; 16],
    stream_offset: u64,
) -> Result<usize, ChunkError> {
    let header = ChunkHeader::decode(buffer)?;
    if header.dump_id != dump_id {
        return Err(ChunkError::Stale);
    }
    let covered = buffer.get_mut(16..header.header_len as usize);
    let covered = covered.ok_or(ChunkError::HeaderDamaged)?;
    if let Some(place) = covered.get_mut(56 - 16..64 - 16) {
        place.copy_from_slice(&stream_offset.to_le_bytes());
    }
    let sum = checksum(covered);
    if let Some(place) = buffer.get_mut(8..16) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    Ok(header.chunk_len as usize)
}

impl ChunkHeader {
    /// Whether `bytes` begin as a chunk does; cheap, for scanning.
    pub fn looks_like(bytes: &[u8]) -> bool {
        bytes.get(..8) == Some(&MAGIC[..])
    }

    /// Reads and checks the header and runs at the start of `block`, which must hold the
    /// first [`BLOCK`] bytes of the chunk.
    ///
    /// # Errors
    /// Every [`ChunkError`] but `DataDamaged`, `Stale`, `Displaced` and `TooLarge`.
    pub fn decode(block: &[u8]) -> Result<Self, ChunkError> {
        if !Self::looks_like(block) {
            return Err(ChunkError::NotAChunk);
        }
        let mut get = Get::new(block);
        get.skip(8);
        let sum = get.u64();
        get.skip(8);
        let version = get.u16();
        let kind = Kind::from_number(get.u16());
        let (codec, encryption, class, _) = (get.u8(), get.u8(), get.u8(), get.u8());
        let dump_id = get.array();
        let (sequence, stream_offset) = (get.u64(), get.u64());
        let (header_len, stored_len, raw_len) = (get.u32(), get.u32(), get.u32());
        let (runs, chunk_len) = (get.u32(), get.u32());
        let covered = block
            .get(16..header_len as usize)
            .filter(|_| header_len as usize >= HEADER && header_len as usize <= BLOCK)
            .ok_or(ChunkError::HeaderDamaged)?;
        if checksum(covered) != sum {
            return Err(ChunkError::HeaderDamaged);
        }
        if version != VERSION {
            return Err(ChunkError::Version(version));
        }
        let codec = Codec::from_number(codec).ok_or(ChunkError::Codec(codec))?;
        if encryption != 0 {
            return Err(ChunkError::Nonsense("encryption scheme"));
        }
        let header = Self {
            kind,
            codec,
            class: Class::from_number(class).ok_or(ChunkError::Nonsense("class"))?,
            dump_id,
            sequence,
            stream_offset,
            header_len,
            stored_len,
            raw_len,
            runs,
            chunk_len,
        };
        let data_end = u64::from(header_len).saturating_add(u64::from(stored_len));
        if !is_header_len(header_len as usize) || (header_len as usize) < data_offset(runs as usize)
        {
            return Err(ChunkError::Nonsense("header length"));
        }
        if u64::from(chunk_len) != data_end.next_multiple_of(BLOCK as u64)
            || chunk_len as usize > MAX_CHUNK
        {
            return Err(ChunkError::Nonsense("chunk length"));
        }
        if raw_len as usize > MAX_CHUNK || (codec == Codec::Raw && raw_len != stored_len) {
            return Err(ChunkError::Nonsense("raw length"));
        }
        let mut stored = 0u64;
        for run in header.runs(block) {
            let run = run.ok_or(ChunkError::Nonsense("run"))?;
            if run
                .first
                .0
                .checked_add(u64::from(run.frames))
                .is_none_or(|end| end > 1 << 40)
            {
                return Err(ChunkError::Nonsense("run past the end of memory"));
            }
            stored = stored.saturating_add(run.stored_len());
        }
        if kind == Kind::Pages && stored != u64::from(raw_len) {
            return Err(ChunkError::Nonsense("runs and data differ in length"));
        }
        Ok(header)
    }

    /// The runs in the chunk that `block` begins with; `None` for one that makes no sense.
    pub fn runs<'a>(&self, block: &'a [u8]) -> impl Iterator<Item = Option<Run>> + use<'a> {
        let end = HEADER.saturating_add((self.runs as usize).saturating_mul(RUN));
        let bytes = block.get(HEADER..end).unwrap_or_default();
        bytes.chunks_exact(RUN).map(|bytes| {
            let mut get = Get::new(bytes);
            let (first, frames) = (Pfn(get.u64()), get.u32());
            let (content, class, byte) = (get.u8(), get.u8(), get.u8());
            let content = Content::from_numbers(content, byte)?;
            let class = Class::from_number(class)?;
            Some(Run {
                first,
                frames,
                content,
                class,
            })
        })
    }

    /// The stored data of the whole `chunk`, checked against its checksum.
    ///
    /// # Errors
    /// [`ChunkError::DataDamaged`], also if `chunk` is shorter than the header says.
    pub fn data<'a>(&self, chunk: &'a [u8]) -> Result<&'a [u8], ChunkError> {
        let body = chunk
            .get(self.header_len as usize..self.chunk_len as usize)
            .ok_or(ChunkError::DataDamaged)?;
        let sum = chunk.get(16..24).ok_or(ChunkError::DataDamaged)?;
        if checksum(body).to_le_bytes() != sum {
            return Err(ChunkError::DataDamaged);
        }
        body.get(..self.stored_len as usize)
            .ok_or(ChunkError::DataDamaged)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn pages(runs: &[Run], fill: u8) -> Vec<u8> {
        let stored: u64 = runs.iter().map(Run::stored_len).sum();
        let mut buffer = vec![fill; 128 << 10];
        let spec = ChunkSpec {
            kind: Kind::Pages,
            codec: Codec::Raw,
            dump_id: [5; 16],
            sequence: 3,
            stream_offset: 8192,
            runs,
            stored_len: stored as usize,
            raw_len: stored as usize,
        };
        let len = seal(&mut buffer, &spec).unwrap();
        buffer.truncate(len);
        buffer
    }

    fn run(first: u64, frames: u32, content: Content) -> Run {
        Run {
            first: Pfn(first),
            frames,
            content,
            class: Class::Kernel,
        }
    }

    #[test]
    fn chunk_round_trips() {
        let runs = [
            run(0x40000, 3, Content::Stored),
            run(0x40003, 900, Content::Unreadable),
            run(0x50000, 1, Content::Stored),
        ];
        let chunk = pages(&runs, 0xab);
        let header = ChunkHeader::decode(&chunk).unwrap();
        assert_eq!(header.chunk_len as usize, chunk.len());
        assert_eq!(header.class, Class::Kernel);
        assert!(header.runs(&chunk).map(Option::unwrap).eq(runs));
        assert_eq!(header.data(&chunk).unwrap(), &[0xab; 4 * 4096][..]);
    }

    #[test]
    fn every_flipped_bit_shows() {
        let mut chunk = pages(&[run(1, 1, Content::Stored)], 1);
        for byte in 0..chunk.len() {
            for bit in [0, 7] {
                chunk[byte] ^= 1 << bit;
                let whole = ChunkHeader::decode(&chunk).and_then(|h| h.data(&chunk).map(|_| ()));
                assert!(whole.is_err(), "flip of bit {bit} in byte {byte}");
                chunk[byte] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn contradictions_are_refused_even_with_a_right_checksum() {
        let reseal = |edit: fn(&mut Vec<u8>)| {
            let mut chunk = pages(&[run(1, 1, Content::Stored)], 1);
            edit(&mut chunk);
            let end = u32::from_le_bytes(chunk[64..68].try_into().unwrap()) as usize;
            let sum = checksum(&chunk[16..end.min(chunk.len())]);
            chunk[8..16].copy_from_slice(&sum.to_le_bytes());
            ChunkHeader::decode(&chunk)
        };
        assert!(reseal(|_| ()).is_ok());
        type Edit = fn(&mut Vec<u8>);
        let table: [(&str, Edit); 7] = [
            ("version", |c| c[24] = 9),
            ("encryption", |c| c[29] = 1),
            ("class", |c| c[30] = 77),
            ("stored length", |c| c[68] ^= 1),
            ("chunk length", |c| c[82] = 0xff),
            ("runs past the header", |c| c[76] = 200),
            ("run past memory", |c| c[135] = 0xff),
        ];
        for (what, edit) in table {
            assert!(reseal(edit).is_err(), "{what}");
        }
        // A newer version's may be one of these.
        assert_eq!(reseal(|c| c[28] = 9), Err(ChunkError::Codec(9)));
    }

    #[test]
    fn what_does_not_fit_is_not_built() {
        let mut buffer = [0; BLOCK];
        let spec = ChunkSpec {
            kind: Kind::Notes,
            codec: Codec::Raw,
            dump_id: [0; 16],
            sequence: 0,
            stream_offset: 0,
            runs: &[],
            stored_len: BLOCK - HEADER + 1,
            raw_len: BLOCK - HEADER + 1,
        };
        assert_eq!(seal(&mut buffer, &spec), Err(ChunkError::TooLarge));
        let many = [Run::default(); MAX_RUNS + 1];
        let spec = ChunkSpec {
            runs: &many,
            stored_len: 0,
            raw_len: 0,
            ..spec
        };
        assert_eq!(seal(&mut buffer, &spec), Err(ChunkError::TooLarge));
    }
}
