//! `kdraw mem`: what memory was used for.

use anyhow::Result;
use kdraw_kernel::memory_use::MemoryUse;
use kdraw_kernel::zones::{Node, Zone};
use serde::Serialize;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::system::System;
use crate::text;

/// Show what memory was used for when the kernel crashed.
///
/// The totals, as free(1) and crash's `kmem -i` tell them, and the zones with their watermarks.
/// They are the kernel's own counters; what it does not count, or what cannot be found, is `-`.
/// Lines that are indented are part of the line above them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw mem vmcore
  kdraw mem --json vmcore")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Everything, in bytes.
#[derive(Serialize)]
struct Report {
    total: u64,
    used: u64,
    free: u64,
    free_on_cpus: Option<u64>,
    anonymous: Option<u64>,
    cached: Option<u64>,
    shared: Option<u64>,
    buffers: Option<u64>,
    swap_cached: Option<u64>,
    slab_reclaimable: Option<u64>,
    slab_unreclaimable: Option<u64>,
    page_tables: Option<u64>,
    kernel_stacks: Option<u64>,
    zones: Vec<ZoneLine>,
}

/// A zone that has memory.
#[derive(Serialize)]
struct ZoneLine {
    node: u32,
    name: String,
    /// Its `struct zone`.
    zone: u64,
    start_pfn: u64,
    spanned: u64,
    present: u64,
    managed: u64,
    free: Option<u64>,
    min: u64,
    low: u64,
    high: u64,
}

impl ZoneLine {
    fn new(node: &Node, zone: &Zone, page: u64) -> Self {
        let [min, low, high] = zone.watermarks;
        let free = zone.counters.get("NR_FREE_PAGES");
        Self {
            node: node.id,
            name: zone.name.clone(),
            zone: zone.address,
            start_pfn: zone.start_pfn,
            spanned: zone.spanned,
            present: zone.present,
            managed: zone.managed,
            free: free.map(|pages| pages.saturating_mul(page)),
            min,
            low,
            high,
        }
    }
}

impl Report {
    fn new(found: MemoryUse, zones: Vec<ZoneLine>) -> Self {
        Self {
            total: found.total,
            used: found.total.saturating_sub(found.free),
            free: found.free,
            free_on_cpus: found.free_on_cpus,
            anonymous: found.anonymous,
            cached: found.cached,
            shared: found.shared,
            buffers: found.buffers,
            swap_cached: found.swap_cached,
            slab_reclaimable: found.slab_reclaimable,
            slab_unreclaimable: found.slab_unreclaimable,
            page_tables: found.page_tables,
            kernel_stacks: found.kernel_stacks,
            zones,
        }
    }

    fn print(&self) {
        let lines = [
            ("total", Some(self.total)),
            ("free", Some(self.free)),
            ("used", Some(self.used)),
            ("  on CPUs' free lists", self.free_on_cpus),
            ("  anonymous", self.anonymous),
            ("  cached", self.cached),
            ("    shared", self.shared),
            ("  buffers", self.buffers),
            ("  slab, reclaimable", self.slab_reclaimable),
            ("  slab, unreclaimable", self.slab_unreclaimable),
            ("  page tables", self.page_tables),
            ("  kernel stacks", self.kernel_stacks),
        ];
        for (name, bytes) in lines {
            println!(
                "{name:<24} {:>11}  {}",
                size(bytes),
                share(bytes, self.total)
            );
        }
        println!(
            "\n{:<4} {:<8} {:>11} {:>11} {:>11} {:>11} {:>11}",
            "NODE", "ZONE", "MANAGED", "FREE", "MIN", "LOW", "HIGH"
        );
        for zone in &self.zones {
            println!(
                "{:<4} {:<8} {:>11} {:>11} {:>11} {:>11} {:>11}",
                zone.node,
                zone.name,
                text::size(zone.managed),
                size(zone.free),
                text::size(zone.min),
                text::size(zone.low),
                text::size(zone.high)
            );
        }
    }
}

/// Bytes, if they are known.
fn size(bytes: Option<u64>) -> String {
    bytes.map_or("-".to_owned(), text::size)
}

/// The part of the whole, in percent.
fn share(bytes: Option<u64>, total: u64) -> String {
    match bytes {
        Some(bytes) if total > 0 => format!("{:5.1} %", bytes as f64 * 100.0 / total as f64),
        _ => String::new(),
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the nodes cannot be found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let page = kernel.vmcoreinfo().page_size().unwrap_or(4096);
        let nodes = kernel.nodes()?;
        let zones = nodes.iter().flat_map(|node| {
            let present = node.zones.iter().filter(|zone| zone.present > 0);
            present.map(|zone| ZoneLine::new(node, zone, page))
        });
        let report = Report::new(kernel.memory_use()?, zones.collect());
        if args.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            report.print();
        }
        Ok(Verdict::Good)
    })
}
