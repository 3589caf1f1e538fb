//! The standard SD host controller, versions 1.00 to 4.20, polled.
//!
//! # Procedure
//! - Taking over: the SD clock and bus power must be on. Software reset of the CMD and DAT lines
//!   ends what the dead kernel had under way, DMA included (3.2.2.1, 2.2.15); clock, width and timing stay.
//! - Restart: software reset for all, then voltage (the one that was on), a clock of 400 kHz or
//!   less, one data line (3.3, 3.2.1). The lines' 1.8 V is kept if they had it: a card cannot go
//!   back without losing its power.
//! - A command (3.7.1.1): wait for the inhibit bits, DMA addresses, block size and count, argument,
//!   then mode and command in one write. It ends by Command Complete, and with data or busy by
//!   Transfer Complete, or by an error bit.
//!
//! Data moves by ADMA2 with 32-bit or 64-bit descriptors (96 bits long in version 3 mode, 128 in
//! version 4 mode), by SDMA, or through the buffer port, whichever the capabilities have first.
//! Memory out of a way's reach goes the next way, and what is no whole block goes through the port.
//!
//! Registers are only accessed as whole 32-bit words, which every controller allows and some need
//! (BCM2835 and its successors). No interrupt is asked for: status bits are enabled, signals are
//! not.
//!
//! Section numbers are those of the SD Host Controller Simplified Specification 4.20.

use core::fmt;

use kdraw_pipeline::ports::Clock;
use tock_registers::interfaces::{Readable, Writeable};

use super::registers::status;
use super::{Answer, BLOCK, Bus, Command, DESCRIPTORS, Data, Fault, Host, Limits, pump, wait};
use crate::barrier;
use crate::dma::DmaMemory;
use crate::registers::{Offset, Registers, Width};

/// Bytes of registers that are used.
pub const REGISTERS: u64 = 0x100;

const SDMA_ADDRESS: Offset<u32> = Offset::new(0x00);
/// Block size and SDMA boundary, block count.
const BLOCKS: Offset<u32> = Offset::new(0x04);
const ARGUMENT: Offset<u32> = Offset::new(0x08);
/// Transfer mode, command.
const COMMAND: Offset<u32> = Offset::new(0x0c);
const RESPONSE: [Offset<u32>; 4] = [
    Offset::new(0x10),
    Offset::new(0x14),
    Offset::new(0x18),
    Offset::new(0x1c),
];
/// The buffer port.
const PORT: (usize, Width) = (0x20, Width::W32);
const PRESENT: Offset<u32> = Offset::new(0x24);
/// Host control 1, power, block gap, wake-up.
const HOST_CONTROL: Offset<u32> = Offset::new(0x28);
/// Clock, data timeout, software reset.
const CLOCK: Offset<u32> = Offset::new(0x2c);
const STATUS: Offset<u32> = Offset::new(0x30);
const STATUS_ENABLE: Offset<u32> = Offset::new(0x34);
const SIGNAL_ENABLE: Offset<u32> = Offset::new(0x38);
/// Auto CMD errors, host control 2.
const HOST_CONTROL_2: Offset<u32> = Offset::new(0x3c);
const CAPABILITIES: Offset<u32> = Offset::new(0x40);
const CAPABILITIES_HIGH: Offset<u32> = Offset::new(0x44);
const ADMA_ADDRESS: Offset<u32> = Offset::new(0x58);
const ADMA_ADDRESS_HIGH: Offset<u32> = Offset::new(0x5c);
/// Slot interrupts, version.
const VERSION: Offset<u32> = Offset::new(0xfc);

// Transfer mode (2.2.5).
const MODE_DMA: u32 = 1 << 0;
const MODE_BLOCK_COUNT: u32 = 1 << 1;
const MODE_READ: u32 = 1 << 4;
const MODE_MULTI: u32 = 1 << 5;

