//! The memory map chunk: which ranges the dump is about, and which were left out and why.
//!
//! Entries of 24 bytes: start (u64), end (u64), fate (u32), reserved (u32).

use crate::addr::{PhysAddr, PhysRange};
use crate::bytes::{Get, Put};

/// Bytes of an entry.
pub const ENTRY: usize = 24;

/// What became of a range that the crashed kernel's elfcorehdr names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The crashed kernel's memory: its pages follow, as far as they could be read.
    Memory,
    /// Dropped: the entry is malformed (wraps, empty, misaligned).
    Malformed,
    /// Dropped: above what this CPU can address, or what the payload can map.
    Unreachable,
    /// Dropped: more ranges than the payload has room for.
    NoRoom,
    /// A fate that this version does not know.
    Unknown(u32),
}

impl Fate {
    const fn number(self) -> u32 {
        match self {
            Self::Memory => 1,
            Self::Malformed => 2,
            Self::Unreachable => 3,
            Self::NoRoom => 4,
            Self::Unknown(number) => number,
        }
    }
}

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Where; for a malformed entry as it was found.
    pub range: PhysRange,
    /// What became of it.
    pub fate: Fate,
}

impl MapEntry {
    /// The entry's bytes.
    pub fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        Put::new(&mut bytes)
            .u64(self.range.start.0)
            .u64(self.range.end.0)
            .u32(self.fate.number())
            .finish();
        bytes
    }
}

/// The entries in a memory map chunk's data.
pub fn entries(data: &[u8]) -> impl Iterator<Item = MapEntry> {
    data.chunks_exact(ENTRY).map(|bytes| {
        let mut get = Get::new(bytes);
        let range = PhysRange {
            start: PhysAddr(get.u64()),
            end: PhysAddr(get.u64()),
        };
        let fate = match get.u32() {
            1 => Fate::Memory,
            2 => Fate::Malformed,
            3 => Fate::Unreachable,
            4 => Fate::NoRoom,
            number => Fate::Unknown(number),
        };
        MapEntry { range, fate }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        for fate in [
            Fate::Memory,
            Fate::Malformed,
            Fate::Unreachable,
            Fate::NoRoom,
            Fate::Unknown(9),
        ] {
            let range = PhysRange {
                start: PhysAddr(0x4000_0000),
                end: PhysAddr(0x8000_0000),
            };
            let entry = MapEntry { range, fate };
            assert!(entries(&entry.encode()).eq([entry]));
        }
    }
}
