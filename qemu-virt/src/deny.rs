//! The dependencies' licences, sources and known vulnerabilities, by cargo-deny and `deny.toml`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::material;
use crate::run::{self, say};

/// Runs cargo-deny over the workspace.
///
/// # Errors
///
/// When a dependency is not allowed or vulnerable, or cargo-deny cannot be installed.
pub fn check() -> Result<()> {
    let program = program()?;
    let deny = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).current_dir(run::workspace());
        command
    };
    run::quiet(&mut deny(&["check", "licenses", "bans", "sources"]))?;
    if run::quiet(&mut deny(&["fetch", "db"])).is_err() {
        say("cargo-deny: the advisory database on GitHub cannot be reached; not checked");
        return Ok(());
    }
    run::quiet(&mut deny(&["check", "advisories"]))
}

/// Returns cargo-deny: the one in `PATH`, or one that is built into the cache.
fn program() -> Result<PathBuf> {
    if let Some(program) = run::find_program("cargo-deny") {
        return Ok(program);
    }
    let root = material::cache_dir().join("cargo-deny");
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        let _lock = material::lock()?;
        say("building cargo-deny (some minutes)");
        run::quiet(
            Command::new("cargo")
                .args(["install", "--locked", "--root"])
                .arg(&root)
                .arg("cargo-deny")
                .current_dir(run::workspace())
                .env("CARGO_TARGET_DIR", root.join("target")),
        )
        .context("cargo-deny cannot be installed; `cargo install cargo-deny` shows why")?;
        run::remove_dir(&root.join("target"))?;
    }
    Ok(program)
}
