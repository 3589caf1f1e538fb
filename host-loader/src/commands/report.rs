//! `kdraw report`: what happened, on one page.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::dump_args::DumpOptions;
use crate::exit::Verdict;
use crate::report::{Report, html, text};
use crate::system::System;

/// Tell what happened: the panic in one sentence, and everything that explains it.
///
/// Who did it, the stacks of all CPUs, tasks that wait, memory, the log's end, kernel and machine,
/// modules, and what the capture did. What the dump lacks is told first; the rest is there all the
/// same. Exit code 1 if the report lacks something.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw report vmcore
  kdraw report --html report.html /var/crash/20261121T183012Z-5f0c2a77
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
    /// Writes an HTML page, which needs nothing else; FILE is replaced if it is there. Then the
    /// text is not printed.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be opened.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let dump = args.options.open(&args.dump, system)?;
    let report = Report::of(&dump, &args.dump, args.options.beside()?);
    if let Some(path) = &args.html {
        write(path, &html::page(&report))?;
    }
    match (args.json, &args.html) {
        (true, _) => println!("{}", serde_json::to_string_pretty(&report)?),
        (false, Some(path)) => println!("{}: {}", path.display(), report.sentence()),
        (false, None) => print!("{}", text::page(&report)),
    }
    Ok(Verdict::from_good(report.lacking.is_empty()))
}

/// Writes the page; what it tells of a kernel's memory is its owner's alone.
fn write(path: &Path, page: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = file
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(page.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}
