//! What `list`, `info`, `status` and `verify` tell about a partition and its slots, as data for
//! `--json` and in words.

use kdraw_format::black_box::BLACK_BOX_CHUNK;
use kdraw_format::chunk::{ChunkHeader, Class, Kind};
use kdraw_format::layout::SlotPlace;
use kdraw_format::slot::{Epitaph, EpitaphKind, Outcome, SlotHeader};
use kdraw_format::walk::ReadAt;
use kdraw_linux::classify::DumpLevel;
use serde::Serialize;

use crate::black_box::BlackBox;
use crate::partition::{DumpPartition, JournalRecord};
use crate::text;

/// A partition in short.
#[derive(Debug, Serialize)]
pub struct PartitionSummary {
    /// Where it is.
    pub device: String,
    /// The superblock's UUID.
    pub uuid: String,
    /// Its name for people.
    pub label: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether it is for one raw ELF core.
    pub plain: bool,
    /// Whether unextracted dumps may be overwritten.
    pub overwrite: bool,
    /// When it was signed, in seconds since 1970.
    pub created: u64,
    /// Its slots.
    pub slots: Vec<SlotSummary>,
    /// The journal's black boxes.
    pub journal: Vec<JournalSummary>,
}

/// A slot in short.
#[derive(Debug, Serialize)]
pub struct SlotSummary {
    /// Its number.
    pub slot: u32,
    /// `empty`, `writing`, `complete`, `truncated` or `failed`.
    pub outcome: &'static str,
    /// Whether a new dump may be written there.
    pub free: bool,
    /// When it was extracted, in seconds since 1970.
    pub extracted: Option<u64>,
    /// Its room for a dump, in bytes.
    pub room: u64,
    /// The dump's id.
    pub dump_id: Option<String>,
    /// The dump level, makedumpfile's bits.
    pub level: u8,
    /// Classes of pages that were wanted, and left out for want of room.
    pub left_out: Vec<&'static str>,
    /// Bytes of the dump on the partition; 0 if it was not ended.
    pub bytes: u64,
    /// Frames stored.
    pub frames: u64,
    /// Frames that could not be read.
    pub unreadable: u64,
    /// From the payload's first instruction to the durable trailer.
    pub elapsed_us: u64,
    /// Why the payload failed, in words.
    pub epitaph: Option<String>,
    /// What the black box says.
    pub black_box: Option<BlackBox>,
}

/// A journal record in short.
#[derive(Debug, Serialize)]
pub struct JournalSummary {
    /// Its number.
    pub record: usize,
    /// Whether it is whole.
    pub whole: bool,
    /// The id of the capture that wrote it.
    pub dump_id: Option<String>,
    /// What it says.
    pub black_box: Option<BlackBox>,
}

impl PartitionSummary {
    /// Reads the superblock, headers, black boxes and journal; no pages.
    pub fn of(partition: &mut DumpPartition) -> Self {
        let places: Vec<_> = partition.slots().collect();
        let slots = places
            .iter()
            .map(|slot| SlotSummary::of(partition, slot))
            .collect();
        let journal = journal(partition);
        let superblock = &partition.superblock;
        Self {
            device: partition.source.path().display().to_string(),
            uuid: text::uuid(&superblock.uuid),
            label: superblock.label.as_str().to_owned(),
            bytes: superblock.partition_len,
            plain: superblock.plain,
            overwrite: superblock.overwrite,
            created: superblock.created,
            slots,
            journal,
        }
    }

    /// The line that names the partition.
    pub fn headline(&self) -> String {
        let label = match self.label.as_str() {
            "" => String::new(),
            label => format!(" {label:?}"),
        };
        let kind = if self.plain { "plain " } else { "" };
        format!(
            "{}: {kind}kdraw partition{label} of {}, id {}, signed {}",
            self.device,
            text::size(self.bytes),
            self.uuid,
            text::time(self.created)
        )
    }
}

fn journal(partition: &mut DumpPartition) -> Vec<JournalSummary> {
    partition
        .journal()
        .into_iter()
        .enumerate()
        .filter_map(|(record, found)| {
            let (dump_id, data) = match found {
                JournalRecord::Empty => return None,
                JournalRecord::Written { dump_id, data } => (Some(dump_id), Some(data)),
                JournalRecord::Damaged => (None, None),
            };
            Some(JournalSummary {
                record,
                whole: data.is_some(),
                dump_id: dump_id.map(|id| text::hex(&id)),
                black_box: data.map(|data| BlackBox::parse(&data)),
            })
        })
        .collect()
}

