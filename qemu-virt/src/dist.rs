//! `cargo xtask dist`: builds the tools and the payload into `target/dist`.

use std::path::PathBuf;

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub struct Args {}

/// What `target/dist` holds.
#[derive(Clone, Debug)]
pub struct Dist {
    /// The tool for this machine.
    pub kdraw: PathBuf,
    /// The tool for arm64: static, with the payload inside.
    pub kdraw_aarch64: PathBuf,
    /// The payload as an arm64 Image.
    pub capture_img: PathBuf,
    /// The payload with symbols.
    pub capture_elf: PathBuf,
    /// The guest's memory-filling program: static arm64.
    pub guest: PathBuf,
}

/// Runs the subcommand.
pub fn main(_args: &Args) -> anyhow::Result<()> {
    build().map(|_| ())
}

/// Builds everything in [`Dist`].
pub fn build() -> anyhow::Result<Dist> {
    anyhow::bail!("dist does not exist yet")
}
