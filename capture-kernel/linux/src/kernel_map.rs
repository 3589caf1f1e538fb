//! What the kernel maps, by its page tables: the tables themselves, the image, the vmalloc range.
//!
//! For the order in which a dump is written, not for what is in it: a table that cannot be read
//! is passed over and counted. Nothing is allocated; a walk holds one cache line of descriptors
//! per level and can be left and taken up again between any two items.
//!
//! Bounds: never deeper than the address space has levels, and never more tables than
//! [`table_limit`], so tables that point to themselves end, too. Consecutive descriptors of the
//! same table are followed once (KASAN's early shadow maps one table all over its range).
//!
//! Source: Arm ARM D8.3 (VMSAv8-64 descriptors, AP\[2\], PXN, and their table forms);
//! `arch/arm64/include/asm/pgtable-hwdef.h`; the linear map forbids execution in its tables since
//! 87143f404f33.

use kdraw_format::addr::{KernelVirtAddr, PhysAddr};

use crate::layout::{KernelLayout, MAX_IMAGE};
use crate::memory::PhysMem;
use crate::translate::{Mapping, Tables, VirtMem};
use crate::vmcoreinfo::Vmcoreinfo;

/// `AP[2]`: read-only.
const READ_ONLY: u64 = 1 << 7;
/// `PXN`: not executable by the kernel.
const NOT_EXECUTABLE: u64 = 1 << 53;
/// `APTable[1]`: read-only, all below.
const TABLE_READ_ONLY: u64 = 1 << 62;
/// `PXNTable`: not executable, all below.
const TABLE_NOT_EXECUTABLE: u64 = 1 << 59;
/// Descriptors read at once: 64 bytes.
const LINE: usize = 8;
/// A descriptor's place in its line, as bits of its number.
const IN_LINE: u64 = 7;
/// The most levels of page tables that arm64 has.
const MAX_LEVELS: usize = 5;
/// Before `_text` lies up to this much of the image's mapping, on old kernels.
const BEFORE_STEXT: u64 = 2 << 20;

/// Kernel virtual addresses, both ends inclusive: the last page of the address space is one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtRange {
    /// The first byte.
    pub first: KernelVirtAddr,
    /// The last byte.
    pub last: KernelVirtAddr,
}

impl VirtRange {
    /// The whole kernel half.
    pub const ALL: Self = Self {
        first: KernelVirtAddr(0),
        last: KernelVirtAddr(u64::MAX),
    };

    /// `VMALLOC_START` to `VMALLOC_END` (kernels since 5.18 tell them): stacks, per-CPU chunks,
    /// modules' data, devices' registers; and on most kernels the image, see
    /// [`Leaf::is_image`].
    pub fn vmalloc(info: &Vmcoreinfo<'_>) -> Option<Self> {
        let first = info.number("VMALLOC_START")?.cast_unsigned();
        let end = info.number("VMALLOC_END")?.cast_unsigned();
        (first < end).then_some(Self {
            first: KernelVirtAddr(first),
            last: KernelVirtAddr(end.saturating_sub(1)),
        })
    }

    /// Where the image is.
    pub fn image(layout: &KernelLayout) -> Self {
        let first = layout.stext.0.saturating_sub(BEFORE_STEXT);
        Self {
            first: KernelVirtAddr(first),
            last: KernelVirtAddr(first.saturating_add(MAX_IMAGE)),
        }
    }
}

/// What the kernel may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// It may write.
    pub writable: bool,
    /// It may execute.
    pub executable: bool,
}

/// A page or block that the kernel maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where.
    pub mapping: Mapping,
    /// How.
    pub permissions: Permissions,
}

/// The parts of a kernel image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePart {
    /// Writable: data, bss.
    Data,
    /// Read-only and not executable: rodata, the page tables of the kernel.
    ReadOnly,
    /// Executable.
    Text,
}

impl Leaf {
    /// Whether it is mapped at the image's distance.
    pub fn is_image(&self, layout: &KernelLayout) -> bool {
        let Mapping { va, pa, .. } = self.mapping;
        va.0.wrapping_sub(pa.0) == layout.kimage_voffset
    }

    /// The part of the image that it is, if it is in the image.
    pub const fn part(&self) -> ImagePart {
        match self.permissions {
            Permissions {
                executable: true, ..
            } => ImagePart::Text,
            Permissions { writable: true, .. } => ImagePart::Data,
            Permissions { .. } => ImagePart::ReadOnly,
        }
    }
}

/// How many tables a walk follows at most, on a machine with `ram` bytes: twice what maps all of
/// it in pages, and some for what is mapped sparsely.
pub fn table_limit(layout: &KernelLayout, ram: u64) -> u64 {
    let pages = ram.checked_shr(layout.page_shift).unwrap_or(0);
    let tables = pages.checked_shr(layout.page_shift.saturating_sub(3));
    tables.unwrap_or(0).saturating_mul(2).saturating_add(4096)
}

