//! From the dead kernel's jump to Rust: see entry.s.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{Readable as _, TPIDR_EL1};

core::arch::global_asm!(include_str!("entry.s"));

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    fn reset_now() -> !;
    fn park_now() -> !;
    static secondary_boot: u8;
}

/// How the payload found the machine when it was entered.
#[derive(Clone, Copy, Debug)]
pub struct EntryState {
    /// Physical address of the device tree; 0: nobody said.
    pub dtb: u64,
    /// MPIDR_EL1 of the CPU that panicked, and runs the payload.
    pub mpidr: u64,
    /// SCTLR_ELx as the dead kernel left it.
    pub sctlr: u64,
    /// Exception level, 1 or 2.
    pub level: u8,
    /// Whether the translation regime is EL2's own: EL2 without VHE.
    pub el2_regime: bool,
}

static LOAD_OFFSET: AtomicU64 = AtomicU64::new(0);
static EL2_REGIME: AtomicBool = AtomicBool::new(false);

/// Remembers where the image was loaded: physical minus link address, modulo 2^64.
pub fn remember(load_offset: u64, el2_regime: bool) {
    LOAD_OFFSET.store(load_offset, Ordering::Relaxed);
    EL2_REGIME.store(el2_regime, Ordering::Relaxed);
}

/// Whether the payload runs in EL2's own translation regime (EL2 without VHE).
pub fn el2_regime() -> bool {
    EL2_REGIME.load(Ordering::Relaxed)
}

/// The physical address of something in the image, by its link address.
pub fn physical(link_address: usize) -> u64 {
    (link_address as u64).wrapping_add(LOAD_OFFSET.load(Ordering::Relaxed))
}

/// The link address of something in the image, by its physical address.
pub fn linked(physical: u64) -> usize {
    physical.wrapping_sub(LOAD_OFFSET.load(Ordering::Relaxed)) as usize
}

/// First and end link address of the whole image, stacks included.
pub fn image_bounds() -> (usize, usize) {
    (
        (&raw const __image_start).addr(),
        (&raw const __image_end).addr(),
    )
}

/// The first `len` bytes of the image as they stand in memory: as they were loaded, if nothing
/// has written to them. `None` if the image is shorter.
pub fn image_file(len: usize) -> Option<&'static [u8]> {
    let (start, end) = image_bounds();
    if len > end.saturating_sub(start) {
        return None;
    }
    // SAFETY: the link addresses from __image_start to the end of .data are mapped readable by
    // entry.s, a file never reaches beyond .data because the linker script ends it there and
    // what follows up to __data_end is mapped too; .data is only written after the hash check,
    // the slice's only use.
    Some(unsafe { core::slice::from_raw_parts(&raw const __image_start, len) })
}

/// The number of the CPU that runs this: 0 is the one that panicked, the others are what
/// [`secondary_context`] gave them.
pub fn cpu() -> usize {
    TPIDR_EL1.get() as usize
}

/// Where another CPU is to be started, by its physical address.
pub fn secondary_entry() -> u64 {
    physical((&raw const secondary_boot).addr())
}

/// What CPU `number`, from 1 on, must find in x0 when it is started: entry.s has the fields.
pub fn secondary_context(number: u16, level: u8) -> u64 {
    u64::from(number) | u64::from(level) << 16 | u64::from(el2_regime()) << 18
}

/// Stops this CPU for good; not for the first one.
pub fn park() -> ! {
    // SAFETY: park_now expects nothing of its caller, and does not return.
    unsafe { park_now() }
}

/// Resets the machine with nothing but registers; if the firmware does not answer, waits for
/// the watchdog.
pub fn reset_bare() -> ! {
    // SAFETY: reset_now expects nothing of its caller, and does not return.
    unsafe { reset_now() }
}
