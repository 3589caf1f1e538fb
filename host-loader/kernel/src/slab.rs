//! Slab caches (SLUB): which objects the kernel's memory is full of.
//!
//! `slab_caches` heads the list of `struct kmem_cache`. A kernel whose kallsyms has no data does
//! not tell where it is; then the image's data is searched for a list head whose last element is
//! the cache of caches, named `kmem_cache`: it is made first, and the others in front of it.
//!
//! How many slabs and objects there are, each node counts (`CONFIG_SLUB_DEBUG`). Free objects
//! are in slabs on the nodes' lists (`partial`), before 7.0 also in slabs that CPUs keep, and
//! since 6.18 (2d517aa09bbc) in sheaves, which CPUs and nodes (`barn`) have.
//!
//! Source: `mm/slab.h`, `mm/slub.c`, `mm/slab_common.c`.

use kdraw_linux::bytes::u64_at;

use crate::Kernel;
use crate::object::{Error, Object};
use crate::zones::{self, is_kernel_address};

/// The most caches.
const MAX_CACHES: usize = 1 << 16;
/// The most slabs that a CPU keeps.
const MAX_CPU_SLABS: u32 = 1 << 12;
/// Where `kmem_cache_order_objects` has the order (`OO_SHIFT`).
const ORDER_SHIFT: u32 = 16;

/// A slab cache.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Its `struct kmem_cache`.
    pub address: u64,
    /// Its name.
    pub name: String,
    /// Bytes that whoever allocates an object can use.
    pub object_size: u64,
    /// Bytes of a slab.
    pub slab_size: u64,
    /// Slabs; `None` if the kernel does not count them.
    pub slabs: Option<u64>,
    /// Objects that its slabs have room for.
    pub objects: Option<u64>,
    /// Objects in use; `None` also if slabs are absent, or damaged.
    pub in_use: Option<u64>,
}

impl Cache {
    /// Bytes of all its slabs; a little less if one was allocated while memory was short.
    pub fn bytes(&self) -> Option<u64> {
        self.slabs.map(|slabs| slabs.saturating_mul(self.slab_size))
    }
}

/// Reads a cache.
fn cache(cache: &Object<'_>, page: u64) -> Result<Cache, Error> {
    let order = cache.get("oo.x")?.checked_shr(ORDER_SHIFT).unwrap_or(0);
    let order = u32::try_from(order).ok();
    let slab_size = order.and_then(|order| page.checked_shl(order));
    let (nodes, barns) = nodes(cache)?;
    let sum = |member: &str| {
        let mut counts = nodes.iter().map(|node| node.get(member).ok());
        counts.try_fold(0u64, |sum, count| Some(sum.saturating_add(count?)))
    };
    let objects = sum("total_objects");
    let used = |objects: u64| objects.checked_sub(free(cache, &nodes, &barns).ok()?);
    Ok(Cache {
        address: cache.address,
        name: cache.field("name")?.text()?,
        object_size: cache.get("object_size")?,
        slab_size: slab_size.unwrap_or(page),
        slabs: sum("nr_slabs"),
        objects,
        in_use: objects.and_then(used),
    })
}

/// What each node has of a cache, and its full sheaves.
fn nodes<'k>(cache: &Object<'k>) -> Result<(Vec<Object<'k>>, Vec<Object<'k>>), Error> {
    // Since 7.1 both are in a structure of the cache (5ba6bc27b1f9).
    let all = cache.any_field(&["node", "per_node"])?;
    let (mut nodes, mut barns) = (Vec::new(), Vec::new());
    // The array is cut off behind the last node that the machine may have.
    let online = zones::online(cache.kernel()).unwrap_or_else(|| vec![0]);
    for index in online.into_iter().filter(|id| *id < all.count().into()) {
        let one = all.index(index)?;
        let node = match one.has("node") {
            true => one.follow("node")?,
            false => one.pointee()?,
        };
        let with_barn = [Some(one), node].into_iter().flatten();
        for owner in with_barn.filter(|owner| owner.has("barn")) {
            barns.extend(owner.follow("barn")?);
        }
        nodes.extend(node);
    }
    Ok((nodes, barns))
}

