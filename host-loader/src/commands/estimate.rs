//! `kdraw estimate`: what a dump of this machine would be.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::exit::Verdict as Exit;
use crate::iomem::IoMem;
use crate::live::estimate::{Estimate, Request, Verdict};
use crate::live::outlook::{Outlook, Slot};
use crate::load::elfcorehdr;
use crate::load::options::{DumpOptions, cpus_at_work};
use crate::load::target::Target;
use crate::system::System;

/// Say what a dump of this machine would hold, how large it would be, and whether the filter is
/// right about this kernel.
///
/// Runs the payload's own classifier over the running kernel's memory (/proc/kcore) and compares
/// every page with what the kernel says about it (/proc/kpageflags). Changes nothing; needs root.
/// Pages that differ are looked at three times. If more than one in 10 000 (16 on small machines)
/// would be left out wrongly, the filter must not be used here, and `kdraw load` takes level 0.
/// Above 8 GiB of RAM, evenly spread pieces of 1 GiB are looked at.
///
/// Exit code 0 if the kernel agrees and, with --target, the dump fits; 1 if not, or if nobody
/// could be asked; 3 if the memory cannot be read.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw estimate --target /dev/mmcblk0p4 --level kernel+user")]
pub struct Args {
    /// The signed partition that a dump would go to.
    #[arg(long, value_name = "DEVICE")]
    target: Option<PathBuf>,
    #[command(flatten)]
    dump: DumpOptions,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the running kernel's memory cannot be read, or the target cannot be one.
pub fn run(args: &Args, system: &System) -> Result<Exit> {
    let architecture = system.architecture();
    if architecture != "aarch64" {
        bail!("this machine is {architecture}; the payload runs on arm64 (aarch64) only");
    }
    let iomem = IoMem::parse(&system.text("/proc/iomem")?);
    if iomem.is_hidden() {
        bail!("/proc/iomem shows only zeros for addresses; run kdraw as root");
    }
    let target = args
        .target
        .as_ref()
        .map(|path| Target::inspect(system, path))
        .transpose()?;
    let options = match &target {
        Some(target) => args.dump.on(&target.partition.superblock),
        None => args.dump,
    };
    // A kernel without kexec has no notes; it could not be captured, but estimated.
    let cpus = elfcorehdr::notes(system).map_or(1, |notes| elfcorehdr::cpus(&notes));
    let request = Request {
        options,
        cpus: cpus_at_work(cpus, options.cpus),
        plain: target
            .as_ref()
            .is_some_and(|target| target.partition.superblock.plain),
    };
    let estimate =
        Estimate::of(system, &iomem.evidence(), &request).context("no estimate is possible")?;
    let agrees = estimate.proof.verdict == Verdict::Agrees;
    let outlook = Outlook::new(estimate, target.as_ref().map(Slot::of));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outlook)?);
    } else {
        outlook.print();
    }
    Ok(Exit::from_good(agrees && outlook.fits != Some(false)))
}
