//! A serial line as a block device: what is written to it appears in an image file at the other
//! end ([`kdraw_link`]).
//!
//! Blocks are those of an image that looks like a freshly formatted partition, so that the rest of
//! the pipeline writes its dump as it does to a disk. A write is done when the receiver has it on
//! file, a flush when it has made that durable. While nobody answers, what there is to write (slot
//! header and black box, since the flush behind them waits) is sent blindly and then called for an
//! answer; when none comes, everything fails.

use core::fmt;

use embedded_io::{Read, ReadReady, Write, WriteReady};
use kdraw_format::layout::{BLOCK, START_UNKNOWN, SlotPlace, Superblock};
use kdraw_format::plan::Target;
use kdraw_format::slot::SlotHeader;
use kdraw_link::frame::{Deframer, Frame, MAX_ACK, MAX_WIRE, Tape};
use kdraw_link::sender::{BLIND_PASSES, Sender};
use kdraw_link::tape::{MAX_LEN, Record};

use crate::ports::{
    BlockDevice, Clock, Completion, Deadline, DeviceError, DmaBuffer, Geometry, Operation, Request,
};

/// Bytes of the image: no limit to a dump, and within what a record can name.
pub const IMAGE_LEN: u64 = 1 << 40;
/// Writes that are kept at once.
const QUEUE_DEPTH: usize = 6;
/// The longest that a look at the line takes, in microseconds.
const LONGEST_LOOK_US: u64 = 100_000;
/// How many bytes are read from the line at once.
const READ_AT_ONCE: usize = 32;

const NOBODY: DeviceError = DeviceError::Timeout("nobody answers on the serial line");
const SILENT: DeviceError = DeviceError::Timeout("the receiver on the serial line fell silent");
const TOO_LATE: DeviceError = DeviceError::Timeout("the time for the serial line is used up");

/// The target that a line is, for a dump with this id.
pub fn target(dump_id: [u8; 16]) -> Target {
    Target {
        controller: heapless::String::new(),
        pci: None,
        namespace: 0,
        card: None,
        partition_start: 0,
        partition_len: IMAGE_LEN,
        uuid: dump_id,
        unchecked_table: true,
    }
}

/// How long somebody is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the first answer, in microseconds from the beginning.
    pub answer_us: u64,
    /// For a receiver that has fallen silent, in microseconds.
    pub silence_us: u64,
    /// For all, in microseconds from the beginning.
    pub total_us: u64,
}

/// What the line is to carry out of a buffer, and the buffer.
#[derive(Debug)]
enum Cargo {
    Write(Request),
    Flush,
}

impl AsRef<[u8]> for Cargo {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Write(request) => request.buffer.bytes.get(..request.len).unwrap_or_default(),
            Self::Flush => &[],
        }
    }
}

/// The image at the other end of a UART.
pub struct SerialDisk<U, C> {
    uart: U,
    clock: C,
    superblock: Superblock,
    slot: SlotPlace,
    sender: Sender<Cargo, { QUEUE_DEPTH + 1 }>,
    incoming: Deframer<MAX_ACK>,
    wire: [u8; MAX_WIRE],
    /// How much of `wire` is a frame, and how much of that is sent.
    frame: usize,
    sent: usize,
    /// A read that has ended.
    read: Option<Completion>,
    patience: Patience,
    began_us: u64,
    /// How long nothing was heard while somebody listened, since when, and the answer before.
    silent_us: u64,
    pumped_us: u64,
    heard_us: Option<u64>,
    given_up: Option<DeviceError>,
}

