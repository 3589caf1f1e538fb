//! One run: the guest boots, fills its memory, panics, is saved, and resets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kdraw_format::slot::Outcome;

use super::instructions::{self, Count};
use super::rows::{Measure, Row, Tool};
use crate::disk::Disk;
use crate::dist::Dist;
use crate::material::Kernel;
use crate::run;
use crate::scenario::boot::{self, Boot};
use crate::scenario::{self, DumpOptions, Place, Scenario, init, kdump, unfinished};

/// Room for a dump beyond the size of RAM, in MiB.
const SLACK_MIB: u64 = 128;

/// The names of what a run measures.
pub mod measure {
    /// Milliseconds from the panic's line to the first durable byte; kdump's are those to the
    /// start of its dump, when nothing is durable yet.
    pub const FIRST_BYTE: &str = "first_durable_byte_ms";
    /// Milliseconds from the panic's line to the reset.
    pub const RESET: &str = "panic_to_reset_ms";
    /// Bytes of the dump.
    pub const BYTES: &str = "bytes";
    /// GiB of the crashed kernel's memory dealt with in a second of dumping.
    pub const RATE: &str = "evidence_gib_per_s";
    /// Millions of bytes written in a second of writing, as the trailer has it.
    pub const WRITE_RATE: &str = "written_mb_per_s";
    /// MiB of the crashed kernel's memory.
    pub const EVIDENCE: &str = "evidence_mib";
    /// Instructions from `panic()` to the reset.
    pub const INSTRUCTIONS: &str = "instructions";
    /// Seconds that a program of this machine takes.
    pub const SECONDS: &str = "seconds";
    /// Pages classified in a second on this machine.
    pub const PAGE_RATE: &str = "pages_per_s";
    /// Instructions of this machine for a page that is classified.
    pub const PER_PAGE: &str = "instructions_per_page";
    /// What names of the payload's phases begin with: milliseconds that each takes. Where
    /// instructions are counted, a millisecond is a million of them.
    pub const PHASE: &str = "phase_ms_";
    /// Instructions of kdump's program alone, to 10 million.
    pub const PROGRAM: &str = "instructions_of_program";
}

/// MiB that Linux writes.
const DD_MIB: u64 = 256;

/// What a run measured, by name.
pub type Sample = BTreeMap<String, f64>;

/// A row that is ready to run.
pub struct Prepared<'a> {
    row: &'a Row,
    dist: &'a Dist,
    scenario: Scenario,
    kernel: Kernel,
    place: Place,
    /// As it is before each run.
    disk: Disk,
    initramfs: PathBuf,
}

impl<'a> Prepared<'a> {
    /// Makes the disk and the initramfs in `out`.
    pub fn new(row: &'a Row, dist: &'a Dist, out: &Path) -> Result<Self> {
        let scenario = scenario(row);
        let kernel = scenario.kernel()?;
        let place = Place::new(out, row.mem, false)?;
        let room = row.mem + SLACK_MIB;
        let (dump, spare) = match row.tool {
            Tool::Kdraw(_) | Tool::Dd => (room, 0),
            Tool::Kdump(_) => (64, room),
        };
        let disk = Disk::create(
            &place.file("dump.img"),
            scenario.disk,
            dump,
            row.fill / 4,
            spare,
        )?;
        let initramfs = place.file("initramfs");
        let mut script = init::fill_and_panic(&scenario);
        if row.measure == Measure::Instructions {
            script.insert_str(0, instructions::SCRIPT);
        }
        match &row.tool {
            Tool::Kdraw(_) => init::image(
                &(init::arm_script(&scenario) + &script),
                scenario.disk,
                dist,
                &kernel,
            )?,
            Tool::Kdump(method) => {
                let scratch = place.file("crash-initramfs");
                kdump::image(&script, method, scenario.disk, dist, &kernel, &scratch)?
            }
            Tool::Dd => init::image(
                &(init::prologue(scenario.disk) + &dd_script()),
                scenario.disk,
                dist,
                &kernel,
            )?,
        }
        .write(&initramfs)?;
        Ok(Self {
            row,
            dist,
            scenario,
            kernel,
            place,
            disk,
            initramfs,
        })
    }
}

