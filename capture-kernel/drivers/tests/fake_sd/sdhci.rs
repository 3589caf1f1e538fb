//! A standard SD host controller to play against: its registers, its DMA, and a [`Slot`] behind.
//!
//! It is strict: an access that is no whole word, a command on taken lines or without a clock, a wrong
//! descriptor or an address outside the memory handed out is a panic.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use kdraw_drivers::registers::{Registers as _, Width};
use kdraw_drivers::sd::sdhci::capability;

use super::FakeHost;
use super::card::{Model, Reply};
use super::slot::{Grief, Mode, Outcome, Slot};

const COMMAND_COMPLETE: u32 = 1;
const TRANSFER_COMPLETE: u32 = 2;
const DMA_BOUNDARY: u32 = 1 << 3;
const WRITE_READY: u32 = 1 << 4;
const READ_READY: u32 = 1 << 5;
const DATA_INHIBIT: u32 = 2;

/// What QEMU's controller has, version 2.00: ADMA2, SDMA, high speed, 3.3 V, 52 MHz.
pub const CAPABILITIES: u64 = 0x057834b4;

#[derive(Debug)]
pub struct Controller {
    slot: Slot,
    pub capabilities: u64,
    pub version: u32,
    pub words: [u32; 64],
    /// Command numbers that end without Transfer Complete after busy.
    pub no_busy_interrupt: bool,
    /// High speed makes no difference to it.
    pub any_timing: bool,
    /// How often it refuses to switch the power on, as TI's do for a while.
    pub power_refusals: u32,
}

impl Deref for Controller {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}

impl DerefMut for Controller {
    fn deref_mut(&mut self) -> &mut Slot {
        &mut self.slot
    }
}

