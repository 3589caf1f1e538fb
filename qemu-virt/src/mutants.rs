//! `cargo xtask fuzz --mutated N`: dumps of real kernels, broken in many ways, and the commands
//! that look into them.
//!
//! Every mutant is a copy of a dump in which bytes were flipped, pages overwritten, pointers
//! changed, headers damaged, or the end cut off. Half of the vmcores are without compression, so
//! that the changes are of the crashed kernel's memory; in those that are packed they hit
//! descriptors and compressed pages, in partition images sealed chunks. Each mutant is read by
//! `kdraw report`, and by another command in turn: none may panic, be killed by a signal, or need
//! more than [`SECONDS`] of a CPU or [`MEMORY`]. The limits are the system's own (prlimit(1):
//! `RLIMIT_CPU`, and `RLIMIT_DATA`, which is all memory that a process may write to).
//!
//! The same number makes the same mutant, of the same dump.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kdraw_guest::pattern::Random;

use crate::material::Suite;
use crate::run::{self, say};
use crate::scenario::tools::Readers;
use crate::scenario::{self, Place, Scenario};
use crate::{dist, setup};

/// How many `cargo xtask test --full` makes.
pub const FULL: u64 = 1000;
/// Seconds of a CPU that a command may take.
const SECONDS: u64 = 10;
/// Bytes that a command may have.
const MEMORY: u64 = 512 << 20;
/// A command that takes longer than this, whatever else the machine does, waits for something
/// that never comes.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a command's use of time and memory is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// What is read to find out where a file has data.
const BLOCK: usize = 4096;
/// Bytes at the start of a file that hold the headers, the notes and VMCOREINFO.
const HEADERS: u64 = 16 << 10;

/// What every mutant is read by.
const ALWAYS: &[&str] = &["report", "DUMP"];
/// One of these besides.
const IN_TURN: [&[&str]; 14] = [
    &["log", "DUMP"],
    &["bt", "--all", "-r", "DUMP"],
    &["ps", "-t", "DUMP"],
    &["mods", "DUMP"],
    &["struct", "DUMP", "task_struct", "init_task"],
    &["sym", "DUMP", "panic", "ext4_readdir"],
    &["report", "--json", "DUMP"],
    &["mem", "DUMP"],
    &["files", "DUMP", "1"],
    &["vm", "DUMP", "1"],
    &["irq", "DUMP"],
    &["mounts", "DUMP"],
    &["net", "DUMP"],
    &["dis", "DUMP", "sysrq_handle_crash"],
];

/// A dump that mutants are made of.
struct Original {
    path: PathBuf,
    size: u64,
    /// Where its blocks with data are.
    blocks: Vec<u64>,
}

/// What a command took at the most, and how commands ended.
#[derive(Default)]
struct Worst {
    seconds: f64,
    /// What took so long.
    slowest: String,
    bytes: u64,
    /// With exit codes 0, 1, and 3.
    ends: [u64; 3],
}

