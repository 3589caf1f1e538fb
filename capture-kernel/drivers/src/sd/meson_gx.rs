//! Amlogic's SD and eMMC host, of the GX, AXG, G12 and SM1 families; polled.
//!
//! # Procedure
//! - Taking over: the card's clock must run. Descriptors are stopped and interrupts switched off;
//!   clock, width and sampling stay.
//! - Restart: defaults, without the sampling of a tuned bus, and [`Bus::IDENTIFY`].
//! - The clock comes from the 24 MHz crystal, which Linux leaves as it is, or from a PLL's 1 GHz,
//!   divided by 1 to 63; it is stopped while it is changed.
//! - A command without data: configuration, then its argument, which starts it. One with data is a
//!   chain of descriptors in memory, of up to 511 blocks each, of which all but the first have no
//!   command. Either ends by End Of Chain, after busy and data, or by an error bit.
//!
//! Data moves by the host's own DMA, with 32-bit addresses; there is no other way that takes more
//! than a block or so.
//!
//! Sources: Amlogic S905X and S922X datasheets, "SD/eMMC controller"; Linux
//! `drivers/mmc/host/meson-gx-mmc.c`; U-Boot `drivers/mmc/meson_gx_mmc.c`.

use core::fmt;

use kdraw_pipeline::ports::Clock;
use tock_registers::interfaces::{Readable, Writeable};

use super::registers::status;
use super::{Answer, Bus, Command, DESCRIPTORS, Data, Fault, Host, Limits, Wiring, wait};
use crate::barrier;
use crate::dma::DmaMemory;
use crate::registers::{Offset, Registers, Width};

const CLOCK: Offset<u32> = Offset::new(0x00);
/// When data is sampled: of versions 2 and 3.
const ADJUST: [Offset<u32>; 2] = [Offset::new(0x08), Offset::new(0x0c)];
const START: Offset<u32> = Offset::new(0x40);
const CONFIGURATION: Offset<u32> = Offset::new(0x44);
const STATUS: Offset<u32> = Offset::new(0x48);
const INTERRUPT_ENABLE: Offset<u32> = Offset::new(0x4c);
const COMMAND: Offset<u32> = Offset::new(0x50);
const ARGUMENT: Offset<u32> = Offset::new(0x54);
const DATA_ADDRESS: Offset<u32> = Offset::new(0x58);
const RESPONSE: [Offset<u32>; 4] = [
    Offset::new(0x5c),
    Offset::new(0x60),
    Offset::new(0x64),
    Offset::new(0x68),
];

// Clock.
const DIVIDER: u32 = 0x3f;
const SOURCE: u32 = 3 << 6;
const SOURCE_PLL: u32 = 1 << 6;
/// The core's phase: half a period.
const CORE_PHASE: u32 = 2 << 8;
/// The clock runs between commands, too: of versions 2 and 3.
const ALWAYS_ON: [u32; 2] = [1 << 24, 1 << 28];
const CRYSTAL_HZ: u32 = 24_000_000;
const PLL_HZ: u32 = 1_000_000_000;

// Configuration.
const LINES: u32 = 3;
const DDR: u32 = 1 << 2;
const BLOCK_LENGTH: u32 = 0xf << 4;
const STOP_CLOCK: u32 = 1 << 22;
const ABORT_ON_ERROR: u32 = 1 << 27;
/// Responses within 256 clocks, 16 between commands, blocks of 512 bytes.
const DEFAULTS: u32 = 8 << 8 | 4 << 12 | 9 << 4 | ABORT_ON_ERROR;
/// Adjustment: on.
const ADJUST_ON: u32 = 1 << 13;

/// Start: the address is that of descriptors.
const START_CHAIN: u32 = 1 << 1;

// Status.
const RECEIVE_ERRORS: u32 = 0xff;
const TRANSMIT_ERROR: u32 = 1 << 8;
const DESCRIPTOR_ERROR: u32 = 1 << 9;
const RESPONSE_ERROR: u32 = 1 << 10;
const RESPONSE_TIMEOUT: u32 = 1 << 11;
const DESCRIPTOR_TIMEOUT: u32 = 1 << 12;
const END_OF_CHAIN: u32 = 1 << 13;
/// All that is cleared by writing it back.
const EVENTS: u32 = 0xffff;
const ENDS: u32 = 0x3fff;
const ERRORS: u32 = ENDS & !END_OF_CHAIN;
const BUSY: u32 = 3 << 30;

// Command, also a descriptor's first word.
const LENGTH: u32 = 0x1ff;
const BLOCK_MODE: u32 = 1 << 9;
const WAIT_BUSY: u32 = 1 << 10;
const LAST: u32 = 1 << 11;
/// Time that it may take, in powers of two of a millisecond: half of what the card layer gives.
const SHORT_TIMEOUT: u32 = 7 << 12;
const LONG_TIMEOUT: u32 = 10 << 12;
const NO_RESPONSE: u32 = 1 << 16;
const NO_COMMAND: u32 = 1 << 17;
const HAS_DATA: u32 = 1 << 18;
const WRITE: u32 = 1 << 19;
const NO_CRC: u32 = 1 << 20;
const LONG: u32 = 1 << 21;
const HAS_RESPONSE: u32 = 1 << 22;
const OWNED: u32 = 1 << 31;

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// The most blocks of one.
const PIECE: u32 = 511;
const _: () = assert!((u16::MAX as usize).div_ceil(PIECE as usize) * DESCRIPTOR <= DESCRIPTORS);

