//! What came out: as JSON, as a table, as a page of documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::GUEST_CPU;
use super::capture::{Sample, measure};
use super::rows::{Row, Tool, group};
use super::statistics::Summary;
use crate::{material, run};

/// The machine on which was measured, and with what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub qemu: String,
    pub guest: String,
    /// kdraw's commit.
    pub kdraw: String,
    /// Date, UTC.
    pub date: String,
    /// The host's load average of the last minute before and after.
    pub load: Vec<f64>,
}

/// What was measured of a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowReport {
    pub name: String,
    pub group: String,
    pub at: String,
    pub tool: String,
    pub kdraw: bool,
    /// The kernel that panicked.
    pub kernel: String,
    pub mem_mib: u64,
    pub cpus: u32,
    pub fill_mib: u64,
    pub reserved: String,
    /// Whether it ran under Debian's newest QEMU.
    #[serde(default)]
    pub newest_qemu: bool,
    /// What the crash kernel runs, if it is kdump.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub command: Option<String>,
    /// Whether the capture works, where nothing else is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub works: Option<bool>,
    pub measures: BTreeMap<String, Summary>,
    pub samples: Vec<Sample>,
    /// Why runs failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(default)]
    pub failures: Vec<String>,
}

/// A ratio that was promised.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Promise {
    pub what: String,
    /// What is asked for, in words.
    pub asked: String,
    pub measured: f64,
    pub met: bool,
}

/// Everything that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    pub promises: Vec<Promise>,
    pub rows: Vec<RowReport>,
}

impl Machine {
    /// Describes this machine.
    pub fn here() -> Result<Self> {
        let version = |qemu: &Path| -> Result<String> {
            let told = run::output(Command::new(qemu).arg("--version"))?;
            Ok(told.lines().next().unwrap_or_default().to_owned())
        };
        let own = version(Path::new(material::QEMU))?;
        let newest = version(&material::newest_qemu()?)?;
        let mut describe = run::command(["git", "describe", "--always", "--dirty"]);
        let kdraw = run::output(describe.current_dir(run::workspace())).unwrap_or_default();
        let date = run::output(&mut run::command(["date", "--utc", "+%Y-%m-%d"]))?;
        let field = |file: &str, key: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let kib: u64 = memory
            .trim_end_matches(" kB")
            .parse()
            .context("/proc/meminfo")?;
        Ok(Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib >> 20,
            qemu: format!("{own}; the newest, {newest}"),
            guest: format!(
                "-M virt -cpu {GUEST_CPU}, TCG; disk: virtio-blk (mmio) on a file, where the row names no other"
            ),
            kdraw: kdraw.trim().to_owned(),
            date: date.trim().to_owned(),
            load: vec![load()],
        })
    }
}

/// Returns the load average of the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next();
    first.and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

