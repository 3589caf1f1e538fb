//! A dump that the payload began and could not end: what its slot's header must say, and that
//! everything written before is still had.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kdraw_format::layout::{BLOCK, SlotPlace, Superblock};
use kdraw_format::slot::{EpitaphKind, Outcome, SlotHeader};
use kdraw_linux::classify::DumpLevel;
use object::{Object as _, ObjectSymbol as _};

use super::boot::Boot;
use super::{DumpOptions, Place, evidence};
use crate::compare::Vmcore;
use crate::disk::Disk;
use crate::dist::Dist;
use crate::run;

/// The payload says this when it is about to begin a dump.
pub const WRITING: &str = "MiB into slot";
/// Bytes of the dump that make it half written: black box and log, and pages after them.
const HALFWAY: u64 = 8 << 20;
/// No longer than two chunks, so that one begins inside.
const WINDOW: usize = 512 << 10;
/// Longest time from the dump's first byte to the reset: twice the 10 s that a request may take,
/// once for the dump and once for the epitaph, and what the emulated machine needs besides.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits until the payload writes pages.
///
/// # Errors
///
/// When it does not within some seconds.
pub fn wait_until_halfway(disk: &Disk) -> Result<()> {
    let at = slot(disk)?.stream_start().0 + HALFWAY;
    let mut window = vec![0; WINDOW];
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        disk.read_dump(at, &mut window)?;
        if window.iter().any(|byte| *byte != 0) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("the payload began a dump and wrote no pages")
}

/// Returns the link address of the loop that reads the crashed kernel's memory.
///
/// # Errors
///
/// As [`payload_symbol`].
pub fn copy_loop(dist: &Dist) -> Result<u64> {
    payload_symbol(dist, "evidence_copy")
}

/// Returns the link address of a symbol of the payload.
///
/// # Errors
///
/// When the payload has no such symbol.
pub fn payload_symbol(dist: &Dist, name: &str) -> Result<u64> {
    let program = std::fs::read(&dist.capture_elf)?;
    let file = object::File::parse(&*program)?;
    let symbol = file.symbol_by_name(name);
    let symbol = symbol.with_context(|| format!("the payload has no symbol {name}"))?;
    Ok(symbol.address())
}

/// Checks the header of the only slot, what the tool tells of it, and what it extracts; returns
/// a line about that.
///
/// # Errors
///
/// What is not as it must be.
pub fn check(
    (outcome, kind): (Outcome, EpitaphKind),
    dist: &Dist,
    place: &Place,
    disk: &Disk,
    boot: &Boot,
) -> Result<String> {
    let header = header(disk)?;
    let epitaph = &header.epitaph;
    if (header.outcome, epitaph.kind) != (outcome, kind) {
        bail!("the slot's header is {header:?}, not {outcome:?} with an epitaph {kind:?}");
    }
    let begun = boot.find(WRITING).context("no dump was begun")?.at;
    let took = boot.end.saturating_sub(begun);
    if took > LONGEST {
        bail!(
            "{:.1} s from the dump's begin to the reset",
            took.as_secs_f64()
        );
    }
    let mut words = vec![match outcome {
        Outcome::Writing => "not ended".to_owned(),
        _ => "failed".to_owned(),
    }];
    if kind != EpitaphKind::None {
        words.push(epitaph.message.as_str().to_owned());
    }
    if kind == EpitaphKind::Fault {
        let expected = copy_loop(dist)?;
        if epitaph.elr != expected {
            bail!("the epitaph's ELR is {:#x}, not {expected:#x}", epitaph.elr);
        }
        words.push(format!("elr {expected:#x}"));
    }
    for command in ["list", "info"] {
        let text = run::output(Command::new(&dist.kdraw).arg(command).arg(&disk.path))?;
        std::fs::write(place.file(&format!("{command}.txt")), &text)?;
        if let Some(word) = words.iter().find(|word| !text.contains(word.as_str())) {
            bail!("`kdraw {command}` lacks {word:?}:\n{text}");
        }
    }
    let pages = check_extract(dist, place, disk, boot)?;
    Ok(format!(
        "{}; {:.1} s to the reset, {pages} pages extracted, none differs",
        words.join(", "),
        took.as_secs_f64()
    ))
}

