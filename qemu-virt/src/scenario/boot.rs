//! Plays a boot of the guest and collects what its console tells.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};

use super::result::Outcome;
use super::{Loader, Scenario};
use crate::qemu::{Line, Machine, Qemu};

/// `mov x0, #0` and `ldr x0, [x0]`: a load from address 0 (Arm ARM C6.2, MOVZ and LDR).
const NULL_DEREFERENCE: [u32; 2] = [0xd280_0000, 0xf940_0000];

/// What the payload's first line begins with.
pub const PAYLOAD: &str = "kdraw: capture ";

/// What the console of one boot told.
pub struct Boot {
    /// Every line.
    pub lines: Vec<Line>,
    /// Exit status of each step of `/init`.
    pub steps: BTreeMap<String, i32>,
    /// Physical address of the first byte of RAM.
    pub ram_base: u64,
    /// System RAM, from /proc/iomem.
    pub system_ram: Vec<Range<u64>>,
    /// The crash region, from /proc/iomem.
    pub crash_region: Range<u64>,
    /// Physical addresses of the locked markers.
    pub markers: BTreeMap<u32, u64>,
    /// How QEMU ended.
    pub status: ExitStatus,
    /// When QEMU ended.
    pub end: Duration,
    /// Why waiting for the console ended early, if it did.
    pub hang: Option<String>,
}

/// Boots a machine and plays along until it ends; `watch` sees every line as it
/// comes, and may act on the machine.
pub fn run(
    machine: &Machine<'_>,
    log: &Path,
    budget: Duration,
    watch: &mut dyn FnMut(&Line, &Boot, &mut Qemu) -> Result<()>,
) -> Result<Boot> {
    let mut qemu = Qemu::start(machine, log, budget)?;
    let mut boot = Boot {
        lines: Vec::new(),
        steps: BTreeMap::new(),
        ram_base: machine.board.ram_base(),
        system_ram: Vec::new(),
        crash_region: 0..0,
        markers: BTreeMap::new(),
        status: ExitStatus::default(),
        end: Duration::ZERO,
        hang: None,
    };
    loop {
        match qemu.next_line() {
            Ok(Some(line)) => {
                if let Some(told) = line.text.strip_prefix("guest: ") {
                    boot.told(told, &mut qemu)
                        .with_context(|| format!("guest said {told:?}"))?;
                }
                watch(&line, &boot, &mut qemu)?;
                boot.lines.push(line);
            }
            Ok(None) => break,
            Err(error) => {
                boot.hang = Some(error.to_string());
                drop(qemu);
                return Ok(boot);
            }
        }
    }
    (boot.status, boot.end) = qemu.end()?;
    Ok(boot)
}

impl Boot {
    /// Acts on a line of the guest's.
    fn told(&mut self, text: &str, qemu: &mut Qemu) -> Result<()> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["step", name, code] => {
                self.steps.insert((*name).to_owned(), code.parse()?);
            }
            ["iomem", range, ":", "System", "RAM"] => self.system_ram.push(iomem_range(range)?),
            ["iomem", range, ":", "Crash", "kernel"] => self.crash_region = iomem_range(range)?,
            ["marker", index, address] => {
                self.markers.insert(index.parse()?, hexadecimal(address)?);
            }
            ["patch", address] => {
                qemu.patch(hexadecimal(address)?, &NULL_DEREFERENCE)?;
                qemu.type_text("\n")?;
            }
            ["break", ..] => {
                qemu.send_break()?;
                qemu.type_text("c")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the first line that contains a text.
    pub fn find(&self, text: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.text.contains(text))
    }

    /// Returns the line with which the kernel panics. An oops enters the capture kernel before
    /// `panic()` could print (arch/arm64/kernel/traps.c, `die`).
    pub fn panic_line(&self) -> Option<&Line> {
        let starts = ["Kernel panic - not syncing", "Internal error: Oops"];
        let panics = |line: &&Line| starts.iter().any(|start| line.text.contains(start));
        self.lines.iter().find(panics)
    }

    /// Returns the same, or where the kernel could not print it the payload's first line.
    pub fn end_of_kernel(&self) -> Option<&Line> {
        self.panic_line().or_else(|| self.find(PAYLOAD))
    }

    /// Returns the payload's lines.
    pub fn payload(&self) -> Vec<&Line> {
        let panic = self.end_of_kernel().map_or(Duration::MAX, |line| line.at);
        let ours = |line: &&Line| line.at >= panic && line.text.starts_with("kdraw: ");
        self.lines.iter().filter(ours).collect()
    }

