//! The order of worth: which pages go into a dump, and which of them first.
//!
//! Each step is one pass over the struct pages of the evidence, which takes the pages that are of
//! its kinds and, for the kernel's own, lie in its areas or outside of them:
//!
//! | step | class | pages |
//! |--|--|--|
//! | 1 | [`Class::KernelCore`] | page tables of the kernel; the image's data, the start of its rodata, `linux_banner`, the names of task states |
//! | 2 | [`Class::KernelData`] | set aside at boot, but for image and memmap: per-CPU areas, nodes |
//! | 3 | [`Class::KernelData`] | slab; what vmalloc maps, stacks foremost; the modules' data |
//! | 4 | [`Class::Kernel`] | the rest of rodata: the kernel's own symbols and types |
//! | 5 | [`Class::Kernel`] | the rest of the image; the memmap |
//! | 6 | [`Class::Kernel`] | other kernel pages |
//! | 7–10 | [`Class::CachePrivate`] … [`Class::Free`] | what the dump level keeps of them |
//!
//! What a page is, its struct page alone tells: one that the page tables show in an area of step 1
//! and that is user memory by its struct page goes with user memory, and broken or offline pages
//! are never read. One bit for each frame marks the areas of a step. Without memory for them,
//! nothing lies in an area: there is no step 1, and steps 4 and 5 come with step 2. If pages cannot be
//! told apart at all, there is one step, [`Class::Unclassified`], of everything.

use kdraw_format::addr::{FRAME_SIZE, KernelVirtAddr, PhysAddr, PhysRange};
use kdraw_format::chunk::{Class, ClassSet};
use kdraw_linux::classify::{Classifier, Doubts, DumpLevel, PageClass};
use kdraw_linux::kernel_map::{ImagePart, Leaves, PageTables, VirtRange, table_limit};
use kdraw_linux::memory::PhysMem;
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::assembly::Assembly;
use crate::marks::Marks;
use crate::partition::TargetError;
use crate::task::Piece;

/// Bytes at the start of rodata that readers need to list tasks: `task_state_array` is there.
const RODATA_START: u64 = 384 << 10;
/// What readers need of the rest of rodata, by its first eight bytes, which lie at a multiple of
/// eight: `linux_banner`, without which crash takes the kernel for another one, and, behind it, the
/// names of task states (`fs/proc/array.c`).
const SOUGHT: [&[u8; 8]; 2] = [b"Linux ve", b"R (runni"];
/// Bytes before and behind each of them that come with it: the linker leaves the strings of one file
/// near each other.
const AROUND: u64 = 2 << 10;
/// Bytes of rodata read at once.
const BLOCK: usize = 512;

/// Where pages lie, by the kernel's page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Area {
    /// Page tables, the image's data, and of its rodata what readers need first.
    Core,
    /// What the image never writes to: kallsyms and BTF (`RO_DATA` of
    /// `include/asm-generic/vmlinux.lds.h`).
    Rodata,
    /// The image.
    Image,
    /// The struct pages.
    Memmap,
    /// What vmalloc maps, and the modules' data.
    Vmalloc,
}

/// Which pages a step takes.
struct Step {
    class: Class,
    /// Areas that are marked for it.
    marked: &'static [Area],
    /// Areas whose marks are taken away again.
    unmarked: &'static [Area],
    /// What it takes: by its class, and by whether it is marked. Only the kernel's own pages can be.
    takes: &'static [(PageClass, bool)],
}

use Area::{Core, Image, Memmap, Rodata, Vmalloc};

