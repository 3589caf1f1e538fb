//! Arm's generic watchdog: two frames, one to control it and one to refresh it. When its time has
//! passed it interrupts, when it has passed once more it resets the board.
//!
//! Sources: Arm Base System Architecture (DEN 0094), section on the generic watchdog; Linux
//! `drivers/watchdog/sbsa_gwdt.c`.

use tock_registers::interfaces::{Readable, Writeable};

use crate::registers::{Offset, Registers};

const REFRESH: Offset<u32> = Offset::new(0x0);
const CONTROL: Offset<u32> = Offset::new(0x0);
const TIME: Offset<u32> = Offset::new(0x8);
/// The upper half of TIME, from revision 1 on.
const TIME_HIGH: Offset<u32> = Offset::new(0xc);
/// Bits 16 to 19: the architecture's revision.
const IDENTIFICATION: Offset<u32> = Offset::new(0xfcc);

const ENABLE: u32 = 1 << 0;

pub(super) fn is_running(control: &impl Registers) -> bool {
    control.at(CONTROL).get() & ENABLE != 0
}

pub(super) fn pet(refresh: &impl Registers) {
    // Whatever is written.
    refresh.at(REFRESH).set(0);
}

pub(super) fn reset(control: &impl Registers) {
    if control.at(IDENTIFICATION).get() >> 16 & 0xf > 0 {
        control.at(TIME_HIGH).set(0);
    }
    control.at(TIME).set(1);
    control.at(CONTROL).set(ENABLE);
}