/// A table in the path to where a walk is.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    table: u64,
    /// The address of its first descriptor's mapping.
    va: u64,
    /// The next descriptor, and the last.
    next: u64,
    last: u64,
    /// What the tables above forbid.
    forbidden: u64,
    /// The table that the descriptor before led to.
    below: Option<u64>,
    /// Descriptors, from the number on that `line_at` says.
    line: [u64; LINE],
    line_at: Option<u64>,
}

/// What a walk meets.
enum Node {
    Table(PhysAddr),
    Leaf(Leaf),
}

/// A walk down the page tables of a range.
#[derive(Debug)]
struct Walk<'a, M> {
    virt: &'a VirtMem<M>,
    tables: Tables,
    range: VirtRange,
    /// From the root down; the last `depth` of them are in use.
    path: [Step; MAX_LEVELS],
    depth: usize,
    /// Tables that may still be followed.
    left: u64,
    /// Whether the last tables' descriptors are read.
    leaves: bool,
    unreadable: u64,
}

impl<'a, M: PhysMem> Walk<'a, M> {
    fn new(virt: &'a VirtMem<M>, range: VirtRange, limit: u64, leaves: bool) -> Self {
        let tables = Tables::of(virt.layout());
        let mut this = Self {
            virt,
            tables,
            range,
            path: Default::default(),
            depth: 0,
            left: limit,
            leaves,
            unreadable: 0,
        };
        let lowest = tables.lowest_address();
        this.enter(virt.layout().root().0, lowest, tables.va_bits, 0);
        this
    }

    /// Goes down into a table whose mappings begin at `va`; it resolves addresses of `width` bits.
    fn enter(&mut self, table: u64, va: u64, width: u32, forbidden: u64) {
        let level = self.tables.levels.saturating_sub(self.level_index());
        let shift = self.tables.level_shift(level);
        let span = u64::MAX.checked_shl(width).map_or(u64::MAX, |high| !high);
        let first = self.range.first.0.max(va);
        let last = self.range.last.0.min(va.saturating_add(span));
        if first > last {
            return;
        }
        let number = |at: u64| at.wrapping_sub(va).checked_shr(shift).unwrap_or(0);
        if let Some(step) = self.path.get_mut(self.depth) {
            *step = Step {
                table,
                va,
                next: number(first),
                last: number(last),
                forbidden,
                ..Step::default()
            };
            self.depth = self.depth.saturating_add(1);
        }
    }

    fn level_index(&self) -> u32 {
        u32::try_from(self.depth).unwrap_or(u32::MAX)
    }

    fn next(&mut self) -> Option<Node> {
        loop {
            let at = self.depth.checked_sub(1)?;
            // The root is at depth 1 and of the highest level.
            let level = self
                .tables
                .levels
                .saturating_add(1)
                .saturating_sub(self.level_index());
            let step = self.path.get_mut(at)?;
            if step.next > step.last {
                self.depth = at;
                continue;
            }
            let number = step.next;
            step.next = number.saturating_add(1);
            let Some(descriptor) = step.descriptor(self.virt.memory(), number) else {
                self.unreadable = self.unreadable.saturating_add(1);
                // Nothing of this line, then.
                step.next = (number | IN_LINE).saturating_add(1);
                continue;
            };
            let shift = self.tables.level_shift(level);
            let va = step.va.wrapping_add(number.checked_shl(shift).unwrap_or(0));
            let pa = self.tables.address(descriptor);
            match (descriptor & 3, level) {
                (3, 2..) => {
                    if step.below == Some(pa) {
                        continue;
                    }
                    step.below = Some(pa);
                    let forbidden = step.forbidden | forbidden_below(descriptor);
                    self.left = self.left.checked_sub(1)?;
                    if level > 2 || self.leaves {
                        self.enter(pa, va, shift, forbidden);
                    }
                    return Some(Node::Table(PhysAddr(pa)));
                }
                (3, 1) | (1, 2..) => {
                    let forbidden = step.forbidden | descriptor;
                    let len = 1u64.checked_shl(shift).unwrap_or(0);
                    return Some(Node::Leaf(Leaf {
                        mapping: Mapping {
                            va: KernelVirtAddr(va),
                            pa: PhysAddr(pa & !len.wrapping_sub(1)),
                            len,
                        },
                        permissions: Permissions {
                            writable: forbidden & READ_ONLY == 0,
                            executable: forbidden & NOT_EXECUTABLE == 0,
                        },
                    }));
                }
                _ => {}
            }
        }
    }
}

