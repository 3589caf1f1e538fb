//! The dump partition: the one way to the target, and the checks that open it.
//!
//! Nothing is written through anything but [`Partition`], and it exists only after the disk's
//! own partition table, the superblock's UUID and its range all agreed with the plan
//! (docs/design.md, law 2). Every block address goes through one function, `Partition::lba`.

use kdraw_format::addr::{Lba, PartOffset};
use kdraw_format::layout::{BLOCK, LayoutError, START_UNKNOWN, Superblock};
use kdraw_format::partition_table::partitions;
use kdraw_format::plan::Target;
use kdraw_format::walk::{ReadAt, ReadFailed};
use kdraw_format::working_memory::{MAX_WORKERS, stored_buffers};

use crate::ports::{BlockDevice, Clock, Deadline, DeviceError, DmaBuffer, Operation, Request};

/// Why the target is refused or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The device failed.
    #[error("target device: {0}")]
    Device(#[from] DeviceError),
    /// The plan's range does not lie on the device, or not on its blocks.
    #[error(
        "the plan's partition (byte {start}, {len} bytes) does not fit the disk of {disk} bytes"
    )]
    RangeOutside {
        /// First byte of the partition in the plan.
        start: u64,
        /// Its length in bytes.
        len: u64,
        /// The disk's length in bytes.
        disk: u64,
    },
    /// The disk's partition table has no partition with the plan's range.
    #[error(
        "the disk has no partition at byte {start} with {len} bytes any more; run kdraw load again"
    )]
    PartitionMoved {
        /// First byte of the partition in the plan.
        start: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Neither copy of the superblock can be used.
    #[error("the partition is not signed for kdraw: {0}")]
    NotSigned(LayoutError),
    /// The partition was formatted again since the plan was made.
    #[error("the partition's UUID is not the plan's; run kdraw load again")]
    UuidDiffers,
    /// The superblock was written for another place or length.
    #[error("the superblock was written for byte {start}, {len} bytes; the plan differs")]
    RangeDiffers {
        /// First byte of the partition in the superblock.
        start: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// A write outside the partition was asked for: a defect in the payload.
    #[error("write at {at}, {len} bytes, leaves the partition")]
    OutOfBounds {
        /// Where in the partition.
        at: PartOffset,
        /// How many bytes.
        len: u64,
    },
    /// A chunk could not be built: a defect in the payload.
    #[error("chunk: {0}")]
    Chunk(#[from] kdraw_format::chunk::ChunkError),
    /// No header can be made for a plain core.
    #[error("{0}")]
    Core(#[from] kdraw_linux::core_elf::CoreElfError),
}

/// A signed partition, opened for one dump.
pub struct Partition<'a> {
    device: &'a mut dyn BlockDevice,
    clock: &'a dyn Clock,
    superblock: Superblock,
    start: u64,
    block_size: u64,
    free: heapless::Vec<DmaBuffer, MAX_BUFFERS>,
    in_flight: usize,
    queue_depth: usize,
    /// Whether a write that failed is kept for [`Partition::take_failed`].
    keeps_failed: bool,
    failed: heapless::Vec<DmaBuffer, MAX_FAILED>,
    /// How many writes failed and were kept, and how the last one did.
    failures: u32,
    failure: DeviceError,
    /// Bytes of all writes.
    written: u64,
    /// Microseconds during which something was in flight, until the last time that nothing was.
    busy_us: u64,
    /// Since when something is in flight.
    busy_since_us: u64,
}

/// Failed writes that are kept at a time.
const MAX_FAILED: usize = 8;
/// With more failed writes than this the device is given up: each may have taken its time.
const MAX_FAILURES: u32 = 16;

/// The most buffers that a partition can be given.
pub const MAX_BUFFERS: usize = stored_buffers(MAX_WORKERS);

impl<'a> Partition<'a> {
    /// Opens the plan's target on `device`, with `buffers` to work with (at least one, each
    /// of at least [`BLOCK`] bytes).
    ///
    /// # Errors
    /// Why the target is refused; nothing was written then.
    pub fn open(
        device: &'a mut dyn BlockDevice,
        clock: &'a dyn Clock,
        target: &Target,
        buffers: impl IntoIterator<Item = DmaBuffer>,
    ) -> Result<Self, TargetError> {
        let geometry = device.geometry();
        let block_size = u64::from(geometry.block_size);
        let disk = geometry.blocks.saturating_mul(block_size);
        let (start, len) = (target.partition_start, target.partition_len);
        let aligned = |value: u64| value.checked_rem(block_size) == Some(0);
        let inside = start.checked_add(len).is_some_and(|end| end <= disk);
        if !(512..=BLOCK as u64).contains(&block_size)
            || !inside
            || !aligned(start)
            || !aligned(len)
        {
            return Err(TargetError::RangeOutside { start, len, disk });
        }
        let mut this = Self {
            device,
            clock,
            superblock: Superblock::new([0; 16], 0, u64::MAX, 1, true)
                .map_err(TargetError::NotSigned)?,
            start,
            block_size,
            free: heapless::Vec::new(),
            in_flight: 0,
            queue_depth: geometry.queue_depth,
            keeps_failed: false,
            failed: heapless::Vec::new(),
            failures: 0,
            failure: DeviceError::Unusable("no buffer is left"),
            written: 0,
            busy_us: 0,
            busy_since_us: 0,
        };
        this.give(buffers);
        if !target.unchecked_table {
            this.check_table(start, len)?;
        }
        this.superblock = this.read_superblock(len)?;
        if this.superblock.uuid != target.uuid {
            return Err(TargetError::UuidDiffers);
        }
        let signed_start = this.superblock.partition_start;
        if this.superblock.partition_len != len
            || (signed_start != start && signed_start != START_UNKNOWN)
        {
            return Err(TargetError::RangeDiffers {
                start: signed_start,
                len: this.superblock.partition_len,
            });
        }
        Ok(this)
    }

    /// What the partition was formatted as.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The clock that bounds every wait here.
    pub fn clock(&self) -> &'a dyn Clock {
        self.clock
    }

    /// Bytes written so far, and the microseconds during which something was in flight.
    pub fn written(&self) -> (u64, u64) {
        let now = match self.in_flight {
            0 => 0,
            _ => self.clock.now_us().saturating_sub(self.busy_since_us),
        };
        (self.written, self.busy_us.saturating_add(now))
    }

    /// The device.
    pub fn device(&self) -> &dyn BlockDevice {
        &*self.device
    }

    fn check_table(&mut self, start: u64, len: u64) -> Result<(), TargetError> {
        let block_size = self.block_size;
        let mut found = false;
        let mut disk = WholeDisk {
            partition: self,
            failed: None,
        };
        let table = partitions(&mut disk, block_size, |partition| {
            found = partition.start == start && partition.len == len;
            !found
        });
        if let Some(error) = disk.failed {
            return Err(error);
        }
        if table.is_err() || !found {
            return Err(TargetError::PartitionMoved { start, len });
        }
        Ok(())
    }

    fn read_superblock(&mut self, len: u64) -> Result<Superblock, TargetError> {
        let mut block = [0; BLOCK];
        self.read(PartOffset(0), len, &mut block)?;
        Superblock::decode(&block).or_else(|first| {
            self.read(Superblock::second_copy(len), len, &mut block)?;
            Superblock::decode(&block).map_err(|_| TargetError::NotSigned(first))
        })
    }

    /// Turns an offset in the partition into a block address on the disk: the one place that
    /// does, and that checks the bounds.
    fn lba(&self, at: PartOffset, len: u64, partition_len: u64) -> Result<Lba, TargetError> {
        let outside = TargetError::OutOfBounds { at, len };
        let end = at.0.checked_add(len).ok_or(outside)?;
        let byte = self.start.checked_add(at.0).ok_or(outside)?;
        if end > partition_len || len == 0 || byte.checked_rem(self.block_size) != Some(0) {
            return Err(outside);
        }
        byte.checked_div(self.block_size).map(Lba).ok_or(outside)
    }

    /// Reads one block of the partition, waiting for it.
    ///
    /// # Errors
    /// [`TargetError::OutOfBounds`], or what the device answered.
    pub fn read_block(
        &mut self,
        at: PartOffset,
        block: &mut [u8; BLOCK],
    ) -> Result<(), TargetError> {
        self.read(at, self.superblock.partition_len, block)
    }

    fn read(
        &mut self,
        at: PartOffset,
        partition_len: u64,
        block: &mut [u8; BLOCK],
    ) -> Result<(), TargetError> {
        let lba = self.lba(at, BLOCK as u64, partition_len)?;
        self.read_lba(lba, block)
    }

    fn read_lba(&mut self, lba: Lba, into: &mut [u8]) -> Result<(), TargetError> {
        let buffer = self.buffer()?;
        let request = Request {
            operation: Operation::Read,
            lba,
            len: into.len(),
            buffer,
        };
        self.start_request(request)?;
        // Nothing else is in flight here: the next completion is this one.
        let buffer = self.wait()?.ok_or(self.failure)?;
        let result = match buffer.bytes.get(..into.len()) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(TargetError::Device(DeviceError::BadRequest)),
        };
        self.release(buffer);
        result
    }

    /// Takes a buffer to fill, waiting for a write to end if all are in flight.
    ///
    /// # Errors
    /// What a write that ended meanwhile failed with, or the device's silence.
    pub fn buffer(&mut self) -> Result<DmaBuffer, TargetError> {
        loop {
            if let Some(buffer) = self.free.pop() {
                return Ok(buffer);
            }
            if self.in_flight == 0 {
                return Err(self.failure.into());
            }
            if let Some(buffer) = self.wait()? {
                return Ok(buffer);
            }
        }
    }

    /// Takes a buffer to fill if there is one; looks at what has ended meanwhile, never waits.
    ///
    /// # Errors
    /// What a write that ended meanwhile failed with.
    pub fn free_buffer(&mut self) -> Result<Option<DmaBuffer>, TargetError> {
        while let Some(buffer) = self.ended()? {
            self.release(buffer);
        }
        Ok(self.free.pop())
    }

    /// Whether there are buffers here: free, or in flight and coming back.
    pub fn has_buffers(&self) -> bool {
        !self.free.is_empty() || self.in_flight > 0
    }

    /// Gives more buffers to work with, [`MAX_BUFFERS`] in all.
    pub fn give(&mut self, buffers: impl IntoIterator<Item = DmaBuffer>) {
        let room = MAX_BUFFERS.saturating_sub(self.free.len().saturating_add(self.in_flight));
        for buffer in buffers.into_iter().take(room) {
            self.release(buffer);
        }
    }

    /// Gives back a buffer unused.
    pub fn release(&mut self, buffer: DmaBuffer) {
        // Cannot be full: only buffers that came from here come back.
        let _ = self.free.push(buffer);
    }

    /// Starts to write the first `len` bytes of `buffer` at `at`; returns at once unless the
    /// device's queue is full.
    ///
    /// # Errors
    /// [`TargetError::OutOfBounds`], or what the device answered.
    pub fn write(
        &mut self,
        at: PartOffset,
        buffer: DmaBuffer,
        len: usize,
    ) -> Result<(), TargetError> {
        let lba = match self.lba(at, len as u64, self.superblock.partition_len) {
            Ok(lba) => lba,
            Err(error) => {
                self.release(buffer);
                return Err(error);
            }
        };
        while self.in_flight >= self.queue_depth {
            if let Some(done) = self.wait()? {
                self.release(done);
            }
        }
        self.start_request(Request {
            operation: Operation::Write,
            lba,
            len,
            buffer,
        })
    }

    /// Waits until nothing is in flight, then until the device says that all is durable.
    ///
    /// # Errors
    /// What a write or the flush failed with, a kept one too.
    pub fn flush(&mut self) -> Result<(), TargetError> {
        self.drain()?;
        if !self.failed.is_empty() {
            return Err(self.failure.into());
        }
        let deadline = self.patience();
        Ok(self.device.flush(self.clock, deadline)?)
    }

    /// Waits until nothing is in flight.
    ///
    /// # Errors
    /// What a write failed with that is not kept, or the device's silence.
    pub fn drain(&mut self) -> Result<(), TargetError> {
        while self.in_flight > 0 {
            if let Some(buffer) = self.wait()? {
                self.release(buffer);
            }
        }
        Ok(())
    }

    /// From now on a write that the device answers with an I/O error is kept, and no error until
    /// [`Partition::flush`]: whoever writes takes it back with [`Partition::take_failed`] before.
    pub fn keep_failed(&mut self) {
        self.keeps_failed = true;
    }

    /// Takes the buffer of a write that failed, as it was to be written.
    pub fn take_failed(&mut self) -> Option<DmaBuffer> {
        self.failed.pop()
    }

    /// How many failed writes were kept, and how the last one failed.
    pub fn failures(&self) -> (u32, DeviceError) {
        (self.failures, self.failure)
    }

    /// When a request that is begun now has taken too long.
    pub fn patience(&self) -> Deadline {
        self.clock.deadline(self.device.patience_us())
    }

    fn start_request(&mut self, request: Request) -> Result<(), TargetError> {
        let written = match request.operation {
            Operation::Read => 0,
            Operation::Write => request.len as u64,
        };
        if self.in_flight == 0 {
            self.busy_since_us = self.clock.now_us();
        }
        match self.device.start(request) {
            Ok(()) => {
                self.written = self.written.saturating_add(written);
                self.in_flight = self.in_flight.saturating_add(1);
                Ok(())
            }
            Err((error, buffer)) => {
                self.release(buffer);
                Err(error.into())
            }
        }
    }

    /// Waits for any request to end and takes its buffer; `None` if it failed and is kept.
    fn wait(&mut self) -> Result<Option<DmaBuffer>, TargetError> {
        let deadline = self.patience();
        let failures = self.failures;
        loop {
            if let Some(buffer) = self.ended()? {
                return Ok(Some(buffer));
            }
            if self.failures != failures {
                return Ok(None);
            }
            if deadline.passed(self.clock) {
                return Err(DeviceError::Timeout("a request was never completed").into());
            }
            core::hint::spin_loop();
        }
    }

    /// Takes the buffer of a request that has ended, if there is one.
    fn ended(&mut self) -> Result<Option<DmaBuffer>, TargetError> {
        let Some(done) = self.device.poll() else {
            return Ok(None);
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            let now = self.clock.now_us().saturating_sub(self.busy_since_us);
            self.busy_us = self.busy_us.saturating_add(now);
        }
        match done.result {
            Ok(()) => Ok(Some(done.buffer)),
            Err(error) => {
                let bad_place = matches!(error, DeviceError::Io { .. });
                if self.keeps_failed && bad_place && self.failures < MAX_FAILURES {
                    self.failures = self.failures.saturating_add(1);
                    self.failure = error;
                    return match self.failed.push(done.buffer) {
                        Ok(()) => Ok(None),
                        Err(buffer) => {
                            self.release(buffer);
                            Err(error.into())
                        }
                    };
                }
                self.release(done.buffer);
                Err(error.into())
            }
        }
    }
}

/// The whole disk for the partition table's reader; read-only.
struct WholeDisk<'p, 'a> {
    partition: &'p mut Partition<'a>,
    failed: Option<TargetError>,
}

impl ReadAt for WholeDisk<'_, '_> {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        let failed = ReadFailed { offset };
        let block_size = self.partition.block_size;
        let first = offset.checked_div(block_size).ok_or(failed)?;
        let skip = offset.checked_rem(block_size).ok_or(failed)? as usize;
        // Table entries are at most one sector: two blocks always hold what is asked for.
        let mut blocks = [0; 2 * BLOCK];
        let need = skip
            .saturating_add(into.len())
            .checked_next_multiple_of(block_size as usize);
        let piece = need.and_then(|need| blocks.get_mut(..need)).ok_or(failed)?;
        if let Err(error) = self.partition.read_lba(Lba(first), piece) {
            self.failed = Some(error);
            return Err(failed);
        }
        let bytes = piece
            .get(skip..)
            .and_then(|rest| rest.get(..into.len()))
            .ok_or(failed)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}
