//! `cargo xtask man`: man pages and shell completions into `target/man`, from the definitions of the
//! tool's commands (`host-loader/examples/man.rs`). Packages take them from there.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::run::{self, say};

/// Options of `cargo xtask man`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
///
/// # Errors
///
/// As [`write`].
pub fn main(_args: &Args) -> Result<()> {
    let folder = write()?;
    say(format!("man1/ and completions/ in {}", folder.display()));
    Ok(())
}

/// Writes everything; returns the folder.
///
/// # Errors
///
/// When the generator does not build, or cannot write.
pub fn write() -> Result<PathBuf> {
    let folder = run::target_dir().join("man");
    run::create_dir(&folder)?;
    let example = [
        "run",
        "--quiet",
        "--package",
        "kdraw",
        "--example",
        "man",
        "--",
    ];
    let mut generate = Command::new("cargo");
    generate.args(example).arg(&folder);
    run::quiet(generate.current_dir(run::workspace()))?;
    Ok(folder)
}
