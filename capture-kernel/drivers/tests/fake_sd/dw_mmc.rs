//! DesignWare's host controller to play against, in both makes.
//!
//! It is strict: an access that is no whole word, a command before the last was taken, without an
//! announced clock or before a reset is done, or a FIFO read while empty is a panic; a FIFO
//! written while full is an overrun.

use kdraw_drivers::registers::Width;
use kdraw_drivers::sd::dw_mmc::Make;

use super::FakeHost;
use super::card::{Model, Reply};
use super::slot::{Grief, Mode, Outcome, Slot};

const COMMAND_DONE: u32 = 1 << 2;
const DATA_OVER: u32 = 1 << 3;
const RESPONSE_CRC: u32 = 1 << 6;
const DATA_CRC: u32 = 1 << 7;
const RESPONSE_TIMEOUT: u32 = 1 << 8;
const DATA_TIMEOUT: u32 = 1 << 9;
const OVERRUN: u32 = 1 << 11;

#[derive(Debug)]
pub struct Controller {
    slot: Slot,
    make: Make,
    pub words: [u32; 64],
    /// The rate of the clock that comes in, in Hz.
    pub base_hz: u32,
    /// Words in the FIFO, and their width.
    pub depth: usize,
    pub width: Width,
    /// Words that the CPU has put in and the card has not taken.
    filled: usize,
    /// Whether the end of data was told.
    told: bool,
    /// Whether the card side knows the clock's registers.
    announced: bool,
}

impl Controller {
    pub fn new(make: Make, model: Model) -> Self {
        let mut words = [0; 64];
        match make {
            Make::Synopsys => {
                words[0x6c / 4] = 0x5342_270a;
                words[0x70 / 4] = 1 << 7;
                words[0x4c / 4] = 255 << 16;
            }
            Make::Allwinner => words[0x40 / 4] = 0x000f_0000,
        }
        Self {
            slot: Slot::new(model),
            make,
            words,
            base_hz: 100_000_000,
            depth: if make == Make::Synopsys { 256 } else { 16 },
            width: Width::W32,
            filled: 0,
            told: false,
            announced: false,
        }
    }

    /// A register that both makes have, by Synopsys' offset.
    fn place(&self, offset: usize) -> usize {
        match (self.make, offset) {
            (Make::Synopsys, _) => offset / 4,
            (_, 0x14..=0x20) => (offset - 0xc) / 4,
            (_, 0x24) => 0x30 / 4,
            (_, 0x28) => 0x1c / 4,
            (_, 0x2c) => 0x18 / 4,
            (_, 0x30..=0x3c) => (offset - 0x10) / 4,
            (_, 0x44..=0x4c) => (offset - 0xc) / 4,
            _ => panic!("{offset:#x} is Synopsys' alone"),
        }
    }

    fn word(&self, offset: usize) -> u32 {
        self.words[self.place(offset)]
    }

    fn set(&mut self, offset: usize, value: u32) {
        let place = self.place(offset);
        self.words[place] = value;
    }

    fn raise(&mut self, bits: u32) {
        self.set(0x44, self.word(0x44) | bits);
    }

    fn complain(&mut self, grief: Grief) {
        self.raise(match grief {
            Grief::Garbled => DATA_CRC,
            Grief::Stops => DATA_TIMEOUT,
            Grief::NoMemory => panic!("no DMA"),
        });
    }

    fn mode(&self) -> Mode {
        let lines = self.word(0x18);
        let ddr = match self.make {
            Make::Synopsys => self.words[0x74 / 4] & 1 << 16,
            Make::Allwinner => self.words[0] & 1 << 10,
        };
        Mode {
            width: match (self.make, lines) {
                (_, 0) => 1,
                (_, 1) => 4,
                (Make::Synopsys, 0x1_0000) | (Make::Allwinner, 2) => 8,
                _ => panic!("card type {lines:#x}"),
            },
            hz: self.hz(),
            // It makes no difference to it.
            high_speed: self.slot.card.high_speed,
            ddr: ddr != 0,
        }
    }

