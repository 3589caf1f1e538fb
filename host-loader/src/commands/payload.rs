//! `kdraw payload`: writes the payload inside this program to a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::exit::Verdict;
use crate::payload::Payload;
use crate::system::System;

/// Write the payload's image to a file, for the stock `kexec -p`.
#[derive(clap::Args)]
#[command(
    after_help = "Example: kdraw payload -o capture.img && kdraw plan --target /dev/mmcblk0p4 \
                  -o plan.bin && kexec -p capture.img --initrd=plan.bin"
)]
pub struct Args {
    /// The file to make; it must not exist.
    #[arg(short, long)]
    output: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If there is no payload inside, or the file cannot be made.
pub fn run(args: &Args, _system: &System) -> Result<Verdict> {
    let payload = Payload::get(None)?;
    write_new(&args.output, payload.image())?;
    println!("{}: {} bytes", args.output.display(), payload.image().len());
    Ok(Verdict::Good)
}

/// Writes a file that must not exist yet.
pub(crate) fn write_new(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .with_context(|| format!("cannot write {}", path.display()))
}
