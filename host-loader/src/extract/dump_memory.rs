//! The dead kernel's memory, read from where the dump has it.

use std::cell::RefCell;

use kdraw_format::addr::{FRAME_SIZE, PhysAddr};
use kdraw_format::walk::ReadAt;
use kdraw_linux::memory::{PhysMem, Unreadable};

use crate::partition::DumpPartition;
use crate::scan::Scan;

/// Physical memory over a scanned slot, whose chunks were found whole.
pub struct DumpMemory<'a> {
    partition: RefCell<&'a mut DumpPartition>,
    scan: &'a Scan,
}

impl<'a> DumpMemory<'a> {
    /// The memory in the dump that was scanned.
    pub fn new(partition: &'a mut DumpPartition, scan: &'a Scan) -> Self {
        Self {
            partition: RefCell::new(partition),
            scan,
        }
    }

    /// Reads bytes that lie within one frame.
    fn read_in_frame(&self, at: PhysAddr, into: &mut [u8]) -> Option<()> {
        let pfn = at.pfn();
        let places = &self.scan.places;
        let after = places.partition_point(|place| place.first <= pfn);
        let place = places
            .get(..after)?
            .last()
            .filter(|place| pfn.0.wrapping_sub(place.first.0) < place.frames);
        if let Some(place) = place {
            let inside = at.0.checked_sub(place.first.addr()?.0)?;
            let from = place.at.0.checked_add(inside)?;
            return self.partition.borrow_mut().source.read_at(from, into).ok();
        }
        let zero = self.scan.zero.ranges();
        let after = zero.partition_point(|(first, _)| *first <= pfn.0);
        let (_, end) = zero.get(..after)?.last()?;
        if pfn.0 < *end {
            into.fill(0);
            return Some(());
        }
        None
    }
}

impl PhysMem for DumpMemory<'_> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let here = Unreadable { at };
            let left = FRAME_SIZE.saturating_sub(at.0 % FRAME_SIZE);
            let len = left.min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut_checked(len).ok_or(here)?;
            self.read_in_frame(at, now).ok_or(here)?;
            at = at.checked_add(len as u64).ok_or(here)?;
            rest = later;
        }
        Ok(())
    }
}
