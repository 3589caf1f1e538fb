//! SD and eMMC: what every host controller and every card have in common.
//!
//! A [`Host`] moves commands and data over the bus and knows nothing of cards; the [`card`] layer
//! knows cards and nothing of registers. [`registers`] decodes what cards say of themselves.
//! The hosts are in a file each: [`sdhci`], the standard host controller, with [`usdhc`], NXP's
//! variant of it, [`dw_mmc`] and [`meson_gx`].
//!
//! "SD" in these modules' docs is the SD Physical Layer Simplified Specification 6.00, "eMMC" is
//! JEDEC JESD84-B51.

pub mod card;
pub mod dw_mmc;
mod identify;
pub mod meson_gx;
pub mod registers;
pub mod sdhci;
pub mod usdhc;

use core::fmt;

use card::SCRATCH;
use kdraw_pipeline::ports::{Clock, DeviceError, DmaBuffer};

use crate::dma::{self, DmaMemory};
use crate::registers::{Registers, Width};

/// Bytes of a block: what every card can do (SD 4.3.2; eMMC 6.6.1).
pub const BLOCK: u32 = 512;

/// Bytes of memory for a host's descriptors.
const DESCRIPTORS: usize = 4096;
/// Bytes of memory that a host and its card take, see [`memory_for`].
pub const MEMORY_BYTES: usize = DESCRIPTORS + SCRATCH;

/// Divides memory, [`MEMORY_BYTES`] or more and 4 KiB aligned, into a host's descriptors and its
/// card's scratch.
///
/// # Errors
/// [`DeviceError::Unusable`] if it is too short.
pub fn memory_for(memory: DmaBuffer) -> Result<(DmaMemory, DmaMemory), DeviceError> {
    let (descriptors, scratch) = dma::split(memory, DESCRIPTORS)
        .filter(|(_, scratch)| scratch.bytes.len() >= SCRATCH)
        .ok_or(DeviceError::Unusable(
            "memory for the SD host controller too short",
        ))?;
    Ok((DmaMemory::new(descriptors), DmaMemory::new(scratch)))
}

/// What a card answers to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    None,
    /// 48 bits with the command's index and a CRC: R1, R6, R7.
    Short,
    /// The same, and then it may hold DAT0 low while it is busy: R1b.
    ShortBusy,
    /// 48 bits without index and CRC: R3.
    Unchecked,
    /// 136 bits: R2.
    Long,
}

/// A command to the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its number.
    pub index: u8,
    /// Its argument.
    pub argument: u32,
    /// What is answered.
    pub answer: Answer,
}

/// The data that goes with a command.
#[derive(Debug)]
pub struct Data<'m> {
    /// Where it is, or goes to: the first bytes.
    pub memory: &'m DmaMemory,
    /// Bytes of a block, a multiple of 4, at most [`BLOCK`].
    pub block_size: u32,
    /// Blocks, 1 to 65535.
    pub blocks: u32,
    /// Whether the card writes it to the medium.
    pub to_card: bool,
}

impl Data<'_> {
    /// Bytes in all.
    pub const fn len(&self) -> u32 {
        self.block_size.saturating_mul(self.blocks)
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How the bus is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bus {
    /// The fastest clock wanted, in Hz.
    pub clock_hz: u32,
    /// Data lines: 1, 4 or 8.
    pub width: u8,
    /// Whether the card's timing is that of high speed (SD 6.6.7, eMMC 10.6.1).
    pub high_speed: bool,
    /// Whether both clock edges carry data.
    pub ddr: bool,
}

impl Bus {
    /// How a card is identified (SD 4.2.1).
    pub const IDENTIFY: Self = Self {
        clock_hz: 400_000,
        width: 1,
        high_speed: false,
        ddr: false,
    };
}

/// What a host can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most data lines that are wired.
    pub width: u8,
    /// Whether it does high speed.
    pub high_speed: bool,
    /// Whether it does DDR at the voltage that the lines have now.
    pub ddr: bool,
    /// The fastest clock that the board allows, in Hz.
    pub clock_hz: u32,
    /// Whether the clock cannot be changed.
    pub fixed_clock: bool,
}

/// How a board wires a host that is not standard and has no capabilities to read (binding
/// `mmc/mmc-controller.yaml`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wiring {
    /// Data lines.
    pub width: u8,
    /// Whether it does high speed.
    pub high_speed: bool,
    /// The fastest clock of the board, in Hz; 0: no limit.
    pub max_clock_hz: u32,
}

