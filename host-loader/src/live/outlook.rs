//! An estimate beside the partition that the dump is to go to, in words.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::live::device::read_speed;
use crate::live::estimate::{Estimate, Proof, Verdict};
use crate::load::target::Target;
use crate::summary;
use crate::text;

/// The partition that the dump is to go to.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    /// The partition.
    pub device: PathBuf,
    /// Bytes that a dump may take there.
    pub bytes: u64,
    /// Bytes per second that its device reads, if it could be tried.
    pub read_speed: Option<u64>,
}

impl Slot {
    /// The slots of `target`, which are equal.
    pub fn of(target: &Target) -> Self {
        let superblock = &target.partition.superblock;
        let (start, bytes) = match superblock.plain_core() {
            Some((start, len)) => (start.0, len),
            None => superblock
                .slot(0)
                .map_or((0, 0), |slot| (slot.stream_start().0, slot.stream_len())),
        };
        Self {
            device: target.path.clone(),
            bytes,
            read_speed: read_speed(&target.path, start),
        }
    }
}

/// What a panic now would leave, as far as it can be told.
#[derive(Clone, Debug, Serialize)]
pub struct Outlook {
    /// The dump.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Where it goes, if that is known.
    pub slot: Option<Slot>,
    /// Whether it fits there.
    pub fits: Option<bool>,
    /// Seconds that it takes at least: packing by all CPUs or writing, whichever is longer.
    pub dump_s: f64,
}

/// What of it `kdraw status` shows later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// The level in the plan.
    pub level: u8,
    /// Whether the kernel agreed with the filter.
    pub proof: Proof,
    /// The dump's bytes, if they could be estimated.
    pub dump_bytes: Option<u64>,
}

impl Outlook {
    /// Puts them together.
    pub fn new(estimate: Estimate, slot: Option<Slot>) -> Self {
        let writing_s = slot
            .as_ref()
            .and_then(|slot| Some(estimate.dump_bytes as f64 / slot.read_speed? as f64))
            .unwrap_or(0.0);
        Self {
            fits: slot.as_ref().map(|slot| estimate.dump_bytes <= slot.bytes),
            dump_s: estimate.packing_s.max(writing_s),
            estimate,
            slot,
        }
    }

    /// Prints all of it, for people.
    pub fn print(&self) {
        for line in self.details() {
            println!("{line}");
        }
        println!("proof        {}", proof(&self.estimate.proof));
        println!("{}", self.summary());
        for warning in self.warnings() {
            println!("{warning}");
        }
    }

    /// The line that says how large and how long.
    fn summary(&self) -> String {
        let found = &self.estimate;
        let slot = self.slot.as_ref().map_or_else(String::new, |slot| {
            format!("; room for {} in a slot", text::size(slot.bytes))
        });
        format!(
            "estimate     level {}: about {} for {} of {}, at least {} by {}{slot}",
            summary::level(found.level),
            text::size(found.dump_bytes),
            text::size(found.kept_bytes),
            text::size(found.ram),
            seconds(self.dump_s),
            cpus(found.cpus)
        )
    }

    /// What does not fit, and what is odd.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(slot) = self.slot.as_ref().filter(|_| self.fits == Some(false)) {
            warnings.push(format!(
                "warning: a slot has {}, and the dump would take about {}: what is worth least \
                 will be missing. Use a larger partition, fewer slots, or a higher --level",
                text::size(slot.bytes),
                text::size(self.estimate.dump_bytes)
            ));
        }
        if let Some(contradiction) = &self.estimate.meminfo_contradicts
            && self.estimate.proof.verdict == Verdict::Agrees
        {
            warnings.push(format!(
                "warning: {contradiction}; page by page the kernel agrees, so the level stays"
            ));
        }
        warnings
    }

    /// The table of classes, and all else that is known.
    fn details(&self) -> Vec<String> {
        let found = &self.estimate;
        let mut lines = vec![format!(
            "{:<14} {:>10} {:>10}  {:<4} {:>10}",
            "class", "pages", "MiB", "kept", "by kernel"
        )];
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        for row in &found.classes {
            let by_kernel = row
                .by_kernel
                .map_or_else(|| "?".to_owned(), |pages| pages.to_string());
            lines.push(format!(
                "{:<14} {:>10} {:>10.1}  {:<4} {:>10}",
                row.class,
                row.pages,
                mib(row.bytes),
                if row.kept { "yes" } else { "no" },
                by_kernel
            ));
        }
        if found.looked_at < found.ram {
            lines.push(format!(
                "looked at    {} of {}, in pieces; sizes are scaled",
                text::size(found.looked_at),
                text::size(found.ram)
            ));
        }
        if let Some(meminfo) = &found.meminfo {
            let totals = found.totals.named().into_iter();
            let totals: Vec<String> = totals
                .zip(meminfo.totals.named())
                .map(|((name, ours), (_, theirs))| {
                    format!("{name} {:.1} ({:.1})", mib(ours), mib(theirs))
                })
                .collect();
            lines.push(format!(
                "in MiB       {} (by /proc/meminfo)",
                totals.join(", ")
            ));
        }
        let doubts: Vec<String> = found
            .doubts
            .iter()
            .filter(|(_, pages)| *pages > 0)
            .map(|(reason, pages)| format!("{pages} {reason}"))
            .collect();
        if !doubts.is_empty() {
            lines.push(format!("in doubt     {}", doubts.join(", ")));
        }
        if found.kept_needlessly > 0 {
            lines.push(format!(
                "kept         {} pages that need not be, by the kernel's view",
                found.kept_needlessly
            ));
        }
        let looks = found.proof.mistaken.map(|pages| pages.to_string());
        if found.proof.compared > 0 {
            lines.push(format!(
                "looks        {} pages differed",
                looks.join(", then ")
            ));
        }
        lines.push(format!(
            "packing      {} are one byte over and over and take no room; {} by {}",
            text::size(found.filled_bytes),
            seconds(found.packing_s),
            cpus(found.cpus)
        ));
        if let Some(slot) = &self.slot {
            let speed = slot.read_speed.map_or_else(
                || "at an unknown speed".to_owned(),
                |speed| format!("at {}/s, and writes no faster", text::size(speed)),
            );
            lines.push(format!(
                "device       {} reads {speed}",
                slot.device.display()
            ));
        }
        lines.push(format!("took         {}", seconds(found.took_s)));
        lines
    }
}

fn seconds(seconds: f64) -> String {
    text::duration((seconds * 1e6) as u64)
}

fn cpus(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} CPU{plural}")
}

/// What a proof came to.
pub fn proof(proof: &Proof) -> String {
    let verdict = match proof.verdict {
        Verdict::Agrees => "the kernel agrees",
        Verdict::Disagrees => "THE KERNEL DISAGREES",
        Verdict::NotPossible => "not possible",
    };
    format!("{verdict}: {}", proof.detail)
}
