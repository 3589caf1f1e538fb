//! Synopsys' DesignWare mobile storage host, as Rockchip, Samsung, HiSilicon and Intel have it for SD
//! cards, and Allwinner's descendant of it, which has the same bits at other places; polled.
//!
//! # Procedure
//! - Taking over: the card's clock must be on. The controller reset ends what the dead kernel had
//!   under way and leaves clock, width and timing; interrupts and DMA are switched off, and the
//!   clock is announced anew, without which nothing runs after a reset.
//! - Restart: the same, with [`Bus::IDENTIFY`], and 80 clocks before the first command.
//! - The clock: switched off, divided and switched on again, each step announced to the card side
//!   by a command of its own that ends when its start bit clears.
//! - A command: byte count and block size, argument, then the command. It ends by Command Done, and
//!   data by Data Transfer Over, or by an error bit. The end of busy has no bit but a line in the
//!   status.
//!
//! Data goes through the FIFO by the CPU, as many words at a time as the status says that it has,
//! or has room for.
//!
//! # The clock's rate
//! What comes in is the clock tree's affair, and Linux sets it for each speed of a card. All that is
//! certain is that Linux runs no card faster than the board and SDR104 allow, so that is taken for
//! the rate, and every divided clock is that or slower.
//!
//! Sources: the chapters on this controller in the manuals of Rockchip (RK3288, RK3399 TRM, "SDMMC"),
//! Intel (Cyclone V HPS, "SD/MMC Controller") and Allwinner (A64, H6, "SD/MMC host controller");
//! Linux `drivers/mmc/host/dw_mmc.c` and `sunxi-mmc.c`; U-Boot `drivers/mmc/sunxi_mmc.c`; QEMU
//! `hw/sd/allwinner-sdhost.c`.

use core::fmt;

use kdraw_pipeline::ports::Clock;
use tock_registers::interfaces::{Readable, Writeable};

use super::registers::status;
use super::{Answer, Bus, Command, Data, Fault, Host, Limits, Wiring, pump, wait};
use crate::barrier;
use crate::registers::{Offset, Registers, Width};

/// Which of the two register maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Make {
    /// The original.
    #[default]
    Synopsys,
    /// Allwinner's descendant, from the A31 on: sun6i and later.
    Allwinner,
}

/// Where the registers are that both makes have.
#[derive(Debug)]
struct Map {
    timeout: Offset<u32>,
    card_type: Offset<u32>,
    block_size: Offset<u32>,
    byte_count: Offset<u32>,
    interrupt_mask: Offset<u32>,
    argument: Offset<u32>,
    command: Offset<u32>,
    response: [Offset<u32>; 4],
    /// Interrupts, whether masked or not.
    raw_interrupts: Offset<u32>,
    status: Offset<u32>,
    thresholds: Offset<u32>,
}

const SYNOPSYS: Map = Map {
    timeout: Offset::new(0x14),
    card_type: Offset::new(0x18),
    block_size: Offset::new(0x1c),
    byte_count: Offset::new(0x20),
    interrupt_mask: Offset::new(0x24),
    argument: Offset::new(0x28),
    command: Offset::new(0x2c),
    response: [
        Offset::new(0x30),
        Offset::new(0x34),
        Offset::new(0x38),
        Offset::new(0x3c),
    ],
    raw_interrupts: Offset::new(0x44),
    status: Offset::new(0x48),
    thresholds: Offset::new(0x4c),
};

const ALLWINNER: Map = Map {
    timeout: Offset::new(0x08),
    card_type: Offset::new(0x0c),
    block_size: Offset::new(0x10),
    byte_count: Offset::new(0x14),
    command: Offset::new(0x18),
    argument: Offset::new(0x1c),
    response: [
        Offset::new(0x20),
        Offset::new(0x24),
        Offset::new(0x28),
        Offset::new(0x2c),
    ],
    interrupt_mask: Offset::new(0x30),
    raw_interrupts: Offset::new(0x38),
    status: Offset::new(0x3c),
    thresholds: Offset::new(0x40),
};

const CONTROL: Offset<u32> = Offset::new(0x00);
/// The internal DMA controller's mode.
const BUS_MODE: Offset<u32> = Offset::new(0x80);

