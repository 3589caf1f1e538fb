//! The crashed kernel's memory, mapped read-only: the only place that reads it.

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_linux::elfcorehdr::{MAX_RANGES, MemoryMap};
use kdraw_linux::memory::{PhysMem, Unreadable};

use crate::mmu::{self, MapError, Use};

unsafe extern "C" {
    /// Copies `len` bytes, a multiple of 64 and not 0; returns 0, or 1 if the source faulted.
    ///
    /// `from` must be an address in the window, `to` writable for `len` bytes. See entry.s.
    pub fn evidence_copy(to: *mut u8, from: *const u8, len: usize) -> u64;
}

/// What evidence_copy moves at once.
const LINE: usize = 64;

/// The mapped evidence.
#[derive(Debug, Default)]
pub struct Evidence {
    ranges: heapless::Vec<(PhysRange, usize), MAX_RANGES>,
}

impl Evidence {
    /// Maps every range of `map`; those that cannot be mapped are told to `dropped`.
    pub fn map(map: &MemoryMap, mut dropped: impl FnMut(PhysRange, MapError)) -> Self {
        let mut this = Self::default();
        for range in map.ranges() {
            match mmu::map(*range, Use::ReadOnly) {
                // Cannot be full: the map has no more ranges than this.
                Ok(seen) => drop(this.ranges.push((*range, seen.as_ptr().addr()))),
                Err(error) => dropped(*range, error),
            }
        }
        this
    }

    /// The ranges that are mapped, in order.
    pub fn ranges(&self) -> impl Iterator<Item = PhysRange> {
        self.ranges.iter().map(|(range, _)| *range)
    }

    /// Where `len` bytes at `at` are seen, if they all are evidence.
    fn seen(&self, at: PhysAddr, len: u64) -> Option<usize> {
        let wanted = PhysRange::with_len(at, len)?;
        let (range, start) = self
            .ranges
            .iter()
            .find(|(range, _)| range.contains(&wanted))?;
        start.checked_add(at.0.checked_sub(range.start.0)? as usize)
    }
}

impl PhysMem for Evidence {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let failed = Unreadable { at };
        let mut from = self.seen(at, into.len() as u64).ok_or(failed)?;
        let mut rest = into;
        while !rest.is_empty() {
            let skip = from % LINE;
            let whole = rest.len() & !LINE.wrapping_sub(1);
            let done = if skip == 0 && whole != 0 {
                // SAFETY: `rest` is a valid slice of at least `whole` bytes; `from` is in the
                // window, and if it faults evidence_copy says so.
                let fault = unsafe { evidence_copy(rest.as_mut_ptr(), from as *const u8, whole) };
                if fault != 0 {
                    return Err(failed);
                }
                whole
            } else {
                // A part of a line: mappings are whole frames, so its line is mapped too.
                let mut line = [0; LINE];
                let line_start = from.wrapping_sub(skip) as *const u8;
                // SAFETY: `line` has LINE bytes; the source is as above.
                let fault = unsafe { evidence_copy(line.as_mut_ptr(), line_start, LINE) };
                let part = line.get(skip..).filter(|_| fault == 0).ok_or(failed)?;
                let take = part.len().min(rest.len());
                match (rest.get_mut(..take), part.get(..take)) {
                    (Some(into), Some(part)) => into.copy_from_slice(part),
                    _ => return Err(failed),
                }
                take
            };
            rest = rest.get_mut(done..).ok_or(failed)?;
            from = from.wrapping_add(done);
        }
        Ok(())
    }
}
