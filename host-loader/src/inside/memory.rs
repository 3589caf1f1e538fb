//! What memory was used for.

use anyhow::Result;
use kdraw_kernel::Kernel;
use kdraw_kernel::memory_use::MemoryUse;
use kdraw_kernel::slab::Cache;
use kdraw_kernel::task::Task;
use kdraw_kernel::zones::{Node, Zone};
use serde::Serialize;

/// Everything, in bytes; nothing where it is not known.
#[derive(Serialize)]
pub struct MemoryReport {
    /// The kernel's own counters.
    #[serde(flatten)]
    pub usage: MemoryUse,
    /// What of the total is not free.
    pub used: u64,
    /// Zones that have memory.
    pub zones: Vec<ZoneLine>,
    /// Those with the most bytes; nothing if their list cannot be found.
    pub slabs: Option<Vec<SlabLine>>,
    /// Those with the most in RAM; nothing if there are no tasks.
    pub processes: Option<Vec<ProcessLine>>,
}

/// A zone that has memory.
#[derive(Serialize)]
pub struct ZoneLine {
    /// Its node's number.
    pub node: u32,
    /// Its name.
    pub name: String,
    /// Its `struct zone`.
    pub zone: u64,
    /// Its first page frame.
    pub start_pfn: u64,
    /// From its first page to behind its last.
    pub spanned: u64,
    /// Memory.
    pub present: u64,
    /// What the page allocator has.
    pub managed: u64,
    /// Free.
    pub free: Option<u64>,
    /// Below it only urgent allocations get memory.
    pub min: u64,
    /// Below it kswapd wakes.
    pub low: u64,
    /// From it on kswapd sleeps.
    pub high: u64,
}

/// A slab cache.
#[derive(Serialize)]
pub struct SlabLine {
    /// Its name.
    pub name: String,
    /// Its `struct kmem_cache`.
    pub cache: u64,
    /// Bytes of an object.
    pub object_size: u64,
    /// Objects that there is room for.
    pub objects: Option<u64>,
    /// Objects in use.
    pub in_use: Option<u64>,
    /// Slabs.
    pub slabs: Option<u64>,
    /// Bytes of a slab.
    pub slab_size: u64,
    /// Bytes of all slabs.
    pub bytes: Option<u64>,
}

/// A process.
#[derive(Serialize)]
pub struct ProcessLine {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// In RAM.
    pub rss: u64,
    /// Mapped.
    pub vsz: u64,
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

impl From<Cache> for SlabLine {
    fn from(cache: Cache) -> Self {
        Self {
            cache: cache.address,
            object_size: cache.object_size,
            objects: cache.objects,
            in_use: cache.in_use,
            slabs: cache.slabs,
            slab_size: cache.slab_size,
            bytes: cache.bytes(),
            name: cache.name,
        }
    }
}

impl ProcessLine {
    /// A process; nothing for threads, and for the kernel's own.
    fn new(task: Task<'_>, page: u64) -> Option<Self> {
        let memory = task.memory.filter(|_| task.pid == task.tgid)?;
        Some(Self {
            pid: task.pid,
            comm: task.comm,
            rss: memory.resident.saturating_mul(page),
            vsz: memory.total.saturating_mul(page),
        })
    }
}

impl MemoryReport {
    /// Reads it, with so many slab caches and processes.
    ///
    /// # Errors
    /// If the nodes cannot be found.
    pub fn read(kernel: &Kernel<'_>, slabs: usize, processes: usize) -> Result<Self> {
        let page = kernel.vmcoreinfo().page_size().unwrap_or(4096);
        let nodes = kernel.nodes()?;
        let zones = nodes.iter().flat_map(|node| {
            let present = node.zones.iter().filter(|zone| zone.present > 0);
            present.map(|zone| ZoneLine::new(node, zone, page))
        });
        let caches = || {
            let caches = kernel.slab_caches().ok()?.into_iter();
            let mut caches: Vec<_> = caches.map(SlabLine::from).collect();
            caches.sort_by_key(|cache| std::cmp::Reverse(cache.bytes));
            caches.truncate(slabs);
            Some(caches)
        };
        let largest = || {
            let tasks = kernel.tasks().ok()?.into_iter();
            let mut lines: Vec<_> = tasks
                .filter_map(|task| ProcessLine::new(task, page))
                .collect();
            lines.sort_by_key(|line| std::cmp::Reverse(line.rss));
            lines.truncate(processes);
            Some(lines)
        };
        let usage = kernel.memory_use()?;
        Ok(Self {
            used: usage.total.saturating_sub(usage.free),
            usage,
            zones: zones.collect(),
            slabs: caches(),
            processes: largest(),
        })
    }
}
