//! The order of worth: what a dump that was cut still gives, and what goes into a slot that is too
//! small.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kdraw_format::chunk::ClassSet;
use kdraw_format::layout::BLOCK;
use kdraw_format::slot::{Outcome as Ended, SlotHeader};
use kdraw_linux::classify::DumpLevel;
use kdraw_pipeline::worth::{class_of, kept_at};

use super::again::{Again, Wish};
use super::result::Outcome;
use super::tools::{self, Foreign};
use super::{evidence, inside, unfinished};
use crate::compare::Vmcore;
use crate::disk::Disk;
use crate::memory::Memory;

/// Bytes of the dump that are left, in percent.
const CUTS: [u64; 4] = [10, 25, 50, 75];
/// The cut from which on foreign readers find the tasks and the stack of the one that panicked.
const READABLE: u64 = 25;
/// The cut from which on `kdraw` finds the stacks of all tasks: the kernel's symbols and types are
/// there.
const READABLE_ALONE: u64 = 50;
/// Slots in MiB.
const SLOTS: [u64; 4] = [16, 32, 64, 128];
/// Dump levels: what matters, and everything.
const LEVELS: [u8; 2] = [31, 0];
/// ELF note type of a CPU's registers (include/uapi/linux/elf.h).
const NT_PRSTATUS: u64 = 1;

/// Cuts the dump on `disk`, as a machine would that loses its power meanwhile, and reads what is
/// left; `foreign` tells what others read of the whole dump.
pub fn check_cuts(
    again: &Again<'_>,
    disk: &Disk,
    foreign: Option<&Foreign>,
    outcome: &mut Outcome,
) -> Result<()> {
    let whole = foreign.map(Foreign::tasks);
    for percent in CUTS {
        let name = format!("cut-{percent}");
        let folder = again.place.file(&format!("{name}.extracted"));
        let mut extracted = None;
        let result = cut(again, disk, percent, &name).and_then(|cut| {
            let rest = evidence::extract_what_is_there(again.dist, &cut.path, &folder)?;
            ensure!(!rest.complete, "the tool takes the dump for a whole one");
            evidence::check_dmesg(&rest.vmcore.with_file_name("dmesg.txt"), again.boot)?;
            let pages = check_rest(again, &Vmcore::open(&rest.elf)?)?;
            let told = check_report(again, &cut)?;
            extracted = Some(rest);
            Ok(format!("{pages}; {told}"))
        });
        outcome.check_result(&name, result);
        let Some(rest) = extracted else {
            again.forget(&name)?;
            continue;
        };
        if percent >= READABLE_ALONE {
            let same = same_stacks(again, &rest.vmcore);
            outcome.check_result(&format!("{name}-kdraw"), same);
        }
        if let Some(whole) = &whole
            && percent >= READABLE
        {
            let found = Foreign::new(again.scenario, &rest.vmcore, &rest.elf)?.tasks();
            for ((reader, whole), (_, found)) in whole.iter().zip(found) {
                let same = found.and_then(|found| match whole {
                    Ok(whole) => tools::same(whole, &found),
                    Err(error) => bail!("of the whole dump: {error:#}"),
                });
                outcome.check_result(&format!("{name}-{reader}"), same);
            }
        }
        again.forget(&name)?;
    }
    Ok(())
}

/// Checks that the report on what is left of a dump says what happened, as that on the whole one,
/// and what is missing.
fn check_report(again: &Again<'_>, cut: &Disk) -> Result<String> {
    let report = |dump: &Path| inside::asked(again.dist, &["report"], dump, &[]);
    let (whole, rest) = (report(&again.place.file("vmcore"))?, report(&cut.path)?);
    for key in ["sentence", "kind"] {
        let (whole, rest) = (&whole["diagnosis"][key], &rest["diagnosis"][key]);
        ensure!(
            whole.is_string() && whole == rest,
            "{key} {rest}, was {whole}"
        );
    }
    let lacking = rest["lacking"].as_array().context("no list")?;
    let lacking: BTreeSet<_> = lacking.iter().map(|lack| lack["part"].as_str()).collect();
    let lacking: Vec<_> = lacking.into_iter().flatten().collect();
    ensure!(
        !lacking.is_empty(),
        "the report says of nothing that it is missing"
    );
    Ok(format!(
        "the report's sentence is the whole dump's; it lacks {lacking:?}"
    ))
}

/// Checks that `kdraw` finds in what is left of a dump the same stacks of the same tasks as in the
/// whole one.
fn same_stacks(again: &Again<'_>, rest: &Path) -> Result<String> {
    let stacks = |vmcore: &Path| inside::rows(again.dist, &["bt", "--all"], vmcore);
    let (whole, rest) = (stacks(&again.place.file("vmcore"))?, stacks(rest)?);
    let mut pairs = whole.iter().zip(&rest);
    let other = pairs.find(|(whole, rest)| whole != rest);
    ensure!(other.is_none(), "of the whole dump, and of this: {other:?}");
    let (tasks, found) = (whole.len(), rest.len());
    ensure!(tasks == found && found > 0, "{found} stacks of {tasks}");
    Ok(format!("{found} stacks as in the whole dump"))
}

