//! Amlogic's host controller to play against.
//!
//! It is strict: a command while another is under way, with the clock stopped or with interrupts
//! on, the clock changed while it runs, or a wrong descriptor is a panic.

use kdraw_drivers::registers::{Registers as _, Width};

use super::FakeHost;
use super::card::{Model, Reply};
use super::slot::{Grief, Mode, Outcome, Slot};

const RECEIVE_ERROR: u32 = 1;
const TRANSMIT_ERROR: u32 = 1 << 8;
const DESCRIPTOR_ERROR: u32 = 1 << 9;
const RESPONSE_ERROR: u32 = 1 << 10;
const RESPONSE_TIMEOUT: u32 = 1 << 11;
const DESCRIPTOR_TIMEOUT: u32 = 1 << 12;
const END_OF_CHAIN: u32 = 1 << 13;

#[derive(Debug)]
pub struct Controller {
    slot: Slot,
    version_3: bool,
    pub words: [u32; 64],
    /// Whether a command has not ended.
    busy: bool,
}

impl Controller {
    pub fn new(version_3: bool, model: Model) -> Self {
        Self {
            slot: Slot::new(model),
            version_3,
            words: [0; 64],
            busy: false,
        }
    }

    fn raise(&mut self, bits: u32) {
        self.busy = false;
        self.words[0x48 / 4] |= bits;
    }

    fn complain(&mut self, grief: Grief, to_card: bool) {
        self.raise(match grief {
            Grief::Garbled if to_card => TRANSMIT_ERROR,
            Grief::Garbled => RECEIVE_ERROR,
            Grief::Stops => DESCRIPTOR_TIMEOUT,
            Grief::NoMemory => DESCRIPTOR_ERROR,
        });
    }

    fn mode(&self) -> Mode {
        let configuration = self.words[0x44 / 4];
        Mode {
            width: [1, 4, 8, 0][configuration as usize & 3],
            hz: self.hz(),
            high_speed: self.slot.card.high_speed,
            ddr: configuration & 4 != 0,
        }
    }

    /// A command begins; `chain` is where its descriptors are.
    fn issue(&mut self, command: u32, argument: u32, chain: Option<u64>) {
        assert!(!core::mem::replace(&mut self.busy, true), "two commands");
        assert_ne!(command & 1 << 31, 0, "not owned");
        assert_eq!(self.words[0x4c / 4], 0, "interrupts are on");
        assert_ne!(self.words[0x44 / 4] & 1 << 27, 0, "goes on after errors");
        assert_eq!(command & 1 << 18 != 0, chain.is_some());
        let index = (command >> 24 & 0x3f) as u8;
        let hz = self.hz();
        let (reply, busy, carries) = match self.slot.command(index, argument, hz) {
            Outcome::Timeout => return self.raise(RESPONSE_TIMEOUT),
            Outcome::Garbled => return self.raise(RESPONSE_ERROR),
            Outcome::Silent => return,
            Outcome::Answered { reply, busy, data } => (reply, busy, data),
        };
        let (responds, long) = (command & 1 << 22 != 0, command & 1 << 21 != 0);
        assert_eq!(responds, command & 1 << 16 == 0);
        match reply {
            Reply::None if responds => return self.raise(RESPONSE_TIMEOUT),
            Reply::None => {}
            Reply::Short(answer) => {
                assert!(responds && !long, "command {index}");
                self.words[0x5c / 4] = answer;
            }
            Reply::Long(answer) => {
                assert!(responds && long, "command {index}");
                for (index, word) in answer.into_iter().rev().enumerate() {
                    self.words[0x5c / 4 + index] = word | u32::from(index == 0);
                }
            }
        }
        assert!(
            !busy || command & 1 << 10 != 0,
            "command {index} makes busy"
        );
        match chain {
            Some(_) if !carries => self.raise(DESCRIPTOR_TIMEOUT),
            Some(chain) => self.walk(command, chain, index),
            None => {
                assert!(!carries, "command {index} has data");
                self.raise(END_OF_CHAIN);
            }
        }
    }

