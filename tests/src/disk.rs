//! A disk in memory that works slowly, in any order, and fails on demand; and a clock.

use std::cell::Cell;
use std::ops::Range;

use kdraw_format::layout::{BLOCK, Superblock};
use kdraw_format::plan::Target;
use kdraw_format::slot::SlotHeader;
use kdraw_format::walk::{ReadAt, ReadFailed};
use kdraw_pipeline::dump::CHUNK_BUFFER;
use kdraw_pipeline::ports::{
    BlockDevice, Clock, Completion, Deadline, DeviceError, DmaBuffer, Geometry, Operation, Request,
};

use crate::memory::Random;

/// Bytes in a sector.
pub const SECTOR: u64 = 512;

/// Bytes that a dump is read from.
pub struct Bytes<'a>(pub &'a [u8]);

impl ReadAt for Bytes<'_> {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        let bytes = self.0.get(offset as usize..).ok_or(ReadFailed { offset })?;
        into.copy_from_slice(bytes.get(..into.len()).ok_or(ReadFailed { offset })?);
        Ok(())
    }
}

/// A clock that goes on whenever someone looks at it.
#[derive(Debug)]
pub struct FakeClock {
    now: Cell<u64>,
    step: u64,
}

impl FakeClock {
    /// Goes on by `step` microseconds per look.
    pub fn new(step: u64) -> Self {
        Self {
            now: Cell::new(0),
            step,
        }
    }
}

impl Clock for FakeClock {
    fn now_us(&self) -> u64 {
        self.now.set(self.now.get() + self.step);
        self.now.get()
    }
}

/// How the disk treats requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Does them all.
    Good,
    /// Answers this write, counted from 0, with an error.
    FailWrite(usize),
    /// Answers this write, counted from 0, and all later ones with an error.
    FailAllFrom(usize),
    /// Never answers again after this many requests.
    SilentAfter(usize),
    /// Refuses every write.
    ReadOnly,
}

/// The disk. A write outside of the one partition that may be written is a panic.
#[derive(Debug)]
pub struct FakeDisk {
    /// What is on it.
    pub bytes: Vec<u8>,
    /// How it behaves.
    pub mode: Mode,
    /// Bytes that may be written.
    pub partition: Range<u64>,
    /// Every write that was done.
    pub writes: Vec<Range<u64>>,
    /// How many writes had been done at each flush.
    pub flushes: Vec<usize>,
    in_flight: Vec<Request>,
    requests: usize,
    random: Random,
}

impl FakeDisk {
    /// Requests that it takes at once.
    pub const QUEUE_DEPTH: usize = 3;

    /// A disk of these bytes, on which only `partition` may be written.
    pub fn new(bytes: Vec<u8>, partition: Range<u64>) -> Self {
        Self {
            bytes,
            mode: Mode::Good,
            partition,
            writes: Vec::new(),
            flushes: Vec::new(),
            in_flight: Vec::new(),
            requests: 0,
            random: Random(1),
        }
    }

    /// A disk of `len` bytes with an MBR that names one partition, signed with `superblock` and
    /// its slots empty.
    pub fn signed(len: u64, superblock: &Superblock) -> Self {
        let start = superblock.partition_start;
        let end = start + superblock.partition_len;
        let mut bytes = vec![0; len as usize];
        put_mbr(&mut bytes, start, superblock.partition_len);
        let mut block = [0; BLOCK];
        let mut put = |at: u64, block: &[u8]| {
            bytes[(start + at) as usize..][..BLOCK].copy_from_slice(block);
        };
        superblock.encode(&mut block);
        put(0, &block);
        put(Superblock::second_copy(superblock.partition_len).0, &block);
        for index in 0..superblock.slots {
            let slot = superblock.slot(index).unwrap();
            let header = SlotHeader {
                index,
                generation: 1,
                ..SlotHeader::default()
            };
            header.encode(&mut block);
            put(slot.header(0).0, &block);
            put(slot.header(1).0, &block);
        }
        Self::new(bytes, start..end)
    }

    /// The partition's bytes.
    pub fn partition_bytes(&self) -> &[u8] {
        &self.bytes[self.partition.start as usize..self.partition.end as usize]
    }

