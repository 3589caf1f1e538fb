//! Cadence's watchdog, as Zynq and ZynqMP have it.
//!
//! Sources: Linux `drivers/watchdog/cadence_wdt.c`; Zynq UltraScale+ register reference (UG1087),
//! module SWDT.

use tock_registers::interfaces::{Readable, Writeable};

use crate::registers::{Offset, Registers};

/// Zero mode: what happens at the end of the time.
const MODE: Offset<u32> = Offset::new(0x0);
/// Counter control: what it counts from, and how fast.
const CONTROL: Offset<u32> = Offset::new(0x4);
const RESTART: Offset<u32> = Offset::new(0x8);

const MODE_KEY: u32 = 0xabc << 12;
const ENABLE: u32 = 1 << 0;
const RESETS: u32 = 1 << 1;
/// A reset is held for 16 clock cycles.
const PULSE: u32 = 0x30;
const CONTROL_KEY: u32 = 0x248 << 14;
const RESTART_KEY: u32 = 0x1999;

pub(super) fn is_running(registers: &impl Registers) -> bool {
    let running = ENABLE | RESETS;
    registers.at(MODE).get() & running == running
}

pub(super) fn pet(registers: &impl Registers) {
    registers.at(RESTART).set(RESTART_KEY);
}

pub(super) fn reset(registers: &impl Registers) {
    // The counter's control is changed while it stands; with only its key there it counts the
    // least, 4096 times 8 clock cycles.
    registers.at(MODE).set(MODE_KEY);
    registers.at(CONTROL).set(CONTROL_KEY);
    registers.at(MODE).set(MODE_KEY | PULSE | RESETS | ENABLE);
    pet(registers);
}