// Command (2.2.6), in the upper half.
const COMMAND_LONG: u32 = 1 << 16;
const COMMAND_SHORT: u32 = 2 << 16;
const COMMAND_SHORT_BUSY: u32 = 3 << 16;
const COMMAND_CHECK_CRC: u32 = 1 << 19;
const COMMAND_CHECK_INDEX: u32 = 1 << 20;
const COMMAND_DATA: u32 = 1 << 21;
const COMMAND_ABORT: u32 = 3 << 22;
const STOP_TRANSMISSION: u8 = 12;

// Present state (2.2.9).
const COMMAND_INHIBIT: u32 = 1 << 0;
const DATA_INHIBIT: u32 = 1 << 1;
const DAT0_HIGH: u32 = 1 << 20;

// Host control 1 (2.2.10) and power (2.2.11).
const FOUR_LINES: u32 = 1 << 1;
const HIGH_SPEED: u32 = 1 << 2;
const DMA_SELECT: u32 = 3 << 3;
const ADMA2_32: u32 = 2 << 3;
const ADMA2_64: u32 = 3 << 3;
const EIGHT_LINES: u32 = 1 << 5;
const POWER_ON: u32 = 1 << 8;
const VOLTAGE: u32 = 7 << 9;

// Clock, timeout and reset (2.2.14 to 2.2.16).
const CLOCK_INTERNAL: u32 = 1 << 0;
const CLOCK_STABLE: u32 = 1 << 1;
const CLOCK_TO_CARD: u32 = 1 << 2;
/// The longest data timeout.
const LONGEST_TIMEOUT: u32 = 0xe << 16;
const RESET_ALL: u32 = 1 << 24;
const RESET_LINES: u32 = 3 << 25;
const RESETS: u32 = 0xff << 24;

// Interrupt status (2.2.18, 2.2.19).
const COMMAND_COMPLETE: u32 = 1 << 0;
const TRANSFER_COMPLETE: u32 = 1 << 1;
const DMA_BOUNDARY: u32 = 1 << 3;
const WRITE_READY: u32 = 1 << 4;
const READ_READY: u32 = 1 << 5;
const ERROR: u32 = 1 << 15;
const ERROR_COMMAND_TIMEOUT: u32 = 1 << 16;
const ERROR_COMMAND_GARBLED: u32 = 7 << 17;
const ERROR_DATA_TIMEOUT: u32 = 1 << 20;
const ERROR_DATA_GARBLED: u32 = 3 << 21;
const ERROR_ADMA: u32 = 1 << 25;
/// All that is looked at: the above, current limit, auto CMD, tuning and vendor errors.
const WATCHED: u32 =
    0xf7ff_0000 | COMMAND_COMPLETE | TRANSFER_COMPLETE | DMA_BOUNDARY | WRITE_READY | READ_READY;

// Host control 2 (2.2.25), in the upper half.
const UHS_MODE: u32 = 7 << 16;
const UHS_DDR50: u32 = 4 << 16;
const SIGNALS_1V8: u32 = 1 << 19;
const VERSION_4: u32 = 1 << 28;
const ADDRESSES_64: u32 = 1 << 29;
const PRESET_VALUES: u32 = 1 << 31;

/// Capabilities (2.2.26), by bit of the 64.
pub mod capability {
    /// The base clock in MHz, bits 15:8; 13:8 before version 3.
    pub const BASE_CLOCK: u64 = 0xff << 8;
    /// 8 data lines.
    pub const EIGHT_LINES: u64 = 1 << 18;
    /// ADMA2.
    pub const ADMA2: u64 = 1 << 19;
    /// High speed.
    pub const HIGH_SPEED: u64 = 1 << 21;
    /// SDMA.
    pub const SDMA: u64 = 1 << 22;
    /// 3.3 V.
    pub const VOLTS_3V3: u64 = 1 << 24;
    /// 3.0 V.
    pub const VOLTS_3V0: u64 = 1 << 25;
    /// 64-bit addresses in version 4 mode.
    pub const ADDRESSES_64_V4: u64 = 1 << 27;
    /// 64-bit addresses in version 3 mode.
    pub const ADDRESSES_64_V3: u64 = 1 << 28;
    /// DDR at 50 MHz.
    pub const DDR50: u64 = 1 << 34;
}

