//! `kdraw mounts`: what was mounted where.

use anyhow::Result;
use kdraw_kernel::mounts::{self, Mount};
use serde::Serialize;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::inside::readable;
use crate::system::System;

/// List what was mounted where when the kernel crashed.
///
/// In the first process's mount namespace: the `struct mount` and `struct super_block` of each
/// mount, type, device, directory, and whether it is read-only. Exit code 1 if a mount is absent.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw mounts vmcore")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What is shown.
#[derive(Serialize)]
struct Shown {
    mounts: Vec<Line>,
    /// What could not be read.
    lost: Vec<String>,
}

/// A mount.
#[derive(Serialize)]
struct Line {
    mount: u64,
    superblock: u64,
    #[serde(rename = "type")]
    kind: String,
    device: String,
    directory: String,
    read_only: bool,
}

impl Line {
    fn new(mount: Mount) -> Self {
        Self {
            mount: mount.mount,
            superblock: mount.superblock,
            kind: mount.kind,
            device: mount.device,
            directory: mount.directory,
            read_only: mount.read_only,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the mounts cannot be found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let (mounts, lost) = readable(mounts::read(kernel)?, Line::new);
        let shown = Shown { mounts, lost };
        if args.json {
            println!("{}", serde_json::to_string_pretty(&shown)?);
        } else {
            print(&shown);
        }
        Ok(Verdict::from_good(shown.lost.is_empty()))
    })
}

fn print(shown: &Shown) {
    let widest = |of: fn(&Line) -> &str| {
        let widths = shown.mounts.iter().map(|line| of(line).chars().count());
        widths.max().unwrap_or(0).max(6)
    };
    let (kind, device) = (widest(|line| &line.kind), widest(|line| &line.device));
    println!(
        "{:<16}  {:<16}  {:<kind$}  {:<device$}      DIRECTORY",
        "MOUNT", "SUPERBLOCK", "TYPE", "DEVICE"
    );
    for line in &shown.mounts {
        println!(
            "{:016x}  {:016x}  {:<kind$}  {:<device$}  {}  {}",
            line.mount,
            line.superblock,
            line.kind,
            line.device,
            if line.read_only { "ro" } else { "rw" },
            line.directory
        );
    }
    for lost in &shown.lost {
        println!("absent: {lost}");
    }
}
