//! metadata.json: where a vmcore is from, and what of it is missing.

use serde::Serialize;

use super::Wanted;
use super::dmesg::Log;
use super::vmcore::Outcome;
use crate::black_box::BlackBox;
use crate::openers::Openers;
use crate::partition::DumpPartition;
use crate::payload;
use crate::scan::{ClassPart, Lost, Scan, Trailer};
use crate::summary;
use crate::text;

/// The most ranges of missing memory that are listed.
const MAX_RANGES: usize = 1024;

/// Everything worth knowing beside the vmcore.
#[derive(Debug, Serialize)]
pub struct Metadata {
    /// The version of kdraw that extracted it.
    pub kdraw: &'static str,
    /// Where it was extracted from.
    pub device: String,
    /// The partition's UUID.
    pub partition_uuid: String,
    /// The slot.
    pub slot: u32,
    /// The dump's id.
    pub dump_id: String,
    /// What became of the capture.
    pub outcome: &'static str,
    /// The payload's last words if it failed.
    pub epitaph: Option<String>,
    /// When it crashed, for people.
    pub crashed: Option<String>,
    /// When it was extracted, in seconds since 1970.
    pub extracted: u64,
    /// Whether everything that was promised is there.
    pub complete: bool,
    /// Losses, in words.
    pub losses: Vec<String>,
    /// The vmcore's name.
    pub vmcore: &'static str,
    /// Bytes of the vmcore.
    pub vmcore_bytes: u64,
    /// Frames in the vmcore.
    pub frames: u64,
    /// Frames that the payload could not read.
    pub unreadable_frames: u64,
    /// Frames that are missing.
    pub missing_frames: u64,
    /// Where they are in memory; the first of them if there are very many.
    pub missing_ranges: Vec<(u64, u64)>,
    /// The dump level, makedumpfile's bits.
    pub level: u8,
    /// Classes left out for want of room.
    pub left_out: Vec<&'static str>,
    /// Frames that are told to be filled with one byte.
    pub filled_frames: u64,
    /// How the chunks of pages are packed, and how many chunks are so.
    pub codecs: Vec<(&'static str, u64)>,
    /// What the dump holds, most valuable first.
    pub classes: Vec<ClassPart>,
    /// Parts of the stream that are lost.
    pub lost: Vec<Lost>,
    /// Where dmesg.txt is from.
    pub dmesg_origin: &'static str,
    /// What crash must be told to open the vmcore.
    pub crash_option: Option<String>,
    /// From the payload's first instruction to the durable trailer.
    pub elapsed_us: u64,
    /// What the payload counted.
    pub trailer: Option<Trailer>,
    /// What the black box says.
    pub black_box: Option<BlackBox>,
    /// The payload's log.
    pub payload_log: Vec<String>,
}

impl Metadata {
    /// Collects it.
    pub fn new(
        partition: &DumpPartition,
        scan: &Scan,
        wanted: Wanted,
        core: &Outcome,
        log: &Log,
    ) -> Self {
        let header = &scan.header;
        let (ranges, _) = core.missing.phys_ranges(usize::MAX);
        let hash = scan.black_box.as_ref().and_then(|found| found.payload_hash);
        let mut losses = losses(scan, core);
        if log.unreadable > 0 {
            losses.push(format!(
                "{} records of the kernel log are lost",
                log.unreadable
            ));
        }
        if let Some(trouble) = &log.trouble {
            losses.push(format!("dmesg.txt is from the {}: {trouble}", log.origin));
        }
        Self {
            kdraw: env!("CARGO_PKG_VERSION"),
            device: partition.source.path().display().to_string(),
            partition_uuid: text::uuid(&partition.superblock.uuid),
            slot: header.index,
            dump_id: text::hex(&header.dump_id),
            outcome: summary::outcome(header.outcome),
            epitaph: summary::epitaph(&header.epitaph),
            crashed: scan.crash_time().map(text::time),
            extracted: text::now(),
            complete: losses.is_empty(),
            losses,
            vmcore: wanted.file_name(),
            vmcore_bytes: core.written.bytes,
            frames: core.written.frames,
            unreadable_frames: scan.unreadable.count(),
            missing_frames: core.missing.count(),
            missing_ranges: ranges
                .iter()
                .take(MAX_RANGES)
                .map(|range| (range.start.0, range.end.0))
                .collect(),
            level: header.level,
            left_out: header.left_out.iter().map(summary::class).collect(),
            filled_frames: scan.filled.count(),
            codecs: scan.codecs.clone(),
            classes: scan.parts.clone(),
            lost: scan.lost.clone(),
            dmesg_origin: log.origin,
            crash_option: Openers::from_notes(&scan.notes).crash_option,
            elapsed_us: header.elapsed_us,
            trailer: scan.trailer.clone(),
            black_box: scan.black_box.clone(),
            payload_log: payload::decode_log(&scan.payload_log, hash),
        }
    }
}

/// What a vmcore lacks of a complete dump's, in words.
pub fn losses(scan: &Scan, core: &Outcome) -> Vec<String> {
    let mut losses = core.problems.clone();
    if let Some(epitaph) = summary::epitaph(&scan.header.epitaph) {
        losses.push(format!("the capture failed: {epitaph}"));
    }
    for lost in &scan.lost {
        let len = lost.to.saturating_sub(lost.from);
        losses.push(format!(
            "{len} bytes at stream byte {:#x}: {}",
            lost.from, lost.why
        ));
    }
    match &scan.trailer {
        None => losses.push("no trailer: the capture did not end in order".to_owned()),
        Some(trailer) => {
            if let Some(why) = &trailer.truncated {
                losses.push(format!("the capture was cut short: {why}"));
            }
        }
    }
    let missing = core.missing.count();
    if missing > 0 {
        losses.push(format!(
            "{missing} frames ({}) of memory are missing",
            text::size(missing.saturating_mul(4096))
        ));
    }
    losses.extend(core.written.losses());
    losses
}
