//! `cargo xtask test`: host tests, lints, the payload's checks, end-to-end scenarios.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::dist::Dist;
use crate::scenario::tools::Readers;
use crate::scenario::{self, Place, installed, matrix, refusals};
use crate::{boards, checks, deny, dist, e2e, fuzz, mutants, package, run, setup, shipping};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Runs every scenario on every kernel, the refusals, the package in a Debian system, the
    /// foreign readers, and the fuzzer for five minutes on each target.
    #[arg(long)]
    full: bool,
    /// Opens dumps with drgn, crash and gdb too (implied by --full).
    #[arg(long)]
    tools: bool,
    /// Runs only tests whose name contains this text, scenarios of --full included.
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Use the programs in this folder (as `cargo xtask dist` leaves them), build nothing, and run
    /// only the tests that need a guest.
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
    /// Prints the names of the tests and runs none.
    #[arg(long)]
    list: bool,
}

/// What is run: a name, and the work that returns a line about what it saw.
struct Test<'a> {
    name: String,
    work: Box<dyn FnOnce() -> Result<String> + 'a>,
}

/// What came of a test.
struct Report {
    name: String,
    result: Result<String>,
    time: Duration,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<()> {
    if args.list {
        for test in host_tests()
            .into_iter()
            .chain(fuzz_tests(args))
            .chain(guest_tests(args, None))
        {
            println!("{}", test.name);
        }
        return Ok(());
    }
    setup::ensure()?;
    if args.full || args.tools {
        setup::ensure_tools()?;
    }
    let wanted = |test: &Test<'_>| {
        args.only
            .as_ref()
            .is_none_or(|text| test.name.contains(text))
    };
    let mut reports = Vec::new();
    if args.dist.is_none() {
        let tests = host_tests().into_iter().chain(fuzz_tests(args));
        reports.extend(tests.filter(wanted).map(play));
    }
    let mut dist = None;
    let build = Test {
        name: "build".into(),
        work: Box::new(|| {
            let built = e2e::programs(args.dist.as_deref())?;
            let folder = built.kdraw.parent().unwrap_or(&built.kdraw);
            let line = format!("programs in {}", folder.display());
            dist = Some(built);
            Ok(line)
        }),
    };
    reports.push(play(build));
    if let Some(dist) = &dist {
        let payload = Test {
            name: "payload".into(),
            work: Box::new(|| check_payload(dist)),
        };
        let package = Test {
            name: "package".into(),
            work: Box::new(|| package::check(dist)),
        };
        reports.extend([payload, package].into_iter().filter(wanted).map(play));
        reports.extend(
            guest_tests(args, Some(dist))
                .into_iter()
                .filter(wanted)
                .map(play),
        );
    }
    summary(&reports)
}

/// Runs a test and prints what came of it.
fn play(test: Test<'_>) -> Report {
    println!("{} …", test.name);
    let started = Instant::now();
    let result = (test.work)();
    let report = Report {
        name: test.name,
        result,
        time: started.elapsed(),
    };
    if let Err(error) = &report.result {
        println!("{error:#}");
    }
    report
}

/// Returns the tests that need no guest.
fn host_tests() -> Vec<Test<'static>> {
    const PAYLOAD: [&str; 4] = [
        "--package",
        "kdraw-capture",
        "--target",
        "aarch64-unknown-none",
    ];
    let commands: [(&str, Vec<&str>); 4] = [
        ("host", vec!["test", "--quiet"]),
        ("format", vec!["fmt", "--all", "--check"]),
        (
            "clippy",
            vec!["clippy", "--quiet", "--all-targets", "--", "-Dwarnings"],
        ),
        (
            "clippy-payload",
            [&["clippy", "--quiet"][..], &PAYLOAD, &["--", "-Dwarnings"]].concat(),
        ),
    ];
    let mut tests = Vec::new();
    for (name, arguments) in commands {
        let work = move || {
            run::quiet(
                Command::new("cargo")
                    .args(&arguments)
                    .current_dir(run::workspace()),
            )?;
            Ok(format!("cargo {}", arguments.join(" ")))
        };
        tests.push(Test {
            name: name.into(),
            work: Box::new(work),
        });
    }
    tests.push(Test {
        name: "deny".into(),
        work: Box::new(|| deny::check().map(|()| "cargo deny".into())),
    });
    tests.push(Test {
        name: "boards".into(),
        work: Box::new(boards::test),
    });
    tests
}

/// Returns the tests that fuzz.
fn fuzz_tests(args: &Args) -> Vec<Test<'static>> {
    if !args.full && args.only.is_none() {
        return Vec::new();
    }
    let tests = fuzz::names().into_iter().map(|target| Test {
        name: format!("fuzz {target}"),
        work: Box::new(move || fuzz::play(&target, fuzz::FULL_SECONDS)),
    });
    let mutants = Test {
        name: "fuzz mutants".into(),
        work: Box::new(|| mutants::play(mutants::FULL, 0, &[])),
    };
    tests.chain([mutants]).collect()
}

