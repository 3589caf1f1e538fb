//! What memory was used for.
//!
//! Each number is one that the kernel keeps; nothing is counted page by page, so that a dump
//! without the pages of processes tells the same. What the kernel does not count, or what
//! cannot be found, is `None`.
//!
//! Source: `fs/proc/meminfo.c`, `mm/show_mem.c`, `block/bdev.c` (`nr_blockdev_pages`),
//! Documentation/filesystems/proc.rst.

use serde::Serialize;

use crate::Kernel;
use crate::huge_pages::HugePages;
use crate::object::{Error, Object};
use crate::overcommit::{Swap, Variables};
use crate::zones::Node;

/// The most file systems and the most inodes on one's list.
const MAX_FILE_SYSTEMS: usize = 1 << 16;
const MAX_INODES: usize = 1 << 20;

/// What memory was used for, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// What the page allocator has: RAM without the kernel's image and what was reserved at boot.
    pub total: u64,
    /// Free.
    pub free: u64,
    /// Free, on the CPUs' own lists; not part of [`free`](Self::free).
    pub free_on_cpus: Option<u64>,
    /// Anonymous memory of processes.
    pub anonymous: Option<u64>,
    /// Pages of files, tmpfs and shared memory included; without buffers, if these are known.
    pub cached: Option<u64>,
    /// The part of [`cached`](Self::cached) that no file backs: tmpfs and shared memory.
    pub shared: Option<u64>,
    /// Pages of block devices.
    pub buffers: Option<u64>,
    /// Anonymous pages that are in swap, too. Those that are mapped are
    /// [`anonymous`](Self::anonymous) as well.
    pub swap_cached: Option<u64>,
    /// Slab caches that give memory back when it is short.
    pub slab_reclaimable: Option<u64>,
    /// Those that do not.
    pub slab_unreclaimable: Option<u64>,
    /// Page tables of processes, and of guests.
    pub page_tables: Option<u64>,
    /// The kernel's stacks.
    pub kernel_stacks: Option<u64>,
    /// What vmalloc() has: most of the kernel's stacks, modules and large tables.
    pub vmalloc: Option<u64>,
    /// Huge pages that were set aside (hugetlb).
    pub huge_pages: Option<HugePages>,
    /// Swap.
    pub swap: Option<Swap>,
    /// How much may be promised, if promises are kept (`vm.overcommit_memory` is 2).
    pub commit_limit: Option<u64>,
    /// How much was promised, in bytes of virtual memory.
    pub committed: Option<u64>,
}

/// A class of [`MemoryUse::classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// What the memory is used for.
    pub name: &'static str,
    /// Bytes.
    pub bytes: u64,
}

impl MemoryUse {
    /// Classes of which no two have a page in common, for a picture: together they are
    /// [`total`](Self::total). What is not known is part of the last one.
    pub fn classes(&self) -> Vec<Class> {
        let known = [
            ("anonymous", self.anonymous),
            ("page cache", self.cached),
            ("buffers", self.buffers),
            ("slab, reclaimable", self.slab_reclaimable),
            ("slab, unreclaimable", self.slab_unreclaimable),
            ("page tables", self.page_tables),
            ("kernel stacks", self.kernel_stacks),
            ("huge pages", self.huge_pages.map(|huge| huge.total)),
            ("free", Some(self.free)),
            ("free, on CPUs' lists", self.free_on_cpus),
        ];
        let mut rest = self.total;
        let mut classes = Vec::new();
        for (name, bytes) in known {
            // A damaged kernel's counters may say more than there is.
            let bytes = bytes.unwrap_or(0).min(rest);
            rest = rest.saturating_sub(bytes);
            classes.push(Class { name, bytes });
        }
        classes.push(Class {
            name: "other",
            bytes: rest,
        });
        classes
    }
}

/// The sum of a counter over all nodes and their zones; `None` if nobody counts it. From one
/// kernel to the next, counters moved from zones to nodes.
fn sum(nodes: &[Node], name: &str) -> Option<u64> {
    let of_nodes = nodes.iter().map(|node| &node.counters);
    let zones = nodes.iter().flat_map(|node| &node.zones);
    let all = of_nodes.chain(zones.map(|zone| &zone.counters));
    let counts = all.filter_map(|counters| counters.get(name));
    counts.reduce(u64::saturating_add)
}

