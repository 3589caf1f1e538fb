//! `kdraw bt`: the stacks of the crashed kernel's tasks.

use std::path::PathBuf;

use anyhow::{Result, bail};
use kdraw_kernel::Kernel;

use super::dump_args::{DumpArgs, numbered};
use crate::debug_info::DebugArgs;
use crate::debug_info::sources::Sources;
use crate::exit::Verdict;
use crate::inside::stacks::Traced;
use crate::inside::tracer::{self, Tracer};
use crate::openers::Openers;
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
  kdraw bt -l vmcore                  # with source lines, if debug symbols are installed
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
    /// Shows source files and lines, and inlined functions, by the debug symbols of the kernel and
    /// of its modules.
    #[arg(short, long)]
    lines: bool,
    #[command(flatten)]
    debug: DebugArgs,
    /// The folder with the modules with debug symbols, at any depth; without it the usual places
    /// are searched.
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
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
        let (mut traced, troubles) = traced(args, kernel)?;
        for why in &troubles {
            eprintln!("{why}");
        }
        if args.lines || args.debug.vmlinux.is_some() || args.modules.is_some() {
            let openers = Openers::from_notes(kernel.notes());
            let vmlinux = args.debug.locate(&openers.kernel, system)?;
            let folders = match &args.modules {
                Some(given) => vec![given.clone()],
                None => openers.kernel.module_folders(&system.path("/")),
            };
            let mut sources = Sources::open(&vmlinux, openers.kernel_offset, folders)?;
            for traced in &mut traced {
                traced.add_sources(&mut sources);
            }
            let missing = sources.missing();
            if !missing.is_empty() {
                eprintln!(
                    "no source lines of {}: there is no file with debug symbols of it; name the \
                     folder with --modules",
                    missing.join(", ")
                );
            }
        }
        if args.json {
            println!("{}", serde_json::to_string_pretty(&traced)?);
        } else {
            for (number, traced) in traced.iter().enumerate() {
                if number > 0 {
                    println!();
                }
                print!("{}", traced.in_words(args.registers, usize::MAX));
            }
        }
        let whole = troubles.is_empty() && traced.iter().all(Traced::is_whole);
        Ok(Verdict::from_good(whole))
    })
}

/// The stacks that are wanted, and what of them cannot be had.
fn traced(args: &Args, kernel: &Kernel<'_>) -> Result<(Vec<Traced>, Vec<String>)> {
    let (mut traced, mut troubles) = (Vec::new(), Vec::new());
    if args.pid.is_empty() && !args.all {
        (traced, troubles) = tracer::of_cpus(kernel);
        if !args.all_cpus && traced.iter().any(|traced| traced.panicked) {
            // What is wrong with the others was not asked.
            traced.retain(|traced| traced.panicked);
            troubles.clear();
        } else if !args.all_cpus {
            troubles.push("which CPU panicked is not known: these are all that are".to_owned());
        }
        traced.sort_by_key(|traced| traced.cpu);
    } else {
        let tracer = Tracer::new(kernel).unwrap_or_else(|why| {
            troubles.push(format!("{why:#}"));
            Tracer::of_sleepers(kernel)
        });
        let tasks = match args.all {
            true => kernel.tasks()?,
            false => numbered(kernel, &args.pid)?,
        };
        for task in &tasks {
            match tracer.trace(task) {
                Ok(stack) => traced.push(stack),
                Err(why) => troubles.push(format!("{why:#}")),
            }
        }
    }
    if traced.is_empty() {
        bail!("there is no stack: {}", troubles.join("; "));
    }
    Ok((traced, troubles))
}