impl Controller {
    pub fn new(model: Model) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            slot: Slot::new(model),
            capabilities: CAPABILITIES,
            version: 1,
            words: [0; 64],
            no_busy_interrupt: false,
            any_timing: false,
            power_refusals: 0,
        }))
    }

    /// A version 3.00 controller with 64-bit addresses, 8 lines and DDR50.
    pub fn version_3(model: Model) -> Rc<RefCell<Self>> {
        let this = Self::new(model);
        this.borrow_mut().version = 2;
        let base = 200 << 8;
        let capabilities = CAPABILITIES & !capability::BASE_CLOCK | base;
        this.borrow_mut().capabilities = capabilities
            | capability::EIGHT_LINES
            | capability::DDR50
            | capability::ADDRESSES_64_V3;
        this
    }

    fn word(&self, offset: usize) -> u32 {
        self.words[offset / 4]
    }

    pub fn width(&self) -> u8 {
        match self.word(0x28) & (1 << 1 | 1 << 5) {
            0 => 1,
            2 => 4,
            _ => 8,
        }
    }

    fn raise(&mut self, bits: u32) {
        let enabled = self.word(0x34);
        self.words[0x30 / 4] |= bits & enabled;
        if bits & enabled & 0xffff_0000 != 0 {
            self.words[0x30 / 4] |= 1 << 15;
        }
    }

    /// The word at 0x0c was written: a command.
    fn issue(&mut self, word: u32) {
        let (index, data) = ((word >> 24) as u8, word & 1 << 21 != 0);
        let inhibited = self.word(0x24) & if data { 3 } else { 1 };
        assert_eq!(inhibited, 0, "command {index} on taken lines");
        let hz = self.hz();
        assert_ne!(self.word(0x28) & 0x100, 0, "command {index} without power");
        assert_eq!(self.word(0x38), 0, "interrupts are on");

        let argument = self.word(0x08);
        let (reply, busy, carries) = match self.slot.command(index, argument, hz) {
            Outcome::Timeout => return self.raise(1 << 16),
            Outcome::Garbled => return self.raise(1 << 17),
            Outcome::Silent => {
                self.words[0x24 / 4] |= 3;
                return;
            }
            Outcome::Answered { reply, busy, data } => (reply, busy, data),
        };
        match (word >> 16 & 3, reply) {
            (0, Reply::None) => {}
            (_, Reply::None) => return self.raise(1 << 16),
            (1, Reply::Long([a, b, c, d])) => {
                // Bits 127:8 of the answer.
                let shifted = [c << 24 | d >> 8, b << 24 | c >> 8, a << 24 | b >> 8, a >> 8];
                self.words[4..8].copy_from_slice(&shifted);
            }
            (2 | 3, Reply::Short(answer)) => self.words[0x10 / 4] = answer,
            (expected, reply) => panic!("command {index}: {reply:?}, expected {expected}"),
        }
        self.raise(COMMAND_COMPLETE);
        if busy {
            assert_eq!(word >> 16 & 3, 3, "command {index} makes busy");
            if !self.no_busy_interrupt {
                self.raise(TRANSFER_COMPLETE);
            }
        }
        // A card that refuses answers without data: the host waits in vain.
        if carries != data {
            assert!(data, "command {index} has data");
            self.words[0x24 / 4] |= DATA_INHIBIT;
            return;
        }
        if data {
            self.begin(word);
        }
    }

    fn begin(&mut self, word: u32) {
        let blocks = self.word(0x04);
        let multiple = word & 1 << 5 != 0;
        assert_eq!(word & 1 << 1 != 0, multiple, "block count");
        assert_eq!(word & 0xc, 0, "auto commands");
        self.words[0x24 / 4] |= DATA_INHIBIT;
        let bus = self.word(0x3c) >> 16;
        let mode = Mode {
            width: self.width(),
            hz: self.hz(),
            high_speed: match self.any_timing {
                true => self.card.high_speed,
                false => self.word(0x28) & 4 != 0,
            },
            ddr: bus & 7 == 4,
        };
        let count = if multiple { blocks >> 16 } else { 1 };
        let size = (blocks & 0xfff) as usize;
        if let Err(grief) = self.slot.begin(size, count, multiple, mode) {
            return self.complain(grief);
        }
        let to_card = self.transfer.as_ref().unwrap().to_card();
        assert_eq!(word & 1 << 4 == 0, to_card, "direction");
        let dma = word & 1 != 0;
        match (dma, self.word(0x28) >> 3 & 3, bus >> 12 & 3) {
            (false, ..) => {
                self.ways.push("port");
                self.port_goes_on();
            }
            (true, 0, 0) => {
                self.ways.push("SDMA");
                self.sdma_goes_on();
            }
            (true, 2, 0) => self.adma("ADMA2", 8),
            (true, 3, 0) => self.adma("ADMA2-64", 12),
            (true, 2, 3) => self.adma("ADMA2-64 v4", 16),
            other => panic!("DMA {other:?}"),
        }
    }

    fn complain(&mut self, grief: Grief) {
        self.raise(match grief {
            Grief::Garbled => 1 << 21,
            Grief::Stops => 1 << 20,
            Grief::NoMemory => 1 << 25,
        });
    }

    /// Moves one block between card and memory, or the port's buffer; false at grief.
    fn move_block(&mut self, memory: Option<u64>) -> bool {
        let moved = self.slot.move_block(memory);
        if let Err(grief) = moved {
            self.complain(grief);
        }
        moved.is_ok()
    }

    fn finish(&mut self) {
        let transfer = self.transfer.take().unwrap();
        assert!(transfer.is_over());
        self.words[0x24 / 4] &= !DATA_INHIBIT;
        self.raise(TRANSFER_COMPLETE);
    }

    /// Walks the descriptors of `stride` bytes.
    fn adma(&mut self, way: &'static str, stride: u64) {
        self.ways.push(way);
        let mut at = u64::from(self.word(0x58));
        if stride > 8 {
            at |= u64::from(self.word(0x5c)) << 32;
        }
        loop {
            let descriptor = self.memory.at(at, stride as usize);
            let head = descriptor.read(0, Width::W32);
            assert_eq!(head & 0xff & !2, 0x21, "attributes {head:#x}");
            let len = (head >> 16) as usize;
            assert_ne!(len, 0);
            let mut address = descriptor.read(4, Width::W32);
            if stride > 8 {
                address |= descriptor.read(8, Width::W32) << 32;
            }
            let size = self.transfer.as_ref().unwrap().block_size;
            assert!(len.is_multiple_of(size));
            let last = address + len as u64 - 1;
            assert_eq!(address >> 27, last >> 27, "across 128 MiB");
            for offset in (0..len).step_by(size) {
                if !self.move_block(Some(address + offset as u64)) {
                    return;
                }
            }
            if head & 2 != 0 {
                return self.finish();
            }
            at += stride;
        }
    }

    fn sdma_goes_on(&mut self) {
        let mut address = u64::from(self.word(0x00));
        let boundary = 4096 << (self.word(0x04) >> 12 & 7);
        loop {
            let size = self.transfer.as_ref().unwrap().block_size;
            if !self.move_block(Some(address)) {
                return;
            }
            address += size as u64;
            let transfer = self.transfer.as_ref().unwrap();
            if transfer.is_over() {
                return self.finish();
            }
            if address.is_multiple_of(boundary) {
                self.words[0] = address as u32;
                return self.raise(DMA_BOUNDARY);
            }
        }
    }

    /// The port is ready for the next block, or done.
    fn port_goes_on(&mut self) {
        let Some(transfer) = &self.transfer else {
            return;
        };
        if transfer.is_over() {
            return self.finish();
        }
        if transfer.to_card() {
            match self.slot.grief() {
                Ok(()) => self.raise(WRITE_READY),
                Err(grief) => self.complain(grief),
            }
        } else if self.move_block(None) {
            self.raise(READ_READY);
        }
    }

    fn port_write(&mut self, value: u32) {
        let transfer = self.transfer.as_mut().expect("port written to at rest");
        assert!(transfer.to_card());
        transfer.buffer.extend(value.to_le_bytes());
        if transfer.buffer.len() == transfer.block_size && self.move_block(None) {
            self.port_goes_on();
        }
    }

    fn port_read(&mut self) -> u32 {
        let transfer = self.transfer.as_mut().expect("port read at rest");
        let word: Vec<u8> = transfer.buffer.drain(..4).collect();
        let empty = transfer.buffer.is_empty();
        if empty {
            self.port_goes_on();
        }
        u32::from_le_bytes(word.try_into().unwrap())
    }

    fn reset(&mut self, clock: u32) {
        if clock & 1 << 24 != 0 {
            self.words = [0; 64];
        }
        self.words[0x30 / 4] = 0;
        self.words[0x24 / 4] &= !3;
        self.transfer = None;
    }
}

