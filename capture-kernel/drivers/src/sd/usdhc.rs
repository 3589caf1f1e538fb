//! NXP's uSDHC, of i.MX6 to i.MX9, seen as a standard SD host controller.
//!
//! It is one but for its register map: fields have moved, some are gone, and some things work in
//! ways of their own. [`Layout`] shows the standard's registers, so that [`super::sdhci`] need not
//! know; what uSDHC alone has (sampling delays, bursts) stays as it is.
//!
//! - The transfer mode is in a register of its own, MIX_CTRL, with DDR and sampling.
//! - The clock's divider is a power of two times 1 to 16. It may change only while the clock is
//!   off, and the clock is forced on, or left to the controller to switch, in VENDOR_SPEC.
//! - DMA selection and data width are elsewhere in the control register; there is no power switch,
//!   no high speed bit, and no base clock in the capabilities.
//! - Data lines are elsewhere in the present state, ADMA's error bit in the interrupt status.
//! - A watermark says how many words make the port ready: here, a block's. Simple DMA has no
//!   boundaries and another meaning of its interrupt, so the capabilities do not show it.
//!
//! Sources: i.MX 8M Plus Applications Processor Reference Manual, "Ultra Secured Digital Host
//! Controller"; Linux `drivers/mmc/host/sdhci-esdhc-imx.c`; QEMU `hw/sd/sdhci.c`.

use crate::registers::{Registers, Width};

const BLOCKS: usize = 0x04;
const COMMAND: usize = 0x0c;
const PRESENT: usize = 0x24;
const CONTROL: usize = 0x28;
const CLOCK: usize = 0x2c;
const STATUS: usize = 0x30;
const STATUS_ENABLE: usize = 0x34;
const SIGNAL_ENABLE: usize = 0x38;
const CONTROL_2: usize = 0x3c;
const CAPABILITIES: usize = 0x40;
/// The standard's capabilities, upper half.
const WATERMARKS: usize = 0x44;
const MIX_CONTROL: usize = 0x48;
const ADMA_ADDRESS_HIGH: usize = 0x5c;
const STROBE_DLL: usize = 0x70;
const VENDOR: usize = 0xc0;
const VERSION: usize = 0xfc;

/// MIX_CTRL: what the standard has in the transfer mode, and DDR; bit 31 reads as one.
const MIX_MODE: u32 = 0xb7;
const MIX_DDR: u32 = 1 << 3;
const MIX_RESET: u32 = 1 << 31;
/// VENDOR_SPEC: 1.8 V, and the clock forced on.
const VENDOR_1V8: u32 = 1 << 1;
const VENDOR_CLOCK_ON: u32 = 1 << 8;
/// Present state: the clock is stable, and it is off.
const CLOCK_STABLE: u32 = 1 << 3;
const CLOCK_OFF: u32 = 1 << 7;
/// Control: little-endian.
const LITTLE_ENDIAN: u32 = 2 << 4;
/// System control: four clock enables, which are always on.
const CLOCK_ENABLES: u32 = 0xf;
/// Interrupts that there are.
const INTERRUPTS: u32 = 0x157f_01ff;
/// Watermarks: bursts of 16 words, for reading and writing; 64 words for DMA.
const BURSTS: u32 = 0x1000_1000;
const DMA_WATERMARKS: u32 = 0x0040_0040;
/// How often it is looked whether the clock is off, which takes a few clocks of the card; each look
/// takes a tenth of a microsecond or more.
const LOOKS: u32 = 1000;

// The standard's, see `sdhci`.
const STANDARD_ADMA_ERROR: u32 = 1 << 25;
const STANDARD_CLOCK_TO_CARD: u32 = 1 << 2;
const STANDARD_DIVIDER: u32 = 0xffc0;
const STANDARD_RESETS: u32 = 7 << 24;
const STANDARD_RESET_ALL: u32 = 1 << 24;
const STANDARD_1V8: u32 = 1 << 19;
const STANDARD_DDR50: u32 = 4 << 16;
const STANDARD_UHS: u32 = 7 << 16;
/// Power is on, at 3.3 V.
const STANDARD_POWER: u32 = 0xf00;
/// Version 3.00, which has the long divider.
const STANDARD_VERSION: u32 = 2 << 16;

/// The fastest base clock that the i.MX clock trees give it, in Hz.
pub const FASTEST_BASE_HZ: u32 = 400_000_000;

/// A standard host's registers, or uSDHC's seen as such.
#[derive(Debug)]
pub enum Layout<R> {
    /// Standard.
    Standard(R),
    /// NXP's.
    Usdhc(R),
}

impl<R: Registers> Registers for Layout<R> {
    fn size(&self) -> usize {
        match self {
            Self::Standard(registers) | Self::Usdhc(registers) => registers.size(),
        }
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        match self {
            Self::Standard(registers) => registers.read(offset, width),
            Self::Usdhc(registers) => Usdhc(registers).standard_read(offset).into(),
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        match self {
            Self::Standard(registers) => registers.write(offset, width, value),
            Self::Usdhc(registers) => Usdhc(registers).standard_write(offset, value as u32),
        }
    }
}

struct Usdhc<'r, R>(&'r R);

