//! TI's real time interrupt module as a watchdog, on AM62, AM64, AM65 and J7.
//!
//! It may be petted only in a window at the end of its time, half of it at the most: earlier
//! counts as a failure, too. Once it runs it cannot be stopped or changed.
//!
//! Sources: Linux `drivers/watchdog/rti_wdt.c`; RM48x TRM (SPNU503C), section 13.2.5, which has the
//! same module with its windows and what a wrong key does.

use tock_registers::interfaces::{Readable, Writeable};

use crate::registers::{Offset, Registers};

const CONTROL: Offset<u32> = Offset::new(0x90);
/// What it counts down from: bits 13 to 24, those below are ones.
const PRELOAD: Offset<u32> = Offset::new(0x94);
const KEY: Offset<u32> = Offset::new(0x9c);
const COUNTER: Offset<u32> = Offset::new(0xa0);
/// What happens at the end of the time.
const REACTION: Offset<u32> = Offset::new(0xa4);
/// The window: 5 in a nibble, the lowest for all of the time, the next for half of it, … the sixth
/// for the least.
const WINDOW: Offset<u32> = Offset::new(0xa8);

const ENABLED: u32 = 0xa985_59da;
const KEYS: [u32; 2] = [0xe51a, 0xa35c];
const PRELOAD_SHIFT: u32 = 13;
/// The error signalling module is told, which resets the board.
const TELL: u32 = 0xa;
const WHOLE_TIME: u32 = 0x5;
const MOST_HALVINGS: u32 = 5;

pub(super) fn is_running(registers: &impl Registers) -> bool {
    registers.at(CONTROL).get() == ENABLED
}

pub(super) fn pet(registers: &impl Registers) {
    let whole = (registers.at(PRELOAD).get() & 0xfff).saturating_add(1) << PRELOAD_SHIFT;
    let halvings = registers.at(WINDOW).get().trailing_zeros() / 4;
    let window = whole >> halvings.min(MOST_HALVINGS);
    // The counter lags behind what is written by some cycles of its own clock: not at the edge.
    let safe = window.saturating_sub(window / 16);
    if registers.at(COUNTER).get() < safe {
        KEYS.iter().for_each(|key| registers.at(KEY).set(*key));
    }
}

pub(super) fn reset(registers: &impl Registers) {
    if !is_running(registers) {
        // A quarter of a second at 32 kHz.
        registers.at(PRELOAD).set(0);
        registers.at(REACTION).set(TELL);
        registers.at(WINDOW).set(WHOLE_TIME);
        registers.at(CONTROL).set(ENABLED);
    }
    // A value that is no key counts as a failure at once.
    registers.at(KEY).set(0);
}
