//! Checks everything on a partition that the format covers: both superblocks, the areas that
//! must be zero, the journal, both headers of each slot, every chunk of each dump, a plain core's
//! pieces, and the trailer's counts against what was found.

use kdraw_format::layout::{
    BLOCK, DATA_START, JOURNAL_RECORD, JOURNAL_RECORDS, JOURNAL_START, PLAIN_SLOT_START, SlotPlace,
};
use kdraw_format::slot::Outcome;
use kdraw_format::walk::ReadAt;
use serde::Serialize;

use crate::frames::FrameSet;
use crate::partition::{DumpPartition, JournalRecord};
use crate::plain_core;
use crate::scan::{ClassPart, Scan};
use crate::summary;

/// The most ranges of missing memory that a report lists.
const MAX_RANGES: usize = 64;

/// What was found on a partition.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Nothing is damaged and nothing is missing.
    pub good: bool,
    /// What is wrong outside of slots.
    pub problems: Vec<String>,
    /// The slots that hold a dump, and the others if something is wrong with them.
    pub slots: Vec<SlotReport>,
}

/// What was found in a slot.
#[derive(Debug, Serialize)]
pub struct SlotReport {
    /// Its number.
    pub slot: u32,
    /// What became of the dump.
    pub outcome: &'static str,
    /// The dump level, makedumpfile's bits.
    pub level: u8,
    /// Classes of pages that were wanted, and left out for want of room.
    pub left_out: Vec<&'static str>,
    /// What the dump holds, most valuable first.
    pub classes: Vec<ClassPart>,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Whole chunks.
    pub chunks: u64,
    /// Frames whose content is there.
    pub frames: u64,
    /// Frames that the payload could not read.
    pub unreadable_frames: u64,
    /// Frames that should be there and are not.
    pub missing_frames: u64,
    /// The same in bytes.
    pub missing_bytes: u64,
    /// Where they are in memory; the first of them if there are very many.
    pub missing_ranges: Vec<(u64, u64)>,
}

/// Verifies a whole partition; `progress` hears position and total of the slot being read.
pub fn verify(partition: &mut DumpPartition, progress: &mut dyn FnMut(u64, u64)) -> Report {
    let mut problems = Vec::new();
    superblocks(partition, &mut problems);
    unused(partition, &mut problems);
    for (index, record) in partition.journal().iter().enumerate() {
        if *record == JournalRecord::Damaged {
            problems.push(format!("journal record {index}: damaged"));
        }
    }
    let places: Vec<_> = partition.slots().collect();
    let slots: Vec<_> = places
        .iter()
        .map(|slot| verify_slot(partition, slot, progress))
        .collect();
    Report {
        good: problems.is_empty() && slots.iter().all(|slot| slot.problems.is_empty()),
        problems,
        slots,
    }
}

fn superblocks(partition: &mut DumpPartition, problems: &mut Vec<String>) {
    let copies = partition.source.superblock_copies();
    for (name, copy) in ["A", "B"].iter().zip(&copies) {
        if let Err(why) = copy {
            problems.push(format!("superblock {name}: {why}"));
        }
    }
    if let [Ok(a), Ok(b)] = &copies
        && a != b
    {
        problems.push("superblocks A and B differ".to_owned());
    }
    let (expected, found) = (partition.superblock.partition_len, partition.source.len());
    if found < expected {
        problems.push(format!(
            "the partition has {expected} bytes, only {found} are there"
        ));
    }
}

/// The areas that `kdraw format` zeroed and nothing writes.
fn unused(partition: &mut DumpPartition, problems: &mut Vec<String>) {
    let journal_end = JOURNAL_START.saturating_add(JOURNAL_RECORD.saturating_mul(JOURNAL_RECORDS));
    let head_end = if partition.superblock.plain {
        PLAIN_SLOT_START
    } else {
        DATA_START
    };
    let mut buffer = vec![0; 64 << 10];
    for (mut at, end) in [(BLOCK as u64, JOURNAL_START), (journal_end, head_end)] {
        while at < end {
            let len = end.saturating_sub(at).min(buffer.len() as u64);
            let piece = buffer.get_mut(..len as usize).unwrap_or_default();
            let read = partition.source.read_at(at, piece);
            let first = piece.iter().position(|&byte| byte != 0);
            match (read, first) {
                (Err(why), _) => problems.push(format!("unused area: {why}")),
                (Ok(()), Some(index)) => problems.push(format!(
                    "unused area: byte {:#x} is not zero",
                    at.saturating_add(index as u64)
                )),
                (Ok(()), None) => {}
            }
            at = at.saturating_add(len);
        }
    }
}