impl RowReport {
    /// Starts a row without measures.
    pub fn new(row: &Row, kernel: &str) -> Self {
        Self {
            name: row.name(),
            group: row.group.into(),
            at: row.at.clone(),
            tool: row.tool.name(),
            kdraw: matches!(row.tool, Tool::Kdraw(_)),
            kernel: kernel.into(),
            mem_mib: row.mem,
            cpus: row.cpus,
            fill_mib: row.fill,
            reserved: row.reserved.into(),
            newest_qemu: row.newest_qemu(),
            command: match row.tool {
                Tool::Kdump(method) => Some(method.command.into()),
                Tool::Kdraw(_) | Tool::Dd => None,
            },
            works: None,
            measures: BTreeMap::new(),
            samples: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Starts the row of a program of this machine.
    pub fn host(tool: &str, command: &str, kernel: &str) -> Self {
        Self {
            name: host_name(tool),
            group: group::HOST.into(),
            at: String::new(),
            tool: tool.into(),
            kdraw: tool.starts_with("kdraw"),
            kernel: kernel.into(),
            mem_mib: 0,
            cpus: 0,
            fill_mib: 0,
            reserved: String::new(),
            newest_qemu: false,
            command: Some(command.into()),
            works: None,
            measures: BTreeMap::new(),
            samples: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn sum_up(&mut self) {
        let names: Vec<String> = self
            .samples
            .iter()
            .flat_map(Sample::keys)
            .cloned()
            .collect();
        for name in names {
            let takes = self.samples.iter().filter_map(|sample| sample.get(&name));
            if let Some(summary) = Summary::of(takes.copied()) {
                self.measures.insert(name, summary);
            }
        }
    }

    /// Returns the median of a measure.
    pub fn median(&self, name: &str) -> Option<f64> {
        Some(self.measures.get(name)?.median)
    }
}

impl Report {
    /// Starts a report.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            promises: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Reads a report.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Writes the report as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Puts a row in, in the place of an earlier one of that name.
    pub fn put(&mut self, mut row: RowReport) {
        row.sum_up();
        match self.rows.iter_mut().find(|old| old.name == row.name) {
            Some(old) => *old = row,
            None => self.rows.push(row),
        }
    }

    /// Ends a report: rows come in their order, and what was promised is compared with what was
    /// measured.
    pub fn finish(&mut self, names: &[String]) {
        self.rows
            .sort_by_key(|row| names.iter().position(|name| *name == row.name));
        self.machine.load.push(load());
        self.promises = self.promises();
    }

    /// Returns the rows of a group.
    pub fn group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a RowReport> + 'a {
        self.rows.iter().filter(move |row| row.group == group)
    }

    fn row(&self, name: &str) -> Option<&RowReport> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Returns the median of a row's measure over that of another row's.
    fn ratio(&self, measure: &str, row: &str, over: &str) -> Option<f64> {
        Some(self.row(row)?.median(measure)? / self.row(over)?.median(measure)?)
    }

    /// Returns the median over all runs of the comparison whose tool begins so.
    fn core_median(&self, measure: &str, by: &str) -> Option<f64> {
        let rows = self
            .group(group::CORE)
            .filter(|row| row.tool.starts_with(by));
        let samples = rows.flat_map(|row| &row.samples);
        let summary = Summary::of(samples.filter_map(|sample| sample.get(measure).copied()));
        Some(summary?.median)
    }

    fn promises(&self) -> Vec<Promise> {
        let mut promises = Vec::new();
        let mut at_most = |what: &str, ratio: Option<f64>, asked: f64, aim: Option<f64>| {
            let aim = aim.map_or(String::new(), |aim| format!(" (aim 1/{aim:.0})"));
            promises.extend(ratio.map(|measured| Promise {
                what: what.to_owned(),
                asked: format!("at most 1/{asked:.0}{aim}"),
                measured,
                met: measured <= 1.0 / asked,
            }));
        };
        let pairs = [
            ("31 LZ4", "-l -d 31", 6.0, 10.0),
            ("0 LZ4", "-l -d 0", 4.0, 6.0),
            ("0 raw", "-d 0", 8.0, 12.0),
        ];
        for (ours, theirs, asked, aim) in pairs {
            let (ours, theirs) = (
                format!("core: kdraw {ours}"),
                format!("core: kdump {theirs}"),
            );
            at_most(
                &format!("panic → reset, {ours} over {theirs}"),
                self.ratio(measure::RESET, &ours, &theirs),
                asked,
                Some(aim),
            );
        }
        // What comes before is the same at every level.
        let first_byte = |by| self.core_median(measure::FIRST_BYTE, by);
        at_most(
            "first durable byte, core: kdraw over the start of kdump's dump, all levels",
            first_byte("kdraw")
                .zip(first_byte("kdump"))
                .map(|(ours, theirs)| ours / theirs),
            50.0,
            None,
        );
        for (ours, theirs, asked, aim) in [
            ("31 LZ4", "-l -d 31", 4.0, Some(6.0)),
            ("0 LZ4", "-l -d 0", 2.0, None),
        ] {
            let (ours, theirs) = (
                format!("instructions: kdraw {ours}"),
                format!("instructions: kdump {theirs}"),
            );
            at_most(
                &format!("instructions panic → reset, {ours} over {theirs}"),
                self.ratio(measure::INSTRUCTIONS, &ours, &theirs),
                asked,
                aim,
            );
        }
        for (what, rate, ours, over, asked) in [
            (
                "rate of kdraw 0 LZ4, 4 CPUs over 1",
                measure::RATE,
                "cpus 4: kdraw 0 LZ4",
                "cpus 1: kdraw 0 LZ4",
                1.6,
            ),
            (
                "rate of writing, kdraw 0 raw, an SD card by ADMA2 over virtio-blk",
                measure::WRITE_RATE,
                "disks sdhci: kdraw 0 raw",
                "disks virtio: kdraw 0 raw",
                0.5,
            ),
            (
                "rate of writing, kdraw 31 LZ4, an SD card over virtio-blk, both held to 10 MB/s",
                measure::WRITE_RATE,
                "disks sdhci, 10 MB/s: kdraw 31 LZ4",
                "disks virtio, 10 MB/s: kdraw 31 LZ4",
                0.5,
            ),
        ] {
            let ratio = self.ratio(rate, ours, over);
            promises.extend(ratio.map(|measured| Promise {
                what: what.into(),
                asked: format!("at least {asked}"),
                measured,
                met: measured >= asked,
            }));
        }
        let (ours, theirs) = ("core: kdraw 31 LZ4", "host: makedumpfile -l -d 31");
        let bytes = self.ratio(measure::BYTES, ours, theirs);
        promises.extend(bytes.map(|measured| Promise {
            what: format!("bytes of the dump, {ours} over {theirs} of a level 0 dump"),
            asked: "at most 1.05".into(),
            measured,
            met: measured <= 1.05,
        }));
        let growth = |name: &str| self.row(&format!("growth {name}: kdraw 31 LZ4"));
        if let (Some(small), Some(large)) = (growth("1 GiB"), growth("8 GiB"))
            && let (Some(before), Some(after)) =
                (small.median(measure::RESET), large.median(measure::RESET))
        {
            let pages = large.mem_mib as f64 / small.mem_mib as f64;
            promises.push(Promise {
                what: "panic → reset, RAM of 8 GiB over 1 GiB, the same kept".into(),
                asked: format!("at most {pages:.0}, as the struct pages"),
                measured: after / before,
                met: after / before <= pages,
            });
        }
        promises
    }

    /// Returns the result for a terminal.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for cells in self.lines() {
            let _ = writeln!(
                text,
                "{:<38} {:>3}  {:>22}  {:>22}  {:>18}  {:>8}  {:>9}",
                cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6]
            );
        }
        for promise in &self.promises {
            let _ = writeln!(
                text,
                "{} {}: {}, asked {}",
                if promise.met { "met    " } else { "NOT MET" },
                promise.what,
                figure(promise.measured),
                promise.asked
            );
        }
        text
    }

