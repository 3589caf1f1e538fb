//! The registers that the crashing kernel saved of each CPU: `crash_notes`.
//!
//! A dump's notes are copies of these, if a capture kernel made the dump. Whoever dumps a
//! machine's memory from outside (QEMU, `virsh dump`) notes what the CPUs did at that time, which
//! may be long after the panic: halted, or running the capture kernel. So the kernel's own count
//! for more, if they are of the task that the CPU still has as its current one.
//!
//! `crash_notes` points to a per-CPU buffer of 424 bytes, aligned to 512. A kernel whose kallsyms
//! has no data does not tell where; but it allocated them among the first, so that they lie in the
//! CPU's first chunk, behind its own variables. There they are looked for.
//!
//! Source: `kernel/kexec_core.c` (`crash_notes_memory_init`, `crash_save_cpu`), `mm/percpu.c`.

use std::collections::BTreeMap;

use kdraw_linux::notes::{CORE_NAME, NT_PRSTATUS, NoteIter, PrStatus, Registers};

use crate::Kernel;
use crate::per_cpu::Areas;

/// Bytes of a CPU's buffer, with what aligns it.
const BUFFER: usize = 512;
/// How far behind the start of a CPU's own variables its buffer is looked for; the first chunks of
/// Debian's kernels have 128 to 140 KiB a CPU.
const REACH: u64 = 512 << 10;

/// What a CPU saved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saved {
    /// The number of the task that it ran.
    pub pid: i32,
    /// Its registers.
    pub registers: Registers,
}

/// The CPUs' own notes, as far as there are any.
pub(crate) fn all(kernel: &Kernel<'_>) -> BTreeMap<u32, Saved> {
    let saved = |place: u64, areas: &BTreeMap<u32, u64>| -> BTreeMap<u32, Saved> {
        let notes = areas.iter().filter_map(|(cpu, start)| {
            let note = read(kernel, place.wrapping_add(*start))?;
            Some((*cpu, note))
        });
        notes.collect()
    };
    match kernel.areas() {
        Ok(Areas::Offsets(areas)) => {
            let pointer = kernel.symbol("crash_notes");
            let place = pointer.and_then(|at| kernel.read_u64(at).ok());
            place.map_or_else(BTreeMap::new, |place| saved(place, areas))
        }
        Ok(Areas::Sections(areas, _)) => {
            // At the same distance in every CPU's chunk; not every CPU may have stopped.
            let found = areas.values().find_map(|start| {
                let first = start.checked_next_multiple_of(BUFFER as u64)?;
                let mut places = (0..REACH).step_by(BUFFER);
                let place = places.find(|place| read(kernel, first.wrapping_add(*place)).is_some());
                place.map(|place| first.wrapping_add(place).wrapping_sub(*start))
            });
            found.map_or_else(BTreeMap::new, |place| saved(place, areas))
        }
        Err(_) => BTreeMap::new(),
    }
}

fn read(kernel: &Kernel<'_>, at: u64) -> Option<Saved> {
    let mut buffer = [0; BUFFER];
    kernel.read(at, &mut buffer).ok()?;
    let note = NoteIter::new(&buffer).next();
    let note = note.filter(|note| note.name == CORE_NAME && note.kind == NT_PRSTATUS)?;
    let status = PrStatus::from_note(&note)?;
    Some(Saved {
        pid: status.pid(),
        registers: status.registers(),
    })
}
