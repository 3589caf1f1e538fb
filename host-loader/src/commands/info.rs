//! `kdraw info`: everything about one dump but its pages.

use std::path::PathBuf;

use anyhow::Result;
use kdraw_format::memory_map::Fate;
use kdraw_format::slot::Outcome;
use serde::Serialize;

use crate::black_box::BlackBox;
use crate::exit::Verdict;
use crate::partition::DumpPartition;
use crate::payload;
use crate::progress;
use crate::scan::{ClassPart, Lost, Scan, Trailer};
use crate::source::Access;
use crate::summary::{self, PartitionSummary, SlotSummary};
use crate::system::System;
use crate::text;

/// Show a dump's black box, memory map, counts, phases and the payload's log.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw info /dev/mmcblk0p4 0")]
pub struct Args {
    /// The partition's device, its disk, or an image file of either.
    device: PathBuf,
    /// The slot; without it all that hold a dump.
    slot: Option<u32>,
    /// Which of a disk's partitions, if several are signed.
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// One slot in full.
#[derive(Serialize)]
struct SlotInfo {
    #[serde(flatten)]
    summary: SlotSummary,
    memory_map: Vec<MapLine>,
    trailer: Option<Trailer>,
    codecs: Vec<(&'static str, u64)>,
    /// What the dump holds, most valuable first.
    classes: Vec<ClassPart>,
    chunks: u64,
    frames_found: u64,
    frames_missing: u64,
    lost: Vec<Lost>,
    holes: Vec<Lost>,
    payload_log: Vec<String>,
}

#[derive(Serialize)]
struct MapLine {
    start: u64,
    end: u64,
    fate: String,
}

#[derive(Serialize)]
struct Info {
    #[serde(flatten)]
    partition: PartitionSummary,
    dumps: Vec<SlotInfo>,
}

/// Runs the command.
///
/// # Errors
/// If no signed partition or no such slot is found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let mut partition = DumpPartition::open(system, &args.device, args.partition, Access::Read)?;
    let slots: Vec<_> = match args.slot {
        Some(index) => vec![partition.slot(index)?],
        None => partition.slots().collect(),
    };
    let mut dumps = Vec::new();
    for slot in &slots {
        let bar = progress::bar();
        let scan = Scan::of(&mut partition, slot, &mut progress::report(&bar, "reading"));
        bar.finish_and_clear();
        if scan.header.outcome != Outcome::Empty {
            let summary = SlotSummary::of(&mut partition, slot);
            dumps.push(slot_info(summary, &scan));
        }
    }
    let info = Info {
        partition: PartitionSummary::of(&mut partition),
        dumps,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&info)?);
        return Ok(Verdict::Good);
    }
    println!("{}", info.partition.headline());
    for dump in &info.dumps {
        println!();
        print_slot(dump);
    }
    for record in &info.partition.journal {
        println!("\njournal record {}:", record.record);
        match &record.black_box {
            Some(found) => print_black_box(found),
            None => println!("  damaged"),
        }
    }
    if info.dumps.is_empty() && info.partition.journal.is_empty() {
        println!("No dump here.");
    }
    Ok(Verdict::Good)
}

fn slot_info(summary: SlotSummary, scan: &Scan) -> SlotInfo {
    let hash = scan.black_box.as_ref().and_then(|found| found.payload_hash);
    SlotInfo {
        summary,
        memory_map: scan
            .memory_map
            .iter()
            .map(|entry| MapLine {
                start: entry.range.start.0,
                end: entry.range.end.0,
                fate: fate(entry.fate),
            })
            .collect(),
        trailer: scan.trailer.clone(),
        codecs: scan.codecs.clone(),
        classes: scan.parts.clone(),
        chunks: scan.chunks,
        frames_found: scan.known().count(),
        frames_missing: scan.missing().count(),
        lost: scan.lost.clone(),
        holes: scan.holes.clone(),
        payload_log: payload::decode_log(&scan.payload_log, hash),
    }
}

fn fate(fate: Fate) -> String {
    match fate {
        Fate::Memory => "captured".to_owned(),
        Fate::Malformed => "dropped: malformed".to_owned(),
        Fate::Unreachable => "dropped: out of this machine's reach".to_owned(),
        Fate::NoRoom => "dropped: one range too many".to_owned(),
        Fate::Unknown(number) => format!("unknown ({number})"),
    }
}

