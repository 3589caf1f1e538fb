//! The crashed kernel's memory, mapped read-only: the only place that reads it.

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_format::memory_map::{Fate, MapEntry};
use kdraw_linux::elfcorehdr::{DropReason, ElfCoreHdr, MAX_DROPPED, MAX_RANGES, MemoryMap};
use kdraw_linux::memory::{PhysMem, Unreadable};

use crate::console::say;
use crate::mmu::{self, Use};

unsafe extern "C" {
    /// Copies `len` bytes, a multiple of 64 and not 0; returns 0, or 1 if the source faulted.
    ///
    /// `from` must be an address in the window, `to` writable for `len` bytes. See entry.s.
    pub fn evidence_copy(to: *mut u8, from: *const u8, len: usize) -> u64;
}

/// What evidence_copy moves at once.
const LINE: usize = 64;

/// The mapped evidence, and what the elfcorehdr claims beyond it.
#[derive(Debug, Default)]
pub struct Evidence {
    ranges: heapless::Vec<(PhysRange, usize), MAX_RANGES>,
    left_out: heapless::Vec<MapEntry, MAX_DROPPED>,
}

impl Evidence {
    /// Maps the memory that `header` claims, without the crash region, and says on the console
    /// what is left out.
    pub fn map(header: &ElfCoreHdr<'_>, crash_region: PhysRange) -> Self {
        let map = MemoryMap::new(header.loads(), &[crash_region], mmu::physical_limit());
        let mut this = Self::default();
        for dropped in map.dropped() {
            let (start, end) = (dropped.claim.start, dropped.claim.start.0);
            let end = PhysAddr(end.wrapping_add(dropped.claim.len));
            let fate = match dropped.why {
                DropReason::Empty | DropReason::Wraps | DropReason::Misaligned => Fate::Malformed,
                DropReason::AbovePhysicalLimit => Fate::Unreachable,
                DropReason::TooMany => Fate::NoRoom,
            };
            this.leave_out(PhysRange { start, end }, fate, &dropped.why);
        }
        for range in map.ranges() {
            match mmu::map(*range, Use::ReadOnly) {
                // Cannot be full: the map has no more ranges than this.
                Ok(seen) => drop(this.ranges.push((*range, seen.as_ptr().addr()))),
                Err(error) => this.leave_out(*range, Fate::Unreachable, &error),
            }
        }
        this
    }

    fn leave_out(&mut self, range: PhysRange, fate: Fate, why: &dyn core::fmt::Display) {
        say!(
            "memory from {} to {} is left out: {why}",
            range.start,
            range.end
        );
        // What does not fit was said at least.
        let _ = self.left_out.push(MapEntry { range, fate });
    }

    /// How many claimed ranges are left out, so that memory may be missing.
    ///
    /// One that wraps around the address space to an end within evidence is not counted: so
    /// kexec-tools 2.0.25 claims the image of Linux 6.1, with a right end and a wrong start. That
    /// memory is claimed once more, as System RAM.
    pub fn left_out(&self) -> usize {
        let missing = |entry: &&MapEntry| !self.is_known_by_its_end(&entry.range);
        self.left_out.iter().filter(missing).count()
    }

    fn is_known_by_its_end(&self, range: &PhysRange) -> bool {
        let last_byte = range.end.0.checked_sub(1).map(PhysAddr);
        range.end < range.start && last_byte.is_some_and(|at| self.seen(at, 1).is_some())
    }

    /// Bytes of evidence.
    pub fn total(&self) -> u64 {
        self.ranges()
            .map(|range| range.len())
            .fold(0, u64::saturating_add)
    }

    /// The dump's memory map: what is mapped, then what is left out.
    pub fn map_entries(&self) -> impl Iterator<Item = MapEntry> {
        let memory = self.ranges().map(|range| MapEntry {
            range,
            fate: Fate::Memory,
        });
        memory.chain(self.left_out.iter().copied())
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