    /// Returns the result as a page of documentation.
    pub fn markdown(&self) -> String {
        let mut text = String::from(ABOUT);
        let machine = &self.machine;
        let load: Vec<String> = machine.load.iter().map(f64::to_string).collect();
        let _ = writeln!(
            text,
            "- Machine: {}, {} cores, {} GiB; {}, `{}`; load average before and after: {}.\n\
             - kdraw {}, {}.\n\n## What was asked for\n\n\
             | | asked | measured | |\n|---|---|---|---|",
            machine.cpu,
            machine.cores,
            machine.memory_gib,
            machine.qemu,
            machine.guest,
            load.join(", "),
            machine.kdraw,
            machine.date,
        );
        for promise in &self.promises {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                promise.what,
                promise.asked,
                figure(promise.measured),
                if promise.met { "met" } else { "**not met**" }
            );
        }
        for (group, title) in GROUPS {
            let names: Vec<&str> = self.group(group).map(|row| row.name.as_str()).collect();
            if names.is_empty() {
                continue;
            }
            let _ = writeln!(text, "\n## {title}\n");
            for (index, cells) in self.lines().iter().enumerate() {
                if index == 0 || names.contains(&cells[0].as_str()) {
                    let _ = writeln!(text, "| {} |", cells.join(" | "));
                }
                if index == 0 {
                    text += "|---|---|---|---|---|---|---|\n";
                }
            }
            let newest = self.group(group).filter(|row| row.newest_qemu);
            let newest: Vec<&str> = newest.map(|row| row.name.as_str()).collect();
            if !newest.is_empty() {
                let _ = writeln!(text, "\nUnder the newest QEMU: {}.", newest.join(", "));
            }
        }
        text += &self.disks();
        text += &self.phases();
        text += &self.host();
        let mut failures = self
            .rows
            .iter()
            .filter(|row| row.works.is_none() && !row.failures.is_empty())
            .peekable();
        if failures.peek().is_some() {
            text += "\n## Runs that failed\n\n";
        }
        for row in failures {
            let _ = writeln!(text, "- {}: {} runs", row.name, row.failures.len());
        }
        text
    }

    /// Tells how fast each kind of disk was written, by the payload and by Linux itself.
    fn disks(&self) -> String {
        let mut text = String::new();
        for row in self.group(group::DISKS) {
            let rate = row.measures.get(measure::WRITE_RATE);
            let dd = self.row(&format!("disks {}: {}", row.at, Tool::Dd.name()));
            let dd = dd.and_then(|row| row.median(measure::WRITE_RATE));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                row.name,
                row.samples.len(),
                rate.map_or("-".into(), |rate| format!(
                    "{:.1} ({:.1}–{:.1})",
                    rate.median, rate.min, rate.max
                )),
                match (rate, dd) {
                    (Some(rate), Some(dd)) if row.kdraw => format!("{:.2}", rate.median / dd),
                    _ => "-".into(),
                }
            );
        }
        if text.is_empty() {
            return text;
        }
        format!("{ABOUT_DISKS}{text}")
    }

    /// Tells how long the payload's phases take, in time and in instructions.
    fn phases(&self) -> String {
        let mut text = String::new();
        for (group, unit) in [
            (group::CORE, "ms"),
            (group::INSTRUCTIONS, "million instructions"),
        ] {
            for row in self.group(group).filter(|row| row.kdraw) {
                let mut phases = String::new();
                for (name, summary) in &row.measures {
                    if let Some(phase) = name.strip_prefix(measure::PHASE) {
                        let _ = write!(phases, " {phase} {:.1},", summary.median);
                    }
                }
                let _ = writeln!(
                    text,
                    "- {}, {unit}:{}",
                    row.name,
                    phases.trim_end_matches(',')
                );
            }
        }
        if text.is_empty() {
            return text;
        }
        format!(
            "\n## Phases of the payload\n\nFrom its first instruction to the durable trailer; the \
             rest of the time is the crashed kernel's.\n\n{text}"
        )
    }

    /// Tells of the programs of this machine.
    fn host(&self) -> String {
        let mut text = String::new();
        for row in self.group(group::HOST) {
            let spread = |name: &str| match row.measures.get(name) {
                Some(Summary {
                    median, min, max, ..
                }) => format!("{median:.2} ({min:.2}–{max:.2})"),
                None => "-".into(),
            };
            let middle = |name: &str, unit: f64| {
                row.median(name)
                    .map_or("-".into(), |take| format!("{:.1}", take / unit))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.tool,
                row.samples.len(),
                spread(measure::SECONDS),
                middle(measure::BYTES, 1e6),
                middle(measure::PAGE_RATE, 1e6),
                middle(measure::PER_PAGE, 1.0)
            );
        }
        if text.is_empty() {
            return text;
        }
        format!(
            "\n## On this machine, of a level 0 dump of 1 GiB\n\nmakedumpfile is built for this \
             machine and reads the ELF vmcore that `kdraw extract` wrote; the classifier goes over \
             that vmcore in memory (`tests/examples/classify.rs`), its instructions are counted by \
             callgrind. The report is made on one core, with 256 MiB that it may \
             write to, of what `makedumpfile -l -d 31` wrote.\n\n\
             | | n | seconds | MB | million pages/s | instructions/page |\n|---|---|---|---|---|---|\n\
             {text}"
        )
    }

    /// Returns the lines of the table, the heading first: name, n, first byte, reset,
    /// instructions, MB, GiB/s.
    fn lines(&self) -> Vec<[String; 7]> {
        let mut lines = vec![
            [
                "row",
                "n",
                "first durable byte s",
                "panic to reset s",
                "instructions G",
                "dump MB",
                "GiB/s",
            ]
            .map(str::to_owned),
        ];
        for row in self.rows.iter().filter(|row| row.group != group::HOST) {
            let spread = |name: &str, unit: f64, digits: usize| {
                row.measures.get(name).map_or("-".into(), |summary| {
                    let [median, min, max] =
                        [summary.median, summary.min, summary.max].map(|take| take / unit);
                    if summary.n > 1 {
                        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
                    } else {
                        format!("{median:.digits$}")
                    }
                })
            };
            let middle = |name: &str, unit: f64, digits: usize| {
                row.median(name)
                    .map_or("-".into(), |take| format!("{:.digits$}", take / unit))
            };
            let reset = match (row.works, row.failures.first()) {
                (Some(true), _) => "works".into(),
                (Some(false), _) | (_, Some(_)) => "fails".into(),
                _ => spread(measure::RESET, 1000.0, 2),
            };
            lines.push([
                row.name.clone(),
                row.samples.len().to_string(),
                spread(measure::FIRST_BYTE, 1000.0, 3),
                reset,
                spread(measure::INSTRUCTIONS, 1e9, 3),
                middle(measure::BYTES, 1e6, 1),
                middle(measure::RATE, 1.0, 2),
            ]);
        }
        lines
    }
}