/// Bytes of one ADMA2 descriptor's data: whole frames, and less than 64 KiB, of which not every
/// controller knows that 0 means it. No descriptor crosses SDMA's boundary either: Synopsys' and
/// its licensees' stop at multiples of 128 MiB (Linux, sdhci-of-dwcmshc.c).
const PIECE: u32 = 60 << 10;
/// The most bytes of one transfer.
pub const MAX_TRANSFER: u32 = 1 << 20;
const _: () = assert!((MAX_TRANSFER.div_ceil(PIECE) as usize + 3) * 16 <= DESCRIPTORS);

// ADMA2 descriptor attributes (1.13.4).
const VALID: u64 = 1 << 0;
const END: u64 = 1 << 1;
const TRANSFER: u64 = 2 << 4;

/// SDMA stops where an address is a multiple of this, the most that there is (2.2.2).
const BOUNDARY: u64 = 512 << 10;
const BOUNDARY_512K: u32 = 7 << 12;

/// How long a reset or a clock may take, in microseconds; Linux waits 100 and 150 ms.
const SETTLE_US: u64 = 100_000;
/// How long the lines may stay taken after an answer, in microseconds.
const INHIBIT_US: u64 = 1000;
/// What is waited after power is switched, in microseconds: SD 6.4.1 asks for 1 ms after the supply is up,
/// and boards' supplies take their time.
const POWER_US: u64 = 20_000;
/// How long the power switch may take to be taken, in microseconds: TI's refuse it until they have
/// seen for that long that there is a card (Linux, sdhci_am654.c).
const POWER_TAKEN_US: u64 = 1_500_000;
/// The base clock that is assumed where nobody says: what Marvell's run at, more than the
/// capabilities could say, so that no clock is too fast.
const UNKNOWN_BASE_HZ: u32 = 400_000_000;

/// What a board has to tell about a controller; the default is to believe the capabilities of one
/// that does not see the CPU's caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Data lines that are wired; 0: as many as the capabilities say.
    pub width: u8,
    /// The base clock in Hz; 0: what the capabilities say.
    pub base_clock_hz: u32,
    /// The fastest clock of the board, in Hz; 0: no limit.
    pub max_clock_hz: u32,
    /// Whether the controller sees memory as the CPU's caches have it.
    pub coherent: bool,
    /// [`capability`] bits that are not believed.
    pub broken: u64,
    /// The card's clock is not made by the standard divider: it stays as it is found, and cards
    /// cannot be identified.
    pub foreign_clock: bool,
}

/// How data moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Adma2,
    /// With 64-bit addresses; the descriptors' length in bytes.
    Adma2Wide(u8),
    Sdma,
    Port,
}

/// What is under way.
#[derive(Clone, Copy, Debug)]
struct Running {
    answer: Answer,
    way: Way,
    /// The answer, once it is there.
    response: Option<[u32; 4]>,
    /// Whether the host has told the end of data or busy.
    complete: bool,
    /// The port's next byte, or SDMA's next boundary.
    at: u64,
}

/// A standard host controller behind `registers`.
#[derive(Debug)]
pub struct Sdhci<R, C> {
    registers: R,
    clock: C,
    setup: Setup,
    capabilities: u64,
    version: u32,
    descriptors: DmaMemory,
    adma2: bool,
    sdma: bool,
    /// Host control 1 as it was written last, without the DMA selection.
    control: u32,
    /// The DMA selection and the version 4 bits as they were written last.
    selected: (u32, u32),
    bus: Bus,
    running: Option<Running>,
}

