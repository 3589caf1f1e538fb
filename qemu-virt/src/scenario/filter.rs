//! Compares what kdraw leaves out with what others would, page by page, on the same memory.
//!
//! Three who know nothing of kdraw:
//! - makedumpfile, over the dump of level 0. It refuses kernels built for 52-bit addresses, so
//!   it judges 6.1 only.
//! - drgn, with `classes.py`, which finds free and huge pages by their lists and everything else
//!   by debug information.
//! - the crashed kernel itself, which told the flags of all pages shortly before it panicked.
//!
//! kdraw's side is the dumps that the payload wrote at each level, all of the same memory.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kdraw_format::addr::{FRAME_SIZE, PhysRange};
use kdraw_guest::page_flags;
use kdraw_linux::classify::{DumpLevel, PageClass};

use super::again::{Again, Wish};
use super::result::Outcome;
use super::{KernelChoice, Place, Scenario, evidence};
use crate::compare::Vmcore;
use crate::kdump_file;
use crate::material::{self, Suite};
use crate::memory::{self, KeptPages, Memory, Pages};
use crate::run;

/// The dump levels that are compared.
const LEVELS: [u8; 7] = [0, 1, 2, 4, 8, 16, 31];
/// The part of RAM that kdraw may keep though others leave it out: one page of so many.
const TOLERANCE: usize = 200;
/// The most bytes that a dump may have, in percent of makedumpfile's of the same memory.
const SIZE_PERCENT: u64 = 105;
/// What `classes.py` says first of a page on a CPU's list of free pages.
const CPU_LIST: &str = "on a CPU's list";
/// The classifier of a second opinion.
const CLASSES: &str = include_str!("classes.py");

/// Flags of /proc/kpageflags by their bits (include/uapi/linux/kernel-page-flags.h, and
/// the others of include/linux/kernel-page-flags.h).
mod kpf {
    pub const LRU: u64 = 1 << 5;
    pub const SLAB: u64 = 1 << 7;
    pub const BUDDY: u64 = 1 << 10;
    pub const ANON: u64 = 1 << 12;
    pub const SWAP: u64 = 1 << 13 | 1 << 14;
    pub const TAIL: u64 = 1 << 16;
    pub const HUGE: u64 = 1 << 17;
    pub const HWPOISON: u64 = 1 << 19;
    pub const OFFLINE: u64 = 1 << 23;
    pub const RESERVED: u64 = 1 << 32;
    pub const PRIVATE: u64 = 1 << 35;
}

/// The memory, the dumps of it, and what is in them.
pub struct Dumps {
    /// The pages of the memory.
    pages: Pages,
    memory: Memory,
    /// The dump of level 0, an ELF vmcore.
    pub complete: PathBuf,
    /// Which pages the dump of each level has.
    levels: Vec<(u8, KeptPages)>,
}

/// Captures at every level, and checks that each dump has the pages of its level, unchanged.
pub fn capture_levels(again: &Again<'_>, first: &Path, outcome: &mut Outcome) -> Result<Dumps> {
    let notes = Vmcore::open(first)?.raw_notes()?;
    let memory = Memory::open(again.place.ram(), again.boot, notes)?;
    let pages = memory.classify()?;
    outcome.check("classes", true, census(&pages));
    let complete = again.place.file("complete.vmcore");
    let mut levels = Vec::new();
    for bits in LEVELS {
        let name = format!("level-{bits}");
        let result = again.capture(&name, Wish::level(bits)).and_then(|dump| {
            ensure!(
                dump.extracted.complete,
                "the dump is not complete: {}",
                dump.said
            );
            let vmcore = Vmcore::open(&dump.extracted.elf)?;
            let compared = again.compare(&vmcore)?;
            let level = DumpLevel::new(bits).context("level")?;
            let coverage = evidence::coverage(again.place, again.boot, &vmcore, level)?;
            levels.push((bits, memory.pages_in(&vmcore)));
            if bits == 0 {
                std::fs::rename(&dump.extracted.elf, &complete)?;
            }
            again.forget(&name)?;
            Ok(format!("{compared}; {coverage}; {}", dump.said))
        });
        outcome.check_result(&name, result);
    }
    Ok(Dumps {
        pages,
        memory,
        complete,
        levels,
    })
}

