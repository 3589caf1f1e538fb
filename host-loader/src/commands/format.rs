//! `kdraw format`: signs a partition for dumps.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kdraw_format::addr::PartOffset;
use kdraw_format::layout::{BLOCK, DATA_START, MAX_SLOTS, START_UNKNOWN, Superblock};
use kdraw_format::partition_table::partitions;
use kdraw_format::slot::{Outcome, SlotHeader};

use crate::ask;
use crate::block::BlockDevice;
use crate::exit::Verdict;
use crate::partition::DumpPartition;
use crate::random;
use crate::signatures;
use crate::source::{Access, Source};
use crate::system::System;
use crate::text;

/// Sign a partition (or an image file) for dumps; what is on it is lost.
///
/// Refuses what is mounted or otherwise in use, and a disk with partitions. Where it finds a
/// file system or a dump that nobody has extracted, it asks for --force and a yes.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw format --slots 2 --label board-12 /dev/mmcblk0p4")]
pub struct Args {
    /// The partition's device, or an image file of one.
    device: PathBuf,
    /// How many dumps there is to be room for.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    slots: u32,
    /// One raw ELF core at 1 MiB, to be recovered with dd alone, instead of slots.
    #[arg(long, conflicts_with = "slots")]
    plain: bool,
    /// Lets a new dump overwrite one that nobody has extracted.
    #[arg(long)]
    overwrite: bool,
    /// A name for people, up to 32 bytes.
    #[arg(long, default_value = "")]
    label: String,
    /// Destroys a known file system or an unextracted dump.
    #[arg(long)]
    force: bool,
    /// Answers yes to the question whether to destroy it.
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever keeps the partition from being signed.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let device = BlockDevice::of(system, &args.device)?;
    if let Some(device) = &device {
        check_unused(system, device)?;
    }
    let mut source = Source::open(&args.device, Access::Overwrite)?;
    check_no_table(args, &mut source, device.as_ref())?;
    let start = device.as_ref().map_or(START_UNKNOWN, |device| device.start);
    let mut superblock = Superblock::new(
        random::bytes()?,
        start,
        source.len(),
        args.slots,
        args.plain,
    )
    .with_context(|| format!("cannot sign {}", args.device.display()))?;
    superblock.overwrite = args.overwrite;
    superblock.created = text::now();
    superblock
        .label
        .push_str(&args.label)
        .map_err(|_| anyhow::anyhow!("the label {:?} is longer than 32 bytes", args.label))?;
    let occupant = occupant(args, system, &mut source);
    if let Some(occupant) = occupant
        && !may_destroy(args, &occupant)?
    {
        println!("Nothing was changed.");
        return Ok(Verdict::Bad);
    }
    write(source, &superblock)?;
    report(args, &superblock);
    Ok(Verdict::Good)
}

fn check_unused(system: &System, device: &BlockDevice) -> Result<()> {
    let users = device.users(system)?;
    if !users.is_empty() {
        bail!(
            "/dev/{} is {}; unmount or release it first, and look twice whether it is the right one",
            device.name,
            users.join(", ")
        );
    }
    Ok(())
}

/// Refuses a disk, or an image of one, that has a partition table.
fn check_no_table(args: &Args, source: &mut Source, device: Option<&BlockDevice>) -> Result<()> {
    if device.is_some_and(|device| device.partition.is_some()) {
        return Ok(());
    }
    let mut numbers = Vec::new();
    for block_size in [512, 4096] {
        // A FAT file system ends its first sector like a table, but names no sane partition.
        let len = source.len();
        let table = partitions(source, block_size, |found| {
            if found.start.saturating_add(found.len) <= len {
                numbers.push(found.number);
            }
            true
        });
        table.with_context(|| format!("cannot read {}", args.device.display()))?;
    }
    numbers.dedup();
    if !numbers.is_empty() {
        bail!(
            "{} is a whole disk with a partition table (partitions {numbers:?}); \
             name the partition that is to hold dumps",
            args.device.display()
        );
    }
    Ok(())
}

/// What would be lost.
fn occupant(args: &Args, system: &System, source: &mut Source) -> Option<String> {
    if let Some(found) = signatures::identify(source) {
        return Some(found.to_owned());
    }
    let mut partition = DumpPartition::open(system, &args.device, None, Access::Read).ok()?;
    let slots: Vec<_> = partition.slots().collect();
    let kept = slots
        .iter()
        .filter(|slot| !partition.header(slot).is_free())
        .count();
    (kept > 0).then(|| format!("{kept} dump(s) that nobody has extracted"))
}

/// Gets the permission to destroy `occupant`.
fn may_destroy(args: &Args, occupant: &str) -> Result<bool> {
    let device = args.device.display();
    if !args.force {
        bail!("{device} holds {occupant}; nothing was changed. Add --force to destroy it");
    }
    if args.yes {
        return Ok(true);
    }
    if !ask::is_possible() {
        bail!(
            "{device} holds {occupant}, and there is no terminal to ask on; \
             nothing was changed. Add --yes to destroy it"
        );
    }
    let question = format!("{device} holds {occupant}. Destroy it?");
    Ok(ask::yes_or_no(&question)?)
}

/// Writes everything; the superblocks come last, so that a half-formatted partition is unsigned.
pub fn write(source: Source, superblock: &Superblock) -> Result<(), crate::error::Error> {
    let mut partition = DumpPartition {
        source,
        superblock: superblock.clone(),
    };
    let second = Superblock::second_copy(superblock.partition_len).0;
    let source = &mut partition.source;
    // What lies behind the last slot may hold a backup of a table, or a RAID's superblock.
    let used = superblock
        .slot(superblock.slots.saturating_sub(1))
        .map_or(DATA_START, |last| last.start.0.saturating_add(last.len));
    source.zero(0, DATA_START)?;
    source.zero(
        used.max(second.saturating_sub(DATA_START)),
        superblock.partition_len,
    )?;
    source.sync()?;
    let slots: Vec<_> = partition.slots().collect();
    for slot in slots {
        let header = SlotHeader {
            outcome: Outcome::Empty,
            index: slot.index,
            generation: 1,
            ..SlotHeader::default()
        };
        partition.write_header(&slot, &header)?;
    }
    let mut block = [0; BLOCK];
    superblock.encode(&mut block);
    for at in [PartOffset(second), PartOffset(0)] {
        partition.source.write_at(at, &block)?;
        partition.source.sync()?;
    }
    Ok(())
}

fn report(args: &Args, superblock: &Superblock) {
    let room = match superblock.plain_core() {
        Some((_, len)) => format!("one plain ELF core of up to {}", text::size(len)),
        None => format!(
            "{} dump(s) of up to {} each",
            superblock.slots,
            text::size(superblock.slot_len)
        ),
    };
    println!(
        "{}: signed, room for {room}; id {}",
        args.device.display(),
        text::uuid(&superblock.uuid)
    );
    println!("Next: kdraw load --target {}", args.device.display());
}
