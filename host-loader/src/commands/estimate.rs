//! `kdraw estimate`: what a dump of this machine would be.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::config::ConfigArgs;
use crate::exit::Verdict as Exit;
use crate::iomem::IoMem;
use crate::live::estimate::Verdict;
use crate::load::elfcorehdr;
use crate::load::options::{DumpArgs, Wish};
use crate::load::target::{Destination, Targets};
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
    /// The signed partition that a dump would go to; without it, the one of /etc/kdraw.conf if that
    /// names one.
    #[arg(long, value_name = "DEVICE")]
    target: Option<PathBuf>,
    #[command(flatten)]
    dump: DumpArgs,
    #[command(flatten)]
    config: ConfigArgs,
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
    let config = args.config.read(system)?;
    let mut wish = Wish::configured(&config);
    wish.dump = args.dump.or(&config);
    if let Some(target) = &args.target {
        wish.target = Some(Destination::Partition(target.clone()));
    }
    // Nothing is known of the size of a line.
    let target = wish.target.as_ref();
    let partition = target.filter(|target| target.partition().is_some());
    let partition = partition.map(|target| Targets::inspect(system, target, None));
    let targets = partition.transpose()?;
    // A kernel without kexec has no notes; it could not be captured, but estimated.
    let notes = elfcorehdr::notes(system).unwrap_or_default();
    let outlook = wish
        .outlook(system, &iomem.evidence(), &notes, targets.as_ref())
        .context("no estimate is possible")?;
    let agrees = outlook.estimate.proof.verdict == Verdict::Agrees;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outlook)?);
    } else {
        outlook.print();
    }
    Ok(Exit::from_good(agrees && outlook.fits != Some(false)))
}