/// How long descriptors may take to stop, in microseconds; Linux waits 5 ms.
const STOP_US: u64 = 20_000;
/// What is waited for the card's power to be steady, in microseconds.
const POWER_US: u64 = 20_000;

/// What a board has to tell about a controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// How it is wired.
    pub wiring: Wiring,
    /// Whether it is version 3 of the register map, from AXG on.
    pub version_3: bool,
    /// Whether it sees memory as the CPU's caches have it.
    pub coherent: bool,
}

/// Amlogic's host controller behind `registers`.
#[derive(Debug)]
pub struct MesonGx<R, C> {
    registers: R,
    clock: C,
    setup: Setup,
    descriptors: DmaMemory,
    bus: Bus,
    running: Option<Answer>,
}

impl<R: Registers, C: Clock> MesonGx<R, C> {
    /// Touches nothing. `descriptors` is 4 KiB, aligned to that.
    pub fn new(registers: R, clock: C, descriptors: DmaMemory, setup: Setup) -> Self {
        Self {
            registers,
            clock,
            setup,
            descriptors,
            bus: Bus::IDENTIFY,
            running: None,
        }
    }

    /// What of versions 2 and 3 is this one's.
    fn of<T: Copy>(&self, [two, three]: [T; 2]) -> T {
        if self.setup.version_3 { three } else { two }
    }

    /// Changes the configuration's bits of `mask`.
    fn configure(&self, mask: u32, value: u32) {
        let configuration = self.registers.at(CONFIGURATION);
        configuration.set(configuration.get() & !mask | value);
    }

    /// Describes the data of `command`, and returns where.
    fn describe_data(&self, command: u32, argument: u32, data: &Data<'_>) -> Result<u32, Fault> {
        let end = data.memory.device_addr().checked_add(data.len().into());
        let table = u32::try_from(self.descriptors.device_addr()).map_err(|_| Fault::Dma)?;
        if end.is_none_or(|end| end > 1 << 32) {
            return Err(Fault::Dma);
        }
        if !self.setup.coherent {
            data.memory.clean_and_invalidate(data.len() as usize);
        }
        let many = data.blocks > 1;
        let mut command = command;
        if many {
            command |= BLOCK_MODE;
            // As a power of two, which all blocks are.
            let length = data.block_size.trailing_zeros() << 4;
            self.configure(BLOCK_LENGTH, length & BLOCK_LENGTH);
        }
        let (mut at, mut left) = (0_usize, data.blocks);
        let mut address = data.memory.device_addr();
        while left > 0 {
            let piece = left.min(PIECE);
            left = left.saturating_sub(piece);
            // 512 bytes are 0.
            let length = if many { piece } else { data.block_size } & LENGTH;
            let last = if left == 0 { LAST } else { 0 };
            for (word, value) in [
                (0, u64::from(command | last | length)),
                (4, argument.into()),
                (8, address),
                (12, 0),
            ] {
                self.descriptors
                    .write(at.saturating_add(word), Width::W32, value);
            }
            command |= NO_COMMAND;
            at = at.saturating_add(DESCRIPTOR);
            address = address.wrapping_add(piece.saturating_mul(data.block_size).into());
        }
        if !self.setup.coherent {
            self.descriptors.clean_and_invalidate(at);
        }
        Ok(table)
    }

    /// Reads the answer.
    fn response(&self, answer: Answer) -> [u32; 4] {
        let word = |offset| self.registers.at(offset).get();
        let [a, b, c, d] = RESPONSE;
        match answer {
            Answer::None => [0; 4],
            Answer::Long => [word(d), word(c), word(b), word(a) & !0xff],
            _ => [word(a), 0, 0, 0],
        }
    }
}

impl<R: Registers, C: Clock> Host for MesonGx<R, C> {
    fn limits(&self) -> Limits {
        self.setup.wiring.limits()
    }

    fn bus(&self) -> Bus {
        self.bus
    }

    fn take_over(&mut self) -> Result<(), Fault> {
        let clock = self.registers.at(CLOCK).get();
        let configuration = self.registers.at(CONFIGURATION).get();
        // All ones: nobody is there.
        if clock & DIVIDER == 0 || configuration & STOP_CLOCK != 0 || clock == u32::MAX {
            return Err(Fault::Other { status: 0 });
        }
        self.reset_lines()?;
        self.registers.at(INTERRUPT_ENABLE).set(0);
        self.configure(ABORT_ON_ERROR, ABORT_ON_ERROR);
        let source = match clock & SOURCE {
            SOURCE_PLL => PLL_HZ,
            _ => CRYSTAL_HZ,
        };
        let ddr = configuration & DDR != 0;
        let divisor = (clock & DIVIDER) << u32::from(ddr);
        self.bus = Bus {
            clock_hz: source.checked_div(divisor).unwrap_or(0),
            width: match configuration & LINES {
                0 => 1,
                1 => 4,
                _ => 8,
            },
            high_speed: true,
            ddr,
        };
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.reset_lines()?;
        self.registers.at(INTERRUPT_ENABLE).set(0);
        self.registers.at(CONFIGURATION).set(DEFAULTS);
        let adjust = self.registers.at(self.of(ADJUST));
        adjust.set(adjust.get() & !ADJUST_ON);
        let _ = wait(&self.clock, POWER_US, || false);
        self.set_bus(Bus::IDENTIFY)?;
        // 74 clocks (SD 6.4.1).
        let _ = wait(&self.clock, 1000, || false);
        Ok(())
    }

