//! `cargo xtask bench`: a full capture by kdraw and by kdump, side by side.
//!
//! Both save every page uncompressed onto the same disk of the same guest; they run in turn, so
//! that a change of the machine's load meets both. Measured is host time from the panic's line on
//! the console to the reset.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::disk::Disk;
use crate::dist::Dist;
use crate::material::Suite;
use crate::qemu::DiskBus;
use crate::scenario::tools::Readers;
use crate::scenario::{
    self, Compress, DumpOptions, KernelChoice, Loader, Panic, Place, Scenario, boot, init, kdump,
};
use crate::{e2e, run, setup};

/// What kdraw has to be faster by.
const FACTOR: f64 = 8.0;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel that panics.
    #[arg(long, value_enum, default_value = "bookworm")]
    kernel: Suite,
    /// RAM of the guest in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    mem: u64,
    /// Pairs of runs.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Use the programs in this folder (as `cargo xtask dist` leaves them) and build nothing.
    #[arg(long, value_name = "DIR")]
    dist: Option<std::path::PathBuf>,
}

/// One capture.
#[derive(Clone, Serialize)]
struct Sample {
    /// Milliseconds from the panic's line to the first sign of the capture kernel's own work:
    /// the payload's first line, or the start of the copy.
    start_ms: f64,
    /// Milliseconds from the panic's line to the reset.
    total_ms: f64,
    /// Bytes of the dump.
    bytes: u64,
}

/// What `result.json` holds.
#[derive(Serialize)]
struct Report {
    kernel: String,
    mem_mib: u64,
    kdump_command: &'static str,
    kdump_reserved: &'static str,
    kdraw_reserved: String,
    kdraw: Vec<Sample>,
    kdump: Vec<Sample>,
    /// Median of kdump's total over median of kdraw's.
    factor: f64,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<()> {
    setup::ensure()?;
    let dist = e2e::programs(args.dist.as_deref())?;
    let out = run::target_dir().join("bench");
    let scenario = scenario(args);
    let (mut kdraw, mut kdumps) = (Vec::new(), Vec::new());
    println!("              panic to start   panic to reset        dump");
    for _ in 0..args.runs {
        kdraw.push(by_kdraw(&scenario, &dist, &out.join("kdraw"))?);
        show("kdraw", kdraw.last());
        kdumps.push(by_kdump(args, &scenario, &dist, &out.join("kdump"))?);
        show("kdump", kdumps.last());
    }
    let factor = median(&kdumps) / median(&kdraw);
    let report = Report {
        kernel: scenario.kernel()?.release,
        mem_mib: args.mem,
        kdump_command: kdump::command(args.kernel),
        kdump_reserved: kdump::RESERVATION,
        kdraw_reserved: scenario.crashkernel,
        kdraw,
        kdump: kdumps,
        factor,
    };
    let path = out.join("result.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")?;
    println!(
        "median: kdraw {:.2} s in {}, kdump {:.2} s in {}: {factor:.1} times faster ({})",
        median(&report.kdraw) / 1000.0,
        report.kdraw_reserved,
        median(&report.kdump) / 1000.0,
        report.kdump_reserved,
        path.display()
    );
    if factor < FACTOR {
        bail!("kdraw is to be {FACTOR} times faster than kdump");
    }
    Ok(())
}

fn scenario(args: &Args) -> Scenario {
    Scenario {
        name: "bench".into(),
        kernel: KernelChoice::Suite(args.kernel),
        mem: args.mem,
        smp: 2,
        crashkernel: "8M".into(),
        cpu: "cortex-a72".into(),
        machine: Vec::new(),
        disk: DiskBus::VirtioMmio,
        fill: args.mem / 2,
        panic: Panic::Sysrq,
        panic_cpu: 0,
        plain: false,
        loader: Loader::Kdraw,
        dump: DumpOptions {
            level: 0,
            compress: Compress::None,
            ..DumpOptions::default()
        },
    }
}

/// Captures with kdraw; every page is compared as in the tests.
fn by_kdraw(scenario: &Scenario, dist: &Dist, out: &Path) -> Result<Sample> {
    let place = Place::new(out, scenario.mem, false)?;
    let outcome = scenario::play(scenario, dist, &place, Readers::None)?;
    if !outcome.passed() {
        outcome.print();
        bail!("the capture by kdraw failed; files in {}", out.display());
    }
    place.drop_large_files()?;
    let time = |name: &str| {
        outcome
            .times_ms
            .get(name)
            .copied()
            .context("a time is missing")
    };
    Ok(Sample {
        start_ms: time("panic_to_payload")?,
        total_ms: time("panic_to_reset")?,
        bytes: outcome.sizes.get("vmcore").copied().unwrap_or_default(),
    })
}

/// Captures with kdump.
fn by_kdump(args: &Args, scenario: &Scenario, dist: &Dist, out: &Path) -> Result<Sample> {
    let mut scenario = scenario.clone();
    scenario.crashkernel = kdump::RESERVATION.into();
    let place = Place::new(out, scenario.mem, false)?;
    let kernel = scenario.kernel()?;
    let spare_mib = scenario.mem + 128;
    let disk = Disk::create(&place.file("dump.img"), 64, scenario.fill / 4, spare_mib)?;
    let initramfs = place.file("initramfs");
    kdump::image(
        &init::prologue(),
        &init::fill_and_panic(&scenario),
        args.kernel,
        dist,
        &kernel,
        &place.file("crash-initramfs"),
    )?
    .write(&initramfs)?;
    let command_line = scenario.command_line();
    let machine = scenario::machine(&scenario, &kernel, &place, &disk, &initramfs, &command_line);
    let budget = scenario::budget(&scenario);
    let boot = boot::run(&machine, &place.console(), budget, &mut |_, _, _| Ok(()))?;
    let dumped = boot
        .find("guest: dumped ")
        .and_then(|line| line.text.split(' ').nth(2));
    let begins = boot.find("guest: dump begins");
    let (Some(panic), Some(begins), Some(dumped), Some(0)) =
        (boot.panic_line(), begins, dumped, boot.steps.get("dump"))
    else {
        bail!("the capture by kdump failed; last: {}", boot.tail());
    };
    place.drop_large_files()?;
    Ok(Sample {
        start_ms: (begins.at - panic.at).as_secs_f64() * 1000.0,
        total_ms: (boot.end - panic.at).as_secs_f64() * 1000.0,
        bytes: dumped.parse()?,
    })
}

fn show(name: &str, sample: Option<&Sample>) {
    if let Some(sample) = sample {
        println!(
            "  {name:<10} {:>12.3} s {:>14.3} s {:>7} MiB",
            sample.start_ms / 1000.0,
            sample.total_ms / 1000.0,
            sample.bytes >> 20
        );
    }
}

/// Returns the median of the totals.
fn median(samples: &[Sample]) -> f64 {
    let mut totals: Vec<f64> = samples.iter().map(|sample| sample.total_ms).collect();
    totals.sort_by(f64::total_cmp);
    let middle = totals.len() / 2;
    match (totals.get(middle), totals.len() % 2) {
        (Some(upper), 0) => (totals[middle - 1] + upper) / 2.0,
        (Some(value), _) => *value,
        (None, _) => f64::NAN,
    }
}
