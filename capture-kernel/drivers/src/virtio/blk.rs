//! The virtio block device (§5.2), polled, several requests in flight.
//!
//! # Procedure
//! Bringing it up (§3.1.1; every wait ends at the caller's deadline):
//! 1. Reset: status 0, wait until it reads 0. Until then the device may write to memory of the
//!    dead kernel, whose rings it still has.
//! 2. Status ACKNOWLEDGE, then DRIVER.
//! 3. Features: of what is offered take VERSION_1, ORDER_PLATFORM, SIZE_MAX, RO, BLK_SIZE and
//!    FLUSH. No packed ring, no indirect descriptors, no event index: one simple queue is enough.
//! 4. Modern: status FEATURES_OK, and check that it sticks.
//! 5. Read the configuration: capacity, limits, block size (§5.2.4).
//! 6. Lay out queue 0 and give it to the device.
//! 7. Status DRIVER_OK.
//!
//! If a step fails the device is told FAILED and the error says which.
//!
//! A request (§5.2.6) is three descriptors: header, data, status byte; a flush has no data. One
//! data descriptor always respects SEG_MAX, and a maximum transfer of SIZE_MAX respects that.
//! No interrupt is asked for; the doorbell is rung for each request.
//!
//! Without FLUSH (and without CONFIG_WCE, which is not taken) the device writes through
//! (§5.2.5.2), so there is nothing to flush.
//!
//! # Memory
//! [`MEMORY_BYTES`] of the buffer given are used: the [queue](super::queue), at 6144 a 16-byte
//! header for each chain, at 7168 a status byte for each.
//!
//! # When the device lies
//! A ring entry that makes no sense, or one request too many, breaks the device for good: it is
//! asked to reset, all requests in flight come back with the error, later ones are refused.

use core::fmt;

use kdraw_format::addr::Lba;
use kdraw_pipeline::ports::{
    BlockDevice, Clock, Completion, Deadline, DeviceError, DmaBuffer, Geometry, Operation, Request,
};
use tock_registers::interfaces::{Readable, Writeable};

use super::queue::{CHAINS_MAX, QUEUE_BYTES, Queue, Segment};
use super::{Transport, negotiate, read_config, reset, status};
use crate::dma::DmaMemory;
use crate::registers::{Offset, Registers};

/// Bytes of memory that the driver shares with the device.
pub const MEMORY_BYTES: usize = 8192;

/// The most bytes in one request, whatever the device allows.
pub const MAX_TRANSFER: u32 = 1 << 20;

const DEVICE_TYPE: u32 = 2;

mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
}

// struct virtio_blk_config.
const CAPACITY: usize = 0;
const SIZE_MAX: usize = 8;
const BLOCK_SIZE: usize = 20;

/// What capacity and requests count in, whatever the block size is.
const SECTOR: u32 = 512;

// struct virtio_blk_req.
const TYPE_READ: u32 = 0;
const TYPE_WRITE: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const STATUS_OK: u8 = 0;
/// Not a status of any device: it has written none.
const STATUS_UNSET: u8 = 0xff;
const HEADER_BYTES: u32 = 16;

/// Where headers begin in the driver's memory, behind the queue.
const HEADERS: usize = 6144;
/// Where status bytes begin, counted from the first header.
const STATUSES: usize = 1024;

const _: () = assert!(
    QUEUE_BYTES <= HEADERS
        && CHAINS_MAX as usize * HEADER_BYTES as usize <= STATUSES
        && HEADERS + STATUSES + CHAINS_MAX as usize <= MEMORY_BYTES
);

/// What a chain of descriptors is used for.
#[derive(Debug)]
enum Chain {
    Free,
    InFlight(Job),
    Done(Job, Result<(), DeviceError>),
}

/// What the device was asked for.
#[derive(Debug)]
enum Job {
    Transfer(Lba, DmaMemory),
    Flush,
    /// A flush that nobody waits for any more.
    Abandoned,
}

/// A virtio block device.
#[derive(Debug)]
pub struct VirtioBlk<T> {
    transport: T,
    queue: Queue,
    /// Headers and status bytes.
    records: DmaMemory,
    chains: [Chain; CHAINS_MAX as usize],
    geometry: Geometry,
    read_only: bool,
    flushable: bool,
    /// Why nothing works any more.
    broken: Option<DeviceError>,
}

impl<T: Transport> VirtioBlk<T> {
    /// Resets the device behind `transport` and brings it up with its queue in `memory`
    /// ([`MEMORY_BYTES`] or more, 4 KiB aligned, physically contiguous).
    ///
    /// # Errors
    /// [`DeviceError::Timeout`] if it is not up at `deadline`; [`DeviceError::NotFound`] if it
    /// is no block device; [`DeviceError::Unusable`] if what it says makes no sense.
    pub fn new(
        mut transport: T,
        memory: DmaBuffer,
        clock: &dyn Clock,
        deadline: Deadline,
    ) -> Result<Self, DeviceError> {
        if transport.device_type() != DEVICE_TYPE {
            return Err(DeviceError::NotFound("virtio device is not a block device"));
        }
        reset(&mut transport, clock, deadline)?;
        Self::bring_up(&mut transport, memory, clock, deadline)
            .inspect_err(|_| transport.set_status(status::FAILED))
            .map(|up| Self {
                transport,
                queue: up.queue,
                records: up.records,
                chains: [const { Chain::Free }; CHAINS_MAX as usize],
                geometry: up.geometry,
                read_only: up.features & feature::READ_ONLY != 0,
                flushable: up.features & feature::FLUSH != 0,
                broken: None,
            })
    }

