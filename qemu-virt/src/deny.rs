//! The dependencies' licences, sources and known vulnerabilities, by cargo-deny and `deny.toml`.

use std::process::Command;

use anyhow::Result;

use crate::material;
use crate::run::{self, say};

/// Runs cargo-deny over the workspace.
///
/// # Errors
///
/// When a dependency is not allowed or vulnerable, or cargo-deny cannot be installed.
pub fn check() -> Result<()> {
    let program = material::cargo_tool("cargo-deny", "release")?;
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
