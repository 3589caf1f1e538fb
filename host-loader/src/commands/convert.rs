//! `kdraw convert`: a vmcore in another format.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::vmcore_args::VmcoreArgs;
use crate::exit::Verdict;
use crate::input::Vmcore;
use crate::output::sink::{Flattened, SparseFile};
use crate::output::{Written, write};
use crate::progress;
use crate::text;

/// Convert a vmcore to another format.
///
/// Reads kdump-compressed files (packed with zlib, LZO, Snappy or Zstandard), ELF cores, and
/// flattened streams of both. Exit code 1 if something of the vmcore is missing, before or after.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw convert --format elf vmcore vmcore.elf    # for gdb
  kdraw convert --compress zstd vmcore.elf vmcore
  kdraw convert --format flattened vmcore - | ssh host 'cat > vmcore.flat'")]
pub struct Args {
    /// The vmcore.
    input: PathBuf,
    /// The new file; `-` is standard output, for flattened formats.
    output: PathBuf,
    #[command(flatten)]
    vmcore: VmcoreArgs,
    /// Prints the outcome as JSON, to standard error if the vmcore goes to standard output.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Serialize)]
struct Converted {
    /// The input's format: `kdump` or `elf`.
    from: &'static str,
    /// The input's bytes.
    from_bytes: u64,
    /// The output's bytes.
    bytes: u64,
    /// Frames in the output.
    frames: u64,
    /// Whether nothing is missing.
    complete: bool,
    /// What is missing, in words.
    losses: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// If the input is no vmcore, or the output exists or cannot be written.
pub fn run(args: &Args) -> Result<Verdict> {
    let to_stdout = args.output == Path::new("-");
    let wanted = match to_stdout {
        true => args.vmcore.wanted_on_stdout()?,
        false => args.vmcore.wanted(),
    };
    let vmcore = Vmcore::open(&args.input)?;
    for remark in &vmcore.remarks {
        eprintln!("{}: {remark}", args.input.display());
    }
    let image = vmcore.image();
    let bar = progress::bar();
    let mut show = |what, at, total| progress::show(&bar, what, at, total);
    let written = if to_stdout {
        let out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
        let mut sink = Flattened::new(out, "standard output".into());
        write(&image, wanted.format, &mut sink, &mut show)?
    } else {
        let unfinished = Unfinished::new(&args.output)?;
        let (file, path) = (&unfinished.file, unfinished.path);
        let written = if wanted.flattened {
            let out = BufWriter::with_capacity(1 << 20, file);
            let mut sink = Flattened::new(out, path.to_owned());
            write(&image, wanted.format, &mut sink, &mut show)?
        } else {
            write(
                &image,
                wanted.format,
                &mut SparseFile::new(file, path),
                &mut show,
            )?
        };
        unfinished.finish()?;
        written
    };
    bar.finish_and_clear();
    let losses = losses(&vmcore, &written);
    let done = Converted {
        from: vmcore.format(),
        from_bytes: vmcore.size(),
        bytes: written.bytes,
        frames: written.frames,
        complete: losses.is_empty(),
        losses,
    };
    let told = match args.json {
        true => serde_json::to_string_pretty(&done)?,
        false => done.in_words(),
    };
    match to_stdout {
        true => eprintln!("{told}"),
        false => println!("{told}"),
    }
    Ok(Verdict::from_good(done.complete))
}

impl Converted {
    fn in_words(&self) -> String {
        let mut words = format!(
            "{} frames ({}), {} of {} became {}",
            self.frames,
            text::size(self.frames.saturating_mul(4096)),
            self.from,
            text::size(self.from_bytes),
            text::size(self.bytes)
        );
        for loss in &self.losses {
            words.push_str(&format!("\nlost: {loss}"));
        }
        words
    }
}

fn losses(vmcore: &Vmcore, written: &Written) -> Vec<String> {
    let mut losses = vmcore.problems.clone();
    if vmcore.is_incomplete() && losses.is_empty() {
        losses.push("the vmcore says of itself that something is missing".to_owned());
    }
    losses.extend(written.losses());
    losses
}

/// A new file that is removed again unless it is finished.
struct Unfinished<'a> {
    file: File,
    path: &'a Path,
    finished: bool,
}

impl<'a> Unfinished<'a> {
    fn new(path: &'a Path) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            // Memory holds keys and passwords.
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            file,
            path,
            finished: false,
        })
    }

    fn finish(mut self) -> Result<()> {
        self.file
            .flush()
            .and_then(|()| self.file.sync_all())
            .with_context(|| format!("cannot flush {}", self.path.display()))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: the error that brought us here is the one to tell.
            let _ = std::fs::remove_file(self.path);
        }
    }
}
