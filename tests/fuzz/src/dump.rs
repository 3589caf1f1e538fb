//! A dump with changes, read by the tool.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use kdraw::extract::dump_memory::DumpMemory;
use kdraw::partition::DumpPartition;
use kdraw::scan::Scan;
use kdraw::source::Access;
use kdraw::system::System;
use kdraw_format::addr::PhysAddr;
use kdraw_format::checksum::checksum;
use kdraw_format::chunk::{Codec, HEADER};
use kdraw_format::layout::{BLOCK, MIN_PARTITION, Superblock};
use kdraw_format::walk::{Step, WALK_BUFFER, Walk};
use kdraw_linux::memory::PhysMem as _;
use kdraw_tests::capture::Capture;
use kdraw_tests::disk::{Bytes, FakeDisk};
use kdraw_tests::memory::{FRAME, FakeMemory, frames};

use crate::Input;

/// A partition with one dump, as bytes and as a file.
struct Image {
    whole: Vec<u8>,
    /// Where its chunks are.
    chunks: Vec<Range<usize>>,
    /// Where its sealed blocks are: superblock, both headers of the slot.
    blocks: [usize; 3],
    file: File,
}

impl Image {
    /// With page chunks that are packed by `codec`, where that makes them smaller.
    fn new(codec: Codec) -> Self {
        const START: u64 = 1 << 20;
        let superblock = Superblock::new([0x5a; 16], START, MIN_PARTITION, 1, false).unwrap();
        let mut disk = FakeDisk::signed(START + MIN_PARTITION, &superblock);
        // Most frames only as runs: a small dump.
        let unreadable = frames().filter(|frame| frame % 16 > 1).collect();
        let capture = Capture {
            memory: FakeMemory { unreadable },
            codec,
            ..Capture::new(1)
        };
        let header = capture.onto(&mut disk, &superblock).unwrap().unwrap();
        let whole = disk.partition_bytes().to_vec();
        let slot = superblock.slot(0).unwrap();
        let mut walk = Walk::new(Bytes(&whole), &slot, &header);
        let mut buffer = vec![0; WALK_BUFFER];
        let mut chunks = Vec::new();
        while let Some(step) = walk.step(&mut buffer) {
            let Step::Chunk { header, .. } = step else {
                panic!("{step:?} in a whole dump");
            };
            let start = (slot.stream_start().0 + header.stream_offset) as usize;
            chunks.push(start..start + header.chunk_len as usize);
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&whole, 0).unwrap();
        let blocks = [0, slot.header(0).0 as usize, slot.header(1).0 as usize];
        Self {
            whole,
            chunks,
            blocks,
            file,
        }
    }

    /// The file, which has no name.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// Writes a number at `at`, as far as there is room.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (byte, value) in bytes.iter_mut().skip(at).zip(value) {
        *byte = *value;
    }
}

/// Makes the sums of a chunk right again, by what its header says of its lengths now.
fn reseal(chunk: &mut [u8]) {
    let word = |at: usize| u32::from_le_bytes(chunk[at..at + 4].try_into().unwrap()) as usize;
    let (header_len, chunk_len) = (word(64).clamp(HEADER, BLOCK), word(80).min(chunk.len()));
    if let Some(body) = chunk.get(header_len..chunk_len) {
        let sum = checksum(body);
        put(chunk, 16, &sum.to_le_bytes());
    }
    let sum = checksum(&chunk[16..header_len]);
    put(chunk, 8, &sum.to_le_bytes());
}

/// The reader of dumps, on a small dump that the input changes.
///
/// The dump's page chunks are LZ4 blocks, or Deflate streams if the input begins with a byte of 128
/// or more. The input: changes, each a byte and what it takes:
///
/// | byte % 5 | change | takes |
/// |--|--|--|
/// | 0, 1 | four bytes of a chunk's header and runs, resealed | the chunk (u8), which four (u8), the value (u32) |
/// | 2 | eight bytes of a chunk, resealed | the chunk (u8), where (u16), the value (u64) |
/// | 3 | eight bytes of superblock A or a slot's header, resealed | the block (u8), which eight (u8), the value (u64) |
/// | 4 | a byte anywhere, not resealed | its number (u32), the value (u8) |
pub(crate) fn dump(data: &[u8]) {
    static IMAGES: [OnceLock<Mutex<Image>>; 2] = [const { OnceLock::new() }; 2];
    let (image, codec) = match data.first() {
        Some(128..) => (&IMAGES[1], Codec::Deflate),
        _ => (&IMAGES[0], Codec::Lz4),
    };
    let image = image.get_or_init(|| Mutex::new(Image::new(codec)));
    let image = image.lock().unwrap();
    let mut bytes = image.whole.clone();
    let mut changed = Vec::new();
    let (mut chunks, mut blocks) = (BTreeSet::new(), BTreeSet::new());
    let mut input = Input(data);
    while !input.0.is_empty() {
        match input.u8() % 5 {
            kind @ 0..=2 => {
                let number = usize::from(input.u8()) % image.chunks.len();
                chunks.insert(number);
                let chunk = &mut bytes[image.chunks[number].clone()];
                if kind == 2 {
                    let at = input.below(chunk.len() as u64) as usize;
                    put(chunk, at, &input.u64().to_le_bytes());
                } else {
                    let at = 16 + usize::from(input.u8()) * 4;
                    put(chunk, at, &input.bytes::<4>());
                }
            }
            3 => {
                let at = image.blocks[usize::from(input.u8()) % image.blocks.len()];
                blocks.insert(at);
                let which = usize::from(input.u8()) % 64 * 8;
                put(
                    &mut bytes[at..at + BLOCK],
                    which,
                    &input.u64().to_le_bytes(),
                );
            }
            _ => {
                let at = u32::from_le_bytes(input.bytes()) as usize % bytes.len();
                bytes[at] = input.u8();
                changed.push(at..at + 1);
            }
        }
    }
    for number in chunks {
        let range = image.chunks[number].clone();
        reseal(&mut bytes[range.clone()]);
        changed.push(range);
    }
    for at in blocks {
        let sum = checksum(&bytes[at + 16..at + BLOCK]);
        put(&mut bytes, at + 8, &sum.to_le_bytes());
        changed.push(at..at + BLOCK);
    }
    let write = |from: &[u8]| {
        for range in &changed {
            let at = range.start as u64;
            image.file.write_all_at(&from[range.clone()], at).unwrap();
        }
    };
    write(&bytes);
    read(&image);
    write(&image.whole);
}

/// Reads all dumps. What is known can be had, and nothing else; what is missing is not known.
fn read(image: &Image) {
    let system = System::new("/");
    let Ok(mut partition) = DumpPartition::open(&system, &image.path(), None, Access::Read) else {
        return;
    };
    let slots: Vec<_> = partition.slots().collect();
    for slot in slots {
        let scan = Scan::of(&mut partition, &slot, &mut |_, _| {});
        let (known, missing) = (scan.known(), scan.missing());
        let memory = DumpMemory::new(&partition, &scan);
        let mut bytes = [0; FRAME];
        for frame in frames() {
            let is_known = known.overlapping(frame, frame + 1).next().is_some();
            let read = memory.read(PhysAddr(frame * FRAME as u64), &mut bytes);
            assert_eq!(read.is_ok(), is_known, "frame {frame:#x}");
        }
        assert_eq!(missing.without(&known).count(), missing.count());
    }
}
