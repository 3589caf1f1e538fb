//! Allwinner's watchdog as the A31 has it, and all their 64-bit chips up to the H616.
//!
//! Source: Linux `drivers/watchdog/sunxi_wdt.c`.

use tock_registers::interfaces::{Readable, Writeable};

use crate::registers::{Offset, Registers};

const CONTROL: Offset<u32> = Offset::new(0x10);
const CONFIG: Offset<u32> = Offset::new(0x14);
const MODE: Offset<u32> = Offset::new(0x18);

const RESTART: u32 = 0xa57 << 1 | 1;
/// CONFIG: what happens at the end of the time.
const ACTION: u32 = 0x3;
const SYSTEM_RESET: u32 = 0x1;
const ENABLE: u32 = 1 << 0;
/// MODE: the time; 0 is the least, half a second.
const TIME: u32 = 0xf << 4;

pub(super) fn is_running(registers: &impl Registers) -> bool {
    registers.at(MODE).get() & ENABLE != 0
}

pub(super) fn pet(registers: &impl Registers) {
    registers.at(CONTROL).set(RESTART);
}

pub(super) fn reset(registers: &impl Registers) {
    let config = registers.at(CONFIG).get();
    registers.at(CONFIG).set(config & !ACTION | SYSTEM_RESET);
    let mode = registers.at(MODE).get();
    registers.at(MODE).set(mode & !TIME | ENABLE);
    pet(registers);
}