/// Makes `count` mutants of dumps and reads them; returns a line about what was done.
///
/// # Errors
///
/// When a command breaks: the message tells the mutant, which is kept.
pub fn play(count: u64, first: u64, dumps: &[PathBuf]) -> Result<String> {
    setup::ensure_build()?;
    let program = build()?;
    let folder = run::target_dir().join("fuzz/mutants");
    run::create_dir(&folder)?;
    let dumps = match dumps {
        [] => own_dumps(&folder)?,
        dumps => dumps.to_vec(),
    };
    let originals = originals(&program, &folder, &dumps)?;
    let (next, worst) = (AtomicU64::new(first), Mutex::new(Worst::default()));
    let failures = Mutex::new(Vec::new());
    let workers = thread::available_parallelism()?.get() as u64;
    thread::scope(|scope| {
        for worker in 0..workers {
            let (next, worst, failures) = (&next, &worst, &failures);
            let (originals, program) = (&originals, &program);
            let mutant = in_memory(&folder, &format!("kdraw-mutant-{worker}"));
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first.saturating_add(count) {
                        break;
                    }
                    if let Err(error) = one(number, originals, program, &mutant, worst) {
                        let kept = folder_of_found().join(format!("mutant-{number}"));
                        let kept = match std::fs::copy(&mutant, &kept) {
                            Ok(_) => kept.display().to_string(),
                            Err(error) => error.to_string(),
                        };
                        say(format!("{error:#}\n  kept: {kept}"));
                        if let Ok(mut failures) = failures.lock() {
                            failures.push(number);
                        }
                    }
                }
                let _ = std::fs::remove_file(&mutant);
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    if !failures.is_empty() {
        bail!("of {count} mutants, these break a command: {failures:?}");
    }
    let worst = worst.into_inner().unwrap_or_default();
    let [whole, lossy, refused] = worst.ends;
    Ok(format!(
        "{count} mutants of {} dumps: {whole} commands found nothing amiss, {lossy} told losses, \
         {refused} could not do it; at the most {} MiB, and {:.1} s of a CPU: {}",
        originals.len(),
        worst.bytes >> 20,
        worst.seconds,
        worst.slowest
    ))
}

/// A file that is written again and again: in memory, if there is a place for such.
fn in_memory(folder: &Path, name: &str) -> PathBuf {
    let shared = Path::new("/dev/shm");
    let place = if shared.is_dir() { shared } else { folder };
    place.join(format!("{name}-{}", std::process::id()))
}

fn folder_of_found() -> PathBuf {
    run::target_dir().join("fuzz/found")
}

/// Builds the tool, fast and with every check of a debug build.
fn build() -> Result<PathBuf> {
    let folder = run::target_dir().join("fuzz/build");
    run::quiet(
        Command::new("cargo")
            .args(["build", "--quiet", "--package", "kdraw", "--bin", "kdraw"])
            .args(["--profile", "fuzz", "--target-dir"])
            .arg(&folder)
            .current_dir(run::workspace()),
    )?;
    run::create_dir(&folder_of_found())?;
    Ok(folder.join("fuzz/kdraw"))
}

/// Captures a panic of each kernel: a vmcore, and the disk with the dump partition.
fn own_dumps(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut dumps = Vec::new();
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Sid] {
        let name = format!("mutants-{}", suite.name());
        let out = folder.join(suite.name());
        if !out.join("vmcore").exists() {
            let mut scenario = Scenario::new(&name, suite);
            (scenario.mem, scenario.fill) = (512, 32);
            let place = Place::new(&out, scenario.mem, false)?;
            let dist = dist::build()?;
            let outcome = scenario::play(&scenario, &dist, &place, Readers::None, false)?;
            ensure!(
                outcome.passed(),
                "scenario {name} failed: {}",
                out.display()
            );
        }
        dumps.extend([out.join("vmcore"), out.join("dump.img")]);
    }
    Ok(dumps)
}

/// The dumps, and each vmcore without compression too.
fn originals(program: &Path, folder: &Path, dumps: &[PathBuf]) -> Result<Vec<Original>> {
    let mut originals = Vec::new();
    for (number, dump) in dumps.iter().enumerate() {
        let plain = folder.join(format!("plain-{number}"));
        let _ = std::fs::remove_file(&plain);
        let mut convert = Command::new(program);
        convert.args(["convert", "--compress", "none"]);
        if run::succeeds(convert.args([dump, &plain])) {
            originals.push(Original::open(plain)?);
        }
        originals.push(Original::open(dump.clone())?);
    }
    Ok(originals)
}

impl Original {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let size = file.metadata()?.len();
        let mut piece = vec![0; 256 * BLOCK];
        let mut blocks = Vec::new();
        for start in (0..size).step_by(piece.len()) {
            let len = piece.len().min((size - start) as usize);
            file.read_exact_at(&mut piece[..len], start)?;
            let places = (start..).step_by(BLOCK).zip(piece[..len].chunks(BLOCK));
            let there = places.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
            blocks.extend(there.map(|(at, _)| at));
        }
        ensure!(!blocks.is_empty(), "{} has no data", path.display());
        Ok(Self { path, size, blocks })
    }

    /// A place with data, aligned to 8 bytes.
    fn place(&self, random: &mut Random) -> u64 {
        let block = self.blocks[random.next() as usize % self.blocks.len()];
        let last = self.size.saturating_sub(8);
        (block + random.next() % BLOCK as u64).min(last) & !7
    }

    /// Makes a mutant; returns what it is, in words.
    fn mutate(&self, random: &mut Random, to: &Path) -> Result<String> {
        let mut copy = Command::new("cp");
        run::quiet(copy.args(["--sparse=auto"]).args([&self.path, to]))?;
        let file = File::options().read(true).write(true).open(to)?;
        let what = match random.next() % 5 {
            0 => {
                let count = one_of(random, [1, 100, 10_000]);
                for _ in 0..count {
                    let at = self.place(random) + random.next() % 8;
                    file.write_all_at(&[random.next() as u8], at)?;
                }
                format!("{count} bytes")
            }
            1 => {
                let count = one_of(random, [1, 20, 500]);
                for _ in 0..count {
                    let at = self.place(random) & !(BLOCK as u64 - 1);
                    let mut page = vec![0; BLOCK.min((self.size - at) as usize)];
                    match random.next() % 3 {
                        0 => {}
                        1 => page.fill_with(|| random.next() as u8),
                        _ => {
                            let from = self.place(random) & !(BLOCK as u64 - 1);
                            let len = page.len().min((self.size - from) as usize);
                            file.read_exact_at(&mut page[..len], from)?;
                        }
                    }
                    file.write_all_at(&page, at)?;
                }
                format!("{count} pages")
            }
            2 => {
                let count = one_of(random, [10, 1000, 50_000]);
                let pointer = |random: &mut Random| -> Result<Option<(u64, u64)>> {
                    // Kernel addresses, among a few words.
                    for _ in 0..8 {
                        let at = self.place(random);
                        let mut word = [0; 8];
                        file.read_exact_at(&mut word, at)?;
                        let word = u64::from_le_bytes(word);
                        if word >> 48 == 0xffff {
                            return Ok(Some((at, word)));
                        }
                    }
                    Ok(None)
                };
                for _ in 0..count {
                    let (Some((at, old)), Some((_, other))) = (pointer(random)?, pointer(random)?)
                    else {
                        continue;
                    };
                    let new = match random.next() % 4 {
                        0 => other,
                        1 => old ^ 1 << (random.next() % 48),
                        2 => old.wrapping_add(random.next() % 4096),
                        _ => 0,
                    };
                    file.write_all_at(&new.to_le_bytes(), at)?;
                }
                format!("{count} pointers")
            }
            3 => {
                let count = one_of(random, [1, 4, 32]);
                for _ in 0..count {
                    let at = random.next() % HEADERS.min(self.size - 8);
                    let word = random.next();
                    let bytes = match random.next() % 3 {
                        0 => [0xff; 8],
                        1 => word.to_le_bytes(),
                        // VMCOREINFO has numbers as text.
                        _ => format!("{:08x}", word as u32).into_bytes()[..8].try_into()?,
                    };
                    let len = one_of(random, [1, 4, 8]);
                    file.write_all_at(&bytes[..len], at)?;
                }
                format!("{count} words of the headers")
            }
            _ => {
                let block = self.blocks[random.next() as usize % self.blocks.len()];
                let end = (block + random.next() % BLOCK as u64).min(self.size);
                file.set_len(end)?;
                format!("cut at {end} of {}", self.size)
            }
        };
        Ok(format!("{}: {what}", self.path.display()))
    }
}

