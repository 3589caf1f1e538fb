//! An SD card or eMMC device as a block device, polled, one request at a time and a few waiting.
//!
//! # A request
//! 1. SET_BLOCK_COUNT (CMD23) if there are several blocks and the card knows it.
//! 2. READ or WRITE, of a single or of multiple blocks (CMD17, 18, 24, 25), with its data.
//! 3. STOP_TRANSMISSION (CMD12) after multiple blocks that were not counted.
//! 4. After a write SEND_STATUS (CMD13) until the card is in transfer state and ready: only then is
//!    it done with programming, and only this answer has the errors of that (SD 4.10.1).
//!
//! # When it fails
//! The lines are reset, the card is stopped and brought back to transfer state, and the request is
//! tried again, [`TRIES`] times in all. A bus fault that repeats halves the clock, down to
//! [`SLOWEST_HZ`]; if the bus runs as Linux left it, the card is identified from scratch instead, at
//! no more than 25 MHz. A DMA fault takes the next slower way to move data. A card that does not
//! come back is identified from scratch too, and must be the same card by its CID: another one is
//! never written. If that fails, everything ends with the error. What the card itself refuses (ECC, protection)
//! is tried twice and costs this request only. A card that fails at SET_BLOCK_COUNT is not asked to
//! count again.
//!
//! Recovery waits, [`RECOVERY_US`] at most and three times that with an identification; all else
//! here is a step at a time.
//!
//! # Durable
//! An eMMC device's cache is flushed by [`BlockDevice::flush`]. SD cards whose cache Linux may have
//! switched on are identified from scratch, which switches it off.

use core::fmt;

use heapless::Deque;
use kdraw_format::addr::Lba;
use kdraw_pipeline::ports::{
    BlockDevice, Clock, Completion, Deadline, DeviceError, DmaBuffer, Geometry, Operation, Request,
};

use super::registers::{ext_csd, status};
use super::{Answer, BLOCK, Command, Data, Fault, Host};
use crate::dma::DmaMemory;

/// Bytes of memory for what a card says of itself, and for one read to verify it.
pub const SCRATCH: usize = 4096;
/// The most bytes in one request.
pub const MAX_TRANSFER: u32 = super::sdhci::MAX_TRANSFER;
/// How often a request is tried.
pub const TRIES: u8 = 5;
/// The slowest clock that data is tried at, in Hz.
pub const SLOWEST_HZ: u32 = 3_000_000;
/// How long a card may take to come back, in microseconds.
pub const RECOVERY_US: u64 = 1_000_000;

/// How long a command may take, in microseconds, before the host is taken to be stuck. A host ends
/// a command without answer by itself.
const COMMAND_US: u64 = 300_000;
/// How long programming, or the wait for data, may take, in microseconds.
const DATA_US: u64 = 2_000_000;
/// How long each byte may take on top, in microseconds: 100 kB/s, less than one data line at
/// [`SLOWEST_HZ`] carries, for the CPU may have to move the data.
const BYTE_US: u64 = 10;
/// Requests that may be here at a time.
const DEPTH: usize = 4;
/// How often a card may miss SEND_STATUS before it is taken to be gone.
const MISSES: u32 = 3;

/// Which family of cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SD memory card.
    Sd,
    /// eMMC device.
    Mmc,
}

/// What Linux knew of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its family.
    pub kind: Kind,
    /// Its relative address.
    pub rca: u16,
}

/// How a card that is used as Linux left it is proven to be the one: by a block of
/// [`SCRATCH`] bytes.
pub struct Proof<'p> {
    /// What Linux knew.
    pub known: Known,
    /// The first block of the bytes.
    pub lba: Lba,
    /// Whether they are what they must be.
    pub is_right: &'p mut dyn FnMut(&[u8; SCRATCH]) -> bool,
}

/// What is known of a card.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub kind: Kind,
    /// Its relative address, as arguments have it: in the upper half.
    pub rca: u32,
    pub cid: [u32; 4],
    /// Blocks of [`BLOCK`] bytes.
    pub blocks: u64,
    /// Whether it is addressed in blocks, not in bytes.
    pub by_blocks: bool,
    /// Whether it knows SET_BLOCK_COUNT.
    pub counts: bool,
    pub read_only: bool,
    /// Whether it has a cache that is on.
    pub cached: bool,
}

/// A request.
#[derive(Debug)]
struct Job {
    operation: Operation,
    lba: Lba,
    blocks: u32,
    memory: DmaMemory,
}

