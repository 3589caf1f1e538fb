//! Per-CPU variables: where each CPU has its own.
//!
//! A variable's address plus `__per_cpu_offset[cpu]` is that CPU's. A kernel whose kallsyms has
//! no data tells neither. There BTF's section `.data..percpu` has the variables' places in their
//! section, and every task leads to the `runqueues` of the CPU that it ran on last
//! (`se.cfs_rq->rq`), whose place in the section is known: what is left is where the section of
//! that CPU begins. Memory from `alloc_percpu()` is found by where the section begins for the
//! linker, too, which zones tell that have no memory ([`zones`](crate::zones)).
//!
//! Source: `include/asm-generic/percpu.h`, `kernel/sched/sched.h`.

use std::collections::BTreeMap;

use crate::Kernel;
use crate::object::{Error, Object};
use crate::zones;

/// BTF's name of the section.
pub(crate) const SECTION: &str = ".data..percpu";
/// The most CPUs that a kernel for arm64 is built for (`NR_CPUS`).
const MAX_CPUS: u64 = 4096;

/// Where the CPUs have their variables.
#[derive(Debug)]
pub(crate) enum Areas {
    /// What is added to a variable's address, by CPU.
    Offsets(BTreeMap<u32, u64>),
    /// Where a CPU's section begins, and `__per_cpu_start`, if that is known.
    Sections(BTreeMap<u32, u64>, Option<u64>),
}

impl Areas {
    /// The numbers of the CPUs.
    pub(crate) fn cpus(&self) -> impl Iterator<Item = u32> {
        let (Self::Offsets(areas) | Self::Sections(areas, _)) = self;
        areas.keys().copied()
    }

    /// Finds them.
    pub(crate) fn find(kernel: &Kernel<'_>) -> Result<Self, Error> {
        match kernel.symbol("__per_cpu_offset") {
            Some(table) => Ok(Self::Offsets(offsets(kernel, table)?)),
            None => sections(kernel),
        }
    }
}

fn offsets(kernel: &Kernel<'_>, table: u64) -> Result<BTreeMap<u32, u64>, Error> {
    let possible = kernel.symbol("__cpu_possible_mask");
    let limit = kernel.symbol("nr_cpu_ids");
    let limit = limit.map(|at| kernel.read_number(at, 4)).transpose()?;
    let limit = limit.unwrap_or(MAX_CPUS).min(MAX_CPUS);
    let mut areas = BTreeMap::new();
    for cpu in 0..limit {
        let word = (cpu / 64).wrapping_mul(8);
        let there = match possible {
            Some(mask) => {
                let word = kernel.read_u64(mask.wrapping_add(word))?;
                word & 1u64.wrapping_shl((cpu % 64) as u32) != 0
            }
            None => true,
        };
        if there {
            let offset = kernel.read_u64(table.wrapping_add(cpu.wrapping_mul(8)))?;
            areas.insert(cpu as u32, offset);
        }
    }
    Ok(areas)
}

fn sections(kernel: &Kernel<'_>) -> Result<Areas, Error> {
    let types = kernel.types()?;
    let lost = || Error::NoSymbol("the per-CPU variable runqueues".into());
    let (place, _) = types.variable(SECTION, "runqueues").ok_or_else(lost)?;
    let mut areas = BTreeMap::new();
    for task in kernel.all_tasks()? {
        let queue = || -> Result<Option<(u64, u64)>, Error> {
            let Some(of_group) = task.follow("se.cfs_rq")? else {
                return Ok(None);
            };
            let Some(queue) = of_group.follow("rq")? else {
                return Ok(None);
            };
            Ok(Some((queue.get("cpu")?, queue.address)))
        };
        if let Ok(Some((cpu, queue))) = queue()
            && cpu < MAX_CPUS
        {
            areas.insert(cpu as u32, queue.wrapping_sub(place));
        }
    }
    Ok(Areas::Sections(areas, zones::per_cpu_start(kernel)))
}

impl<'k> Kernel<'k> {
    /// The numbers of the CPUs that the kernel may have.
    ///
    /// # Errors
    /// [`Error`] if nothing tells.
    pub fn cpus(&self) -> Result<Vec<u32>, Error> {
        Ok(self.areas()?.cpus().collect())
    }

    /// A CPU's own of a per-CPU variable, as a type.
    ///
    /// # Errors
    /// [`Error`] if the kernel does not tell where it is.
    pub fn per_cpu(&'k self, name: &str, ty: &str, cpu: u32) -> Result<Object<'k>, Error> {
        let lost = || Error::NoSymbol(format!("the per-CPU variable {name} of CPU {cpu}"));
        let address = match self.areas()? {
            Areas::Offsets(offsets) => {
                let offset = offsets.get(&cpu).ok_or_else(lost)?;
                self.symbol(name).ok_or_else(lost)?.wrapping_add(*offset)
            }
            Areas::Sections(sections, _) => {
                let start = sections.get(&cpu).ok_or_else(lost)?;
                let place = self.types()?.variable(SECTION, name);
                place.ok_or_else(lost)?.0.wrapping_add(*start)
            }
        };
        self.object(ty, address)
    }

    /// What to add to a pointer from `alloc_percpu()` for each CPU; `None` if nothing tells.
    pub fn per_cpu_offsets(&self) -> Option<impl Iterator<Item = u64>> {
        let (areas, start) = match self.areas().ok()? {
            Areas::Offsets(offsets) => (offsets, 0),
            Areas::Sections(sections, start) => (sections, (*start)?),
        };
        Some(areas.values().map(move |area| area.wrapping_sub(start)))
    }
}
