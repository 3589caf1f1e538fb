//! `kdraw report`: what happened, on one page.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::dump_args::DumpOptions;
use crate::exit::Verdict;
use crate::report::compare::Comparison;
use crate::report::{Report, html, text};
use crate::system::System;

/// Tell what happened: the panic in one sentence, and everything that explains it.
///
/// Who did it, the stacks of all CPUs, tasks that wait, memory, the log's end, kernel and machine,
/// modules, and what the capture did. What the dump lacks is told first; the rest is there all the
/// same. Of several dumps: which have one cause, what they have in common, and what differs.
///
/// Exit code 1 if a report lacks something, or one of several dumps cannot be opened.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw report vmcore
  kdraw report --html report.html /var/crash/20261121T183012Z-5f0c2a77
  kdraw report --json /dev/mmcblk0p4
  kdraw report /var/crash/*")]
pub struct Args {
    /// Vmcores, folders of extracted ones, dump partitions' devices, their disks, or image files of
    /// either.
    #[arg(required = true)]
    dump: Vec<PathBuf>,
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
/// If the dump, or none of several, can be opened.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let report = |path: &PathBuf| -> Result<Report> {
        let dump = args.options.open(path, system)?;
        Ok(Report::of(&dump, path, args.options.beside()?))
    };
    if let [only] = args.dump.as_slice() {
        let report = report(only)?;
        args.show(&report, || html::page(&report), || text::page(&report))?;
        return Ok(Verdict::from_good(report.lacking.is_empty()));
    }
    let mut reports = Vec::new();
    let mut trouble = None;
    for path in &args.dump {
        match report(path) {
            Ok(report) => reports.push(report),
            Err(why) => {
                eprintln!("kdraw: {}: {why:#}", path.display());
                trouble = Some(why);
            }
        }
    }
    if let Some(why) = trouble.take_if(|_| reports.is_empty()) {
        return Err(why.context("none of the dumps can be opened"));
    }
    let compared = Comparison::new(&reports);
    args.show(&compared, || compared.page(), || compared.in_words())?;
    let whole = reports.iter().all(|report| report.lacking.is_empty());
    Ok(Verdict::from_good(whole && trouble.is_none()))
}

impl Args {
    /// Writes the page and prints data or text, as is wanted.
    fn show(
        &self,
        data: &impl serde::Serialize,
        page: impl FnOnce() -> String,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        if let Some(path) = &self.html {
            write(path, &page())?;
        }
        match (self.json, &self.html) {
            (true, _) => println!("{}", serde_json::to_string_pretty(data)?),
            (false, Some(path)) => println!("{}", path.display()),
            (false, None) => print!("{}", text()),
        }
        Ok(())
    }
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
