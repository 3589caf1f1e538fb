//! Which pages a kdump-compressed file of makedumpfile's holds.
//!
//! The file is blocks of a page's size: `disk_dump_header` (block size at 428, blocks of the
//! sub-header at 432, of both bitmaps at 436), sub-header (`max_mapnr_64` at 96), bitmap 1 (pages
//! that exist), bitmap 2 (pages that were kept), then a `page_desc` of 24 bytes for each bit of
//! bitmap 2, which begins with the offset of the page's data.
//!
//! Source: makedumpfile `diskdump_mod.h`, IMPLEMENTATION; header version 6.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Bytes of a `page_desc`.
const DESCRIPTOR: u64 = 24;

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is in the file.
    Stored,
    /// It shares its data with others: all zero pages do at the levels that leave them out.
    Zero,
    /// It was left out.
    Dropped,
}

/// Reads what became of `count` pages from page frame `first` on.
pub fn pages(path: &Path, first: u64, count: usize) -> Result<Vec<Kept>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let header: [u8; 464] = read(&file, 0)?;
    ensure!(
        header.starts_with(b"KDUMP   ") && word(&header, 8) == 6,
        "{} is no kdump-compressed file of version 6",
        path.display()
    );
    let block = word(&header, 428);
    let sub_header: [u8; 104] = read(&file, block)?;
    let pages = u64::from_le_bytes(sub_header[96..].try_into()?);
    let (bitmaps, blocks) = ((1 + word(&header, 432)) * block, word(&header, 436) * block);
    let mut bitmap = vec![0; usize::try_from(blocks / 2)?];
    file.read_exact_at(&mut bitmap, bitmaps + blocks / 2)?;
    let kept: Vec<u64> = (0..pages)
        .filter(|pfn| bitmap[(pfn / 8) as usize] >> (pfn % 8) & 1 != 0)
        .collect();
    let mut descriptors = vec![0; kept.len() * DESCRIPTOR as usize];
    file.read_exact_at(&mut descriptors, bitmaps + blocks)?;
    let offsets = descriptors
        .chunks(DESCRIPTOR as usize)
        .map(|bytes| &bytes[..8]);
    let mut users: HashMap<&[u8], usize> = HashMap::new();
    for offset in offsets.clone() {
        *users.entry(offset).or_default() += 1;
    }
    let mut result = vec![Kept::Dropped; count];
    for (pfn, offset) in kept.into_iter().zip(offsets) {
        let inside = pfn.checked_sub(first).map(|index| index as usize);
        if let Some(page) = inside.and_then(|index| result.get_mut(index)) {
            *page = match users.get(offset) {
                Some(1) => Kept::Stored,
                _ => Kept::Zero,
            };
        }
    }
    Ok(result)
}

fn read<const N: usize>(file: &File, at: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)
        .context("the file ends within its headers")?;
    Ok(bytes)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes[at..at + 4].iter().rev();
    word.fold(0, |value, byte| value << 8 | u64::from(*byte))
}