/// What the page says before its tables.
const ABOUT: &str = "\
# kdraw and kdump, measured

`cargo xtask bench` made this page; `bench.json` beside it holds every run. Numbers are medians with
the least and the greatest in brackets. Host time under an emulator is not time on a board: compare
within a row's group only. MB are millions of bytes.

![The medians as bars](bench.svg)

## How it was measured

- The same Debian kernel, the same memory (a quarter of RAM in 6 processes, an eighth each in tmpfs
  and page cache, mixed contents), the same virtio disk (but for the group of disks), whose image lies
  in the host's memory: so what is measured is not the host's file system. The rows of a group take turns.
- kdump gets its fairest set-up: crashkernel=256M, `kexec -i` (no hash in purgatory, which is slow
  under an emulator), a minimal initramfs (busybox, the disk's modules, makedumpfile), `nr_cpus=1`,
  `cma=0`, its dump on ext4. 6.1 needs a patched /proc/kallsyms for kexec-tools to work at all;
  makedumpfile refuses 6.12 and 7.x (4K pages, VA_BITS=52), where /proc/vmcore is copied.
- *First durable byte*: from the panic's line on the console to the black box behind a flush; for
  kdump to the start of its program, when nothing is written yet. *Reset*: to the end of QEMU.
- *Instructions*: `-icount shift=0,sleep=off`, one CPU, from the first instruction of `panic()` (a
  breakpoint) to the reset, by `query-replay`: idle time does not count. The count is exact; what
  varies is how often kdraw looks at the disk before the host is done, for it polls.
- The group of CPUs runs under the newest QEMU of Debian: in 11.1 a CPU that waits for an event
  (WFE) leaves its host core to the others. In 7.2 it burns it: there, 4 CPUs on 2 host cores reached
  1.3 to 1.7 times the rate of one, in five measurements.
- *GiB/s*: all memory of the crashed kernel over the time of dumping alone, kept or not.
";

/// What is said of the disks.
const ABOUT_DISKS: &str = "
## Disks: virtio-blk, NVMe, an SD card by SDHCI ADMA2

*MB/s*: bytes that the payload wrote over the time in which it had any write in flight; for Linux,
the host's time of `dd if=/dev/zero bs=1M oflag=direct` onto the same partition.

QEMU's card is what bounds the SD rows: SD cards have blocks of 512 bytes, and its model hands every
one to the image by itself, through a thread of its own, and waits (`hw/sd/sd.c`, `sd_blk_write`;
`strace` sees a `pwrite64` of 512 bytes, three futexes, a `ppoll` and eight reads and writes of
eventfds for each). Descriptors, block counts and requests of any length change nothing about
that. So Linux's own rate on that disk is the measure there, and the rows of 10 MB/s, to which QEMU holds
the disk, tell what is lost where the medium is the bound, as on a board. The driver accesses a
register of an SDHCI at most 84 times for each MiB written by ADMA2 or SDMA, waiting aside
(`capture-kernel/drivers/tests/sdhci.rs` counts and limits that).

| row | n | MB/s | kdraw over Linux's dd on that disk |
|---|---|---|---|
";

/// The groups and what is said of them.
const GROUPS: [(&str, &str); 7] = [
    (group::CORE, "6.1, 1 GiB, 2 CPUs"),
    (
        group::INSTRUCTIONS,
        "Instructions from panic to reset: 6.1, 1 GiB, 1 CPU",
    ),
    (group::KERNELS, "Kernels that makedumpfile refuses"),
    (group::CPUS, "CPUs (0 LZ4: all of them compress)"),
    (group::MEMORY, "RAM, half of it filled"),
    (group::GROWTH, "RAM, 512 MiB filled"),
    (group::RESERVATION, "Smallest crash region"),
];

/// Tells a ratio with three digits.
fn figure(ratio: f64) -> String {
    if ratio < 0.995 {
        format!("1/{:.1}", 1.0 / ratio)
    } else {
        format!("{ratio:.2}")
    }
}

/// Returns the name of a row of programs of this machine.
pub fn host_name(tool: &str) -> String {
    format!("{}: {tool}", group::HOST)
}

/// Tells a sample in a line.
pub fn shown(sample: &Sample) -> String {
    let mut parts = Vec::new();
    for (name, unit, scale) in [
        (measure::FIRST_BYTE, "s to the first byte", 1000.0),
        (measure::RESET, "s to the reset", 1000.0),
        (measure::INSTRUCTIONS, "G instructions", 1e9),
        (measure::SECONDS, "s", 1.0),
        (measure::BYTES, "MB", 1e6),
        (measure::RATE, "GiB/s", 1.0),
        (measure::WRITE_RATE, "MB/s written", 1.0),
    ] {
        if let Some(take) = sample.get(name) {
            parts.push(format!("{:.3} {unit}", take / scale));
        }
    }
    parts.join(", ")
}
