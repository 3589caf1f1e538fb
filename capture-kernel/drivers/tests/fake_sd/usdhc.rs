//! NXP's uSDHC to play against: the standard controller behind its register map.
//!
//! It is strict: reserved bits set, the clock changed while it is on, a wrong endianness or a
//! watermark that is not the port's block is a panic.

use kdraw_drivers::registers::Width;

use super::FakeHost;
use super::card::Model;
use super::sdhci;
use super::slot::Slot;

const CLOCK_ON: u32 = 1 << 8;
const SOUND_MIX: u32 = 0x8000_00bf;

#[derive(Debug)]
pub struct Controller {
    inner: sdhci::Controller,
    mix: u32,
    vendor: u32,
    watermarks: u32,
    protocol: u32,
    system: u32,
    /// Looks until the clock is off.
    running_down: u32,
}

impl Controller {
    pub fn new(model: Model) -> Self {
        let inner = sdhci::Controller::new(model);
        let mut inner = std::rc::Rc::into_inner(inner).unwrap().into_inner();
        inner.version = 2;
        inner.any_timing = true;
        // 200 MHz.
        inner.capabilities = 200 << 8;
        Self {
            inner,
            // Sampling as another kernel tuned it.
            mix: 0x8380_0000,
            vendor: 0,
            watermarks: 0x0810_0810,
            protocol: 0x0880_0020,
            system: 0x0080_800f,
            running_down: 0,
        }
    }

    fn total(&self) -> u32 {
        let power = (self.system >> 8 & 0xff) * 2;
        assert!(power == 0 || power.is_power_of_two(), "{:#x}", self.system);
        power.max(1) * ((self.system >> 4 & 0xf) + 1)
    }

    /// Has the standard controller run as this one is told to.
    fn adapt(&mut self) {
        let total = self.total();
        assert!(total == 1 || total.is_multiple_of(2), "divided by {total}");
        let half = total / 2;
        let on = if self.vendor & CLOCK_ON == 0 { 3 } else { 7 };
        let timeout = self.system & 0xf << 16;
        let divider = (half & 0xff) << 8 | (half >> 8) << 6;
        self.inner.words[0x2c / 4] = timeout | divider | on;
        assert_eq!(self.protocol & 0x30, 0x20, "little-endian");
        let width = match self.protocol >> 1 & 3 {
            0 => 0,
            1 => 1 << 1,
            2 => 1 << 5,
            _ => panic!("data width"),
        };
        let dma = (self.protocol >> 8 & 3) << 3;
        self.inner.words[0x28 / 4] = 0xf00 | width | dma;
        let ddr = if self.mix & 8 != 0 { 4 << 16 } else { 0 };
        self.inner.words[0x3c / 4] = ddr;
    }

    fn issue(&mut self, value: u32) {
        assert_eq!(value & 0xffff, 0, "the mode is elsewhere");
        assert_eq!(self.mix & !SOUND_MIX & !0x0380_0000, 0, "{:#x}", self.mix);
        let (data, dma) = (value & 1 << 21 != 0, self.mix & 1 != 0);
        if data {
            let words = (self.inner.words[1] & 0xfff) / 4;
            let expected = if dma { 0x40 } else { words };
            assert_eq!(self.watermarks, 0x1000_1000 | expected << 16 | expected);
        }
        self.adapt();
        let value = (value | self.mix & 0xb7).into();
        self.inner.write(0x0c, Width::W32, value);
    }
}

impl FakeHost for Controller {
    fn slot(&mut self) -> &mut Slot {
        self.inner.slot()
    }

    fn leave_running(&mut self) {
        self.inner.leave_running();
        self.vendor = CLOCK_ON;
        let eight = self.inner.card.width == 8;
        // By 4, in either way.
        self.system = 0x008e_000f | if eight { 3 << 4 } else { 1 << 8 | 1 << 4 };
        self.protocol |= if eight { 4 } else { 2 } | 2 << 8;
        self.adapt();
    }

    fn hz(&self) -> u32 {
        match self.vendor & CLOCK_ON {
            0 => 0,
            _ => 200_000_000 / self.total(),
        }
    }

    fn read(&mut self, offset: usize, width: Width) -> u64 {
        let word = match offset {
            0x24 => {
                let present = self.inner.read(0x24, width) as u32;
                self.running_down = self.running_down.saturating_sub(1);
                let off = self.vendor & CLOCK_ON == 0 && self.running_down == 0;
                present & 0xffff | (present >> 20 & 0xf) << 24 | 1 << 3 | u32::from(off) << 7
            }
            0x28 => self.protocol,
            0x2c => self.system | self.inner.words[0x2c / 4] & 7 << 24,
            // ADMA2, simple DMA, high speed, 3.3 V; blocks of 4 KiB.
            0x40 => 0x0173_b407,
            0x44 => self.watermarks,
            0x48 => self.mix,
            0xc0 => self.vendor,
            0x30 => {
                let status = self.inner.read(0x30, width) as u32;
                status & !(1 << 25 | 1 << 15) | status << 3 & 1 << 28
            }
            0x04 | 0x20 | 0x10..=0x1c => return self.inner.read(offset, width),
            _ => panic!("read at {offset:#x}"),
        };
        word.into()
    }

    fn write(&mut self, offset: usize, width: Width, value: u64) {
        let word = value as u32;
        match offset {
            0x04 => {
                assert_eq!(word & 0x7000, 0, "a boundary");
                self.inner.write(offset, width, value | 7 << 12);
            }
            0x0c => self.issue(word),
            0x28 => self.protocol = word,
            0x2c => {
                assert_eq!(word & 0xf, 0xf, "clock enables");
                assert_ne!(word & 1 << 23, 0, "the card's reset line");
                let changed = (self.system ^ word) & 0xfff0 != 0;
                let off = self.vendor & CLOCK_ON == 0 && self.running_down == 0;
                assert!(!changed || off, "divider changed under way");
                let resets = word & 7 << 24;
                self.system = word & !resets;
                if resets & 1 << 24 != 0 {
                    (self.protocol, self.vendor) = (0x0880_0020, 0);
                }
                self.adapt();
                let clock = self.inner.words[0x2c / 4] | resets;
                self.inner.write(0x2c, width, clock.into());
            }
            0x30 | 0x34 | 0x38 => {
                assert_eq!(word & !0x157f_01ff, 0, "{word:#x}");
                let adma = value >> 3 & 1 << 25;
                self.inner.write(offset, width, value & !(1 << 28) | adma);
            }
            0x3c | 0x70 => assert_eq!(word, 0),
            0x44 => self.watermarks = word,
            0x48 => self.mix = word,
            0xc0 => {
                if self.vendor & !word & CLOCK_ON != 0 {
                    self.running_down = 3;
                }
                self.vendor = word;
                self.adapt();
            }
            0x08 | 0x20 | 0x58 => self.inner.write(offset, width, value),
            _ => panic!("write of {word:#x} at {offset:#x}"),
        }
    }
}