/// Each page belongs to exactly one step.
const STEPS: [Step; 10] = [
    Step {
        class: Class::KernelCore,
        marked: &[Core],
        unmarked: &[],
        takes: &[(PageClass::Kernel, true), (PageClass::Reserved, true)],
    },
    Step {
        class: Class::KernelData,
        marked: &[Core, Image, Memmap],
        unmarked: &[],
        takes: &[(PageClass::Reserved, false)],
    },
    Step {
        class: Class::KernelData,
        marked: &[Vmalloc],
        unmarked: &[Core],
        takes: &[(PageClass::Slab, false), (PageClass::Kernel, true)],
    },
    Step {
        class: Class::Kernel,
        marked: &[Rodata],
        unmarked: &[Core],
        takes: &[(PageClass::Reserved, true)],
    },
    Step {
        class: Class::Kernel,
        marked: &[Image, Memmap],
        unmarked: &[Core, Rodata],
        takes: &[(PageClass::Reserved, true)],
    },
    Step {
        class: Class::Kernel,
        marked: &[Core, Vmalloc],
        unmarked: &[],
        takes: &[(PageClass::Kernel, false)],
    },
    plain(Class::CachePrivate, &[(PageClass::CachePrivate, false)]),
    plain(Class::Cache, &[(PageClass::Cache, false)]),
    plain(Class::User, &[(PageClass::User, false)]),
    plain(Class::Free, &[(PageClass::Free, false)]),
];

const fn plain(class: Class, takes: &'static [(PageClass, bool)]) -> Step {
    Step {
        class,
        marked: &[],
        unmarked: &[],
        takes,
    }
}

/// How pages are told apart.
#[derive(Debug)]
pub struct Judge<'a, M> {
    /// By their struct pages.
    pub classifier: Classifier,
    /// Where those are.
    pub virt: &'a VirtMem<M>,
    /// What the kernel says of itself.
    pub info: &'a Vmcoreinfo<'a>,
}

impl<M: PhysMem> Judge<'_, M> {
    /// Returns where in rodata is what readers seek: of each the last place up to the first of the
    /// last one, for rodata begins with another copy of the banner's text.
    fn sought(&self, limit: u64) -> [Option<PhysAddr>; SOUGHT.len()] {
        let mut sought = [None; SOUGHT.len()];
        let layout = self.virt.layout();
        let image = Leaves::new(self.virt, VirtRange::image(layout), limit);
        let rodata = image.filter(|leaf| leaf.is_image(layout));
        for leaf in rodata.filter(|leaf| leaf.part() == ImagePart::ReadOnly) {
            for inside in (0..leaf.mapping.len).step_by(BLOCK) {
                let at = PhysAddr(leaf.mapping.pa.0.saturating_add(inside));
                let mut block = [0; BLOCK];
                if self.virt.memory().read(at, &mut block).is_err() {
                    continue;
                }
                for word in block.as_chunks().0 {
                    let found = SOUGHT.iter().zip(&mut sought);
                    for (_, place) in found.filter(|(start, _)| **start == word) {
                        *place = Some(at);
                    }
                }
                if sought.last().is_some_and(Option::is_some) {
                    return sought;
                }
            }
        }
        sought
    }

    /// Marks the pages of an area, or takes their marks away; `sought` are pages of the core.
    fn mark(&self, area: Area, sought: &[Option<PhysAddr>], marks: &mut Marks<'_>, marked: bool) {
        let layout = self.virt.layout();
        let page_size = 1u64.checked_shl(layout.page_shift).unwrap_or(FRAME_SIZE);
        let limit = table_limit(layout, marks.bytes_of_evidence());
        let leaves = |range| Leaves::new(self.virt, range, limit);
        let image = || leaves(VirtRange::image(layout)).filter(|leaf| leaf.is_image(layout));
        // What is read-only before the text is no rodata: the image's first code.
        let rodata = || {
            image()
                .skip_while(|leaf| leaf.part() != ImagePart::Text)
                .filter(|leaf| leaf.part() == ImagePart::ReadOnly)
        };
        let mut set = |start, len| {
            if let Some(range) = PhysRange::with_len(start, len) {
                marks.set(range, marked);
            }
        };
        match area {
            Area::Core => {
                image()
                    .filter(|leaf| leaf.part() == ImagePart::Data)
                    .for_each(|leaf| set(leaf.mapping.pa, leaf.mapping.len));
                let mut rest = RODATA_START;
                for leaf in rodata() {
                    let len = leaf.mapping.len.min(rest);
                    rest = rest.saturating_sub(len);
                    set(leaf.mapping.pa, len);
                }
                for at in sought.iter().flatten() {
                    let start = at.0.saturating_sub(AROUND) & !FRAME_SIZE.saturating_sub(1);
                    let end = at.0.saturating_add(AROUND).next_multiple_of(FRAME_SIZE);
                    set(PhysAddr(start), end.saturating_sub(start));
                }
                set(layout.root(), page_size);
                PageTables::new(self.virt, limit).for_each(|table| set(table, page_size));
            }
            Area::Rodata => rodata().for_each(|leaf| set(leaf.mapping.pa, leaf.mapping.len)),
            Area::Image => image().for_each(|leaf| set(leaf.mapping.pa, leaf.mapping.len)),
            Area::Memmap => self
                .numbered("VMEMMAP_START", "VMEMMAP_END")
                .into_iter()
                .flat_map(leaves)
                .for_each(|leaf| set(leaf.mapping.pa, leaf.mapping.len)),
            Area::Vmalloc => {
                let modules = self.numbered("MODULES_VADDR", "MODULES_END").into_iter();
                let data = modules
                    .flat_map(leaves)
                    .filter(|leaf| leaf.part() == ImagePart::Data);
                let vmalloc = VirtRange::vmalloc(self.info).into_iter().flat_map(leaves);
                vmalloc
                    .chain(data)
                    .filter(|leaf| !leaf.is_image(layout))
                    .for_each(|leaf| set(leaf.mapping.pa, leaf.mapping.len));
            }
        }
    }

    /// The addresses between two numbers of VMCOREINFO, which kernels since 5.18 tell.
    fn numbered(&self, first: &str, end: &str) -> Option<VirtRange> {
        let number = |key| self.info.number(key).map(i64::cast_unsigned);
        let (first, end) = (number(first)?, number(end)?);
        (first < end).then_some(VirtRange {
            first: KernelVirtAddr(first),
            last: KernelVirtAddr(end.saturating_sub(1)),
        })
    }
}

