//! NVMe controllers on PCI Express.
//!
//! Procedure, of the NVM Express Base Specification 2.0 (§ without a name here and in this
//! folder), the NVMe over PCIe Transport Specification 1.0 and the NVM Command Set Specification
//! 1.0:
//!
//! 1. Switch the function's interrupts off, and reset the controller: CC.EN = 0, until CSTS.RDY
//!    is 0 or CAP.TO is over (§3.7.2). From then on it touches no memory of the dead kernel's.
//! 2. Set up the admin queue and enable: CC.EN = 1, until CSTS.RDY is 1 (§3.5.1).
//! 3. Identify the controller (MDTS, VWC) and the namespace (size, block format) (§5.17).
//! 4. Ask for one pair of I/O queues (Number of Queues, §5.27.1.5), and create the completion
//!    queue (§5.4), then the submission queue (§5.5), both without an interrupt.
//! 5. Reads, writes and flushes (NVM Command Set §3.2); the ends of commands are seen by the phase
//!    tag in memory (§3.3.3.2.2), so that polling reads no register. CSTS.CFS, the fatal status,
//!    is looked at when nothing has ended for a while.
//!
//! A request is one command, or, where the controller takes no more at once (MDTS), one after the
//! other. It may carry [`MAX_TRANSFER`] bytes: its first page is in the command, the others in a
//! list of pages that has its place beside the queues (PRP, §4.1.1).
//!
//! Limits: the namespace's blocks have no metadata; no multipath, no fabrics; Device Self-test,
//! firmware and power features are left as they are after a reset.
//!
//! What the controller says is checked; a completion of a command that it was not given, a fatal
//! status or a bus that does not answer end the device for good: it is asked to reset, all
//! requests in flight come back with the error, later ones are refused.

mod controller;
mod identify;
mod queue;

use core::fmt;

use kdraw_format::addr::Lba;
use kdraw_pipeline::ports::{
    BlockDevice, Clock, Completion, Deadline, DeviceError, DmaBuffer, Geometry, Operation, Request,
};
use tock_registers::interfaces::Writeable;

pub use controller::is_nvme;

use crate::dma::DmaMemory;
use crate::pci::{Function, Mapper};
use crate::registers::{Offset, Registers};
use controller::Controller;
use identify::{ControllerIdentity, NamespaceIdentity};
use queue::{Command, Ended, QueuePair, SUBMISSION};

/// Bytes of memory that the driver shares with the controller.
pub const MEMORY_BYTES: usize = 16 << 10;

/// The most bytes in one request: as many pages as the list of one has room for.
pub const MAX_TRANSFER: u32 = 384 << 10;

/// Bytes of a page as the controller is told (CC.MPS).
const PAGE: u64 = 4096;

/// The driver's memory is four pages. Each begins with a queue, for those must be page aligned,
/// and has the page lists of four requests behind.
const ADMIN_SUBMISSIONS: usize = 0;
const ADMIN_COMPLETIONS: usize = 4096;
const IO_SUBMISSIONS: usize = 8192;
const IO_COMPLETIONS: usize = 12288;
/// What identify commands fill, until the I/O queues are created.
const IDENTITY: usize = IO_SUBMISSIONS;
/// Bytes of a page that its queue may take.
const QUEUE_ROOM: usize = 1024;
/// Bytes of a list of pages.
const LIST: usize = 768;
const LISTS_IN_PAGE: usize = 4;

/// The most entries of a queue.
const ENTRIES_MAX: u16 = 16;
/// The most requests in flight at once: a full queue has one entry unused (§3.3.1.5).
const SLOTS: usize = ENTRIES_MAX as usize - 1;

const _: () = assert!(
    ENTRIES_MAX as usize * SUBMISSION <= QUEUE_ROOM
        && QUEUE_ROOM + LIST * LISTS_IN_PAGE <= PAGE as usize
        && SLOTS <= 4 * LISTS_IN_PAGE
        && IO_COMPLETIONS + PAGE as usize <= MEMORY_BYTES
        && MAX_TRANSFER as usize / PAGE as usize - 1 <= LIST / 8
        && (MAX_TRANSFER as u64).is_multiple_of(PAGE)
);