impl Step {
    /// Descriptor `number`; `None` if it cannot be read.
    fn descriptor(&mut self, memory: &impl PhysMem, number: u64) -> Option<u64> {
        let inside = number & IN_LINE;
        let line_at = number.wrapping_sub(inside);
        if self.line_at != Some(line_at) {
            let at = PhysAddr(self.table.wrapping_add(line_at.wrapping_mul(8)));
            let bytes = bytemuck::must_cast_slice_mut::<u64, u8>(&mut self.line);
            self.line_at = None;
            memory.read(at, bytes).ok()?;
            self.line_at = Some(line_at);
        }
        let word = self.line.get(usize::try_from(inside).ok()?)?;
        Some(u64::from_le(*word))
    }
}

/// What a table descriptor forbids to all below, as a leaf's descriptor would.
fn forbidden_below(descriptor: u64) -> u64 {
    let mut forbidden = 0;
    if descriptor & TABLE_READ_ONLY != 0 {
        forbidden |= READ_ONLY;
    }
    if descriptor & TABLE_NOT_EXECUTABLE != 0 {
        forbidden |= NOT_EXECUTABLE;
    }
    forbidden
}

/// The page tables of the kernel, each a page long, the root not included (it is in the image).
#[derive(Debug)]
pub struct PageTables<'a, M>(Walk<'a, M>);

impl<'a, M: PhysMem> PageTables<'a, M> {
    /// All page tables of the kernel half; at most `limit`, see [`table_limit`].
    pub fn new(virt: &'a VirtMem<M>, limit: u64) -> Self {
        Self(Walk::new(virt, VirtRange::ALL, limit, false))
    }

    /// How many pieces of tables could not be read up to here.
    pub fn unreadable(&self) -> u64 {
        self.0.unreadable
    }
}

impl<M: PhysMem> Iterator for PageTables<'_, M> {
    type Item = PhysAddr;

    fn next(&mut self) -> Option<PhysAddr> {
        loop {
            if let Node::Table(table) = self.0.next()? {
                return Some(table);
            }
        }
    }
}

/// What is mapped in a range of addresses, in their order. What lies behind need not be memory.
#[derive(Debug)]
pub struct Leaves<'a, M>(Walk<'a, M>);

impl<'a, M: PhysMem> Leaves<'a, M> {
    /// What is mapped in `range`, by at most `limit` tables, see [`table_limit`].
    pub fn new(virt: &'a VirtMem<M>, range: VirtRange, limit: u64) -> Self {
        Self(Walk::new(virt, range, limit, true))
    }

    /// How many pieces of tables could not be read up to here.
    pub fn unreadable(&self) -> u64 {
        self.0.unreadable
    }
}