impl Prepared<'_> {
    /// Returns what `uname -r` prints in the guest.
    pub fn kernel(&self) -> &str {
        &self.kernel.release
    }

    /// Runs the row once.
    pub fn run(&self) -> Result<Sample> {
        let disk = self.fresh_disk()?;
        let sample = self.capture(&disk);
        // Room for the others; the next run makes both anew.
        std::fs::remove_file(&disk.path)?;
        let _ = std::fs::remove_file(self.place.ram());
        sample.with_context(|| format!("the console is in {}", self.place.console().display()))
    }

    /// Runs the row once and leaves the disk with the dump; returns where, until this is dropped.
    pub fn run_and_keep(&self) -> Result<PathBuf> {
        let disk = self.fresh_disk()?;
        self.capture(&disk)?;
        let _ = std::fs::remove_file(self.place.ram());
        Ok(disk.path)
    }

    /// Returns a disk for one run, in memory and with all blocks of its partitions there: to find
    /// them when they are written costs the host as much as a CPU of the guest.
    fn fresh_disk(&self) -> Result<Disk> {
        let disk = self.disk.copy_to(&self.place.disk_in_memory())?;
        run::quiet(
            Command::new("fallocate")
                .args(["--length", &disk.partitions_end().to_string()])
                .arg(&disk.path),
        )?;
        Ok(disk)
    }

    fn capture(&self, disk: &Disk) -> Result<Sample> {
        let command_line = self.scenario.command_line();
        let mut machine = scenario::machine(
            &self.scenario,
            &self.kernel,
            &self.place,
            disk,
            &self.initramfs,
            &command_line,
        );
        machine.count = self.row.measure == Measure::Instructions;
        machine.newest = self.row.newest_qemu();
        let budget = scenario::budget(&self.scenario);
        let mut count = Count::default();
        let boot = boot::run(
            &machine,
            &self.place.console(),
            budget,
            &mut |line, _, qemu| {
                if self.row.disk_limit > 0 && line.text.starts_with("guest: ready") {
                    qemu.limit_disk(self.row.disk_limit)?;
                }
                if self.row.measure == Measure::Instructions {
                    count.watch(line, qemu, budget)?;
                }
                Ok(())
            },
        )?;
        let mut sample = Sample::new();
        match self.row.tool {
            Tool::Kdraw(options) => self.by_kdraw(options, &boot, disk, &mut sample)?,
            Tool::Kdump(_) => by_kdump(&boot, &mut sample)?,
            Tool::Dd => by_dd(&boot, &mut sample)?,
        }
        if let Some(counted) = count.counted {
            // What a run with counted instructions takes says nothing of its time.
            sample.retain(|name, _| {
                [measure::BYTES, measure::EVIDENCE, measure::PROGRAM].contains(&name.as_str())
                    || name.starts_with(measure::PHASE)
            });
            sample.insert(measure::INSTRUCTIONS.into(), counted as f64);
        } else {
            sample.remove(measure::PROGRAM);
        }
        Ok(sample)
    }

    /// Reads what kdraw left.
    fn by_kdraw(
        &self,
        asked: DumpOptions,
        boot: &Boot,
        disk: &Disk,
        sample: &mut Sample,
    ) -> Result<()> {
        let panic = boot.panic_line().context("the kernel did not panic")?;
        let payload = boot.payload();
        let Some(last) = payload.last() else {
            bail!("no line of the payload; last: {}", boot.tail());
        };
        if !last.text.contains("dump complete") {
            bail!("no complete dump: {}", last.text);
        }
        let info = run::output(
            Command::new(&self.dist.kdraw)
                .args(["info", "--json"])
                .arg(&disk.path),
        )?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        let header = unfinished::header(disk)?;
        if (header.outcome, header.level) != (Outcome::Complete, asked.level)
            || !header.left_out.is_empty()
        {
            bail!(
                "asked for level {}, got {:?} of level {} without {:?}",
                asked.level,
                header.outcome,
                header.level,
                header.left_out
            );
        }
        let elapsed = header.elapsed_us as f64 / 1000.0;
        let (mut black_box, mut before) = (None, 0.0);
        let trailer = &info["dumps"][0]["trailer"];
        if let (Some(bytes), Some(us)) = (
            trailer["written_bytes"].as_f64(),
            trailer["written_us"].as_f64(),
        ) {
            sample.insert(measure::WRITE_RATE.into(), bytes / us.max(1.0));
        }
        let mut phase = |name: &str, end: f64| {
            sample.insert(format!("{}{name}", measure::PHASE), end - before);
            before = end;
            if name == "black_box" {
                black_box = Some(end);
            }
        };
        for pair in trailer["phases"].as_array().into_iter().flatten() {
            if let (Some(name), Some(end)) = (pair[0].as_str(), pair[1].as_f64()) {
                phase(name, end / 1000.0);
            }
        }
        phase("end", elapsed);
        let black_box =
            black_box.context("the trailer does not tell when the black box was durable")?;
        let evidence = evidence(boot);
        let since = |at: Duration| (at - panic.at).as_secs_f64() * 1000.0;
        let durable = boot.find("black box is durable");
        let durable = durable.context("the black box did not become durable")?;
        sample.insert(measure::FIRST_BYTE.into(), since(durable.at));
        sample.insert(measure::RESET.into(), since(boot.end));
        sample.insert(measure::BYTES.into(), header.stream_len as f64);
        sample.insert(measure::EVIDENCE.into(), evidence / (1 << 20) as f64);
        sample.insert(
            measure::RATE.into(),
            evidence / (1u64 << 30) as f64 / (elapsed - black_box) * 1000.0,
        );
        Ok(())
    }
}

