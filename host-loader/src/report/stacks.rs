//! The stacks of what the CPUs ran.

use kdraw_kernel::Kernel;
use kdraw_kernel::task::Task;
use kdraw_linux::notes::PrStatus;

use crate::inside::stacks::{Traced, Tracer};

/// The stacks of the CPUs' tasks, that of the one that panicked first; and what of them cannot be
/// had, in words. A kernel without types still has its CPUs' registers.
pub fn of(kernel: &Kernel<'_>) -> (Vec<Traced>, Vec<String>) {
    let tracer = match Tracer::new(kernel) {
        Ok(tracer) => tracer,
        Err(why) => {
            let statuses = PrStatus::all(kernel.notes());
            let told = statuses.map(|status| Traced::of_registers(kernel, &status));
            return (told.collect(), vec![format!("{why:#}")]);
        }
    };
    let mut stacks = Vec::new();
    let mut troubles = Vec::new();
    for cpu in &tracer.cpus {
        let traced = Task::read(cpu.current).map_err(anyhow::Error::from);
        match traced.and_then(|task| tracer.trace(&task)) {
            Ok(traced) => {
                if let Some(end) = traced.end_in_words().filter(|_| !traced.is_whole()) {
                    troubles.push(format!("CPU {}: {end}", cpu.number));
                }
                stacks.push(traced);
            }
            Err(why) => troubles.push(format!("CPU {}: {why:#}", cpu.number)),
        }
    }
    stacks.sort_by_key(|traced| (!traced.panicked, traced.cpu));
    (stacks, troubles)
}
