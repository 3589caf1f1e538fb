//! Amlogic's watchdog from GXBB on. Linux sets it to count milliseconds when it finds it.
//!
//! Source: Linux `drivers/watchdog/meson_gxbb_wdt.c`.

use tock_registers::interfaces::{Readable, Writeable};

use crate::registers::{Offset, Registers};

const CONTROL: Offset<u32> = Offset::new(0x0);
/// The lower half is the time.
const TIME: Offset<u32> = Offset::new(0x8);
/// A write begins the time anew.
const RESTART: Offset<u32> = Offset::new(0xc);

const ENABLE: u32 = 1 << 18;

pub(super) fn is_running(registers: &impl Registers) -> bool {
    registers.at(CONTROL).get() & ENABLE != 0
}

pub(super) fn pet(registers: &impl Registers) {
    registers.at(RESTART).set(0);
}

pub(super) fn reset(registers: &impl Registers) {
    registers.at(TIME).set(1);
    let control = registers.at(CONTROL).get();
    registers.at(CONTROL).set(control | ENABLE);
    pet(registers);
}
