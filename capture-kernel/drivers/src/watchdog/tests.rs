//! Each watchdog against a fake of its registers, which keeps the rules of its manual: keys, locks,
//! windows, register widths.

extern crate std;

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;
use crate::registers::Width;

/// What a fake holds, and what became of it.
#[derive(Default)]
struct State {
    /// Registers by range (0, 1) and offset.
    words: BTreeMap<(u8, usize), u64>,
    /// How far a lock is open.
    unlocked: u8,
    petted: u32,
    /// It reset the board at once.
    has_reset: bool,
}

impl State {
    fn get(&self, range: u8, offset: usize) -> u64 {
        self.words.get(&(range, offset)).copied().unwrap_or(0)
    }

    fn set(&mut self, range: u8, offset: usize, value: u64) {
        self.words.insert((range, offset), value);
    }
}

/// One access: range, offset, width, value.
type Access = (u8, usize, Width, u64);

/// A device, from its manual.
struct Chip {
    model: Model,
    /// Registers that make it run, beside what `idle` has.
    running: &'static [(u8, usize, u64)],
    /// Registers of one that does not run.
    idle: &'static [(u8, usize, u64)],
    /// The registers that may be read, and their width.
    readable: &'static [(u8, usize, Width)],
    /// What a write does.
    write: fn(&mut State, Access),
    /// Whether the board is about to be reset: running, and with the least time.
    resets_soon: fn(&State) -> bool,
}

use Width::{W8, W16, W32};