/// What is done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Count,
    Transfer,
    Stop,
    Status,
}

/// A request under way.
#[derive(Debug)]
struct Work {
    job: Job,
    step: Step,
    /// Until when the step may take; `None` before it is started.
    deadline: Option<Deadline>,
    tries: u8,
}

/// A card behind a host controller.
#[derive(Debug)]
pub struct Card<H, C> {
    pub(super) host: H,
    pub(super) clock: C,
    pub(super) scratch: DmaMemory,
    facts: Facts,
    taken_over: bool,
    /// The fastest clock that has not failed, in Hz.
    pub(super) clock_limit_hz: u32,
    retries: u32,
    current: Option<Work>,
    waiting: Deque<Job, DEPTH>,
    ended: Deque<Completion, DEPTH>,
    /// Why nothing works any more.
    broken: Option<DeviceError>,
}

impl<H: Host, C: Clock> Card<H, C> {
    /// Takes the card behind `host` over as Linux left it, if `proof` is there and holds; else
    /// identifies it from scratch. Waits up to 6 s. `scratch` is [`SCRATCH`] bytes, 4 KiB aligned.
    ///
    /// # Errors
    /// [`DeviceError::NotFound`] if no card answers; [`DeviceError::Unusable`] if what it says
    /// makes no sense; [`DeviceError::Timeout`] if it does not become ready.
    pub fn new(
        host: H,
        clock: C,
        scratch: DmaMemory,
        proof: Option<Proof<'_>>,
    ) -> Result<Self, DeviceError> {
        let mut this = Self {
            host,
            clock,
            scratch,
            facts: Facts {
                kind: Kind::Sd,
                rca: 0,
                cid: [0; 4],
                blocks: 0,
                by_blocks: false,
                counts: false,
                read_only: true,
                cached: false,
            },
            taken_over: false,
            clock_limit_hz: u32::MAX,
            retries: 0,
            current: None,
            waiting: Deque::new(),
            ended: Deque::new(),
            broken: None,
        };
        if let Some(facts) = proof.and_then(|proof| this.take_over(proof)) {
            this.facts = facts;
            this.taken_over = true;
        } else {
            this.facts = this.identify()?;
        }
        Ok(this)
    }

    /// Does one command and waits for its end; `data` is the block size and count that go through
    /// the scratch memory. After a fault the lines are free again.
    pub(super) fn execute(
        &mut self,
        index: u8,
        argument: u32,
        answer: Answer,
        data: Option<(u32, u32)>,
    ) -> Result<[u32; 4], Fault> {
        let command = Command {
            index,
            argument,
            answer,
        };
        let data = data.map(|(block_size, blocks)| Data {
            memory: &self.scratch,
            block_size,
            blocks,
            to_card: false,
        });
        let result = self.host.start(command, data.as_ref()).and_then(|()| {
            let busy = answer == Answer::ShortBusy || data.is_some();
            let timeout = if busy { DATA_US } else { COMMAND_US };
            let deadline = self.clock.deadline(timeout);
            let mut ended = None;
            crate::wait_until(&self.clock, deadline, || {
                ended = self.host.poll(data.as_ref());
                ended.is_some()
            });
            ended.unwrap_or(Err(Fault::Silent))
        });
        let result = match result {
            Ok([status, ..]) if data.is_some() && status & status::ERRORS != 0 => {
                Err(Fault::Other { status })
            }
            other => other,
        };
        if result.is_err() {
            // If this fails too, the next command says so.
            let _ = self.host.reset_lines();
        }
        result
    }

    /// Waits until the card at `rca` is selected and ready.
    pub(super) fn become_ready(&mut self, rca: u32) -> Result<u32, Fault> {
        let deadline = self.clock.deadline(RECOVERY_US);
        let mut misses = 0_u32;
        loop {
            match self.execute(13, rca, Answer::Short, None) {
                Ok([status, ..]) if status::state(status) == status::TRANSFER => {
                    if status & status::READY_FOR_DATA != 0 {
                        return Ok(status);
                    }
                }
                Ok([status, ..]) if status::state(status) == status::STANDBY => {
                    let _ = self.execute(7, rca, Answer::Short, None);
                }
                Ok(_) => {}
                Err(fault) => {
                    misses = misses.saturating_add(1);
                    if misses >= MISSES {
                        return Err(fault);
                    }
                }
            }
            if deadline.passed(&self.clock) {
                return Err(Fault::Silent);
            }
        }
    }

