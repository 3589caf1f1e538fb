//! Counts what the guest executes between its panic and the reset.
//!
//! QEMU counts instructions with `-icount`, and tells the count by `query-replay`; the time that
//! an idle CPU skips is not in it. Both ends are exact: the guest stands still at the first
//! instruction of `panic()`, by a breakpoint, and again when it has reset the machine.
//!
//! What is left to chance is how often a driver that polls looks at a device before the host has
//! done its request; an interrupt-driven one idles meanwhile.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::qemu::{Debugger, Line, Monitor, Qemu};

/// What `/init` says and does before the guest's program runs: it waits for a line.
pub const SCRIPT: &str =
    "echo \"guest: panic-function $(sed -n 's/ T panic$//p' /proc/kallsyms)\"\nread -r go\n";

/// The count of one run.
#[derive(Default)]
pub struct Count {
    waiting: Option<(Monitor, Debugger, u64)>,
    /// Instructions from the panic to the reset.
    pub counted: Option<u64>,
}

impl Count {
    /// Acts on a line of the guest's console.
    pub fn watch(&mut self, line: &Line, qemu: &mut Qemu, budget: Duration) -> Result<()> {
        if let Some(address) = line.text.strip_prefix("guest: panic-function ") {
            let address = u64::from_str_radix(address.trim(), 16)
                .context("the guest does not know where panic() is")?;
            let monitor = Monitor::connect(qemu)?;
            let mut debugger = Debugger::connect(qemu)?;
            debugger.run_to(address)?;
            qemu.type_text("\n")?;
            self.waiting = Some((monitor, debugger, address));
        } else if line.text.starts_with("guest: panic ") {
            let waiting = self.waiting.take();
            let (mut monitor, mut debugger, address) =
                waiting.context("the guest panics before it told where panic() is")?;
            debugger.reached(address, budget)?;
            let start = monitor.instructions()?;
            debugger.detach()?;
            monitor.wait_for_reset(budget)?;
            self.counted = monitor.instructions()?.checked_sub(start);
            monitor.quit()?;
        }
        Ok(())
    }
}