    /// Steps 2 to 7.
    fn bring_up(
        transport: &mut T,
        memory: DmaBuffer,
        clock: &dyn Clock,
        deadline: Deadline,
    ) -> Result<Up, DeviceError> {
        let features = negotiate(
            transport,
            feature::SIZE_MAX | feature::READ_ONLY | feature::BLOCK_SIZE | feature::FLUSH,
        )?;
        let config = read_config(transport, clock, deadline, Config::read)?;

        let (queue_memory, records) = crate::dma::split(memory, HEADERS)
            .filter(|(_, records)| records.bytes.len() >= MEMORY_BYTES.saturating_sub(HEADERS))
            .ok_or(DeviceError::Unusable(
                "memory for the virtio device too short",
            ))?;
        let queue = Queue::new(queue_memory, transport.queue_size_max())?;
        let geometry = config.geometry(features, usize::from(queue.chains()))?;
        transport.enable_queue(queue.size(), queue.addresses())?;

        let current = transport.status();
        transport.set_status(current | status::DRIVER_OK);
        Ok(Up {
            features,
            geometry,
            queue,
            records: DmaMemory::new(records),
        })
    }

    /// Finds a chain that nothing is using.
    fn free_chain(&self) -> Result<u16, DeviceError> {
        (0..self.queue.chains())
            .zip(&self.chains)
            .find_map(|(number, chain)| matches!(chain, Chain::Free).then_some(number))
            .ok_or(DeviceError::QueueFull)
    }

    fn set_chain(&mut self, number: u16, state: Chain) {
        if let Some(chain) = self.chains.get_mut(usize::from(number)) {
            *chain = state;
        }
    }

    /// Checks that `request` fits the device, and gives its sector and length.
    fn check(&self, request: &Request) -> Result<(u64, u32), DeviceError> {
        if request.operation == Operation::Write && self.read_only {
            return Err(DeviceError::ReadOnly);
        }
        let len = u32::try_from(request.len).map_err(|_| DeviceError::BadRequest)?;
        let block_size = self.geometry.block_size;
        let blocks = u64::from(len.checked_div(block_size).unwrap_or(0));
        let fits = blocks > 0
            && len.is_multiple_of(block_size)
            && len <= self.geometry.max_transfer
            && request.len <= request.buffer.bytes.len()
            && request
                .buffer
                .device_addr
                .checked_add(u64::from(len))
                .is_some()
            && request
                .lba
                .checked_add(blocks)
                .is_some_and(|end| end.0 <= self.geometry.blocks);
        if !fits {
            return Err(DeviceError::BadRequest);
        }
        // Cannot overflow: the capacity in bytes fits 64 bits.
        let sector = request.lba.0.saturating_mul(u64::from(block_size / SECTOR));
        Ok((sector, len))
    }

    /// Puts a request into chain number `chain` and rings the doorbell.
    fn submit(&mut self, chain: u16, kind: u32, sector: u64, data: Option<Segment>) {
        let header_at = usize::from(chain).saturating_mul(HEADER_BYTES as usize);
        let status_at = STATUSES.saturating_add(usize::from(chain));
        self.records.at(Offset::<u32>::new(header_at)).set(kind);
        self.records
            .at(Offset::<u32>::new(header_at.saturating_add(4)))
            .set(0);
        self.records
            .at(Offset::<u64>::new(header_at.saturating_add(8)))
            .set(sector);
        self.records
            .at(Offset::<u8>::new(status_at))
            .set(STATUS_UNSET);

        let at = |offset: usize| self.records.device_addr().wrapping_add(offset as u64);
        let header = Segment {
            device_addr: at(header_at),
            len: HEADER_BYTES,
            device_writes: false,
        };
        let status = Segment {
            device_addr: at(status_at),
            len: 1,
            device_writes: true,
        };
        let submitted = match data {
            Some(data) => self.queue.submit(chain, [header, data, status]),
            None => self.queue.submit(chain, [header, status]),
        };
        debug_assert!(submitted, "a free chain was in flight");
        self.transport.notify();
    }

