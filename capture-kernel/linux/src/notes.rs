//! ELF notes: the registers of every CPU and VMCOREINFO, as the crashed kernel left them.
//!
//! A note is `namesz`, `descsz`, `type` (u32 each), the name with its NUL, the descriptor, both
//! padded to 4 bytes. The kernel keeps one buffer per CPU, ended by an all-zero note; a CPU that
//! never stopped has nothing but zeros there. [`merge_notes`] copies what is there into the one
//! `PT_NOTE` that a vmcore has: the CPUs in the elfcorehdr's order (crash and drgn count them),
//! VMCOREINFO last. Lengths come from the note headers, never from a constant: VMCOREINFO has
//! grown beyond a page.
//!
//! Source: gABI "Note Section"; `kernel/crash_core.c` (`append_elf_note`, `final_note`);
//! `include/linux/elfcore.h` (`struct elf_prstatus`), `arch/arm64/include/asm/elf.h`.

use kdraw_format::addr::{PhysAddr, PhysRange};

use crate::bytes::{array_at, put, u32_at, u64_at};
use crate::elfcorehdr::ElfCoreHdr;
use crate::memory::{PhysMem, Unreadable};

/// The name of VMCOREINFO's note.
pub const VMCOREINFO_NAME: &[u8] = b"VMCOREINFO";
/// The name of a CPU's register note.
pub const CORE_NAME: &[u8] = b"CORE";
/// The type of a CPU's register note.
pub const NT_PRSTATUS: u32 = 1;
/// Bytes of arm64's `struct elf_prstatus`.
pub const PRSTATUS_LEN: usize = 392;

/// The most notes looked at in one segment; the kernel writes one.
const MAX_NOTES_PER_SEGMENT: usize = 64;
const HEADER_LEN: usize = 12;
/// Offset of `pr_pid`.
const PR_PID: usize = 32;
/// Offset of `pr_reg`: x0 to x30, sp, pc, pstate.
const PR_REG: usize = 112;

/// One note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// Its name, without the NUL.
    pub name: &'a [u8],
    /// Its type; what it means depends on the name.
    pub kind: u32,
    /// Its content.
    pub desc: &'a [u8],
}

/// Where the parts of a note lie, from its 12-byte header.
#[derive(Clone, Copy, Debug)]
struct NoteHeader {
    name_len: usize,
    desc_at: usize,
    desc_len: usize,
    kind: u32,
    /// With the padding behind the descriptor.
    total: usize,
}

impl NoteHeader {
    /// Reads a header; `None` for the all-zero end and for one that is cut or absurd.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let name_len = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let desc_len = usize::try_from(u32_at(bytes, 4)?).ok()?;
        let kind = u32_at(bytes, 8)?;
        if name_len == 0 && desc_len == 0 && kind == 0 {
            return None;
        }
        let desc_at = HEADER_LEN.checked_add(padded(name_len)?)?;
        let total = desc_at.checked_add(padded(desc_len)?)?;
        Some(Self {
            name_len,
            desc_at,
            desc_len,
            kind,
            total,
        })
    }

    /// The name in the note that begins with this header, without its NUL; `None` if it is cut.
    fn name<'a>(&self, note: &'a [u8]) -> Option<&'a [u8]> {
        let name = note.get(HEADER_LEN..)?.get(..self.name_len)?;
        Some(name.strip_suffix(&[0]).unwrap_or(name))
    }
}

fn padded(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(4)
}

/// Iterates over the notes in some bytes; ends at an all-zero note, at the end, and at the first
/// note that is cut.
#[derive(Clone, Debug)]
pub struct NoteIter<'a> {
    rest: &'a [u8],
}

impl<'a> NoteIter<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self) -> Option<Note<'a>> {
        let header = NoteHeader::parse(self.rest)?;
        let name = header.name(self.rest)?;
        let desc = self.rest.get(header.desc_at..)?.get(..header.desc_len)?;
        // The last note's padding may be missing.
        self.rest = self.rest.get(header.total..).unwrap_or_default();
        Some(Note {
            name,
            kind: header.kind,
            desc,
        })
    }
}

impl<'a> Iterator for NoteIter<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let note = self.take();
        if note.is_none() {
            self.rest = &[];
        }
        note
    }
}