impl<R: Registers, C: Clock> Sdhci<R, C> {
    /// Reads the capabilities; touches nothing. `descriptors` is 4 KiB, aligned to that.
    pub fn new(registers: R, clock: C, descriptors: DmaMemory, setup: Setup) -> Self {
        let words = [
            registers.at(CAPABILITIES).get(),
            registers.at(CAPABILITIES_HIGH).get(),
        ];
        let capabilities = u64::from(words[1]) << 32 | u64::from(words[0]);
        let capabilities = capabilities & !setup.broken;
        let version = registers.at(VERSION).get() >> 16 & 0xff;
        Self {
            version,
            adma2: capabilities & capability::ADMA2 != 0,
            sdma: capabilities & capability::SDMA != 0,
            control: 0,
            selected: (0, 0),
            bus: Bus::IDENTIFY,
            running: None,
            registers,
            clock,
            setup,
            capabilities,
            descriptors,
        }
    }

    fn has(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }

    /// The clock that the divider divides, in Hz.
    fn base_hz(&self) -> u32 {
        let told = (self.capabilities & capability::BASE_CLOCK) >> 8;
        let told = if self.version < 2 { told & 0x3f } else { told };
        match (self.setup.base_clock_hz, told as u32) {
            (0, 0) => UNKNOWN_BASE_HZ,
            (0, mhz) => mhz.saturating_mul(1_000_000),
            (hz, _) => hz,
        }
    }

    /// The clock register's bits for the fastest clock up to `wanted`, and that clock (2.2.14).
    fn divide(&self, wanted: u32) -> (u32, u32) {
        let base = self.base_hz();
        let divisor = base.div_ceil(wanted.max(1)).max(1);
        let half = if self.version >= 2 {
            divisor.div_ceil(2).min(1023)
        } else {
            (divisor.next_power_of_two() / 2).min(128)
        };
        let half = if divisor == 1 { 0 } else { half };
        let clock = base.checked_div(half.saturating_mul(2)).unwrap_or(base);
        ((half & 0xff) << 8 | (half >> 8) << 6, clock)
    }

    /// The clock that runs now, as far as the divider tells.
    fn divided(&self, register: u32) -> u32 {
        let low = register >> 8 & 0xff;
        let half = match self.version {
            2.. => low | (register >> 6 & 3) << 8,
            _ => low,
        };
        let base = self.base_hz();
        base.checked_div(half.saturating_mul(2)).unwrap_or(base)
    }

    fn wait(&self, timeout_us: u64, condition: impl FnMut() -> bool) -> Result<(), Fault> {
        wait(&self.clock, timeout_us, condition)
    }

    /// Lets time pass.
    fn pause(&self, us: u64) {
        let _ = self.wait(us, || false);
    }

    /// Resets what `bits` name and waits until it is done.
    fn software_reset(&mut self, bits: u32) -> Result<(), Fault> {
        self.running = None;
        let clock = self.registers.at(CLOCK);
        clock.set(clock.get() & !RESETS | bits);
        self.wait(SETTLE_US, || clock.get() & bits == 0)
    }

    /// What every reset and every dead kernel leaves to be set.
    fn watch(&mut self) {
        self.registers.at(SIGNAL_ENABLE).set(0);
        self.registers.at(STATUS_ENABLE).set(WATCHED);
        self.registers.at(STATUS).set(u32::MAX);
        let clock = self.registers.at(CLOCK).get() & !(0xff << 16 | RESETS);
        self.registers.at(CLOCK).set(clock | LONGEST_TIMEOUT);
    }

    /// Selects DMA and addresses, if they are not already.
    fn select(&mut self, dma: u32, wide: u32) {
        let (old_dma, old_wide) = self.selected;
        if old_dma != dma {
            self.registers.at(HOST_CONTROL).set(self.control | dma);
        }
        if old_wide != wide {
            let control = self.registers.at(HOST_CONTROL_2);
            control.set(control.get() & !(VERSION_4 | ADDRESSES_64) | wide);
        }
        self.selected = (dma, wide);
    }