// Synopsys' alone.
const POWER: Offset<u32> = Offset::new(0x04);
const CLOCK_DIVIDER: Offset<u32> = Offset::new(0x08);
const CLOCK_SOURCE: Offset<u32> = Offset::new(0x0c);
const CLOCK_ENABLE: Offset<u32> = Offset::new(0x10);
const VERSION: Offset<u32> = Offset::new(0x6c);
const CONFIGURATION: Offset<u32> = Offset::new(0x70);
const UHS: Offset<u32> = Offset::new(0x74);
const UHS_DDR: u32 = 1 << 16;

// Allwinner's alone.
const CLOCK: Offset<u32> = Offset::new(0x04);
const CLOCK_ON: u32 = 1 << 16;
/// The card's busy line does not stop the clock.
const CLOCK_MASK_DATA0: u32 = 1 << 31;
const CONTROL_DDR: u32 = 1 << 10;
/// The CPU has the FIFO, not DMA.
const CONTROL_FIFO_TO_CPU: u32 = 1 << 31;

// Control.
const RESETS: u32 = 7;
const RESET_FIFO: u32 = 1 << 1;

// Command.
const START: u32 = 1 << 31;
const USE_HOLD_REGISTER: u32 = 1 << 29;
const UPDATE_CLOCK: u32 = 1 << 21;
const INITIALISE: u32 = 1 << 15;
const STOP_OR_ABORT: u32 = 1 << 14;
const WAIT_FOR_DATA: u32 = 1 << 13;
const WRITE: u32 = 1 << 10;
const HAS_DATA: u32 = 1 << 9;
const CHECK_CRC: u32 = 1 << 8;
const LONG: u32 = 1 << 7;
const HAS_RESPONSE: u32 = 1 << 6;

// Interrupts.
const RESPONSE_ERROR: u32 = 1 << 1;
const COMMAND_DONE: u32 = 1 << 2;
const DATA_OVER: u32 = 1 << 3;
const RESPONSE_CRC: u32 = 1 << 6;
const DATA_CRC: u32 = 1 << 7;
const RESPONSE_TIMEOUT: u32 = 1 << 8;
const DATA_TIMEOUT: u32 = 1 << 9;
const STARVED: u32 = 1 << 10;
const FIFO_OVERRUN: u32 = 1 << 11;
const LOCKED: u32 = 1 << 12;
/// For reads; for writes it tells the end of busy, if that is asked for.
const START_BIT: u32 = 1 << 13;
/// For writes: no CRC status came.
const END_BIT: u32 = 1 << 15;
const ERRORS: u32 = RESPONSE_ERROR
    | RESPONSE_CRC
    | DATA_CRC
    | RESPONSE_TIMEOUT
    | DATA_TIMEOUT
    | STARVED
    | FIFO_OVERRUN
    | LOCKED
    | START_BIT
    | END_BIT;

// Status.
const FIFO_FULL: u32 = 1 << 3;
const DATA_BUSY: u32 = 1 << 9;

/// Bus mode: the internal DMA controller's reset.
const DMA_RESET: u32 = 1 << 0;
/// From this version on the FIFO is further back.
const VERSION_240A: u32 = 0x240a;
/// The least FIFO that there is, and the most that is made use of, in words.
const FIFO_DEPTHS: (u32, u32) = (8, 1024);

/// The fastest clock of a card: SDR104 (SD 3.9.4).
const FASTEST_HZ: u32 = 208_000_000;
/// How long a reset or an announcement may take, in microseconds; the latter takes a few clocks
/// of the card.
const SETTLE_US: u64 = 20_000;
/// How long the lines may stay busy after an answer, in microseconds.
const BUSY_US: u64 = 1000;
/// What is waited after power is switched, in microseconds.
const POWER_US: u64 = 20_000;

/// What a board has to tell about a controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Whose it is.
    pub make: Make,
    /// How it is wired.
    pub wiring: Wiring,
    /// Words in its FIFO; 0: what the thresholds tell.
    pub fifo_depth: u32,
}

/// What is under way.
#[derive(Clone, Copy, Debug)]
struct Running {
    answer: Answer,
    /// The answer, once it is there.
    response: Option<[u32; 4]>,
    /// Whether the host has told the end of data.
    complete: bool,
    /// The next byte.
    at: u64,
}