    /// The command register was written.
    fn issue(&mut self, word: u32) {
        assert_ne!(word & 1 << 31, 0, "no start");
        assert_eq!(self.words[0] & 7, 0, "command in reset");
        assert_eq!(self.words[0] & 1 << 4, 0, "interrupts are on");
        assert_eq!(self.word(0x24), 0, "interrupts are on");
        if word & 1 << 21 != 0 {
            assert_eq!(word & 0x3f, 0);
            self.announced = true;
            if self.slot.stuck {
                self.set(0x2c, word);
            }
            return;
        }
        let index = (word & 0x3f) as u8;
        assert!(self.announced, "command {index} with a clock unheard of");
        assert_eq!(self.word(0x14), u32::MAX, "timeout");
        let under_way = &self.slot.transfer;
        assert!(
            under_way.is_none() || index == 12,
            "{index} in {under_way:?}"
        );
        assert_eq!(word & 1 << 14 != 0, matches!(index, 0 | 12), "abort");
        if self.make == Make::Synopsys {
            assert_ne!(self.words[1] & 1, 0, "command {index} without power");
        } else {
            assert_ne!(self.words[0] & 1 << 31, 0, "the FIFO is DMA's");
        }
        let (responds, long, data) = (word & 1 << 6 != 0, word & 1 << 7 != 0, word & 1 << 9 != 0);
        let hz = self.hz();
        let argument = self.word(0x28);
        let (reply, carries) = match self.slot.command(index, argument, hz) {
            Outcome::Timeout => return self.raise(COMMAND_DONE | RESPONSE_TIMEOUT),
            Outcome::Garbled => return self.raise(COMMAND_DONE | RESPONSE_CRC),
            Outcome::Silent => return,
            Outcome::Answered { reply, data, .. } => (reply, data),
        };
        match reply {
            Reply::None if responds => return self.raise(COMMAND_DONE | RESPONSE_TIMEOUT),
            Reply::None => {}
            Reply::Short(answer) => {
                assert!(responds && !long, "command {index}");
                self.set(0x30, answer);
            }
            Reply::Long(answer) => {
                assert!(responds && long, "command {index}");
                for (index, word) in answer.into_iter().rev().enumerate() {
                    self.set(0x30 + 4 * index, word | u32::from(index == 0));
                }
            }
        }
        self.raise(COMMAND_DONE);
        if !carries {
            return;
        }
        assert!(data, "command {index} has data");
        let (size, len) = (self.word(0x1c), self.word(0x20));
        let mode = self.mode();
        let multiple = matches!(index, 18 | 25);
        let blocks = len / size;
        if let Err(grief) = self.slot.begin(size as usize, blocks, multiple, mode) {
            return self.complain(grief);
        }
        self.slot.ways.push("FIFO");
        (self.filled, self.told) = (0, false);
        let to_card = self.slot.transfer.as_ref().unwrap().to_card();
        assert_eq!(word & 1 << 10 != 0, to_card, "direction");
    }

    /// The card takes from or puts into the FIFO what it can.
    fn goes_on(&mut self) {
        let bytes = self.width.bytes();
        let Some(transfer) = &mut self.slot.transfer else {
            return;
        };
        let size = transfer.block_size;
        let mut result = Ok(());
        if transfer.to_card() {
            // Not all of it at once.
            self.filled -= self.filled.min(self.depth * 3 / 4);
            let taken = |buffer: &[u8], filled: usize| buffer.len() - filled * bytes;
            while let Some(transfer) = &self.slot.transfer
                && taken(&transfer.buffer, self.filled) >= size
                && result.is_ok()
            {
                result = self.slot.move_block(None);
            }
        } else {
            while let Some(transfer) = &self.slot.transfer
                && !transfer.is_over()
                && transfer.buffer.len() < self.depth * bytes
                && result.is_ok()
            {
                result = self.slot.move_block(None);
            }
        }
        if let Err(grief) = result {
            return self.complain(grief);
        }
        let Some(transfer) = &self.slot.transfer else {
            return;
        };
        // Of what is read the host has the last words still to hand over.
        let drained = transfer.buffer.len() <= self.depth * bytes;
        if transfer.is_over() && drained {
            if !core::mem::replace(&mut self.told, true) {
                self.raise(DATA_OVER);
            }
            if transfer_done(&self.slot) {
                self.slot.transfer = None;
            }
        }
    }

    fn level(&self) -> u32 {
        let level = match &self.slot.transfer {
            Some(transfer) if transfer.to_card() => self.filled,
            Some(transfer) => transfer.buffer.len() / self.width.bytes(),
            None => 0,
        };
        let full = u32::from(level >= self.depth) << 3;
        (level.min(self.depth) as u32) << 17 | full
    }