/// Returns a disk with the first so many percent of the dump's bytes, and the header of a dump
/// that was never ended.
fn cut(again: &Again<'_>, disk: &Disk, percent: u64, name: &str) -> Result<Disk> {
    let header = unfinished::header(disk)?;
    let slot = unfinished::slot(disk)?;
    let cut = disk.copy_to(&again.place.file(&format!("{name}.img")))?;
    let left = header.stream_len * percent / 100;
    let lost = vec![0; (header.stream_len - left) as usize];
    cut.write_dump(slot.stream_start().0 + left, &lost)?;
    let begun = SlotHeader {
        outcome: Ended::Writing,
        level: header.level,
        index: header.index,
        generation: header.generation,
        dump_id: header.dump_id,
        ..SlotHeader::default()
    };
    let mut block = [0; BLOCK];
    begun.encode(&mut block);
    for copy in 0..2 {
        cut.write_dump(slot.header(copy).0, &block)?;
    }
    Ok(cut)
}

/// Checks that what there is of a dump is the memory's, and that no CPU's registers are missing.
fn check_rest(again: &Again<'_>, vmcore: &Vmcore) -> Result<String> {
    let notes = vmcore.notes()?;
    let registers = notes.iter();
    let registers = registers.filter(|(name, kind, _)| name == "CORE" && *kind == NT_PRSTATUS);
    let (cpus, found) = (again.scenario.smp as usize, registers.count());
    ensure!(found == cpus, "registers of {found} of {cpus} CPUs");
    Ok(format!(
        "registers of {cpus} CPUs; {}",
        again.compare(vmcore)?
    ))
}

/// Captures into slots of several sizes, and checks what was left out.
pub fn check_slots(again: &Again<'_>, outcome: &mut Outcome) -> Result<()> {
    for level in LEVELS {
        for mib in SLOTS {
            let name = format!("slot-{mib}-level-{level}");
            let result = check_slot(again, &name, level, mib);
            outcome.check_result(&name, result);
            again.forget(&name)?;
        }
    }
    Ok(())
}

/// Captures into a slot of `mib`. What is left out is the least valuable, and if nothing is left
/// out, nothing is missing.
fn check_slot(again: &Again<'_>, name: &str, level: u8, mib: u64) -> Result<String> {
    let wish = Wish {
        slot_mib: Some(mib),
        ..Wish::level(level)
    };
    let dump = again.capture(name, wish)?;
    let header = unfinished::header(&dump.disk)?;
    let slot = unfinished::slot(&dump.disk)?;
    let vmcore = Vmcore::open(&dump.extracted.elf)?;
    evidence::check_dmesg(
        &dump.extracted.vmcore.with_file_name("dmesg.txt"),
        again.boot,
    )?;
    let rest = check_rest(again, &vmcore)?;
    ensure!(
        header.stream_len > 0 && header.stream_len <= slot.stream_len(),
        "the trailer says {} bytes of {}",
        header.stream_len,
        slot.stream_len()
    );

    let memory = Memory::open(again.place.ram(), again.boot, vmcore.raw_notes()?)?;
    let classes = memory.classify()?.classes;
    let wanted = kept_at(DumpLevel::new(level).context("level")?);
    let kept = wanted.without(header.left_out);
    let found = memory.pages_in(&vmcore);
    let mut cut = ClassSet::default();
    for (class, found) in classes.iter().zip(&found) {
        let Some(class) = class.and_then(class_of) else {
            continue;
        };
        if !kept.contains(class) {
            ensure!(!found, "a page of a class that is left out is there");
        } else if !found {
            cut.insert(class);
        }
    }
    let fits = header.left_out.is_empty() && cut.is_empty();
    ensure!(
        (header.outcome == Ended::Complete) == fits && dump.extracted.complete == fits,
        "{:?}, and the tool says complete: {}, but {cut:?} is cut and {:?} left out",
        header.outcome,
        dump.extracted.complete,
        header.left_out
    );
    // Of less value than the least valuable that is there.
    if let (Some(least), Some(most)) = (kept.iter().last(), header.left_out.iter().next()) {
        ensure!(least < most, "{most:?} is left out, {least:?} is not");
    }
    let names = |set: ClassSet| {
        set.iter()
            .map(|class| format!("{class:?}"))
            .collect::<Vec<_>>()
    };
    Ok(format!(
        "{} of {} KiB used; left out {}, cut {}; {rest}",
        header.stream_len >> 10,
        slot.stream_len() >> 10,
        names(header.left_out).join(" "),
        names(cut).join(" ")
    ))
}
