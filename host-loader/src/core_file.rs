//! Reads the memory in an ELF core by physical address: a plain partition's, or a vmcore.

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_linux::memory::{PhysMem, Unreadable};

use crate::source::SharedRead;

const EHDR_LEN: usize = 64;
const PHDR_LEN: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

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
    notes: (u64, u64),
}

impl<R: SharedRead> CoreFile<R> {
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
        let table_at = word(&header, 32).ok_or(NoCore)?;
        let mut table = vec![0; usize::from(count).saturating_mul(PHDR_LEN)];
        source.read_at(table_at, &mut table).map_err(|_| NoCore)?;
        let mut core = Self {
            source,
            loads: Vec::new(),
            notes: (0, 0),
        };
        for entry in table.chunks_exact(PHDR_LEN) {
            core.take(entry).ok_or(NoCore)?;
        }
        Ok(core)
    }

    fn take(&mut self, entry: &[u8]) -> Option<()> {
        let kind = u32::from_le_bytes(field(entry, 0)?);
        let (offset, paddr, len) = (word(entry, 8)?, word(entry, 24)?, word(entry, 32)?);
        offset.checked_add(len)?;
        match kind {
            PT_NOTE => self.notes = (offset, len),
            PT_LOAD => self.loads.push(Load {
                memory: PhysRange::with_len(PhysAddr(paddr), len)?,
                offset,
            }),
            _ => {}
        }
        Some(())
    }

    /// The pieces of memory, in the order of the program headers; the kernel image's may lie
    /// inside others.
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// The notes; empty if they cannot be read or are absurdly long.
    pub fn notes(&self) -> Vec<u8> {
        let (at, len) = self.notes;
        if len > 16 << 20 {
            return Vec::new();
        }
        let mut notes = vec![0; len as usize];
        match self.source.read_at(at, &mut notes) {
            Ok(()) => notes,
            Err(_) => Vec::new(),
        }
    }
}

impl<R: SharedRead> PhysMem for CoreFile<R> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let here = Unreadable { at };
            let load = self
                .loads
                .iter()
                .find(|load| load.memory.start <= at && at < load.memory.end)
                .ok_or(here)?;
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
