//! Nodes and zones: the memory that the page allocator hands out, and what it counts.
//!
//! `node_data` has a pointer to each node (without `CONFIG_NUMA` the only one is
//! `contig_page_data`). A kernel whose kallsyms has no data does not tell where they are; then
//! the image's data is searched for pointers to nodes, or for the node itself: each of a node's
//! zones points back to it (`zone_pgdat`), and it has its own number (`node_id`).
//!
//! Counters (`vm_stat`) are added to in two steps: first each CPU counts for itself, up to a
//! threshold. Both are added here, as `zone_page_state_snapshot()` does; crash and
//! /proc/meminfo leave the CPUs' part out.
//!
//! Source: `include/linux/mmzone.h`, `mm/vmstat.c`, `mm/page_alloc.c` (`zone_pcp_init`).

use std::collections::BTreeMap;

use crate::Kernel;
use crate::object::{Error, Object};
use crate::per_cpu;

/// The most nodes: `MAX_NUMNODES` with the largest `CONFIG_NODES_SHIFT`.
const MAX_NODES: u64 = 1 << 10;
/// The most zones of a node, more than any kernel has.
const MAX_ZONES: u32 = 8;

/// What is counted, by the kernel's names, such as `NR_FREE_PAGES`: most are pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, i64>);

impl Counters {
    /// A counter; `None` if this kernel does not count that here. For moments a sum may be
    /// below zero; then it is 0.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0
            .get(name)
            .map(|count| (*count).max(0).cast_unsigned())
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its zones, those without memory too.
    pub zones: Vec<Zone>,
    /// What is counted for the whole node (`node_stat_item`).
    pub counters: Counters,
}

/// A zone: a range of a node's memory that one use of memory is as good as another.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its `struct zone`.
    pub address: u64,
    /// Its name: `DMA`, `Normal`, …
    pub name: String,
    /// The first page frame.
    pub start_pfn: u64,
    /// Bytes from its first page to behind its last.
    pub spanned: u64,
    /// Bytes that are memory.
    pub present: u64,
    /// Bytes that the page allocator has.
    pub managed: u64,
    /// Bytes below which only urgent allocations get memory, below which kswapd wakes, and from
    /// which on it sleeps; without what is added for moments (`watermark_boost`).
    pub watermarks: [u64; 3],
    /// Free bytes on the CPUs' own lists, which do not count as free; `None` if nothing tells.
    pub free_on_cpus: Option<u64>,
    /// What is counted for the zone (`zone_stat_item`).
    pub counters: Counters,
}

/// Whether an address can be the kernel's, with 52 bits of virtual addresses at most.
pub(crate) fn is_kernel_address(address: u64) -> bool {
    address >> 52 == 0xfff && address.is_multiple_of(8)
}

/// A node by its address, if what is there is one.
fn node_at<'k>(kernel: &'k Kernel<'k>, address: u64) -> Result<Option<(u64, Object<'k>)>, Error> {
    let node = kernel.object("struct pglist_data", address)?;
    let zones = node.field("node_zones")?;
    for index in 0..zones.count().min(MAX_ZONES) {
        if zones.index(index.into())?.get("zone_pgdat")? != address {
            return Ok(None);
        }
    }
    let id = node.get("node_id")?;
    Ok((zones.count() > 0 && id < MAX_NODES).then_some((id, node)))
}

/// The addresses of all nodes.
pub(crate) fn find(kernel: &Kernel<'_>) -> Result<Vec<u64>, Error> {
    if let Some(only) = kernel.symbol("contig_page_data") {
        return Ok(vec![only]);
    }
    let lost = || Error::NoSymbol("the list of nodes".into());
    if let Some(table) = kernel.symbol("node_data") {
        let online = online(kernel).ok_or_else(lost)?;
        let nodes = online.into_iter();
        let nodes = nodes.map(|id| kernel.read_u64(table.wrapping_add(id.wrapping_mul(8))));
        return Ok(nodes.collect::<Result<_, _>>()?);
    }
    let template = kernel.object("struct pglist_data", 0)?;
    let first = template.field("node_zones")?.index(0)?;
    let back = first.field("zone_pgdat")?.address;
    let is_node = |at: u64, id: u64| {
        let points_back = kernel.read_u64(at.wrapping_add(back)) == Ok(at);
        let node = || node_at(kernel, at).ok()?;
        points_back && node().is_some_and(|(own, _)| own == id)
    };
    let online = online(kernel);
    let nodes = kernel.search_image(8, |at, words| {
        let word = kdraw_linux::bytes::u64_at(words, 0)?;
        if !is_kernel_address(word) {
            return None;
        }
        // The pointer in the node's first zone, and the node around it, in the image.
        if at.wrapping_sub(back) == word {
            return is_node(word, 0).then(|| vec![word]);
        }
        // The table's first pointer. All nodes that are online are in it.
        let online = online.as_ref()?;
        let first = *online.first()?;
        if !is_node(word, first) {
            return None;
        }
        let nodes = online.iter().map(|id| {
            let distance = id.wrapping_sub(first).wrapping_mul(8);
            let node = kernel.read_u64(at.wrapping_add(distance)).ok()?;
            is_node(node, *id).then_some(node)
        });
        nodes.collect()
    });
    nodes.ok_or_else(lost)
}

/// The numbers of the nodes that are online; VMCOREINFO names the mask.
pub(crate) fn online(kernel: &Kernel<'_>) -> Option<Vec<u64>> {
    let mask = kernel.symbol("node_online_map")?;
    let bytes = kernel.vmcoreinfo().size("nodemask_t")?;
    let mut nodes = Vec::new();
    for word in 0..bytes.min(MAX_NODES / 8).div_ceil(8) {
        let bits = kernel
            .read_u64(mask.wrapping_add(word.wrapping_mul(8)))
            .ok()?;
        let set = (0..64).filter(|bit| bits.checked_shr(*bit).unwrap_or(0) & 1 != 0);
        nodes.extend(set.map(|bit| word.wrapping_mul(64).wrapping_add(bit.into())));
    }
    Some(nodes)
}

