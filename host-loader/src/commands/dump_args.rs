//! Which dump a command looks into.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kdraw_kernel::task::Task;
use kdraw_kernel::{Kernel, Options};

use crate::dump::Dump;
use crate::system::System;

/// The options.
#[derive(clap::Args)]
pub struct DumpArgs {
    /// A vmcore, the folder of an extracted one, a dump partition's device, its disk, or an image
    /// file of either.
    pub dump: PathBuf,
    #[command(flatten)]
    options: DumpOptions,
}

/// The options beside the dump itself.
#[derive(clap::Args)]
pub struct DumpOptions {
    /// On a dump partition: the slot; without it the one with the newest dump.
    #[arg(long, value_name = "N")]
    slot: Option<u32>,
    /// Which of a disk's partitions, if several are signed.
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// The System.map of a kernel before 6.0, which does not say where its symbols are.
    #[arg(long, value_name = "FILE")]
    system_map: Option<PathBuf>,
}

impl DumpArgs {
    /// Opens the dump.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(&self, system: &System) -> Result<Dump> {
        self.options.open(&self.dump, system)
    }

    /// Opens the dump and hands its kernel on.
    ///
    /// # Errors
    /// If the kernel cannot be made out, and those of `work`.
    pub fn with_kernel<T>(
        &self,
        system: &System,
        work: impl FnOnce(&Kernel<'_>) -> Result<T>,
    ) -> Result<T> {
        self.kernel_in(&self.open(system)?, work)
    }

    /// Hands the kernel in an opened dump on.
    ///
    /// # Errors
    /// As [`with_kernel`](Self::with_kernel).
    pub fn kernel_in<T>(
        &self,
        dump: &Dump,
        work: impl FnOnce(&Kernel<'_>) -> Result<T>,
    ) -> Result<T> {
        let (memory, notes) = (dump.memory()?, dump.notes()?);
        let kernel = Kernel::open(&*memory, &notes, self.options.beside()?)?;
        work(&kernel)
    }
}

impl DumpOptions {
    /// Opens a dump.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(&self, dump: &Path, system: &System) -> Result<Dump> {
        Dump::open(system, dump, self.slot, self.partition)
    }

    /// What is known beside the dump.
    ///
    /// # Errors
    /// If the System.map cannot be read.
    pub fn beside(&self) -> Result<Options> {
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let system_map = self.system_map.as_ref().map(read).transpose()?;
        Ok(Options { system_map })
    }
}

/// The tasks of some numbers; the idle ones all have 0.
///
/// # Errors
/// If there is none of a number.
pub fn numbered<'k>(kernel: &'k Kernel<'k>, pids: &[i32]) -> Result<Vec<Task<'k>>> {
    let mut tasks = kernel.tasks()?;
    let missing = |pid: &&i32| tasks.iter().all(|task| task.pid != **pid);
    if let Some(pid) = pids.iter().find(missing) {
        bail!("there is no task {pid}; `kdraw ps` lists them");
    }
    tasks.retain(|task| pids.contains(&task.pid));
    Ok(tasks)
}

/// An address: hexadecimal, with or without `0x`.
///
/// # Errors
/// If it is none.
pub fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text:?} is no hexadecimal address"))
}

/// What can only be meant as an address: no symbol begins with `0x` or is twelve digits.
pub fn plain_address(text: &str) -> Option<u64> {
    let is_plain = text.starts_with("0x") || text.len() >= 12;
    address(text).ok().filter(|_| is_plain)
}

/// Where something is: an address, or a symbol, either with `+0x…` bytes.
///
/// # Errors
/// If the kernel has no such symbol.
pub fn locate(kernel: &Kernel<'_>, text: &str) -> Result<u64> {
    let (name, offset) = match text.split_once('+') {
        Some((name, offset)) => (name, address(offset).map_err(anyhow::Error::msg)?),
        None => (text, 0),
    };
    // A symbol may look like a number: `dead`, `add`.
    let named = || kernel.symbols_named(name).next();
    let start = plain_address(name)
        .or_else(|| named().map(|place| place.symbol.address))
        .or_else(|| kernel.symbol(name));
    let start = match (start, name) {
        (Some(start), _) => start,
        // Where kallsyms has functions only it is found all the same.
        (None, "init_task") => kernel.init_task()?.address,
        (None, _) => address(name).ok().with_context(|| unknown(kernel, name))?,
    };
    Ok(start.wrapping_add(offset))
}

/// What to say of a symbol that is not there.
pub fn unknown(kernel: &Kernel<'_>, name: &str) -> String {
    match kernel.symbols_trouble() {
        Some(why) => format!("the kernel's symbols are not known: {why}"),
        None => format!("the kernel has no symbol {name:?}, and it is no hexadecimal address"),
    }
}
