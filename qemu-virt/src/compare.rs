//! Compares a vmcore with the memory it claims to hold: the guest's RAM file.
//!
//! The crashed kernel's memory does not change between the panic and the reset, and the RAM file
//! survives both; so every page of the vmcore has to be equal to the file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kdraw_guest::pattern::{self, MARKERS, Marker, PAGE_SIZE};

use crate::scenario::boot::Boot;

/// What is read at a time.
const BLOCK: u64 = 1 << 20;
/// Mismatching pages that are named.
const NAMED: usize = 8;

/// A PT_LOAD of the vmcore.
#[derive(Clone, Debug)]
struct Load {
    offset: u64,
    virt: u64,
    phys: u64,
    in_file: u64,
}

/// An ELF vmcore.
pub struct Vmcore {
    file: File,
    /// Bytes of the file.
    pub size: u64,
    loads: Vec<Load>,
    notes: Vec<Range<u64>>,
}

/// What a comparison found.
#[derive(Default)]
pub struct Comparison {
    /// Pages of the vmcore that were compared with the RAM file.
    pub pages: u64,
    /// Pages that differ.
    pub mismatches: u64,
    /// The physical addresses of the first of them.
    pub first: Vec<u64>,
    /// Ranges of the vmcore that are not in RAM at all.
    pub outside: Vec<Range<u64>>,
    /// Pipe markers that were found, anywhere.
    pub pipe_markers: usize,
}