/// Checks the linked payload.
fn check_payload(dist: &Dist) -> Result<String> {
    let figures = checks::payload(&dist.capture_elf, &dist.capture_img)?;
    Ok(format!(
        "image {} KiB, in memory {} KiB",
        figures.image >> 10,
        figures.memory >> 10
    ))
}

/// Returns the end-to-end tests.
fn guest_tests<'a>(args: &Args, dist: Option<&'a Dist>) -> Vec<Test<'a>> {
    let tools = args.full || args.tools;
    let mut tests = Vec::new();
    for entry in matrix::all() {
        if !(entry.quick || args.full || args.only.is_some()) {
            continue;
        }
        let name = format!("e2e {}", entry.scenario.name);
        let readers = match entry.tools && tools {
            false => Readers::None,
            true if args.full && entry.arm64_crash => Readers::All,
            true => Readers::Native,
        };
        let work = move || {
            let dist = dist.ok_or_else(|| anyhow::anyhow!("nothing was built"))?;
            let scenario = &entry.scenario;
            let out = run::target_dir().join("e2e").join(&scenario.name);
            let place = Place::new(&out, scenario.mem, false)?;
            let outcome = scenario::play(scenario, dist, &place, readers, false)?;
            if !outcome.passed() {
                outcome.print();
                bail!("files in {}", out.display());
            }
            // Passed scenarios leave the small files only: console, result, log.
            place.drop_large_files()?;
            Ok(format!(
                "panic to reset {:.2} s, {} checks",
                outcome
                    .times_ms
                    .get("panic_to_reset")
                    .copied()
                    .unwrap_or_default()
                    / 1000.0,
                outcome.checks.len()
            ))
        };
        tests.push(Test {
            name,
            work: Box::new(work),
        });
    }
    let full = args.full || args.only.is_some();
    tests.extend(refusals::names(full).map(|case| refusal_test(case, dist)));
    if full {
        tests.push(installed_test(tools, dist));
        tests.extend(shipping::names().map(|place| shipping_test(place, dist)));
    }
    tests
}

/// Returns the test of a refusal.
fn refusal_test<'a>(case: &'static str, dist: Option<&'a Dist>) -> Test<'a> {
    let work = move || {
        let dist = dist.ok_or_else(|| anyhow::anyhow!("nothing was built"))?;
        let out = run::target_dir().join("e2e").join(case);
        let place = Place::new(&out, refusals::MEM_MIB, false)?;
        let said = refusals::play(case, dist, &place)?;
        place.drop_large_files()?;
        Ok(said)
    };
    Test {
        name: format!("refusal {case}"),
        work: Box::new(work),
    }
}

/// Returns the test of the package in a Debian system.
fn installed_test(tools: bool, dist: Option<&Dist>) -> Test<'_> {
    let readers = match tools {
        true => Readers::Native,
        false => Readers::None,
    };
    let work = move || {
        let dist = dist.ok_or_else(|| anyhow::anyhow!("nothing was built"))?;
        let out = run::target_dir().join("e2e").join(installed::NAME);
        let place = Place::new(&out, installed::MEM_MIB, false)?;
        let said = installed::play(dist, &place, readers)?;
        place.drop_large_files()?;
        Ok(said)
    };
    Test {
        name: installed::NAME.into(),
        work: Box::new(work),
    }
}

/// Returns the test of shipping to a kind of place.
fn shipping_test<'a>(place: &'static str, dist: Option<&'a Dist>) -> Test<'a> {
    let work = move || {
        let dist = dist.ok_or_else(|| anyhow::anyhow!("nothing was built"))?;
        let out = run::target_dir().join("shipping").join(place);
        dist::shipper(dist, false)?;
        shipping::play(place, &dist.kdraw, &out)
    };
    Test {
        name: format!("shipping {place}"),
        work: Box::new(work),
    }
}

/// Prints the table and the counts.
fn summary(reports: &[Report]) -> Result<()> {
    println!();
    for report in reports {
        let (mark, detail) = match &report.result {
            Ok(detail) => ("ok  ", detail.as_str()),
            Err(_) => ("FAIL", "see above"),
        };
        println!(
            "{mark} {:<32} {:>7.1} s  {detail}",
            report.name,
            report.time.as_secs_f64()
        );
    }
    let failed = reports
        .iter()
        .filter(|report| report.result.is_err())
        .count();
    println!("\n{} passed, {failed} failed", reports.len() - failed);
    if failed > 0 {
        bail!("{failed} tests failed");
    }
    Ok(())
}