/// `__per_cpu_start`, which a kernel without names for its data does not tell: the per-CPU parts
/// of a zone without memory are still those that every zone had while the kernel booted, and
/// BTF says where these are among the variables.
pub(crate) fn per_cpu_start(kernel: &Kernel<'_>) -> Option<u64> {
    const PARTS: [(&str, &str); 2] = [
        ("per_cpu_pageset", "boot_pageset"),
        ("per_cpu_zonestats", "boot_zonestats"),
    ];
    let types = kernel.types().ok()?;
    let start = |zone: &Object<'_>, (member, variable): (&str, &str)| {
        let (place, _) = types.variable(per_cpu::SECTION, variable)?;
        Some(zone.get(member).ok()?.wrapping_sub(place))
    };
    kernel.node_addresses().ok()?.iter().find_map(|node| {
        let node = kernel.object("struct pglist_data", *node).ok()?;
        let zones = node.field("node_zones").ok()?;
        (0..zones.count().min(MAX_ZONES)).find_map(|index| {
            let zone = zones.index(index.into()).ok()?;
            let is_empty = zone.get("present_pages") == Ok(0);
            let [one, other] = PARTS.map(|part| start(&zone, part));
            one.filter(|_| is_empty && one == other)
        })
    })
}

/// Reads counters: the names and numbers of an enumeration, the array at `vm_stat`, and what
/// each CPU has not added yet, at `diff` of its own part.
fn counters(object: &Object<'_>, items: &str, own: &str, diff: &str) -> Result<Counters, Error> {
    let kernel = object.kernel();
    let types = kernel.types()?;
    let items = types
        .find(items)
        .ok_or_else(|| Error::NoType(items.into()))?;
    let sums = object.field("vm_stat")?;
    let own = object.follow(own)?;
    let offsets: Vec<u64> = kernel.per_cpu_offsets().into_iter().flatten().collect();
    let mut counters = BTreeMap::new();
    for (name, index) in types.values(&types.get(items)) {
        let index = u64::try_from(index).unwrap_or(u64::MAX);
        // The last value is the number of the others.
        if index >= sums.count().into() {
            continue;
        }
        let mut count = sums.index(index)?.signed()?;
        for offset in &offsets {
            let Some(own) = own else { continue };
            let parts = own.further(*offset).field(diff)?;
            // A CPU's part that is absent is a small one.
            count = count.saturating_add(parts.index(index)?.signed().unwrap_or(0));
        }
        counters.insert(name.to_owned(), count);
    }
    Ok(Counters(counters))
}

/// Reads a zone.
fn zone(zone: &Object<'_>, page: u64) -> Result<Zone, Error> {
    let bytes = |pages: u64| pages.saturating_mul(page);
    let marks = zone.any_field(&["_watermark", "watermark"])?;
    let mark = |index| Ok::<_, Error>(bytes(marks.index(index)?.number()?));
    let own = zone.field("per_cpu_pageset").and_then(|own| own.pointee());
    let free_on_cpus = || {
        let (own, mut free) = (own.clone().ok()??, 0u64);
        for offset in zone.kernel().per_cpu_offsets()? {
            let count = own.further(offset).get("count").ok()?;
            free = free.saturating_add(count);
        }
        Some(bytes(free))
    };
    // 5.10 has both parts in one.
    let (own, diff) = match zone.has("per_cpu_zonestats") {
        true => ("per_cpu_zonestats", "vm_stat_diff"),
        false => ("pageset", "vm_stat_diff"),
    };
    Ok(Zone {
        address: zone.address,
        name: zone.field("name")?.text()?,
        start_pfn: zone.get("zone_start_pfn")?,
        spanned: bytes(zone.get("spanned_pages")?),
        present: bytes(zone.get("present_pages")?),
        managed: bytes(zone.get("managed_pages")?),
        watermarks: [mark(0)?, mark(1)?, mark(2)?],
        free_on_cpus: free_on_cpus(),
        counters: counters(zone, "enum zone_stat_item", own, diff)?,
    })
}

impl<'k> Kernel<'k> {
    pub(crate) fn node_addresses(&self) -> Result<&[u64], Error> {
        let nodes = self.nodes.get_or_init(|| find(self));
        nodes.as_deref().map_err(Clone::clone)
    }

    /// All nodes that are online, with their zones.
    ///
    /// # Errors
    /// [`Error`] if they cannot be found, or one of them is absent: a sum over the others would
    /// be none.
    pub fn nodes(&'k self) -> Result<Vec<Node>, Error> {
        let page = self.vmcoreinfo().page_size().unwrap_or(4096);
        let nodes = self.node_addresses()?.iter().map(|address| {
            let lost = || Error::NoSymbol(format!("a node at {address:#x}"));
            let (id, node) = node_at(self, *address)?.ok_or_else(lost)?;
            let zones = node.field("node_zones")?;
            let zones = (0..zones.count().min(MAX_ZONES))
                .map(|index| zone(&zones.index(index.into())?, page));
            Ok(Node {
                id: id as u32,
                zones: zones.collect::<Result<_, Error>>()?,
                counters: counters(
                    &node,
                    "enum node_stat_item",
                    "per_cpu_nodestats",
                    "vm_node_stat_diff",
                )?,
            })
        });
        nodes.collect()
    }
}
