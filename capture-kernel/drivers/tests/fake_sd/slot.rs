//! A card in its slot: what every controller does with it, whatever its registers are like.

use kdraw_drivers::registers::{Registers as _, Width};
use kdraw_pipeline::ports::DmaBuffer;

use super::card::{Card, Lines, Model, Reply, Trouble};
use crate::machine::Memory;

/// What came of a command.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Timeout,
    Garbled,
    /// The host never tells.
    Silent,
    Answered {
        reply: Reply,
        /// Whether the card is busy for a while.
        busy: bool,
        /// Whether data goes with it.
        data: bool,
    },
}

/// What goes wrong with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grief {
    Garbled,
    Stops,
    NoMemory,
}

/// How the host runs the bus.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub width: u8,
    pub hz: u32,
    pub high_speed: bool,
    pub ddr: bool,
}

/// Data under way.
#[derive(Clone, Debug)]
pub struct Transfer {
    lines: Lines,
    pub block_size: usize,
    blocks: u32,
    multiple: bool,
    /// Bytes moved.
    pub moved: usize,
    /// Without DMA: bytes between card and CPU.
    pub buffer: Vec<u8>,
    trouble: Option<Trouble>,
}

impl Transfer {
    pub fn len(&self) -> usize {
        self.block_size * self.blocks as usize
    }

    pub fn to_card(&self) -> bool {
        matches!(self.lines, Lines::Writes(_))
    }

    /// Whether the card has sent or taken all.
    pub fn is_over(&self) -> bool {
        self.moved == self.len()
    }
}

#[derive(Debug)]
pub struct Slot {
    pub card: Card,
    /// Above this clock all data is garbled.
    pub garbles_above_hz: u32,
    /// Resets are never done.
    pub stuck: bool,
    /// Register accesses.
    pub accesses: u64,
    /// The ways data went.
    pub ways: Vec<&'static str>,
    pub memory: Memory,
    pub transfer: Option<Transfer>,
    /// What the last command does to the data lines, and its trouble.
    lines: Lines,
    trouble: Option<Trouble>,
}

impl Slot {
    pub fn new(model: Model) -> Self {
        Self {
            card: Card::new(model),
            garbles_above_hz: u32::MAX,
            stuck: false,
            accesses: 0,
            ways: vec![],
            memory: Memory::default(),
            transfer: None,
            lines: Lines::Idle,
            trouble: None,
        }
    }

    pub fn allocate(&mut self, len: usize) -> DmaBuffer {
        let device_addr = 0x4000_0000 + 0x20_0000 * self.memory.pieces();
        self.allocate_at(len, device_addr)
    }

    pub fn allocate_at(&mut self, len: usize, device_addr: u64) -> DmaBuffer {
        self.memory.allocate_at(len, device_addr)
    }

    /// The card hears a command.
    pub fn command(&mut self, index: u8, argument: u32, hz: u32) -> Outcome {
        assert_ne!(hz, 0, "command {index} without a clock");
        self.trouble = self.card.trouble(index);
        match self.trouble {
            Some(Trouble::Mute) => return Outcome::Timeout,
            Some(Trouble::Silent) => return Outcome::Silent,
            Some(Trouble::Status(bits)) => {
                return Outcome::Answered {
                    reply: Reply::Short(0x900 | bits),
                    busy: false,
                    data: false,
                };
            }
            _ => {}
        }
        let (reply, lines) = self.card.command(index, argument, hz);
        if self.trouble == Some(Trouble::Garbled) {
            return Outcome::Garbled;
        }
        let busy = matches!(lines, Lines::Busy);
        let data = !matches!(lines, Lines::Busy | Lines::Idle);
        self.lines = lines;
        Outcome::Answered { reply, busy, data }
    }

    /// Data begins to move behind a command that has some.
    pub fn begin(
        &mut self,
        block_size: usize,
        blocks: u32,
        multiple: bool,
        mode: Mode,
    ) -> Result<(), Grief> {
        let Mode { width, hz, .. } = mode;
        if !self.card.understands(width, hz, mode.high_speed, mode.ddr)
            || hz > self.garbles_above_hz
        {
            return Err(Grief::Garbled);
        }
        self.transfer = Some(Transfer {
            lines: self.lines.clone(),
            block_size,
            blocks,
            multiple,
            moved: 0,
            buffer: vec![],
            trouble: self.trouble,
        });
        Ok(())
    }

    /// Whether the next block comes to grief; then nothing more happens.
    pub fn grief(&mut self) -> Result<(), Grief> {
        let transfer = self.transfer.as_ref().expect("a transfer");
        let done = (transfer.moved / transfer.block_size) as u32;
        let grief = match transfer.trouble {
            _ if self.card.removed => Grief::Stops,
            Some(Trouble::DataGarbled(after)) if after == done => Grief::Garbled,
            Some(Trouble::DataStops(after)) if after == done => Grief::Stops,
            Some(Trouble::NoMemory(after)) if after == done => Grief::NoMemory,
            _ => return Ok(()),
        };
        self.transfer = None;
        Err(grief)
    }

    /// Moves one block between card and memory, or the buffer.
    pub fn move_block(&mut self, memory: Option<u64>) -> Result<(), Grief> {
        self.grief()?;
        let mut transfer = self.transfer.take().unwrap();
        let size = transfer.block_size;
        let from = transfer.moved;
        let block = match &transfer.lines {
            Lines::Sends(bytes) => bytes[from..][..size].to_vec(),
            Lines::Reads(at) => self.card.medium[at + from..][..size].to_vec(),
            Lines::Writes(at) => {
                let at = at + from;
                let block: Vec<u8> = match memory {
                    Some(memory) => {
                        let memory = self.memory.at(memory, size);
                        (0..size)
                            .step_by(4)
                            .flat_map(|at| (memory.read(at, Width::W32) as u32).to_le_bytes())
                            .collect()
                    }
                    None => transfer.buffer.drain(..size).collect(),
                };
                self.card.write_block(at, &block);
                block
            }
            other => panic!("{other:?} has no data"),
        };
        if !transfer.to_card() {
            match memory {
                Some(memory) => {
                    let memory = self.memory.at(memory, size);
                    for (index, word) in block.as_chunks::<4>().0.iter().enumerate() {
                        let word = u32::from_le_bytes(*word);
                        memory.write(index * 4, Width::W32, word.into());
                    }
                }
                None => transfer.buffer.extend(block),
            }
        }
        transfer.moved += size;
        if transfer.is_over() && !matches!(transfer.lines, Lines::Sends(_)) {
            self.card.end_of_data(transfer.multiple, transfer.blocks);
        }
        self.transfer = Some(transfer);
        Ok(())
    }
}
