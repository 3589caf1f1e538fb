//! `cargo xtask demo`: the main job, narrated.

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn main(_args: &Args) -> anyhow::Result<()> {
    crate::setup::ensure()?;
    anyhow::bail!("`cargo xtask demo` does not exist yet");
}