impl<'k> Kernel<'k> {
    /// What memory was used for.
    ///
    /// # Errors
    /// [`Error`] if the nodes cannot be found, or one of them is absent in the dump.
    pub fn memory_use(&'k self) -> Result<MemoryUse, Error> {
        let page = self.vmcoreinfo().page_size().unwrap_or(4096);
        let nodes = self.nodes()?;
        let zones = || nodes.iter().flat_map(|node| &node.zones);
        let pages = |name| sum(&nodes, name).map(|pages| pages.saturating_mul(page));
        let less = |all: Option<u64>, part: Option<u64>| {
            all.map(|all| all.saturating_sub(part.unwrap_or(0)))
        };
        let free = pages("NR_FREE_PAGES");
        let free_on_cpus = zones().try_fold(0u64, |sum, zone| {
            zone.free_on_cpus.map(|free| sum.saturating_add(free))
        });
        let tables = [pages("NR_PAGETABLE"), pages("NR_SECONDARY_PAGETABLE")];
        let buffers = self.buffers().ok().map(|pages| pages.saturating_mul(page));
        let swap_cached = pages("NR_SWAPCACHE");
        let total = zones().fold(0, |sum: u64, zone| sum.saturating_add(zone.managed));
        let bytes = |pages: Option<u64>| pages.map(|pages| pages.saturating_mul(page));
        let huge_pages = self.huge_pages().ok();
        let in_pages = |bytes: u64| bytes.checked_div(page).unwrap_or(0);
        let small = huge_pages.map(|huge| in_pages(total.saturating_sub(huge.total)));
        let variables = Variables::find(self, in_pages(total));
        Ok(MemoryUse {
            total,
            free: free.ok_or_else(|| Error::NoSymbol("NR_FREE_PAGES".into()))?,
            free_on_cpus,
            anonymous: pages("NR_ANON_MAPPED"),
            cached: less(less(pages("NR_FILE_PAGES"), swap_cached), buffers),
            shared: pages("NR_SHMEM"),
            buffers,
            swap_cached,
            slab_reclaimable: pages("NR_SLAB_RECLAIMABLE_B"),
            slab_unreclaimable: pages("NR_SLAB_UNRECLAIMABLE_B"),
            page_tables: tables.into_iter().flatten().reduce(u64::saturating_add),
            kernel_stacks: sum(&nodes, "NR_KERNEL_STACK_KB").map(|kib| kib.saturating_mul(1024)),
            // Since 7.0 it is one of the nodes' counters.
            vmalloc: pages("NR_VMALLOC").or_else(|| bytes(variables.vmalloc())),
            huge_pages,
            swap: variables.swap().map(|(total, free)| Swap {
                total: total.saturating_mul(page),
                free: free.saturating_mul(page),
            }),
            commit_limit: bytes(small.and_then(|pages| variables.limit(pages, page))),
            committed: bytes(variables.committed()),
        })
    }

    /// Pages of block devices. Every block device has an inode in the file system `bdev`, which
    /// is on the list of all file systems; the first task's root leads to one of these.
    fn buffers(&'k self) -> Result<u64, Error> {
        const WITHOUT: fn(&str) -> Error = |what| Error::NoSymbol(what.to_owned());
        let files = self.init_task()?.follow("fs")?;
        let files = files.ok_or_else(|| WITHOUT("a root"))?;
        let first = files.follow("root.mnt")?.ok_or_else(|| WITHOUT("a root"))?;
        let first = first.follow("mnt_sb")?.ok_or_else(|| WITHOUT("a root"))?;
        let link = first.field("s_list")?;
        let is_devices = |block: &Object<'_>| {
            let name = || {
                block
                    .follow("s_type")
                    .ok()??
                    .field("name")
                    .ok()?
                    .text()
                    .ok()
            };
            name().is_some_and(|name| name == "bdev")
        };
        // The list's own head is among its elements, seen from one of them; it is in the image
        // and has no name.
        let all = link.cast("struct list_head")?;
        let all = all.list("struct super_block", "s_list")?;
        let mut all = all.take(MAX_FILE_SYSTEMS).map_while(Result::ok);
        let devices = all.find(is_devices).ok_or_else(|| WITHOUT("bdev"))?;
        let inodes = devices.field("s_inodes")?;
        let mut pages = 0u64;
        for inode in inodes.list("struct inode", "i_sb_list")?.take(MAX_INODES) {
            let mapping = inode?.follow("i_mapping")?;
            let mapping = mapping.ok_or_else(|| WITHOUT("a block device's pages"))?;
            pages = pages.saturating_add(mapping.get("nrpages")?);
        }
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::tests::Writer;
    use crate::fake::{Ram, VA, notes, with_types};