/// The registers of one CPU when it stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer.
    pub sp: u64,
    /// The program counter.
    pub pc: u64,
    /// The processor state.
    pub pstate: u64,
}

/// A view of an `NT_PRSTATUS` descriptor.
#[derive(Clone, Copy, Debug)]
pub struct PrStatus<'a> {
    desc: &'a [u8; PRSTATUS_LEN],
}

impl<'a> PrStatus<'a> {
    /// Views a note as a CPU's; `None` if it is another one or too short.
    pub fn from_note(note: &Note<'a>) -> Option<Self> {
        if note.name != CORE_NAME || note.kind != NT_PRSTATUS {
            return None;
        }
        note.desc.first_chunk().map(|desc| Self { desc })
    }

    /// The CPUs among `notes`, in order.
    pub fn all(notes: &'a [u8]) -> impl Iterator<Item = Self> {
        NoteIter::new(notes).filter_map(|note| Self::from_note(&note))
    }

    /// The pid of the task that ran on the CPU.
    pub fn pid(&self) -> i32 {
        array_at(self.desc, PR_PID).map_or(0, i32::from_le_bytes)
    }

    /// The CPU's registers.
    pub fn registers(&self) -> Registers {
        let mut values = self.desc.get(PR_REG..).unwrap_or_default().chunks_exact(8);
        let mut next = || {
            values
                .next()
                .and_then(|value| u64_at(value, 0))
                .unwrap_or(0)
        };
        Registers {
            x: core::array::from_fn(|_| next()),
            sp: next(),
            pc: next(),
            pstate: next(),
        }
    }
}

/// Appends notes to a caller's buffer, each padded to 4 bytes.
#[derive(Debug)]
pub struct NoteWriter<'b> {
    out: &'b mut [u8],
    len: usize,
}

impl<'b> NoteWriter<'b> {
    /// Continues behind the first `len` bytes of `out`, which already hold notes.
    pub fn new(out: &'b mut [u8], len: usize) -> Self {
        Self { out, len }
    }

    /// Appends one note; `None`, and nothing appended, if it does not fit.
    pub fn push(&mut self, name: &[u8], kind: u32, desc: &[u8]) -> Option<()> {
        let mut at = self.len;
        let out = &mut *self.out;
        let name_len = u32::try_from(name.len()).ok()?.checked_add(1)?;
        put(out, &mut at, &name_len.to_le_bytes())?;
        put(out, &mut at, &u32::try_from(desc.len()).ok()?.to_le_bytes())?;
        put(out, &mut at, &kind.to_le_bytes())?;
        put(out, &mut at, name)?;
        put(out, &mut at, &[0])?;
        put(out, &mut at, padding(name.len().checked_add(1)?))?;
        put(out, &mut at, desc)?;
        put(out, &mut at, padding(desc.len()))?;
        self.len = at;
        Some(())
    }

    /// How many bytes of the buffer hold notes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no note yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The zeros that pad `len` bytes to a multiple of 4.
fn padding(len: usize) -> &'static [u8] {
    match len & 3 {
        1 => &[0; 3],
        2 => &[0; 2],
        3 => &[0; 1],
        _ => &[],
    }
}

/// What [`merge_notes`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergedNotes {
    /// Bytes written at the start of the buffer.
    pub len: usize,
    /// Buffers that held a CPU's registers.
    pub cpus: u32,
    /// Buffers without a note: CPUs that never stopped.
    pub silent: u32,
    /// Whether VMCOREINFO is among the notes.
    pub vmcoreinfo: bool,
    /// Buffers lost in part or whole because they could not be read.
    pub unreadable: u32,
    /// Notes that the buffer had no room for, or that are longer than their segment.
    pub left_out: u32,
}