#[allow(clippy::too_many_lines, reason = "a table")]
fn chips() -> Vec<Chip> {
    let imx = |imx, running, resets_soon| Chip {
        model: Model::Imx(imx),
        running,
        idle: &[],
        readable: &[(0, 0, W16)],
        write: |state, access| match access {
            (0, 2, W16, 0x5555) => state.unlocked = 1,
            (0, 2, W16, 0xaaaa) => state.petted += u32::from(state.unlocked),
            (0, 0, W16, value) => {
                state.unlocked += 1;
                state.set(0, 0, value);
            }
            other => panic!("{other:x?}"),
        },
        resets_soon,
    };
    std::vec![
        Chip {
            model: Model::Bcm2835,
            running: &[(0, 0x1c, 0x122)],
            idle: &[(0, 0x1c, 0x102)],
            readable: &[(0, 0x1c, W32)],
            write: |state, access| match access {
                (0, 0x1c | 0x24, W32, value) if value >> 24 == 0x5a => {
                    state.petted += u32::from(access.1 == 0x24);
                    state.set(0, access.1, value & 0xff_ffff);
                }
                other => panic!("{other:x?}"),
            },
            // The rest of the control register stays.
            resets_soon: |state| {
                state.get(0, 0x1c) & 0x130 == 0x120 && (1..100).contains(&state.get(0, 0x24))
            },
        },
        Chip {
            model: Model::DesignWare,
            // With an interrupt first.
            running: &[(0, 0, 0b1011)],
            idle: &[(0, 0, 0b1010), (0, 4, 0xf)],
            readable: &[(0, 0, W32)],
            write: |state, access| match access {
                (0, 0xc, W32, 0x76) => {
                    state.petted += 1;
                    // Only now is the new range taken.
                    state.set(1, 4, state.get(0, 4));
                }
                (0, 0 | 4, W32, value) => state.set(0, access.1, value),
                other => panic!("{other:x?}"),
            },
            resets_soon: |state| {
                state.get(0, 0) & 0b1011 == 0b1001 && state.get(1, 4) == 0 && state.petted > 0
            },
        },
        imx(
            Imx::default(),
            &[(0, 0, 0x0034)],
            // Twice written, the chip's reset asserted and the pin's not.
            |state| state.unlocked >= 2 && state.get(0, 0) & 0x34 == 0x24,
        ),
        imx(
            Imx {
                big_endian: true,
                by_pin: true,
            },
            &[(0, 0, 0x3400)],
            |state| state.unlocked >= 2 && state.get(0, 0) & 0x3400 == 0x1400,
        ),
        Chip {
            model: Model::Rti,
            running: &[(0, 0x90, 0xa985_59da), (0, 0x94, 0x77), (0, 0xa8, 0x50)],
            idle: &[(0, 0x90, 0x5312_aced)],
            readable: &[
                (0, 0x90, W32),
                (0, 0x94, W32),
                (0, 0xa0, W32),
                (0, 0xa8, W32),
            ],
            write: |state, access| match access {
                (0, 0x9c, W32, 0xe51a) => state.unlocked = 1,
                (0, 0x9c, W32, 0xa35c) if state.unlocked == 1 => {
                    // 0x78 << 13 in all, and a window of half of that.
                    let in_window = state.get(0, 0xa0) < 0x78 << 12;
                    assert!(in_window, "petted too early");
                    state.petted += 1;
                }
                (0, 0x9c, W32, _) => state.has_reset = state.get(0, 0x90) == 0xa985_59da,
                (0, 0x90 | 0x94 | 0xa4 | 0xa8, W32, value) => {
                    assert_ne!(state.get(0, 0x90), 0xa985_59da, "changed while it runs");
                    state.set(0, access.1, value);
                }
                other => panic!("{other:x?}"),
            },
            resets_soon: |state| state.has_reset,
        },
        Chip {
            model: Model::Cadence,
            running: &[(0, 0, 0x33)],
            idle: &[(0, 0, 0x1c2), (0, 4, 0x3ffc)],
            readable: &[(0, 0, W32)],
            write: |state, access| match access {
                (0, 0, W32, value) if value >> 12 == 0xabc => state.set(0, 0, value & 0xfff),
                (0, 4, W32, value) if value >> 14 == 0x248 => {
                    assert_eq!(state.get(0, 0) & 1, 0, "changed while it runs");
                    state.set(0, 4, value & 0x3fff);
                }
                (0, 8, W32, 0x1999) => state.petted += 1,
                other => panic!("{other:x?}"),
            },
            resets_soon: |state| state.get(0, 0) & 3 == 3 && state.get(0, 4) == 0,
        },
        Chip {
            model: Model::Sunxi,
            running: &[(0, 0x18, 0xb1)],
            idle: &[(0, 0x14, 0x2), (0, 0x18, 0xb0)],
            readable: &[(0, 0x14, W32), (0, 0x18, W32)],
            write: |state, access| match access {
                (0, 0x10, W32, 0x14af) => state.petted += 1,
                (0, 0x14 | 0x18, W32, value) => state.set(0, access.1, value),
                other => panic!("{other:x?}"),
            },
            resets_soon: |state| state.get(0, 0x14) == 1 && state.get(0, 0x18) == 1,
        },
        Chip {
            model: Model::Meson,
            running: &[(0, 0, 0x0324_5dc0)],
            idle: &[(0, 0, 0x0320_5dc0), (0, 8, 0x7530)],
            readable: &[(0, 0, W32)],
            write: |state, access| match access {
                (0, 0 | 8, W32, value) => state.set(0, access.1, value),
                (0, 0xc, W32, _) => state.petted += 1,
                other => panic!("{other:x?}"),
            },
            // Divider and clock as they were.
            resets_soon: |state| state.get(0, 0) == 0x0324_5dc0 && state.get(0, 8) == 1,
        },
        Chip {
            model: Model::Sbsa,
            // Of revision 1, and its first time is over.
            running: &[(0, 0, 0b11)],
            idle: &[(0, 8, 0xffff), (0, 0xc, 0xff), (0, 0xfcc, 0x1_043b)],
            readable: &[(0, 0, W32), (0, 0xfcc, W32)],
            write: |state, access| match access {
                (1, 0, W32, _) => state.petted += 1,
                (0, 0 | 8 | 0xc, W32, value) => state.set(0, access.1, value),
                other => panic!("{other:x?}"),
            },
            resets_soon: |state| {
                state.get(0, 0) == 1 && state.get(0, 8) == 1 && state.get(0, 0xc) == 0
            },
        },
        Chip {
            model: Model::Sp805,
            running: &[(0, 8, 0b11)],
            // It interrupts, and that is all.
            idle: &[(0, 0, 0xffff_ffff), (0, 8, 0b01)],
            readable: &[(0, 8, W32)],
            write: |state, access| match access {
                (0, 0xc00, W32, value) => state.unlocked = u8::from(value == 0x1acc_e551),
                (0, 0xc, W32, _) => state.petted += u32::from(state.unlocked),
                (0, 0 | 8, W32, value) if state.unlocked == 1 => state.set(0, access.1, value),
                other => panic!("{other:x?}"),
            },
            resets_soon: |state| state.get(0, 8) == 0b11 && state.get(0, 0) == 1,
        },
        Chip {
            model: Model::I6300esb,
            running: &[(1, 0x60, 0x3), (1, 0x68, 0b11)],
            idle: &[(1, 0x60, 0x23), (0, 0, 0x1400), (0, 4, 0x1400)],
            readable: &[(1, 0x60, W16), (1, 0x68, W8)],
            write: |state, access| match access {
                (0, 0xc, W8, 0x80) => state.unlocked = 1,
                (0, 0xc, W8, 0x86) if state.unlocked == 1 => state.unlocked = 2,
                (0, 0xc, W16, 0x100) if state.unlocked == 2 => {
                    (state.petted, state.unlocked) = (state.petted + 1, 0);
                }
                (0, 0 | 4, W32, value) if state.unlocked == 2 => {
                    state.set(0, access.1, value);
                    state.unlocked = 0;
                }
                (1, 0x60, W16, value) | (1, 0x68, W8, value) => state.set(1, access.1, value),
                other => panic!("{other:x?}"),
            },
            resets_soon: |state| {
                let enabled = state.get(1, 0x68) & 0b10 != 0 && state.get(1, 0x60) & 0x20 == 0;
                enabled && state.get(0, 0) == 1 && state.get(0, 4) == 1 && state.petted > 0
            },
        },
    ]
}

