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
