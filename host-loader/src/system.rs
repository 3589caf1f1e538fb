//! The running system as /proc and /sys show it, under a root that tests can move.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// CAP_SYS_BOOT, which kexec_load(2) asks for (`include/uapi/linux/capability.h`).
const CAP_SYS_BOOT: u32 = 22;

/// Where /proc and /sys are read.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// The system under `root`; `/` is the one we run on.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether this is the system we run on, which alone can be changed.
    pub fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The real path of an absolute path of this system.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether a path exists.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`Error::Io`] with the file's name.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        let path = self.path(path);
        fs::read(&path).map_err(Error::io("read", path))
    }

    /// Reads a text file, without white space at its ends.
    ///
    /// # Errors
    /// As [`System::bytes`].
    pub fn text(&self, path: impl AsRef<Path>) -> Result<String, Error> {
        let bytes = self.bytes(path)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Reads a file with one decimal number.
    ///
    /// # Errors
    /// As [`System::bytes`], and [`Error::Content`] if it is no number.
    pub fn number(&self, path: &str) -> Result<u64, Error> {
        let text = self.text(path)?;
        text.parse().map_err(|_| Error::Content {
            path: self.path(path),
            found: text.chars().take(40).collect(),
            expected: "a decimal number",
        })
    }

    /// The machine's architecture as uname(2) names it. /proc has it since Linux 6.1; before
    /// that it is the one this program was built for.
    pub fn architecture(&self) -> String {
        self.text("/proc/sys/kernel/arch")
            .unwrap_or_else(|_| std::env::consts::ARCH.to_owned())
    }

    /// Whether we may load a crash kernel: the effective CAP_SYS_BOOT.
    pub fn may_boot(&self) -> bool {
        let status = self.text("/proc/self/status").unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .is_some_and(|set| set >> CAP_SYS_BOOT & 1 == 1)
    }

    /// The machine's name; empty if unknown.
    pub fn hostname(&self) -> String {
        self.text("/proc/sys/kernel/hostname").unwrap_or_default()
    }

    /// The running kernel's release; empty if unknown.
    pub fn kernel_release(&self) -> String {
        self.text("/proc/sys/kernel/osrelease").unwrap_or_default()
    }

    /// What tells this boot from every other; empty if unknown.
    pub fn boot_id(&self) -> String {
        self.text("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
    }
}