    /// Which way data goes.
    fn way(&self, data: &Data<'_>) -> Way {
        let end = data.memory.device_addr().checked_add(u64::from(data.len()));
        let table = self.descriptors.device_addr();
        let low = |end: u64| end <= 1 << 32;
        let descriptors = match self.has(capability::ADDRESSES_64_V4) && self.version >= 3 {
            true => 16,
            false => 12,
        };
        let wide = descriptors == 16 || self.has(capability::ADDRESSES_64_V3) && self.version >= 1;
        match end {
            Some(_) if data.block_size != BLOCK => Way::Port,
            Some(end) if self.adma2 && low(end.max(table)) => Way::Adma2,
            Some(_) if self.adma2 && wide => Way::Adma2Wide(descriptors),
            Some(end) if self.sdma && low(end) => Way::Sdma,
            _ => Way::Port,
        }
    }

    /// Prepares DMA; returns what [`Running::at`] begins with.
    fn prepare(&mut self, way: Way, data: &Data<'_>) -> u64 {
        let first = data.memory.device_addr();
        if way == Way::Port {
            self.select(0, 0);
            return 0;
        }
        if !self.setup.coherent {
            data.memory.clean_and_invalidate(data.len() as usize);
        }
        let wide = match way {
            Way::Sdma => {
                self.select(0, 0);
                barrier::publish();
                self.registers.at(SDMA_ADDRESS).set(first as u32);
                return next_boundary(first);
            }
            Way::Adma2Wide(len) => Some(len),
            _ => None,
        };
        let (dma, more) = match wide {
            None => (ADMA2_32, 0),
            // In this mode the one value stands for both (2.2.10).
            Some(16) => (ADMA2_32, VERSION_4 | ADDRESSES_64),
            Some(_) => (ADMA2_64, 0),
        };
        self.select(dma, more);
        self.describe_memory(first, data.len(), wide);
        barrier::publish();
        let table = self.descriptors.device_addr();
        self.registers.at(ADMA_ADDRESS).set(table as u32);
        if wide.is_some() {
            let high = (table >> 32) as u32;
            self.registers.at(ADMA_ADDRESS_HIGH).set(high);
        }
        0
    }

    /// Writes the ADMA2 descriptors of `len` bytes from `first` on (1.13.3): length and
    /// attributes, then the address of 32 or, where `wide` is their length, of 64 bits.
    fn describe_memory(&self, first: u64, len: u32, wide: Option<u8>) {
        let stride = wide.map_or(8, usize::from);
        let (mut at, mut address, mut left) = (0, first, len);
        while left > 0 {
            let to_boundary = next_boundary(address).wrapping_sub(address);
            let piece = left.min(PIECE).min(to_boundary as u32);
            left = left.saturating_sub(piece);
            let end = if left == 0 { END } else { 0 };
            let attributes = VALID | TRANSFER | end | u64::from(piece) << 16;
            // In words, since descriptors of 96 bits are aligned to no more.
            for (word, value) in [(0, attributes), (4, address), (8, address >> 32), (12, 0)] {
                if word < stride {
                    let at = usize::saturating_add(at, word);
                    self.descriptors.write(at, Width::W32, value & 0xffff_ffff);
                }
            }
            at = at.saturating_add(stride);
            address = address.wrapping_add(u64::from(piece));
        }
        if !self.setup.coherent {
            self.descriptors.clean_and_invalidate(at);
        }
    }

    /// Reads the answer.
    fn response(&self, answer: Answer) -> [u32; 4] {
        let word = |index: usize| match RESPONSE.get(index) {
            Some(&offset) => self.registers.at(offset).get(),
            None => 0,
        };
        match answer {
            Answer::None => [0; 4],
            // Bits 127 to 8 are in the registers (2.2.7).
            Answer::Long => {
                let [a, b, c, d] = [word(3), word(2), word(1), word(0)];
                [a << 8 | b >> 24, b << 8 | c >> 24, c << 8 | d >> 24, d << 8]
            }
            _ => [word(0), 0, 0, 0],
        }
    }

