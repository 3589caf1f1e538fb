//! `cargo xtask fuzz`: libFuzzer on the targets in `tests/fuzz`.
//!
//! The fuzzer is built as cargo-fuzz does it, but by stable Rust: the compiler's options below
//! instrument the code, and the profile `fuzz` keeps every check of a debug build. What libFuzzer
//! finds lies in `target/fuzz`: inputs that reach new code, to go on from the next time, in
//! `corpus/`, and those that break a target in `found/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{self, say};
use crate::{mutants, setup};

/// How long `cargo xtask test --full` fuzzes each target, in seconds.
pub const FULL_SECONDS: u32 = 300;

/// Coverage of edges, counted in bytes, and comparisons told: all that libFuzzer makes use of.
const INSTRUMENTED: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer is taken for an endless loop, in seconds; the usual one takes a
/// thousandth of a second.
const TIMEOUT: u32 = 10;

/// The longest input, in bytes: longer than any seed.
const MAX_LEN: u32 = 8192;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Only this target.
    target: Option<String>,
    /// Runs the target once, on this input.
    #[arg(requires = "target")]
    input: Option<PathBuf>,
    /// How long each target is fuzzed.
    #[arg(long, value_name = "N", default_value_t = FULL_SECONDS, conflicts_with = "input")]
    seconds: u32,
    /// Instead of that, breaks dumps of real kernels in so many ways, and runs the commands that
    /// look into them: none may panic, take more than 10 s of a CPU, or more than 512 MiB.
    #[arg(long, value_name = "N", conflicts_with_all = ["target", "seconds"])]
    mutated: Option<u64>,
    /// The number of the first mutant.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "mutated")]
    first: u64,
    /// Breaks these dumps: vmcores, partition images [default: a panic of each kernel is captured].
    #[arg(long, value_name = "FILE", requires = "mutated")]
    dump: Vec<PathBuf>,
}

/// The targets: each has a folder of seeds, as their test sees to.
pub fn names() -> Vec<String> {
    let folders = run::entries(&corpus()).unwrap_or_default();
    let names = folders.iter().filter_map(|folder| folder.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

fn corpus() -> PathBuf {
    run::workspace().join("tests/fuzz/corpus")
}

/// Runs the subcommand.
///
/// # Errors
///
/// When the fuzzer cannot be built, or an input breaks a target.
pub fn main(args: &Args) -> Result<()> {
    if let Some(count) = args.mutated {
        say(mutants::play(count, args.first, &args.dump)?);
        return Ok(());
    }
    setup::ensure_build()?;
    let mut names = names();
    if let Some(target) = &args.target {
        if !names.contains(target) {
            bail!("the targets are {}, not {target}", names.join(", "));
        }
        if let Some(input) = &args.input {
            return replay(target, input);
        }
        names.retain(|name| name == target);
    }
    for target in &names {
        say(format!("{target}: {} s", args.seconds));
        say(play(target, args.seconds)?);
    }
    Ok(())
}

/// Fuzzes a target; returns a line about what was done.
///
/// # Errors
///
/// When the fuzzer cannot be built, or an input breaks the target: the message ends with what
/// libFuzzer said, and has the command that replays the input.
pub fn play(target: &str, seconds: u32) -> Result<String> {
    let program = build()?;
    let folder = run::target_dir().join("fuzz");
    let (reached, found) = (folder.join("corpus").join(target), folder.join("found"));
    run::create_dir(&reached)?;
    run::create_dir(&found)?;
    let path = folder.join(format!("{target}.log"));
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let log_too = log.try_clone().context("cannot share the fuzzer's log")?;
    let prefix = format!("{}/{target}-", found.display());
    let status = fuzzer(&program, target)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .arg(format!("-artifact_prefix={prefix}"))
        .arg("-print_final_stats=1")
        .args([&reached, &corpus().join(target)])
        .stdout(log)
        .stderr(log_too)
        .status()
        .context("cannot start the fuzzer")?;
    let log = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let log = String::from_utf8_lossy(&log);
    if status.success() {
        return log
            .lines()
            .rfind(|line| line.starts_with("Done "))
            .map(Into::into)
            .with_context(|| format!("the fuzzer did nothing; see {}", path.display()));
    }
    // The panic's message, or libFuzzer's of a loop.
    let lines: Vec<_> = log
        .lines()
        .filter(|line| !line.starts_with('#'))
        .skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR: libFuzzer"))
        .take_while(|line| !line.starts_with("stack backtrace"))
        .take(6)
        .collect();
    let input = log
        .lines()
        .find_map(|line| line.split_once("Test unit written to "));
    let Some((_, input)) = input else {
        bail!("the fuzzer failed ({status}); see {}", path.display());
    };
    bail!(
        "{target}: an input was found that breaks it:\n{}\nReplay it with: cargo xtask fuzz {target} {}\n\
         When it is mended, make it a seed in tests/fuzz/corpus/{target}.",
        lines.join("\n"),
        input.trim()
    )
}

/// Runs a target on one input, with the fuzzer's output as it is.
fn replay(target: &str, input: &Path) -> Result<()> {
    // libFuzzer takes a name that does not exist for an empty corpus.
    fs::metadata(input).with_context(|| format!("cannot read {}", input.display()))?;
    let status = fuzzer(&build()?, target)
        .arg(input)
        .status()
        .context("cannot start the fuzzer")?;
    if !status.success() {
        bail!("{} breaks {target} ({status})", input.display());
    }
    Ok(())
}

fn fuzzer(program: &Path, target: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("KDRAW_FUZZ_TARGET", target)
        .env("RUST_BACKTRACE", "1")
        .arg(format!("-timeout={TIMEOUT}"));
    command
}

/// Builds the fuzzer. With a target named, cargo instruments neither build scripts nor macros.
fn build() -> Result<PathBuf> {
    // libFuzzer is C++.
    setup::ensure_tools()?;
    let host = run::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let host = host.trim();
    let folder = run::target_dir().join("fuzz/build");
    run::quiet(
        Command::new("cargo")
            .args(["build", "--quiet", "--package", "kdraw-fuzz"])
            .args(["--features", "libfuzzer", "--profile", "fuzz"])
            .args(["--target", host, "--target-dir"])
            .arg(&folder)
            .env("RUSTFLAGS", INSTRUMENTED)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .current_dir(run::workspace()),
    )?;
    Ok(folder.join(host).join("fuzz/kdraw-fuzz"))
}