/// Compares the dumps with what others keep of the same memory; `size` is the length of the
/// first dump.
pub fn check(
    scenario: &Scenario,
    place: &Place,
    dumps: &Dumps,
    makedumpfile: &dyn Fn() -> Result<Command>,
    size: u64,
    outcome: &mut Outcome,
) -> Result<()> {
    let KernelChoice::Suite(suite) = scenario.kernel else {
        bail!("the filter is compared on Debian kernels, for their debug information");
    };
    let vmlinux = material::debug_kernel(suite)?;
    let comparison = Comparison {
        place,
        dumps,
        vmlinux: &vmlinux,
    };
    if suite == Suite::Bookworm {
        for (bits, dumped) in &dumps.levels {
            let result = comparison.makedumpfile(*bits, dumped, makedumpfile);
            outcome.check_result(&format!("filter-makedumpfile-{bits}"), result);
        }
        let result = comparison.sizes(scenario, size, makedumpfile);
        outcome.check_result("size-makedumpfile", result);
    }
    match drgn_classes(&dumps.complete, &vmlinux, &dumps.memory) {
        Err(error) => outcome.check("filter-drgn", false, format!("{error:#}")),
        Ok(theirs) => {
            for (bits, dumped) in &dumps.levels {
                let level = DumpLevel::new(*bits).context("level")?;
                let kept = memory::kept(&theirs, level);
                let result = comparison.compare(&format!("drgn-{bits}"), dumped, &kept);
                outcome.check_result(&format!("filter-drgn-{bits}"), result);
            }
        }
    }
    let told =
        kernel_classes(place.ram(), &dumps.memory).and_then(|theirs| comparison.snapshot(&theirs));
    outcome.check_result("filter-kpageflags", told);
    Ok(())
}

/// What all comparisons need.
struct Comparison<'a> {
    place: &'a Place,
    dumps: &'a Dumps,
    vmlinux: &'a Path,
}

