//! Any elfcorehdr.

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_linux::elfcorehdr::{ElfCoreHdr, MemoryMap};
use kdraw_linux::notes::{PrStatus, merge_notes};
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::Echo;

/// An elfcorehdr, the notes that it leads to, the memory map that is made of its claims. The memory
/// is the input.
pub(crate) fn elfcorehdr(data: &[u8]) {
    let Ok(header) = ElfCoreHdr::parse(data) else {
        return;
    };
    let mut notes = [0; 2048];
    let merged = merge_notes(&header, &Echo(data), &mut notes);
    let notes = &notes[..merged.len];
    assert_eq!(
        merged.vmcoreinfo,
        Vmcoreinfo::from_notes(notes).is_some(),
        "VMCOREINFO lost"
    );
    for status in PrStatus::all(notes) {
        let _ = (status.pid(), status.registers());
    }
    let crash_region = PhysRange {
        start: PhysAddr(0x7000_0000),
        end: PhysAddr(0x7080_0000),
    };
    let limit = PhysAddr(1 << 48);
    let map = MemoryMap::new(header.loads(), &[crash_region], limit);
    let mut end = None;
    for range in map.ranges() {
        assert!(
            end.is_none_or(|end| end < range.start),
            "not sorted, or adjacent"
        );
        assert!(!range.is_empty() && !range.overlaps(&crash_region) && range.end <= limit);
        end = Some(range.end);
    }
}
