//! `cargo xtask e2e`: one end-to-end scenario.

/// Options of `cargo xtask e2e`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn main(_args: &Args) -> anyhow::Result<()> {
    crate::setup::ensure()?;
    anyhow::bail!("`cargo xtask e2e` does not exist yet");
}