/// How many objects are free in the slabs that are on a list or with a CPU, and in sheaves.
fn free(cache: &Object<'_>, nodes: &[Object<'_>], barns: &[Object<'_>]) -> Result<u64, Error> {
    let kernel = cache.kernel();
    // Until 5.16 slabs are `struct page` (d122019bf061).
    let ty = match kernel.types()?.named_struct("slab") {
        Some(_) => "struct slab",
        None => "struct page",
    };
    let in_slab = |slab: &Object<'_>| {
        let used = slab.get("inuse")?;
        Ok::<_, Error>(slab.get("objects")?.saturating_sub(used))
    };
    let mut free = 0u64;
    for node in nodes {
        for slab in node.field("partial")?.list(ty, "slab_list")? {
            free = free.saturating_add(in_slab(&slab?)?);
        }
    }
    for barn in barns {
        let full = barn.field("sheaves_full")?;
        for sheaf in full.list("struct slab_sheaf", "barn_list")? {
            free = free.saturating_add(sheaf?.get("size")?);
        }
    }
    let own = |member| match cache.has(member) {
        true => cache.follow(member),
        false => Ok(None),
    };
    let (slabs, sheaves) = (own("cpu_slab")?, own("cpu_sheaves")?);
    for offset in kernel.per_cpu_offsets().into_iter().flatten() {
        if let Some(own) = sheaves {
            for member in ["main", "spare"] {
                if let Some(sheaf) = own.further(offset).follow(member)? {
                    free = free.saturating_add(sheaf.get("size")?);
                }
            }
        }
        let Some(own) = slabs else { continue };
        let own = own.further(offset);
        if let Some(slab) = own.any_field(&["slab", "page"])?.pointee()? {
            free = free.saturating_add(in_slab(&slab)?);
            free = free.saturating_add(taken(cache, &own, slab.get("objects")?)?);
        }
        let mut next = match own.has("partial") {
            true => own.follow("partial")?,
            false => None,
        };
        for _ in 0..MAX_CPU_SLABS {
            let Some(slab) = next else { break };
            free = free.saturating_add(in_slab(&slab)?);
            next = slab.follow("next")?;
        }
    }
    Ok(free)
}

/// How many free objects a CPU has taken from its slab, which counts them as used.
fn taken(cache: &Object<'_>, own: &Object<'_>, most: u64) -> Result<u64, Error> {
    let kernel = cache.kernel();
    let offset = cache.get("offset")?;
    // `CONFIG_SLAB_FREELIST_HARDENED`: links are mixed with this and with where they are.
    let random = match cache.has("random") {
        true => Some(cache.get("random")?),
        false => None,
    };
    let mut object = own.get("freelist")?;
    let mut count = 0u64;
    while object != 0 && count < most {
        count = count.saturating_add(1);
        let link = object.wrapping_add(offset);
        let next = kernel.read_u64(link)?;
        object = random.map_or(next, |random| next ^ random ^ link.swap_bytes());
    }
    Ok(count)
}

/// Searches the image's data for the head of the list.
fn search(kernel: &Kernel<'_>) -> Result<Option<u64>, Error> {
    let template = kernel.object("struct kmem_cache", 0)?;
    let link = template.field("list")?.address;
    let name = template.field("name")?.address;
    let named = |at: u64| {
        let name = kernel.read_u64(at.wrapping_sub(link).wrapping_add(name));
        kernel.read_text(name.ok()?, 16).ok()
    };
    Ok(kernel.search_image(8, |at, words| {
        let (next, previous) = (u64_at(words, 0)?, u64_at(words, 8)?);
        let fits = is_kernel_address(next)
            && is_kernel_address(previous)
            && kernel.read_u64(next.wrapping_add(8)) == Ok(at)
            && kernel.read_u64(previous) == Ok(at)
            && named(previous).is_some_and(|name| name == "kmem_cache");
        fits.then_some(at)
    }))
}

