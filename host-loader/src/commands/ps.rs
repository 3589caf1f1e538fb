//! `kdraw ps`: the tasks that there were.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use kdraw_kernel::Kernel;
use kdraw_kernel::task::Task;
use serde::Serialize;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::system::System;

/// List the tasks of the crashed kernel.
///
/// `>` is in front of those that were running. States are ps(1)'s letters: R running, S sleeping,
/// D uninterruptible, I idle, T stopped, t traced, Z zombie, X dead, P parked. VSZ and RSS are
/// in KiB, TIME is user and system time.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw ps vmcore
  kdraw ps -t vmcore
  kdraw ps --state D vmcore")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Shows who started whom.
    #[arg(short, long)]
    tree: bool,
    /// Only tasks in one of these states, for example `DZ`.
    #[arg(long, value_name = "LETTERS", conflicts_with = "tree")]
    state: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A task.
#[derive(Serialize)]
struct Line {
    running: bool,
    pid: i32,
    /// The process's number; another one for its other threads.
    tgid: i32,
    ppid: i32,
    cpu: u32,
    /// Its `struct task_struct`.
    task: u64,
    state: char,
    /// KiB; nothing for the kernel's own threads.
    vsz: Option<u64>,
    rss: Option<u64>,
    time_ns: u64,
    comm: String,
}

impl Line {
    fn new(task: Task<'_>, page: u64) -> Self {
        let kib = |pages: u64| pages.saturating_mul(page / 1024);
        Self {
            running: task.is_current,
            pid: task.pid,
            tgid: task.tgid,
            ppid: task.ppid,
            cpu: task.cpu,
            task: task.object.address,
            state: task.state,
            vsz: task.memory.map(|memory| kib(memory.total)),
            rss: task.memory.map(|memory| kib(memory.resident)),
            time_ns: task.time_ns,
            comm: task.comm,
        }
    }

    /// The name; the kernel's own in brackets.
    fn name(&self) -> String {
        match self.vsz {
            Some(_) => self.comm.clone(),
            None => format!("[{}]", self.comm),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the tasks cannot be found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let mut lines = lines(kernel)?;
        if let Some(states) = &args.state {
            lines.retain(|line| states.contains(line.state));
        }
        if args.json {
            println!("{}", serde_json::to_string_pretty(&lines)?);
        } else if args.tree {
            tree(&lines);
        } else {
            println!(
                "  {:>7} {:>7} {:>4}  {:<16}  S {:>9} {:>9} {:>11}  COMM",
                "PID", "PPID", "CPU", "TASK", "VSZ", "RSS", "TIME"
            );
            for line in &lines {
                let kib = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
                println!(
                    "{} {:>7} {:>7} {:>4}  {:016x}  {} {:>9} {:>9} {:>11}  {}",
                    if line.running { '>' } else { ' ' },
                    line.pid,
                    line.ppid,
                    line.cpu,
                    line.task,
                    line.state,
                    kib(line.vsz),
                    kib(line.rss),
                    time(line.time_ns),
                    line.name()
                );
            }
        }
        Ok(Verdict::Good)
    })
}

fn lines(kernel: &Kernel<'_>) -> Result<Vec<Line>> {
    let page = kernel.vmcoreinfo().page_size().unwrap_or(4096);
    let tasks = kernel.tasks()?.into_iter();
    Ok(tasks.map(|task| Line::new(task, page)).collect())
}

/// Minutes, seconds and hundredths.
fn time(ns: u64) -> String {
    let hundredths = ns / 10_000_000;
    let seconds = hundredths / 100;
    format!(
        "{}:{:02}.{:02}",
        seconds / 60,
        seconds % 60,
        hundredths % 100
    )
}

/// Prints processes below those that started them, threads left out.
fn tree(lines: &[Line]) {
    let mut children: BTreeMap<i32, Vec<&Line>> = BTreeMap::new();
    let processes = || lines.iter().filter(|line| line.pid == line.tgid);
    let known: BTreeSet<i32> = processes().map(|line| line.pid).collect();
    for line in processes().filter(|line| line.pid != 0) {
        // Those whose parent is not there stand at the root.
        let parent = if known.contains(&line.ppid) {
            line.ppid
        } else {
            0
        };
        children.entry(parent).or_default().push(line);
    }
    let mut threads: BTreeMap<i32, usize> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.pid != 0) {
        let count = threads.entry(line.tgid).or_default();
        *count = count.saturating_add(1);
    }
    let mut shown = BTreeSet::from([0]);
    // A stack, not recursion: a damaged kernel's processes may be each other's parents.
    let mut rest: Vec<(usize, &Line)> = Vec::new();
    let push = |rest: &mut Vec<_>, parent: i32, depth: usize| {
        let below = children.get(&parent).into_iter().flatten().rev();
        rest.extend(below.map(|line| (depth, *line)));
    };
    push(&mut rest, 0, 0);
    while let Some((depth, line)) = rest.pop() {
        if !shown.insert(line.pid) {
            continue;
        }
        let more = match threads.get(&line.pid) {
            Some(count @ 2..) => format!("  {count} threads"),
            _ => String::new(),
        };
        let indent = depth.saturating_mul(2);
        println!(
            "{:indent$}{} {} {}{more}",
            "",
            line.pid,
            line.state,
            line.name()
        );
        push(&mut rest, line.pid, depth.saturating_add(1).min(64));
    }
}