    fn set_bus(&mut self, bus: Bus) -> Result<(), Fault> {
        let wanted = bus.clock_hz.max(1);
        let (source, select) = match PLL_HZ.div_ceil(wanted) <= DIVIDER {
            true => (PLL_HZ, SOURCE_PLL),
            false => (CRYSTAL_HZ, 0),
        };
        let divisor = source.div_ceil(wanted).clamp(1, DIVIDER);
        let lines = match bus.width {
            8 => 2,
            4 => 1,
            _ => 0,
        };
        self.configure(STOP_CLOCK, STOP_CLOCK);
        self.configure(LINES | DDR, lines);
        let clock = self.of(ALWAYS_ON) | CORE_PHASE | select | divisor;
        self.registers.at(CLOCK).set(clock);
        self.configure(STOP_CLOCK, 0);
        self.bus = Bus {
            clock_hz: source.checked_div(divisor).unwrap_or(0),
            ..bus
        };
        Ok(())
    }

    fn reset_lines(&mut self) -> Result<(), Fault> {
        self.running = None;
        self.registers.at(START).set(0);
        let state = self.registers.at(STATUS);
        let stopped = wait(&self.clock, STOP_US, || state.get() & BUSY == 0);
        state.set(EVENTS);
        stopped
    }

    fn degrade(&mut self) -> bool {
        false
    }

    fn start(&mut self, command: Command, data: Option<&Data<'_>>) -> Result<(), Fault> {
        let mut word = OWNED | u32::from(command.index & 0x3f) << 24;
        word |= match command.answer {
            Answer::None => NO_RESPONSE,
            Answer::Short => HAS_RESPONSE,
            Answer::ShortBusy => HAS_RESPONSE | WAIT_BUSY,
            Answer::Unchecked => HAS_RESPONSE | NO_CRC,
            Answer::Long => HAS_RESPONSE | LONG,
        };
        word |= match data.is_some() || command.answer == Answer::ShortBusy {
            true => LONG_TIMEOUT,
            false => SHORT_TIMEOUT,
        };
        self.registers.at(START).set(0);
        self.registers.at(STATUS).set(EVENTS);
        if let Some(data) = data {
            word |= HAS_DATA | if data.to_card { WRITE } else { 0 };
            let table = self.describe_data(word, command.argument, data)?;
            barrier::publish();
            self.registers.at(START).set(table | START_CHAIN);
        } else {
            self.registers.at(COMMAND).set(word | LAST);
            self.registers.at(DATA_ADDRESS).set(0);
            self.registers.at(ARGUMENT).set(command.argument);
        }
        self.running = Some(command.answer);
        Ok(())
    }

    fn poll(&mut self, data: Option<&Data<'_>>) -> Option<Result<[u32; 4], Fault>> {
        let answer = self.running?;
        let seen = self.registers.at(STATUS).get() & ENDS;
        if seen == 0 {
            return None;
        }
        self.running = None;
        self.registers.at(STATUS).set(seen);
        if seen & (RESPONSE_TIMEOUT | RESPONSE_ERROR) != 0 {
            return Some(Err(fault(seen)));
        }
        let response = self.response(answer);
        let [status, ..] = response;
        // A card that refuses lets the host wait for data in vain.
        let refused = data.is_some() && status & status::ERRORS != 0;
        if seen & ERRORS != 0 && !refused {
            return Some(Err(fault(seen)));
        }
        if let Some(data) = data
            && !data.to_card
        {
            barrier::acquire();
            if !self.setup.coherent {
                // Lines that the CPU has fetched meanwhile are clean: this drops them.
                data.memory.clean_and_invalidate(data.len() as usize);
            }
        }
        Some(Ok(response))
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("meson-gx-mmc by DMA")
    }
}

/// What a status with errors means.
fn fault(status: u32) -> Fault {
    let is = |bits: u32| status & bits != 0;
    if is(RESPONSE_TIMEOUT) {
        Fault::CommandTimeout
    } else if is(RESPONSE_ERROR) {
        Fault::CommandGarbled
    } else if is(RECEIVE_ERRORS | TRANSMIT_ERROR) {
        Fault::DataGarbled
    } else if is(DESCRIPTOR_TIMEOUT) {
        Fault::DataTimeout
    } else if is(DESCRIPTOR_ERROR) {
        Fault::Dma
    } else {
        Fault::Other { status }
    }
}