/// How many frames of each class the evidence has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Census {
    frames: [u64; PageClass::ALL.len()],
    /// What was implausible.
    pub doubts: Doubts,
}

impl Census {
    /// Counts, in one pass.
    pub fn take<M: PhysMem>(judge: &Judge<'_, M>, ranges: &[PhysRange]) -> Self {
        let mut this = Self::default();
        for range in ranges {
            let mut spans = judge.classifier.spans(judge.virt, *range);
            for span in &mut spans {
                if let Some(count) = this.frames.get_mut(span.class as usize) {
                    *count = count.saturating_add(span.frames);
                }
            }
            this.doubts.add(&spans.doubts());
        }
        this
    }

    /// Frames of a class.
    pub fn frames(&self, class: PageClass) -> u64 {
        self.frames.get(class as usize).copied().unwrap_or(0)
    }
}

/// What the kernel's classes are called in a dump: the steps that they go in, if nothing else puts
/// them into another; `None` for pages that are never read.
pub const fn class_of(class: PageClass) -> Option<Class> {
    Some(match class {
        PageClass::Kernel | PageClass::Reserved => Class::Kernel,
        PageClass::Slab => Class::KernelData,
        PageClass::CachePrivate => Class::CachePrivate,
        PageClass::Cache => Class::Cache,
        PageClass::User => Class::User,
        PageClass::Free => Class::Free,
        PageClass::HwPoison | PageClass::Offline => return None,
    })
}

/// The classes that a dump level keeps.
pub fn kept_at(level: DumpLevel) -> ClassSet {
    let mut kept = ClassSet::default();
    for class in [Class::KernelCore, Class::KernelData, Class::Kernel] {
        kept.insert(class);
    }
    for class in PageClass::ALL {
        if !class.dropped_at(level)
            && let Some(class) = class_of(class)
        {
            kept.insert(class);
        }
    }
    kept
}

/// The pages of a crashed kernel, and how they are told apart.
pub struct Evidence<'a, M> {
    /// All of its memory, in order.
    pub ranges: &'a [PhysRange],
    /// How pages are told apart, and how many there are; `None` if they cannot be.
    pub judged: Option<(Judge<'a, M>, Census)>,
}