    /// Whether the last write at byte `first` was durable before the last one at byte `then`.
    pub fn durable_before(&self, first: u64, then: u64) -> bool {
        let last = |byte| self.writes.iter().rposition(|write| write.start == byte);
        let between =
            |flushed: &usize| last(first) < Some(*flushed) && Some(*flushed) <= last(then);
        last(first).is_some() && self.flushes.iter().any(between)
    }

    fn do_it(&mut self, request: &mut Request) -> Result<(), DeviceError> {
        let start = request.lba.0 * SECTOR;
        let range = start..start + request.len as u64;
        let medium = &mut self.bytes[range.start as usize..range.end as usize];
        let memory = &mut request.buffer.bytes[..request.len];
        match request.operation {
            Operation::Read => memory.copy_from_slice(medium),
            Operation::Write => {
                let fails = match self.mode {
                    Mode::FailWrite(write) => write == self.writes.len(),
                    Mode::FailAllFrom(write) => write <= self.writes.len(),
                    _ => false,
                };
                self.writes.push(range);
                if fails {
                    return Err(DeviceError::Io { status: 1 });
                }
                medium.copy_from_slice(memory);
            }
        }
        Ok(())
    }

    fn is_silent(&self) -> bool {
        matches!(self.mode, Mode::SilentAfter(requests) if self.requests > requests)
    }
}

/// Writes an MBR with one partition.
pub fn put_mbr(disk: &mut [u8], start: u64, len: u64) {
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 12].copy_from_slice(&((start / SECTOR) as u32).to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&((len / SECTOR) as u32).to_le_bytes());
}

/// The plan's target for a partition that is signed so.
pub fn target(superblock: &Superblock) -> Target {
    Target {
        controller: Default::default(),
        pci: None,
        namespace: 0,
        card: None,
        partition_start: superblock.partition_start,
        partition_len: superblock.partition_len,
        uuid: superblock.uuid,
        unchecked_table: false,
    }
}

/// Memory for a partition: `count` buffers for chunks.
pub fn buffers(count: usize) -> Vec<DmaBuffer> {
    (0..count)
        .map(|_| DmaBuffer {
            bytes: vec![0xee; CHUNK_BUFFER].leak(),
            device_addr: 0,
        })
        .collect()
}

impl BlockDevice for FakeDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: SECTOR as u32,
            blocks: self.bytes.len() as u64 / SECTOR,
            max_transfer: CHUNK_BUFFER as u32,
            queue_depth: Self::QUEUE_DEPTH,
        }
    }

    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)> {
        let start = request.lba.0 * SECTOR;
        let end = start + request.len as u64;
        assert!(request.len > 0 && (request.len as u64).is_multiple_of(SECTOR));
        assert!(request.len <= request.buffer.bytes.len());
        assert!(end <= self.bytes.len() as u64, "request behind the disk");
        assert!(
            self.in_flight.len() < Self::QUEUE_DEPTH,
            "too many requests"
        );
        if request.operation == Operation::Write {
            assert!(
                self.partition.start <= start && end <= self.partition.end,
                "write of {start:#x}-{end:#x}, the partition is {:#x?}",
                self.partition
            );
            if self.mode == Mode::ReadOnly {
                return Err((DeviceError::ReadOnly, request.buffer));
            }
        }
        self.requests += 1;
        self.in_flight.push(request);
        Ok(())
    }

    fn poll(&mut self) -> Option<Completion> {
        // Not at once, and not in order.
        if self.in_flight.is_empty() || self.is_silent() || self.random.below(3) == 0 {
            return None;
        }
        let which = self.random.below(self.in_flight.len() as u64) as usize;
        let mut request = self.in_flight.swap_remove(which);
        let result = self.do_it(&mut request);
        Some(Completion {
            buffer: request.buffer,
            lba: request.lba,
            result,
        })
    }

    fn describe(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        out.write_str("fake disk")
    }

    fn flush(&mut self, clock: &dyn Clock, deadline: Deadline) -> Result<(), DeviceError> {
        assert!(self.in_flight.is_empty(), "flush with requests in flight");
        while self.is_silent() {
            if deadline.passed(clock) {
                return Err(DeviceError::Timeout("flush"));
            }
        }
        self.flushes.push(self.writes.len());
        Ok(())
    }
}