impl<R: Registers> Usdhc<'_, R> {
    fn get(&self, offset: usize) -> u32 {
        self.0.read(offset, Width::W32) as u32
    }

    fn set(&self, offset: usize, value: u32) {
        self.0.write(offset, Width::W32, value.into());
    }

    /// Changes the bits of `mask`.
    fn change(&self, offset: usize, mask: u32, value: u32) {
        let old = self.get(offset);
        self.set(offset, old & !mask | value & mask);
    }

    fn standard_read(&self, offset: usize) -> u32 {
        match offset {
            PRESENT => {
                let present = self.get(PRESENT);
                present & 0x000f_ff77 | present >> 4 & 0x00f0_0000 | present << 1 & 1 << 24
            }
            CONTROL => {
                let control = self.get(CONTROL);
                let width = control & 1 << 1 | (control & 1 << 2) << 3;
                width | control >> 5 & 3 << 3 | STANDARD_POWER
            }
            CLOCK => {
                let system = self.get(CLOCK);
                // The internal clock is always on, and the card's whenever it is needed.
                let running = match self.get(PRESENT) & CLOCK_STABLE {
                    0 => 1,
                    _ => 7,
                };
                running | standard_divider(system) | system & (STANDARD_RESETS | 0xf << 16)
            }
            STATUS => {
                let status = self.get(STATUS);
                status & INTERRUPTS & !(1 << 28) | status >> 3 & STANDARD_ADMA_ERROR
            }
            CONTROL_2 => {
                let low = self.get(VENDOR) & VENDOR_1V8;
                let ddr = self.get(MIX_CONTROL) & MIX_DDR;
                let signals = if low == 0 { 0 } else { STANDARD_1V8 };
                signals | if ddr == 0 { 0 } else { STANDARD_DDR50 }
            }
            CAPABILITIES => {
                // Voltages, high speed, and ADMA2 where the standard has ADMA1.
                let capabilities = self.get(CAPABILITIES);
                capabilities & 0x0728_0000 | capabilities >> 1 & 1 << 19
            }
            WATERMARKS | ADMA_ADDRESS_HIGH => 0,
            VERSION => STANDARD_VERSION,
            _ => self.get(offset),
        }
    }

    fn standard_write(&self, offset: usize, value: u32) {
        match offset {
            // Without a boundary.
            BLOCKS => self.set(BLOCKS, value & 0xffff_0fff),
            COMMAND => self.command(value),
            CONTROL => {
                let width = value & 1 << 1 | value >> 3 & 1 << 2;
                let dma = (value & 3 << 3) << 5;
                self.change(CONTROL, 0x336, LITTLE_ENDIAN | width | dma);
            }
            CLOCK => self.clock(value),
            STATUS | STATUS_ENABLE | SIGNAL_ENABLE => {
                let adma = (value & STANDARD_ADMA_ERROR) << 3;
                self.set(offset, (value | adma) & INTERRUPTS);
            }
            CONTROL_2 => {
                let low = if value & STANDARD_1V8 == 0 {
                    0
                } else {
                    VENDOR_1V8
                };
                self.change(VENDOR, VENDOR_1V8, low);
                let ddr = value & STANDARD_UHS == STANDARD_DDR50;
                self.change(MIX_CONTROL, MIX_DDR, if ddr { MIX_DDR } else { 0 });
            }
            ADMA_ADDRESS_HIGH => {}
            _ => self.set(offset, value),
        }
    }

    fn command(&self, value: u32) {
        const DATA: u32 = 1 << 21;
        const DMA: u32 = 1 << 0;
        if value & DATA != 0 {
            let words = match value & DMA {
                0 => (self.get(BLOCKS) & 0xfff) / 4,
                _ => DMA_WATERMARKS & 0xff,
            };
            self.set(WATERMARKS, BURSTS | words << 16 | words);
        }
        self.change(MIX_CONTROL, MIX_MODE, value);
        self.set(COMMAND, value & 0xffff_0000);
    }

    fn clock(&self, value: u32) {
        if value & STANDARD_CLOCK_TO_CARD == 0 {
            self.change(VENDOR, VENDOR_CLOCK_ON, 0);
            for _ in 0..LOOKS {
                if self.get(PRESENT) & CLOCK_OFF != 0 {
                    break;
                }
            }
        }
        let old = self.get(CLOCK);
        // A divider that is not asked to change may be one that the standard cannot tell.
        let divider = match (standard_divider(old) ^ value) & STANDARD_DIVIDER {
            0 => old & 0xfff0,
            _ => own_divider(value),
        };
        let others = value & (STANDARD_RESETS | 0xf << 16) | old & 0x00f0_0000;
        self.set(CLOCK, others | divider | CLOCK_ENABLES);
        if value & STANDARD_RESET_ALL != 0 {
            // It leaves these alone: mode, sampling and strobe of a faster bus.
            self.set(MIX_CONTROL, MIX_RESET);
            self.set(CONTROL_2, 0);
            self.set(STROBE_DLL, 0);
        } else if value & STANDARD_CLOCK_TO_CARD != 0 && value & STANDARD_RESETS == 0 {
            self.change(VENDOR, VENDOR_CLOCK_ON, VENDOR_CLOCK_ON);
        }
    }
}

/// The divider of the system control register as the standard has it: half of what the clock is
/// divided by, in 10 bits.
fn standard_divider(system: u32) -> u32 {
    // 0, 1, 2, 4 … 128, for half of what it divides by.
    let power = (system >> 8 & 0xff).saturating_mul(2).max(1);
    let total = power.saturating_mul((system >> 4 & 0xf).saturating_add(1));
    let half = match total {
        1 => 0,
        total => total.div_ceil(2).min(1023),
    };
    (half & 0xff) << 8 | (half >> 8) << 6
}

/// The other way round: at least as much.
fn own_divider(clock: u32) -> u32 {
    let half = clock >> 8 & 0xff | (clock >> 6 & 3) << 8;
    let total = half.saturating_mul(2).max(1);
    let mut power = 1_u32;
    while power.saturating_mul(16) < total && power < 256 {
        power = power.saturating_mul(2);
    }
    let by = total.div_ceil(power.max(1)).clamp(1, 16);
    (power / 2) << 8 | by.saturating_sub(1) << 4
}
