//! What is done with a dump afterwards, on this machine: extraction and filtering, against
//! makedumpfile over the same memory, how fast pages are classified, and what the report takes.
//!
//! The dump is one of level 0, so that everybody starts from the whole memory. makedumpfile is
//! built for this machine, so that none of them is emulated.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::capture::{Prepared, Sample, measure};
use super::report::{self, RowReport};
use super::rows::{self, Extent, group};
use crate::dist::Dist;
use crate::scenario::evidence::find_file;
use crate::{material, run};

/// A program and what it makes of the dump.
struct Job {
    name: &'static str,
    /// `IN` is the disk of kdraw's programs, the ELF vmcore of the others; `OUT` what it makes.
    words: &'static [&'static str],
    /// Where the vmcore is then, below `OUT`.
    file: &'static str,
}

const TO_ELF: Job = Job {
    name: "kdraw extract --format elf",
    words: &[
        "kdraw", "extract", "--keep", "--format", "elf", "DISK", "-o", "OUT",
    ],
    file: "vmcore",
};

/// Each after [`TO_ELF`], whose vmcore is their input.
const JOBS: [Job; 6] = [
    Job {
        name: "kdraw extract --format kdump",
        words: &[
            "kdraw", "extract", "--keep", "--format", "kdump", "DISK", "-o", "OUT",
        ],
        file: "vmcore",
    },
    Job {
        name: "kdraw convert --format kdump",
        words: &[
            "kdraw",
            "convert",
            "--format",
            "kdump",
            "VMCORE",
            "OUT/vmcore",
        ],
        file: "vmcore",
    },
    Job {
        name: "makedumpfile -z -d 0",
        words: &["makedumpfile", "-z", "-d", "0", "VMCORE", "OUT/vmcore"],
        file: "vmcore",
    },
    Job {
        name: "makedumpfile -c -d 0",
        words: &["makedumpfile", "-c", "-d", "0", "VMCORE", "OUT/vmcore"],
        file: "vmcore",
    },
    Job {
        name: "makedumpfile -l -d 0",
        words: &["makedumpfile", "-l", "-d", "0", "VMCORE", "OUT/vmcore"],
        file: "vmcore",
    },
    Job {
        name: "makedumpfile -l -d 31",
        words: &["makedumpfile", "-l", "-d", "31", "VMCORE", "OUT/vmcore"],
        file: "vmcore",
    },
];

/// The report on what the last of [`JOBS`] made, on one core and with 256 MiB that it may write to
/// at the most (prlimit(1): `RLIMIT_DATA`).
const REPORT: Job = Job {
    name: "kdraw report of a level 31 dump",
    words: &[
        "taskset",
        "-c",
        "0",
        "prlimit",
        "--data=268435456",
        "kdraw",
        "report",
        "--html",
        "OUT/report.html",
        "VMCORE",
    ],
    file: "report.html",
};

/// The name of the row that tells how fast pages are classified.
const CLASSIFIER: &str = "kdraw's classifier";

/// The names of the rows.
pub fn names() -> Vec<String> {
    let jobs = [&TO_ELF].into_iter().chain(&JOBS).chain([&REPORT]);
    let jobs = jobs.map(|job| job.name);
    jobs.chain([CLASSIFIER]).map(report::host_name).collect()
}

/// Captures once, and measures each row `runs` times.
pub fn measure(
    dist: &Dist,
    out: &Path,
    runs: usize,
    done: &mut dyn FnMut(RowReport) -> Result<()>,
) -> Result<()> {
    let row = rows::all(Extent::Quick, 1)
        .into_iter()
        .find(|row| row.group == group::CORE && row.tool.name() == "kdraw 0 LZ4")
        .context("no row of level 0")?;
    println!("{}: capturing", group::HOST);
    let prepared = Prepared::new(&row, dist, &out.join("row0"))?;
    let disk = prepared.run_and_keep()?;
    let folder = out.join("host");
    run::remove_dir(&folder)?;
    let elf_folder = folder.join("elf");
    let mut bench = Bench {
        dist,
        makedumpfile: material::makedumpfile_native()?,
        disk,
        vmcore: PathBuf::new(),
    };
    bench.take(&TO_ELF, &elf_folder, runs, prepared.kernel(), done)?;
    bench.vmcore = find_file(&elf_folder, TO_ELF.file)?;
    for job in &JOBS {
        bench.take(job, &folder.join("job"), runs, prepared.kernel(), done)?;
    }
    done(classifier(&bench.vmcore, prepared.kernel())?)?;
    let last = find_file(&folder.join("job"), TO_ELF.file)?;
    bench.vmcore = folder.join("level31");
    std::fs::rename(last, &bench.vmcore)?;
    bench.take(&REPORT, &folder.join("job"), runs, prepared.kernel(), done)?;
    run::remove_dir(&folder)
}

