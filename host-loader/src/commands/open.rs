//! `kdraw open`: opens a vmcore with another tool.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::debug_info::DebugArgs;
use crate::dump::vmcore_at;
use crate::exit::Verdict;
use crate::input::Vmcore;
use crate::openers::{Openers, Reader};
use crate::output::sink::SparseFile;
use crate::output::{Format, write};
use crate::progress;
use crate::system::System;

/// Open a vmcore with crash, drgn or gdb.
///
/// Finds the kernel with its debug symbols by its build-id, tells the tool what it must know of
/// this kernel, and becomes the tool: the exit code is its. gdb reads ELF only; for it the vmcore
/// is converted into a file that is gone when gdb ends.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw open --with crash 20261121T013930Z-07070707
  kdraw open --with drgn --vmlinux ./vmlinux vmcore
  kdraw open --with gdb vmcore -- -batch -ex bt
  kdraw open --with crash --print vmcore    # shows the command and runs nothing")]
pub struct Args {
    /// A vmcore, or the folder of an extracted one.
    vmcore: PathBuf,
    /// The tool.
    #[arg(long, value_enum, value_name = "TOOL")]
    with: Reader,
    #[command(flatten)]
    debug: DebugArgs,
    /// The tool's program, if it has not its usual name.
    #[arg(long, value_name = "FILE")]
    program: Option<String>,
    /// Prints the command instead of running it.
    #[arg(long)]
    print: bool,
    /// What else the tool is told.
    #[arg(last = true)]
    more: Vec<String>,
}

/// Runs the command; returns only if nothing was run.
///
/// # Errors
/// If the vmcore cannot be read, the kernel's symbols or the program are not there, or the file
/// of symbols is another kernel's.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let path = &vmcore_at(&args.vmcore);
    let vmcore = Vmcore::open(path)?;
    let openers = Openers::from_notes(vmcore.notes());
    let vmlinux = args.debug.locate(&openers.kernel, system)?;
    let needs_elf = args.with == Reader::Gdb && vmcore.format() != "elf";
    let converted = match needs_elf && !args.print {
        true => Some(converted(&vmcore, path)?),
        false => None,
    };
    let opened = match &converted {
        Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()),
        None => path.display().to_string(),
    };
    let vmlinux = vmlinux.display().to_string();
    let words = openers.command(args.with, args.program.as_deref(), &vmlinux, &opened);
    let mut command = Command::new(words.first().map_or("", String::as_str));
    command.args(words.iter().skip(1)).args(&args.more);
    if args.print {
        println!("{command:?}");
        return Ok(Verdict::Good);
    }
    let why = command.exec();
    if why.kind() == io::ErrorKind::NotFound {
        bail!(
            "there is no program {:?}; {}",
            words.first(),
            args.with.how_to_get()
        );
    }
    Err(why).with_context(|| format!("cannot run {command:?}"))
}

/// The vmcore as ELF, in a file without a name that the program inherits.
fn converted(vmcore: &Vmcore, path: &Path) -> Result<File> {
    let beside = path.with_file_name(format!(".kdraw-open-{}", std::process::id()));
    let elsewhere = std::env::temp_dir().join(format!("kdraw-open-{}", std::process::id()));
    let (file, path) = nameless(&beside)
        .map(|file| (file, beside))
        .or_else(|_| nameless(&elsewhere).map(|file| (file, elsewhere)))
        .context("cannot make a file for the conversion to ELF")?;
    let bar = progress::bar();
    let mut show = |what, at, total| progress::show(&bar, what, at, total);
    let mut sink = SparseFile::new(&file, &path);
    write(&vmcore.image(), Format::Elf, &mut sink, &mut show)?;
    bar.finish_and_clear();
    fcntl_setfd(&file, FdFlags::empty()).context("cannot hand the converted vmcore on")?;
    Ok(file)
}

/// A file that is gone when nobody has it open any more.
fn nameless(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        // Memory holds keys and passwords.
        .mode(0o600)
        .open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}
