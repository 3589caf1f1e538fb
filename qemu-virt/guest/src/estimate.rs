//! Asks `kdraw estimate` shortly before the panic what the dump will be.

use std::process::Command;

use crate::Result;

/// What time(1) calls the most memory that a program had, in KiB.
const MOST_MEMORY: &str = "Maximum resident set size (kbytes): ";

/// Runs `kdraw estimate` with `options` and tells its exit code, the KiB of memory that it took,
/// and its JSON in one line.
pub fn run(options: &str) -> Result<()> {
    let output = Command::new("time")
        .args(["-v", "kdraw", "estimate", "--json"])
        .args(options.split_whitespace())
        .output()
        .map_err(|e| format!("time: {e}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let json = String::from_utf8_lossy(&output.stdout);
    if json.is_empty() {
        return Err(format!("kdraw estimate: {}", errors.trim()));
    }
    let memory = errors
        .lines()
        .find_map(|line| line.trim().strip_prefix(MOST_MEMORY));
    println!(
        "guest: estimate {} {} {}",
        output.status.code().unwrap_or(255),
        memory.unwrap_or("?"),
        json.lines().map(str::trim).collect::<String>()
    );
    Ok(())
}
