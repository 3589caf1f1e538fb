//! `kdraw unload`: disarms the capture.

use anyhow::{Context, Result, bail};

use crate::exit::Verdict;
use crate::load::state::Loaded;
use crate::sys;
use crate::system::System;

/// Disarm the capture: a panic then does what it did before.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw unload")]
pub struct Args {
    /// Unloads a crash image that something else loaded, too.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// If the image is not ours, or the kernel refuses.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    if !Loaded::is_anything(system) {
        Loaded::forget(system);
        println!("Nothing is loaded.");
        return Ok(Verdict::Good);
    }
    if Loaded::recall(system).is_none() && !args.force {
        bail!("a crash image is loaded, but not by kdraw; add --force to unload it all the same");
    }
    if system.is_running() {
        sys::kexec_load_crash(0, &[]).context("the kernel refuses to unload the crash image")?;
    }
    Loaded::forget(system);
    println!("Unloaded: a panic is no longer captured.");
    Ok(Verdict::Good)
}
