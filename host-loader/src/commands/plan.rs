//! `kdraw plan`: writes the plan for the stock `kexec -p`.

use std::path::PathBuf;

use anyhow::Result;
use kdraw_format::plan::{PLAN_LEN, Seal};

use crate::commands::payload::write_new;
use crate::exit::Verdict;
use crate::load::options::CaptureArgs;
use crate::load::segments::plan;
use crate::payload::Payload;
use crate::system::System;
use crate::watchdog;

/// Write the plan to a file, for the stock `kexec -p` to load as initrd.
///
/// Does not try the filter on the running kernel, as `load` does; `kdraw estimate` tells whether
/// --level can be trusted.
#[derive(clap::Args)]
#[command(
    after_help = "Example: kdraw plan --target /dev/mmcblk0p4 -o plan.bin && \
                  kexec -p capture.img --initrd=plan.bin"
)]
pub struct Args {
    #[command(flatten)]
    capture: CaptureArgs,
    /// The file to make; it must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the target cannot be one, or the file cannot be made.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let (target, wish) = args.capture.wish(system)?;
    let targets = wish.targets(system, &target)?;
    let payload = Payload::get(args.capture.payload.as_deref())?;
    let level = wish.dump_on(Some(&targets)).level;
    let watchdogs = watchdog::all(system);
    let settings = wish.settings(system, Some(&targets), level, &watchdogs)?;
    // Another loader writes device tree and elfcorehdr: they cannot be sealed here.
    let plan = plan(&payload, Seal::default(), Seal::default(), settings);
    let mut block = [0; PLAN_LEN];
    plan.encode(&mut block);
    write_new(&args.output, &block)?;
    println!(
        "{}: plan for {target}, valid with the payload of XXH64 {:016x} only",
        args.output.display(),
        payload.hash()
    );
    watchdog::print(&watchdogs);
    Ok(Verdict::Good)
}