struct Fake {
    chip: Chip,
    state: RefCell<State>,
}

impl Fake {
    fn new(chip: Chip, running: bool) -> Self {
        let mut state = State::default();
        let more = if running { chip.running } else { &[] };
        for &(range, offset, value) in chip.idle.iter().chain(more) {
            state.set(range, offset, value);
        }
        let state = RefCell::new(state);
        Self { chip, state }
    }

    fn watchdog(&self) -> Watchdog<Range<'_>> {
        let range = |number| Range { fake: self, number };
        let second = matches!(self.chip.model, Model::Sbsa | Model::I6300esb);
        Watchdog::new(self.chip.model, range(0), second.then(|| range(1)))
    }

    fn resets_soon(&self) -> bool {
        (self.chip.resets_soon)(&self.state.borrow())
    }

    fn petted(&self) -> u32 {
        self.state.borrow().petted
    }
}

struct Range<'f> {
    fake: &'f Fake,
    number: u8,
}

impl Registers for Range<'_> {
    fn size(&self) -> usize {
        0x1000
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        let access = (self.number, offset, width);
        let chip = &self.fake.chip;
        assert!(chip.readable.contains(&access), "{access:x?}");
        self.fake.state.borrow().get(self.number, offset)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let access = (self.number, offset, width, value);
        (self.fake.chip.write)(&mut self.fake.state.borrow_mut(), access);
    }
}

#[test]
fn one_that_runs_is_told_from_one_that_does_not() {
    for running in [false, true] {
        for chip in chips() {
            let fake = Fake::new(chip, running);
            let found = fake.watchdog().is_running();
            assert_eq!(found, running, "{:?}", fake.chip.model);
            assert!(!fake.resets_soon(), "{:?}", fake.chip.model);
        }
    }
}

#[test]
fn each_pet_counts_and_changes_nothing_else() {
    for chip in chips() {
        let fake = Fake::new(chip, true);
        for times in 1..4 {
            fake.watchdog().pet();
            assert_eq!(fake.petted(), times, "{:?}", fake.chip.model);
        }
        assert!(fake.watchdog().is_running(), "{:?}", fake.chip.model);
        assert!(!fake.resets_soon(), "{:?}", fake.chip.model);
    }
}

#[test]
fn the_board_is_reset_whether_it_ran_or_not() {
    for running in [false, true] {
        for chip in chips() {
            let fake = Fake::new(chip, running);
            fake.watchdog().reset();
            assert!(fake.resets_soon(), "{:?}, {running}", fake.chip.model);
        }
    }
}

#[test]
fn ti_s_is_petted_only_in_its_window() {
    let rti = || chips().into_iter().find(|chip| chip.model == Model::Rti);
    // Of 0x78 << 13: a window of half of it, of a quarter, of nobody knows what.
    for (window, counter, petted) in [
        (0x50, 0xf_0000, 0),
        (0x50, 0x7_8000, 0),
        (0x50, 0x7_0000, 1),
        (0x500, 0x7_0000, 0),
        (0x500, 0x3_0000, 1),
        (0x50, 0, 1),
        (0, 0x7800, 0),
        (0, 0x7000, 1),
    ] {
        let fake = Fake::new(rti().unwrap(), true);
        fake.state.borrow_mut().set(0, 0xa8, window);
        fake.state.borrow_mut().set(0, 0xa0, counter);
        fake.watchdog().pet();
        assert_eq!(fake.petted(), petted, "{window:#x}, {counter:#x}");
    }
}
