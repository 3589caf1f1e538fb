//! A plain partition that the pipeline wrote, read back by the tool.

mod common;

use std::fs;
use std::path::Path;

use common::{extracted, extracted_as, formatted, open};
use kdraw::output::Format;
use kdraw::verify::{Report, verify};
use kdraw_format::layout::{DATA_START, MIN_PARTITION, Superblock};
use kdraw_tests::capture::{Capture, LOG, disk_around};
use kdraw_tests::disk::Mode;
use kdraw_tests::memory::{FakeMemory, frames};

const LEN: u64 = 4 << 20;

fn report(path: &Path) -> Report {
    verify(&mut open(path), &mut |_, _| {})
}

#[test]
fn the_core_comes_out_as_it_is_and_a_damaged_piece_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.img");
    formatted(&path, LEN, true);
    let header = Capture::new(9).into_file(&path).unwrap();
    let found = report(&path);
    assert!(found.good, "{found:?}");
    assert_eq!(found.slots[0].frames as usize, frames().count());
    let mut image = fs::read(&path).unwrap();
    let core = DATA_START as usize..DATA_START as usize + header.plain_len as usize;
    let out = folder.path().join("out");
    let done = extracted_as(&mut open(&path), &out, Format::Elf).unwrap();
    assert!(fs::read(done.folder.join("vmcore")).unwrap() == image[core.clone()]);
    assert_eq!(
        fs::read(done.folder.join("dmesg.txt")).unwrap(),
        LOG.as_bytes()
    );

    // Every bit counts: each piece has its sum.
    for byte in [core.start, core.start + 5000, core.end - 1] {
        image[byte] ^= 1;
        fs::write(&path, &image).unwrap();
        let found = report(&path);
        assert!(
            !found.good && found.slots[0].missing_frames > 0,
            "{byte:#x}"
        );
        image[byte] ^= 1;
    }
    // The second piece has what is behind the first MiB of the core, its header included.
    image[core.end - 1] ^= 1;
    fs::write(&path, &image).unwrap();
    let found = report(&path);
    let behind = (header.plain_len - (1 << 20)) / 4096;
    assert_eq!(found.slots[0].missing_frames, behind);
}

#[test]
fn unreadable_frames_are_told_though_the_core_has_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.img");
    formatted(&path, LEN, true);
    // Every second frame of 300: more runs than the 128 that can be told apart. The last one
    // then reaches from frame 254 to frame 298.
    let unreadable: Vec<u64> = frames().take(300).step_by(2).collect();
    for (unreadable, told) in [
        (vec![0x40003, 0x40004, 0x4019f], 3),
        (unreadable, 127 + (298 - 254) + 1),
    ] {
        formatted(&path, LEN, true);
        let capture = Capture {
            memory: FakeMemory { unreadable },
            ..Capture::new(1)
        };
        capture.into_file(&path);
        let slot = &report(&path).slots[0];
        assert_eq!(slot.unreadable_frames, told);
        assert_eq!(slot.frames, frames().count() as u64 - told);
        assert_eq!(slot.missing_frames, 0);
        assert_eq!(slot.problems.len(), 1, "{:?}", slot.problems);
    }
}

#[test]
fn what_was_cut_off_counts_as_missing() {
    let folder = tempfile::tempdir().unwrap();
    let hasty = Capture {
        budget_us: 4,
        ..Capture::new(1)
    };
    for (name, len, capture) in [
        ("full", MIN_PARTITION, Capture::new(1)),
        ("late", LEN, hasty),
    ] {
        let path = folder.path().join(name);
        formatted(&path, len, true);
        let header = capture.into_file(&path).unwrap();
        assert!(header.frames > 0 && header.frames < frames().count() as u64);
        let slot = &report(&path).slots[0];
        assert_eq!(slot.frames, header.frames, "{name}");
        assert_eq!(slot.missing_frames, frames().count() as u64 - header.frames);
        let done = extracted(&mut open(&path), &folder.path().join("out"));
        assert!(!done.unwrap().metadata.complete);
        fs::remove_dir_all(folder.path().join("out")).unwrap();
    }
}

#[test]
fn a_capture_that_dies_leaves_its_prefix_and_never_an_older_core() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.img");
    formatted(&path, LEN, true);
    let whole = Capture::new(9).into_file(&path).unwrap().plain_len as usize;
    let old = fs::read(&path).unwrap();
    let core = old[DATA_START as usize..][..whole].to_vec();
    // Overwritten with a capture that dies: a header at 1 MiB counts only if it is its own.
    let mut superblock = Superblock::decode(&old).unwrap();
    let mut extractions = 0;
    for write in 0.. {
        let clean = folder.path().join("clean.img");
        formatted(&clean, LEN, true);
        let mut disk = disk_around(&clean);
        let core_start = (disk.partition.start + DATA_START) as usize;
        disk.bytes[core_start..][..whole].copy_from_slice(&core);
        disk.mode = Mode::FailAllFrom(write);
        superblock.partition_start = disk.partition.start;
        if Capture::new(2).onto(&mut disk, &superblock).is_ok() {
            break;
        }
        let began = disk.writes[..write]
            .iter()
            .any(|write| write.start as usize == core_start);
        fs::write(&clean, disk.partition_bytes()).unwrap();
        let out = folder.path().join("out");
        let done = extracted(&mut open(&clean), &out);
        if done.is_ok() {
            assert!(began, "died at write {write}: the core of an older dump");
            extractions += 1;
            fs::remove_dir_all(out).unwrap();
        }
    }
    assert!(extractions > 5, "{extractions}");
}
