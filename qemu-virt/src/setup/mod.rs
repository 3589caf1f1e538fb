//! `cargo xtask setup`: installs what this machine lacks.

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn main(_args: &Args) -> anyhow::Result<()> {
    ensure()
}

/// Makes sure that everything demo, test, e2e and bench need is there; fast when it is.
pub fn ensure() -> anyhow::Result<()> {
    Ok(())
}
