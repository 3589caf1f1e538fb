//! `cargo xtask setup`: installs what this machine lacks.

pub mod apt;
mod mirror;

use anyhow::Result;

use crate::material::{self, Suite};
use crate::run::say;

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Also fetches the kernels of trixie and sid.
    #[arg(long)]
    all: bool,
    /// Replaces cached kernels by the newest ones of their suites.
    #[arg(long)]
    update: bool,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<()> {
    let suites: &[Suite] = if args.all {
        &[Suite::Bookworm, Suite::Trixie, Suite::Sid]
    } else {
        &[Suite::Bookworm]
    };
    for suite in suites {
        if args.update {
            material::update_kernel(*suite)?;
        }
        let kernel = material::kernel(*suite)?;
        say(format!("kernel of {}: {}", suite.name(), kernel.release));
    }
    say(format!("busybox: {}", material::busybox()?.display()));
    Ok(())
}

/// Makes sure that everything demo, test, e2e and bench need is there; fast when it is.
pub fn ensure() -> Result<()> {
    material::kernel(Suite::Bookworm)?;
    material::busybox()?;
    Ok(())
}
