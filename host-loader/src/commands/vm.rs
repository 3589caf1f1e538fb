//! `kdraw vm`: what a process had mapped.

use anyhow::{Result, bail};
use kdraw_kernel::task::Task;
use kdraw_kernel::vm::{AddressSpace, Mapping};
use serde::Serialize;

use super::dump_args::{DumpArgs, numbered};
use crate::exit::Verdict;
use crate::inside::readable;
use crate::system::System;

/// List what a process had mapped.
///
/// Of each mapping its `struct vm_area_struct`, first byte and the byte behind its last, access
/// as in /proc/PID/maps, other flags as smaps abbreviates them (gd grows down, lo locked, io a
/// device's memory, pf pages without struct page, dd not in core dumps, ht huge pages, …), and
/// its file, or what it is for. RSS and total are in KiB. Exit code 1 if something is absent.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw vm vmcore 1
  kdraw vm --json vmcore 817")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Number of a task; `kdraw ps` lists them.
    pid: i32,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A process.
#[derive(Serialize)]
struct Process {
    pid: i32,
    comm: String,
    cpu: u32,
    /// Its `struct task_struct`.
    task: u64,
    mm: u64,
    pgd: u64,
    /// KiB; nothing if its counters are absent.
    rss: Option<u64>,
    total: Option<u64>,
    mappings: Vec<Line>,
    /// What could not be read.
    lost: Vec<String>,
}

/// A mapping.
#[derive(Serialize)]
struct Line {
    vma: u64,
    start: u64,
    end: u64,
    access: String,
    /// `vm_flags`.
    flags: u64,
    named_flags: Vec<&'static str>,
    /// Bytes, in the file.
    offset: u64,
    name: String,
}

impl Line {
    fn new(mapping: Mapping) -> Self {
        Self {
            vma: mapping.vma,
            start: mapping.start,
            end: mapping.end,
            access: mapping.access(),
            flags: mapping.flags,
            named_flags: mapping.named_flags(),
            offset: mapping.offset,
            name: mapping.name,
        }
    }
}

impl Process {
    fn new(task: &Task<'_>, space: AddressSpace, page: u64) -> Self {
        let kib = |pages: u64| pages.saturating_mul(page / 1024);
        let (mappings, lost) = readable(space.mappings);
        Self {
            pid: task.pid,
            comm: task.comm.clone(),
            cpu: task.cpu,
            task: task.object.address,
            mm: space.mm,
            pgd: space.pgd,
            rss: task.memory.map(|memory| kib(memory.resident)),
            total: task.memory.map(|memory| kib(memory.total)),
            mappings: mappings.into_iter().map(Line::new).collect(),
            lost,
        }
    }

    fn print(&self) {
        let Self { pid, cpu, comm, .. } = self;
        println!("PID {pid}  CPU {cpu}  {comm}  task {:016x}", self.task);
        let kib = |n: Option<u64>| n.map_or("absent".to_owned(), |n| n.to_string());
        println!(
            "MM {:016x}  PGD {:016x}  RSS {}  TOTAL {}",
            self.mm,
            self.pgd,
            kib(self.rss),
            kib(self.total)
        );
        println!(
            "{:<16}  {:>12} {:>12}  {:<6}  {:<11}  FILE",
            "VMA", "START", "END", "ACCESS", "FLAGS"
        );
        for line in &self.mappings {
            let shown = format!(
                "{:016x}  {:>12x} {:>12x}  {:<6}  {:<11}  {}",
                line.vma,
                line.start,
                line.end,
                line.access,
                line.named_flags.join(" "),
                line.name
            );
            println!("{}", shown.trim_end());
        }
        for lost in &self.lost {
            println!("absent: {lost}");
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, there is no such task, or it is the kernel's own.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let page = kernel.vmcoreinfo().page_size().unwrap_or(4096);
        for task in numbered(kernel, &[args.pid])? {
            let Some(space) = AddressSpace::read(&task.object)? else {
                continue;
            };
            let process = Process::new(&task, space, page);
            if args.json {
                println!("{}", serde_json::to_string_pretty(&process)?);
            } else {
                process.print();
            }
            return Ok(Verdict::from_good(process.lost.is_empty()));
        }
        bail!(
            "task {} maps nothing: it is the kernel's own, or has exited",
            args.pid
        );
    })
}
