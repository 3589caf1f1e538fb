//! A dump on a disk that is slow, out of order, full, broken or silent, made by one CPU or by
//! many. The fake disk panics at a write outside of the partition.

use flate2::{Decompress, FlushDecompress, Status};
use kdraw_format::chunk::{Codec, Content, Kind, data_offset};
use kdraw_format::layout::{JOURNAL_START, MIN_PARTITION, Superblock};
use kdraw_format::slot::{Outcome, SlotHeader};
use kdraw_format::trailer::tag;
use kdraw_format::walk::{Step, WALK_BUFFER, Walk};
use kdraw_pipeline::dump::{choose_slot, write_header};
use kdraw_pipeline::partition::{Partition, TargetError};
use kdraw_pipeline::ports::{DeviceError, REQUEST_TIMEOUT_US};
use kdraw_tests::capture::{Capture, Diligence};
use kdraw_tests::disk::{Bytes, FakeClock, FakeDisk, Mode, buffers, target};
use kdraw_tests::memory::{FRAME, FakeMemory, frame, frames};

const START: u64 = 1 << 20;

fn superblock(slots: u32) -> Superblock {
    let len = (1 + 2 * u64::from(slots) + 1) << 20;
    Superblock::new([0x5a; 16], START, len, slots, false).unwrap()
}

fn disk(superblock: &Superblock) -> FakeDisk {
    FakeDisk::signed(START + superblock.partition_len + (1 << 20), superblock)
}

/// What a walk over a slot found.
#[derive(Debug, Default, PartialEq)]
struct Found {
    kinds: Vec<Kind>,
    /// Frames with data, in the order of the dump.
    stored: Vec<u64>,
    /// Frames that are told to be zero.
    filled: Vec<u64>,
    unreadable: Vec<u64>,
    lost: usize,
    /// Chunks that are compressed.
    packed: usize,
    /// Chunks that are compressed by Deflate.
    deflated: usize,
}

impl Found {
    /// All frames whose bytes are known, sorted.
    fn known(&self) -> Vec<u64> {
        let mut known = [&self.stored[..], &self.filled[..]].concat();
        known.sort_unstable();
        known
    }
}

fn header(disk: &FakeDisk, superblock: &Superblock, index: u32) -> SlotHeader {
    let slot = superblock.slot(index).unwrap();
    let [a, b] = [0, 1].map(|copy| {
        SlotHeader::decode(
            &disk.partition_bytes()[slot.header(copy).0 as usize..],
            index,
        )
    });
    SlotHeader::newest(a, b).unwrap()
}

/// Reads a slot back; stored frames must be what memory has.
fn read(disk: &FakeDisk, superblock: &Superblock, index: u32) -> Found {
    let header = header(disk, superblock, index);
    let slot = superblock.slot(index).unwrap();
    let mut walk = Walk::new(Bytes(disk.partition_bytes()), &slot, &header);
    let mut buffer = vec![0; WALK_BUFFER];
    let mut found = Found::default();
    while let Some(step) = walk.step(&mut buffer) {
        let Step::Chunk {
            header,
            chunk,
            data,
        } = step
        else {
            found.lost += 1;
            continue;
        };
        found.kinds.push(header.kind);
        let unpacked = match header.codec {
            Codec::Raw => data.to_vec(),
            Codec::Lz4 => {
                found.packed += 1;
                lz4_flex::block::decompress(data, header.raw_len as usize).unwrap()
            }
            Codec::Deflate => {
                found.packed += 1;
                found.deflated += 1;
                let mut raw = vec![0; header.raw_len as usize];
                let mut inflate = Decompress::new(false);
                let status = inflate.decompress(data, &mut raw, FlushDecompress::Finish);
                assert_eq!(status.unwrap(), Status::StreamEnd);
                assert_eq!(inflate.total_out(), raw.len() as u64);
                raw
            }
        };
        let mut data = unpacked.chunks_exact(FRAME);
        for run in header.runs(chunk).flatten() {
            for pfn in run.first.0..run.first.0 + u64::from(run.frames) {
                match run.content {
                    Content::Stored => {
                        assert!(data.next() == Some(&frame(pfn)), "frame {pfn:#x}");
                        found.stored.push(pfn);
                    }
                    Content::Unreadable => found.unreadable.push(pfn),
                    Content::Filled(byte) => {
                        assert!(vec![byte; FRAME] == frame(pfn), "frame {pfn:#x}");
                        found.filled.push(pfn);
                    }
                }
            }
        }
    }
    found
}

