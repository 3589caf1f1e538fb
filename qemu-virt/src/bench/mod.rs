//! `cargo xtask bench`: kdraw and kdump, side by side.
//!
//! Same kernel, same memory, same disk; the rows of a group ([`rows`]) take turns, so that a change
//! of the host's load meets all of them. [`capture`] does one run, [`instructions`] counts one,
//! [`report`] tells what came out, [`plot`] draws it.
//!
//! Host time is what the host's load makes of it: it is measured, never tested. Run it on a machine
//! that does nothing else.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::dist::Dist;
use crate::{e2e, run, setup};

mod capture;
mod host;
mod instructions;
mod plot;
mod report;
mod rows;
mod statistics;

use capture::Prepared;
use report::{Machine, Report, RowReport};
use rows::{Extent, Measure, Row};

/// The CPU that QEMU emulates.
const GUEST_CPU: &str = "cortex-a72";
/// Runs of each of the core rows.
const RUNS: usize = 5;
/// Runs of the programs of this machine.
const HOST_RUNS: usize = 3;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Runs the core rows once only.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Also tries the smallest crash region of kdump, and kdump on two CPUs.
    #[arg(long)]
    full: bool,
    /// Runs only rows whose name contains this text, or one of several (--list shows the names).
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// How often the core rows are run, and others at most [default: 5, with --quick 1].
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Keeps what earlier runs measured of the rows that are not run now.
    #[arg(long)]
    keep: bool,
    /// Where the result goes, as JSON [default: target/bench/bench.json].
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Use the programs in this folder (as `cargo xtask dist` leaves them) and build nothing.
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
    /// Prints the names of the rows and runs none.
    #[arg(long)]
    list: bool,
    /// Writes the table and the plot beside the JSON into docs/bench, and measures nothing.
    #[arg(long)]
    publish: bool,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<()> {
    let out = run::target_dir().join("bench");
    run::create_dir(&out)?;
    let default = out.join("bench.json");
    let json = args.json.as_deref().unwrap_or(&default);
    if args.publish {
        return publish(&Report::read(json)?);
    }
    let rows = chosen(args);
    if args.list {
        let mut names: Vec<String> = rows.iter().map(Row::name).collect();
        names.extend(host_is_chosen(args).then(host::names).into_iter().flatten());
        println!("{}", names.join("\n"));
        return Ok(());
    }
    setup::ensure()?;
    if host_is_chosen(args) {
        setup::ensure_tools()?;
    }
    let dist = e2e::programs(args.dist.as_deref())?;
    let mut report = Report::new(Machine::here()?);
    if args.keep && json.exists() {
        report.rows = Report::read(json)?.rows;
    }
    let started = Instant::now();
    for group in rows.chunk_by(|left, right| left.group == right.group) {
        measure(group, &dist, &out, &mut |row| {
            report.put(row);
            report.write(json)
        })?;
    }
    if host_is_chosen(args) {
        host::measure(&dist, &out, args.runs.unwrap_or(HOST_RUNS), &mut |row| {
            report.put(row);
            report.write(json)
        })?;
    }
    let mut names: Vec<String> = rows::all(Extent::Full, RUNS)
        .iter()
        .map(Row::name)
        .collect();
    names.extend(host::names());
    report.finish(&names);
    report.write(json)?;
    std::fs::write(out.join("bench.md"), report.markdown())?;
    std::fs::write(out.join("bench.svg"), plot::svg(&report))?;
    println!("\n{}", report.table());
    println!(
        "measured in {} min; {} holds bench.json, bench.md and bench.svg; \
         `cargo xtask bench --publish` copies them to docs/bench",
        started.elapsed().as_secs() / 60,
        out.display()
    );
    Ok(())
}

/// Returns the rows that the user wants.
fn chosen(args: &Args) -> Vec<Row> {
    let extent = match (args.quick, args.full) {
        (true, _) => Extent::Quick,
        (_, true) => Extent::Full,
        _ => Extent::Default,
    };
    let runs = args.runs.unwrap_or(if args.quick { 1 } else { RUNS });
    let mut rows = rows::all(extent, runs);
    for row in &mut rows {
        row.runs = row.runs.min(runs);
    }
    rows.retain(|row| {
        let name = row.name();
        args.only.is_empty() || args.only.iter().any(|text| name.contains(text))
    });
    rows
}

/// Tells whether the user wants the rows of this machine's programs: all of them or none.
fn host_is_chosen(args: &Args) -> bool {
    let wanted = |name: &String| args.only.iter().any(|text| name.contains(text));
    match args.only.as_slice() {
        [] => !args.quick,
        _ => host::names().iter().any(wanted),
    }
}

/// Runs the rows of a group in turn; `done` hears of every row after each of its runs.
fn measure(
    rows: &[Row],
    dist: &Dist,
    out: &Path,
    done: &mut dyn FnMut(RowReport) -> Result<()>,
) -> Result<()> {
    let mut prepared = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        println!("{}: preparing", row.name());
        prepared.push(Prepared::new(row, dist, &out.join(format!("row{index}")))?);
    }
    let mut reports: Vec<RowReport> = rows
        .iter()
        .zip(&prepared)
        .map(|(row, prepared)| RowReport::new(row, prepared.kernel()))
        .collect();
    let most = rows.iter().map(|row| row.runs).max().unwrap_or_default();
    for turn in 0..most {
        for ((row, prepared), report) in rows.iter().zip(&prepared).zip(&mut reports) {
            if turn >= row.runs {
                continue;
            }
            let result = prepared.run();
            let shown = match &result {
                Ok(sample) => report::shown(sample),
                Err(error) => format!("failed: {error:#}"),
            };
            println!("{} {}/{}: {shown}", row.name(), turn + 1, row.runs);
            match (result, row.measure) {
                (Ok(sample), Measure::Function) => report.works = Some(!sample.is_empty()),
                (Err(_), Measure::Function) => report.works = Some(false),
                (Ok(sample), _) => report.samples.push(sample),
                // The rest of the message names this machine's folders.
                (Err(error), _) => report.failures.push(error.root_cause().to_string()),
            }
            done(report.clone())?;
        }
    }
    Ok(())
}

/// Writes what was measured into docs/bench.
fn publish(report: &Report) -> Result<()> {
    let folder = run::workspace().join("docs/bench");
    run::create_dir(&folder)?;
    report.write(&folder.join("bench.json"))?;
    for (name, text) in [
        ("README.md", report.markdown()),
        ("bench.svg", plot::svg(report)),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    println!("{}", folder.display());
    Ok(())
}