/// Opcodes (§5, Figure 138; NVM Command Set §3, Figure 17).
mod opcode {
    pub const CREATE_SUBMISSIONS: u8 = 0x01;
    pub const CREATE_COMPLETIONS: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const SET_FEATURES: u8 = 0x09;
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
}

/// Identify's structures (CNS).
const IDENTIFY_NAMESPACE: u64 = 0;
const IDENTIFY_CONTROLLER: u64 = 1;
/// The feature Number of Queues.
const NUMBER_OF_QUEUES: u64 = 7;
/// The I/O queues' identifier.
const IO: u16 = 1;
/// The queue's memory is contiguous.
const CONTIGUOUS: u64 = 1;

/// Namespace is Write Protected (§3.3.3.2.1, Figure 91); Attempted Write to Read Only Range (NVM
/// Command Set, Figure 15).
const WRITE_PROTECTED: [u16; 2] = [0x020, 0x182];

/// After so many polls that found nothing, while something is in flight, the controller's status
/// is read: a fatal one is seen long before the request's time is over, and reading a register
/// costs next to nothing so seldom.
const POLLS_PER_LOOK: u32 = 1024;

/// What a command's number stands for.
#[derive(Debug)]
struct Slot {
    state: State,
    /// What is transferred; nothing for a flush.
    transfer: Option<Transfer>,
    /// How the command ended.
    result: Result<(), DeviceError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    InFlight,
    Done,
    /// A flush in flight that nobody waits for any more.
    Abandoned,
}

const FREE: Slot = Slot {
    state: State::Free,
    transfer: None,
    result: Ok(()),
};

/// A request, of which `done` bytes are transferred and `piece` more are under way.
#[derive(Debug)]
struct Transfer {
    operation: Operation,
    lba: Lba,
    len: u32,
    done: u32,
    piece: u32,
    memory: DmaMemory,
}

/// A namespace behind an NVMe controller.
#[derive(Debug)]
pub struct Nvme<R> {
    controller: Controller<R>,
    /// Queues and lists of pages.
    memory: DmaMemory,
    queue: QueuePair,
    slots: [Slot; SLOTS],
    namespace: u32,
    geometry: Geometry,
    /// The most bytes in a command.
    piece_max: u32,
    read_only: bool,
    flushable: bool,
    /// Polls since something ended.
    idle: u32,
    /// Why nothing works any more.
    broken: Option<DeviceError>,
}

impl<R: Registers> Nvme<R> {
    /// Resets the controller that is `function` and brings up its namespace number `namespace`,
    /// with queues in `memory` ([`MEMORY_BYTES`] or more, 4 KiB aligned, physically contiguous).
    ///
    /// # Errors
    /// [`DeviceError::Timeout`] if it is not up at `deadline`, or within the time that the
    /// controller itself states; [`DeviceError::NotFound`] if it is no controller, or has no such
    /// namespace; [`DeviceError::Unusable`] if what it says makes no sense or cannot be used;
    /// [`DeviceError::Io`] if it answers a command of the procedure with an error.
    pub fn new(
        function: &Function<'_, R>,
        map: Mapper<'_, R>,
        namespace: u32,
        memory: DmaBuffer,
        clock: &dyn Clock,
        deadline: Deadline,
    ) -> Result<Self, DeviceError> {
        if memory.bytes.len() < MEMORY_BYTES || !memory.device_addr.is_multiple_of(PAGE) {
            return Err(DeviceError::Unusable(
                "memory for the NVMe queues too short or misaligned",
            ));
        }
        let controller = Controller::new(function, map)?;
        controller.disable(clock, deadline)?;
        memory.bytes.fill(0);
        let memory = DmaMemory::new(memory);
        let entries = controller.entries_max().min(ENTRIES_MAX.into()) as u16;
        let mut admin = Admin {
            controller: &controller,
            memory: &memory,
            queue: QueuePair::new(0, entries, ADMIN_SUBMISSIONS, ADMIN_COMPLETIONS),
            clock,
            deadline,
        };
        let (this, that, queue) = admin
            .bring_up(namespace, entries)
            // It must not write to the memory when that has become something else's.
            .inspect_err(|_| controller.stop())?;
        // Cannot be cut off: the smaller of both.
        let piece_max = this.max_transfer.min(MAX_TRANSFER.into()) as u32;
        Ok(Self {
            controller,
            memory,
            queue,
            slots: [FREE; SLOTS],
            namespace,
            geometry: Geometry {
                block_size: that.block_size,
                blocks: that.blocks,
                max_transfer: MAX_TRANSFER,
                queue_depth: usize::from(entries).saturating_sub(1),
            },
            piece_max,
            read_only: that.read_only,
            flushable: this.volatile_cache,
            idle: 0,
            broken: None,
        })
    }