impl Kernel<'_> {
    /// All slab caches that can be reached, in the order of their list: the newest first.
    ///
    /// # Errors
    /// [`Error`] if the list cannot be found.
    pub fn slab_caches(&self) -> Result<Vec<Cache>, Error> {
        let head = match self.symbol("slab_caches") {
            Some(head) => head,
            None => search(self)?.ok_or_else(|| Error::NoSymbol("slab_caches".into()))?,
        };
        let page = self.vmcoreinfo().page_size().unwrap_or(4096);
        let head = self.object("struct list_head", head)?;
        let list = head.list("struct kmem_cache", "list")?;
        let caches = list.take(MAX_CACHES).map_while(Result::ok);
        Ok(caches
            .filter_map(|found| cache(&found, page).ok())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::tests::Word::{Name, Number};
    use crate::btf::tests::Writer;
    use crate::fake::{Ram, VA, notes, with_types};

    /// A cache with three slabs of four objects: one full, one on the node's list with two in
    /// use, one with a CPU, which has taken all four and used one. `links` lead from the second
    /// object to the third, from there to the fourth, and further.
    fn caches(links: [u64; 3]) -> Vec<Cache> {
        const RANDOM: u64 = 0x1234_5678_9abc_def0;
        let mut types = Writer::new(0, 0);
        let (byte, int) = (types.int("char", 1), types.int("int", 4));
        let long = types.int("long", 8);
        let text = types.pointer(byte);
        let link = types.pointer(0);
        let head = types.structure("list_head", 16, &[("next", link, 0), ("prev", link, 64)]);
        let order = types.structure("kmem_cache_order_objects", 4, &[("x", int, 0)]);
        let node = [
            ("partial", head, 0),
            ("nr_slabs", long, 128),
            ("total_objects", long, 192),
        ];
        let node = types.structure("kmem_cache_node", 32, &node);
        let node = types.pointer(node);
        let nodes = types.array(node, 16);
        let (used, all) = ((16 << 24) | 128, (15 << 24) | 144);
        let slab = [
            [Name("slab_list"), Number(head), Number(0)],
            [Name("inuse"), Number(int), Number(used)],
            [Name("objects"), Number(int), Number(all)],
        ];
        let slab: Vec<_> = slab.into_iter().flatten().collect();
        let slab = types.add("slab", 0x8400_0003, 24, &slab);
        let slab = types.pointer(slab);
        let own = types.structure(
            "kmem_cache_cpu",
            16,
            &[("freelist", long, 0), ("slab", slab, 64)],
        );
        let own = types.pointer(own);
        let cache = [
            ("cpu_slab", own, 0),
            ("oo", order, 64),
            ("object_size", int, 96),
            ("offset", int, 128),
            ("name", text, 192),
            ("list", head, 256),
            ("random", long, 384),
            ("node", nodes, 448),
        ];
        types.structure("kmem_cache", 72, &cache);
        let mut ram = Ram::default();
        let (at, node, name, own, objects) = (0x1000, 0x1100, 0x1200, 0x1300, 0x2000);
        let slab = |used: u64| used | 4 << 16;
        ram.put_words(0x1080, &[VA + at + 32, VA + at + 32]);
        let words = [
            VA + own,
            24 << 32 | 1 << 16,
            8,
            VA + name,
            VA + 0x1080,
            VA + 0x1080,
            RANDOM,
        ];
        ram.put_words(at, &words);
        // What follows belongs to another object.
        ram.put_words(at + 56, &[VA + node, 0x1234_5678]);
        ram.put(name, b"dentry\0");
        ram.put_words(node, &[VA + 0x1400, VA + 0x1400, 3, 12]);
        ram.put_words(0x1400, &[VA + node, VA + node, slab(2)]);
        ram.put_words(own + 0x10, &[VA + objects + 32, VA + 0x1500]);
        ram.put_words(0x1500, &[0, 0, slab(4)]);
        for (place, link) in (1u64..).zip(links) {
            let place = objects + place * 32 + 8;
            ram.put_words(place, &[link ^ RANDOM ^ (VA + place).swap_bytes()]);
        }
        ram.put_words(0x5000, &[0x10]);
        ram.put_words(0x5010, &[1]);
        let symbols = [
            ("slab_caches", 0x1080),
            ("__per_cpu_offset", 0x5000),
            ("nr_cpu_ids", 0x5010),
        ];
        let options = with_types(&mut ram, 0x4_0000, &types, &symbols);
        let notes = notes();
        let kernel = Kernel::open(&ram, &notes, options).unwrap();
        kernel.slab_caches().unwrap()
    }

    #[test]
    fn free_objects_are_counted_wherever_they_wait() {
        let next = |number: u64| VA + 0x2000 + number * 32;
        let found = caches([next(2), next(3), 0]);
        assert_eq!(found.len(), 1);
        let cache = &found[0];
        assert_eq!((cache.name.as_str(), cache.object_size), ("dentry", 24));
        assert_eq!((cache.slabs, cache.bytes()), (Some(3), Some(3 * 8192)));
        assert_eq!((cache.objects, cache.in_use), (Some(12), Some(12 - 2 - 3)));
        let circle = caches([next(2), next(1), 0]);
        assert_eq!(circle[0].in_use, Some(12 - 2 - 4), "as many as a slab has");
        let lost = caches([0x1000, 0, 0]);
        assert_eq!((lost[0].objects, lost[0].in_use), (Some(12), None));
    }
}
