//! `kdraw report`: what happened, on one page.

use std::path::PathBuf;

use anyhow::Result;

use super::dump_args::DumpOptions;
use crate::exit::Verdict;
use crate::report::{Report, text};
use crate::system::System;

/// Tell what happened: the panic in one sentence, and everything that explains it.
///
/// Who did it, the stacks of all CPUs, tasks that wait, memory, the log's end, kernel and machine,
/// modules, and what the capture did. What the dump lacks is told first; the rest is there all the
/// same. Exit code 1 if the report lacks something.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw report vmcore
  kdraw report --json /dev/mmcblk0p4")]
pub struct Args {
    /// A vmcore, the folder of an extracted one, a dump partition's device, its disk, or an image
    /// file of either.
    dump: PathBuf,
    #[command(flatten)]
    options: DumpOptions,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be opened.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let dump = args.options.open(&args.dump, system)?;
    let report = Report::of(&dump, &args.dump, args.options.beside()?);
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", text::page(&report)),
    }
    Ok(Verdict::from_good(report.lacking.is_empty()))
}