struct Bench<'a> {
    dist: &'a Dist,
    makedumpfile: PathBuf,
    disk: PathBuf,
    vmcore: PathBuf,
}

impl Bench<'_> {
    /// Does a job some times; what it made last stays.
    fn take(
        &self,
        job: &Job,
        folder: &Path,
        runs: usize,
        kernel: &str,
        done: &mut dyn FnMut(RowReport) -> Result<()>,
    ) -> Result<()> {
        let mut report = RowReport::host(job.name, &job.words.join(" "), kernel);
        for _ in 0..runs {
            run::remove_dir(folder)?;
            run::create_dir(folder)?;
            let words = job.words.iter().map(|word| match *word {
                "kdraw" => self.dist.kdraw.clone().into_os_string(),
                "makedumpfile" => self.makedumpfile.clone().into_os_string(),
                "DISK" => self.disk.clone().into_os_string(),
                "VMCORE" => self.vmcore.clone().into_os_string(),
                "OUT" => folder.into(),
                word => match word.strip_prefix("OUT/") {
                    Some(file) => folder.join(file).into_os_string(),
                    None => word.into(),
                },
            });
            let started = Instant::now();
            let result = run::quiet(&mut run::command(words));
            let seconds = started.elapsed().as_secs_f64();
            if let Err(error) = result {
                println!("{}: {error:#}", report.name);
                report.failures.push("the program failed".into());
                break;
            }
            let bytes = std::fs::metadata(find_file(folder, job.file)?)?.len();
            let sample = Sample::from([
                (measure::SECONDS.to_owned(), seconds),
                (measure::BYTES.to_owned(), bytes as f64),
            ]);
            println!("{}: {}", report.name, report::shown(&sample));
            report.samples.push(sample);
        }
        done(report)
    }
}

/// Measures how fast the pages of a vmcore are classified, and counts instructions per page.
fn classifier(vmcore: &Path, kernel: &str) -> Result<RowReport> {
    const PASSES: u32 = 10;
    let mut report = RowReport::host(CLASSIFIER, "tests/examples/classify.rs", kernel);
    let mut build = run::command([
        "cargo",
        "build",
        "--quiet",
        "--release",
        "--package",
        "kdraw-tests",
        "--example",
        "classify",
    ]);
    run::quiet(build.current_dir(run::workspace()))?;
    let program = run::target_dir().join("release/examples/classify");
    let told = run::output(Command::new(&program).arg(vmcore).arg(PASSES.to_string()))?;
    let mut pages = 0.0;
    for line in told.lines() {
        // pass 0: 260096 pages, 0.001234 s
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<f64>().ok());
        let (count, seconds) = number(2).zip(number(4)).context("classify's output")?;
        pages = count;
        report.samples.push(Sample::from([(
            measure::PAGE_RATE.to_owned(),
            count / seconds,
        )]));
    }
    if run::find_program("valgrind").is_some() {
        let once = executed(&program, vmcore, 1)?;
        let more = executed(&program, vmcore, 3)?;
        ensure!(more > once && pages > 0.0, "callgrind counted nothing");
        report.samples.push(Sample::from([(
            measure::PER_PAGE.to_owned(),
            (more - once) as f64 / 2.0 / pages,
        )]));
    }
    Ok(report)
}

/// Counts what `passes` over a vmcore execute in all.
fn executed(program: &Path, vmcore: &Path, passes: u32) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg(vmcore)
        .arg(passes.to_string());
    let output = command.output().context("cannot start valgrind")?;
    // ==123== Collected : 123456
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.split_once("Collected :"));
    let count = line.and_then(|(_, count)| count.trim().parse().ok());
    count.with_context(|| format!("callgrind told no count:\n{text}"))
}
