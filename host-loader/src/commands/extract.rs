//! `kdraw extract`: saves dumps as files that crash, drgn and gdb open.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kdraw_format::layout::SlotPlace;
use kdraw_format::slot::Outcome;

use super::vmcore_args::VmcoreArgs;
use crate::exit::Verdict;
use crate::extract::{Extracted, extract, stream};
use crate::partition::DumpPartition;
use crate::progress;
use crate::source::Access;
use crate::summary;
use crate::system::System;
use crate::text;

/// Save dumps as vmcore, dmesg.txt and metadata.json, and mark them as extracted.
///
/// Beside them is what happened: report.html for people, report.json for programs, as by
/// `kdraw report`.
///
/// Takes every dump that was not extracted yet. Exit code 1 if something of a dump is lost, or
/// there is none.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw extract /dev/mmcblk0p4 -o /var/crash
  kdraw extract --format elf /dev/mmcblk0p4 -o /var/crash    # for gdb
  kdraw extract --format flattened /dev/mmcblk0p4 -o - | ssh host 'cat > vmcore.flat'")]
pub struct Args {
    /// The partition's device, its disk, or an image file of either.
    device: PathBuf,
    /// Where the dumps' folders are made; `-` writes the vmcore alone to standard output, in a
    /// flattened format, and marks nothing.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    #[command(flatten)]
    vmcore: VmcoreArgs,
    /// The one slot to extract, also if it was before.
    #[arg(long, value_name = "N")]
    slot: Option<u32>,
    /// Leaves the slot as it is: the dump counts as not extracted, the slot is not free.
    #[arg(long)]
    keep: bool,
    /// Which of a disk's partitions, if several are signed.
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Prints the metadata as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If nothing can be extracted.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let to_stdout = args.output == Path::new("-");
    let access = if args.keep || to_stdout {
        Access::Read
    } else {
        Access::Mark
    };
    let mut partition = DumpPartition::open(system, &args.device, args.partition, access)?;
    let slots = choose(args, &mut partition)?;
    if slots.is_empty() {
        eprintln!(
            "{}: no dump that was not extracted before; `kdraw list` shows what there is, \
             --slot N extracts once more",
            args.device.display()
        );
        return Ok(Verdict::Bad);
    }
    if to_stdout {
        return to_standard_output(args, &mut partition, &slots);
    }
    let mut complete = true;
    for slot in &slots {
        let bar = progress::bar();
        let mut show = |what, at, total| progress::show(&bar, what, at, total);
        let done = extract(
            &mut partition,
            slot,
            &args.output,
            args.vmcore.wanted(),
            &mut show,
        );
        bar.finish_and_clear();
        let done = done.with_context(|| format!("slot {} was not extracted", slot.index))?;
        complete &= done.metadata.complete;
        report(args, &done)?;
        mark(args, &mut partition, slot)?;
    }
    Ok(Verdict::from_good(complete))
}

/// Nobody can tell whether a stream became durable: nothing is marked.
fn to_standard_output(
    args: &Args,
    partition: &mut DumpPartition,
    slots: &[SlotPlace],
) -> Result<Verdict> {
    let wanted = args.vmcore.wanted_on_stdout()?;
    let [slot] = slots else {
        bail!("several dumps are waiting; choose one with --slot N");
    };
    let out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    let bar = progress::bar();
    let mut show = |what, at, total| progress::show(&bar, what, at, total);
    let name = "standard output".into();
    let losses = stream(partition, slot, wanted.format, out, name, &mut show);
    bar.finish_and_clear();
    let losses = losses.with_context(|| format!("slot {} was not extracted", slot.index))?;
    for loss in &losses {
        eprintln!("lost: {loss}");
    }
    Ok(Verdict::from_good(losses.is_empty()))
}

fn choose(args: &Args, partition: &mut DumpPartition) -> Result<Vec<SlotPlace>> {
    let Some(index) = args.slot else {
        return Ok(partition.waiting());
    };
    let slot = partition.slot(index)?;
    if partition.header(&slot).outcome == Outcome::Empty {
        bail!("slot {index} is empty");
    }
    Ok(vec![slot])
}

/// Everything is durable: now the slot may be used again.
fn mark(args: &Args, partition: &mut DumpPartition, slot: &SlotPlace) -> Result<()> {
    if args.keep {
        return Ok(());
    }
    if !partition.source.is_writable() {
        eprintln!(
            "slot {} was not marked as extracted: {} cannot be written",
            slot.index,
            args.device.display()
        );
        return Ok(());
    }
    partition
        .mark_extracted(slot)
        .with_context(|| format!("slot {} was extracted, but not marked", slot.index))
}

fn report(args: &Args, done: &Extracted) -> Result<()> {
    let metadata = &done.metadata;
    if args.json {
        println!("{}", serde_json::to_string_pretty(metadata)?);
        return Ok(());
    }
    print(done);
    Ok(())
}

/// Prints what came out of a dump.
pub fn print(done: &Extracted) {
    let metadata = &done.metadata;
    println!("{}", done.folder.display());
    println!(
        "  {:<10} {}, {} frames",
        metadata.vmcore,
        text::size(metadata.vmcore_bytes),
        metadata.frames
    );
    println!("  level      {}", summary::level(metadata.level));
    if !metadata.left_out.is_empty() {
        println!("  no room    for {}", metadata.left_out.join(", "));
    }
    println!("  dmesg.txt  from the {}", metadata.dmesg_origin);
    if let Some(found) = &metadata.black_box {
        let reason = found.reason.as_deref().unwrap_or("not recorded");
        println!("  reason     {}", reason.trim_end());
    }
    if let Some(option) = &metadata.crash_option {
        println!("  crash      needs {option}");
    }
    match &done.report {
        Ok(sentence) => println!("  report     {sentence}"),
        Err(why) => println!("  no report  {why}"),
    }
    for loss in &metadata.losses {
        println!("  lost       {loss}");
    }
}
