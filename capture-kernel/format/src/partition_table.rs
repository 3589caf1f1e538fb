//! Finds the partitions of a disk: GPT, or MBR with its chain of logical partitions.
//!
//! The payload uses it to see that the target still is where the plan says; the tool, to
//! find the signed partition in an image of a whole disk. Sources: UEFI 2.10 section 5.3;
//! the MBR as Linux reads it (block/partitions/msdos.c).

use crate::bytes::Get;
use crate::walk::{ReadAt, ReadFailed};

const SECTOR: u64 = 512;
const MAX_GPT_ENTRIES: u32 = 1024;
const MAX_LOGICAL: u32 = 128;

/// A partition: where it lies on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number as Linux counts.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Calls `visit` for each partition of the disk; it ends when `visit` returns false.
///
/// `block_size` is the disk's logical block size; GPT counts in it. Returns whether a table
/// was found at all.
///
/// # Errors
/// [`ReadFailed`] if the table itself cannot be read.
pub fn partitions(
    disk: &mut impl ReadAt,
    block_size: u64,
    mut visit: impl FnMut(Partition) -> bool,
) -> Result<bool, ReadFailed> {
    let mut mbr = [0; SECTOR as usize];
    disk.read_at(0, &mut mbr)?;
    if mbr.get(510..) != Some(&[0x55, 0xaa]) {
        return Ok(false);
    }
    if mbr_entries(&mbr).any(|entry| entry.kind == 0xee) {
        return gpt(disk, block_size, &mut visit);
    }
    let mut found = false;
    for (number, entry) in (1..).zip(mbr_entries(&mbr)) {
        if entry.is_empty() {
            continue;
        }
        found = true;
        let go_on = if entry.is_extended() {
            logical(disk, block_size, entry.start, &mut visit)?
        } else {
            visit(entry.partition(number, 0, block_size))
        };
        if !go_on {
            break;
        }
    }
    Ok(found)
}

struct MbrEntry {
    kind: u8,
    start: u32,
    sectors: u32,
}

impl MbrEntry {
    fn is_empty(&self) -> bool {
        self.kind == 0 || self.sectors == 0
    }

    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    /// MBR entries count in the disk's logical blocks, from `base`.
    fn partition(&self, number: u32, base: u64, block_size: u64) -> Partition {
        let start = base.saturating_add(u64::from(self.start));
        Partition {
            number,
            start: start.saturating_mul(block_size),
            len: u64::from(self.sectors).saturating_mul(block_size),
        }
    }
}

fn mbr_entries(sector: &[u8]) -> impl Iterator<Item = MbrEntry> {
    let table = sector.get(446..510).unwrap_or_default();
    table.chunks_exact(16).map(|bytes| {
        let mut get = Get::new(bytes);
        get.skip(4);
        let kind = get.u8();
        get.skip(3);
        MbrEntry {
            kind,
            start: get.u32(),
            sectors: get.u32(),
        }
    })
}

/// Follows the chain of extended boot records; returns whether to go on.
fn logical(
    disk: &mut impl ReadAt,
    block_size: u64,
    extended: u32,
    visit: &mut impl FnMut(Partition) -> bool,
) -> Result<bool, ReadFailed> {
    let extended = u64::from(extended);
    let mut record = extended;
    // The chain may loop: its length is bounded.
    for number in 5..MAX_LOGICAL {
        let mut sector = [0; SECTOR as usize];
        disk.read_at(record.saturating_mul(block_size), &mut sector)?;
        if sector.get(510..) != Some(&[0x55, 0xaa]) {
            break;
        }
        let mut next = None;
        for entry in mbr_entries(&sector).take(2) {
            if entry.is_extended() {
                next = Some(extended.saturating_add(u64::from(entry.start)));
            } else if !entry.is_empty() && !visit(entry.partition(number, record, block_size)) {
                return Ok(false);
            }
        }
        match next {
            Some(next) => record = next,
            None => break,
        }
    }
    Ok(true)
}

fn gpt(
    disk: &mut impl ReadAt,
    block_size: u64,
    visit: &mut impl FnMut(Partition) -> bool,
) -> Result<bool, ReadFailed> {
    let mut header = [0; SECTOR as usize];
    disk.read_at(block_size, &mut header)?;
    let mut get = Get::new(&header);
    if get.slice(8) != b"EFI PART" {
        return Ok(false);
    }
    get.skip(64);
    let entries_lba = get.u64();
    let (count, entry_len) = (get.u32(), get.u32());
    if !(128..=4096).contains(&entry_len) {
        return Ok(false);
    }
    let table = entries_lba.saturating_mul(block_size);
    for index in 0..count.min(MAX_GPT_ENTRIES) {
        let mut entry = [0; 48];
        let offset = u64::from(index).saturating_mul(u64::from(entry_len));
        disk.read_at(table.saturating_add(offset), &mut entry)?;
        let mut get = Get::new(&entry);
        let kind: [u8; 16] = get.array();
        get.skip(16);
        let (first, last) = (get.u64(), get.u64());
        if kind == [0; 16] || last < first {
            continue;
        }
        let blocks = last.saturating_sub(first).saturating_add(1);
        let partition = Partition {
            number: index.saturating_add(1),
            start: first.saturating_mul(block_size),
            len: blocks.saturating_mul(block_size),
        };
        if !visit(partition) {
            break;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn list(mut disk: Vec<u8>) -> (bool, Vec<(u32, u64, u64)>) {
        let mut found = Vec::new();
        let table = partitions(&mut disk, 512, |p| {
            found.push((p.number, p.start / 512, p.len / 512));
            true
        });
        (table.unwrap(), found)
    }

    fn mbr_entry(disk: &mut [u8], sector: usize, index: usize, kind: u8, start: u32, sectors: u32) {
        let at = sector * 512 + 446 + index * 16;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn gpt_partitions_are_found() {
        let mut disk = vec![0; 64 << 10];
        mbr_entry(&mut disk, 0, 0, 0xee, 1, 127);
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72..512 + 80].copy_from_slice(&2u64.to_le_bytes());
        disk[512 + 80..512 + 84].copy_from_slice(&128u32.to_le_bytes());
        disk[512 + 84..512 + 88].copy_from_slice(&128u32.to_le_bytes());
        for (index, first, last) in [(0usize, 40u64, 49u64), (3, 50, 50), (5, 60, 59)] {
            let at = 1024 + index * 128;
            disk[at] = 1;
            disk[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            disk[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        }
        assert_eq!(list(disk), (true, vec![(1, 40, 10), (4, 50, 1)]));
    }

    #[test]
    fn mbr_and_logical_partitions_are_found_and_a_loop_ends() {
        let mut disk = vec![0; 64 << 10];
        mbr_entry(&mut disk, 0, 0, 0x83, 2, 8);
        mbr_entry(&mut disk, 0, 1, 0x05, 20, 80);
        mbr_entry(&mut disk, 20, 0, 0x83, 1, 9);
        mbr_entry(&mut disk, 20, 1, 0x05, 20, 20);
        mbr_entry(&mut disk, 40, 0, 0x83, 1, 7);
        let expected = vec![(1, 2, 8), (5, 21, 9), (6, 41, 7)];
        assert_eq!(list(disk.clone()), (true, expected));
        mbr_entry(&mut disk, 40, 1, 0x05, 0, 20);
        assert!(list(disk).1.len() < 200);
    }

    #[test]
    fn no_table_is_told_from_an_empty_one() {
        assert_eq!(list(vec![0; 4096]), (false, vec![]));
        assert!(partitions(&mut vec![0; 100], 512, |_| true).is_err());
    }
}
