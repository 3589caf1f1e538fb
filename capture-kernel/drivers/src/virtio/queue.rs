//! The split virtqueue (§2.7), with a fixed chain of descriptors for each request.
//!
//! A request always takes [`CHAIN`] descriptors, chain *n* those from *n* · [`CHAIN`] on. So there
//! is no free list to corrupt, and what the device returns is either the head of a chain in
//! flight or a lie.
//!
//! Memory, the same for modern and legacy devices (§2.7.2: a legacy queue is one piece, the used
//! ring at the next multiple of the queue alignment, 4096):
//!
//! | offset | what | bytes at 64 descriptors |
//! |--|--|--|
//! | 0 | descriptor table | 1024 |
//! | 16 · size | available ring | 134 |
//! | 4096 | used ring | 518 |

use kdraw_pipeline::ports::{DeviceError, DmaBuffer};
use tock_registers::interfaces::{Readable, Writeable};

use crate::barrier;
use crate::dma::DmaMemory;
use crate::registers::{Offset, Registers};

/// Descriptors in a request's chain: header, data, status.
pub const CHAIN: u16 = 3;

/// The most requests in flight at once.
pub const CHAINS_MAX: u16 = 16;

/// Bytes of memory that a queue takes.
pub const QUEUE_BYTES: usize = 4096 + 1024;

/// Where the used ring begins, and how the whole is aligned.
pub const ALIGN: u32 = 4096;

/// The longest queue used: a power of two with room for all chains.
const SIZE_MAX: u16 = 64;
const DESCRIPTOR_BYTES: usize = 16;
const USED_RING: usize = ALIGN as usize;

const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_DEVICE_WRITES: u16 = 2;
const AVAILABLE_NO_INTERRUPT: u16 = 1;

/// Where the device sees the parts of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring ("driver area").
    pub available: u64,
    /// The used ring ("device area").
    pub used: u64,
}

/// A piece of memory for the device.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where the device sees it.
    pub device_addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Whether the device writes it, else it reads it.
    pub device_writes: bool,
}

/// A split virtqueue.
#[derive(Debug)]
pub struct Queue {
    memory: DmaMemory,
    size: u16,
    /// Bit *n*: chain *n* is in flight.
    in_flight: u32,
    /// The next available index; counts requests, wraps.
    available: u16,
    /// The used index up to which entries were taken; wraps.
    used: u16,
}

