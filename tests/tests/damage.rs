//! Cuts, holes, flipped bits and captures that die: what is left is extracted, and nothing else
//! is; what is lost is told.

mod common;

use std::fs;
use std::ops::Range;
use std::path::Path;

use common::{extracted, formatted, open, vmcore};
use kdraw::extract::ExtractError;
use kdraw::verify::verify;
use kdraw_format::addr::PhysAddr;
use kdraw_format::chunk::{Codec, Content, Kind};
use kdraw_format::layout::{BLOCK, DATA_START, Superblock};
use kdraw_format::walk::{Step, WALK_BUFFER, Walk};
use kdraw_linux::memory::PhysMem;
use kdraw_tests::capture::{Capture, disk_around};
use kdraw_tests::disk::Mode;
use kdraw_tests::memory::{FRAME, FakeMemory, Random, frame, frames};

const LEN: u64 = 4 << 20;
/// Frames that fault.
const UNREADABLE: [u64; 3] = [0x40010, 0x40011, 0x4019f];

fn capture() -> Capture {
    Capture {
        memory: FakeMemory {
            unreadable: UNREADABLE.into(),
        },
        codec: Codec::Lz4,
        ..Capture::new(1)
    }
}

/// A chunk: where its bytes are on the partition, and the frames that it tells.
struct Chunk {
    kind: Kind,
    bytes: Range<u64>,
    /// Header and runs.
    header: Range<u64>,
    /// Frames that its data has.
    stored: Vec<u64>,
    /// Frames that its runs are enough for.
    filled: Vec<u64>,
}

/// The chunks of a whole dump.
fn chunks(path: &Path) -> Vec<Chunk> {
    let mut partition = open(path);
    let slot = partition.slot(0).unwrap();
    let header = partition.header(&slot);
    let start = slot.stream_start().0;
    let mut walk = Walk::new(&mut partition.source, &slot, &header);
    let mut buffer = vec![0; WALK_BUFFER];
    let mut chunks = Vec::new();
    while let Some(step) = walk.step(&mut buffer) {
        let Step::Chunk { header, chunk, .. } = step else {
            panic!("{step:?} in a whole dump");
        };
        let frames = |wanted: fn(&Content) -> bool| {
            let runs = header.runs(chunk).flatten();
            runs.filter(|run| wanted(&run.content))
                .flat_map(|run| run.first.0..run.first.0 + u64::from(run.frames))
                .collect()
        };
        let at = start + header.stream_offset;
        chunks.push(Chunk {
            kind: header.kind,
            bytes: at..at + u64::from(header.chunk_len),
            header: at..at + u64::from(header.header_len),
            stored: frames(|content| *content == Content::Stored),
            filled: frames(|content| matches!(content, Content::Filled(_))),
        });
    }
    chunks
}

/// A partition with one dump; its bytes and its chunks.
fn image(folder: &Path) -> (Vec<u8>, Vec<Chunk>) {
    let path = folder.join("whole.img");
    formatted(&path, LEN, false);
    capture().into_file(&path);
    (fs::read(&path).unwrap(), chunks(&path))
}

/// Checks a damaged image: verify tells, every frame of a chunk that `survives` comes out, and
/// no other.
fn check(
    folder: &Path,
    name: &str,
    image: &[u8],
    chunks: &[Chunk],
    survives: impl Fn(&Range<u64>) -> bool,
) {
    let path = folder.join(name);
    fs::write(&path, image).unwrap();
    let mut partition = open(&path);
    let report = verify(&mut partition, &mut |_, _| {});
    assert!(!report.good, "{name}: verify found nothing");
    let there = |wanted: u64| {
        chunks.iter().any(|chunk| {
            chunk.stored.contains(&wanted) && survives(&chunk.bytes)
                || chunk.filled.contains(&wanted) && survives(&chunk.header)
        })
    };
    let there: Vec<u64> = frames().filter(|pfn| there(*pfn)).collect();
    let done = match extracted(&mut partition, &folder.join(format!("{name}.out"))) {
        Ok(done) => done,
        Err(ExtractError::Nothing(0)) if there.is_empty() => return,
        Err(why) => panic!("{name}: {why}"),
    };
    let core = vmcore(&done);
    let mut found = vec![0; FRAME];
    for pfn in frames() {
        let read = core.read(PhysAddr(pfn << 12), &mut found);
        match there.contains(&pfn) {
            true => assert!(
                read.is_ok() && found == frame(pfn),
                "{name}: frame {pfn:#x} differs"
            ),
            false => assert!(read.is_err(), "{name}: frame {pfn:#x} from nowhere"),
        }
    }
    // If a memory map is there, what is missing is counted to the frame. What is unreadable is
    // told by the chunks of pages, and counts as missing if they are lost.
    let survived = |kind| {
        chunks
            .iter()
            .any(|chunk| chunk.kind == kind && survives(&chunk.bytes))
    };
    if survived(Kind::MemoryMap) {
        let lost = frames().count() - there.len();
        let told = done.metadata.missing_frames as usize;
        assert!(
            (lost - UNREADABLE.len()..=lost).contains(&told),
            "{name}: {lost} lost, {told} told"
        );
        assert_eq!(report.slots[0].missing_frames as usize, told);
        assert!(!done.metadata.complete);
    }
    // Two hundred vmcores need room.
    fs::remove_dir_all(done.folder).unwrap();
    fs::remove_file(path).unwrap();
}

