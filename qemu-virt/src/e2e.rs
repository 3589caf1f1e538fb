//! `cargo xtask e2e`: one end-to-end scenario.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::dist::Dist;
use crate::scenario::tools::Readers;
use crate::scenario::{self, Place, Scenario};
use crate::{dist, run, setup};

/// Options of `cargo xtask e2e`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    scenario: Scenario,
    /// Output folder; it is emptied first [default: target/e2e/NAME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Keep the guest's memory as DIR/ram.img.
    #[arg(long)]
    keep_ram: bool,
    /// Open the vmcore with drgn, crash and gdb too.
    #[arg(long)]
    tools: bool,
    /// Use the programs in this folder (as `cargo xtask dist` leaves them) and build nothing.
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<()> {
    let mut scenario = args.scenario.clone();
    scenario.fit_machine();
    let scenario = &scenario;
    if args.dist.is_none() {
        setup::ensure()?;
    }
    let dist = programs(args.dist.as_deref())?;
    let default = run::target_dir().join("e2e").join(&scenario.name);
    let place = Place::new(
        args.out.as_ref().unwrap_or(&default),
        scenario.mem,
        args.keep_ram,
    )?;
    let readers = if args.tools {
        Readers::Native
    } else {
        Readers::None
    };
    let outcome = scenario::play(scenario, &dist, &place, readers, true)?;
    println!("  files in {}", place.out.display());
    if !outcome.passed() {
        bail!("scenario {} failed", scenario.name);
    }
    Ok(())
}

/// Builds the programs, or takes them from a folder.
pub fn programs(folder: Option<&Path>) -> Result<Dist> {
    let Some(folder) = folder else {
        return dist::build();
    };
    Ok(Dist {
        kdraw: folder.join("kdraw"),
        kdraw_aarch64: folder.join("kdraw-aarch64"),
        capture_img: folder.join("capture.img"),
        capture_elf: folder.join("capture.elf"),
        guest: folder.join("guest"),
    })
}