/// A DesignWare host controller behind `registers`.
#[derive(Debug)]
pub struct DwMmc<R, C> {
    registers: R,
    clock: C,
    setup: Setup,
    map: &'static Map,
    /// Where the FIFO is, in bytes, and how wide.
    fifo: (usize, Width),
    /// Words in it.
    depth: u32,
    /// What the clock that comes in is taken for, in Hz.
    base_hz: u32,
    /// Whether the card has to be given clocks before the next command.
    initialise: bool,
    bus: Bus,
    running: Option<Running>,
}

impl<R: Registers, C: Clock> DwMmc<R, C> {
    /// Reads what the controller is like; changes nothing.
    pub fn new(registers: R, clock: C, setup: Setup) -> Self {
        let (map, fifo, divider) = match setup.make {
            Make::Synopsys => {
                let at = match registers.at(VERSION).get() & 0xffff {
                    VERSION_240A.. => 0x200,
                    _ => 0x100,
                };
                let width = match registers.at(CONFIGURATION).get() >> 7 & 7 {
                    0 => Width::W16,
                    1 => Width::W32,
                    _ => Width::W64,
                };
                (&SYNOPSYS, (at, width), CLOCK_DIVIDER)
            }
            Make::Allwinner => (&ALLWINNER, (0x200, Width::W32), CLOCK),
        };
        // As it comes out of power-on, the receive threshold is the depth less one; as Linux and
        // U-Boot set them, the transmit threshold is half of the depth or less.
        let thresholds = registers.at(map.thresholds).get();
        let depth = match (setup.fifo_depth, thresholds & 0xfff) {
            (0, 0) => (thresholds >> 16 & 0xfff).saturating_add(1),
            (0, half) => half.saturating_mul(2),
            (told, _) => told,
        };
        let (least, most) = FIFO_DEPTHS;
        let divisor = divisor(registers.at(divider).get());
        let fastest = setup.wiring.clock_limit().min(FASTEST_HZ);
        Self {
            map,
            fifo,
            depth: depth.clamp(least, most),
            base_hz: fastest.saturating_mul(divisor),
            initialise: false,
            bus: Bus::IDENTIFY,
            running: None,
            registers,
            clock,
            setup,
        }
    }

    /// Announces the clock's registers to the card side.
    fn update_clock(&self) -> Result<(), Fault> {
        let command = self.registers.at(self.map.command);
        command.set(START | UPDATE_CLOCK | WAIT_FOR_DATA);
        wait(&self.clock, SETTLE_US, || command.get() & START == 0)
    }

    /// Divides the clock by twice `half`, or not if that is 0.
    fn set_clock(&self, half: u32) -> Result<(), Fault> {
        match self.setup.make {
            Make::Synopsys => {
                self.registers.at(CLOCK_ENABLE).set(0);
                self.registers.at(CLOCK_SOURCE).set(0);
                self.update_clock()?;
                self.registers.at(CLOCK_DIVIDER).set(half);
                self.update_clock()?;
                self.registers.at(CLOCK_ENABLE).set(1);
                self.update_clock()
            }
            Make::Allwinner => {
                let clock = self.registers.at(CLOCK);
                clock.set(CLOCK_MASK_DATA0 | half);
                self.update_clock()?;
                clock.set(CLOCK_MASK_DATA0 | CLOCK_ON | half);
                self.update_clock()?;
                clock.set(CLOCK_ON | half);
                Ok(())
            }
        }
    }

    /// Switches DDR off.
    fn single_rate(&self) {
        let (register, bit) = self.ddr();
        let register = self.registers.at(register);
        register.set(register.get() & !bit);
    }

    /// Where DDR is switched.
    fn ddr(&self) -> (Offset<u32>, u32) {
        match self.setup.make {
            // The voltage, in the lower half, stays: a card cannot go back from 1.8 V without losing
            // its power.
            Make::Synopsys => (UHS, UHS_DDR),
            Make::Allwinner => (CONTROL, CONTROL_DDR),
        }
    }

