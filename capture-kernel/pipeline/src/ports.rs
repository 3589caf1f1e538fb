//! The ports: what the pipeline needs of a machine. Drivers implement them, tests fake them.

use core::fmt;

use kdraw_format::addr::Lba;

/// A monotonic clock that runs without interrupts.
pub trait Clock {
    /// Microseconds since an arbitrary start; never goes back.
    fn now_us(&self) -> u64;

    /// A deadline `timeout_us` microseconds from now.
    fn deadline(&self, timeout_us: u64) -> Deadline {
        Deadline {
            at_us: self.now_us().saturating_add(timeout_us),
        }
    }
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now_us(&self) -> u64 {
        (**self).now_us()
    }
}

/// A moment after which a wait is given up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at_us: u64,
}

impl Deadline {
    /// Whether the moment has passed.
    pub fn passed(&self, clock: &(impl Clock + ?Sized)) -> bool {
        clock.now_us() >= self.at_us
    }
}

/// Memory that a device may read and write, owned by whoever holds it.
///
/// While a request is in flight the driver holds the buffer, so nobody can change it under
/// the device.
#[derive(Debug)]
pub struct DmaBuffer {
    /// What the CPU sees; a multiple of 4 KiB long and 4 KiB aligned.
    pub bytes: &'static mut [u8],
    /// Where the device sees its first byte: a bus address.
    pub device_addr: u64,
}

/// What a block device is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffer's first `len` bytes from the device.
    Read,
    /// Write the buffer's first `len` bytes to the device.
    Write,
}

/// One request: `len` bytes between `buffer` and the blocks from `lba` on.
#[derive(Debug)]
pub struct Request {
    /// Read or write.
    pub operation: Operation,
    /// The first block, counted on the whole device in its logical blocks.
    pub lba: Lba,
    /// Bytes; a multiple of the logical block size, at most the buffer's length and
    /// [`Geometry::max_transfer`].
    pub len: usize,
    /// The memory; handed back with the completion.
    pub buffer: DmaBuffer,
}

/// A request that has ended, well or badly.
#[derive(Debug)]
pub struct Completion {
    /// The memory that the request carried.
    pub buffer: DmaBuffer,
    /// The request's first block.
    pub lba: Lba,
    /// How it ended.
    pub result: Result<(), DeviceError>,
}

/// What a device tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a logical block: a power of two, 512 to 4096.
    pub block_size: u32,
    /// Logical blocks on the whole device.
    pub blocks: u64,
    /// The most bytes that one request may carry.
    pub max_transfer: u32,
    /// How many requests may be in flight at once, at least 1.
    pub queue_depth: usize,
}

/// How long a request to a disk may take, in microseconds. Generous: an SD card may erase for a
/// second before it answers.
pub const REQUEST_TIMEOUT_US: u64 = 10_000_000;

/// Why a device did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Nothing there, or not what the device tree says.
    #[error("no such device: {0}")]
    NotFound(&'static str),
    /// The device lacks a feature, or a value it reports makes no sense.
    #[error("device unusable: {0}")]
    Unusable(&'static str),
    /// A wait ended at its deadline.
    #[error("device did not answer in time: {0}")]
    Timeout(&'static str),
    /// The device answered with an error.
    #[error("device reported an I/O error, status {status}")]
    Io {
        /// The status that the device gave; its meaning is the device's.
        status: u32,
    },
    /// The device can only be read.
    #[error("device is read-only")]
    ReadOnly,
    /// A request outside the device, misaligned, or too long.
    #[error("request does not fit the device")]
    BadRequest,
    /// The device can take no more requests now; poll first.
    #[error("queue full")]
    QueueFull,
}

/// A polled block device with several requests in flight.
///
/// No method waits, but for [`BlockDevice::flush`], which is bounded, and for a second or two when
/// a driver brings a device back that has erred.
pub trait BlockDevice {
    /// The device's size and limits.
    fn geometry(&self) -> Geometry;

    /// Starts `request`.
    ///
    /// # Errors
    /// The buffer comes back with the reason if the request could not be started.
    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)>;

    /// Takes one ended request, if there is one.
    fn poll(&mut self) -> Option<Completion>;

    /// Makes all completed writes durable: returns when the device says that its volatile
    /// cache is on the medium, or at once if it has none. Call it with nothing in flight.
    ///
    /// # Errors
    /// [`DeviceError::Timeout`] at `deadline`, or what the device answered.
    fn flush(&mut self, clock: &dyn Clock, deadline: Deadline) -> Result<(), DeviceError>;

    /// Writes down in one line what it is and how it is run now, for the dump's trailer.
    ///
    /// # Errors
    /// Those of `out`.
    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result;

    /// How long a request may take before the device is given up, in microseconds.
    fn patience_us(&self) -> u64 {
        REQUEST_TIMEOUT_US
    }
}

/// Work that another CPU can do: it owns its buffer, and doing it is computation over evidence
/// that is only read.
pub trait Task: Send + Sized {
    /// What is to be done; it can be done again with another buffer.
    type Order: Clone + Send;
    /// What it is done in.
    type Buffer: Send;

    /// A task to be done.
    fn new(order: Self::Order, buffer: Self::Buffer) -> Self;

    /// Takes the buffer of a task that is done, if what was made does not lie in it.
    fn unused(&mut self) -> Option<Self::Buffer>;
}

/// Other CPUs that work. No method waits.
///
/// Each order that was handed over comes back exactly once: done from [`Crew::collect`], or as it
/// is from [`Crew::take_back`] or [`Crew::overdue`].
pub trait Crew<T: Task> {
    /// How many workers there are that have not been given up; 0 on one CPU.
    fn workers(&self) -> usize;

    /// Hands over a buffer for any worker to work in. It comes back in a task that is done, or
    /// from [`Crew::spare`], or is lost with a worker.
    ///
    /// # Errors
    /// The buffer comes back if there is no use for it now.
    fn supply(&mut self, buffer: T::Buffer) -> Result<(), T::Buffer>;

    /// Takes a buffer that no worker has, if there is one.
    fn spare(&mut self) -> Option<T::Buffer>;

    /// Whether each worker finds a buffer for a further order. If not, they soon wait.
    fn is_provided(&self) -> bool;

    /// Hands over an order.
    ///
    /// # Errors
    /// The order comes back if the workers have enough to do.
    fn offer(&mut self, order: T::Order) -> Result<(), T::Order>;

    /// Takes a task that is done, if there is one.
    fn collect(&mut self) -> Option<T>;

    /// Takes back the oldest order that no worker has begun, if there is one.
    fn take_back(&mut self) -> Option<T::Order>;

    /// Gives up a worker that is dead or has been silent for too long, and returns its order for
    /// somebody else to do again; `None` if there is none.
    fn overdue(&mut self) -> Option<T::Order>;
}
