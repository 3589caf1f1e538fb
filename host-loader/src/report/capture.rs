//! What the capture did, and what it left out: as the slot tells it, or metadata.json beside a
//! vmcore; of another tool's vmcore what the file says of itself.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::black_box::BlackBox;
use crate::extract::metadata;
use crate::extract::vmcore::Outcome;
use crate::input::Vmcore;
use crate::partition::DumpPartition;
use crate::payload;
use crate::scan::{ClassPart, Scan, Trailer};
use crate::summary;

/// What the capture did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Capture {
    /// Where the dump is: `slot 0`, `kdump`, `elf`.
    pub format: String,
    /// Whether kdraw made it; if not, nothing is known but what the file shows.
    pub by_kdraw: bool,
    /// Frames in the dump, and those that there were; of 4 KiB.
    pub frames: u64,
    /// Frames of the machine's memory, as far as the dump tells; 0 if it does not.
    pub memory_frames: u64,
    /// The dump level, makedumpfile's bits.
    pub level: Option<u8>,
    /// Classes left out for want of room.
    pub left_out: Vec<String>,
    /// What became of the capture.
    pub outcome: Option<String>,
    /// What is lost, in words.
    pub losses: Vec<String>,
    /// Microseconds from the payload's first instruction to the durable trailer.
    pub elapsed_us: Option<u64>,
    /// What the payload counted.
    pub trailer: Option<Trailer>,
    /// What the dump holds, most valuable first.
    pub classes: Vec<ClassPart>,
    /// The payload's version.
    pub payload: Option<String>,
    /// The end of the payload's log.
    pub payload_log: Vec<String>,
    /// What it noted of the machine.
    #[serde(skip)]
    pub told: BlackBox,
}

/// What is taken of metadata.json.
#[derive(Deserialize)]
struct Told {
    vmcore: String,
    outcome: Option<String>,
    losses: Vec<String>,
    level: Option<u8>,
    left_out: Vec<String>,
    elapsed_us: Option<u64>,
    trailer: Option<Trailer>,
    classes: Vec<ClassPart>,
    black_box: Option<BlackBox>,
    payload_log: Vec<String>,
}

impl Capture {
    /// Of a slot.
    pub fn of_slot(partition: &DumpPartition, scan: &Scan) -> Self {
        let told = scan.black_box.clone().unwrap_or_default();
        let core = Outcome {
            missing: scan.missing(),
            ..Outcome::default()
        };
        let header = &scan.header;
        Self {
            format: match partition.superblock.plain {
                true => "plain partition".to_owned(),
                false => format!("slot {}", header.index),
            },
            by_kdraw: true,
            frames: scan.known().count(),
            memory_frames: scan.promised().count(),
            level: Some(header.level),
            left_out: header
                .left_out
                .iter()
                .map(summary::class)
                .map(str::to_owned)
                .collect(),
            outcome: Some(summary::outcome(header.outcome).to_owned()),
            losses: metadata::losses(scan, &core),
            elapsed_us: Some(header.elapsed_us).filter(|elapsed| *elapsed > 0),
            trailer: scan.trailer.clone(),
            classes: scan.parts.clone(),
            payload: told.payload_version.clone(),
            payload_log: payload::decode_log(&scan.payload_log, told.payload_hash),
            told,
        }
    }

    /// Of a vmcore, and of the metadata.json beside it if that is of this vmcore.
    pub fn of_vmcore(vmcore: &Vmcore, path: &Path) -> Self {
        let image = vmcore.image();
        let mut capture = Self {
            format: vmcore.format().to_owned(),
            frames: vmcore.known().count(),
            memory_frames: vmcore.exist().count(),
            level: Some(image.level).filter(|level| *level > 0),
            losses: vmcore.problems.clone(),
            ..Self::default()
        };
        capture.told.uname = image.uname.to_vec();
        capture.told.crash_time = Some(image.crash_time);
        let (folder, name) = match path.is_dir() {
            true => (Some(path), None),
            false => (path.parent(), path.file_name()),
        };
        let beside = folder.map(|folder| folder.join("metadata.json"));
        let text = beside.and_then(|beside| fs::read(beside).ok());
        let told = serde_json::from_slice::<Told>(&text.unwrap_or_default());
        let is_its = |told: &Told| name.is_none_or(|name| name == told.vmcore.as_str());
        if let Some(told) = told.ok().filter(is_its) {
            capture.add(told);
        }
        if vmcore.is_incomplete() && capture.losses.is_empty() {
            let why = "the vmcore says of itself that something is missing";
            capture.losses.push(why.to_owned());
        }
        capture
    }

    fn add(&mut self, told: Told) {
        self.by_kdraw = true;
        self.losses.extend(told.losses);
        self.outcome = told.outcome;
        self.level = told.level.or(self.level);
        self.left_out = told.left_out;
        self.elapsed_us = told.elapsed_us.filter(|elapsed| *elapsed > 0);
        self.trailer = told.trailer;
        self.classes = told.classes;
        self.payload_log = told.payload_log;
        if let Some(black_box) = told.black_box {
            self.payload = black_box.payload_version.clone();
            self.told = black_box;
        }
    }
}