    /// Ends whatever is under way; the bus stays as it is.
    fn reset(&mut self) -> Result<(), Fault> {
        self.running = None;
        let control = self.registers.at(CONTROL);
        // Without DMA and interrupts.
        let kept = match self.setup.make {
            Make::Synopsys => 0,
            Make::Allwinner => control.get() & CONTROL_DDR | CONTROL_FIFO_TO_CPU,
        };
        self.registers.at(BUS_MODE).set(DMA_RESET);
        // Twice, in case DMA has filled the FIFO meanwhile.
        for resets in [RESETS, RESET_FIFO] {
            control.set(kept | resets);
            wait(&self.clock, SETTLE_US, || control.get() & RESETS == 0)?;
        }
        self.registers.at(self.map.interrupt_mask).set(0);
        self.registers.at(self.map.raw_interrupts).set(u32::MAX);
        self.registers.at(self.map.timeout).set(u32::MAX);
        self.update_clock()
    }

    /// Reads the answer.
    fn response(&self, answer: Answer) -> [u32; 4] {
        let [a, b, c, d] = self.map.response;
        let word = |offset| self.registers.at(offset).get();
        match answer {
            Answer::None => [0; 4],
            Answer::Long => [word(d), word(c), word(b), word(a) & !0xff],
            _ => [word(a), 0, 0, 0],
        }
    }

    /// Moves what the FIFO has, or what it has room for.
    fn move_data(&self, running: &mut Running, data: &Data<'_>) {
        let (fifo, width) = self.fifo;
        let left = u64::from(data.len()).saturating_sub(running.at) as usize;
        let left = left.checked_div(width.bytes()).unwrap_or(0) as u32;
        if left == 0 {
            return;
        }
        let status = self.registers.at(self.map.status).get();
        let (least, _) = FIFO_DEPTHS;
        let filled = match status >> 17 & 0x1fff {
            // Some of Allwinner's count modulo their depth (U-Boot, sunxi_mmc.c).
            0 if status & FIFO_FULL != 0 && data.to_card => self.depth,
            0 if status & FIFO_FULL != 0 => least,
            filled => filled,
        };
        let words = match data.to_card {
            false => filled,
            true => {
                // Half at least, so that not every word costs a look.
                let room = self.depth.saturating_sub(filled);
                if room < left.min(self.depth / 2) {
                    return;
                }
                room
            }
        };
        pump(&self.registers, (fifo, width), data, &mut running.at, words);
    }
}

/// By what the clock is divided.
fn divisor(register: u32) -> u32 {
    (register & 0xff).saturating_mul(2).max(1)
}

impl<R: Registers, C: Clock> Host for DwMmc<R, C> {
    fn limits(&self) -> Limits {
        self.setup.wiring.limits()
    }

    fn bus(&self) -> Bus {
        self.bus
    }