    /// eMMC: writes a byte of EXT_CSD (eMMC 6.6.1) and waits until it is done.
    pub(super) fn switch(&mut self, rca: u32, index: u8, value: u8) -> Result<(), Fault> {
        let argument = 3 << 24 | u32::from(index) << 16 | u32::from(value) << 8;
        self.execute(6, argument, Answer::ShortBusy, None)?;
        let status = self.become_ready(rca)?;
        match status & status::SWITCH_ERROR {
            0 => Ok(()),
            _ => Err(Fault::Other { status }),
        }
    }

    /// Lets time pass.
    pub(super) fn pause(&self, us: u64) {
        let deadline = self.clock.deadline(us);
        crate::wait_until(&self.clock, deadline, || false);
    }

    /// Checks that `request` fits the card, and gives its count of blocks.
    fn check(&self, request: &Request) -> Result<u32, DeviceError> {
        if request.operation == Operation::Write && self.facts.read_only {
            return Err(DeviceError::ReadOnly);
        }
        let geometry = self.geometry();
        let len = u32::try_from(request.len).map_err(|_| DeviceError::BadRequest)?;
        let blocks = len / BLOCK;
        let end = request.lba.checked_add(u64::from(blocks));
        // An argument has 32 bits, of blocks or of bytes.
        let address_fits = |end: u64| match self.facts.by_blocks {
            true => end <= 1 << 32,
            false => end <= 1 << 23,
        };
        let fits = blocks > 0
            && len.is_multiple_of(BLOCK)
            && len <= geometry.max_transfer
            && request.len <= request.buffer.bytes.len()
            && end.is_some_and(|end| end.0 <= geometry.blocks && address_fits(end.0));
        match fits {
            true => Ok(blocks),
            false => Err(DeviceError::BadRequest),
        }
    }

    /// The first step of a request.
    fn first_step(&self, job: &Job) -> Step {
        match self.facts.counts && job.blocks > 1 {
            true => Step::Count,
            false => Step::Transfer,
        }
    }

    /// Takes as many steps as can be taken without waiting.
    fn advance(&mut self) {
        while self.broken.is_none() {
            if self.current.is_none() {
                let Some(job) = self.waiting.pop_front() else {
                    return;
                };
                self.current = Some(Work {
                    step: self.first_step(&job),
                    job,
                    deadline: None,
                    tries: 1,
                });
            }
            let Some(work) = &mut self.current else {
                return;
            };
            let data = (work.step == Step::Transfer).then(|| work.job.data());
            let Some(deadline) = work.deadline else {
                let command = work.command(&self.facts);
                let bytes = data.as_ref().map_or(0, Data::len);
                let time = DATA_US.saturating_add(u64::from(bytes).saturating_mul(BYTE_US));
                match self.host.start(command, data.as_ref()) {
                    Ok(()) => work.deadline = Some(self.clock.deadline(time)),
                    Err(fault) => self.failed(fault),
                }
                continue;
            };
            match self.host.poll(data.as_ref()) {
                Some(Ok([status, ..])) => self.answered(status),
                Some(Err(fault)) => self.failed(fault),
                None if deadline.passed(&self.clock) => self.failed(Fault::Silent),
                None => return,
            }
        }
    }

    /// Goes on after a command's answer.
    fn answered(&mut self, status: u32) {
        let counts = self.facts.counts;
        let Some(work) = &mut self.current else {
            return;
        };
        if status & status::ERRORS != 0 {
            self.refused(status);
            return;
        }
        let write = work.job.operation == Operation::Write;
        let next = match work.step {
            Step::Count => Some(Step::Transfer),
            Step::Transfer if work.job.blocks > 1 && !counts => Some(Step::Stop),
            Step::Transfer | Step::Stop if write => Some(Step::Status),
            Step::Transfer | Step::Stop => None,
            Step::Status
                if status::state(status) == status::TRANSFER
                    && status & status::READY_FOR_DATA != 0 =>
            {
                None
            }
            Step::Status => {
                // Still programming: asked again, within the same time.
                let command = work.command(&self.facts);
                if let Err(fault) = self.host.start(command, None) {
                    self.failed(fault);
                }
                return;
            }
        };
        match next {
            Some(step) => {
                work.step = step;
                work.deadline = None;
            }
            None => self.end(Ok(())),
        }
    }

    /// Tries again, or ends the request, after the card refused it.
    fn refused(&mut self, status: u32) {
        let error = match status {
            _ if status & status::WRITE_PROTECTED != 0 => DeviceError::ReadOnly,
            _ if status & status::OUT_OF_RANGE != 0 => DeviceError::BadRequest,
            _ => DeviceError::Io { status },
        };
        self.retry(error, 2, |_, _| true);
    }

