//! Which pages a kdump-compressed file of makedumpfile's holds.
//!
//! The file is blocks of a page's size: `disk_dump_header` (block size at 428, blocks of the
//! sub-header at 432, of both bitmaps at 436), sub-header (`max_mapnr_64` at 96), bitmap 1 (pages
//! that exist), bitmap 2 (pages that were kept). Pages of zeros are kept at every level; at those
//! that leave them out, they share one copy.
//!
//! Source: makedumpfile `diskdump_mod.h`, IMPLEMENTATION; header version 6.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Tells which of the first `count` page frames were kept.
pub fn kept(path: &Path, count: usize) -> Result<Vec<bool>> {
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
    let kept = |pfn: u64| pfn < pages && bitmap[(pfn / 8) as usize] >> (pfn % 8) & 1 != 0;
    Ok((0..).take(count).map(kept).collect())
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
