//! Reads the memory in an ELF core by physical address: a plain partition's, or a vmcore.

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_linux::memory::{PhysMem, Unreadable};

use crate::frames::FrameSet;
use crate::source::SharedRead;

const EHDR_LEN: usize = 64;
const PHDR_LEN: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `e_phnum`: the true number is `sh_info` of section header 0.
const PN_XNUM: u16 = 0xffff;
/// Where `sh_info` is in a section header.
const SH_INFO: u64 = 44;
/// `e_flags`: the dump is incomplete (makedumpfile's `DUMP_ELF_INCOMPLETE`).
const INCOMPLETE: u32 = 1;
/// The most program headers, and the most bytes of notes.
const MAX_PHDRS: usize = 1 << 22;
const MAX_NOTES: u64 = 64 << 20;

/// The core's header is missing or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no ELF64 core header at its start, or its program headers cannot be read")]
pub struct NoCore;

/// A piece of memory in a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its physical address.
    pub memory: PhysRange,
    /// Where its bytes begin in the core.
    pub offset: u64,
}

/// An ELF core.
#[derive(Debug)]
pub struct CoreFile<R> {
    source: R,
    loads: Vec<Load>,
    /// The same by address, without what is there twice.
    by_address: Vec<Load>,
    exist: FrameSet,
    notes: Vec<(u64, u64)>,
    flags: u32,
}

impl<R: SharedRead> CoreFile<R> {
    /// Whether `source` begins as an ELF64 file does.
    pub fn looks_like(source: &R) -> bool {
        let mut ident = [0; 6];
        source.read_at(0, &mut ident).is_ok() && ident == *b"\x7fELF\x02\x01"
    }

    /// Reads the core's headers.
    ///
    /// # Errors
    /// [`NoCore`].
    pub fn open(source: R) -> Result<Self, NoCore> {
        let mut header = [0; EHDR_LEN];
        source.read_at(0, &mut header).map_err(|_| NoCore)?;
        let count = header
            .starts_with(b"\x7fELF\x02\x01")
            .then(|| field::<2>(&header, 56))
            .flatten()
            .map(u16::from_le_bytes)
            .ok_or(NoCore)?;
        let count = match count {
            PN_XNUM => {
                let section = word(&header, 40).ok_or(NoCore)?;
                let at = section.checked_add(SH_INFO).ok_or(NoCore)?;
                let mut number = [0; 4];
                source.read_at(at, &mut number).map_err(|_| NoCore)?;
                u32::from_le_bytes(number) as usize
            }
            count => usize::from(count),
        };
        let table_at = word(&header, 32).ok_or(NoCore)?;
        let len = (count <= MAX_PHDRS).then(|| count.checked_mul(PHDR_LEN));
        let mut table = vec![0; len.flatten().ok_or(NoCore)?];
        source.read_at(table_at, &mut table).map_err(|_| NoCore)?;
        let mut core = Self {
            source,
            loads: Vec::new(),
            by_address: Vec::new(),
            exist: FrameSet::default(),
            notes: Vec::new(),
            flags: field(&header, 48).map_or(0, u32::from_le_bytes),
        };
        for entry in table.chunks_exact(PHDR_LEN) {
            core.take(entry).ok_or(NoCore)?;
        }
        core.exist.tidy();
        core.sort();
        Ok(core)
    }

    fn take(&mut self, entry: &[u8]) -> Option<()> {
        let kind = u32::from_le_bytes(field(entry, 0)?);
        let (offset, paddr, len) = (word(entry, 8)?, word(entry, 24)?, word(entry, 32)?);
        offset.checked_add(len)?;
        match kind {
            PT_NOTE => self.notes.push((offset, len)),
            PT_LOAD => {
                // What is in memory and not in the file was left out.
                let exists = word(entry, 40)?.max(len);
                self.exist
                    .add_range(PhysRange::with_len(PhysAddr(paddr), exists)?);
                self.loads.push(Load {
                    memory: PhysRange::with_len(PhysAddr(paddr), len)?,
                    offset,
                });
            }
            _ => {}
        }
        Some(())
    }

    /// Sorts the pieces, without what lies in others (the kernel image does) or behind the end
    /// of the file.
    fn sort(&mut self) {
        let size = self.source.size();
        let mut sorted: Vec<_> = self.loads.clone();
        sorted.sort_by_key(|load| load.memory.start);
        let mut end = 0u64;
        for load in sorted {
            let start = load.memory.start.0.max(end);
            let skipped = start.saturating_sub(load.memory.start.0);
            let offset = load.offset.saturating_add(skipped);
            let room = size.saturating_sub(offset);
            let load_end = load.memory.end.0.min(start.saturating_add(room));
            if load_end > start {
                let memory = PhysRange {
                    start: PhysAddr(start),
                    end: PhysAddr(load_end),
                };
                self.by_address.push(Load { memory, offset });
                end = load_end;
            }
        }
    }

    /// The pieces of memory, in the order of the program headers; the kernel image's may lie
    /// inside others.
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// The frames that existed.
    pub fn exist(&self) -> &FrameSet {
        &self.exist
    }

    /// The frames in it.
    pub fn known(&self) -> FrameSet {
        let mut known = FrameSet::default();
        for load in &self.by_address {
            known.add_range(load.memory);
        }
        known.tidy();
        known
    }

    /// Whether it says of itself that something is missing.
    pub fn is_incomplete(&self) -> bool {
        self.flags & INCOMPLETE != 0
    }

    /// The notes; without those that cannot be read or are absurdly long.
    pub fn notes(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for &(at, len) in &self.notes {
            let before = notes.len();
            if (before as u64).saturating_add(len) > MAX_NOTES {
                break;
            }
            notes.resize(before.saturating_add(len as usize), 0);
            let piece = notes.get_mut(before..).unwrap_or_default();
            if self.source.read_at(at, piece).is_err() {
                notes.truncate(before);
            }
        }
        notes
    }
}

impl<R: SharedRead> PhysMem for CoreFile<R> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let here = Unreadable { at };
            let after = self
                .by_address
                .partition_point(|load| load.memory.start <= at);
            let load = self.by_address.get(..after).and_then(<[_]>::last);
            let load = load.filter(|load| at < load.memory.end).ok_or(here)?;
            let left = load.memory.end.0.saturating_sub(at.0);
            let len = left.min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut_checked(len).ok_or(here)?;
            let inside = at.0.saturating_sub(load.memory.start.0);
            self.source
                .read_at(load.offset.saturating_add(inside), now)
                .map_err(|_| here)?;
            at = at.checked_add(len as u64).ok_or(here)?;
            rest = later;
        }
        Ok(())
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}
