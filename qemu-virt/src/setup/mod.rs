//! `cargo xtask setup`: installs what this machine lacks.
//!
//! Three steps, each skipped when there is nothing to do: Debian packages of the host
//! ([`packages`]), the Rust targets ([`targets`]), and the guest material
//! ([`crate::material`]).

pub mod apt;
mod mirror;
mod packages;
mod targets;

use anyhow::Result;

use crate::material::{self, Suite};
use crate::run::say;

/// Environment variables that `cargo xtask setup --help` explains.
const VARIABLES: &str = "\
Environment:
  KDRAW_RUST_TARGETS   `rustup` or `debian`: the only way to get the Rust targets
                       (otherwise rustup is asked first, then Debian's rust-src)
  KDRAW_DEBIAN_MIRROR  the Debian mirror, http://…/debian (otherwise that of this machine)
  KDRAW_CACHE          where downloads are kept (otherwise .cache in the workspace)";

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
#[command(after_help = VARIABLES)]
pub struct Args {
    /// Also fetches the kernels of trixie and sid, and a newer QEMU if this machine's is older.
    #[arg(long)]
    all: bool,
    /// Also installs the foreign readers of dumps: drgn, crash, gdb, and the debug kernels.
    #[arg(long)]
    tools: bool,
    /// Replaces cached kernels by the newest ones of their suites.
    #[arg(long)]
    update: bool,
}

/// Every suite that has a guest kernel.
const ALL_SUITES: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Sid];

/// Runs the subcommand.
///
/// # Errors
///
/// When something cannot be had; the message names it and the way out.
pub fn main(args: &Args) -> Result<()> {
    let suites = if args.all {
        &ALL_SUITES[..]
    } else {
        &[Suite::Bookworm]
    };
    say("Debian packages");
    packages::ensure(packages::Group::Base)?;
    if args.tools {
        packages::ensure(packages::Group::Tools)?;
    }
    say("Rust targets");
    targets::ensure()?;
    for suite in suites {
        if args.update {
            material::update_kernel(*suite)?;
        }
        let kernel = material::kernel(*suite)?;
        say(format!("kernel of {}: {}", suite.name(), kernel.release));
    }
    say(format!("busybox: {}", material::busybox()?.display()));
    if args.all {
        say(format!("QEMU: {}", material::newest_qemu()?.display()));
    }
    if args.tools {
        say(format!("drgn: {}", material::drgn_python()?.display()));
        say(format!("crash: {}", material::crash_native()?.display()));
        let emulated = material::crash_arm64()?;
        say(format!("crash, arm64: {}", emulated.display()));
        for suite in suites {
            let vmlinux = material::debug_kernel(*suite)?;
            say(format!(
                "debug kernel of {}: {}",
                suite.name(),
                vmlinux.display()
            ));
        }
    }
    say("everything is there");
    Ok(())
}

/// Makes sure that everything demo, test, e2e and bench need is there; fast when it is.
///
/// # Errors
///
/// As [`main`].
pub fn ensure() -> Result<()> {
    ensure_build()?;
    material::kernel(Suite::Bookworm)?;
    material::busybox()?;
    Ok(())
}

/// Makes sure that everything a build needs is there; fast when it is.
///
/// # Errors
///
/// As [`main`].
pub fn ensure_build() -> Result<()> {
    packages::ensure(packages::Group::Base)?;
    targets::ensure()
}

/// Makes sure that the foreign readers' own needs are installed: `test --full` and `e2e --tools`.
///
/// # Errors
///
/// As [`main`].
pub fn ensure_tools() -> Result<()> {
    packages::ensure(packages::Group::Tools)
}