    /// Checks that `request` fits the namespace; gives its length.
    fn check(&self, request: &Request) -> Result<u32, DeviceError> {
        if request.operation == Operation::Write && self.read_only {
            return Err(DeviceError::ReadOnly);
        }
        let len = u32::try_from(request.len).map_err(|_| DeviceError::BadRequest)?;
        let block_size = self.geometry.block_size;
        let blocks = u64::from(len.checked_div(block_size).unwrap_or(0));
        let address = request.buffer.device_addr;
        let fits = blocks > 0
            && len.is_multiple_of(block_size)
            && len <= MAX_TRANSFER
            && request.len <= request.buffer.bytes.len()
            && address.is_multiple_of(PAGE)
            && address.checked_add(u64::from(len)).is_some()
            && request
                .lba
                .checked_add(blocks)
                .is_some_and(|end| end.0 <= self.geometry.blocks);
        match fits {
            true => Ok(len),
            false => Err(DeviceError::BadRequest),
        }
    }

    /// Finds a command number that nothing is using.
    fn free_slot(&mut self) -> Option<(u16, &mut Slot)> {
        let mut slots = (0..).zip(&mut self.slots).take(self.geometry.queue_depth);
        slots.find(|(_, slot)| slot.state == State::Free)
    }

    /// Submits a slot's command: the next piece of its transfer, or a flush.
    fn submit(&mut self, number: u16) {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return;
        };
        let mut command = Command {
            opcode: opcode::FLUSH,
            namespace: self.namespace,
            ..Command::default()
        };
        if let Some(transfer) = &mut slot.transfer {
            transfer.piece = transfer
                .len
                .saturating_sub(transfer.done)
                .min(self.piece_max);
            let blocks = |bytes: u32| bytes.checked_div(self.geometry.block_size).unwrap_or(0);
            // None of this can overflow: `check` has seen the whole.
            let done = u64::from(transfer.done);
            let address = transfer.memory.device_addr().saturating_add(done);
            command.opcode = match transfer.operation {
                Operation::Read => opcode::READ,
                Operation::Write => opcode::WRITE,
            };
            command.argument = transfer.lba.0.saturating_add(blocks(transfer.done).into());
            command.argument_12 = blocks(transfer.piece).saturating_sub(1);
            command.pages = list_pages(&self.memory, number, address, transfer.piece);
        }
        self.queue
            .submit(&self.memory, &self.controller, number, &command);
    }

    /// Takes from the queue whatever the controller is done with.
    fn reap(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let mut found = false;
        loop {
            match self.queue.take(&self.memory) {
                Ok(Some(ended)) if self.ended(&ended) => found = true,
                Ok(Some(_)) => {
                    return self.fail(DeviceError::Unusable(
                        "NVMe controller completed a command that it was not given",
                    ));
                }
                Ok(None) => break,
                Err(error) => return self.fail(error),
            }
        }
        if found {
            self.idle = 0;
            self.queue.taken(&self.controller);
            return;
        }
        self.idle = self.idle.wrapping_add(1);
        if self.idle.is_multiple_of(POLLS_PER_LOOK)
            && let Err(error) = self.controller.healthy()
        {
            self.fail(error);
        }
    }

    /// Notes the end of a command, and goes on with its request; false if there is no such
    /// command.
    fn ended(&mut self, ended: &Ended) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(ended.id)) else {
            return false;
        };
        match slot.state {
            State::Free | State::Done => return false,
            State::Abandoned => slot.state = State::Free,
            State::InFlight => {
                slot.state = State::Done;
                slot.result = match ended.status {
                    0 => Ok(()),
                    status if WRITE_PROTECTED.contains(&status) => Err(DeviceError::ReadOnly),
                    status => Err(DeviceError::Io {
                        status: status.into(),
                    }),
                };
                if let (Some(transfer), Ok(())) = (&mut slot.transfer, slot.result) {
                    transfer.done = transfer.done.saturating_add(transfer.piece);
                    if transfer.done < transfer.len {
                        slot.state = State::InFlight;
                        self.submit(ended.id);
                    }
                }
            }
        }
        true
    }

    /// Gives the controller up: asks it to reset and ends all requests in flight.
    fn fail(&mut self, error: DeviceError) {
        self.controller.stop();
        self.broken = Some(error);
        for slot in &mut self.slots {
            if slot.state == State::InFlight {
                slot.state = State::Done;
                slot.result = Err(error);
            }
        }
    }
}

