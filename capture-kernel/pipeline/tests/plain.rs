//! A plain partition: the core's bytes, and the chunks that prove them.

use kdraw_format::layout::{DATA_START, MIN_PARTITION, Superblock};
use kdraw_format::slot::{Outcome, SlotHeader};
use kdraw_linux::core_elf::CoreLayout;
use kdraw_pipeline::partition::TargetError;
use kdraw_pipeline::ports::DeviceError;
use kdraw_tests::capture::{Capture, notes};
use kdraw_tests::disk::{FakeDisk, Mode};
use kdraw_tests::memory::{FRAME, FakeMemory, frame, frames, ranges};

const START: u64 = 1 << 20;

fn superblock(len: u64) -> Superblock {
    Superblock::new([0x5a; 16], START, len, 1, true).unwrap()
}

fn capture(capture: &Capture, superblock: &Superblock) -> (FakeDisk, SlotHeader) {
    let mut disk = FakeDisk::signed(START + superblock.partition_len, superblock);
    match capture.onto(&mut disk, superblock) {
        Ok(Some(header)) => (disk, header),
        other => panic!("{other:?}"),
    }
}

fn core<'d>(disk: &'d FakeDisk, header: &SlotHeader) -> &'d [u8] {
    &disk.partition_bytes()[DATA_START as usize..][..header.plain_len as usize]
}

/// The core of all memory, `unreadable` as zeros.
fn whole(unreadable: &[u64]) -> Vec<u8> {
    let (segments, notes) = (ranges(), notes());
    let layout = CoreLayout::new(&segments, None, None, notes.len()).unwrap();
    let mut core = vec![0; layout.header_len() as usize];
    layout.write_header(&notes, false, &mut core).unwrap();
    for pfn in frames() {
        match unreadable.contains(&pfn) {
            true => core.resize(core.len() + FRAME, 0),
            false => core.extend(frame(pfn)),
        }
    }
    core
}

#[test]
fn the_core_is_all_of_memory_behind_its_header() {
    let superblock = superblock(4 << 20);
    let (disk, header) = capture(&Capture::new(1), &superblock);
    assert_eq!(header.outcome, Outcome::Complete);
    assert_eq!(header.frames, frames().count() as u64);
    assert!(core(&disk, &header) == whole(&[]));
    // Its header was durable before anything was written behind it.
    let header_at = disk
        .writes
        .iter()
        .position(|write| write.start == START + DATA_START);
    assert!(disk.flushes.contains(&(header_at.unwrap() + 1)));
    // In large requests.
    let writes: Vec<_> = disk
        .writes
        .iter()
        .filter(|write| write.start >= START + DATA_START)
        .collect();
    let pages = header.frames as usize * FRAME;
    assert!(writes.len() <= pages / (256 << 10) + 1 + ranges().len());
}

#[test]
fn unreadable_frames_are_zero_and_counted() {
    let unreadable = vec![0x40000, 0x40013, 0x40014, 0x4019f];
    let with = Capture {
        memory: FakeMemory {
            unreadable: unreadable.clone(),
        },
        ..Capture::new(1)
    };
    let (disk, header) = capture(&with, &superblock(4 << 20));
    assert_eq!(header.outcome, Outcome::Truncated);
    assert_eq!(header.unreadable, unreadable.len() as u64);
    assert!(core(&disk, &header) == whole(&unreadable));
}

#[test]
fn what_does_not_fit_is_cut_at_the_end() {
    // To the frame: behind the room lies the second superblock.
    let need = whole(&[]).len() as u64;
    for (room, frames_cut) in [(need, 0), (need - FRAME as u64, 1)] {
        let (_, header) = capture(&Capture::new(1), &superblock(DATA_START + room + 4096));
        assert_eq!(header.plain_len, room);
        assert_eq!(header.frames + frames_cut, frames().count() as u64);
        let complete = header.outcome == Outcome::Complete;
        assert_eq!(complete, frames_cut == 0);
    }
    // Less than the first of the two ranges.
    let (disk, header) = capture(&Capture::new(1), &superblock(MIN_PARTITION));
    assert_eq!(header.plain_len, 1 << 20);
    let found = core(&disk, &header);
    let kept = header.frames as usize * FRAME;
    let header_len = found.len() - kept;
    assert!(found[header_len..] == whole(&[])[header_len..][..kept]);
    // The header names what is there and no more: one note, one range.
    assert_eq!(found[56], 2);
    assert_eq!(found[48], 1, "marked as incomplete");
    let filesz = &found[64 + 56 + 32..][..8];
    assert_eq!(filesz, (kept as u64).to_le_bytes());
}

#[test]
fn a_log_of_any_length_leaves_room_for_the_proofs() {
    for len in [100 << 10, 3 << 20] {
        let with = Capture {
            log: vec![b'.'; len],
            ..Capture::new(1)
        };
        let (_, header) = capture(&with, &superblock(4 << 20));
        assert_eq!(header.outcome, Outcome::Complete);
    }
}

#[test]
fn the_slots_header_knows_of_the_core_once_its_header_is_durable() {
    let superblock = superblock(4 << 20);
    let (whole, _) = capture(&Capture::new(1), &superblock);
    let core_at = START + DATA_START;
    let first = whole
        .writes
        .iter()
        .position(|write| write.start == core_at)
        .unwrap();
    // Fails at the core's header, and at the first pages behind both headers of the slot.
    for (write, len) in [(first, 0), (first + 3, self::whole(&[]).len() as u64)] {
        let mut disk = FakeDisk::signed(START + superblock.partition_len, &superblock);
        disk.mode = Mode::FailWrite(write);
        let error = TargetError::Device(DeviceError::Io { status: 1 });
        assert_eq!(Capture::new(1).onto(&mut disk, &superblock), Err(error));
        let slot = superblock.slot(0).unwrap();
        let copy = |n| SlotHeader::decode(&disk.partition_bytes()[slot.header(n).0 as usize..], 0);
        let header = SlotHeader::newest(copy(0), copy(1)).unwrap();
        assert_eq!((header.outcome, header.plain_len), (Outcome::Writing, len));
    }
}