    /// Tries again after a fault, slower if it has happened before, or ends the request.
    fn failed(&mut self, fault: Fault) {
        self.retry(device_error(fault), TRIES, |this, tries| match fault {
            Fault::Dma => this.host.degrade() || tries <= 1,
            _ if tries <= 1 => true,
            Fault::Silent => {
                this.host.degrade();
                true
            }
            _ => this.slow_down(),
        });
    }

    /// Brings the card back, adapts by `adapt`, which is told how often the request was tried and
    /// says whether the card need not be identified anew, and has the request tried again unless
    /// that was `most` times; then it ends with `error`.
    fn retry(&mut self, error: DeviceError, most: u8, adapt: impl FnOnce(&mut Self, u8) -> bool) {
        let Some(tries) = self.current.as_ref().map(|work| work.tries) else {
            return;
        };
        self.retries = self.retries.saturating_add(1);
        let counting = self.current.as_ref().map(|work| work.step) == Some(Step::Count);
        // The commands that stop the card and ask for its state run at the clock that failed.
        let adapted = adapt(self, tries);
        let back = adapted && self.recover() || self.identify_again();
        if !back {
            self.give_up(DeviceError::NotFound("the card does not answer any more"));
            return;
        }
        if counting {
            // Not every card that says it can does (Linux: MMC_QUIRK_BLK_NO_CMD23): stop instead.
            self.facts.counts = false;
        }
        if tries >= most {
            self.end(Err(error));
        } else if let Some(mut work) = self.current.take() {
            work.step = self.first_step(&work.job);
            work.deadline = None;
            work.tries = tries.saturating_add(1);
            self.current = Some(work);
        }
    }

    /// Stops whatever the card is doing; false if it does not come back.
    fn recover(&mut self) -> bool {
        if self.host.reset_lines().is_err() {
            return false;
        }
        // Refused by a card that has nothing to stop.
        let _ = self.execute(12, 0, Answer::ShortBusy, None);
        self.become_ready(self.facts.rca).is_ok()
    }

    /// Halves the clock, if it can be changed; false if the card is to be identified anew for that.
    fn slow_down(&mut self) -> bool {
        /// The fastest clock without high speed (SD 4.2.1).
        const DEFAULT_SPEED_HZ: u32 = 25_000_000;
        if self.host.limits().fixed_clock {
            return true;
        }
        let mut bus = self.host.bus();
        let half = (bus.clock_hz / 2).max(SLOWEST_HZ);
        if self.taken_over {
            // Its timing may be tuned for its clock.
            self.clock_limit_hz = half.min(DEFAULT_SPEED_HZ);
            return false;
        }
        self.clock_limit_hz = half;
        bus.clock_hz = half;
        self.host.set_bus(bus).is_ok()
    }

    /// Identifies the card from scratch; false unless it is the same one.
    fn identify_again(&mut self) -> bool {
        match self.identify() {
            Ok(facts) if facts.cid == self.facts.cid && facts.blocks == self.facts.blocks => {
                self.facts = facts;
                self.taken_over = false;
                true
            }
            _ => false,
        }
    }

    /// Ends the request under way.
    fn end(&mut self, result: Result<(), DeviceError>) {
        if let Some(work) = self.current.take() {
            self.end_job(work.job, result);
        }
    }

    fn end_job(&mut self, job: Job, result: Result<(), DeviceError>) {
        let completion = Completion {
            buffer: job.memory.into_buffer(),
            lba: job.lba,
            result,
        };
        // Cannot be full: `start` lets in as many as fit.
        let _ = self.ended.push_back(completion);
    }

    /// Gives the card up: ends all requests.
    fn give_up(&mut self, error: DeviceError) {
        let _ = self.host.reset_lines();
        self.broken = Some(error);
        self.end(Err(error));
        while let Some(job) = self.waiting.pop_front() {
            self.end_job(job, Err(error));
        }
    }

    /// Requests that are here.
    fn requests(&self) -> usize {
        self.waiting
            .len()
            .saturating_add(self.ended.len())
            .saturating_add(usize::from(self.current.is_some()))
    }
}

impl Job {
    fn data(&self) -> Data<'_> {
        Data {
            memory: &self.memory,
            block_size: BLOCK,
            blocks: self.blocks,
            to_card: self.operation == Operation::Write,
        }
    }
}

