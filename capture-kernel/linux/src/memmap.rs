//! Where the kernel keeps the `struct page` of a page: the memmap.
//!
//! Three sources:
//! 1. `SYMBOL(vmemmap)`, a value (6.9 and later, d3246b6ee42a):
//!    `vmemmap + page number * SIZE(page)`.
//! 2. `NUMBER(VMEMMAP_START)` (5.18 and later, 2369f171d5c5) with `PHYS_OFFSET`: the kernel's own
//!    definition, `VMEMMAP_START - (PHYS_OFFSET >> page shift) * SIZE(page)`. `memstart_addr` is
//!    signed, so the shift is too.
//! 3. The section table `mem_section`, in one of two forms, told apart by its length:
//!    SPARSEMEM_EXTREME has pointers to pages of entries, the static form is one array of entries.
//!    An entry's `section_mem_map` is the memmap of page number 0 as seen from this section, with
//!    flags in the low bits.
//!
//! The first that there is, is used, unless the section table says otherwise: kernels built
//! without SPARSEMEM_VMEMMAP tell a `VMEMMAP_START` too.
//!
//! Source: `arch/arm64/include/asm/pgtable.h`, `include/linux/mmzone.h`, `mm/sparse.c`.

use kdraw_format::addr::KernelVirtAddr;

use crate::classify::{ClassifyError, Key};
use crate::memory::PhysMem;
use crate::translate::VirtMem;
use crate::vmcoreinfo::Vmcoreinfo;

/// Flags in `section_mem_map`: two at first, five in 6.x, six in the newest. The pointer is
/// aligned to more.
const SECTION_FLAGS: u64 = 0x3f;
/// `SECTION_HAS_MEM_MAP`, since 2.6.
const SECTION_HAS_MEM_MAP: u64 = 2;
/// `SECTION_SIZE_BITS` of kernels that do not tell theirs: before 5.12 it was 30.
const OLD_SECTION_SIZE_BITS: i64 = 30;

/// Where struct pages lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemMap {
    page_size: u64,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// The address of page number 0's, which need not exist.
    Vmemmap(u64),
    Sections(Sections),
}

/// The section table.
#[derive(Clone, Copy, Debug)]
struct Sections {
    /// The array of pointers to roots or, in the static form, of entries.
    table: u64,
    /// Entries that a root holds; `None` in the static form.
    per_root: Option<u64>,
    /// How many sections the table has room for.
    count: u64,
    entry: u64,
    map_offset: u64,
    /// log2 of the pages in a section.
    pages_shift: u32,
}

/// Consecutive struct pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The page that the first belongs to.
    pub(crate) first: u64,
    /// The page after the last.
    pub(crate) end: u64,
    /// The address of page number 0's, seen from here; `None` if these pages have no memmap.
    base: Option<u64>,
}

impl MemMap {
    /// Finds the memmap. `struct_page` is the size of a struct page.
    pub(crate) fn new<M: PhysMem>(
        virt: &VirtMem<M>,
        info: &Vmcoreinfo<'_>,
        struct_page: u64,
    ) -> Result<Self, ClassifyError> {
        let layout = virt.layout();
        let vmemmap = info.symbol("vmemmap").map(|vmemmap| vmemmap.0).or_else(|| {
            let start = info.number("VMEMMAP_START")?.cast_unsigned();
            let first = layout.phys_offset.cast_signed();
            let first = first.checked_shr(layout.page_shift)?.cast_unsigned();
            Some(start.wrapping_sub(first.wrapping_mul(struct_page)))
        });
        let sections = Sections::new(virt, info);
        let source = match (vmemmap, sections) {
            (None, sections) => Source::Sections(sections?),
            (Some(vmemmap), Ok(sections))
                if sections
                    .of_image(virt)
                    .is_some_and(|memmap| memmap != vmemmap) =>
            {
                Source::Sections(sections)
            }
            (Some(vmemmap), _) => Source::Vmemmap(vmemmap),
        };
        Ok(Self {
            page_size: struct_page,
            source,
        })
    }

    /// The stretch that `page` lies in.
    pub(crate) fn stretch<M: PhysMem>(&self, virt: &VirtMem<M>, page: u64) -> Stretch {
        match &self.source {
            Source::Vmemmap(base) => Stretch {
                first: 0,
                end: u64::MAX,
                base: Some(*base),
            },
            Source::Sections(sections) => {
                let number = page.checked_shr(sections.pages_shift).unwrap_or(0);
                let pages = 1u64.checked_shl(sections.pages_shift).unwrap_or(1);
                let first = number.wrapping_mul(pages);
                Stretch {
                    first,
                    end: first.saturating_add(pages),
                    base: sections.memmap(virt, number),
                }
            }
        }
    }