    fn take_over(&mut self) -> Result<(), Fault> {
        let (on, divider) = match self.setup.make {
            Make::Synopsys => {
                let power = self.registers.at(POWER).get();
                let enabled = self.registers.at(CLOCK_ENABLE).get();
                (power & enabled & 1 != 0, CLOCK_DIVIDER)
            }
            Make::Allwinner => (self.registers.at(CLOCK).get() & CLOCK_ON != 0, CLOCK),
        };
        let divider = self.registers.at(divider).get();
        // All ones: nobody is there.
        if !on || divider == u32::MAX {
            return Err(Fault::Other { status: 0 });
        }
        self.reset()?;
        let divisor = divisor(divider);
        let (ddr, bit) = self.ddr();
        let lines = self.registers.at(self.map.card_type).get();
        self.bus = Bus {
            clock_hz: self.base_hz.checked_div(divisor).unwrap_or(0),
            width: match lines {
                0 => 1,
                1 => 4,
                _ => 8,
            },
            high_speed: true,
            ddr: self.registers.at(ddr).get() & bit != 0,
        };
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Fault> {
        if self.setup.make == Make::Synopsys {
            self.registers.at(POWER).set(1);
        }
        self.reset()?;
        self.single_rate();
        let _ = wait(&self.clock, POWER_US, || false);
        self.set_bus(Bus::IDENTIFY)?;
        self.initialise = true;
        Ok(())
    }

    fn set_bus(&mut self, bus: Bus) -> Result<(), Fault> {
        let wanted = self.base_hz.div_ceil(bus.clock_hz.max(1));
        let half = match wanted {
            0 | 1 => 0,
            more => more.div_ceil(2).min(255),
        };
        self.registers
            .at(self.map.card_type)
            .set(match (self.setup.make, bus.width) {
                (Make::Synopsys, 8) => 1 << 16,
                (Make::Allwinner, 8) => 2,
                (_, 4) => 1,
                _ => 0,
            });
        self.set_clock(half)?;
        self.bus = Bus {
            clock_hz: self.base_hz.checked_div(divisor(half)).unwrap_or(0),
            ..bus
        };
        Ok(())
    }

    fn reset_lines(&mut self) -> Result<(), Fault> {
        self.reset()
    }

    fn degrade(&mut self) -> bool {
        false
    }

    fn start(&mut self, command: Command, data: Option<&Data<'_>>) -> Result<(), Fault> {
        const GO_IDLE: u8 = 0;
        const STOP_TRANSMISSION: u8 = 12;
        let mut word = START | u32::from(command.index & 0x3f);
        if self.setup.make == Make::Synopsys {
            word |= USE_HOLD_REGISTER;
        }
        word |= match command.answer {
            Answer::None => 0,
            Answer::Unchecked => HAS_RESPONSE,
            Answer::Long => HAS_RESPONSE | LONG | CHECK_CRC,
            Answer::Short | Answer::ShortBusy => HAS_RESPONSE | CHECK_CRC,
        };
        if matches!(command.index, GO_IDLE | STOP_TRANSMISSION) {
            word |= STOP_OR_ABORT;
        }
        if core::mem::take(&mut self.initialise) {
            word |= INITIALISE;
        }
        if let Some(data) = data {
            let lines = self.registers.at(self.map.status);
            wait(&self.clock, BUSY_US, || lines.get() & DATA_BUSY == 0)?;
            self.registers.at(self.map.block_size).set(data.block_size);
            self.registers.at(self.map.byte_count).set(data.len());
            word |= HAS_DATA | WAIT_FOR_DATA;
            if data.to_card {
                word |= WRITE;
            }
        }
        // What came late for the last command is none of this one's.
        self.registers.at(self.map.raw_interrupts).set(u32::MAX);
        self.registers.at(self.map.argument).set(command.argument);
        self.registers.at(self.map.command).set(word);
        self.running = Some(Running {
            answer: command.answer,
            response: None,
            complete: false,
            at: 0,
        });
        Ok(())
    }

    fn poll(&mut self, data: Option<&Data<'_>>) -> Option<Result<[u32; 4], Fault>> {
        let mut running = self.running?;
        let writes = data.is_some_and(|data| data.to_card);
        let errors = if writes { ERRORS & !START_BIT } else { ERRORS };
        let seen =
            self.registers.at(self.map.raw_interrupts).get() & (errors | COMMAND_DONE | DATA_OVER);
        if seen != 0 {
            self.registers.at(self.map.raw_interrupts).set(seen);
        }
        if seen & errors != 0 {
            self.running = None;
            return Some(Err(fault(seen, writes)));
        }
        if seen & COMMAND_DONE != 0 {
            running.response = Some(self.response(running.answer));
        }
        running.complete |= seen & DATA_OVER != 0;
        if let (Some(data), Some(_)) = (data, running.response) {
            self.move_data(&mut running, data);
        }
        self.running = Some(running);
        let response = running.response?;
        let [status, ..] = response;
        let refused = data.is_some() && status & status::ERRORS != 0;
        let ended = match (data, running.answer) {
            _ if refused => true,
            (Some(data), _) => running.complete && running.at >= u64::from(data.len()),
            (None, Answer::ShortBusy) => self.registers.at(self.map.status).get() & DATA_BUSY == 0,
            (None, _) => true,
        };
        if !ended {
            return None;
        }
        self.running = None;
        barrier::acquire();
        Some(Ok(response))
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(match self.setup.make {
            Make::Synopsys => "dw_mmc (at most that clock) by PIO",
            Make::Allwinner => "sunxi-mmc (at most that clock) by PIO",
        })
    }
}

/// What interrupts with errors mean.
fn fault(seen: u32, writes: bool) -> Fault {
    let is = |bits: u32| seen & bits != 0;
    if is(RESPONSE_TIMEOUT) {
        Fault::CommandTimeout
    } else if is(RESPONSE_CRC | RESPONSE_ERROR) {
        Fault::CommandGarbled
    } else if is(DATA_TIMEOUT) || writes && is(END_BIT) {
        Fault::DataTimeout
    } else if is(DATA_CRC | START_BIT | END_BIT) {
        Fault::DataGarbled
    } else {
        Fault::Other { status: seen }
    }
}
