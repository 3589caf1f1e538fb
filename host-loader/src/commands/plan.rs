//! `kdraw plan`: writes the plan for the stock `kexec -p`.

use std::path::PathBuf;

use anyhow::Result;
use kdraw_format::plan::{PLAN_LEN, Seal};

use crate::commands::payload::write_new;
use crate::exit::Verdict;
use crate::load::options::DumpOptions;
use crate::load::segments::{Settings, plan};
use crate::load::target::{Destination, Targets};
use crate::payload::Payload;
use crate::random;
use crate::system::System;
use crate::text;
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
    /// The signed partition that a dump is to go to, or serial:NAME.
    #[arg(long, value_name = "DEVICE|serial:NAME")]
    target: String,
    /// The serial line that it goes over if the partition fails, as serial:ttyAMA0.
    #[arg(long, value_name = "serial:NAME")]
    fallback: Option<String>,
    /// The payload's image, instead of the one inside this program.
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    #[command(flatten)]
    dump: DumpOptions,
    /// Seconds that a capture may take; 0 leaves it to the payload.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    budget: u32,
    /// The file to make; it must not exist.
    #[arg(short, long)]
    output: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the target cannot be one, or the file cannot be made.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let target = args.target.as_str().into();
    let fallback = args.fallback.as_deref().map(Destination::from);
    let targets = Targets::inspect(system, &target, fallback.as_ref())?;
    let (target, serial) = targets.planned();
    let payload = Payload::get(args.payload.as_deref())?;
    let dump = targets.options(args.dump);
    let watchdogs = watchdog::all(system);
    let settings = Settings {
        target,
        serial,
        seed: random::bytes()?,
        budget_s: args.budget,
        created: text::now(),
        hostname: system.hostname(),
        level: dump.level,
        codec: dump.compress.codec(),
        cpus: dump.cpus,
        watchdogs: watchdog::for_plan(&watchdogs),
    };
    // Another loader writes device tree and elfcorehdr: they cannot be sealed here.
    let plan = plan(&payload, Seal::default(), Seal::default(), settings);
    let mut block = [0; PLAN_LEN];
    plan.encode(&mut block);
    write_new(&args.output, &block)?;
    println!(
        "{}: plan for {}, valid with the payload of XXH64 {:016x} only",
        args.output.display(),
        args.target,
        payload.hash()
    );
    watchdog::print(&watchdogs);
    Ok(Verdict::Good)
}