impl Work {
    /// The command of the step.
    fn command(&self, facts: &Facts) -> Command {
        let many = self.job.blocks > 1;
        // Fits: checked when the request came.
        let address = match facts.by_blocks {
            true => self.job.lba.0 as u32,
            false => self.job.lba.0.saturating_mul(u64::from(BLOCK)) as u32,
        };
        let (index, argument, answer) = match (self.step, self.job.operation) {
            (Step::Count, _) => (23, self.job.blocks, Answer::Short),
            (Step::Transfer, Operation::Read) if many => (18, address, Answer::Short),
            (Step::Transfer, Operation::Read) => (17, address, Answer::Short),
            (Step::Transfer, Operation::Write) if many => (25, address, Answer::Short),
            (Step::Transfer, Operation::Write) => (24, address, Answer::Short),
            (Step::Stop, _) => (12, 0, Answer::ShortBusy),
            (Step::Status, _) => (13, facts.rca, Answer::Short),
        };
        Command {
            index,
            argument,
            answer,
        }
    }
}

/// What a fault that was not mended means to who asked.
pub(super) fn device_error(fault: Fault) -> DeviceError {
    match fault {
        Fault::CommandTimeout => DeviceError::Timeout("the card, a command"),
        Fault::DataTimeout => DeviceError::Timeout("the card, data"),
        Fault::Silent => DeviceError::Timeout("the SD host controller"),
        Fault::CommandGarbled => DeviceError::Unusable("the card's answers are garbled"),
        Fault::DataGarbled => DeviceError::Unusable("the card's data is garbled"),
        Fault::Dma => DeviceError::Unusable("the SD host controller does not reach memory"),
        Fault::Other { status } => DeviceError::Io { status },
    }
}

impl<H: Host, C: Clock> BlockDevice for Card<H, C> {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BLOCK,
            blocks: self.facts.blocks,
            max_transfer: MAX_TRANSFER,
            queue_depth: DEPTH,
        }
    }

    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)> {
        let checked = match self.broken {
            Some(error) => Err(error),
            None if self.requests() >= DEPTH => Err(DeviceError::QueueFull),
            None => self.check(&request),
        };
        let blocks = match checked {
            Ok(blocks) => blocks,
            Err(error) => return Err((error, request.buffer)),
        };
        let job = Job {
            operation: request.operation,
            lba: request.lba,
            blocks,
            memory: DmaMemory::new(request.buffer),
        };
        // Cannot be full: there are fewer requests than it has room for.
        let _ = self.waiting.push_back(job);
        self.advance();
        Ok(())
    }

    fn poll(&mut self) -> Option<Completion> {
        self.advance();
        self.ended.pop_front()
    }

    fn flush(&mut self, clock: &dyn Clock, deadline: Deadline) -> Result<(), DeviceError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        if self.requests() > 0 {
            return Err(DeviceError::QueueFull);
        }
        if !self.facts.cached {
            return Ok(());
        }
        // A long flush outlasts one command's time: the device stays busy and is asked again.
        let argument = 3 << 24 | u32::from(ext_csd::FLUSH_CACHE) << 16 | 1 << 8;
        let started = self.execute(6, argument, Answer::ShortBusy, None);
        loop {
            match self.become_ready(self.facts.rca) {
                Ok(status) if status & status::SWITCH_ERROR != 0 => {
                    return Err(DeviceError::Io { status });
                }
                Ok(_) => break,
                Err(fault) if deadline.passed(clock) => return Err(device_error(fault)),
                Err(Fault::Silent) => {}
                Err(fault) => return Err(device_error(fault)),
            }
        }
        match started {
            Ok(_) | Err(Fault::DataTimeout | Fault::Silent) => Ok(()),
            Err(fault) => Err(device_error(fault)),
        }
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let kind = match self.facts.kind {
            Kind::Sd => "SD card",
            Kind::Mmc => "eMMC",
        };
        let how = match self.taken_over {
            true => "taken over as Linux left it",
            false => "identified from scratch",
        };
        let bus = self.host.bus();
        let tenths = bus.clock_hz / 100_000;
        write!(
            out,
            "{kind} {how}, {} bit at {}.{} MHz",
            bus.width,
            tenths / 10,
            tenths % 10
        )?;
        if bus.ddr {
            out.write_str(" DDR")?;
        }
        out.write_str(", ")?;
        self.host.describe(out)?;
        match self.retries {
            0 => Ok(()),
            retries => write!(out, ", {retries} retries"),
        }
    }
}
