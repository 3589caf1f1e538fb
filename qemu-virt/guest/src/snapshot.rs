//! Saves what the kernel says of each page shortly before it panics, where the harness finds it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use kdraw_guest::page_flags::{ENTRIES, MAGIC};

use crate::memory::{Page, frame_of};
use crate::{Result, read, write};

/// Room for the flags of all pages of System RAM.
pub struct Snapshot {
    pages: Vec<Page>,
    /// The first page frame that each of them tells of.
    frames: Vec<u64>,
}

impl Snapshot {
    /// Makes room, so that taking the snapshot changes no page's use; and takes one page out of
    /// use as broken memory, so that there is one.
    pub fn prepare() -> Result<Self> {
        let broken = Box::new(Page([1; _]));
        let address = frame_of(&broken)? * size_of::<Page>() as u64;
        // The kernel moves the contents elsewhere (sysfs-memory-page-offline).
        write(
            "/sys/devices/system/memory/soft_offline_page",
            &format!("{address:#x}"),
        )?;
        let mut frames = Vec::new();
        for (first, end) in system_ram()? {
            frames.extend((first..end).step_by(ENTRIES as usize));
        }
        let pages = vec![Page([1; _]); frames.len()];
        Ok(Self { pages, frames })
    }

    /// Reads the flags.
    pub fn take(mut self) -> Result<Self> {
        let path = "/proc/kpageflags";
        let file = File::open(path).map_err(|e| format!("{path}: {e}"))?;
        for (page, frame) in self.pages.iter_mut().zip(&self.frames) {
            // Fewer at the end of memory.
            file.read_at(&mut page.0[16..], frame * 8)
                .map_err(|e| format!("{path}: {e}"))?;
            page.0[..8].copy_from_slice(&MAGIC.to_le_bytes());
            page.0[8..16].copy_from_slice(&frame.to_le_bytes());
        }
        println!("guest: snapshot of {} pages of flags", self.pages.len());
        Ok(self)
    }
}

/// Returns the page frames of System RAM, as first and behind the last.
fn system_ram() -> Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    for line in read("/proc/iomem")?.lines() {
        if let Some(range) = line.strip_suffix(" : System RAM") {
            let parse = |text: &str| u64::from_str_radix(text, 16).ok();
            let (start, last) = range
                .split_once('-')
                .and_then(|(start, last)| Some((parse(start)?, parse(last)?)))
                .ok_or_else(|| format!("/proc/iomem: {line}"))?;
            let page = size_of::<Page>() as u64;
            ranges.push((start / page, (last + 1) / page));
        }
    }
    Ok(ranges)
}
