//! The watchdog in the power management block of the BCM2835, BCM2711 and BCM2712, which is also
//! how these boards are reset.
//!
//! It counts 65,536 ticks a second down from 20 bits, 16 s at the most. What it was set to cannot
//! be read: petting sets it to the most. Writes need a password in their upper byte.
//!
//! Source: Linux `drivers/watchdog/bcm2835_wdt.c` (no manual describes the block).

use tock_registers::interfaces::{Readable, Writeable};

use crate::registers::{Offset, Registers};

const CONTROL: Offset<u32> = Offset::new(0x1c);
const TIME: Offset<u32> = Offset::new(0x24);

const PASSWORD: u32 = 0x5a00_0000;
/// CONTROL: what happens at the end of the time.
const ACTION: u32 = 0x30;
const FULL_RESET: u32 = 0x20;
const MOST: u32 = 0xf_ffff;
/// 150 µs.
const SOON: u32 = 10;

pub(super) fn is_running(registers: &impl Registers) -> bool {
    registers.at(CONTROL).get() & FULL_RESET != 0
}

pub(super) fn pet(registers: &impl Registers) {
    registers.at(TIME).set(PASSWORD | MOST);
}

pub(super) fn reset(registers: &impl Registers) {
    registers.at(TIME).set(PASSWORD | SOON);
    // What is read has no password in it, but may have other bits there.
    let rest = registers.at(CONTROL).get() & 0x00ff_ffff & !ACTION;
    registers.at(CONTROL).set(PASSWORD | rest | FULL_RESET);
}
