//! A dump to look into, whatever holds it: a slot of a partition, or a vmcore.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kdraw_format::slot::Outcome;
use kdraw_linux::memory::PhysMem;

use crate::core_file::{CoreFile, NoCore};
use crate::extract::dump_memory::DumpMemory;
use crate::input::{InputError, Vmcore};
use crate::partition::DumpPartition;
use crate::plain_core::{CoreWindow, core_len};
use crate::progress;
use crate::scan::Scan;
use crate::source::Access;
use crate::summary::SlotSummary;
use crate::system::System;

/// The vmcore in the folder that `extract` made; anything else is itself.
pub fn vmcore_at(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.join("vmcore"),
        false => path.to_owned(),
    }
}

/// An opened dump.
pub enum Dump {
    /// A file that crash and drgn open, too.
    Vmcore(Box<Vmcore>),
    /// What the payload wrote.
    Slot {
        /// The partition.
        partition: Box<DumpPartition>,
        /// What is in the slot.
        scan: Box<Scan>,
    },
}

impl Dump {
    /// Opens a vmcore, or a slot of the kdraw partition that `path` is or has: slot number
    /// `slot`, or that of the newest dump.
    ///
    /// # Errors
    /// If it is neither, or has no dump.
    pub fn open(
        system: &System,
        path: &Path,
        slot: Option<u32>,
        partition: Option<u32>,
    ) -> Result<Self> {
        let path = &vmcore_at(path);
        if slot.is_none() && partition.is_none() {
            match Vmcore::open(path) {
                Ok(vmcore) => {
                    for remark in &vmcore.remarks {
                        eprintln!("{}: {remark}", path.display());
                    }
                    return Ok(Self::Vmcore(Box::new(vmcore)));
                }
                Err(InputError::Unknown(_)) => {}
                Err(why) => return Err(why.into()),
            }
        }
        let mut opened = DumpPartition::open(system, path, partition, Access::Read)
            .with_context(|| format!("{} is no vmcore, either", path.display()))?;
        let slot = match slot {
            Some(index) => opened.slot(index)?,
            None => {
                let mut newest = None;
                for slot in opened.slots().collect::<Vec<_>>() {
                    if opened.header(&slot).outcome == Outcome::Empty {
                        continue;
                    }
                    let told = SlotSummary::of(&mut opened, &slot).black_box;
                    let when = told.and_then(|found| found.crash_time).unwrap_or(0);
                    if newest.as_ref().is_none_or(|(before, _)| *before <= when) {
                        newest = Some((when, slot));
                    }
                }
                let Some((_, slot)) = newest else {
                    bail!("{} has no dump", path.display());
                };
                slot
            }
        };
        let bar = progress::bar();
        let scan = Scan::of(&mut opened, &slot, &mut progress::report(&bar, "reading"));
        bar.finish_and_clear();
        Ok(Self::Slot {
            partition: Box::new(opened),
            scan: Box::new(scan),
        })
    }

    /// The crashed kernel's memory.
    ///
    /// # Errors
    /// If a plain partition's core has no header.
    pub fn memory(&self) -> Result<Box<dyn PhysMem + '_>> {
        Ok(match self {
            Self::Vmcore(vmcore) => Box::new(vmcore.as_ref()),
            Self::Slot { partition, scan } => slot_memory(partition, scan)?,
        })
    }

    /// ELF notes: the CPUs' registers and VMCOREINFO.
    ///
    /// # Errors
    /// As [`memory`](Self::memory).
    pub fn notes(&self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Vmcore(vmcore) => vmcore.notes().to_vec(),
            Self::Slot { partition, scan } => slot_notes(partition, scan)?,
        })
    }
}

/// The crashed kernel's memory in a scanned slot.
///
/// # Errors
/// If a plain partition's core has no header.
pub fn slot_memory<'a>(
    partition: &'a DumpPartition,
    scan: &'a Scan,
) -> Result<Box<dyn PhysMem + 'a>, NoCore> {
    Ok(match partition.superblock.plain {
        true => Box::new(CoreFile::open(CoreWindow::new(partition, core_len(scan)))?),
        false => Box::new(DumpMemory::new(partition, scan)),
    })
}

/// The ELF notes of a scanned slot.
///
/// # Errors
/// As [`slot_memory`].
pub fn slot_notes(partition: &DumpPartition, scan: &Scan) -> Result<Vec<u8>, NoCore> {
    Ok(match partition.superblock.plain && scan.notes.is_empty() {
        true => CoreFile::open(CoreWindow::new(partition, core_len(scan)))?.notes(),
        false => scan.notes.clone(),
    })
}