impl Comparison<'_> {
    /// Compares a dump with what makedumpfile keeps at its level.
    fn makedumpfile(
        &self,
        bits: u8,
        dumped: &KeptPages,
        program: &dyn Fn() -> Result<Command>,
    ) -> Result<String> {
        let out = self.run_makedumpfile(program, &["-d", &bits.to_string()])?;
        let kept = kdump_file::kept(&out, self.dumps.memory.frames)?;
        std::fs::remove_file(&out)?;
        self.compare(&format!("makedumpfile-{bits}"), dumped, &kept)
    }

    /// Compares the length of the first dump with makedumpfile's of the same pages, packed.
    fn sizes(
        &self,
        scenario: &Scenario,
        ours: u64,
        program: &dyn Fn() -> Result<Command>,
    ) -> Result<String> {
        let level = scenario.dump.level.to_string();
        let out = self.run_makedumpfile(program, &["-l", "-d", &level])?;
        let theirs = std::fs::metadata(&out)?.len();
        std::fs::remove_file(&out)?;
        let percent = ours as f64 / theirs as f64 * 100.0;
        let told =
            format!("at level {level} {ours} bytes here, {theirs} with -l there: {percent:.1} %");
        ensure!(ours <= theirs / 100 * SIZE_PERCENT, "{told}");
        Ok(told)
    }

    /// Makes a file of makedumpfile's from the dump of level 0.
    fn run_makedumpfile(
        &self,
        program: &dyn Fn() -> Result<Command>,
        options: &[&str],
    ) -> Result<PathBuf> {
        let out = self.place.file("makedumpfile.vmcore");
        let _ = std::fs::remove_file(&out);
        run::quiet(
            program()?
                .args(options)
                .args([&self.dumps.complete, &out])
                .stdin(Stdio::null()),
        )?;
        Ok(out)
    }

    /// Checks that whatever `ours` lacks `theirs` lacks too, and explains what `ours` has more.
    fn compare(&self, name: &str, ours: &KeptPages, theirs: &KeptPages) -> Result<String> {
        let only = |have: &KeptPages, lack: &KeptPages| -> Vec<usize> {
            let pages = self.dumps.pages.classes.iter().enumerate();
            let pages = pages.filter(|(_, class)| class.is_some());
            let pages = pages.map(|(index, _)| index);
            pages
                .filter(|index| have[*index] && !lack[*index])
                .collect()
        };
        let (lost, more) = (only(theirs, ours), only(ours, theirs));
        let counts = format!("{} pages here, {} there", count(ours), count(theirs));
        if !lost.is_empty() {
            let what = self.explain(&format!("{name}-lost"), &lost)?;
            bail!("{counts}; {} pages are kept there only: {what}", lost.len());
        }
        let limit = self.dumps.pages.classes.len() / TOLERANCE;
        let what = match more.len() {
            0 => "the same".into(),
            _ => format!("{} here only: {}", more.len(), self.explain(name, &more)?),
        };
        ensure!(
            more.len() <= limit,
            "{counts}; {what}; at most {limit} may be"
        );
        Ok(format!("{counts}; {what}"))
    }

    /// Tells what pages are, the most frequent kinds first; all kinds are in a file.
    fn explain(&self, name: &str, indexes: &[usize]) -> Result<String> {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        let told = self.kinds(indexes)?;
        for (index, kind) in indexes.iter().zip(&told) {
            let class = self.dumps.pages.classes[*index].map_or("no page", PageClass::name);
            *kinds.entry(format!("{class}, {kind}")).or_default() += 1;
        }
        let mut kinds: Vec<(usize, String)> = kinds
            .into_iter()
            .map(|(kind, count)| (count, kind))
            .collect();
        kinds.sort_by(|a, b| b.cmp(a));
        let lines: Vec<String> = kinds
            .iter()
            .map(|(count, kind)| format!("{count} × {kind}"))
            .collect();
        let pages = indexes.iter().zip(&told);
        let pages = pages.map(|(index, kind)| format!("{index:#x} {kind}\n"));
        std::fs::write(
            self.place.file(&format!("filter-{name}.txt")),
            format!("{}\n\n{}", lines.join("\n"), pages.collect::<String>()),
        )?;
        Ok(lines.into_iter().take(3).collect::<Vec<_>>().join("; "))
    }

    /// Returns what drgn tells of each page.
    fn kinds(&self, indexes: &[usize]) -> Result<Vec<String>> {
        let mut list = String::new();
        for index in indexes {
            list += &format!("{index}\n");
        }
        let complete = &self.dumps.complete;
        let text = script(complete, self.vmlinux, &["explain".into()], &list)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Compares the classes with what the kernel said. Between that and the panic a few pages
    /// change their use, and a CPU takes free pages in bulk onto a list of its own, where nothing
    /// but that list tells that they are free: from 6.7 on, as many as 2016 at a
    /// time (CONFIG_PCP_BATCH_SCALE_MAX).
    fn snapshot(&self, theirs: &[Option<PageClass>]) -> Result<String> {
        let mut changes: BTreeMap<(PageClass, PageClass), usize> = BTreeMap::new();
        let (mut all, mut taken) = (0, Vec::new());
        for (index, (ours, theirs)) in self.dumps.pages.classes.iter().zip(theirs).enumerate() {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                all += 1;
                if ours != theirs {
                    *changes.entry((*theirs, *ours)).or_default() += 1;
                }
                if (*theirs, *ours) == (PageClass::Free, PageClass::Kernel) {
                    taken.push(index);
                }
            }
        }
        let kinds = self.kinds(&taken)?;
        let listed = kinds
            .iter()
            .filter(|kind| kind.starts_with(CPU_LIST))
            .count();
        let differ = changes.values().sum::<usize>() - listed;
        let told: Vec<String> = changes
            .iter()
            .map(|((was, is), count)| format!("{count} × {} then {}", was.name(), is.name()))
            .collect();
        let told = format!(
            "{differ} of {all} pages differ, and {listed} that went to a CPU's list of free \
             pages: {}",
            told.join(", ")
        );
        ensure!(all > 0 && differ <= all / TOLERANCE, "{told}");
        Ok(told)
    }
}

fn count(kept: &KeptPages) -> usize {
    kept.iter().filter(|kept| **kept).count()
}