/// Tells a command's pages: the first one, and the second one or, if there are more, the list of
/// all others. A list never crosses a page, so it needs no link to another.
fn list_pages(memory: &DmaMemory, number: u16, address: u64, len: u32) -> [u64; 2] {
    let others = u64::from(len).div_ceil(PAGE).saturating_sub(1);
    let page = |index: u64| address.saturating_add(index.saturating_mul(PAGE));
    if others < 2 {
        return [address, others.saturating_mul(page(1))];
    }
    let number = usize::from(number);
    let list = (number / LISTS_IN_PAGE)
        .saturating_mul(PAGE as usize)
        .saturating_add(QUEUE_ROOM)
        .saturating_add((number % LISTS_IN_PAGE).saturating_mul(LIST));
    for (at, index) in (list..).step_by(8).zip(1..=others) {
        memory.at(Offset::<u64>::new(at)).set(page(index));
    }
    [address, memory.device_addr().saturating_add(list as u64)]
}

impl<R: Registers> BlockDevice for Nvme<R> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)> {
        let fit = match self.broken {
            Some(error) => Err(error),
            None => self.check(&request),
        };
        let len = match fit {
            Ok(len) => len,
            Err(error) => return Err((error, request.buffer)),
        };
        let Some((number, slot)) = self.free_slot() else {
            return Err((DeviceError::QueueFull, request.buffer));
        };
        slot.state = State::InFlight;
        slot.transfer = Some(Transfer {
            operation: request.operation,
            lba: request.lba,
            len,
            done: 0,
            piece: 0,
            memory: DmaMemory::new(request.buffer),
        });
        self.submit(number);
        Ok(())
    }

    fn poll(&mut self) -> Option<Completion> {
        self.reap();
        let mut slots = self.slots.iter_mut();
        slots.find_map(|slot| {
            let transfer = match slot.state {
                State::Done => slot.transfer.take()?,
                _ => return None,
            };
            slot.state = State::Free;
            Some(Completion {
                buffer: transfer.memory.into_buffer(),
                lba: transfer.lba,
                result: slot.result,
            })
        })
    }

    fn flush(&mut self, clock: &dyn Clock, deadline: Deadline) -> Result<(), DeviceError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        if !self.flushable {
            return Ok(());
        }
        let (number, slot) = self.free_slot().ok_or(DeviceError::QueueFull)?;
        slot.state = State::InFlight;
        self.submit(number);
        crate::wait_until(clock, deadline, || {
            self.reap();
            let slot = self.slots.get(usize::from(number));
            slot.is_none_or(|slot| slot.state == State::Done)
        });
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return Ok(());
        };
        match slot.state {
            State::Done => {
                slot.state = State::Free;
                slot.result
            }
            _ => {
                slot.state = State::Abandoned;
                Err(DeviceError::Timeout("NVMe flush"))
            }
        }
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let depth = self.geometry.queue_depth;
        let most = self.piece_max >> 10;
        write!(out, "NVMe, {depth} commands of {most} KiB at once")
    }
}