impl SlotSummary {
    /// Reads a slot's header and black box.
    pub fn of(partition: &mut DumpPartition, slot: &SlotPlace) -> Self {
        let header = partition.header(slot);
        let used = header.outcome != Outcome::Empty;
        let core_room = partition.superblock.plain_core().map(|(_, len)| len);
        Self {
            slot: slot.index,
            outcome: outcome(header.outcome),
            free: header.is_free(),
            extracted: header.extracted,
            room: core_room.unwrap_or(slot.stream_len()),
            dump_id: used.then(|| text::hex(&header.dump_id)),
            level: header.level,
            left_out: header.left_out.iter().map(class).collect(),
            bytes: header.stream_len.saturating_add(if core_room.is_some() {
                header.plain_len
            } else {
                0
            }),
            frames: header.frames,
            unreadable: header.unreadable,
            elapsed_us: header.elapsed_us,
            epitaph: epitaph(&header.epitaph),
            black_box: used
                .then(|| first_black_box(partition, slot, &header))
                .flatten(),
        }
    }

    /// What became of the dump, in a word or two.
    pub fn state(&self) -> String {
        match (self.outcome, self.extracted) {
            ("empty", _) => "empty".to_owned(),
            ("writing", None) => "not ended".to_owned(),
            (outcome, None) => outcome.to_owned(),
            (outcome, Some(_)) => format!("{outcome}, extracted"),
        }
    }

    /// One line for a table.
    pub fn line(&self) -> String {
        let found = self.black_box.as_ref();
        let when = found.and_then(|found| found.crash_time).map(text::time);
        let kernel = found.and_then(|found| found.os_release.clone());
        let reason = found.and_then(|found| found.reason.clone());
        let size = match self.bytes {
            0 => "-".to_owned(),
            bytes => text::size(bytes),
        };
        let level = match self.outcome {
            "empty" => "-".to_owned(),
            _ => self.level.to_string(),
        };
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let mut line = format!(
            "{:<4}  {:<20}  {:<23}  {:<22}  {:>5}  {:>9}  {}",
            self.slot,
            self.state(),
            or_dash(when),
            or_dash(kernel),
            level,
            size,
            or_dash(reason).trim_end()
        );
        if !self.left_out.is_empty() {
            let classes = self.left_out.join(", ");
            line.push_str(&format!("\n      left out for want of room: {classes}"));
        }
        if let Some(epitaph) = &self.epitaph {
            line.push_str(&format!("\n      {epitaph}"));
        }
        line
    }

    /// The line above [`SlotSummary::line`]s.
    pub fn heading() -> String {
        format!(
            "{:<4}  {:<20}  {:<23}  {:<22}  {:>5}  {:>9}  {}",
            "slot", "state", "when", "kernel", "level", "size", "reason"
        )
    }
}

/// The black box at the start of a slot's stream, if it is whole and of this dump.
fn first_black_box(
    partition: &mut DumpPartition,
    slot: &SlotPlace,
    header: &SlotHeader,
) -> Option<BlackBox> {
    let mut chunk = vec![0; BLACK_BOX_CHUNK];
    partition
        .source
        .read_at(slot.stream_start().0, &mut chunk)
        .ok()?;
    let first = ChunkHeader::decode(&chunk).ok()?;
    let data = first.data(&chunk).ok()?;
    let ours = first.kind == Kind::BlackBox && first.dump_id == header.dump_id;
    ours.then(|| BlackBox::parse(data))
}

/// A dump level's number and name.
pub fn level(bits: u8) -> String {
    DumpLevel::new(bits).map_or_else(|| bits.to_string(), |level| level.to_string())
}

/// A class's name.
pub fn class(class: Class) -> &'static str {
    match class {
        Class::Unclassified => "unclassified",
        Class::KernelCore => "kernel core",
        Class::KernelData => "kernel data",
        Class::Kernel => "kernel",
        Class::CachePrivate => "private cache",
        Class::Cache => "cache",
        Class::User => "user",
        Class::Free => "free",
    }
}

/// An outcome's name in `--json`.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Empty => "empty",
        Outcome::Writing => "writing",
        Outcome::Complete => "complete",
        Outcome::Truncated => "truncated",
        Outcome::Failed => "failed",
    }
}

/// The payload's last words; `None` if it ended in order.
pub fn epitaph(epitaph: &Epitaph) -> Option<String> {
    let what = match epitaph.kind {
        EpitaphKind::None => return None,
        EpitaphKind::Panic => "the payload panicked",
        EpitaphKind::Fault => "the payload faulted",
        EpitaphKind::SystemError => "an SError hit the payload",
        EpitaphKind::Device => "the target failed",
        EpitaphKind::OutOfTime => "the time budget was used up",
    };
    let message = crate::black_box::text(epitaph.message.as_bytes());
    let mut words = format!("{what} after {}", text::duration(epitaph.at_us));
    if !message.is_empty() {
        words.push_str(&format!(": {message}"));
    }
    if epitaph.elr != 0 {
        words.push_str(&format!(
            " (elr {:#x}, esr {:#x}, far {:#x}, sp {:#x}, lr {:#x}, spsr {:#x})",
            epitaph.elr, epitaph.esr, epitaph.far, epitaph.sp, epitaph.lr, epitaph.spsr
        ));
    }
    Some(words)
}
