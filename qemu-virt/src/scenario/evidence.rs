//! Examines what a scenario left: the disk, and the dump on it, with the tool on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kdraw_guest::pattern::{MARKERS, PAGE_SIZE};
use kdraw_linux::classify::{DumpLevel, PageClass};
use serde_json::Value;

use super::boot::{self, Boot};
use super::panics::Told;
use super::result::Outcome;
use super::{Loader, Place, Scenario};
use crate::compare::Vmcore;
use crate::disk::{DUMP, Disk};
use crate::dist::Dist;
use crate::memory::Memory;
use crate::run;

/// ELF note type of a CPU's registers (include/uapi/linux/elf.h).
const NT_PRSTATUS: u64 = 1;

/// Checks that nothing outside the dump partition has changed.
pub fn check_disk(disk: &Disk, outcome: &mut Outcome) -> Result<()> {
    let difference = disk.difference(&disk.dump_range())?;
    let detail = difference.clone().unwrap_or_else(|| {
        format!(
            "{} bytes outside the dump partition are as before",
            disk.size_outside()
        )
    });
    outcome.check("disk-untouched", difference.is_none(), detail);
    Ok(())
}

/// A vmcore that a scenario left.
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// The same as ELF, for gdb and for the comparison with the guest's memory.
    pub elf: PathBuf,
    /// What tells its checks apart: nothing for the extracted one.
    pub suffix: &'static str,
}

/// Lists, verifies and extracts the dump on `image`, a copy of the disk or itself, and compares it
/// with the guest's memory. Of a plain partition also what `dd` alone gets.
pub fn check_dump(
    scenario: &Scenario,
    dist: &Dist,
    place: &Place,
    image: &Path,
    disk: &Disk,
    boot: &Boot,
    outcome: &mut Outcome,
) -> Result<Vec<Found>> {
    let panic = scenario.panic.way();
    for command in ["list", "verify"] {
        let output = kdraw(scenario, Command::new(&dist.kdraw).arg(command).arg(image));
        if let Ok(text) = &output {
            std::fs::write(place.file(&format!("{command}.txt")), text)?;
        }
        let last = |text: String| text.lines().last().unwrap_or_default().to_owned();
        outcome.check_result(command, output.map(last));
    }
    let listed = told_in(&place.file("list.txt"), panic.reason);
    outcome.check_result("reason", listed);
    let info = kdraw(scenario, Command::new(&dist.kdraw).arg("info").arg(image));
    let told = |words: &str| -> Result<String> {
        let text = match &info {
            Ok(text) => text,
            Err(error) => bail!("{error:#}"),
        };
        let line = text.lines().find(|line| line.contains(words));
        let line = line.with_context(|| format!("`kdraw info` does not say {words:?}"))?;
        Ok(line.trim().to_owned())
    };
    outcome.check_result("payload-log", told("INFO entered at EL"));
    let [device, way] = scenario.disk.told(scenario.identify_card);
    let device = told(&device).and_then(|line| {
        ensure!(line.contains(&way), "{line:?} does not say {way:?}");
        Ok(line)
    });
    outcome.check_result("device", device);
    let mut found = Vec::new();
    let folder = place.file("extracted");
    let started = std::time::Instant::now();
    let extracted = extract(scenario, dist, image, &folder);
    outcome.time("extract", started.elapsed().as_secs_f64() * 1000.0);
    let shown = extracted.as_ref().map(|path| path.display().to_string());
    outcome.check_result(
        "extract",
        shown.map_err(|error| anyhow::anyhow!("{error:#}")),
    );
    if let Ok(path) = extracted {
        std::fs::hard_link(&path, place.file("vmcore")).context("cannot link vmcore")?;
        outcome.size("vmcore", std::fs::metadata(&path)?.len());
        outcome.check_result(
            "dmesg",
            check_dmesg(&path.with_file_name("dmesg.txt"), boot),
        );
        outcome.check_result(
            "culprit",
            told_in(&path.with_file_name("dmesg.txt"), panic.culprit),
        );
        outcome.check_result("diagnosis", diagnosis(dist, &path, &panic.report));
        let elf = place.file("vmcore.elf");
        let converted = convert(dist, &["--format", "elf"], &path, &elf);
        outcome.check_result("convert", converted.map(|()| "to ELF".into()));
        found.push(Found {
            path,
            elf,
            suffix: "",
        });
    }
    if scenario.plain {
        let path = place.file("vmcore.dd");
        outcome.check_result("dd", dd(image, disk, &path));
        found.push(Found {
            elf: path.clone(),
            path,
            suffix: "-dd",
        });
    }
    for found in &found {
        match Vmcore::open(&found.elf) {
            Ok(vmcore) => check_vmcore(scenario, place, boot, &vmcore, found.suffix, outcome)?,
            Err(error) => {
                outcome.check(&format!("elf{}", found.suffix), false, format!("{error:#}"))
            }
        }
    }
    Ok(found)
}