/// Copies every note that `header` points to into `out`: the CPUs' in the header's order, then
/// VMCOREINFO, which has the first claim on the room because no tool opens a vmcore without it.
pub fn merge_notes(header: &ElfCoreHdr, memory: &impl PhysMem, out: &mut [u8]) -> MergedNotes {
    let mut merger = Merger {
        memory,
        room: out.len(),
        out,
        found: MergedNotes::default(),
    };
    for segment in header.notes() {
        merger.copy(segment, true);
    }
    // It waits at the buffer's end.
    let vmcoreinfo_len = core::mem::take(&mut merger.found.len);
    merger.found.vmcoreinfo = vmcoreinfo_len > 0;
    merger.room = merger.room.saturating_sub(vmcoreinfo_len);
    merger.out.copy_within(..vmcoreinfo_len, merger.room);
    for segment in header.notes() {
        let before = merger.found;
        merger.copy(segment, false);
        let after = &mut merger.found;
        if after.len > before.len {
            after.cpus = after.cpus.saturating_add(1);
        }
    }
    merger.out.copy_within(merger.room.., merger.found.len);
    merger.found.len = merger.found.len.saturating_add(vmcoreinfo_len);
    merger.found
}

struct Merger<'a, M> {
    memory: &'a M,
    out: &'a mut [u8],
    /// Bytes of `out` that notes may be copied to.
    room: usize,
    found: MergedNotes,
}

/// What stands at some place of a segment.
enum Step {
    /// A note, copied or not wanted; the next one starts here.
    Next(PhysAddr),
    /// No note.
    End,
    /// A note that reaches beyond its segment.
    Broken,
}