fn one_of<T: Copy>(random: &mut Random, choices: [T; 3]) -> T {
    choices[random.next() as usize % choices.len()]
}

/// Makes a mutant and reads it.
fn one(
    number: u64,
    originals: &[Original],
    program: &Path,
    mutant: &Path,
    worst: &Mutex<Worst>,
) -> Result<()> {
    let mut random = Random::new(number);
    let original = &originals[number as usize % originals.len()];
    let what = original.mutate(&mut random, mutant)?;
    let other = IN_TURN[number as usize / originals.len() % IN_TURN.len()];
    for words in [ALWAYS, other] {
        let what = format!("mutant {number}, {what}; kdraw {}", words.join(" "));
        read(program, words, mutant, &what, worst).with_context(|| what.clone())?;
    }
    Ok(())
}

/// Runs a command on a mutant.
fn read(
    program: &Path,
    words: &[&str],
    mutant: &Path,
    what: &str,
    worst: &Mutex<Worst>,
) -> Result<()> {
    let errors = mutant.with_extension("stderr");
    let mut command = Command::new("prlimit");
    command
        .args([format!("--cpu={SECONDS}"), format!("--data={MEMORY}")])
        .arg("--core=0")
        .arg(program);
    for word in words {
        match *word {
            "DUMP" => command.arg(mutant),
            word => command.arg(word),
        };
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors)?)
        .spawn()?;
    let started = std::time::Instant::now();
    let mut used = Worst::default();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("it does not end");
        }
        used.look(child.id());
        thread::sleep(LOOK);
    };
    let text = std::fs::read(&errors)?;
    std::fs::remove_file(&errors)?;
    let text = String::from_utf8_lossy(&text);
    let code = status.code();
    ensure!(
        matches!(code, Some(0 | 1 | 3)) && !text.contains("panicked at"),
        "{}, after {:.1} s and {} MiB: {}",
        ended(status),
        used.seconds,
        used.bytes >> 20,
        text.trim()
    );
    if let Ok(mut worst) = worst.lock() {
        if used.seconds > worst.seconds {
            worst.seconds = used.seconds;
            what.clone_into(&mut worst.slowest);
        }
        worst.bytes = worst.bytes.max(used.bytes);
        let end = code.map_or(0, |code| code.min(2) as usize);
        worst.ends[end] += 1;
    }
    Ok(())
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(101) => "it panicked".to_owned(),
        _ => status.to_string(),
    }
}

impl Worst {
    /// Takes note of what a process has used by now (proc(5): `stat`, `status`).
    fn look(&mut self, process: u32) {
        /// `sysconf(_SC_CLK_TCK)`, 100 on every Linux.
        const TICKS: f64 = 100.0;
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}"));
        if let Ok(stat) = read("stat") {
            // Behind the name, which may have spaces: utime and stime are fields 14 and 15.
            let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            let ticks = fields.split(' ').skip(11).take(2);
            let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
            self.seconds = self.seconds.max(ticks / TICKS);
        }
        if let Ok(status) = read("status") {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            self.bytes = self.bytes.max(kib.unwrap_or(0) << 10);
        }
    }
}
