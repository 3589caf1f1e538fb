//! `kdraw test`: a capture without a crash, or with one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::ask;
use crate::check::facts::{Facts, Whose};
use crate::check::finding::{self, Finding, State};
use crate::check::rehearsal;
use crate::config::ConfigArgs;
use crate::error::Error;
use crate::exit::Verdict;
use crate::system::System;

/// What makes the kernel panic (Documentation/admin-guide/sysrq.rst).
const TRIGGER: &str = "/proc/sysrq-trigger";
/// What has to be typed.
const WORD: &str = "crash";
/// How long a panic may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rehearse a capture without a crash, or crash this machine to see one.
///
/// Compares what was loaded with the machine as it is now: payload and device tree by their
/// checksums, the map of memory and CPUs, the target's signature at the plan's place on the disk,
/// read back from the device; and predicts size and time of the dump. Writes nothing.
///
/// --crash rehearses first, then asks for the word "crash", flushes the file systems and panics
/// the kernel. What programs have not saved is lost. The board resets after the dump; then
/// `kdraw list` shows it.
///
/// Exit code 0 if a panic now would be captured, 1 if not.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw test
  kdraw test --crash                        # asks first, then panics")]
pub struct Args {
    /// Panics this machine, after a question.
    #[arg(long, conflicts_with = "json")]
    crash: bool,
    /// The payload's image, instead of the one inside this program.
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    /// As the worst step.
    state: State,
    steps: Vec<Finding>,
    dump_bytes: Option<u64>,
    dump_s: Option<f64>,
    version: &'static str,
}

/// Runs the command.
///
/// # Errors
/// If the kernel does not panic that should.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let payload = args.payload.as_deref();
    let facts = Facts::new(system, &args.config, Whose::Loaded, None, payload);
    let steps = rehearsal::all(&facts);
    let state = finding::worst(&steps);
    if args.json {
        let outlook = facts.outlook.as_ref().ok();
        let report = Report {
            state,
            steps,
            dump_bytes: outlook.map(|outlook| outlook.estimate.dump_bytes),
            dump_s: outlook.map(|outlook| outlook.dump_s),
            version: env!("CARGO_PKG_VERSION"),
        };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        finding::print(&steps);
    }
    if state == State::Red {
        if args.crash {
            eprintln!("Not crashed: a panic now would not be captured.");
        }
        return Ok(Verdict::Bad);
    }
    if args.crash {
        return crash(system);
    }
    Ok(Verdict::Good)
}

/// Asks, then panics.
fn crash(system: &System) -> Result<Verdict> {
    let question = format!(
        "The kernel panics at once; what programs have not saved is lost. \
         Type the word {WORD} to do it:"
    );
    if ask::line(&question)? != WORD {
        eprintln!("Not crashed.");
        return Ok(Verdict::Bad);
    }
    rustix::fs::sync();
    let path = system.path(TRIGGER);
    std::fs::write(&path, "c").map_err(Error::io("write to", &path))?;
    if !system.is_running() {
        return Ok(Verdict::Good);
    }
    std::thread::sleep(PATIENCE);
    bail!("the kernel did not panic within {PATIENCE:?} of a \"c\" in {TRIGGER}")
}
