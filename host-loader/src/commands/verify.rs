//! `kdraw verify`: checks every byte of a partition that is covered by the format.

use std::path::PathBuf;

use anyhow::Result;

use crate::exit::Verdict;
use crate::partition::DumpPartition;
use crate::progress;
use crate::source::Access;
use crate::summary;
use crate::system::System;
use crate::text;
use crate::verify::{Report, verify};

/// Check every checksum on a partition, and say what is missing.
///
/// Exit code 1 if anything is damaged or missing.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw verify /dev/mmcblk0p4")]
pub struct Args {
    /// The partition's device, its disk, or an image file of either.
    device: PathBuf,
    /// Which of a disk's partitions, if several are signed.
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If no signed partition is found there.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let mut partition = DumpPartition::open(system, &args.device, args.partition, Access::Read)?;
    let bar = progress::bar();
    let report = verify(&mut partition, &mut progress::report(&bar, "verifying"));
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(Verdict::from_good(report.good))
}

fn print(report: &Report) {
    for problem in &report.problems {
        println!("{problem}");
    }
    for slot in &report.slots {
        if slot.outcome == "empty" && slot.problems.is_empty() {
            println!("slot {}: empty: good", slot.slot);
            continue;
        }
        println!(
            "slot {}: {}, level {}, {} chunks, {} frames found, {} missing ({}), {} unreadable{}",
            slot.slot,
            slot.outcome,
            summary::level(slot.level),
            slot.chunks,
            slot.frames,
            slot.missing_frames,
            text::size(slot.missing_bytes),
            slot.unreadable_frames,
            if slot.problems.is_empty() {
                ": good"
            } else {
                ""
            }
        );
        if !slot.left_out.is_empty() {
            println!("  left out for want of room: {}", slot.left_out.join(", "));
        }
        for problem in &slot.problems {
            println!("  {problem}");
        }
        for (start, end) in &slot.missing_ranges {
            println!("  missing memory {start:#x}-{end:#x}");
        }
    }
    println!("{}", if report.good { "All good." } else { "Damaged." });
}