#[test]
fn fifty_truncations_leave_their_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let (image, chunks) = image(folder.path());
    let mut random = Random(4242);
    let end = chunks.last().unwrap().bytes.end;
    for turn in 0..50 {
        // Two thirds inside the dump, the others anywhere after the superblock.
        let cut = match turn % 3 {
            0 => BLOCK as u64 + random.below(image.len() as u64 - BLOCK as u64),
            _ => DATA_START + random.below(end - DATA_START),
        };
        check(
            folder.path(),
            &format!("cut-{cut:x}"),
            &image[..cut as usize],
            &chunks,
            |bytes| bytes.end.next_multiple_of(BLOCK as u64) <= cut,
        );
    }
}

#[test]
fn fifty_holes_take_only_what_they_cover() {
    let folder = tempfile::tempdir().unwrap();
    let (image, chunks) = image(folder.path());
    let mut random = Random(777);
    let end = chunks.last().unwrap().bytes.end;
    for turn in 0..50 {
        let from = match turn % 5 {
            // Both headers, the first chunks, or anywhere in the dump.
            0 => DATA_START + random.below(3 * BLOCK as u64),
            _ => DATA_START + random.below(end - DATA_START),
        };
        let to = (from + 1 + random.below(300_000)).min(end);
        let mut holed = image.clone();
        holed[from as usize..to as usize].fill(0);
        if holed == image {
            continue; // zeros before
        }
        check(
            folder.path(),
            &format!("hole-{from:x}-{to:x}"),
            &holed,
            &chunks,
            |bytes| {
                let range = bytes.start as usize..bytes.end as usize;
                holed[range.clone()] == image[range]
            },
        );
    }
}

#[test]
fn a_capture_that_dies_at_any_write_leaves_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let (_, chunks) = image(folder.path());
    let path = folder.path().join("empty.img");
    formatted(&path, LEN, false);
    let mut superblock = Superblock::decode(&fs::read(&path).unwrap()).unwrap();
    // Write 0 is the slot's header: without it, nothing was begun.
    for write in 1.. {
        let mut disk = disk_around(&path);
        disk.mode = Mode::FailAllFrom(write);
        superblock.partition_start = disk.partition.start;
        if capture().onto(&mut disk, &superblock).is_ok() {
            break;
        }
        // Write `write` failed; of those in flight with it, none was done after.
        let done = &disk.writes[..write];
        check(
            folder.path(),
            &format!("died-{write}"),
            disk.partition_bytes(),
            &chunks,
            |bytes| {
                let start = disk.partition.start + bytes.start;
                done.iter().any(|write| write.start == start)
            },
        );
    }
}

#[test]
fn a_bad_place_on_the_medium_costs_nothing_but_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    formatted(&path, LEN, false);
    let mut superblock = Superblock::decode(&fs::read(&path).unwrap()).unwrap();
    let trouble_free = {
        let mut disk = disk_around(&path);
        superblock.partition_start = disk.partition.start;
        Capture::new(1).onto(&mut disk, &superblock).unwrap();
        disk.writes
    };
    let mut holes = 0;
    for write in 0..trouble_free.len() {
        let mut disk = disk_around(&path);
        disk.mode = Mode::FailWrite(write);
        if Capture::new(1).onto(&mut disk, &superblock).is_err() {
            continue; // a header, which has one place
        }
        let image = folder.path().join("bad.img");
        fs::write(&image, disk.partition_bytes()).unwrap();
        let mut partition = open(&image);
        let report = verify(&mut partition, &mut |_, _| {});
        assert!(
            report.good,
            "write {write} of {}: {report:?}",
            trouble_free.len()
        );
        let done = extracted(&mut partition, &folder.path().join("out")).unwrap();
        assert!(done.metadata.lost.is_empty() && done.metadata.missing_frames == 0);
        let core = vmcore(&done);
        let mut found = vec![0; FRAME];
        for pfn in frames() {
            core.read(PhysAddr(pfn << 12), &mut found).unwrap();
            assert!(found == frame(pfn), "write {write}: frame {pfn:#x}");
        }
        fs::remove_dir_all(folder.path().join("out")).unwrap();
        holes += 1;
    }
    assert!(holes > 5, "{holes}");
}

#[test]
fn two_hundred_flipped_bits_are_all_detected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.img");
    formatted(&path, LEN, false);
    Capture::new(1).into_file(&path);
    let mut image = fs::read(&path).unwrap();
    let chunks = chunks(&path);
    assert!(verify(&mut open(&path), &mut |_, _| {}).good);
    let end = chunks.last().unwrap().bytes.end;
    let len = image.len() as u64;
    let mut random = Random(99);
    for turn in 0..200 {
        // Superblock A, the head, the slot's headers, the stream, superblock B.
        let byte = match turn % 10 {
            0 => random.below(BLOCK as u64),
            1 => random.below(DATA_START),
            2 => DATA_START + random.below(2 * BLOCK as u64),
            3 => len - 1 - random.below(BLOCK as u64),
            _ => DATA_START + random.below(end - DATA_START),
        } as usize;
        let bit = 1 << random.below(8);
        image[byte] ^= bit;
        fs::write(&path, &image).unwrap();
        let report = verify(&mut open(&path), &mut |_, _| {});
        assert!(!report.good, "bit {bit:#x} of byte {byte:#x}");
        image[byte] ^= bit;
    }
}