/// Reads what kdump left.
fn by_kdump(boot: &Boot, sample: &mut Sample) -> Result<()> {
    let (Some(panic), Some(begins), Some(dumped), Some(0)) = (
        boot.panic_line(),
        boot.find("guest: dump begins"),
        boot.find("guest: dumped "),
        boot.steps.get("dump"),
    ) else {
        bail!("no complete dump; last: {}", boot.tail());
    };
    let bytes: f64 = dumped.text["guest: dumped ".len()..].trim().parse()?;
    if bytes == 0.0 {
        bail!("an empty dump; last: {}", boot.tail());
    }
    if let Some(cpu) = boot.find("guest: cpu ") {
        // A nanosecond is an instruction there.
        let seconds: f64 = cpu.text["guest: cpu ".len()..]
            .split_whitespace()
            .filter_map(|word| word.parse::<f64>().ok())
            .sum();
        sample.insert(measure::PROGRAM.into(), seconds * 1e9);
    }
    let since = |at: Duration| (at - panic.at).as_secs_f64() * 1000.0;
    let evidence = evidence(boot);
    sample.insert(measure::FIRST_BYTE.into(), since(begins.at));
    sample.insert(measure::RESET.into(), since(boot.end));
    sample.insert(measure::BYTES.into(), bytes);
    sample.insert(measure::EVIDENCE.into(), evidence / (1 << 20) as f64);
    sample.insert(
        measure::RATE.into(),
        evidence / (1u64 << 30) as f64 / (dumped.at - begins.at).as_secs_f64(),
    );
    Ok(())
}

/// Returns what Linux does to measure a device: requests as large as it makes them, none of them
/// cached.
fn dd_script() -> String {
    format!(
        "echo 'guest: dd begins'\n\
         step dd dd if=/dev/zero of=$dump bs=1M count={DD_MIB} oflag=direct\n\
         poweroff -f\nsleep 60\n"
    )
}

/// Reads how long Linux wrote.
fn by_dd(boot: &Boot, sample: &mut Sample) -> Result<()> {
    let (Some(begins), Some(ends), Some(0)) = (
        boot.find("guest: dd begins"),
        boot.find("guest: step dd "),
        boot.steps.get("dd"),
    ) else {
        bail!("dd did not write; last: {}", boot.tail());
    };
    let us = (ends.at - begins.at).as_secs_f64() * 1e6;
    let bytes = (DD_MIB << 20) as f64;
    sample.insert(measure::WRITE_RATE.into(), bytes / us);
    Ok(())
}

/// Returns how much memory the crashed kernel had: all System RAM but the crash region.
fn evidence(boot: &Boot) -> f64 {
    let ranges = boot.system_ram.iter().map(|range| range.end - range.start);
    let all: u64 = ranges.sum();
    (all - (boot.crash_region.end - boot.crash_region.start)) as f64
}

fn scenario(row: &Row) -> Scenario {
    Scenario {
        mem: row.mem,
        smp: row.cpus,
        crashkernel: row.reserved.into(),
        cpu: super::GUEST_CPU.into(),
        disk: row.disk,
        fill: row.fill,
        dump: match row.tool {
            Tool::Kdraw(options) => options,
            Tool::Kdump(_) | Tool::Dd => DumpOptions::default(),
        },
        ..Scenario::new("bench", row.kernel)
    }
}