/// Checks what `kdraw report` says of a vmcore; returns its sentence.
fn diagnosis(dist: &Dist, vmcore: &Path, told: &Told) -> Result<String> {
    // Something may be lacking, by its exit code.
    let mut command = Command::new(&dist.kdraw);
    let output = command.args(["report", "--json"]).arg(vmcore).output()?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("{}: {errors}", run::shown(&command))
    })?;
    let found = &report["diagnosis"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sentence = word(&found["sentence"]);
    let mut rest = sentence.as_str();
    for part in told.sentence {
        let behind = rest.split_once(part).map(|(_, behind)| behind);
        rest = behind.with_context(|| format!("{sentence:?} lacks {part:?}"))?;
    }
    let culprit = &found["culprit"];
    let culprit = match word(&culprit["function"]) {
        function if function.is_empty() => word(&culprit["task"]),
        function => function,
    };
    let (kind, signature) = (word(&found["kind"]), word(&found["signature"]));
    ensure!(
        kind == told.kind && culprit == told.culprit,
        "{sentence:?} is told as {kind:?} by {culprit:?}"
    );
    ensure!(
        told.signature.is_empty() || signature == told.signature,
        "{sentence:?} has the signature {signature}, and not {}",
        told.signature
    );
    Ok(format!("{signature}: {sentence}"))
}

/// Extracts the dump of an image with the tool of this machine; returns the vmcore's path.
fn extract(scenario: &Scenario, dist: &Dist, image: &Path, folder: &Path) -> Result<PathBuf> {
    run::create_dir(folder)?;
    let mut command = Command::new(&dist.kdraw);
    command.arg("extract").arg(image).arg("-o").arg(folder);
    kdraw(scenario, &mut command)?;
    find_file(folder, "vmcore")
}

/// Converts a complete vmcore.
pub fn convert(dist: &Dist, options: &[&str], from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new(&dist.kdraw);
    command.arg("convert").args(options).args([from, to]);
    run::quiet(&mut command)
}

/// What was extracted of a dump that may not be whole.
pub struct Extracted {
    /// The vmcore.
    pub vmcore: PathBuf,
    /// The same as ELF.
    pub elf: PathBuf,
    /// Whether nothing is missing, by what the tool says.
    pub complete: bool,
}

/// Extracts a dump that may not be whole.
pub fn extract_what_is_there(dist: &Dist, image: &Path, folder: &Path) -> Result<Extracted> {
    run::create_dir(folder)?;
    let complete = is_whole(
        Command::new(&dist.kdraw)
            .args(["extract", "-o"])
            .args([folder, image]),
    )?;
    let vmcore = find_file(folder, "vmcore")?;
    let elf = folder.join("vmcore.elf");
    let converted = is_whole(
        Command::new(&dist.kdraw)
            .args(["convert", "--format", "elf"])
            .args([&vmcore, &elf]),
    )?;
    if converted != complete {
        bail!("of a dump that is complete ({complete}), the vmcore says complete: {converted}");
    }
    Ok(Extracted {
        vmcore,
        elf,
        complete,
    })
}

/// Runs the tool, which ends with 1 if it did what it could and something is lost.
fn is_whole(command: &mut Command) -> Result<bool> {
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!(
            "`{}` ended with {}:\n{}",
            run::shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Runs the tool. After a stock `kexec` on a kernel whose kallsyms lack `_text` it may say with
/// exit status 1 that it left out the absurd range of kexec-tools, and no other loss.
fn kdraw(scenario: &Scenario, command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start kdraw")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let absurd_range = scenario.loader == Loader::Kexec
        && output.status.code() == Some(1)
        && text.contains("0 frames unreadable, 1 ranges left out");
    if !output.status.success() && !absurd_range {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}):\n{text}{errors}",
            run::shown(command),
            output.status
        );
    }
    Ok(text)
}

/// Copies a plain partition as a user without kdraw would: everything behind the first MiB.
fn dd(image: &Path, disk: &Disk, to: &Path) -> Result<String> {
    let part = disk.part(DUMP);
    let arguments = [
        "bs=1M".to_owned(),
        format!("skip={}", (part.start >> 20) + 1),
        format!("count={}", (part.length >> 20) - 1),
        "conv=sparse".into(),
        format!("if={}", image.display()),
        format!("of={}", to.display()),
    ];
    run::quiet(Command::new("dd").args(&arguments))?;
    Ok(format!("dd {}", arguments[..4].join(" ")))
}

