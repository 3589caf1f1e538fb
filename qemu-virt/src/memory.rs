//! The crashed kernel's memory itself, from the guest's RAM file: what no dump can add to.
//!
//! Together with the notes of a vmcore it is read as the payload reads it on the machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};
use kdraw_linux::classify::{Classifier, Doubts, DumpLevel, PageClass};
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::compare::Vmcore;
use crate::scenario::boot::Boot;

/// Which pages a dump has; by page frame number.
pub type KeptPages = Vec<bool>;

/// The crashed kernel's memory: System RAM without the crash region.
pub struct Memory {
    ram: File,
    ram_base: u64,
    /// Page frames up to the end of RAM, System RAM or not.
    pub frames: usize,
    /// What of it is the crashed kernel's, in order.
    pub ranges: Vec<PhysRange>,
    notes: Vec<u8>,
}

/// What the pages of the memory are; by page frame number.
pub struct Pages {
    /// The class of each page; `None` for what is not the crashed kernel's.
    pub classes: Vec<Option<PageClass>>,
    /// What the classifier could not be certain of.
    pub doubts: Doubts,
}

impl Memory {
    /// Opens the RAM file of a boot that has ended; `notes` are those of its vmcore.
    pub fn open(ram: &Path, boot: &Boot, notes: Vec<u8>) -> Result<Self> {
        let ram = File::open(ram).with_context(|| ram.display().to_string())?;
        let ram_base = boot.ram_base;
        let frames = usize::try_from((ram_base + ram.metadata()?.len()) / FRAME_SIZE)?;
        let crash = &boot.crash_region;
        let pieces = boot.system_ram.iter().flat_map(|range| {
            [
                (range.start, range.end.min(crash.start)),
                (range.start.max(crash.end), range.end),
            ]
        });
        let mut ranges: Vec<PhysRange> = pieces
            .map(|(start, end)| PhysRange {
                start: PhysAddr(start),
                end: PhysAddr(end),
            })
            .filter(|range| !range.is_empty())
            .collect();
        ranges.sort_by_key(|range| range.start);
        Ok(Self {
            ram,
            ram_base,
            frames,
            ranges,
            notes,
        })
    }

    /// Returns the memory as the kernel's page tables show it.
    fn view(&self) -> Result<(VirtMem<&Self>, Vmcoreinfo<'_>)> {
        let info = Vmcoreinfo::from_notes(&self.notes).context("no VMCOREINFO")?;
        Ok((
            VirtMem::new(self, KernelLayout::from_vmcoreinfo(&info)?),
            info,
        ))
    }

    /// Classifies every page, as the payload does.
    pub fn classify(&self) -> Result<Pages> {
        let (view, info) = self.view()?;
        let classifier = Classifier::new(&view, &info)?;
        let mut pages = Pages {
            classes: vec![None; self.frames],
            doubts: Doubts::default(),
        };
        for range in &self.ranges {
            let mut spans = classifier.spans(&view, *range);
            for span in &mut spans {
                let first = span.first.0 as usize;
                pages.classes[first..first + span.frames as usize].fill(Some(span.class));
            }
            pages.doubts.add(&spans.doubts());
        }
        Ok(pages)
    }

    /// Returns which pages of the memory a vmcore has.
    pub fn pages_in(&self, vmcore: &Vmcore) -> KeptPages {
        let mut kept = vec![false; self.frames];
        for covered in vmcore.covered() {
            for range in &self.ranges {
                let first = covered.start.max(range.start.0) / FRAME_SIZE;
                let end = covered.end.min(range.end.0).div_ceil(FRAME_SIZE);
                for pfn in first..end {
                    kept[pfn as usize] = true;
                }
            }
        }
        kept
    }
}

impl PhysMem for Memory {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let unreadable = Unreadable { at };
        let wanted = PhysRange::with_len(at, into.len() as u64).ok_or(unreadable)?;
        if !self.ranges.iter().any(|range| range.contains(&wanted)) {
            return Err(unreadable);
        }
        let at = at.0.checked_sub(self.ram_base).ok_or(unreadable)?;
        let read = self.ram.read_exact_at(into, at);
        read.map_err(|_| unreadable)
    }
}

impl Pages {
    /// Tells which pages a dump of `level` has. Pages of zeros are in it at every level: kdraw
    /// tells them by their runs, and level 1 changes nothing.
    pub fn kept(&self, level: DumpLevel) -> KeptPages {
        kept(&self.classes, level)
    }
}

/// Tells which pages of these classes a dump of `level` has.
pub fn kept(classes: &[Option<PageClass>], level: DumpLevel) -> KeptPages {
    let kept = |class: &Option<PageClass>| class.is_some_and(|class| !class.dropped_at(level));
    classes.iter().map(kept).collect()
}
