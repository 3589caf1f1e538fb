//! `kdraw convert`: a vmcore in another format.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

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
#[command(after_help = "Example: kdraw convert vmcore vmcore.elf --format elf")]
pub struct Args {
    /// The vmcore.
    input: PathBuf,
    /// The new file; `-` is standard output, for flattened formats.
    output: PathBuf,
    #[command(flatten)]
    vmcore: VmcoreArgs,
}

/// Runs the command.
///
/// # Errors
/// If the input is no vmcore, or the output exists or cannot be written.
pub fn run(args: &Args) -> Result<Verdict> {
    let wanted = args.vmcore.wanted();
    let to_stdout = args.output == Path::new("-");
    if to_stdout && !wanted.flattened {
        bail!("standard output takes --format flattened and flattened-elf only");
    }
    let vmcore = Vmcore::open(&args.input)?;
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
    tell(&vmcore, &written);
    let complete = !image.incomplete && written.invented == 0 && written.partial == 0;
    Ok(Verdict::from_good(complete))
}

fn tell(vmcore: &Vmcore, written: &Written) {
    eprintln!(
        "{} frames ({}), {} of {} became {}",
        written.frames,
        text::size(written.frames.saturating_mul(4096)),
        vmcore.format(),
        text::size(vmcore.size()),
        text::size(written.bytes)
    );
    if vmcore.is_incomplete() && vmcore.problems.is_empty() {
        eprintln!("lost: the vmcore says of itself that something is missing");
    }
    for problem in &vmcore.problems {
        eprintln!("lost: {problem}");
    }
    if written.invented > 0 {
        eprintln!(
            "lost: {} unknown frames read as zero: there are more holes than ELF headers",
            written.invented
        );
    }
    if written.partial > 0 {
        eprintln!(
            "lost: {} frames are left out: other parts of their pages are missing",
            written.partial
        );
    }
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
