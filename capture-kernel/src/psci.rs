//! The power firmware: Arm Power State Coordination Interface (DEN 0022).

use kdraw_boards::machine::{Conduit, Machine, Psci};

use crate::{entry, watchdog};

/// The device tree, for whoever resets the machine, and how the firmware is called if there is one.
static FOUND: spin::Once<(&'static [u8], Option<Psci>)> = spin::Once::new();

/// What AFFINITY_INFO says of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs, or is about to.
    On,
    /// It can be started.
    Off,
}

/// A function's negative answer, DEN 0022 section 5.2.2: -2 invalid parameters, -3 denied,
/// -4 already on, -6 internal failure, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub i32);

/// Finds out how the firmware is called: what `tree`, a checked one, says of `machine`.
pub fn find(tree: &'static [u8], machine: &Machine<'_>) {
    FOUND.call_once(|| (tree, machine.psci().ok()));
}

fn firmware() -> Option<&'static Psci> {
    FOUND.get()?.1.as_ref()
}

/// Resets the machine: by the firmware, or a watchdog, as the device tree says, and if neither
/// does, by any firmware that there may be.
pub fn reset() -> ! {
    if let Some((psci, function)) = function(|psci| psci.system_reset) {
        call(psci.conduit, function, [0; 3]);
    }
    let machine = FOUND.get().map(|(tree, _)| Machine::from_dtb(tree));
    watchdog::reset(machine.and_then(Result::ok).as_ref());
    entry::reset_bare()
}

/// Whether the firmware can start CPUs.
pub fn starts_cpus() -> bool {
    firmware().is_some_and(|psci| psci.cpu_on.is_some())
}

/// Asks whether the CPU of an MPIDR affinity is on. Firmware that cannot tell (PSCI 0.1) gets the
/// benefit of the doubt: its CPU_ON says if it is.
///
/// # Errors
/// What the firmware says against the question.
pub fn power(mpidr: u64) -> Result<Power, Refused> {
    let Some((psci, function)) = function(|psci| psci.affinity_info) else {
        return Ok(Power::Off);
    };
    // Affinity level 0: that very CPU.
    match call(psci.conduit, function, [mpidr, 0, 0]) {
        1 => Ok(Power::Off),
        code if code < 0 => Err(Refused(code)),
        _ => Ok(Power::On),
    }
}

/// Starts the CPU of an MPIDR affinity at the physical address `entry`, with `context` in x0.
///
/// # Errors
/// Why the firmware does not.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), Refused> {
    const NOT_SUPPORTED: i32 = -1;
    let found = function(|psci| psci.cpu_on);
    let (psci, function) = found.ok_or(Refused(NOT_SUPPORTED))?;
    match call(psci.conduit, function, [mpidr, entry, context]) {
        0 => Ok(()),
        code => Err(Refused(code)),
    }
}

fn function(which: fn(&Psci) -> Option<u32>) -> Option<(&'static Psci, u32)> {
    let psci = firmware()?;
    Some((psci, which(psci)?))
}

/// Calls a function by the SMC calling convention (DEN 0028). Results are 32 bits wide.
fn call(conduit: Conduit, function: u32, arguments: [u64; 3]) -> i32 {
    let [x1, x2, x3] = arguments;
    let mut x0 = u64::from(function);
    match conduit {
        // SAFETY: a firmware call changes nothing here but the registers that a C function may;
        // the functions of this file do not touch the payload's memory.
        Conduit::Hvc => unsafe {
            core::arch::asm!("hvc #0", inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _,
                inout("x3") x3 => _, clobber_abi("C"));
        },
        // SAFETY: as above.
        Conduit::Smc => unsafe {
            core::arch::asm!("smc #0", inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _,
                inout("x3") x3 => _, clobber_abi("C"));
        },
    }
    x0 as i32
}
