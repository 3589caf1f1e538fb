//! Dumps that others make of the same panic, and whether kdraw says the same of them.
//!
//! - QEMU's `dump-guest-memory`, in every format that it offers, made while the payload begins to
//!   capture. It has no VMCOREINFO (the machine has no device for that), and what it notes as the
//!   CPUs' registers are the payload's. QEMU writes kdump-compressed files as flattened streams,
//!   in blocks of 64 KiB.
//! - makedumpfile's, over kdraw's dump of level 0 as ELF, and over QEMU's as kdraw converts it. It
//!   refuses kernels built for 52-bit addresses, so of 6.1 only.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::evidence::convert;
use super::result::Outcome;
use super::{KernelChoice, Place, Scenario, tools};
use crate::dist::Dist;
use crate::material::Suite;
use crate::qemu::{Monitor, Qemu};
use crate::run;

/// What a dump is asked: words before its name, and behind it.
const QUESTIONS: [(&[&str], &[&str]); 5] = [
    (&["log"], &[]),
    (&["bt", "--all"], &[]),
    (&["ps"], &[]),
    (&["mods"], &[]),
    (&["sym"], &["panic", "schedule", "vfs_read"]),
];

/// makedumpfile's options, by the name of what it makes.
const MAKEDUMPFILE: [(&str, &[&str]); 5] = [
    ("zlib", &["-c", "-d", "31"]),
    ("lzo", &["-l", "-d", "31"]),
    ("zstd", &["-z", "-d", "31"]),
    ("elf", &["-E", "-d", "31"]),
    ("flattened", &["-F", "-l", "-d", "31"]),
];

/// Has QEMU dump the memory of a machine that has just panicked.
pub fn dump(qemu: &Qemu, place: &Place) -> Result<()> {
    let mut monitor = Monitor::connect(qemu)?;
    for format in monitor.dump_formats()? {
        monitor.dump_memory(&format, &place.file(&format!("qemu.{format}")))?;
    }
    Ok(())
}

/// Compares what kdraw says of its own dump, which is complete, with what it says of the others'.
pub fn check(scenario: &Scenario, dist: &Dist, place: &Place, outcome: &mut Outcome) -> Result<()> {
    let expected = answers(dist, &place.file("vmcore"))?;
    let mut compare = |name: &str, made: Result<()>, path: &Path| -> Result<()> {
        let same = made.and_then(|()| same(dist, &expected, path));
        outcome.check_result(&format!("foreign-{name}"), same);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
        Ok(())
    };
    // QEMU's as ELF, which has VMCOREINFO then.
    let (elf, converted) = (place.file("qemu.elf"), place.file("qemu.converted"));
    let is_converted = convert(dist, &["--format", "elf"], &elf, &converted);
    let mut dumps: Vec<_> = run::entries(&place.out)?;
    dumps.retain(|path| path.file_stem().is_some_and(|stem| stem == "qemu") && *path != converted);
    ensure!(
        dumps.len() > 1,
        "QEMU dumps in one format at most: {dumps:?}"
    );
    for path in &dumps {
        let format = path.extension().unwrap_or_default().to_string_lossy();
        compare(&format!("qemu-{format}"), Ok(()), path)?;
    }
    if scenario.kernel == KernelChoice::Suite(Suite::Bookworm) {
        let (ours, out) = (place.file("vmcore.elf"), place.file("makedumpfile.vmcore"));
        for (name, options) in MAKEDUMPFILE {
            let made = makedumpfile(options, &ours, &out);
            compare(&format!("makedumpfile-{name}"), made, &out)?;
        }
        let made = is_converted.and_then(|()| makedumpfile(&["-l", "-d", "31"], &converted, &out));
        compare("makedumpfile-of-qemu", made, &out)?;
        compare("qemu-converted", Ok(()), &converted)?;
    } else {
        compare("qemu-converted", is_converted, &converted)?;
    }
    Ok(())
}

fn makedumpfile(options: &[&str], from: &Path, to: &Path) -> Result<()> {
    let mut command = tools::makedumpfile()?;
    command.args(options).arg(from).stdin(Stdio::null());
    if options.contains(&"-F") {
        command.stdout(File::create(to)?);
        let status = command.stderr(Stdio::null()).status()?;
        ensure!(status.success(), "`{}`: {status}", run::shown(&command));
        return Ok(());
    }
    run::quiet(command.arg(to))
}

/// What kdraw says of a dump, in the order of the questions.
fn answers(dist: &Dist, dump: &Path) -> Result<Vec<String>> {
    let ask = |(before, behind): &(&[&str], &[&str])| {
        let mut command = Command::new(&dist.kdraw);
        command.args(*before).arg("--json").arg(dump).args(*behind);
        let output = command.stdin(Stdio::null()).output()?;
        // 1: it found something, such as a stack that ends early.
        let good = matches!(output.status.code(), Some(0 | 1)) && output.stdout.len() > 4;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(good, "`{}`: {errors}", run::shown(&command));
        String::from_utf8(output.stdout).context("no text")
    };
    QUESTIONS.iter().map(ask).collect()
}

fn same(dist: &Dist, expected: &[String], dump: &Path) -> Result<String> {
    let found = answers(dist, dump)?;
    for ((question, _), (expected, found)) in QUESTIONS.iter().zip(expected.iter().zip(&found)) {
        super::tools::same(expected, found).with_context(|| question.join(" "))?;
    }
    let size = std::fs::metadata(dump)?.len();
    let lines: usize = found.iter().map(|text| text.lines().count()).sum();
    Ok(format!("{size} bytes; the same {lines} lines of answers"))
}
