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
    mounts: Vec<Mount>,
    /// What could not be read.
    lost: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the mounts cannot be found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let (mounts, lost) = readable(mounts::read(kernel)?);
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
    let widest = |of: fn(&Mount) -> &str| {
        let widths = shown.mounts.iter().map(|mount| of(mount).chars().count());
        widths.max().unwrap_or(0).max(6)
    };
    let (kind, device) = (widest(|mount| &mount.kind), widest(|mount| &mount.device));
    println!(
        "{:<16}  {:<16}  {:<kind$}  {:<device$}      DIRECTORY",
        "MOUNT", "SUPERBLOCK", "TYPE", "DEVICE"
    );
    for mount in &shown.mounts {
        println!(
            "{:016x}  {:016x}  {:<kind$}  {:<device$}  {}  {}",
            mount.mount,
            mount.superblock,
            mount.kind,
            mount.device,
            if mount.read_only { "ro" } else { "rw" },
            mount.directory
        );
    }
    for lost in &shown.lost {
        println!("absent: {lost}");
    }
}