    /// Returns the last lines, for a message.
    pub fn tail(&self) -> String {
        let tail = self.lines.len().saturating_sub(3);
        let tail: Vec<&str> = self
            .lines
            .iter()
            .skip(tail)
            .map(|line| line.text.as_str())
            .collect();
        tail.join(" | ")
    }

    /// Checks that the guest did what it was asked, panicked as asked, and ended by itself.
    pub fn check(&self, scenario: &Scenario, outcome: &mut Outcome) {
        let errors: Vec<&str> = self
            .lines
            .iter()
            .filter_map(|line| line.text.strip_prefix("guest: "))
            .filter(|text| text.starts_with("error") || text.starts_with("failed"))
            .collect();
        outcome.check(
            "guest",
            errors.is_empty(),
            if errors.is_empty() {
                "no error".into()
            } else {
                errors.join("; ")
            },
        );
        for (step, code) in &self.steps {
            outcome.check(
                &format!("guest-{step}"),
                *code == 0,
                format!("exit status {code}"),
            );
        }
        outcome.check(
            "memory-map",
            !self.system_ram.is_empty() && !self.crash_region.is_empty(),
            format!(
                "{} ranges of System RAM, crash region {:x?}",
                self.system_ram.len(),
                self.crash_region
            ),
        );
        outcome.size(
            "crash_region",
            self.crash_region.end - self.crash_region.start,
        );
        self.check_panic(scenario, outcome);
        match &self.hang {
            Some(hang) => outcome.check("reset", false, format!("{hang}; last: {}", self.tail())),
            None => outcome.check(
                "reset",
                self.status.success(),
                format!("QEMU ended, {}", self.status),
            ),
        }
        if scenario.loader != Loader::None {
            self.check_capture(scenario, outcome);
        }
    }

    /// Checks that the panic is the one that was asked for, on the CPU that was asked for.
    fn check_panic(&self, scenario: &Scenario, outcome: &mut Outcome) {
        let Some(panic) = self.end_of_kernel() else {
            outcome.check("panic", false, format!("no panic; last: {}", self.tail()));
            return;
        };
        let way = scenario.panic.way();
        let proof = way.proof;
        let kind = self.find(proof).is_some();
        let after = self.lines.iter().skip_while(|line| line.at < panic.at);
        let mut cpus = after.filter_map(|line| line.text.split_once("CPU: "));
        let cpu = cpus
            .next()
            .and_then(|(_, rest)| rest.split(' ').next()?.parse::<u32>().ok());
        outcome.check(
            "panic",
            kind && (way.on_any_cpu || cpu == Some(scenario.panic_cpu)),
            format!(
                "{}; on CPU {}; {proof}: {}",
                panic.message(),
                cpu.map_or("?".into(), |cpu| cpu.to_string()),
                if kind { "seen" } else { "not seen" }
            ),
        );
    }

    /// Checks that the payload ran to its end, and notes the times.
    fn check_capture(&self, scenario: &Scenario, outcome: &mut Outcome) {
        let payload = self.payload();
        let (Some(panic), Some(first), Some(last)) =
            (self.end_of_kernel(), payload.first(), payload.last())
        else {
            outcome.check(
                "capture",
                false,
                format!("no line of the payload; last: {}", self.tail()),
            );
            return;
        };
        let since = |at: Duration| at.saturating_sub(panic.at).as_secs_f64() * 1000.0;
        outcome.time("panic_to_payload", since(first.at));
        outcome.time("panic_to_capture_end", since(last.at));
        outcome.time("panic_to_reset", since(self.end));
        outcome.time("boot_to_panic", panic.at.as_secs_f64() * 1000.0);
        outcome.check(
            "capture",
            last.text.contains("dump complete"),
            last.text.clone(),
        );
        // A plain partition's core is copied by one CPU.
        if !scenario.plain {
            let working = match u32::from(scenario.dump.cpus) {
                _ if !scenario.board.starts_cpus() => 1,
                0 => scenario.smp,
                limit => scenario.smp.min(limit),
            };
            let wanted = format!("kdraw: {working} of {} CPUs", scenario.smp);
            let said = payload.iter().find(|line| line.text.ends_with(" CPUs"));
            let said = said.map_or("nothing about CPUs", |line| &line.text);
            outcome.check("cpus", said == wanted, said);
        }
    }
}

/// Parses `START-END` of /proc/iomem, END inclusive.
fn iomem_range(text: &str) -> Result<Range<u64>> {
    let (start, end) = text.split_once('-').context("not a range")?;
    Ok(hexadecimal(start)?..hexadecimal(end)? + 1)
}

fn hexadecimal(text: &str) -> Result<u64> {
    Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
}