fn dump(capture: &Capture, disk: &mut FakeDisk, superblock: &Superblock) -> SlotHeader {
    match capture.onto(disk, superblock) {
        Ok(Some(header)) => header,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dump_has_every_frame_and_its_parts_in_order() {
    let superblock = superblock(1);
    let mut disk = disk(&superblock);
    let before = disk.bytes.clone();
    let told = dump(&Capture::new(1), &mut disk, &superblock);
    assert_eq!(told.outcome, Outcome::Complete);
    assert_eq!(told, header(&disk, &superblock, 0));
    let mut found = read(&disk, &superblock, 0);
    assert_eq!(told.frames, found.stored.len() as u64);
    assert_eq!(told.filled, found.filled.len() as u64);
    assert!(told.filled > 50);
    assert!(found.known().into_iter().eq(frames()));
    assert_eq!((found.lost, told.chunks), (0, found.kinds.len() as u64));
    found.kinds.dedup();
    use Kind::*;
    let order = [
        BlackBox, MemoryMap, Notes, KernelLog, Pages, PayloadLog, Index, Trailer,
    ];
    assert_eq!(found.kinds, order);
    // Nothing but the slot was touched.
    let slot = superblock.slot(0).unwrap();
    let stream_start = slot.stream_start().0;
    let (from, to) = (START + slot.start.0, START + slot.start.0 + slot.len);
    for range in [0..from as usize, to as usize..before.len()] {
        assert!(disk.bytes[range.clone()] == before[range]);
    }
    // What must be durable before what follows: a header's copies, black box, trailer.
    let [a, b] = [0, 1].map(|copy| slot.header(copy).0);
    let trailer = stream_start + told.stream_len - 4096;
    for (first, then) in [(a, b), (stream_start, stream_start + 4096), (trailer, a)] {
        assert!(
            disk.durable_before(START + first, START + then),
            "{first:#x}"
        );
    }
    // The trailer tells the device, and what was written to it: header and stream before it.
    let records = trailer + data_offset(0) as u64;
    let told_by: Vec<_> =
        kdraw_format::records::records(&disk.bytes[(START + records) as usize..]).collect();
    let record = |tag| told_by.iter().find(|record| record.0 == tag).map(|it| it.1);
    assert_eq!(record(tag::DEVICE), Some(&b"fake disk"[..]));
    let written = record(tag::WRITTEN).unwrap().first_chunk::<8>().unwrap();
    let before = u64::from_le_bytes(*written) - told.stream_len + 4096;
    assert_eq!(before % 4096, 0);
    assert!((2 * 4096..16 * 4096).contains(&before), "{before}");
    // Strictly forward: nothing is written twice but the slot's headers.
    let stream = START + stream_start;
    let mut ends: Vec<_> = disk.writes.iter().filter(|w| w.start >= stream).collect();
    ends.sort_by_key(|write| write.start);
    assert!(ends.windows(2).all(|pair| pair[0].end == pair[1].start));
}

#[test]
fn unreadable_frames_become_runs() {
    let superblock = superblock(1);
    let mut disk = disk(&superblock);
    // Alone, in a row, first and last of a chunk, and a whole chunk of 64 and more.
    let mut unreadable: Vec<u64> = vec![0x40005, 0x40010, 0x40011, 0x4003f, 0x40040, 0x4019f];
    unreadable.extend(0x40000 + 126..0x40000 + 194);
    unreadable.sort_unstable();
    let capture = Capture {
        memory: FakeMemory {
            unreadable: unreadable.clone(),
        },
        ..Capture::new(1)
    };
    let told = dump(&capture, &mut disk, &superblock);
    assert_eq!(told.outcome, Outcome::Truncated);
    assert_eq!(told.unreadable, unreadable.len() as u64);
    let mut found = read(&disk, &superblock, 0);
    found.unreadable.sort_unstable();
    assert_eq!(found.unreadable, unreadable);
    let readable = frames().filter(|pfn| !unreadable.contains(pfn));
    assert!(found.known().into_iter().eq(readable));
}

#[test]
fn any_number_of_cpus_makes_the_same_dump() {
    let superblock = superblock(1);
    let unreadable = vec![0x40005, 0x40010, 0x40011, 0x40100];
    use Diligence::{DiesAfter, Works};
    let crews: [&[Diligence]; 6] = [
        &[],
        &[Works],
        &[Works, Works, Works],
        &[DiesAfter(0)],
        &[DiesAfter(1), Works],
        &[DiesAfter(0), DiesAfter(0), DiesAfter(2)],
    ];
    for codec in [Codec::Raw, Codec::Lz4, Codec::Deflate] {
        for workers in crews {
            let mut disk = disk(&superblock);
            let capture = Capture {
                memory: FakeMemory {
                    unreadable: unreadable.clone(),
                },
                codec,
                workers: workers.to_vec(),
                ..Capture::new(1)
            };
            let told = dump(&capture, &mut disk, &superblock);
            let found = read(&disk, &superblock, 0);
            let mut lost = found.unreadable.clone();
            lost.sort_unstable();
            assert_eq!((found.lost, lost), (0, unreadable.clone()), "{workers:?}");
            let readable = frames().filter(|pfn| !unreadable.contains(pfn));
            assert!(found.known().into_iter().eq(readable), "{workers:?}");
            assert_eq!(told.frames, found.stored.len() as u64);
            assert_eq!(told.filled, found.filled.len() as u64);
            // Noise does not shrink, so those chunks are raw; the text frames do.
            assert_eq!(found.packed > 0, codec != Codec::Raw);
            // Only the first CPU has memory to deflate; what others pack, they pack by LZ4.
            let alone = workers.is_empty() && codec == Codec::Deflate;
            assert!(found.deflated == 0 || codec == Codec::Deflate);
            assert!(!alone || found.deflated == found.packed);
            let raw = found.kinds.iter().filter(|kind| **kind == Kind::Pages);
            assert!(raw.count() > found.packed);
        }
    }
}

#[test]
fn a_full_slot_and_a_used_up_budget_end_with_a_trailer() {
    let small = Superblock::new([0x5a; 16], START, MIN_PARTITION, 1, false).unwrap();
    let roomy = superblock(1);
    let hasty = Capture {
        budget_us: 3,
        ..Capture::new(1)
    };
    for (superblock, capture) in [(small, Capture::new(1)), (roomy, hasty)] {
        let mut disk = disk(&superblock);
        let told = dump(&capture, &mut disk, &superblock);
        assert_eq!(told.outcome, Outcome::Truncated);
        let found = read(&disk, &superblock, 0);
        assert_eq!((found.kinds.last(), found.lost), (Some(&Kind::Trailer), 0));
        let known = found.known();
        assert!(!known.is_empty() && known.len() < frames().count());
        assert!(frames().zip(&known).all(|(a, b)| a == *b));
    }
}

#[test]
fn a_log_of_any_length_leaves_room_for_the_end() {
    // With 228 KiB of log, the pages would leave room for one block and three are needed.
    for len in [0, 228 << 10, 700 << 10, 3 << 20] {
        let superblock = Superblock::new([0x5a; 16], START, MIN_PARTITION, 1, false).unwrap();
        let mut disk = disk(&superblock);
        let capture = Capture {
            log: vec![b'.'; len],
            ..Capture::new(1)
        };
        dump(&capture, &mut disk, &superblock);
        let found = read(&disk, &superblock, 0);
        assert_eq!((found.kinds.last(), found.lost), (Some(&Kind::Trailer), 0));
        assert_eq!(found.kinds.contains(&Kind::KernelLog), len > 0);
    }
}

#[test]
fn when_every_slot_is_taken_only_the_journal_is_written() {
    let superblock = superblock(2);
    let mut disk = disk(&superblock);
    for (id, slot) in [(1, 0), (2, 1)] {
        assert_eq!(dump(&Capture::new(id), &mut disk, &superblock).index, slot);
    }
    // Ten records into a ring of eight.
    let (head, data) = (JOURNAL_START as usize, 1 << 20);
    let slots = disk.partition_bytes()[data..].to_vec();
    for id in 10..20 {
        let captured = Capture::new(id).onto(&mut disk, &superblock);
        assert_eq!(captured, Ok(None));
    }
    assert!(disk.partition_bytes()[data..] == slots[..]);
    let ids: Vec<u8> = (0..8)
        .map(|index| disk.partition_bytes()[head + index * (32 << 10) + 32])
        .collect();
    assert_eq!(ids, [18, 19, 12, 13, 14, 15, 16, 17]);

    // An extracted one makes room.
    set_header(&mut disk, &superblock, 1, |header| {
        header.extracted = Some(1)
    });
    assert_eq!(dump(&Capture::new(3), &mut disk, &superblock).index, 1);
    assert_eq!(read(&disk, &superblock, 1).lost, 0);
}

/// Changes a slot's header.
fn set_header(
    disk: &mut FakeDisk,
    superblock: &Superblock,
    index: u32,
    change: impl FnOnce(&mut SlotHeader),
) {
    let mut header = header(disk, superblock, index);
    change(&mut header);
    let clock = FakeClock::new(1);
    let mut partition = Partition::open(disk, &clock, &target(superblock), buffers(1)).unwrap();
    write_header(&mut partition, &superblock.slot(index).unwrap(), &header).unwrap();
}

#[test]
fn overwriting_takes_the_oldest_if_it_is_allowed() {
    let mut superblock = superblock(3);
    superblock.overwrite = true;
    let mut disk = disk(&superblock);
    for slot in [0, 1, 2] {
        dump(&Capture::new(slot), &mut disk, &superblock);
        set_header(&mut disk, &superblock, slot.into(), |header| {
            header.generation = [9, 4, 7][usize::from(slot)];
        });
    }
    assert_eq!(dump(&Capture::new(7), &mut disk, &superblock).index, 1);
    // A slot whose header is lost may hold a dump: it is neither free nor oldest.
    let slot = superblock.slot(0).unwrap();
    let at = (START + slot.start.0) as usize;
    disk.bytes[at..at + 8192].fill(0);
    let clock = FakeClock::new(1);
    let mut partition =
        Partition::open(&mut disk, &clock, &target(&superblock), buffers(1)).unwrap();
    let (place, _) = choose_slot(&mut partition).unwrap().unwrap();
    assert_eq!(place.index, 1);
}

#[test]
fn a_device_that_fails_ends_the_dump_only_where_nothing_can_be_written_elsewhere() {
    let superblock = superblock(1);
    let slot = superblock.slot(0).unwrap();
    let headers = [0, 1].map(|copy| superblock.partition_start + slot.header(copy).0);
    let whole = {
        let mut disk = disk(&superblock);
        dump(&Capture::new(1), &mut disk, &superblock);
        disk
    };
    let mut elsewhere = 0;
    for (number, write) in whole.writes.iter().enumerate() {
        let mut disk = disk(&superblock);
        disk.mode = Mode::FailWrite(number);
        let captured = Capture::new(1).onto(&mut disk, &superblock);
        if headers.contains(&write.start) {
            let error = TargetError::Device(DeviceError::Io { status: 1 });
            assert_eq!(captured, Err(error), "write {number}");
        } else {
            assert!(captured.is_ok(), "write {number}: {captured:?}");
            assert_eq!(disk.writes.len(), whole.writes.len() + 1);
            elsewhere += 1;
        }
    }
    assert!(elsewhere > 5);

    for (mode, error) in [
        (Mode::ReadOnly, DeviceError::ReadOnly),
        (Mode::FailAllFrom(6), DeviceError::Io { status: 1 }),
    ] {
        let mut disk = disk(&superblock);
        disk.mode = mode;
        let captured = Capture::new(1).onto(&mut disk, &superblock);
        assert_eq!(captured, Err(TargetError::Device(error)), "{mode:?}");
    }
}

#[test]
fn silence_ends_within_the_bound() {
    let superblock = superblock(1);
    // In the table, the headers, the black box, the pages.
    for requests in [0, 2, 5, 7, 12] {
        let mut disk = disk(&superblock);
        disk.mode = Mode::SilentAfter(requests);
        let captured = Capture::new(1).onto(&mut disk, &superblock);
        let error = captured.expect_err("a device that is silent");
        assert!(
            matches!(error, TargetError::Device(DeviceError::Timeout(_))),
            "after {requests} requests: {error}"
        );
    }
    // The clock goes on by one per look: so many looks, and the wait is over.
    let mut disk = disk(&superblock);
    disk.mode = Mode::SilentAfter(0);
    let clock = FakeClock::new(1);
    let _ = Partition::open(&mut disk, &clock, &target(&superblock), buffers(1));
    use kdraw_pipeline::ports::Clock as _;
    assert!(clock.now_us() <= REQUEST_TIMEOUT_US + 10);
}
