//! A target that is not what the plan says is refused, and nothing is written.

use kdraw_format::addr::PartOffset;
use kdraw_format::layout::{BLOCK, LayoutError, START_UNKNOWN, Superblock};
use kdraw_format::plan::Target;
use kdraw_pipeline::partition::{Partition, TargetError};
use kdraw_pipeline::ports::DeviceError;
use kdraw_tests::capture::Capture;
use kdraw_tests::disk::{FakeClock, FakeDisk, Mode, buffers, put_mbr, target};

const START: u64 = 1 << 20;
const LEN: u64 = 4 << 20;
const DISK: u64 = 8 << 20;

fn superblock() -> Superblock {
    Superblock::new([0x5a; 16], START, LEN, 1, false).unwrap()
}

#[test]
fn what_is_not_the_plans_target_is_refused_and_nothing_is_written() {
    type Break = fn(&mut FakeDisk, &mut Target);
    let table: [(Break, TargetError); 9] = [
        (
            // Both superblocks.
            |disk, _| disk.bytes[START as usize..].fill(0),
            TargetError::NotSigned(LayoutError::Unsigned),
        ),
        (|_, plan| plan.uuid = [1; 16], TargetError::UuidDiffers),
        (
            |disk, _| {
                let mut block = [0; BLOCK];
                let elsewhere = Superblock::new([0x5a; 16], 2 * START, LEN, 1, false);
                elsewhere.unwrap().encode(&mut block);
                disk.bytes[START as usize..][..BLOCK].copy_from_slice(&block);
            },
            TargetError::RangeDiffers {
                start: 2 * START,
                len: LEN,
            },
        ),
        (
            |disk, _| put_mbr(&mut disk.bytes, START, LEN / 2),
            TargetError::PartitionMoved {
                start: START,
                len: LEN,
            },
        ),
        (
            |disk, _| disk.bytes[510] = 0,
            TargetError::PartitionMoved {
                start: START,
                len: LEN,
            },
        ),
        (
            // A short disk.
            |disk, _| disk.bytes.truncate((START + LEN / 2) as usize),
            TargetError::RangeOutside {
                start: START,
                len: LEN,
                disk: START + LEN / 2,
            },
        ),
        (
            |_, plan| plan.partition_start = u64::MAX - 511,
            TargetError::RangeOutside {
                start: u64::MAX - 511,
                len: LEN,
                disk: DISK,
            },
        ),
        (
            |_, plan| plan.partition_start += 1,
            TargetError::RangeOutside {
                start: START + 1,
                len: LEN,
                disk: DISK,
            },
        ),
        (
            |disk, _| disk.mode = Mode::SilentAfter(1),
            TargetError::Device(DeviceError::Timeout("a request was never completed")),
        ),
    ];
    for (break_it, expected) in table {
        let mut disk = FakeDisk::signed(DISK, &superblock());
        let mut plan = target(&superblock());
        break_it(&mut disk, &mut plan);
        let clock = FakeClock::new(100);
        let opened = Partition::open(&mut disk, &clock, &plan, buffers(1)).err();
        assert_eq!(opened, Some(expected));
        assert!(disk.writes.is_empty(), "{expected}");
    }
}

#[test]
fn either_superblock_opens_and_a_table_need_not_be_there() {
    type Change = fn(&mut FakeDisk, &mut Target);
    let table: [Change; 4] = [
        |_, _| (),
        |disk, _| disk.bytes[START as usize] ^= 1,
        |disk, _| disk.bytes[(START + LEN) as usize - 1] ^= 1,
        |disk, plan| {
            disk.bytes[510] = 0;
            plan.unchecked_table = true;
        },
    ];
    for change in table {
        let mut disk = FakeDisk::signed(DISK, &superblock());
        let mut plan = target(&superblock());
        change(&mut disk, &mut plan);
        let clock = FakeClock::new(100);
        Partition::open(&mut disk, &clock, &plan, buffers(1)).unwrap();
    }
    // Signed in an image file, then copied onto a partition.
    let image = Superblock {
        partition_start: START_UNKNOWN,
        ..superblock()
    };
    let mut disk = FakeDisk::signed(DISK, &superblock());
    let mut block = [0; BLOCK];
    image.encode(&mut block);
    disk.bytes[START as usize..][..BLOCK].copy_from_slice(&block);
    assert!(matches!(
        Capture::new(1).onto(&mut disk, &superblock()),
        Ok(Some(_))
    ));
}

#[test]
fn a_write_that_leaves_the_partition_is_refused() {
    let mut disk = FakeDisk::signed(DISK, &superblock());
    let clock = FakeClock::new(100);
    let plan = target(&superblock());
    let mut partition = Partition::open(&mut disk, &clock, &plan, buffers(1)).unwrap();
    for (at, len) in [
        (LEN - 4096, 8192),
        (LEN, 4096),
        (u64::MAX - 4095, 4096),
        (u64::MAX - START + 1, 4096),
        (8, 4096),
        (0, 0),
    ] {
        let at = PartOffset(at);
        let buffer = partition.buffer().unwrap();
        let refused = partition.write(at, buffer, len).err();
        let len = len as u64;
        assert_eq!(refused, Some(TargetError::OutOfBounds { at, len }));
    }
    let buffer = partition.buffer().unwrap();
    partition
        .write(PartOffset(LEN - 4096), buffer, 4096)
        .unwrap();
    partition.flush().unwrap();
    assert_eq!(disk.writes.len(), 1);
}