fn print_slot(dump: &SlotInfo) {
    let summary = &dump.summary;
    println!("slot {}: {}", summary.slot, summary.state());
    if let Some(id) = &summary.dump_id {
        println!("  dump id      {id}");
    }
    if let Some(epitaph) = &summary.epitaph {
        println!("  epitaph      {epitaph}");
    }
    if let Some(found) = &summary.black_box {
        print_black_box(found);
    }
    println!(
        "  content      {} chunks, {} frames ({}), {} unreadable, {} missing",
        dump.chunks,
        dump.frames_found,
        text::size(dump.frames_found.saturating_mul(4096)),
        summary.unreadable,
        dump.frames_missing
    );
    print_classes(dump);
    for line in &dump.memory_map {
        println!(
            "  memory       {:#x}-{:#x} {}",
            line.start, line.end, line.fate
        );
    }
    if let Some(trailer) = &dump.trailer {
        for (phase, at) in &trailer.phases {
            println!("  phase        {phase} until {}", text::duration(*at));
        }
        if !trailer.device.is_empty() {
            println!(
                "  device       {}, {} in {}, {:.1} MB/s",
                trailer.device,
                text::size(trailer.written_bytes),
                text::duration(trailer.written_us),
                // Bytes in a microsecond are megabytes in a second.
                trailer.written_bytes as f64 / trailer.written_us.max(1) as f64
            );
        }
        if !trailer.failures.is_empty() {
            println!("  device       {}", trailer.failures);
        }
        if let Some(why) = &trailer.truncated {
            println!("  truncated    {why}");
        }
    } else {
        println!("  no trailer: the capture did not end in order, or its end is lost");
    }
    for lost in &dump.lost {
        println!(
            "  lost         {:#x}-{:#x} {}",
            lost.from, lost.to, lost.why
        );
    }
    for hole in &dump.holes {
        println!(
            "  hole         {:#x}-{:#x} {}: written again further on",
            hole.from, hole.to, hole.why
        );
    }
    for line in &dump.payload_log {
        println!("  payload      {line}");
    }
}

/// The level, and the classes of pages in the order in which the dump has them.
fn print_classes(dump: &SlotInfo) {
    println!("  level        {}", summary::level(dump.summary.level));
    if !dump.summary.left_out.is_empty() {
        let classes = dump.summary.left_out.join(", ");
        println!("  no room for  {classes}");
    }
    let codecs: Vec<String> = dump
        .codecs
        .iter()
        .map(|(name, chunks)| format!("{chunks} {name}"))
        .collect();
    if !codecs.is_empty() {
        println!("  chunks       {}", codecs.join(", "));
    }
    if dump.classes.is_empty() {
        return;
    }
    println!(
        "  {:<13}  {:>9}  {:>9}  {:>9}  {:>9}  from stream byte",
        "order", "found", "kept", "filled", "stored"
    );
    let found = dump.trailer.iter().flat_map(|trailer| &trailer.classes);
    let found: Vec<_> = found.collect();
    let size = |frames: u64| text::size(frames.saturating_mul(4096));
    for part in &dump.classes {
        let told = found.iter().find(|fate| fate.class == part.class);
        println!(
            "  {:<13}  {:>9}  {:>9}  {:>9}  {:>9}  {:#x}",
            part.class,
            told.map_or_else(|| "-".to_owned(), |fate| size(fate.found)),
            size(part.frames.saturating_add(part.filled)),
            size(part.filled),
            text::size(part.stored_bytes),
            part.from
        );
    }
    let kept = |class: &str| dump.classes.iter().any(|part| part.class == class);
    for fate in found.iter().filter(|fate| !kept(&fate.class)) {
        println!("  {:<13}  {:>9}          -", fate.class, size(fate.found));
    }
    for (why, frames) in dump.trailer.iter().flat_map(|trailer| &trailer.doubts) {
        println!("  in doubt     {frames} frames: {why}");
    }
}

fn print_black_box(found: &BlackBox) {
    let fields = [
        ("reason", found.reason.clone()),
        ("crashed", found.crash_time.map(text::time)),
        ("kernel", found.os_release.clone()),
        ("build id", found.build_id.clone()),
        ("uname", Some(found.uname.join(" "))),
        ("model", found.model.clone()),
        ("host", found.hostname.clone()),
        ("payload", found.payload_version.clone()),
    ];
    for (name, value) in fields {
        let value = value.unwrap_or_default();
        if !value.trim().is_empty() {
            println!("  {name:<12} {}", value.trim());
        }
    }
    if let Some((start, end)) = found.crash_region {
        println!("  crash region {start:#x}-{end:#x}");
    }
    if let Some(entry) = &found.entry {
        println!(
            "  entered      on CPU {:#x} at EL{}{}",
            // Aff3 to Aff0; the other bits say nothing of which CPU it is.
            entry.mpidr & 0xff_00ff_ffff,
            entry.exception_level,
            if entry.vhe { " with VHE" } else { "" }
        );
    }
    for cpu in &found.cpus {
        println!(
            "  cpu {:<8} pid {} pc {:#x} sp {:#x}",
            cpu.number,
            cpu.pid,
            cpu.pc(),
            cpu.sp()
        );
    }
    for line in found.log_tail.lines() {
        println!("  log          {line}");
    }
}