    /// What goes on with the data.
    fn data_step(&mut self, running: &mut Running, seen: u32, data: &Data<'_>) {
        match running.way {
            // A block more than there are is nobody's.
            Way::Port
                if seen & (WRITE_READY | READ_READY) != 0 && running.at < u64::from(data.len()) =>
            {
                let words = data.block_size / 4;
                pump(&self.registers, PORT, data, &mut running.at, words);
            }
            Way::Sdma if seen & DMA_BOUNDARY != 0 && seen & TRANSFER_COMPLETE == 0 => {
                // Writing the address goes on (2.2.1).
                self.registers.at(SDMA_ADDRESS).set(running.at as u32);
                running.at = next_boundary(running.at);
            }
            _ => {}
        }
    }
}

/// Where SDMA stops next.
fn next_boundary(address: u64) -> u64 {
    (address | BOUNDARY.wrapping_sub(1)).wrapping_add(1)
}

impl<R: Registers, C: Clock> Host for Sdhci<R, C> {
    fn limits(&self) -> Limits {
        let lines = match self.has(capability::EIGHT_LINES) {
            true => 8,
            false => 4,
        };
        let width = match self.setup.width {
            0 => lines,
            wired => wired,
        };
        let now = self.registers.at(HOST_CONTROL_2).get();
        Limits {
            width,
            high_speed: self.has(capability::HIGH_SPEED),
            // The mode is one of 1.8 V signalling (2.2.25).
            ddr: self.has(capability::DDR50) && now & SIGNALS_1V8 != 0,
            clock_hz: match self.setup.max_clock_hz {
                0 => u32::MAX,
                limit => limit,
            },
            fixed_clock: self.setup.foreign_clock,
        }
    }

    fn bus(&self) -> Bus {
        self.bus
    }