impl<M: PhysMem> Iterator for Leaves<'_, M> {
    type Item = Leaf;

    fn next(&mut self) -> Option<Leaf> {
        loop {
            if let Node::Leaf(leaf) = self.0.next()? {
                return Some(leaf);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;
    use crate::synthetic::{IMAGE_LEN, Kernel, RAM, RAM_LEN, ROOT, SHAPES, VERSIONS};

    fn kernel(shape: usize) -> Kernel {
        Kernel::new(VERSIONS[6], SHAPES[shape])
    }

    #[test]
    fn all_tables_and_all_pages_are_found() {
        for shape in 0..SHAPES.len() {
            let kernel = kernel(shape);
            let virt = kernel.virt();
            let limit = table_limit(virt.layout(), RAM_LEN);
            let mut walk = PageTables::new(&virt, limit);
            let found: Vec<_> = walk.by_ref().map(|table| table.0).collect();
            let unique: BTreeSet<_> = found.iter().copied().collect();
            assert_eq!(found.len(), unique.len());
            assert_eq!(unique, kernel.tables().collect(), "{:?}", kernel.shape);
            assert_eq!(walk.unreadable(), 0);

            let range = VirtRange::image(virt.layout());
            let mut next = (kernel.image_va(), RAM);
            for leaf in Leaves::new(&virt, range, limit) {
                let Mapping { va, pa, len } = leaf.mapping;
                assert_eq!((va.0, pa.0, len), (next.0, next.1, kernel.page_size()));
                assert!(leaf.is_image(virt.layout()));
                next = (next.0 + len, next.1 + len);
            }
            assert_eq!(next.1, RAM + IMAGE_LEN, "{:?}", kernel.shape);
        }
    }

    #[test]
    fn a_range_is_walked_from_its_first_to_its_last_byte() {
        let mut kernel = kernel(1);
        let va = 0xffff_8123_4567_0000;
        kernel.map(va, RAM, 8 * 4096);
        // Around it, in the same table, and in the last page of all.
        kernel.map(u64::MAX - 4095, RAM + 0x8000, 4096);
        let virt = kernel.virt();
        for (first, last, pages) in [
            (va, va + 8 * 4096 - 1, 8),
            (va + 4096, va + 8191, 1),
            (va + 4095, va + 4096, 2),
            (va + 4096, va + 4095, 0),
            (va - 1, va - 1, 0),
            (u64::MAX - 8191, u64::MAX, 1),
            (0, 0xffff_0000_0000_0000, 0),
        ] {
            let range = VirtRange {
                first: KernelVirtAddr(first),
                last: KernelVirtAddr(last),
            };
            assert_eq!(Leaves::new(&virt, range, 100).count(), pages, "{first:#x}");
        }
    }

    #[test]
    fn permissions_are_those_of_the_page_and_of_the_tables_above() {
        let mut kernel = kernel(1);
        let va = 0xffff_8123_4567_0000;
        const RO: u64 = 1 << 7;
        const PXN: u64 = 1 << 53;
        for (page, low) in [0, RO, PXN, RO | PXN].into_iter().enumerate() {
            kernel.map_page(va + page as u64 * 4096, RAM, 0x403 | low);
        }
        let parts = |kernel: &Kernel| {
            let virt = kernel.virt();
            let range = VirtRange {
                first: KernelVirtAddr(va),
                last: KernelVirtAddr(va + 0xffff),
            };
            Leaves::new(&virt, range, 100)
                .map(|leaf| leaf.part())
                .collect::<Vec<_>>()
        };
        use ImagePart::{Data, ReadOnly, Text};
        assert_eq!(parts(&kernel), [Text, Text, Data, ReadOnly]);
        let root = ROOT + (va >> 39 & 511) * 8;
        let descriptor = kernel.ram.u64(root);
        kernel.ram.put_u64(root, descriptor | TABLE_NOT_EXECUTABLE);
        assert_eq!(parts(&kernel), [Data, ReadOnly, Data, ReadOnly]);
        let forbidding = TABLE_NOT_EXECUTABLE | TABLE_READ_ONLY;
        kernel.ram.put_u64(root, descriptor | forbidding);
        assert_eq!(parts(&kernel), [ReadOnly; 4]);
    }

    #[test]
    fn blocks_are_leaves() {
        let mut kernel = kernel(1);
        let table = kernel.tables().next().unwrap();
        // 1 GiB at the second descriptor of a table of the second level.
        kernel.ram.put_u64(ROOT, table | 3);
        kernel.ram.put_u64(table + 8, 0x8000_0401);
        let virt = kernel.virt();
        let range = VirtRange {
            first: KernelVirtAddr(0xffff_0000_4000_0000),
            last: KernelVirtAddr(0xffff_0000_4000_0fff),
        };
        let found: Vec<_> = Leaves::new(&virt, range, 100)
            .map(|leaf| leaf.mapping)
            .collect();
        let block = Mapping {
            va: KernelVirtAddr(0xffff_0000_4000_0000),
            pa: PhysAddr(0x8000_0000),
            len: 1 << 30,
        };
        assert_eq!(found, [block]);
    }

    #[test]
    fn tables_that_loop_or_are_lost_end_the_walk_or_are_counted() {
        for shape in 0..SHAPES.len() {
            let mut kernel = kernel(shape);
            let page = kernel.page_size();
            // Two tables in turn, which lead to each other all over.
            let mut tables = kernel.tables();
            let (one, other) = (tables.next().unwrap(), tables.next().unwrap());
            for number in 0..page / 8 {
                let pair = if number % 2 == 0 { one } else { other };
                kernel.ram.put_u64(one + number * 8, pair | 3);
                kernel.ram.put_u64(other + number * 8, pair | 3);
            }
            let limit = 1000;
            for table in [one, other] {
                kernel.ram.put_u64(ROOT, table | 3);
                let virt = kernel.virt();
                assert!(PageTables::new(&virt, limit).count() as u64 <= limit);
                // The limit bounds the leaves as well: a table has no more than it has room for.
                let leaves = Leaves::new(&virt, VirtRange::ALL, limit).count() as u64;
                assert!(leaves <= (limit + 1) * page / 8);
            }
            // Tables that lead to themselves are followed once at each level.
            for number in 0..page / 8 {
                kernel.ram.put_u64(one + number * 8, one | 3);
                kernel.ram.put_u64(other + number * 8, other | 3);
            }
            let virt = kernel.virt();
            assert!(PageTables::new(&virt, limit).count() < 20);
        }
        // A lost table of pages: the tables are all found, its pages are not.
        let mut kernel = kernel(1);
        let lost = kernel.tables().nth(2).unwrap();
        kernel.ram.lose(lost).unwrap();
        let virt = kernel.virt();
        let tables = PageTables::new(&virt, 1000).count();
        assert_eq!(tables, kernel.tables().count());
        let mut leaves = Leaves::new(&virt, VirtRange::ALL, 1000);
        assert!(leaves.by_ref().count() > 0);
        assert_eq!(leaves.unreadable(), 4096 / 64);
    }
}
