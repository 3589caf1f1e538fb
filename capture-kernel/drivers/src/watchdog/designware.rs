//! Synopsys DesignWare's watchdog, on boards of Rockchip, Intel, StarFive and others.
//!
//! Source: Linux `drivers/watchdog/dw_wdt.c`; the databook of DW_apb_wdt is not public.

use tock_registers::interfaces::{Readable, Writeable};

use crate::registers::{Offset, Registers};

const CONTROL: Offset<u32> = Offset::new(0x0);
/// The time, as a power of two of clock cycles.
const RANGE: Offset<u32> = Offset::new(0x4);
const RESTART: Offset<u32> = Offset::new(0xc);

const ENABLE: u32 = 1 << 0;
/// An interrupt comes first, and the reset only when the time has passed once more.
const INTERRUPT_FIRST: u32 = 1 << 1;
const RESTART_KEY: u32 = 0x76;

pub(super) fn is_running(registers: &impl Registers) -> bool {
    registers.at(CONTROL).get() & ENABLE != 0
}

pub(super) fn pet(registers: &impl Registers) {
    registers.at(RESTART).set(RESTART_KEY);
}

pub(super) fn reset(registers: &impl Registers) {
    // The least, 65,536 cycles; a new range counts from the next restart on.
    registers.at(RANGE).set(0);
    let control = registers.at(CONTROL).get();
    registers
        .at(CONTROL)
        .set(control & !INTERRUPT_FIRST | ENABLE);
    pet(registers);
}
