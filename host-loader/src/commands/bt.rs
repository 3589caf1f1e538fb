//! `kdraw bt`: the stacks of the crashed kernel's tasks.

use anyhow::Result;
use kdraw_kernel::Kernel;
use kdraw_kernel::task::Task;

use super::dump_args::{DumpArgs, numbered};
use crate::exit::Verdict;
use crate::inside::stacks::{Traced, Tracer};
use crate::system::System;

/// Show who called whom when the kernel crashed.
///
/// Without a PID the stack of the task that panicked; with -a those of all CPUs. Addresses are
/// return addresses, as in the kernel's own traces; `!` marks where an exception interrupted.
/// What the exception was is told in words, if the log tells it. Exit code 1 if a stack ends
/// early, because its memory is damaged or not in the dump.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw bt vmcore
  kdraw bt -a -r vmcore
  kdraw bt vmcore 1 2 817")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Numbers of tasks.
    #[arg(conflicts_with_all = ["all_cpus", "all"])]
    pid: Vec<i32>,
    /// Shows the tasks that the CPUs were running.
    #[arg(short, long)]
    all_cpus: bool,
    /// Shows every task.
    #[arg(long, conflicts_with = "all_cpus")]
    all: bool,
    /// Shows the registers wherever an exception interrupted.
    #[arg(short, long)]
    registers: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or there is no such task.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let traced = traced(args, kernel)?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&traced)?);
        } else {
            for (number, traced) in traced.iter().enumerate() {
                if number > 0 {
                    println!();
                }
                print!("{}", traced.in_words(args.registers));
            }
        }
        Ok(Verdict::from_good(traced.iter().all(Traced::is_whole)))
    })
}

fn traced(args: &Args, kernel: &Kernel<'_>) -> Result<Vec<Traced>> {
    let tracer = Tracer::new(kernel)?;
    if args.pid.is_empty() && !args.all {
        let wanted = tracer
            .cpus
            .iter()
            .filter(|cpu| args.all_cpus || Some(cpu.number) == tracer.panicked);
        return wanted
            .map(|cpu| tracer.trace(&Task::read(cpu.current)?))
            .collect();
    }
    let tasks = match args.all {
        true => kernel.tasks()?,
        false => numbered(kernel, &args.pid)?,
    };
    tasks.iter().map(|task| tracer.trace(task)).collect()
}
