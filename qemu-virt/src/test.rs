//! `cargo xtask test`: all tests.

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn main(_args: &Args) -> anyhow::Result<()> {
    crate::setup::ensure()?;
    anyhow::bail!("`cargo xtask test` does not exist yet");
}
