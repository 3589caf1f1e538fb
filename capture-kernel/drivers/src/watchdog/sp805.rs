//! Arm's SP805. When its time has passed it interrupts, when it has passed once more it resets the
//! board. Its registers are locked between uses, as Linux leaves them.
//!
//! Sources: Linux `drivers/watchdog/sp805_wdt.c`; the block's own manual is ARM DDI 0270. That any
//! other value than the key locks: MSP432E4 TRM (SLAU723), WDTLOCK, which has the same block.

use tock_registers::interfaces::{Readable, Writeable};

use crate::registers::{Offset, Registers};

const LOAD: Offset<u32> = Offset::new(0x0);
const CONTROL: Offset<u32> = Offset::new(0x8);
/// Any write clears the interrupt and begins the time anew.
const CLEAR: Offset<u32> = Offset::new(0xc);
const LOCK: Offset<u32> = Offset::new(0xc00);

/// It counts, and interrupts.
const COUNTS: u32 = 1 << 0;
const RESETS: u32 = 1 << 1;
const UNLOCK_KEY: u32 = 0x1acc_e551;

pub(super) fn is_running(registers: &impl Registers) -> bool {
    let running = COUNTS | RESETS;
    registers.at(CONTROL).get() & running == running
}

pub(super) fn pet(registers: &impl Registers) {
    registers.at(LOCK).set(UNLOCK_KEY);
    registers.at(CLEAR).set(1);
    registers.at(LOCK).set(0);
}

pub(super) fn reset(registers: &impl Registers) {
    registers.at(LOCK).set(UNLOCK_KEY);
    // The least that is allowed.
    registers.at(LOAD).set(1);
    registers.at(CONTROL).set(COUNTS | RESETS);
}