    #[test]
    fn classes_are_the_total_whatever_was_counted() {
        let mut found = MemoryUse {
            total: 1000,
            free: 400,
            free_on_cpus: None,
            anonymous: Some(300),
            cached: Some(100),
            shared: Some(50),
            buffers: Some(10),
            swap_cached: Some(5),
            slab_reclaimable: Some(20),
            slab_unreclaimable: Some(30),
            page_tables: None,
            kernel_stacks: Some(40),
            vmalloc: Some(500),
            huge_pages: None,
            swap: None,
            commit_limit: None,
            committed: None,
        };
        let sum =
            |found: &MemoryUse| -> u64 { found.classes().iter().map(|class| class.bytes).sum() };
        let last = |found: &MemoryUse| found.classes().last().map(|class| class.bytes);
        assert_eq!((sum(&found), last(&found)), (1000, Some(100)));
        found.anonymous = Some(u64::MAX);
        assert_eq!((sum(&found), last(&found)), (1000, Some(0)));
    }

    /// A kernel of one node with one zone, at 0x1000, that counts little; two CPUs.
    fn small(present: bool) -> Result<MemoryUse, Error> {
        let mut types = Writer::new(0, 0);
        let (byte, int) = (types.int("signed char", 1), types.int("int", 4));
        let long = types.int("long", 8);
        let [bytes, longs] = [byte, long].map(|of| types.array(of, 3));
        let text = types.pointer(byte);
        let own = types.structure(
            "per_cpu",
            16,
            &[("count", int, 0), ("vm_stat_diff", bytes, 64)],
        );
        let of_node = types.structure("per_cpu_nodestat", 8, &[("vm_node_stat_diff", bytes, 0)]);
        let [own, of_node] = [own, of_node].map(|to| types.pointer(to));
        let zone = [
            ("_watermark", longs, 0),
            ("zone_pgdat", long, 192),
            ("per_cpu_pageset", own, 256),
            ("per_cpu_zonestats", own, 320),
            ("zone_start_pfn", long, 384),
            ("managed_pages", long, 448),
            ("spanned_pages", long, 512),
            ("present_pages", long, 576),
            ("name", text, 640),
            ("vm_stat", longs, 704),
        ];
        let zone = types.structure("zone", 112, &zone);
        let zones = types.array(zone, 1);
        let node = [
            ("node_zones", zones, 0),
            ("node_id", int, 896),
            ("per_cpu_nodestats", of_node, 960),
            ("vm_stat", longs, 1024),
        ];
        types.structure("pglist_data", 152, &node);
        let count = "NR_VM_ZONE_STAT_ITEMS";
        types.enumeration(
            "zone_stat_item",
            &["NR_FREE_PAGES", "NR_MLOCK", "NR_X", count],
        );
        let counted = ["NR_ANON_MAPPED", "NR_KERNEL_STACK_KB", "NR_SHMEM"];
        types.enumeration("node_stat_item", &counted);
        let mut ram = Ram::default();
        let (at, name, own, of_node) = (0x1000, VA + 0x2000, 0x3000, 0x4000);
        if present {
            let zone = [
                10,
                20,
                30,
                VA + at,
                VA + own,
                VA + own,
                0,
                1000,
                1024,
                1024,
                name,
            ];
            ram.put_words(at, &zone);
            ram.put_words(at + 88, &[500, 0, 0, 0, VA + of_node, 300, 64]);
            // Nobody has added the last counter yet; one CPU has more taken than there was.
            ram.put_words(at + 144, &[0]);
        }
        ram.put(0x2000, b"Normal\0");
        for (cpu, free) in [(0x100, -3i8), (0x200, 5)] {
            ram.put(
                own + cpu,
                &[7, 0, 0, 0, 0, 0, 0, 0, free.cast_unsigned(), 0, 0],
            );
            ram.put(of_node + cpu, &[1, 0, 0xff]);
        }
        ram.put_words(0x5000, &[0x100, 0x200]);
        ram.put_words(0x5010, &[2]);
        let symbols = [
            ("contig_page_data", at),
            ("__per_cpu_offset", 0x5000),
            ("nr_cpu_ids", 0x5010),
        ];
        let options = with_types(&mut ram, 0x4_0000, &types, &symbols);
        let notes = notes();
        let kernel = Kernel::open(&ram, &notes, options).unwrap();
        kernel.memory_use()
    }

    #[test]
    fn counters_are_summed_and_what_is_not_counted_is_unknown() {
        let found = small(true).unwrap();
        assert_eq!(found.total, 1000 * 4096);
        assert_eq!(found.free, 502 * 4096, "with what the CPUs had not added");
        assert_eq!(found.free_on_cpus, Some(14 * 4096));
        assert_eq!(found.anonymous, Some(302 * 4096));
        assert_eq!(found.kernel_stacks, Some(64 << 10));
        assert_eq!(found.shared, Some(0), "below zero for a moment");
        assert_eq!(
            (found.cached, found.buffers, found.swap),
            (None, None, None)
        );
        assert_eq!(found.committed, None);
        let lost = small(false);
        assert!(matches!(lost, Err(Error::Memory(_))), "{lost:?}");
    }
}