impl<M: PhysMem> Evidence<'_, M> {
    /// Gives the assembly all pages of the classes in `keep`, in order of worth, and tells how many
    /// frames of each class there are.
    ///
    /// # Errors
    /// What the device failed with.
    pub fn give(
        &self,
        assembly: &mut Assembly<'_, '_, '_>,
        keep: ClassSet,
        mut marks: Option<Marks<'_>>,
    ) -> Result<Found, TargetError> {
        let mut found = Found::default();
        let Some((judge, census)) = &self.judged else {
            for range in self.ranges {
                let frames = range.len() / FRAME_SIZE;
                let piece = Piece {
                    first: range.start.pfn(),
                    frames,
                    class: Class::Unclassified,
                };
                found.add(Class::Unclassified, frames);
                if assembly.take(piece)?.is_break() {
                    break;
                }
            }
            return Ok(found);
        };
        let sought = marks.as_ref().map(|marks| {
            let limit = table_limit(judge.virt.layout(), marks.bytes_of_evidence());
            judge.sought(limit)
        });
        let sought = sought.unwrap_or_default();
        for step in &STEPS {
            if !keep.contains(step.class) {
                continue;
            }
            if let Some(marks) = &mut marks {
                marks.clear();
                step.marked
                    .iter()
                    .for_each(|area| judge.mark(*area, &sought, marks, true));
                step.unmarked
                    .iter()
                    .for_each(|area| judge.mark(*area, &sought, marks, false));
            }
            let frames = self.step(judge, assembly, step, marks.as_ref())?;
            found.add(step.class, frames);
        }
        // What was not reached, or not wanted, is there all the same.
        let kernel = [PageClass::Kernel, PageClass::Reserved, PageClass::Slab];
        let kernel = kernel.map(|class| census.frames(class));
        let early = found
            .frames(Class::KernelCore)
            .saturating_add(found.frames(Class::KernelData));
        found.set(
            Class::Kernel,
            kernel.into_iter().sum::<u64>().saturating_sub(early),
        );
        for class in [
            PageClass::CachePrivate,
            PageClass::Cache,
            PageClass::User,
            PageClass::Free,
        ] {
            if let Some(name) = class_of(class) {
                found.set(name, census.frames(class));
            }
        }
        Ok(found)
    }

    /// Gives the assembly all pages that `step` takes; returns how many.
    fn step(
        &self,
        judge: &Judge<'_, M>,
        assembly: &mut Assembly<'_, '_, '_>,
        step: &Step,
        marks: Option<&Marks<'_>>,
    ) -> Result<u64, TargetError> {
        let mut given = 0u64;
        for range in self.ranges {
            for span in judge.classifier.spans(judge.virt, *range) {
                if !step.takes.iter().any(|(class, _)| *class == span.class) {
                    continue;
                }
                let marks =
                    marks.filter(|_| matches!(span.class, PageClass::Kernel | PageClass::Reserved));
                let parts = marks.map(|marks| marks.split(span.first, span.frames));
                let whole = marks.is_none().then_some((span.first, span.frames, false));
                for (first, frames, marked) in parts.into_iter().flatten().chain(whole) {
                    if !step.takes.contains(&(span.class, marked)) {
                        continue;
                    }
                    given = given.saturating_add(frames);
                    let piece = Piece {
                        first,
                        frames,
                        class: step.class,
                    };
                    if assembly.take(piece)?.is_break() {
                        return Ok(given);
                    }
                }
            }
        }
        assembly.end_step()?;
        Ok(given)
    }
}

/// Frames of each class that the evidence has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found([u64; Class::ALL.len()]);

impl Found {
    fn add(&mut self, class: Class, frames: u64) {
        if let Some(count) = self.0.get_mut(class as usize) {
            *count = count.saturating_add(frames);
        }
    }

    fn set(&mut self, class: Class, frames: u64) {
        if let Some(count) = self.0.get_mut(class as usize) {
            *count = frames;
        }
    }

    /// Frames of `class`.
    pub fn frames(&self, class: Class) -> u64 {
        self.0.get(class as usize).copied().unwrap_or(0)
    }
}
