//! `kdraw mem`: what memory was used for.

use anyhow::Result;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::inside::memory::MemoryReport;
use crate::system::System;
use crate::text;

/// Show what memory was used for when the kernel crashed.
///
/// The totals, as free(1) and crash's `kmem -i` tell them, the zones with their watermarks, the
/// largest slab caches and the largest processes. They are the kernel's own counters; what it does
/// not count, or what cannot be found, is `-`. Lines that are indented are part of the line above
/// them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw mem vmcore
  kdraw mem --slabs 100 vmcore
  kdraw mem --json --slabs 1000 vmcore")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// How many slab caches to list, those with the most memory first.
    #[arg(long, value_name = "N", default_value_t = 10)]
    slabs: usize,
    /// How many processes to list, those with the most memory first.
    #[arg(long, value_name = "N", default_value_t = 5)]
    processes: usize,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the nodes cannot be found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let report = MemoryReport::read(kernel, args.slabs, args.processes)?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(Verdict::Good);
        }
        print_totals(&report);
        print_zones(&report);
        if args.slabs > 0 {
            print_slabs(&report);
        }
        if args.processes > 0 {
            print_processes(&report);
        }
        Ok(Verdict::Good)
    })
}

fn print_totals(report: &MemoryReport) {
    let usage = &report.usage;
    let (ram, huge) = (Some(usage.total), usage.huge_pages);
    let swap = usage.swap.map(|swap| swap.total);
    let lines = [
        ("total", ram, None),
        ("free", Some(usage.free), ram),
        ("used", Some(report.used), ram),
        ("  anonymous", usage.anonymous, ram),
        ("  cached", usage.cached, ram),
        ("    shared", usage.shared, ram),
        ("  buffers", usage.buffers, ram),
        ("  slab, reclaimable", usage.slab_reclaimable, ram),
        ("  slab, unreclaimable", usage.slab_unreclaimable, ram),
        ("  page tables", usage.page_tables, ram),
        ("  kernel stacks", usage.kernel_stacks, ram),
        ("  vmalloc", usage.vmalloc, ram),
        ("  huge pages", huge.map(|huge| huge.total), ram),
        ("    free", huge.map(|huge| huge.free), ram),
        ("  on CPUs' free lists", usage.free_on_cpus, ram),
        ("swap", swap, None),
        ("  free", usage.swap.map(|swap| swap.free), swap),
        ("  also in RAM", usage.swap_cached, swap),
        ("commit limit", usage.commit_limit, None),
        ("  committed", usage.committed, usage.commit_limit),
    ];
    for (name, bytes, whole) in lines {
        let line = format!("{name:<24} {:>11}  {}", size(bytes), share(bytes, whole));
        println!("{}", line.trim_end());
    }
}

fn print_zones(report: &MemoryReport) {
    println!(
        "\n{:<16} {:<8} {:>4} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "ADDRESS", "ZONE", "NODE", "MANAGED", "FREE", "MIN", "LOW", "HIGH"
    );
    for zone in &report.zones {
        println!(
            "{:016x} {:<8} {:>4} {:>11} {:>11} {:>11} {:>11} {:>11}",
            zone.zone,
            zone.name,
            zone.node,
            text::size(zone.managed),
            size(zone.free),
            text::size(zone.min),
            text::size(zone.low),
            text::size(zone.high)
        );
    }
}

fn print_slabs(report: &MemoryReport) {
    let Some(slabs) = &report.slabs else {
        println!("\nthe slab caches cannot be found");
        return;
    };
    let count = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    println!(
        "\n{:<16} {:>11} {:>9} {:>9} {:>7} {:>9}  SLAB CACHE",
        "ADDRESS", "SIZE", "OBJECTS", "IN USE", "SLABS", "OBJECT"
    );
    for slab in slabs {
        println!(
            "{:016x} {:>11} {:>9} {:>9} {:>7} {:>9}  {}",
            slab.cache,
            size(slab.bytes),
            count(slab.objects),
            count(slab.in_use),
            count(slab.slabs),
            text::size(slab.object_size),
            slab.name
        );
    }
}

fn print_processes(report: &MemoryReport) {
    let Some(processes) = &report.processes else {
        println!("\nthe tasks cannot be found");
        return;
    };
    println!("\n{:>7} {:>11} {:>11}  PROCESS", "PID", "RSS", "VSZ");
    for process in processes {
        println!(
            "{:>7} {:>11} {:>11}  {}",
            process.pid,
            text::size(process.rss),
            text::size(process.vsz),
            process.comm
        );
    }
}

/// Bytes, if they are known.
fn size(bytes: Option<u64>) -> String {
    bytes.map_or("-".to_owned(), text::size)
}

/// The part of the whole, in percent.
fn share(bytes: Option<u64>, whole: Option<u64>) -> String {
    match (bytes, whole) {
        (Some(bytes), Some(whole @ 1..)) => {
            format!("{:5.1} %", bytes as f64 * 100.0 / whole as f64)
        }
        _ => String::new(),
    }
}
