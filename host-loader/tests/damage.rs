//! Cuts, holes and flipped bits: what is left is extracted, what is lost is told.

mod common;

use std::fs;
use std::path::Path;

use common::{FRAME, RAM, Random, Written, frame, is_unreadable};
use kdraw::core_file::CoreFile;
use kdraw::extract::{ExtractError, extract};
use kdraw::source::{Access, Source};
use kdraw::verify::verify;
use kdraw_format::addr::PhysAddr;
use kdraw_format::layout::{BLOCK, DATA_START, MIN_PARTITION};
use kdraw_linux::memory::PhysMem;

/// A partition with one dump; its bytes and its chunks.
fn image(folder: &Path) -> (Vec<u8>, Vec<Written>) {
    let path = folder.join("whole.img");
    common::formatted(&path, MIN_PARTITION, 1, false);
    let written = common::dump(&path, 0, 1);
    (fs::read(&path).unwrap(), written)
}

/// Checks a damaged image: verify tells, and every frame of a chunk that `survives` comes out.
fn check(
    folder: &Path,
    name: &str,
    image: &[u8],
    written: &[Written],
    survives: impl Fn(&Written) -> bool,
) {
    let path = folder.join(name);
    fs::write(&path, image).unwrap();
    let mut partition = common::open(&path);
    let report = verify(&mut partition, &mut |_, _| {});
    assert!(!report.good, "{name}: verify found nothing");
    let expected: Vec<u64> = written
        .iter()
        .filter(|chunk| survives(chunk))
        .flat_map(|chunk| chunk.frames.iter().copied())
        .collect();
    let slot = partition.slot(0).unwrap();
    let into = folder.join(format!("{name}.out"));
    let done = match extract(&mut partition, &slot, &into, &mut |_, _, _| {}) {
        Ok(done) => done,
        Err(ExtractError::Nothing(0)) if expected.is_empty() => return,
        Err(why) => panic!("{name}: {why}"),
    };
    let core = Source::open(&done.folder.join("vmcore"), Access::Read).unwrap();
    let core = CoreFile::open(core).unwrap();
    let mut found = vec![0; FRAME];
    for pfn in &expected {
        core.read(PhysAddr(pfn << 12), &mut found).unwrap();
        assert!(found == frame(*pfn), "{name}: frame {pfn:#x} differs");
    }
    let all = RAM.iter().flat_map(|(first, end)| *first..*end);
    for pfn in all.filter(|pfn| is_unreadable(*pfn)) {
        assert!(core.read(PhysAddr(pfn << 12), &mut found).is_err());
    }
    // If a memory map is there, what is missing is counted to the frame.
    let whole: usize = written.iter().map(|chunk| chunk.frames.len()).sum();
    let map_lost = !survives(&written[1]);
    if !map_lost && expected.len() < whole {
        let lost = whole - expected.len();
        let told = done.metadata.missing_frames as usize;
        // Frames told to be zero or unreadable are lost with their chunk, too.
        assert!(
            (lost..=lost + 6).contains(&told),
            "{name}: {lost} lost, {told} told"
        );
        assert_eq!(report.slots[0].missing_frames as usize, told);
        assert!(!done.metadata.complete);
    }
}

#[test]
fn fifty_truncations_leave_their_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let (image, written) = image(folder.path());
    let mut random = Random(4242);
    let end = written.last().unwrap().bytes.end;
    for turn in 0..50 {
        // Two thirds inside the dump, the others anywhere after the superblock.
        let cut = match turn % 3 {
            0 => BLOCK as u64 + random.below(image.len() as u64 - BLOCK as u64),
            _ => DATA_START + random.below(end - DATA_START),
        };
        let name = format!("cut-{cut:x}");
        check(
            folder.path(),
            &name,
            &image[..cut as usize],
            &written,
            |chunk| chunk.bytes.end <= cut,
        );
    }
}

#[test]
fn fifty_holes_take_only_what_they_cover() {
    let folder = tempfile::tempdir().unwrap();
    let (image, written) = image(folder.path());
    let mut random = Random(777);
    let end = written.last().unwrap().bytes.end;
    for turn in 0..50 {
        let from = match turn % 5 {
            // Both headers, the first chunks, or anywhere in the dump.
            0 => DATA_START + random.below(3 * BLOCK as u64),
            _ => DATA_START + random.below(end - DATA_START),
        };
        let to = (from + 1 + random.below(100_000)).min(end);
        let mut holed = image.clone();
        holed[from as usize..to as usize].fill(0);
        if holed == image {
            continue; // zeros before
        }
        check(
            folder.path(),
            &format!("hole-{from:x}-{to:x}"),
            &holed,
            &written,
            |chunk| {
                let range = chunk.bytes.start as usize..chunk.bytes.end as usize;
                holed[range.clone()] == image[range]
            },
        );
    }
}

#[test]
fn two_hundred_flipped_bits_are_all_detected() {
    let folder = tempfile::tempdir().unwrap();
    let (mut image, written) = image(folder.path());
    let path = folder.path().join("flipped.img");
    fs::write(&path, &image).unwrap();
    assert!(verify(&mut common::open(&path), &mut |_, _| {}).good);
    let end = written.last().unwrap().bytes.end;
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
        let report = verify(&mut common::open(&path), &mut |_, _| {});
        assert!(!report.good, "bit {bit:#x} of byte {byte:#x}");
        image[byte] ^= bit;
    }
}

#[test]
fn plain_core_comes_out_as_it_is_and_a_damaged_piece_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.img");
    common::formatted(&path, 4 << 20, 1, true);
    let core = common::plain_dump(&path);
    let mut partition = common::open(&path);
    assert!(verify(&mut partition, &mut |_, _| {}).good);
    let slot = partition.slot(0).unwrap();
    let out = folder.path().join("out");
    let done = extract(&mut partition, &slot, &out, &mut |_, _, _| {}).unwrap();
    assert!(fs::read(done.folder.join("vmcore")).unwrap() == core);
    assert_eq!(
        fs::read(done.folder.join("dmesg.txt")).unwrap(),
        common::LOG.as_bytes()
    );

    let mut image = fs::read(&path).unwrap();
    let damaged = 2 * 65536 + 77;
    image[DATA_START as usize + damaged] ^= 1;
    fs::write(&path, &image).unwrap();
    let report = verify(&mut common::open(&path), &mut |_, _| {});
    assert!(!report.good);
    let missing = &report.slots[0].missing_ranges;
    assert_eq!(missing.len(), 1, "{missing:?}");
    // The piece covers 16 frames, 17 if it is not aligned to them.
    assert!(
        (16..=17).contains(&report.slots[0].missing_frames),
        "{report:?}"
    );
}