impl Wiring {
    /// The fastest clock of the board, in Hz.
    const fn clock_limit(&self) -> u32 {
        match self.max_clock_hz {
            0 => u32::MAX,
            limit => limit,
        }
    }

    /// What a host that is wired like this can do, without DDR.
    const fn limits(&self) -> Limits {
        Limits {
            width: self.width,
            high_speed: self.high_speed,
            ddr: false,
            clock_hz: self.clock_limit(),
            fixed_clock: false,
        }
    }
}

/// Why a command or its data failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The card did not answer.
    CommandTimeout,
    /// The answer was garbled: CRC, end bit or index.
    CommandGarbled,
    /// The data did not come, or the card stayed busy.
    DataTimeout,
    /// The data was garbled: CRC or end bit.
    DataGarbled,
    /// The host could not reach memory.
    Dma,
    /// The host has ended nothing and reported nothing.
    Silent,
    /// The host reported something else.
    Other {
        /// Its interrupt status.
        status: u32,
    },
}

/// A host controller. Only what its documentation says so waits.
pub trait Host {
    /// What it can do.
    fn limits(&self) -> Limits;

    /// How the bus is run now, as far as it is known.
    fn bus(&self) -> Bus;

    /// Ends whatever was under way and leaves the bus as it runs now. Waits up to 0.1 s.
    ///
    /// # Errors
    /// [`Fault::Other`] if the bus does not run (no clock, no power); [`Fault::Silent`] if the
    /// controller does not do as told.
    fn take_over(&mut self) -> Result<(), Fault>;

    /// Resets everything and supplies the card with power and [`Bus::IDENTIFY`]. Waits up to
    /// 0.3 s.
    ///
    /// # Errors
    /// [`Fault::Silent`] if the controller does not do as told; [`Fault::Other`] if it cannot
    /// run so slow a clock.
    fn restart(&mut self) -> Result<(), Fault>;

    /// Runs the bus like this. Waits up to 0.1 s.
    ///
    /// # Errors
    /// [`Fault::Silent`] if the clock does not become stable.
    fn set_bus(&mut self, bus: Bus) -> Result<(), Fault>;

    /// Ends whatever is under way. Waits up to 0.1 s.
    ///
    /// # Errors
    /// [`Fault::Silent`] if the controller does not do as told.
    fn reset_lines(&mut self) -> Result<(), Fault>;

    /// Gives up the fastest way to move data; false if there is only one left.
    fn degrade(&mut self) -> bool;

    /// Starts a command. Waits up to a millisecond for the lines to be free, which they are.
    ///
    /// # Errors
    /// [`Fault::Silent`] if they are not.
    fn start(&mut self, command: Command, data: Option<&Data<'_>>) -> Result<(), Fault>;

    /// Looks whether the command and its data, the same as at the start, have ended. The answer
    /// is its 32 bits in the first word, or 128 bits, most significant word first, with zero in
    /// place of the CRC. An answer with [`registers::status::ERRORS`] ends a command with data at
    /// once: no data will come, and the lines are to be reset.
    fn poll(&mut self, data: Option<&Data<'_>>) -> Option<Result<[u32; 4], Fault>>;

    /// Writes down what it is and how it moves data.
    ///
    /// # Errors
    /// Those of `out`.
    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}

/// Waits until `condition` holds.
fn wait(clock: &impl Clock, timeout_us: u64, condition: impl FnMut() -> bool) -> Result<(), Fault> {
    let deadline = clock.deadline(timeout_us);
    match crate::wait_until(clock, deadline, condition) {
        true => Ok(()),
        false => Err(Fault::Silent),
    }
}

/// Moves up to `words` words between the register `port`, of this offset and width, and memory from
/// the byte `at` on, which goes on.
fn pump(
    registers: &impl Registers,
    port: (usize, Width),
    data: &Data<'_>,
    at: &mut u64,
    words: u32,
) {
    let (port, width) = port;
    for _ in 0..words {
        if *at >= u64::from(data.len()) {
            return;
        }
        if data.to_card {
            registers.write(port, width, data.memory.read(*at as usize, width));
        } else {
            data.memory
                .write(*at as usize, width, registers.read(port, width));
        }
        *at = at.saturating_add(width.bytes() as u64);
    }
}