impl<M: PhysMem> Merger<'_, M> {
    /// Copies the notes of one segment: VMCOREINFO, or all others.
    fn copy(&mut self, segment: PhysRange, vmcoreinfo: bool) {
        let mut at = segment.start;
        let mut ended = None;
        for _ in 0..MAX_NOTES_PER_SEGMENT {
            match self.copy_note(
                PhysRange {
                    start: at,
                    end: segment.end,
                },
                vmcoreinfo,
            ) {
                Ok(Step::Next(next)) => at = next,
                end => {
                    ended = Some(end);
                    break;
                }
            }
        }
        if vmcoreinfo {
            return; // The other pass walks the same segments, and counts.
        }
        let count = match ended {
            Some(Ok(Step::End)) if at == segment.start => &mut self.found.silent,
            Some(Ok(Step::Broken)) => &mut self.found.left_out,
            Some(Err(Unreadable { .. })) => &mut self.found.unreadable,
            _ => return,
        };
        *count = count.saturating_add(1);
    }

    /// Copies the note at the start of `rest` if it is wanted.
    fn copy_note(&mut self, rest: PhysRange, vmcoreinfo: bool) -> Result<Step, Unreadable> {
        let mut start = [0; HEADER_LEN + VMCOREINFO_NAME.len() + 1];
        let readable = usize::try_from(rest.len())
            .unwrap_or(usize::MAX)
            .min(start.len());
        let start = start.get_mut(..readable).unwrap_or_default();
        self.memory.read(rest.start, start)?;
        let Some(header) = NoteHeader::parse(start) else {
            return Ok(Step::End);
        };
        let next = u64::try_from(header.total)
            .ok()
            .and_then(|total| rest.start.checked_add(total));
        let Some(next) = next.filter(|next| *next <= rest.end) else {
            return Ok(Step::Broken);
        };
        let is_vmcoreinfo = header.name(start) == Some(VMCOREINFO_NAME);
        if is_vmcoreinfo == vmcoreinfo {
            let room = self.out.get_mut(self.found.len..self.room);
            if let Some(into) = room.and_then(|room| room.get_mut(..header.total)) {
                self.memory.read(rest.start, into)?;
                self.found.len = self.found.len.saturating_add(header.total);
            } else {
                self.found.left_out = self.found.left_out.saturating_add(1);
            }
        }
        Ok(Step::Next(next))
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::elf::PT_NOTE;
    use crate::elfcorehdr::tests::header;
    use crate::memory::tests::Ram;
    use crate::vmcoreinfo::Vmcoreinfo;

    fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 8192];
        let mut writer = NoteWriter::new(&mut out, 0);
        writer.push(name, kind, desc).unwrap();
        let len = writer.len();
        out.truncate(len);
        out
    }

    /// A per-CPU buffer as the kernel makes it: 424 bytes, zeros at the end.
    fn cpu_note(pid: i32) -> Vec<u8> {
        let mut desc = [0; PRSTATUS_LEN];
        desc[PR_PID..][..4].copy_from_slice(&pid.to_le_bytes());
        for (n, register) in desc[PR_REG..][..34 * 8].chunks_exact_mut(8).enumerate() {
            register.copy_from_slice(&(n as u64 + 1000).to_le_bytes());
        }
        let mut bytes = note(CORE_NAME, NT_PRSTATUS, &desc);
        bytes.resize(424, 0);
        bytes
    }

    #[test]
    fn registers_are_where_the_kernel_puts_them() {
        let bytes = cpu_note(-7);
        let cpus: Vec<_> = PrStatus::all(&bytes).collect();
        assert_eq!(cpus.len(), 1);
        assert_eq!(cpus[0].pid(), -7);
        let registers = cpus[0].registers();
        assert_eq!((registers.x[0], registers.x[30]), (1000, 1030));
        assert_eq!(
            (registers.sp, registers.pc, registers.pstate),
            (1031, 1032, 1033)
        );
        // Invalid twins: another type, another owner, too short.
        for bad in [
            note(CORE_NAME, 2, &[0; PRSTATUS_LEN]),
            note(b"LINUX", NT_PRSTATUS, &[0; PRSTATUS_LEN]),
            note(CORE_NAME, NT_PRSTATUS, &[0; PRSTATUS_LEN - 4]),
        ] {
            assert_eq!(PrStatus::all(&bad).count(), 0);
        }
    }

    #[test]
    fn merging_keeps_cpu_order_skips_silent_cpus_and_ends_with_vmcoreinfo() {
        let mut ram = Ram::default();
        let mut vmcoreinfo = note(VMCOREINFO_NAME, 0, b"PAGESIZE=4096\nCRASHTIME=1");
        vmcoreinfo.resize(4132, 0);
        ram.put(0x1000, &vmcoreinfo);
        ram.put(0x3000, &cpu_note(1));
        ram.put(0x4000, &[0; 424]);
        ram.put(0x5000, &cpu_note(3));
        let mut cut = cpu_note(4);
        cut[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        ram.put(0x6000, &cut);
        let bytes = header(&[
            (PT_NOTE, 0x1000, 4132),
            (PT_NOTE, 0x3000, 424),
            (PT_NOTE, 0x4000, 424),
            (PT_NOTE, 0x9000, 424), // not in RAM
            (PT_NOTE, 0x6000, 424), // a length beyond its segment
            (PT_NOTE, 0x5000, 424),
        ]);
        let header = ElfCoreHdr::parse(&bytes).unwrap();

        let mut out = vec![0; 4096];
        let merged = merge_notes(&header, &ram, &mut out);
        let blob = &out[..merged.len];
        assert_eq!(
            merged,
            MergedNotes {
                len: merged.len,
                cpus: 2,
                silent: 1,
                vmcoreinfo: true,
                unreadable: 1,
                left_out: 1
            }
        );
        assert_eq!(
            PrStatus::all(blob).map(|cpu| cpu.pid()).collect::<Vec<_>>(),
            [1, 3]
        );
        assert_eq!(NoteIter::new(blob).last().unwrap().name, VMCOREINFO_NAME);
        assert_eq!(Vmcoreinfo::from_notes(blob).unwrap().crash_time(), Some(1));

        // Too little room: VMCOREINFO is kept, a CPU is not.
        let mut small = vec![0; 500];
        let merged = merge_notes(&header, &ram, &mut small);
        assert_eq!(
            (merged.cpus, merged.vmcoreinfo, merged.left_out),
            (1, true, 2)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(NoteIter::new(&bytes).count() <= bytes.len());
        }

        #[test]
        fn written_notes_are_read_back(
            notes in proptest::collection::vec(
                (proptest::collection::vec(1u8.., 0..9), 1u32.., proptest::collection::vec(any::<u8>(), 0..50)),
                0..8,
            )
        ) {
            let mut out = [0; 2048];
            let mut writer = NoteWriter::new(&mut out, 0);
            for (name, kind, desc) in &notes {
                writer.push(name, *kind, desc).unwrap();
            }
            let len = writer.len();
            let read: Vec<_> = NoteIter::new(&out[..len])
                .map(|note| (note.name.to_vec(), note.kind, note.desc.to_vec()))
                .collect();
            prop_assert_eq!(read, notes);
        }
    }
}