/// Tells how many pages there are of each class.
fn census(pages: &Pages) -> String {
    let mut counts: BTreeMap<PageClass, usize> = BTreeMap::new();
    for class in pages.classes.iter().flatten() {
        *counts.entry(*class).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(class, count)| format!("{} {count}", class.name()))
        .collect();
    let doubts = pages.doubts.by_reason();
    let doubts = doubts.iter().filter(|(_, count)| *count > 0);
    let doubts: Vec<String> = doubts
        .map(|(why, count)| format!("{why}: {count}"))
        .collect();
    format!("{}; doubts: {doubts:?}", counts.join(", "))
}

/// Runs `classes.py`.
fn script(vmcore: &Path, vmlinux: &Path, arguments: &[String], input: &str) -> Result<String> {
    let mut command = Command::new(material::drgn_python()?);
    command
        .args(["-c", CLASSES])
        .args([vmcore, vmlinux])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start Python")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = input.to_owned();
    let feeder = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "classes.py failed ({})",
        output.status
    );
    // A script that fails reads nothing; its own error says more.
    feeder.join().ok().context("the script's input")??;
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns what drgn says of each page.
fn drgn_classes(vmcore: &Path, vmlinux: &Path, memory: &Memory) -> Result<Vec<Option<PageClass>>> {
    let ranges = memory.ranges.iter();
    let ranges = ranges.map(|range| format!("{}-{}", range.start.pfn().0, range.end.pfn().0));
    let text = script(vmcore, vmlinux, &ranges.collect::<Vec<_>>(), "")?;
    let mut classes = vec![None; memory.frames];
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let mut number = || -> Result<u64> { Ok(words.next().context("a number")?.parse()?) };
        let (pfn, count) = (number()?, number()?);
        let name = words.next().context("a class")?;
        let class = PageClass::ALL
            .into_iter()
            .find(|class| class.name() == name);
        let class = class.with_context(|| format!("classes.py says {name:?}"))?;
        for pfn in pfn..pfn + count {
            classes[pfn as usize] = Some(class);
        }
    }
    Ok(classes)
}

/// Returns what the kernel said of each page before it panicked.
fn kernel_classes(ram: &Path, memory: &Memory) -> Result<Vec<Option<PageClass>>> {
    let mut flags: Vec<Option<u64>> = vec![None; memory.frames];
    let ram = std::fs::read(ram)?;
    for page in ram.chunks(FRAME_SIZE as usize) {
        let mut words = page
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word));
        if words.next() != Some(page_flags::MAGIC) {
            continue;
        }
        let first = words.next().context("an odd page of flags")?;
        for (index, entry) in (first..).zip(words) {
            if let Some(slot) = flags.get_mut(index as usize) {
                *slot = Some(entry);
            }
        }
    }
    let mut classes = vec![None; memory.frames];
    let mut head = PageClass::Kernel;
    for PhysRange { start, end } in &memory.ranges {
        for pfn in start.pfn().0..end.pfn().0 {
            let index = pfn as usize;
            let flags = flags[index].with_context(|| format!("no flags of page {pfn:#x}"))?;
            // Tails have few flags of their own.
            if flags & kpf::TAIL == 0 || flags & kpf::HWPOISON != 0 {
                head = class_of(flags);
            }
            classes[index] = Some(head);
        }
    }
    Ok(classes)
}

/// Returns the class of a page by the flags of /proc/kpageflags.
fn class_of(flags: u64) -> PageClass {
    let any = |bits: u64| flags & bits != 0;
    if any(kpf::HWPOISON) {
        PageClass::HwPoison
    } else if any(kpf::OFFLINE) {
        PageClass::Offline
    } else if any(kpf::BUDDY) {
        PageClass::Free
    } else if any(kpf::SLAB) {
        PageClass::Slab
    } else if any(kpf::ANON | kpf::HUGE) {
        PageClass::User
    } else if any(kpf::LRU) || flags & kpf::SWAP == kpf::SWAP {
        match any(kpf::PRIVATE) {
            true => PageClass::CachePrivate,
            false => PageClass::Cache,
        }
    } else if any(kpf::RESERVED) {
        PageClass::Reserved
    } else {
        PageClass::Kernel
    }
}