impl Queue {
    /// Lays out a queue of up to `size_max` descriptors in `memory`.
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] if `size_max` has no room for one chain, or if `memory` is
    /// shorter than [`QUEUE_BYTES`] or not aligned to [`ALIGN`].
    pub fn new(memory: DmaBuffer, size_max: u16) -> Result<Self, DeviceError> {
        if memory.bytes.len() < QUEUE_BYTES
            || !memory.device_addr.is_multiple_of(u64::from(ALIGN))
            || memory.device_addr.checked_add(QUEUE_BYTES as u64).is_none()
        {
            return Err(DeviceError::Unusable(
                "memory for the virtqueue too short or misaligned",
            ));
        }
        let size = match size_max.min(SIZE_MAX).checked_ilog2() {
            Some(log) if log >= 2 => 1_u16 << log,
            _ => return Err(DeviceError::Unusable("virtqueue missing or too short")),
        };
        memory.bytes.fill(0);
        let queue = Self {
            memory: DmaMemory::new(memory),
            size,
            in_flight: 0,
            available: 0,
            used: 0,
        };
        queue.set(queue.available_ring(), AVAILABLE_NO_INTERRUPT);
        barrier::publish();
        Ok(queue)
    }

    /// How many descriptors it has: a power of two.
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// How many chains it has room for, at least 1.
    pub fn chains(&self) -> u16 {
        (self.size / CHAIN).min(CHAINS_MAX)
    }

    /// Where the device finds it.
    pub fn addresses(&self) -> QueueAddresses {
        let base = self.memory.device_addr();
        QueueAddresses {
            descriptors: base,
            available: base.wrapping_add(self.available_ring() as u64),
            used: base.wrapping_add(USED_RING as u64),
        }
    }

    /// Makes chain number `chain` available to the device, with these segments in this order;
    /// notify the device afterwards.
    ///
    /// False, and nothing done, if there is no such chain or it is in flight.
    pub fn submit<const N: usize>(&mut self, chain: u16, segments: [Segment; N]) -> bool {
        const { assert!(N >= 1 && N <= CHAIN as usize) };
        if chain >= self.chains() || self.in_flight & bit(chain) != 0 {
            return false;
        }
        let head = chain.wrapping_mul(CHAIN);
        for (index, segment) in (head..).zip(segments) {
            let last = index.wrapping_sub(head).wrapping_add(1) == N as u16;
            self.set_descriptor(index, segment, last);
        }
        let position = self.available & self.size.wrapping_sub(1);
        self.set(
            self.available_ring()
                .wrapping_add(4)
                .wrapping_add(usize::from(position) * 2),
            head,
        );
        self.available = self.available.wrapping_add(1);
        self.in_flight |= bit(chain);

        // Descriptors and ring entry before the index (§2.7.13.3.1), the index before the
        // doorbell, which the caller rings.
        barrier::publish();
        self.set(self.available_ring().wrapping_add(2), self.available);
        barrier::publish();
        true
    }

    /// Takes the number of a chain that the device is done with, if there is one.
    ///
    /// What the device wrote may be read afterwards.
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] if the device claims to have used what it was not given; the
    /// queue makes no sense any more then.
    pub fn take_used(&mut self) -> Result<Option<u16>, DeviceError> {
        let index: u16 = self.get(USED_RING.wrapping_add(2));
        let waiting = index.wrapping_sub(self.used);
        if waiting == 0 {
            return Ok(None);
        }
        if u32::from(waiting) > self.in_flight.count_ones() {
            return Err(DeviceError::Unusable(
                "virtio device used more requests than it was given",
            ));
        }
        barrier::acquire();
        let position = self.used & self.size.wrapping_sub(1);
        let entry = USED_RING
            .wrapping_add(4)
            .wrapping_add(usize::from(position) * 8);
        let head: u32 = self.get(entry);
        self.used = self.used.wrapping_add(1);

        // The entry's length is ignored: legacy devices set it wrong (§2.7.8.1), and whoever
        // reads data back checks it by its own checksums.
        let chain = u16::try_from(head)
            .ok()
            .filter(|head| head.is_multiple_of(CHAIN))
            .map(|head| head / CHAIN)
            .filter(|&chain| chain < self.chains() && self.in_flight & bit(chain) != 0)
            .ok_or(DeviceError::Unusable(
                "virtio device returned a request it does not have",
            ))?;
        self.in_flight &= !bit(chain);
        Ok(Some(chain))
    }

    /// Writes descriptor `index` (§2.7.5), chained to its successor unless it is the last.
    fn set_descriptor(&self, index: u16, segment: Segment, last: bool) {
        let at = usize::from(index).wrapping_mul(DESCRIPTOR_BYTES);
        let mut flags = 0;
        if segment.device_writes {
            flags |= DESCRIPTOR_DEVICE_WRITES;
        }
        if !last {
            flags |= DESCRIPTOR_NEXT;
        }
        self.memory
            .at(Offset::<u64>::new(at))
            .set(segment.device_addr);
        self.memory
            .at(Offset::<u32>::new(at.wrapping_add(8)))
            .set(segment.len);
        self.set(at.wrapping_add(12), flags);
        self.set(
            at.wrapping_add(14),
            if last { 0 } else { index.wrapping_add(1) },
        );
    }

    /// Offset of the available ring: flags, index, entries (§2.7.6).
    fn available_ring(&self) -> usize {
        usize::from(self.size).wrapping_mul(DESCRIPTOR_BYTES)
    }

    fn set(&self, offset: usize, value: u16) {
        self.memory.at(Offset::<u16>::new(offset)).set(value);
    }

    fn get<T: crate::registers::Word>(&self, offset: usize) -> T {
        self.memory.at(Offset::<T>::new(offset)).get()
    }
}

/// The bit of `chain` in [`Queue::in_flight`]; `chain` is below [`CHAINS_MAX`].
const fn bit(chain: u16) -> u32 {
    1_u32.wrapping_shl(chain as u32)
}