    /// Takes from the queue whatever the device is done with.
    fn reap(&mut self) {
        if self.broken.is_some() {
            return;
        }
        loop {
            match self.queue.take_used() {
                Ok(Some(number)) => {
                    let at = STATUSES.saturating_add(usize::from(number));
                    let result = match self.records.at(Offset::<u8>::new(at)).get() {
                        STATUS_OK => Ok(()),
                        status => Err(DeviceError::Io {
                            status: u32::from(status),
                        }),
                    };
                    if let Some(chain) = self.chains.get_mut(usize::from(number)) {
                        chain.end(result);
                    }
                }
                Ok(None) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Gives the device up: asks it to reset and ends all requests in flight.
    fn fail(&mut self, error: DeviceError) {
        self.transport.set_status(0);
        self.broken = Some(error);
        for chain in &mut self.chains {
            chain.end(Err(error));
        }
    }

    /// Takes the result of the flush in chain number `chain`, if it has ended.
    fn take_flush(&mut self, chain: u16) -> Option<Result<(), DeviceError>> {
        let chain = self.chains.get_mut(usize::from(chain))?;
        match *chain {
            Chain::Done(Job::Flush, result) => {
                *chain = Chain::Free;
                Some(result)
            }
            _ => None,
        }
    }
}

impl Chain {
    /// Ends the request in flight with `result`; nothing if there is none.
    fn end(&mut self, result: Result<(), DeviceError>) {
        *self = match core::mem::replace(self, Self::Free) {
            Self::InFlight(Job::Abandoned) => Self::Free,
            Self::InFlight(job) => Self::Done(job, result),
            other => other,
        };
    }
}

impl<T: Transport> BlockDevice for VirtioBlk<T> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)> {
        let ready = match self.broken {
            Some(error) => Err(error),
            None => self
                .check(&request)
                .and_then(|fit| Ok((fit, self.free_chain()?))),
        };
        let ((sector, len), number) = match ready {
            Ok(ready) => ready,
            Err(error) => return Err((error, request.buffer)),
        };
        let (kind, device_writes) = match request.operation {
            Operation::Read => (TYPE_READ, true),
            Operation::Write => (TYPE_WRITE, false),
        };
        let memory = DmaMemory::new(request.buffer);
        let data = Segment {
            device_addr: memory.device_addr(),
            len,
            device_writes,
        };
        self.set_chain(number, Chain::InFlight(Job::Transfer(request.lba, memory)));
        self.submit(number, kind, sector, Some(data));
        Ok(())
    }

    fn poll(&mut self) -> Option<Completion> {
        self.reap();
        self.chains
            .iter_mut()
            .find_map(|chain| match core::mem::replace(chain, Chain::Free) {
                Chain::Done(Job::Transfer(lba, memory), result) => Some(Completion {
                    buffer: memory.into_buffer(),
                    lba,
                    result,
                }),
                other => {
                    *chain = other;
                    None
                }
            })
    }

    fn flush(&mut self, clock: &dyn Clock, deadline: Deadline) -> Result<(), DeviceError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        if !self.flushable {
            return Ok(());
        }
        let number = self.free_chain()?;
        self.set_chain(number, Chain::InFlight(Job::Flush));
        self.submit(number, TYPE_FLUSH, 0, None);

        let mut ended = None;
        crate::wait_until(clock, deadline, || {
            self.reap();
            ended = self.take_flush(number);
            ended.is_some()
        });
        ended.unwrap_or_else(|| {
            self.set_chain(number, Chain::InFlight(Job::Abandoned));
            Err(DeviceError::Timeout("virtio-blk flush"))
        })
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("virtio-blk")
    }
}

/// What bringing a device up gives.
struct Up {
    features: u64,
    geometry: Geometry,
    queue: Queue,
    records: DmaMemory,
}

/// What the device says of itself.
struct Config {
    /// In sectors.
    capacity: u64,
    size_max: u32,
    block_size: u32,
}

impl Config {
    fn read(transport: &impl Transport) -> Self {
        let low = u64::from(transport.config32(CAPACITY));
        let high = u64::from(transport.config32(CAPACITY.saturating_add(4)));
        Self {
            capacity: high << 32 | low,
            size_max: transport.config32(SIZE_MAX),
            block_size: transport.config32(BLOCK_SIZE),
        }
    }

    /// Checks the values that `features` make valid.
    fn geometry(&self, features: u64, queue_depth: usize) -> Result<Geometry, DeviceError> {
        let has = |feature| features & feature != 0;
        let block_size = if has(feature::BLOCK_SIZE) {
            self.block_size
        } else {
            SECTOR
        };
        if !block_size.is_power_of_two() || !(512..=4096).contains(&block_size) {
            return Err(DeviceError::Unusable(
                "virtio-blk block size is no power of two in 512..4096",
            ));
        }
        let sectors_in_block = u64::from(block_size / SECTOR);
        let blocks = self.capacity.checked_div(sectors_in_block).unwrap_or(0);
        if blocks == 0 || self.capacity.checked_mul(u64::from(SECTOR)).is_none() {
            return Err(DeviceError::Unusable(
                "virtio-blk capacity is zero or absurd",
            ));
        }
        let size_max = if has(feature::SIZE_MAX) {
            self.size_max
        } else {
            MAX_TRANSFER
        };
        // Down to whole blocks.
        let max_transfer = size_max.min(MAX_TRANSFER) & block_size.wrapping_neg();
        if max_transfer == 0 {
            return Err(DeviceError::Unusable(
                "virtio-blk segment limit is less than a block",
            ));
        }
        Ok(Geometry {
            block_size,
            blocks,
            max_transfer,
            queue_depth,
        })
    }
}
