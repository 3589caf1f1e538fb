//! `kdraw list`: the dumps on a partition.

use std::path::PathBuf;

use anyhow::Result;

use crate::exit::Verdict;
use crate::partition::DumpPartition;
use crate::source::Access;
use crate::summary::{PartitionSummary, SlotSummary};
use crate::system::System;

/// List the dumps on a partition, disk or image file.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw list /dev/mmcblk0p4")]
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
    let summary = PartitionSummary::of(&mut partition);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
        return Ok(Verdict::Good);
    }
    println!("{}", summary.headline());
    println!("{}", SlotSummary::heading());
    for slot in &summary.slots {
        println!("{}", slot.line());
    }
    for record in &summary.journal {
        let reason = record
            .black_box
            .as_ref()
            .and_then(|found| found.reason.as_deref());
        let reason = reason.unwrap_or(if record.whole {
            "no reason recorded"
        } else {
            "damaged"
        });
        println!("journal record {}: {}", record.record, reason.trim_end());
    }
    Ok(Verdict::Good)
}
