//! Where a run leaves its files: the output folder, and outside of it what is short-lived.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::run;

/// A file that every run leaves, by which its folder is known.
const CONSOLE: &str = "serial.log";
/// What names of short-lived files begin with; the process id follows.
const PREFIX: &str = "kdraw-e2e-";

/// The folders and files of one run.
pub struct Place {
    /// The output folder.
    pub out: PathBuf,
    sockets: PathBuf,
    ram: PathBuf,
    keep_ram: bool,
}

impl Place {
    /// Empties the output folder and finds room for `mem_mib` of guest RAM.
    ///
    /// # Errors
    ///
    /// When the folder holds files that are not an earlier run's.
    pub fn new(out: &Path, mem_mib: u64, keep_ram: bool) -> Result<Self> {
        if out.exists() && !run::entries(out)?.is_empty() && !out.join(CONSOLE).exists() {
            bail!(
                "{} holds something else than an earlier run; name another folder",
                out.display()
            );
        }
        run::remove_dir(out)?;
        run::create_dir(out)?;
        File::create(out.join(CONSOLE))?;
        // The path of a socket has at most 108 bytes (unix(7)).
        let sockets = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        run::create_dir(&sockets)?;
        // A RAM file on a real file system costs write-back of everything the guest touches.
        let shm = Path::new("/dev/shm");
        remove_stale(shm);
        let ram = if !keep_ram && free_mib(shm).is_some_and(|free| free > mem_mib + 256) {
            shm.join(format!("{PREFIX}{}", std::process::id()))
        } else {
            out.join("ram.img")
        };
        Ok(Self {
            out: out.to_path_buf(),
            sockets,
            ram,
            keep_ram,
        })
    }

    /// Returns the file that is the guest's RAM.
    pub fn ram(&self) -> &Path {
        &self.ram
    }

    /// Returns where a disk's image lies beside the RAM: writing it costs the host's CPUs least
    /// there.
    pub fn disk_in_memory(&self) -> PathBuf {
        self.ram.with_extension("disk")
    }

    /// Returns the folder for QEMU's sockets.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Returns the console's log.
    pub fn console(&self) -> PathBuf {
        self.file(CONSOLE)
    }

    /// Returns the path of a file in the output folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// Removes what takes much room.
    pub fn drop_large_files(&self) -> Result<()> {
        for name in [
            "dump.img",
            "before.img",
            "initramfs",
            "vmcore",
            "vmcore.elf",
            "vmcore.dd",
        ] {
            let _ = std::fs::remove_file(self.file(name));
        }
        run::remove_dir(&self.file("extracted"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep_ram {
            let _ = std::fs::remove_file(&self.ram);
        }
        let _ = std::fs::remove_file(self.disk_in_memory());
        let _ = std::fs::remove_dir_all(&self.sockets);
    }
}

/// Removes the RAM and disk files of runs that were killed.
fn remove_stale(shm: &Path) {
    for path in run::entries(shm).unwrap_or_default() {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let process = name.strip_prefix(PREFIX);
        let process = process.and_then(|process| process.split('.').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Returns the free space of a file system.
fn free_mib(folder: &Path) -> Option<u64> {
    let mut df = run::command(["df", "-BM", "--output=avail"]);
    let text = run::output(df.arg(folder)).ok()?;
    text.lines()
        .last()?
        .trim()
        .trim_end_matches('M')
        .parse()
        .ok()
}
