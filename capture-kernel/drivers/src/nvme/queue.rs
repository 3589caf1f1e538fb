//! A submission queue and its completion queue, in the driver's memory (§3.3.1).
//!
//! Both have the same number of entries, and there are always fewer commands in flight than that:
//! so neither can run over, and an entry of the submission queue is free when its turn comes.

use kdraw_pipeline::ports::DeviceError;
use tock_registers::interfaces::{Readable, Writeable};

use super::controller::Controller;
use crate::barrier;
use crate::dma::DmaMemory;
use crate::registers::{Offset, Registers};

/// Bytes of a submission queue's entry (§3.3.3.1), log2 of which is CC.IOSQES.
pub(super) const SUBMISSION: usize = 64;
/// Bytes of a completion queue's entry (§3.3.3.2), log2 of which is CC.IOCQES.
const COMPLETION: usize = 16;

/// A command (§3.3.3.1, Figure 87), as far as the ones used here differ.
#[derive(Debug, Default)]
pub(super) struct Command {
    /// Opcode.
    pub(super) opcode: u8,
    /// Namespace; 0 where the command has none.
    pub(super) namespace: u32,
    /// The data's first page, and its second one or a list of the others.
    pub(super) pages: [u64; 2],
    /// Dwords 10 and 11.
    pub(super) argument: u64,
    /// Dword 12.
    pub(super) argument_12: u32,
}

/// A command that the controller is done with.
#[derive(Debug)]
pub(super) struct Ended {
    /// The number that it was submitted under.
    pub(super) id: u16,
    /// Status code type and status code (§3.3.3.2.1): 0 is success.
    pub(super) status: u16,
}

/// A pair of queues.
#[derive(Debug)]
pub(super) struct QueuePair {
    /// Their identifier; 0 is the admin queue.
    number: u16,
    entries: u16,
    /// Where they lie in the driver's memory.
    submissions: usize,
    completions: usize,
    /// Where the next command goes.
    tail: u16,
    /// Where the next completion is looked for.
    head: u16,
    /// What the phase tag of a new completion is (§3.3.3.2.2).
    phase: bool,
}

impl QueuePair {
    /// A pair of empty queues; the completion queue's memory must be zero.
    pub(super) fn new(number: u16, entries: u16, submissions: usize, completions: usize) -> Self {
        Self {
            number,
            entries,
            submissions,
            completions,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    /// Where the controller finds both.
    pub(super) fn addresses(&self, memory: &DmaMemory) -> (u64, u64) {
        let at = |offset: usize| memory.device_addr().wrapping_add(offset as u64);
        (at(self.submissions), at(self.completions))
    }

    /// Hands a command to the controller.
    pub(super) fn submit<R: Registers>(
        &mut self,
        memory: &DmaMemory,
        controller: &Controller<R>,
        id: u16,
        command: &Command,
    ) {
        let entry = usize::from(self.tail).wrapping_mul(SUBMISSION);
        let first =
            u64::from(command.opcode) | u64::from(id) << 16 | u64::from(command.namespace) << 32;
        let [prp1, prp2] = command.pages;
        // Metadata pointer and dwords 13 to 15 stay 0.
        let words = [
            first,
            0,
            0,
            prp1,
            prp2,
            command.argument,
            u64::from(command.argument_12),
            0,
        ];
        let start = self.submissions.wrapping_add(entry);
        for (at, word) in (start..).step_by(8).zip(words) {
            memory.at(Offset::<u64>::new(at)).set(word);
        }
        self.tail = next(self.tail, self.entries);
        // The command, its list of pages and its data before the doorbell.
        barrier::publish();
        controller.ring_submissions(self.number, self.tail);
    }

    /// Takes a completion, if there is one; what the command wrote may be read afterwards. Tell
    /// the controller by [`QueuePair::taken`].
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] if it is of another queue.
    pub(super) fn take(&mut self, memory: &DmaMemory) -> Result<Option<Ended>, DeviceError> {
        let entry = usize::from(self.head).wrapping_mul(COMPLETION);
        let entry = self.completions.wrapping_add(entry);
        // Dword 3 has the phase tag: a whole entry is there when that one is.
        let last = memory.at(Offset::<u32>::new(entry.wrapping_add(12))).get();
        if (last >> 16 & 1 != 0) != self.phase {
            return Ok(None);
        }
        barrier::acquire();
        self.head = next(self.head, self.entries);
        self.phase ^= self.head == 0;
        let queues = memory.at(Offset::<u32>::new(entry.wrapping_add(8))).get();
        if (queues >> 16) as u16 != self.number {
            return Err(DeviceError::Unusable(
                "NVMe controller completed a command of another queue",
            ));
        }
        Ok(Some(Ended {
            id: last as u16,
            status: (last >> 17) as u16 & 0x7ff,
        }))
    }

    /// Tells the controller which completions were taken.
    pub(super) fn taken<R: Registers>(&self, controller: &Controller<R>) {
        controller.ring_completions(self.number, self.head);
    }
}

fn next(position: u16, entries: u16) -> u16 {
    match position.wrapping_add(1) {
        after if after >= entries => 0,
        after => after,
    }
}
