//! Whose stack is where, and what is on it.

use anyhow::{Result, bail};
use kdraw_kernel::Kernel;
use kdraw_kernel::exception::Oops;
use kdraw_kernel::stack::Cpu;
use kdraw_kernel::task::Task;
use kdraw_linux::notes::PrStatus;

use super::stacks::Traced;

/// Traces tasks of one kernel.
pub struct Tracer<'k> {
    kernel: &'k Kernel<'k>,
    /// The CPUs when they stopped.
    pub cpus: Vec<Cpu<'k>>,
    /// The one that panicked.
    pub panicked: Option<u32>,
    oops: Oops,
}

impl<'k> Tracer<'k> {
    /// Reads what the CPUs did, and what the log tells of the last exception.
    ///
    /// # Errors
    /// If the kernel does not tell what its CPUs ran.
    pub fn new(kernel: &'k Kernel<'k>) -> Result<Self> {
        let cpus = kernel.cpu_states()?;
        Ok(Self {
            kernel,
            panicked: kernel.panicked_cpu(&cpus),
            oops: last_oops(kernel),
            cpus,
        })
    }

    /// Traces tasks that did not run, of a kernel that does not tell what its CPUs ran.
    pub fn of_sleepers(kernel: &'k Kernel<'k>) -> Self {
        Self {
            kernel,
            panicked: None,
            oops: last_oops(kernel),
            cpus: Vec::new(),
        }
    }

    /// Walks a task's stack.
    ///
    /// # Errors
    /// If nobody knows where it begins.
    pub fn trace(&self, task: &Task<'k>) -> Result<Traced> {
        let running = |cpu: &&Cpu<'_>| cpu.current.address == task.object.address;
        let cpu = self.cpus.iter().find(running);
        let stack = match cpu.map(|cpu| cpu.registers) {
            Some(Some(registers)) => self.kernel.interrupted_stack(registers)?,
            Some(None) => bail!(
                "PID {} was running on CPU {}, which did not stop: nobody knows its registers",
                task.pid,
                task.cpu
            ),
            None if task.is_current => bail!(
                "PID {} was running, and the dump does not tell on which CPU",
                task.pid
            ),
            None => self.kernel.sleeping_stack(&task.object)?,
        };
        let is_panicked = cpu.is_some_and(|cpu| Some(cpu.number) == self.panicked);
        Ok(Traced::new(
            self.kernel,
            task,
            &stack,
            is_panicked,
            cpu,
            &self.oops,
        ))
    }
}

/// The stacks of the CPUs' tasks, that of the one that panicked first; and what of them cannot be
/// had, in words. A kernel without types still has its CPUs' registers.
pub fn of_cpus(kernel: &Kernel<'_>) -> (Vec<Traced>, Vec<String>) {
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

/// What the log tells of the last exception.
pub fn last_oops(kernel: &Kernel<'_>) -> Oops {
    let log = kernel.newest_log();
    Oops::last(log.iter().map(|line| line.text.as_str()))
}