/// Checks the contents of a vmcore against the RAM file and what the guest told.
fn check_vmcore(
    scenario: &Scenario,
    place: &Place,
    boot: &Boot,
    vmcore: &Vmcore,
    suffix: &str,
    outcome: &mut Outcome,
) -> Result<()> {
    let named = |name: &str| format!("{name}{suffix}");
    outcome.size(&named("vmcore_elf"), vmcore.size);
    let (kernel, loads) = vmcore.with_virtual_address();
    outcome.check(
        &named("addresses"),
        kernel == loads,
        format!("{kernel} of {loads} PT_LOADs have a kernel address"),
    );
    let compared = vmcore.compare(place.ram(), boot)?;
    outcome.size(&named("pages_compared"), compared.pages);
    outcome.check(
        &named("pages-equal"),
        compared.pages > 0 && compared.mismatches == 0 && compared.outside.is_empty(),
        format!(
            "{} pages compared with the RAM file, {} differ {:x?}, outside RAM {:x?}",
            compared.pages, compared.mismatches, compared.first, compared.outside
        ),
    );
    let level = match scenario.plain {
        true => DumpLevel::ALL_PAGES,
        false => DumpLevel::new(scenario.dump.level).context("no such dump level")?,
    };
    let coverage = coverage(place, boot, vmcore, level);
    outcome.check_result(&named("coverage"), coverage);
    let locked = vmcore.locked_markers(&boot.markers)?;
    // They are pages of a process.
    let wanted = match PageClass::User.dropped_at(level) {
        true => 0,
        false => MARKERS as usize,
    };
    outcome.check(
        &named("locked-markers"),
        locked == wanted,
        format!("{locked} of {wanted} at their addresses"),
    );
    let pipe = compared.pipe_markers;
    outcome.check(
        &named("pipe-markers"),
        pipe == MARKERS as usize,
        format!("{pipe} of {MARKERS}"),
    );
    let notes = vmcore.notes()?;
    let cpus = notes
        .iter()
        .filter(|(name, kind, _)| name == "CORE" && *kind == NT_PRSTATUS)
        .count();
    outcome.check(
        &named("registers"),
        cpus == scenario.smp as usize,
        format!("NT_PRSTATUS of {cpus} of {} CPUs", scenario.smp),
    );
    let info = notes.iter().any(|(name, _, _)| name == "VMCOREINFO");
    outcome.check(
        &named("vmcoreinfo"),
        info,
        if info { "present" } else { "missing" },
    );
    Ok(())
}

/// Checks that a vmcore has the pages of a dump level: all of them, and no other ones.
pub fn coverage(place: &Place, boot: &Boot, vmcore: &Vmcore, level: DumpLevel) -> Result<String> {
    let memory = Memory::open(place.ram(), boot, vmcore.raw_notes()?)?;
    let expected = memory.classify()?.kept(level);
    let found = memory.pages_in(vmcore);
    let only = |have: &[bool], lack: &[bool]| -> Vec<u64> {
        let pages = (0..).zip(have.iter().zip(lack));
        let pages = pages.filter(|(_, (have, lack))| **have && !**lack);
        pages.map(|(pfn, _)| pfn).collect()
    };
    let (missing, more) = (only(&expected, &found), only(&found, &expected));
    if let (Some(pfn), _) | (None, Some(pfn)) = (missing.first(), more.first()) {
        bail!(
            "at level {level} {} pages are missing and {} too many, page frame {pfn:#x} for one",
            missing.len(),
            more.len()
        );
    }
    let pages = found.iter().filter(|found| **found).count();
    let all: u64 = memory.ranges.iter().map(|range| range.len()).sum();
    Ok(format!(
        "all pages of level {level} and no other: {} of {} MiB",
        (pages * PAGE_SIZE) >> 20,
        all >> 20
    ))
}

/// Checks that the extracted log is the one that the console showed, to its last line.
pub fn check_dmesg(path: &Path, boot: &Boot) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let panic = boot
        .end_of_kernel()
        .context("the console showed no panic")?;
    if panic.text.starts_with(boot::PAYLOAD) {
        return Ok("the console showed nothing of the panic".into());
    }
    let message = panic.message();
    if !text.lines().any(|line| line.ends_with(message)) {
        bail!("{} lacks {message:?}", path.display());
    }
    // The kernel's last words before the payload's first.
    let payload = boot.payload();
    let first = payload.first().map_or(boot.end, |line| line.at);
    let last = boot
        .lines
        .iter()
        .rfind(|line| line.at <= first && line.text.starts_with('['));
    let last = last
        .context("no kernel message before the payload's")?
        .message();
    let ended = text.trim_end().lines().last().unwrap_or_default();
    if !ended.ends_with(last) {
        bail!(
            "{} ends with {ended:?}, the console with {last:?}",
            path.display()
        );
    }
    Ok(format!(
        "{} lines, ends with {last:?}",
        text.lines().count()
    ))
}

/// Returns the last line of a file that has some words.
fn told_in(path: &Path, words: &str) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let line = text.lines().rfind(|line| line.contains(words));
    let line = line.with_context(|| format!("{} does not tell {words:?}", path.display()))?;
    Ok(line.to_owned())
}

/// Finds a file by its name in a folder and below.
pub fn find_file(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in run::entries(&folder)? {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|file| file == name) {
                return Ok(path);
            }
        }
    }
    bail!("no file {name} in {}", folder.display())
}