    fn fifo_write(&mut self, value: u64) {
        let Some(transfer) = &mut self.slot.transfer else {
            return;
        };
        assert!(transfer.to_card());
        transfer
            .buffer
            .extend(&value.to_le_bytes()[..self.width.bytes()]);
        self.filled += 1;
        if self.filled > self.depth {
            self.slot.transfer = None;
            self.raise(OVERRUN);
        }
    }

    fn fifo_read(&mut self) -> u64 {
        let bytes = self.width.bytes();
        let transfer = self.slot.transfer.as_mut().expect("FIFO read at rest");
        assert!(
            !transfer.to_card() && transfer.buffer.len() >= bytes,
            "underrun"
        );
        let mut word = [0; 8];
        for (to, byte) in word.iter_mut().zip(transfer.buffer.drain(..bytes)) {
            *to = byte;
        }
        if transfer_done(&self.slot) {
            self.slot.transfer = None;
        }
        u64::from_le_bytes(word)
    }
}

/// Whether card and CPU are both done.
fn transfer_done(slot: &Slot) -> bool {
    slot.transfer
        .as_ref()
        .is_some_and(|transfer| transfer.is_over() && transfer.buffer.is_empty())
}

impl FakeHost for Controller {
    fn slot(&mut self) -> &mut Slot {
        &mut self.slot
    }

    fn leave_running(&mut self) {
        self.slot.card.leave_running();
        let eight = self.slot.card.width == 8;
        self.announced = true;
        match self.make {
            Make::Synopsys => {
                self.words[0] = 1 << 25 | 1 << 5 | 1 << 4;
                self.words[1] = 1;
                self.words[0x10 / 4] = 1 << 16 | 1;
                self.words[0x18 / 4] = if eight { 1 << 16 } else { 1 };
                self.words[0x4c / 4] = 2 << 28 | 127 << 16 | 128;
                self.words[0x80 / 4] = 0x82;
            }
            Make::Allwinner => {
                self.words[0] = 1 << 5 | 1 << 4;
                self.words[1] = 1 << 16;
                self.words[0x0c / 4] = if eight { 2 } else { 1 };
                self.words[0x40 / 4] = 0x2007_0008;
                self.words[0x80 / 4] = 0x82;
            }
        }
        self.set(0x24, 0xbfc2);
        // Linux has set it for the card.
        self.base_hz = 50_000_000;
    }

    fn hz(&self) -> u32 {
        let (on, divider) = match self.make {
            Make::Synopsys => (self.words[0x10 / 4] & 1, self.words[0x08 / 4]),
            Make::Allwinner => (self.words[1] & 1 << 16, self.words[1]),
        };
        match (on, divider & 0xff) {
            (0, _) => 0,
            (_, 0) => self.base_hz,
            (_, half) => self.base_hz / (2 * half),
        }
    }

    fn read(&mut self, offset: usize, width: Width) -> u64 {
        if offset == 0x200 {
            assert_eq!(width, self.width);
            return self.fifo_read();
        }
        assert_eq!((width, offset % 4), (Width::W32, 0));
        let word = offset / 4;
        if word == self.place(0x44) || word == self.place(0x48) {
            self.goes_on();
        }
        let level = if word == self.place(0x48) {
            self.level()
        } else {
            0
        };
        (self.words[word] | level).into()
    }

    fn write(&mut self, offset: usize, width: Width, value: u64) {
        if offset == 0x200 {
            assert_eq!(width, self.width);
            return self.fifo_write(value);
        }
        assert_eq!((width, offset % 4), (Width::W32, 0));
        let value = value as u32;
        let word = offset / 4;
        if offset == 0 {
            self.words[0] = value;
            if value & 7 != 0 && !self.slot.stuck {
                self.words[0] &= !7;
                self.slot.transfer = None;
                self.set(0x44, 0);
                // The card side has forgotten.
                self.announced = false;
            }
        } else if word == self.place(0x2c) {
            self.issue(value);
        } else if word == self.place(0x44) {
            self.words[word] &= !value;
        } else {
            let clock = match self.make {
                Make::Synopsys => matches!(offset, 0x08..=0x10),
                Make::Allwinner => {
                    // All but the mask of the busy line has to be announced.
                    offset == 0x04 && (self.words[word] ^ value) << 1 != 0
                }
            };
            self.announced &= !clock;
            self.words[word] = value;
        }
    }
}