/// Checks a dump that has a hole where the disk has a bad sector: it must be whole all the same.
///
/// # Errors
///
/// What is not as it must be.
pub fn check_whole(dist: &Dist, place: &Place, disk: &Disk, boot: &Boot) -> Result<String> {
    run::output(Command::new(&dist.kdraw).arg("verify").arg(&disk.path))?;
    let info = run::output(Command::new(&dist.kdraw).arg("info").arg(&disk.path))?;
    std::fs::write(place.file("info.txt"), &info)?;
    let hole = info.lines().find(|line| line.starts_with("  hole "));
    let hole = hole.context("`kdraw info` shows no hole")?.trim();
    let folder = place.file("extracted");
    let extracted = evidence::extract_what_is_there(dist, &disk.path, &folder)?;
    ensure!(extracted.complete, "the tool takes the dump for a cut one");
    evidence::check_dmesg(&extracted.vmcore.with_file_name("dmesg.txt"), boot)?;
    let vmcore = Vmcore::open(&extracted.elf)?;
    let level = DumpLevel::new(DumpOptions::default().level).context("no such dump level")?;
    let coverage = evidence::coverage(place, boot, &vmcore, level)?;
    let pages = check_pages(&vmcore, place, boot)?;
    Ok(format!("{hole}; {coverage}; {pages} pages compared"))
}

/// Checks a dump of which the disk lost a block and said nothing: the tool must say so, and have
/// the rest.
///
/// # Errors
///
/// What is not as it must be.
pub fn check_damaged(dist: &Dist, place: &Place, disk: &Disk, boot: &Boot) -> Result<String> {
    let output = Command::new(&dist.kdraw)
        .arg("verify")
        .arg(&disk.path)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    std::fs::write(place.file("verify.txt"), &*text)?;
    ensure!(
        output.status.code() == Some(1),
        "`kdraw verify` ended with {}:\n{text}",
        output.status
    );
    let damage = text.lines().find(|line| line.starts_with("  "));
    let damage = damage.context("`kdraw verify` names no damage")?.trim();
    let pages = check_extract(dist, place, disk, boot)?;
    Ok(format!("{damage}; {pages} pages extracted, none differs"))
}

/// Extracts the dump; returns how many pages were in it.
fn check_extract(dist: &Dist, place: &Place, disk: &Disk, boot: &Boot) -> Result<u64> {
    let folder = place.file("extracted");
    let extracted = evidence::extract_what_is_there(dist, &disk.path, &folder)?;
    ensure!(
        !extracted.complete,
        "the tool takes the dump for a whole one"
    );
    evidence::check_dmesg(&extracted.vmcore.with_file_name("dmesg.txt"), boot)?;
    check_pages(&Vmcore::open(&extracted.elf)?, place, boot)
}

/// Compares a vmcore with the guest's memory; returns how many pages were in it.
fn check_pages(vmcore: &Vmcore, place: &Place, boot: &Boot) -> Result<u64> {
    let compared = vmcore.compare(place.ram(), boot)?;
    if compared.pages == 0 || compared.mismatches != 0 || !compared.outside.is_empty() {
        bail!(
            "{} pages extracted, {} differ from the RAM file {:x?}, outside RAM {:x?}",
            compared.pages,
            compared.mismatches,
            compared.first,
            compared.outside
        );
    }
    Ok(compared.pages)
}

/// Returns where the partition's only slot lies.
pub fn slot(disk: &Disk) -> Result<SlotPlace> {
    let mut block = [0; BLOCK];
    disk.read_dump(0, &mut block)?;
    let superblock = Superblock::decode(&block)?;
    superblock.slot(0).context("the partition has no slot")
}

/// Reads the newest header of the partition's only slot.
pub fn header(disk: &Disk) -> Result<SlotHeader> {
    let slot = slot(disk)?;
    let copy = |number| -> Result<_> {
        let mut block = [0; BLOCK];
        disk.read_dump(slot.header(number).0, &mut block)?;
        Ok(SlotHeader::decode(&block, slot.index))
    };
    SlotHeader::newest(copy(0)?, copy(1)?).context("the slot has no whole header")
}
