//! `kdraw check`: what does a capture still need?

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::ask;
use crate::check::facts::{Facts, Whose};
use crate::check::finding::{self, Finding, State};
use crate::check::{self, fix};
use crate::config::ConfigArgs;
use crate::exit::Verdict;
use crate::system::System;

/// Say what a capture needs, what of it is missing, and the command that fixes each.
///
/// A line for each requirement. Green: it is so. Amber: it works with less than it could, or could
/// not be told. Red: a panic now, or after the next boot, would not be captured as
/// /etc/kdraw.conf asks.
///
/// --fix does what is safe to do at any time: it sets the kernel's panic settings, now and for
/// each boot in /etc/sysctl.d/kdraw.conf, and enables the service. It shows first what it would
/// do, and asks.
///
/// Exit code 0 if nothing is red; 1 if something is, also after --fix.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw check
  kdraw check --fix                         # shows, asks, then sets it right
  kdraw check --json | jq '.requirements[] | select(.state == \"red\")'
  kdraw check --root /mnt/image --fix --yes # an image that is being built")]
pub struct Args {
    /// The target, if other than the configured or loaded one.
    #[arg(long, value_name = "DEVICE|serial:NAME")]
    target: Option<String>,
    /// The payload's image, instead of the one inside this program.
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Looks at the system below this folder, as a mounted image of one; what only a running
    /// system tells is then left out.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Sets right what can be, after a question.
    #[arg(long)]
    fix: bool,
    /// Answers yes to the question.
    #[arg(long, requires = "fix")]
    yes: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    /// As the worst requirement.
    state: State,
    requirements: Vec<Finding>,
    kernel: String,
    version: &'static str,
}

/// Runs the command.
///
/// # Errors
/// If something cannot be set right that should be.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let below = args.root.as_ref().map(System::new);
    let system = below.as_ref().unwrap_or(system);
    let look = || {
        let (target, payload) = (args.target.as_deref(), args.payload.as_deref());
        check::all(&Facts::new(
            system,
            &args.config,
            Whose::Configured,
            target,
            payload,
        ))
    };
    let mut findings = look();
    if args.fix {
        let plan = fix::Plan::of(findings.iter().filter_map(|found| found.remedy.as_ref()));
        if plan.is_empty() {
            eprintln!("There is nothing that --fix could set right.");
        } else if may_fix(args, &plan)? {
            plan.apply(system)?;
            findings = look();
        } else {
            eprintln!("Nothing was changed.");
        }
    }
    let state = finding::worst(&findings);
    if args.json {
        let report = Report {
            state,
            requirements: findings,
            kernel: system.kernel_release(),
            version: env!("CARGO_PKG_VERSION"),
        };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        finding::print(&findings);
    }
    Ok(Verdict::from_good(state != State::Red))
}

/// Shows what would be done, and gets the permission.
fn may_fix(args: &Args, plan: &fix::Plan) -> Result<bool> {
    eprint!("{plan}");
    if args.yes {
        return Ok(true);
    }
    if !ask::is_possible() {
        bail!("there is no terminal to ask on; nothing was changed. Add --yes to do it");
    }
    Ok(ask::yes_or_no("Do this?")?)
}
