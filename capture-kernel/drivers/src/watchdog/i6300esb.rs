//! Intel's 6300ESB watchdog, a PCI function; QEMU has it. When the first of its two timers has run
//! out it may interrupt, when the second has too it resets the board.
//!
//! Every write to a timer or to the reload register needs the two keys before it.
//!
//! Sources: Intel 6300ESB I/O Controller Hub data sheet (300641-004); Linux
//! `drivers/watchdog/i6300esb.c`; QEMU `hw/watchdog/wdt_i6300esb.c`.

use crate::registers::{Registers, Width};

/// Vendor and device.
pub const ID: (u16, u16) = (0x8086, 0x25ab);
/// Bytes in BAR 0.
pub const BAR_LEN: u64 = 16;

/// In BAR 0.
const TIMER1: usize = 0x0;
const TIMER2: usize = 0x4;
const RELOAD: usize = 0xc;
/// In the configuration space.
const CONFIG: usize = 0x60;
const LOCK: usize = 0x68;

const KEYS: [u64; 2] = [0x80, 0x86];
const RELOAD_NOW: u64 = 1 << 8;
/// CONFIG: the end of the second timer does not reset the board.
const NO_RESET: u64 = 1 << 5;
const ENABLE: u64 = 1 << 1;

pub(super) fn is_running(config: &impl Registers) -> bool {
    config.read(LOCK, Width::W8) & ENABLE != 0 && config.read(CONFIG, Width::W16) & NO_RESET == 0
}

pub(super) fn pet(registers: &impl Registers) {
    write(registers, RELOAD, Width::W16, RELOAD_NOW);
}

pub(super) fn reset(registers: &impl Registers, config: &impl Registers) {
    for timer in [TIMER1, TIMER2] {
        write(registers, timer, Width::W32, 1);
    }
    let how = config.read(CONFIG, Width::W16);
    config.write(CONFIG, Width::W16, how & !NO_RESET);
    let lock = config.read(LOCK, Width::W8);
    config.write(LOCK, Width::W8, lock | ENABLE);
    pet(registers);
}

fn write(registers: &impl Registers, offset: usize, width: Width, value: u64) {
    for key in KEYS {
        registers.write(RELOAD, Width::W8, key);
    }
    registers.write(offset, width, value);
}