fn verify_slot(
    partition: &mut DumpPartition,
    slot: &SlotPlace,
    progress: &mut dyn FnMut(u64, u64),
) -> SlotReport {
    let mut problems = Vec::new();
    for (name, copy) in ["A", "B"].iter().zip(partition.header_copies(slot)) {
        if copy.is_none() {
            problems.push(format!("header {name}: damaged"));
        }
    }
    let scan = Scan::of(partition, slot, progress);
    if let Some(epitaph) = summary::epitaph(&scan.header.epitaph) {
        problems.push(format!("the capture failed: {epitaph}"));
    }
    let mut missing = scan.missing();
    let mut frames = scan.known().count();
    if scan.header.outcome != Outcome::Empty {
        stream(&scan, partition.superblock.plain, &mut problems);
        if partition.superblock.plain {
            let core = plain_core::check(partition, &scan, progress);
            problems.extend(core.problems);
            missing = core.missing;
            frames = core.known.count();
        }
    }
    let missing_frames = missing.count();
    if missing_frames > 0 && scan.header.outcome != Outcome::Empty {
        problems.push(format!(
            "{missing_frames} frames of the crashed kernel's memory are missing"
        ));
    }
    SlotReport {
        slot: slot.index,
        outcome: summary::outcome(scan.header.outcome),
        level: scan.header.level,
        left_out: scan.header.left_out.iter().map(summary::class).collect(),
        classes: scan.parts.clone(),
        problems,
        chunks: scan.chunks,
        frames,
        unreadable_frames: scan.unreadable.count(),
        missing_frames,
        missing_bytes: missing_frames.saturating_mul(4096),
        missing_ranges: ranges(&missing),
    }
}

fn ranges(frames: &FrameSet) -> Vec<(u64, u64)> {
    let (ranges, _) = frames.phys_ranges(usize::MAX);
    ranges
        .iter()
        .take(MAX_RANGES)
        .map(|range| (range.start.0, range.end.0))
        .collect()
}

/// What is wrong with the chunks.
fn stream(scan: &Scan, plain: bool, problems: &mut Vec<String>) {
    for lost in &scan.lost {
        let frames = match lost.frames {
            Some(frames) if frames > 0 => format!(", {frames} frames with it"),
            _ => String::new(),
        };
        problems.push(format!(
            "stream bytes {:#x}-{:#x} ({} bytes): {}{frames}",
            lost.from,
            lost.to,
            lost.to.saturating_sub(lost.from),
            lost.why
        ));
    }
    for (what, there) in [
        ("black box", scan.black_box.is_some()),
        ("memory map", !scan.memory_map.is_empty()),
        ("notes", !scan.notes.is_empty()),
    ] {
        if !there {
            problems.push(format!("no {what}"));
        }
    }
    let Some(trailer) = &scan.trailer else {
        problems
            .push("no trailer: the capture did not end in order, or its end is lost".to_owned());
        return;
    };
    if let Some(why) = &trailer.truncated {
        problems.push(format!("the capture was cut short: {why}"));
    }
    if !scan.lost.is_empty() {
        return; // the counts differ then, and why is already told
    }
    let chunks = scan.chunks.saturating_sub(1);
    let mut counts = vec![("chunks", trailer.chunks, chunks)];
    if !plain {
        counts.push(("stored frames", trailer.frames, scan.stored.count()));
        if scan.header.stream_len != 0 {
            counts.push(("filled frames", scan.header.filled, scan.filled.count()));
        }
        let unreadable = scan.unreadable.count();
        counts.push(("unreadable frames", trailer.unreadable, unreadable));
    }
    for (what, told, found) in counts {
        if told != found {
            problems.push(format!(
                "the trailer counts {told} {what}, found were {found}"
            ));
        }
    }
    for fate in trailer.classes.iter().filter(|_| !plain) {
        let parts = scan.parts.iter().filter(|part| part.class == fate.class);
        let found = parts.fold(0u64, |sum, part| {
            sum.saturating_add(part.frames).saturating_add(part.filled)
        });
        if fate.kept != found {
            problems.push(format!(
                "the trailer counts {} frames of class {}, found were {found}",
                fate.kept, fate.class
            ));
        }
    }
}