    /// The address of `page`'s struct page in the stretch; `None` if it has no memmap.
    pub(crate) fn address(&self, stretch: &Stretch, page: u64) -> Option<KernelVirtAddr> {
        stretch
            .base
            .map(|base| KernelVirtAddr(base.wrapping_add(page.wrapping_mul(self.page_size))))
    }
}

impl Sections {
    fn new<M: PhysMem>(virt: &VirtMem<M>, info: &Vmcoreinfo<'_>) -> Result<Self, ClassifyError> {
        let layout = virt.layout();
        let missing = |kind, name| ClassifyError::Missing(Key(kind, name));
        let absurd = |kind, name, value| ClassifyError::Absurd(Key(kind, name), value);
        let symbol = info
            .symbol("mem_section")
            .ok_or(missing("SYMBOL", "mem_section"))?;
        let entry = info
            .size("mem_section")
            .ok_or(missing("SIZE", "mem_section"))?;
        if !(8..=256).contains(&entry) {
            return Err(absurd("SIZE", "mem_section", entry.into()));
        }
        let member = "mem_section.section_mem_map";
        let map_offset = info.offset(member).ok_or(missing("OFFSET", member))?;
        if map_offset.checked_add(8).is_none_or(|end| end > entry) {
            return Err(absurd("OFFSET", member, map_offset.into()));
        }
        let bits = |name, found: i64, possible: core::ops::RangeInclusive<u32>| {
            u32::try_from(found)
                .ok()
                .filter(|bits| possible.contains(bits))
                .ok_or(absurd("NUMBER", name, found.into()))
        };
        let name = "SECTION_SIZE_BITS";
        let section = info.number(name).unwrap_or(OLD_SECTION_SIZE_BITS);
        // Sections of 64 MiB to 16 GiB.
        let section_shift = bits(name, section, 26..=34)?;
        let name = "MAX_PHYSMEM_BITS";
        let physical = info.number(name).ok_or(missing("NUMBER", name))?;
        let physical_shift = bits(name, physical, 36..=56)?;
        let count_shift = physical_shift.saturating_sub(section_shift);
        let count = 1u64.checked_shl(count_shift).unwrap_or(0);
        let per_root = 1u64
            .checked_shl(layout.page_shift)
            .unwrap_or(0)
            .checked_div(entry)
            .unwrap_or(0);
        let roots = count.div_ceil(per_root.max(1));
        let length = info.length("mem_section");
        let mut this = Self {
            table: symbol.0,
            per_root: Some(per_root),
            count,
            entry,
            map_offset,
            pages_shift: section_shift.saturating_sub(layout.page_shift),
        };
        if let Some(length) = length.filter(|length| *length != roots) {
            if length != count {
                return Err(absurd("LENGTH", "mem_section", length.into()));
            }
            this.per_root = None;
            return Ok(this);
        }
        // The symbol is the array of roots or, on some kernels, the pointer to it.
        if this.of_image(virt).is_none()
            && let Ok(pointer) = virt.read_u64(symbol)
        {
            this.table = pointer;
        }
        Ok(this)
    }

    /// The memmap of the section that the kernel's image is in; every kernel has it.
    fn of_image<M: PhysMem>(&self, virt: &VirtMem<M>) -> Option<u64> {
        let page = virt
            .layout()
            .root()
            .0
            .checked_shr(virt.layout().page_shift)?;
        self.memmap(virt, page.checked_shr(self.pages_shift)?)
    }

    /// The memmap of a section; `None` if it has none or the table cannot be read.
    fn memmap<M: PhysMem>(&self, virt: &VirtMem<M>, number: u64) -> Option<u64> {
        if number >= self.count {
            return None;
        }
        let (array, index) = match self.per_root {
            None => (self.table, number),
            Some(per_root) => {
                let root = number.checked_div(per_root)?;
                let at = self.table.wrapping_add(root.wrapping_mul(8));
                let pointer = virt.read_u64(KernelVirtAddr(at)).ok()?;
                if pointer == 0 {
                    return None;
                }
                (pointer, number.checked_rem(per_root)?)
            }
        };
        let at = array
            .wrapping_add(index.wrapping_mul(self.entry))
            .wrapping_add(self.map_offset);
        let coded = virt.read_u64(KernelVirtAddr(at)).ok()?;
        (coded & SECTION_HAS_MEM_MAP != 0).then_some(coded & !SECTION_FLAGS)
    }
}