impl FakeHost for Controller {
    fn slot(&mut self) -> &mut Slot {
        &mut self.slot
    }

    fn leave_running(&mut self) {
        self.card.leave_running();
        let half = if self.version >= 2 { 2 } else { 1 };
        self.words[0x2c / 4] = 0xe << 16 | half << 8 | 7;
        let lines = if self.card.width == 8 { 1 << 5 } else { 1 << 1 };
        self.words[0x28 / 4] = 0xf00 | lines | 1 << 2 | 2 << 3;
        self.words[0x34 / 4] = 0x02ff_00fb;
        self.words[0x38 / 4] = 0x02ff_00fb;
    }

    fn hz(&self) -> u32 {
        let clock = self.word(0x2c);
        if clock & 7 != 7 {
            return 0;
        }
        let mut half = clock >> 8 & 0xff;
        if self.version >= 2 {
            half |= (clock >> 6 & 3) << 8;
        } else {
            assert!(half == 0 || half.is_power_of_two(), "divisor {half}");
        }
        let base = (self.capabilities >> 8 & 0xff) as u32 * 1_000_000;
        base / (2 * half).max(1)
    }

    fn read(&mut self, offset: usize, width: Width) -> u64 {
        assert_eq!((width, offset % 4), (Width::W32, 0));
        let word = match offset {
            0x20 => self.port_read(),
            0x24 => self.word(0x24) | 0x01f0_0000,
            0x40 => self.capabilities as u32,
            0x44 => (self.capabilities >> 32) as u32,
            0xfc => self.version << 16,
            _ => self.word(offset),
        };
        word.into()
    }

    fn write(&mut self, offset: usize, width: Width, value: u64) {
        assert_eq!((width, offset % 4), (Width::W32, 0));
        let value = value as u32;
        let old = self.word(offset);
        match offset {
            0x00 => {
                self.words[0] = value;
                if self.transfer.is_some() {
                    assert_eq!(value, old, "SDMA goes on elsewhere");
                    self.sdma_goes_on();
                }
            }
            0x0c => self.issue(value),
            0x20 => self.port_write(value),
            0x2c => {
                // The internal clock is stable at once.
                let stable = (value & 1) << 1;
                self.words[0x2c / 4] = value & !2 | stable;
                if value >> 24 != 0 && !self.stuck {
                    self.words[0x2c / 4] &= 0x00ff_ffff;
                    self.reset(value);
                }
            }
            0x30 => {
                let mut left = old & !value;
                if left & 0xffff_0000 == 0 {
                    left &= !(1 << 15);
                }
                self.words[0x30 / 4] = left;
            }
            0x28 => {
                let refused = value & !old & 0x100 != 0 && self.power_refusals > 0;
                self.power_refusals -= u32::from(refused);
                self.words[0x28 / 4] = if refused { value & !0x100 } else { value };
            }
            0x04 | 0x08 | 0x34 | 0x38 | 0x3c | 0x58 | 0x5c => {
                self.words[offset / 4] = value;
            }
            _ => panic!("write of {value:#x} at {offset:#x}"),
        }
    }
}