impl<U, C> SerialDisk<U, C>
where
    U: Read + ReadReady + Write + WriteReady,
    C: Clock,
{
    /// Begins a tape over `uart`.
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] if the image cannot be laid out, which it can.
    pub fn new(uart: U, clock: C, tape: Tape, patience: Patience) -> Result<Self, DeviceError> {
        let superblock = Superblock::new(tape.dump_id, START_UNKNOWN, IMAGE_LEN, 1, false).ok();
        let laid_out = superblock.and_then(|superblock| Some((superblock.slot(0)?, superblock)));
        let (slot, superblock) = laid_out.ok_or(DeviceError::Unusable("no image"))?;
        let now_us = clock.now_us();
        Ok(Self {
            uart,
            clock,
            superblock,
            slot,
            sender: Sender::new(tape, now_us),
            incoming: Deframer::default(),
            wire: [0; MAX_WIRE],
            frame: 0,
            sent: 0,
            read: None,
            patience,
            began_us: now_us,
            silent_us: 0,
            pumped_us: now_us,
            heard_us: None,
            given_up: None,
        })
    }

    /// Moves what can be moved now, both ways.
    fn pump(&mut self) {
        let now_us = self.clock.now_us();
        let mut bytes = [0; READ_AT_ONCE];
        while self.uart.read_ready().unwrap_or(false) {
            // What could not be read is sent again.
            let Ok(count) = self.uart.read(&mut bytes) else {
                break;
            };
            for byte in bytes.get(..count).unwrap_or_default() {
                let session = Some(self.sender.session());
                if let Some(stretch) = self.incoming.take(*byte)
                    && let Some(frame) = Frame::decode(stretch, session)
                {
                    self.sender.take(&frame, now_us);
                }
            }
        }
        if self.sent == self.frame {
            self.sent = 0;
            self.frame = self.sender.frame(now_us, &mut self.wire);
            if self.frame == 0 {
                self.sender.end_blind_pass(now_us);
            }
        }
        let rest = self.wire.get(self.sent..self.frame).unwrap_or_default();
        // A UART that takes nothing is a line that is held: whoever waits has a deadline.
        if !rest.is_empty()
            && self.uart.write_ready().unwrap_or(false)
            && let Ok(count) = self.uart.write(rest)
        {
            self.sent = self.sent.saturating_add(count).min(self.frame);
        }
        self.count_silence(now_us);
        self.given_up = self.given_up.or_else(|| self.loses_patience(now_us));
    }

    /// While this CPU does something else, nobody is heard, and that is nobody's fault.
    fn count_silence(&mut self, now_us: u64) {
        let since = now_us.saturating_sub(self.pumped_us).min(LONGEST_LOOK_US);
        self.pumped_us = now_us;
        self.silent_us = self.silent_us.saturating_add(since);
        if self.heard_us != self.sender.heard_us() {
            self.heard_us = self.sender.heard_us();
            self.silent_us = 0;
        }
    }

    fn loses_patience(&self, now_us: u64) -> Option<DeviceError> {
        let since_start = now_us.saturating_sub(self.began_us);
        let answered = self.heard_us.is_some();
        let said_all = self.sender.blind_passes() >= BLIND_PASSES;
        if !answered && said_all && since_start >= self.patience.answer_us {
            Some(NOBODY)
        } else if answered && self.silent_us >= self.patience.silence_us {
            Some(SILENT)
        } else if since_start >= self.patience.total_us {
            Some(if answered { TOO_LATE } else { NOBODY })
        } else {
            None
        }
    }

    /// What a block of the image holds before anything is written.
    fn fresh_block(&self, block: &mut [u8; BLOCK], number: u64) {
        let at = number.saturating_mul(BLOCK as u64);
        if at == 0 {
            self.superblock.encode(block);
        } else if (0..2).any(|copy| self.slot.header(copy).0 == at) {
            SlotHeader::default().encode(block);
        } else {
            block.fill(0);
        }
    }

    fn completion(&mut self, cargo: Cargo, result: Result<(), DeviceError>) -> Option<Completion> {
        match cargo {
            Cargo::Write(request) => Some(Completion {
                buffer: request.buffer,
                lba: request.lba,
                result,
            }),
            Cargo::Flush => None,
        }
    }
}

impl<U, C> BlockDevice for SerialDisk<U, C>
where
    U: Read + ReadReady + Write + WriteReady,
    C: Clock,
{
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BLOCK as u32,
            blocks: IMAGE_LEN.div_ceil(BLOCK as u64),
            max_transfer: MAX_LEN,
            queue_depth: QUEUE_DEPTH,
        }
    }

    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)> {
        let refused = |request: Request| Err((DeviceError::BadRequest, request.buffer));
        let number = request.lba.0;
        if request.operation == Operation::Read {
            let bytes = request.buffer.bytes.get_mut(..request.len);
            let blocks = bytes.unwrap_or_default().as_chunks_mut().0;
            for (block, number) in blocks.iter_mut().zip(number..) {
                self.fresh_block(block, number);
            }
            // Whoever reads waits for it, with nothing else under way.
            self.read = Some(Completion {
                buffer: request.buffer,
                lba: request.lba,
                result: Ok(()),
            });
            return Ok(());
        }
        let bytes = request.buffer.bytes.get(..request.len).unwrap_or_default();
        let (Ok(block), true) = (u32::try_from(number), bytes.len() == request.len) else {
            return refused(request);
        };
        let Some(record) = Record::write(block, bytes) else {
            return refused(request);
        };
        if let Some(error) = self.given_up {
            return Err((error, request.buffer));
        }
        let now_us = self.clock.now_us();
        match self.sender.push(record, Cargo::Write(request), now_us) {
            Ok(()) => Ok(()),
            Err(Cargo::Write(request)) => Err((DeviceError::QueueFull, request.buffer)),
            // Not what was pushed.
            Err(Cargo::Flush) => Ok(()),
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        if let Some(read) = self.read.take() {
            return Some(read);
        }
        self.pump();
        if let Some(cargo) = self.sender.done() {
            return self.completion(cargo, Ok(()));
        }
        let error = self.given_up?;
        let cargo = self.sender.give_up()?;
        self.completion(cargo, Err(error))
    }

    fn flush(&mut self, _: &dyn Clock, _: Deadline) -> Result<(), DeviceError> {
        let now_us = self.clock.now_us();
        if self
            .sender
            .push(Record::Flush, Cargo::Flush, now_us)
            .is_err()
        {
            return Err(DeviceError::QueueFull);
        }
        loop {
            self.pump();
            while self.sender.done().is_some() {}
            if self.sender.is_empty() {
                return Ok(());
            }
            if let Some(error) = self.given_up {
                return Err(error);
            }
            core::hint::spin_loop();
        }
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "serial line")
    }

    /// A receiver may be pulled off and come back.
    fn patience_us(&self) -> u64 {
        self.patience.total_us.saturating_mul(2)
    }
}
