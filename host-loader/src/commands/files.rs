//! `kdraw files`: what tasks had open.

use anyhow::Result;
use kdraw_kernel::files::{Files, OpenFile};
use kdraw_kernel::task::Task;
use serde::Serialize;

use super::dump_args::{DumpArgs, numbered};
use crate::exit::Verdict;
use crate::system::System;

/// List the files that tasks had open.
///
/// With the root and working directory of each task, and of each descriptor its `struct file`,
/// dentry and inode. Paths are as /proc/PID/fd shows them; `…` stands for what the dump does not
/// have. Types are REG, DIR, CHR, BLK, FIFO, SOCK, LNK, or `-` for what has none, such as an
/// eventfd. Exit code 1 if something is absent.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw files vmcore 1
  kdraw files --json vmcore 1 817")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Numbers of tasks; `kdraw ps` lists them.
    #[arg(required = true)]
    pid: Vec<i32>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A task.
#[derive(Serialize)]
struct Holder {
    pid: i32,
    comm: String,
    cpu: u32,
    /// Its `struct task_struct`.
    task: u64,
    root: Option<String>,
    cwd: Option<String>,
    files: Vec<Line>,
    /// What could not be read.
    lost: Vec<String>,
}

/// An open file; parts that are absent are nothing.
#[derive(Serialize)]
struct Line {
    fd: u64,
    file: u64,
    dentry: Option<u64>,
    inode: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<&'static str>,
    path: Option<String>,
}

impl Holder {
    fn new(task: Task<'_>) -> Result<Self> {
        let files = Files::read(&task.object)?;
        let (mut lines, mut lost) = (Vec::new(), Vec::new());
        for open in files.open {
            match open {
                Ok(open) => {
                    if let Err(why) = &open.what {
                        lost.push(format!("descriptor {}: {why}", open.fd));
                    }
                    lines.push(Line::new(open));
                }
                Err(why) => lost.push(format!("descriptors: {why}")),
            }
        }
        Ok(Self {
            pid: task.pid,
            comm: task.comm,
            cpu: task.cpu,
            task: task.object.address,
            root: files.root,
            cwd: files.cwd,
            files: lines,
            lost,
        })
    }

    fn print(&self) {
        let Self { pid, cpu, comm, .. } = self;
        println!("PID {pid}  CPU {cpu}  {comm}  task {:016x}", self.task);
        let directory = |path: &Option<String>| path.clone().unwrap_or_else(|| "-".to_owned());
        println!(
            "ROOT {}  CWD {}",
            directory(&self.root),
            directory(&self.cwd)
        );
        if self.files.is_empty() && self.lost.is_empty() {
            println!("no open files");
        } else {
            println!(
                "{:>4}  {:<16}  {:<16}  {:<16}  {:<4}  PATH",
                "FD", "FILE", "DENTRY", "INODE", "TYPE"
            );
        }
        let address = |at: Option<u64>| at.map_or("absent".to_owned(), |at| format!("{at:016x}"));
        for line in &self.files {
            println!(
                "{:>4}  {:016x}  {:<16}  {:<16}  {:<4}  {}",
                line.fd,
                line.file,
                address(line.dentry),
                address(line.inode),
                line.kind.unwrap_or("?"),
                line.path.as_deref().unwrap_or_default()
            );
        }
        for lost in &self.lost {
            println!("absent: {lost}");
        }
    }
}

impl Line {
    fn new(open: OpenFile) -> Self {
        let what = open.what.ok();
        Self {
            fd: open.fd,
            file: open.file,
            dentry: what.as_ref().map(|what| what.dentry),
            inode: what.as_ref().map(|what| what.inode),
            kind: what.as_ref().map(|what| what.kind),
            path: what.map(|what| what.path),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or there is no such task.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let holders = numbered(kernel, &args.pid)?.into_iter().map(Holder::new);
        let holders: Vec<_> = holders.collect::<Result<_>>()?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&holders)?);
        } else {
            for (number, holder) in holders.iter().enumerate() {
                if number > 0 {
                    println!();
                }
                holder.print();
            }
        }
        let is_whole = holders.iter().all(|holder| holder.lost.is_empty());
        Ok(Verdict::from_good(is_whole))
    })
}
