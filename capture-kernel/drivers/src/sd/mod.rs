//! SD and eMMC: what every host controller and every card have in common.
//!
//! A [`Host`] moves commands and data over the bus and knows nothing of cards; the [`card`] layer
//! knows cards and nothing of registers. [`registers`] decodes what cards say of themselves, and
//! [`sdhci`] is the standard host controller.
//!
//! "SD" in these modules' docs is the SD Physical Layer Simplified Specification 6.00, "eMMC" is
//! JEDEC JESD84-B51.

pub mod card;
mod identify;
pub mod registers;
pub mod sdhci;

use core::fmt;

use crate::dma::DmaMemory;

/// Bytes of a block: what every card can do (SD 4.3.2; eMMC 6.6.1).
pub const BLOCK: u32 = 512;

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
