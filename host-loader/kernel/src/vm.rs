//! Address spaces: what a process has mapped, as /proc/PID/maps and smaps show it.
//!
//! The mappings are in a maple tree (`mm_mt`, 6.1), before on a list (`mmap`, `vm_next`).
//!
//! Source: `include/linux/mm_types.h`, `include/linux/mm.h`, `fs/proc/task_mmu.c`
//! (`show_map_vma`, `show_smap_vma_flags`).

use crate::Kernel;
use crate::object::{Error, Object};
use crate::path;

/// The most mappings: a process has 65530 unless the limit was raised (`vm.max_map_count`).
const MAX_MAPPINGS: usize = 1 << 20;

/// The longest name that a program gives memory (`ANON_VMA_NAME_MAX_LEN`).
const MAX_ANONYMOUS_NAME: usize = 80;

/// Flags worth a name, as smaps abbreviates them; what `rwxsp` says is not among them, nor is
/// what nearly every mapping has.
const FLAGS: [(u64, &str); 20] = [
    (0x100, "gd"),
    (0x200, "um"),
    (0x400, "pf"),
    (0x1000, "uw"),
    (0x2000, "lo"),
    (0x4000, "io"),
    (0x8000, "sr"),
    (0x1_0000, "rr"),
    (0x2_0000, "dc"),
    (0x4_0000, "de"),
    (0x20_0000, "nr"),
    (0x40_0000, "ht"),
    (0x80_0000, "sf"),
    (0x100_0000, "bt"),
    (0x200_0000, "wf"),
    (0x400_0000, "dd"),
    (0x1000_0000, "mm"),
    (0x2000_0000, "hg"),
    (0x4000_0000, "nh"),
    (0x8000_0000, "mg"),
];

/// A process's address space.
#[derive(Debug)]
pub struct AddressSpace {
    /// Its `struct mm_struct`.
    pub mm: u64,
    /// Its page tables.
    pub pgd: u64,
    /// Its mappings; where they cannot be read there are errors.
    pub mappings: Vec<Result<Mapping, Error>>,
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its `struct vm_area_struct`.
    pub vma: u64,
    /// The first byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// `vm_flags`.
    pub flags: u64,
    /// Where the mapping begins in its file, in bytes; 0 if it is of none.
    pub offset: u64,
    /// The file's path, or what it is for, such as `[stack]`; empty for other memory.
    pub name: String,
}

impl Mapping {
    /// What may be done there, as /proc/PID/maps shows it: `r-xp`.
    pub fn access(&self) -> String {
        let letters = [(1, 'r'), (2, 'w'), (4, 'x')];
        let letter = |(bit, letter)| if self.flags & bit != 0 { letter } else { '-' };
        let shared = if self.flags & 8 != 0 { 's' } else { 'p' };
        letters.into_iter().map(letter).chain([shared]).collect()
    }

    /// Other flags by smaps' abbreviations: `gd` grows down, `lo` locked, …
    pub fn named_flags(&self) -> Vec<&'static str> {
        let set = FLAGS.iter().filter(|(bit, _)| self.flags & bit != 0);
        set.map(|(_, name)| *name).collect()
    }
}

impl AddressSpace {
    /// Reads that of a `struct task_struct`; `None` for the kernel's own threads.
    ///
    /// # Errors
    /// [`Error`] if there is one, and it cannot be read.
    pub fn read(task: &Object<'_>) -> Result<Option<Self>, Error> {
        let Some(mm) = task.follow("mm")? else {
            return Ok(None);
        };
        let namer = Namer::new(&mm);
        let mut mappings = Vec::new();
        let read = |area: &Object<'_>| namer.mapping(area);
        if mm.has("mm_mt") {
            let area = mm.kernel().object("struct vm_area_struct", 0)?;
            for entry in mm.field("mm_mt")?.maple_tree()?.take(MAX_MAPPINGS) {
                mappings.push(entry.and_then(|(_, _, at)| read(&area.moved(at))));
            }
        } else {
            let mut next = mm.follow("mmap");
            while mappings.len() < MAX_MAPPINGS {
                let area = match next {
                    Ok(Some(area)) => area,
                    Ok(None) => break,
                    Err(why) => {
                        mappings.push(Err(why));
                        break;
                    }
                };
                mappings.push(read(&area));
                next = area.follow("vm_next");
            }
        }
        Ok(Some(Self {
            mm: mm.address,
            pgd: mm.get("pgd")?,
            mappings,
        }))
    }
}

/// Knows what parts of an address space are for.
struct Namer {
    heap: Option<(u64, u64)>,
    stack: Option<u64>,
    /// The function that names mappings such as the vDSO.
    special: Option<u64>,
}

impl Namer {
    fn new(mm: &Object<'_>) -> Self {
        let get = |field: &str| mm.get(field).ok();
        Self {
            heap: get("start_brk").zip(get("brk")),
            stack: get("start_stack"),
            special: mm.kernel().symbol("special_mapping_name"),
        }
    }

    fn mapping(&self, area: &Object<'_>) -> Result<Mapping, Error> {
        let (start, end) = (area.get("vm_start")?, area.get("vm_end")?);
        let file = area.follow("vm_file")?;
        Ok(Mapping {
            vma: area.address,
            start,
            end,
            flags: area.get("vm_flags")?,
            offset: match file {
                Some(_) => area
                    .get("vm_pgoff")?
                    .saturating_mul(page_size(area.kernel())),
                None => 0,
            },
            name: match file {
                Some(file) => path::text(&file.field("f_path")?),
                None => self.purpose(area, start, end)?,
            },
        })
    }

    /// What memory of no file is for.
    fn purpose(&self, area: &Object<'_>, start: u64, end: u64) -> Result<String, Error> {
        let named_by = match area.follow("vm_ops")? {
            Some(operations) => operations.get("name")?,
            None => 0,
        };
        if named_by != 0 && Some(named_by) == self.special {
            let mapping = area.get("vm_private_data")?;
            let mapping = area.kernel().object("struct vm_special_mapping", mapping)?;
            return mapping.field("name")?.text();
        }
        let heap = |(first, last): (u64, u64)| start < last && end > first;
        let stack = |at: u64| start <= at && end >= at;
        if self.heap.is_some_and(heap) {
            return Ok("[heap]".to_owned());
        }
        if self.stack.is_some_and(stack) {
            return Ok("[stack]".to_owned());
        }
        // Shares its place with what only mappings of files have (`shared`, until 6.2).
        let named = match area.has("anon_name") {
            true => area.follow("anon_name")?,
            false => None,
        };
        let Some(named) = named else {
            return Ok(String::new());
        };
        let text = named.field("name")?.address;
        let text = area.kernel().read_text(text, MAX_ANONYMOUS_NAME)?;
        Ok(format!("[anon:{text}]"))
    }
}

fn page_size(kernel: &Kernel<'_>) -> u64 {
    kernel.vmcoreinfo().page_size().unwrap_or(4096)
}