/// A controller being brought up by commands to its admin queue, one at a time.
struct Admin<'a, R> {
    controller: &'a Controller<R>,
    memory: &'a DmaMemory,
    queue: QueuePair,
    clock: &'a dyn Clock,
    deadline: Deadline,
}

impl<R: Registers> Admin<'_, R> {
    /// Steps 2 to 4.
    fn bring_up(
        &mut self,
        namespace: u32,
        entries: u16,
    ) -> Result<(ControllerIdentity, NamespaceIdentity, QueuePair), DeviceError> {
        let addresses = self.queue.addresses(self.memory);
        self.controller
            .enable(addresses, entries, self.clock, self.deadline)?;

        self.identify(IDENTIFY_CONTROLLER, 0)?;
        let controller = ControllerIdentity::read(self.memory, IDENTITY);
        self.identify(IDENTIFY_NAMESPACE, namespace)?;
        let namespace = NamespaceIdentity::read(self.memory, IDENTITY)?;

        // One of each, counted from 0. A controller that knows no such feature has its queues.
        match self.command(&Command {
            opcode: opcode::SET_FEATURES,
            argument: NUMBER_OF_QUEUES,
            ..Command::default()
        }) {
            Ok(()) | Err(DeviceError::Io { .. }) => {}
            Err(error) => return Err(error),
        }
        let queue = QueuePair::new(IO, entries, IO_SUBMISSIONS, IO_COMPLETIONS);
        let (submissions, completions) = queue.addresses(self.memory);
        let size = u64::from(IO) | u64::from(entries.saturating_sub(1)) << 16;
        self.command(&Command {
            opcode: opcode::CREATE_COMPLETIONS,
            pages: [completions, 0],
            argument: size | CONTIGUOUS << 32,
            ..Command::default()
        })?;
        self.command(&Command {
            opcode: opcode::CREATE_SUBMISSIONS,
            pages: [submissions, 0],
            argument: size | (u64::from(IO) << 16 | CONTIGUOUS) << 32,
            ..Command::default()
        })?;
        Ok((controller, namespace, queue))
    }

    fn identify(&mut self, structure: u64, namespace: u32) -> Result<(), DeviceError> {
        let page = self.memory.device_addr().saturating_add(IDENTITY as u64);
        self.command(&Command {
            opcode: opcode::IDENTIFY,
            namespace,
            pages: [page, 0],
            argument: structure,
            ..Command::default()
        })
    }

    /// Gives a command and waits for its end.
    fn command(&mut self, command: &Command) -> Result<(), DeviceError> {
        self.queue.submit(self.memory, self.controller, 0, command);
        let mut ended = None;
        crate::wait_until(self.clock, self.deadline, || {
            ended = match self.controller.healthy() {
                Ok(()) => self.queue.take(self.memory).transpose(),
                Err(error) => Some(Err(error)),
            };
            ended.is_some()
        });
        let ended = ended.unwrap_or(Err(DeviceError::Timeout("NVMe admin command")))?;
        self.queue.taken(self.controller);
        match (ended.id, ended.status) {
            (0, 0) => Ok(()),
            (0, status) => Err(DeviceError::Io {
                status: status.into(),
            }),
            _ => Err(DeviceError::Unusable(
                "NVMe controller completed a command that it was not given",
            )),
        }
    }
}