impl Vmcore {
    /// Opens a vmcore and reads its headers (ELF-64, little-endian, ET_CORE, EM_AARCH64).
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let size = file.metadata()?.len();
        let header: [u8; 64] = read(&file, 0)?;
        if !header.starts_with(b"\x7fELF\x02\x01\x01") {
            bail!("{} is not a little-endian ELF-64 file", path.display());
        }
        let (kind, machine) = (number(&header, 16, 2), number(&header, 18, 2));
        if (kind, machine) != (4, 183) {
            bail!(
                "{}: e_type {kind}, e_machine {machine}; expected 4 and 183",
                path.display()
            );
        }
        let (table, entry, count) = (
            number(&header, 32, 8),
            number(&header, 54, 2),
            number(&header, 56, 2),
        );
        let (mut loads, mut notes) = (Vec::new(), Vec::new());
        for index in 0..count {
            let header: [u8; 56] = read(&file, table + index * entry)?;
            let (offset, in_file) = (number(&header, 8, 8), number(&header, 32, 8));
            let (virt, phys) = (number(&header, 16, 8), number(&header, 24, 8));
            if offset.checked_add(in_file).is_none_or(|end| end > size) {
                bail!("program header {index} reaches beyond the file ({size} bytes)");
            }
            match number(&header, 0, 4) {
                1 => loads.push(Load {
                    offset,
                    virt,
                    phys,
                    in_file,
                }),
                4 => notes.push(offset..offset + in_file),
                _ => {}
            }
        }
        Ok(Self {
            file,
            size,
            loads,
            notes,
        })
    }

    /// Returns the bytes of all note segments.
    pub fn raw_notes(&self) -> Result<Vec<u8>> {
        let mut notes = Vec::new();
        for range in &self.notes {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            self.file.read_exact_at(&mut bytes, range.start)?;
            notes.extend(bytes);
        }
        Ok(notes)
    }

    /// Returns the notes as (name, type, contents).
    pub fn notes(&self) -> Result<Vec<(String, u64, Vec<u8>)>> {
        let mut notes = Vec::new();
        for range in &self.notes {
            let mut at = range.start;
            while at + 12 <= range.end {
                let header: [u8; 12] = read(&self.file, at)?;
                let (name_size, size) = (number(&header, 0, 4), number(&header, 4, 4));
                let data = at + 12 + name_size.next_multiple_of(4);
                let end = data + size.next_multiple_of(4);
                if end > range.end {
                    bail!("a note at {at:#x} reaches beyond its segment");
                }
                let mut name = vec![0; name_size as usize];
                self.file.read_exact_at(&mut name, at + 12)?;
                let mut contents = vec![0; size as usize];
                self.file.read_exact_at(&mut contents, data)?;
                let name = String::from_utf8_lossy(&name)
                    .trim_end_matches('\0')
                    .to_owned();
                notes.push((name, number(&header, 8, 4), contents));
                at = end;
            }
        }
        Ok(notes)
    }

    /// Returns the physical ranges that the vmcore holds, merged and in order.
    pub fn covered(&self) -> Vec<Range<u64>> {
        merged(
            self.loads
                .iter()
                .map(|load| load.phys..load.phys + load.in_file),
        )
    }

    /// Returns how many PT_LOADs have a virtual address in the kernel's half.
    pub fn with_virtual_address(&self) -> (usize, usize) {
        let kernel = self
            .loads
            .iter()
            .filter(|load| load.virt >> 52 == 0xfff)
            .count();
        (kernel, self.loads.len())
    }

    /// Compares every page of every PT_LOAD with the RAM file of a boot, except those in the crash
    /// region.
    pub fn compare(&self, ram: &Path, boot: &Boot) -> Result<Comparison> {
        let ram = File::open(ram).with_context(|| ram.display().to_string())?;
        let ram_end = boot.ram_base + ram.metadata()?.len();
        let wanted = pipe_marker_heads();
        let mut found = BTreeSet::new();
        let mut result = Comparison::default();
        let (mut left, mut right) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
        for load in &self.loads {
            let end = load.phys + load.in_file;
            if load.phys < boot.ram_base || end > ram_end {
                result.outside.push(load.phys..end);
                continue;
            }
            for done in (0..load.in_file).step_by(BLOCK as usize) {
                let length = BLOCK.min(load.in_file - done) as usize;
                let (left, right) = (&mut left[..length], &mut right[..length]);
                self.file.read_exact_at(left, load.offset + done)?;
                ram.read_exact_at(right, load.phys + done - boot.ram_base)?;
                for (index, (dumped, real)) in left
                    .chunks(PAGE_SIZE)
                    .zip(right.chunks(PAGE_SIZE))
                    .enumerate()
                {
                    let phys = load.phys + done + (index * PAGE_SIZE) as u64;
                    if boot.crash_region.contains(&phys) {
                        continue;
                    }
                    result.pages += 1;
                    if dumped != real {
                        result.mismatches += 1;
                        if result.first.len() < NAMED {
                            result.first.push(phys);
                        }
                    }
                    if let Some(index) = dumped.first_chunk().and_then(|head| wanted.get(head)) {
                        let mut page = [0; PAGE_SIZE];
                        pattern::marker(Marker::Pipe, *index, &mut page);
                        if dumped == page {
                            found.insert(*index);
                        }
                    }
                }
            }
        }
        result.pipe_markers = found.len();
        Ok(result)
    }

    /// Counts the locked markers that the vmcore has at the physical addresses the guest printed.
    pub fn locked_markers(&self, addresses: &BTreeMap<u32, u64>) -> Result<usize> {
        let mut present = 0;
        for (index, phys) in addresses {
            let holder = self.loads.iter().find(|load| {
                (load.phys..load.phys + load.in_file).contains(phys)
                    && phys - load.phys + PAGE_SIZE as u64 <= load.in_file
            });
            let Some(load) = holder else { continue };
            let dumped: [u8; PAGE_SIZE] = read(&self.file, load.offset + phys - load.phys)?;
            let mut page = [0; PAGE_SIZE];
            pattern::marker(Marker::Locked, *index, &mut page);
            present += usize::from(dumped == page);
        }
        Ok(present)
    }
}

/// Sorts ranges and joins those that touch.
fn merged(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> = ranges.filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Returns the first eight bytes of every pipe marker, by which a page is recognised.
fn pipe_marker_heads() -> HashMap<[u8; 8], u32> {
    let mut heads = HashMap::new();
    for index in 0..MARKERS {
        let mut page = [0; PAGE_SIZE];
        pattern::marker(Marker::Pipe, index, &mut page);
        if let Some(head) = page.first_chunk() {
            heads.insert(*head, index);
        }
    }
    heads
}

fn read<const N: usize>(file: &File, offset: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).with_context(|| {
        format!(
            "the vmcore ends before {:#x}",
            offset.saturating_add(N as u64)
        )
    })?;
    Ok(bytes)
}

/// Reads a little-endian number of `size` bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