    fn take_over(&mut self) -> Result<(), Fault> {
        let clock = self.registers.at(CLOCK).get();
        let control = self.registers.at(HOST_CONTROL).get();
        let on = CLOCK_INTERNAL | CLOCK_STABLE | CLOCK_TO_CARD;
        // All ones: nobody is there.
        if clock & on != on || control & POWER_ON == 0 || clock == u32::MAX {
            return Err(Fault::Other { status: 0 });
        }
        self.software_reset(RESET_LINES)?;
        self.watch();
        self.control = control & !DMA_SELECT;
        self.registers.at(HOST_CONTROL).set(self.control);
        let second = self.registers.at(HOST_CONTROL_2);
        let mode = second.get();
        if mode & (VERSION_4 | ADDRESSES_64) != 0 {
            second.set(mode & !(VERSION_4 | ADDRESSES_64));
        }
        self.registers.at(ADMA_ADDRESS_HIGH).set(0);
        self.selected = (0, 0);
        self.bus = Bus {
            clock_hz: self.divided(clock),
            width: match control & (FOUR_LINES | EIGHT_LINES) {
                0 => 1,
                FOUR_LINES => 4,
                _ => 8,
            },
            high_speed: control & HIGH_SPEED != 0,
            ddr: mode & UHS_MODE == UHS_DDR50,
        };
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Fault> {
        if self.setup.foreign_clock {
            return Err(Fault::Other { status: 0 });
        }
        let voltage = self.registers.at(HOST_CONTROL).get() & VOLTAGE;
        let signals = self.registers.at(HOST_CONTROL_2).get() & SIGNALS_1V8;
        self.software_reset(RESET_ALL)?;
        self.watch();
        self.selected = (0, 0);
        self.registers.at(HOST_CONTROL_2).set(signals);
        let voltage = match voltage {
            0 if self.has(capability::VOLTS_3V3) => 7 << 9,
            0 if self.has(capability::VOLTS_3V0) => 6 << 9,
            0 => 5 << 9,
            as_before => as_before,
        };
        self.control = voltage | POWER_ON;
        let control = self.registers.at(HOST_CONTROL);
        // A controller that never shows it may have the power on all the same.
        let _ = self.wait(POWER_TAKEN_US, || {
            control.set(self.control);
            control.get() & POWER_ON != 0
        });
        self.pause(POWER_US);
        self.set_bus(Bus::IDENTIFY)?;
        // 74 clocks at 100 kHz (SD 6.4.1).
        self.pause(1000);
        Ok(())
    }

    fn set_bus(&mut self, bus: Bus) -> Result<(), Fault> {
        let mut control = self.control & !(FOUR_LINES | EIGHT_LINES | HIGH_SPEED);
        control |= match bus.width {
            8 => EIGHT_LINES,
            4 => FOUR_LINES,
            _ => 0,
        };
        if bus.high_speed {
            control |= HIGH_SPEED;
        }
        self.control = control;
        self.bus = bus;
        let (dma, _) = self.selected;
        if self.setup.foreign_clock {
            self.registers.at(HOST_CONTROL).set(control | dma);
            return Ok(());
        }
        let (divider, hz) = self.divide(bus.clock_hz);
        self.bus.clock_hz = hz;
        // Timing changes while the card has no clock (3.2.3, 3.9).
        let clock = self.registers.at(CLOCK);
        clock.set(clock.get() & !(CLOCK_TO_CARD | RESETS));
        self.registers.at(HOST_CONTROL).set(control | dma);
        let second = self.registers.at(HOST_CONTROL_2);
        let mode = second.get() & !(UHS_MODE | PRESET_VALUES);
        second.set(mode | if bus.ddr { UHS_DDR50 } else { 0 });
        clock.set(LONGEST_TIMEOUT | divider | CLOCK_INTERNAL);
        self.wait(SETTLE_US, || clock.get() & CLOCK_STABLE != 0)?;
        clock.set(LONGEST_TIMEOUT | divider | CLOCK_INTERNAL | CLOCK_TO_CARD);
        Ok(())
    }

    fn reset_lines(&mut self) -> Result<(), Fault> {
        let done = self.software_reset(RESET_LINES);
        self.registers.at(STATUS).set(u32::MAX);
        done
    }

    fn degrade(&mut self) -> bool {
        let more = self.adma2 || self.sdma;
        if self.adma2 {
            self.adma2 = false;
        } else {
            self.sdma = false;
        }
        more
    }

    fn start(&mut self, command: Command, data: Option<&Data<'_>>) -> Result<(), Fault> {
        let stop = command.index == STOP_TRANSMISSION;
        let busy = command.answer == Answer::ShortBusy && !stop;
        let inhibit = match data.is_some() || busy {
            true => COMMAND_INHIBIT | DATA_INHIBIT,
            false => COMMAND_INHIBIT,
        };
        let present = self.registers.at(PRESENT);
        self.wait(INHIBIT_US, || present.get() & inhibit == 0)?;

        let mut word = u32::from(command.index & 0x3f) << 24;
        word |= match command.answer {
            Answer::None => 0,
            Answer::Unchecked => COMMAND_SHORT,
            Answer::Long => COMMAND_LONG | COMMAND_CHECK_CRC,
            Answer::Short => COMMAND_SHORT | COMMAND_CHECK_CRC | COMMAND_CHECK_INDEX,
            Answer::ShortBusy => COMMAND_SHORT_BUSY | COMMAND_CHECK_CRC | COMMAND_CHECK_INDEX,
        };
        if stop {
            word |= COMMAND_ABORT;
        }
        let mut running = Running {
            answer: command.answer,
            way: Way::Port,
            response: None,
            complete: false,
            at: 0,
        };
        if let Some(data) = data {
            running.way = self.way(data);
            running.at = self.prepare(running.way, data);
            let blocks = data.blocks << 16 | BOUNDARY_512K | data.block_size & 0xfff;
            self.registers.at(BLOCKS).set(blocks);
            word |= COMMAND_DATA;
            if running.way != Way::Port {
                word |= MODE_DMA;
            }
            if !data.to_card {
                word |= MODE_READ;
            }
            if data.blocks > 1 {
                word |= MODE_MULTI | MODE_BLOCK_COUNT;
            }
        }
        self.registers.at(ARGUMENT).set(command.argument);
        self.registers.at(COMMAND).set(word);
        self.running = Some(running);
        Ok(())
    }

    fn poll(&mut self, data: Option<&Data<'_>>) -> Option<Result<[u32; 4], Fault>> {
        let mut running = self.running?;
        let seen = self.registers.at(STATUS).get() & (WATCHED | ERROR);
        if seen != 0 {
            self.registers.at(STATUS).set(seen);
        }
        if seen & (0xffff_0000 | ERROR) != 0 {
            self.running = None;
            return Some(Err(fault(seen)));
        }
        if seen & COMMAND_COMPLETE != 0 {
            running.response = Some(self.response(running.answer));
        }
        if let Some(data) = data {
            self.data_step(&mut running, seen, data);
        }
        running.complete |= seen & TRANSFER_COMPLETE != 0;
        self.running = Some(running);
        let response = running.response?;
        let [status, ..] = response;
        if data.is_some() && status & status::ERRORS != 0 {
            self.running = None;
            return Some(Ok(response));
        }
        let ended = match (data, running.answer) {
            (Some(_), _) => running.complete,
            // Not every controller tells the end of busy: the line does.
            (None, Answer::ShortBusy) => {
                running.complete
                    || self.registers.at(PRESENT).get() & (DATA_INHIBIT | DAT0_HIGH) == DAT0_HIGH
            }
            (None, _) => true,
        };
        if !ended {
            return None;
        }
        self.running = None;
        if let Some(data) = data
            && running.way == Way::Port
            && running.at < u64::from(data.len())
        {
            return Some(Err(Fault::Other { status: seen }));
        }
        if let Some(data) = data
            && !data.to_card
        {
            barrier::acquire();
            if !self.setup.coherent && running.way != Way::Port {
                // Lines that the CPU has fetched meanwhile are clean: this drops them.
                data.memory.clean_and_invalidate(data.len() as usize);
            }
        }
        Some(Ok(response))
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let wide = match self.has(capability::ADDRESSES_64_V3 | capability::ADDRESSES_64_V4) {
            true => "64",
            false => "32",
        };
        let version = match self.version {
            0 => "1.00",
            1 => "2.00",
            2 => "3.00",
            3 => "4.00",
            4 => "4.10",
            _ => "4.20",
        };
        write!(out, "SDHCI {version} by ")?;
        match (self.adma2, self.sdma) {
            (true, _) => write!(out, "ADMA2 ({wide}-bit)"),
            (false, true) => out.write_str("SDMA"),
            (false, false) => out.write_str("PIO"),
        }
    }
}

/// What an interrupt status with errors means.
fn fault(status: u32) -> Fault {
    let is = |bits: u32| status & bits != 0;
    if is(ERROR_ADMA) {
        Fault::Dma
    } else if is(ERROR_COMMAND_GARBLED) {
        // With the timeout bit: both at once is a conflict on the line (3.10.1).
        Fault::CommandGarbled
    } else if is(ERROR_COMMAND_TIMEOUT) {
        Fault::CommandTimeout
    } else if is(ERROR_DATA_GARBLED) {
        Fault::DataGarbled
    } else if is(ERROR_DATA_TIMEOUT) {
        Fault::DataTimeout
    } else {
        Fault::Other { status }
    }
}
