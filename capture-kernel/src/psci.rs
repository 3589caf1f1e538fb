//! The power firmware: Arm Power State Coordination Interface (DEN 0022).

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use kdraw_boards::machine::{Conduit, Machine};

use crate::entry;

static CONDUIT: AtomicU8 = AtomicU8::new(0);
static SYSTEM_RESET: AtomicU32 = AtomicU32::new(0);

/// Remembers how the firmware is called.
pub fn find(machine: &Machine<'_>) {
    if let Ok(psci) = machine.psci() {
        CONDUIT.store(
            match psci.conduit {
                Conduit::Hvc => 1,
                Conduit::Smc => 2,
            },
            Ordering::Relaxed,
        );
        SYSTEM_RESET.store(psci.system_reset.unwrap_or(0), Ordering::Relaxed);
    }
}

/// Resets the machine.
pub fn reset() -> ! {
    let function = u64::from(SYSTEM_RESET.load(Ordering::Relaxed));
    match (CONDUIT.load(Ordering::Relaxed), function) {
        (_, 0) => {}
        // SAFETY: a firmware call changes nothing but x0 to x17 here; SYSTEM_RESET does not
        // return unless it is refused.
        (1, _) => unsafe {
            core::arch::asm!("hvc #0", inout("x0") function => _, clobber_abi("C"));
        },
        // SAFETY: as above.
        (_, _) => unsafe {
            core::arch::asm!("smc #0", inout("x0") function => _, clobber_abi("C"));
        },
    }
    entry::reset_bare()
}