    /// Walks the descriptors.
    fn walk(&mut self, first: u32, chain: u64, index: u8) {
        let multiple = first & 1 << 9 != 0;
        let size = match multiple {
            true => 1 << (self.words[0x44 / 4] >> 4 & 0xf),
            false => match first & 0x1ff {
                0 => 512,
                bytes => bytes as usize,
            },
        };
        let mut pieces = vec![];
        for at in (chain..).step_by(16) {
            let descriptor = self.slot.memory.at(at, 16);
            let word = |offset| descriptor.read(offset, Width::W32);
            let head = word(0) as u32;
            let expected = first & !(0x1ff | 1 << 11) | u32::from(at > chain) << 17;
            assert_eq!(head & !(0x1ff | 1 << 11), expected, "descriptor {at:#x}");
            let blocks = if multiple { head & 0x1ff } else { 1 };
            assert_ne!(blocks, 0);
            pieces.push((word(8), blocks));
            if head & 1 << 11 != 0 {
                break;
            }
        }
        let blocks = pieces.iter().map(|(_, blocks)| blocks).sum();
        let to_card = first & 1 << 19 != 0;
        let mode = self.mode();
        let counted = matches!(index, 18 | 25);
        if let Err(grief) = self.slot.begin(size, blocks, counted, mode) {
            return self.complain(grief, to_card);
        }
        self.slot.ways.push("DMA");
        assert_eq!(self.slot.transfer.as_ref().unwrap().to_card(), to_card);
        for (address, blocks) in pieces {
            for block in 0..u64::from(blocks) {
                let at = address + block * size as u64;
                if let Err(grief) = self.slot.move_block(Some(at)) {
                    return self.complain(grief, to_card);
                }
            }
        }
        assert!(self.slot.transfer.take().unwrap().is_over());
        self.raise(END_OF_CHAIN);
    }
}

impl FakeHost for Controller {
    fn slot(&mut self) -> &mut Slot {
        &mut self.slot
    }

    fn leave_running(&mut self) {
        self.slot.card.leave_running();
        let lines = if self.slot.card.width == 8 { 2 } else { 1 };
        self.words[0x44 / 4] = 0x0800_4890 | lines;
        // The PLL, divided by 20.
        self.words[0] = 1 << 28 | 2 << 8 | 1 << 6 | 20;
        self.words[0x4c / 4] = 0x3fff;
        self.words[0x40 / 4] = 0x1000_0002;
        // It was under way.
        self.busy = true;
    }

    fn hz(&self) -> u32 {
        let (clock, stopped) = (self.words[0], self.words[0x44 / 4] & 1 << 22 != 0);
        let source = [24_000_000, 1_000_000_000][(clock >> 6 & 1) as usize];
        match clock & 0x3f {
            0 => 0,
            _ if stopped => 0,
            divisor => source / divisor,
        }
    }

    fn read(&mut self, offset: usize, width: Width) -> u64 {
        assert_eq!((width, offset % 4), (Width::W32, 0));
        let stuck = u32::from(self.busy || self.slot.stuck) << 31;
        match offset {
            0x48 => (self.words[0x48 / 4] | stuck).into(),
            _ => self.words[offset / 4].into(),
        }
    }

    fn write(&mut self, offset: usize, width: Width, value: u64) {
        assert_eq!((width, offset % 4), (Width::W32, 0));
        let value = value as u32;
        match offset {
            0x00 => {
                assert_eq!(self.hz(), 0, "the clock runs");
                let always_on = if self.version_3 { 1 << 28 } else { 1 << 24 };
                assert_eq!(value & !0x3ff, always_on, "{value:#x}");
                self.words[0] = value;
            }
            0x40 => {
                self.words[0x40 / 4] = value;
                if value & 2 == 0 {
                    self.busy = false;
                    self.slot.transfer = None;
                    return;
                }
                let chain = u64::from(value & !3);
                let first = self.slot.memory.at(chain, 16);
                let word = |offset| first.read(offset, Width::W32) as u32;
                let (command, argument) = (word(0), word(4));
                self.issue(command, argument, Some(chain));
            }
            0x48 => self.words[0x48 / 4] &= !(value & 0xffff),
            0x54 => {
                let command = self.words[0x50 / 4];
                assert_ne!(command & 1 << 11, 0, "no last command");
                self.issue(command, value, None);
            }
            0x08 | 0x0c => {
                assert_eq!(offset == 0x0c, self.version_3);
                self.words[offset / 4] = value;
            }
            0x44 | 0x4c | 0x50 | 0x58 => self.words[offset / 4] = value,
            _ => panic!("write of {value:#x} at {offset:#x}"),
        }
    }
}
