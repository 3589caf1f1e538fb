//! The order of worth: which pages go into a dump, and which of them first.
//!
//! Each step is one pass over the struct pages of the evidence, which takes the pages of one class:
//!
//! | step | class | pages |
//! |--|--|--|
//! | 1 | [`Class::KernelData`] | slab |
//! | 2 | [`Class::Kernel`] | set aside at boot: image, per-CPU areas |
//! | 3 | [`Class::Kernel`] | other kernel pages |
//! | 4–7 | [`Class::CachePrivate`] … [`Class::Free`] | what the dump level keeps of them |
//!
//! Broken and offline pages are never read. If pages cannot be told apart, there is one step,
//! [`Class::Unclassified`], of everything.

use kdraw_format::addr::{FRAME_SIZE, PhysRange};
use kdraw_format::chunk::{Class, ClassSet};
use kdraw_linux::classify::{Classifier, Doubts, DumpLevel, PageClass};
use kdraw_linux::memory::PhysMem;
use kdraw_linux::translate::VirtMem;

use crate::assembly::Assembly;
use crate::partition::TargetError;
use crate::task::Piece;

/// The passes, in order.
const STEPS: [PageClass; 7] = [
    PageClass::Slab,
    PageClass::Reserved,
    PageClass::Kernel,
    PageClass::CachePrivate,
    PageClass::Cache,
    PageClass::User,
    PageClass::Free,
];

/// How pages are told apart.
#[derive(Debug)]
pub struct Judge<'a, M> {
    /// By their struct pages.
    pub classifier: Classifier,
    /// Where those are.
    pub virt: &'a VirtMem<M>,
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
        for step in STEPS {
            let Some(class) = class_of(step) else {
                continue;
            };
            let frames = census.frames(step);
            found.add(class, frames);
            if keep.contains(class) && frames > 0 {
                self.pass(judge, assembly, step, class)?;
            }
        }
        Ok(found)
    }

    /// Gives the assembly all pages that are `wanted`, as `class`.
    fn pass(
        &self,
        judge: &Judge<'_, M>,
        assembly: &mut Assembly<'_, '_, '_>,
        wanted: PageClass,
        class: Class,
    ) -> Result<(), TargetError> {
        for range in self.ranges {
            let spans = judge.classifier.spans(judge.virt, *range);
            for span in spans.filter(|span| span.class == wanted) {
                let piece = Piece {
                    first: span.first,
                    frames: span.frames,
                    class,
                };
                if assembly.take(piece)?.is_break() {
                    return Ok(());
                }
            }
        }
        assembly.end_step()
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

    /// Frames of `class`.
    pub fn frames(&self, class: Class) -> u64 {
        self.0.get(class as usize).copied().unwrap_or(0)
    }
}
