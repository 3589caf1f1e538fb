//! What the scenarios need from Debian and PyPI: guest kernels, busybox, and foreign readers.
//!
//! Everything is downloaded on first use and kept in [`cache_dir`].

use std::path::PathBuf;

use clap::ValueEnum;

/// A Debian suite that guest material comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Debian 12, kernel 6.1.
    Bookworm,
    /// Debian 13, kernel 6.12.
    Trixie,
    /// Debian unstable, kernel 7.x.
    Sid,
}

/// A guest kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The uncompressed arm64 Image, as QEMU's `-kernel` takes it.
    pub image: PathBuf,
    /// The folder `…/lib/modules/<release>`.
    pub modules: PathBuf,
    /// What `uname -r` prints in the guest.
    pub release: String,
}

/// Returns the newest kernel of a suite.
pub fn kernel(suite: Suite) -> anyhow::Result<Kernel> {
    anyhow::bail!("no kernel of {suite:?} yet")
}

/// Returns a static arm64 busybox.
pub fn busybox() -> anyhow::Result<PathBuf> {
    anyhow::bail!("no busybox yet")
}

/// Returns the vmlinux with debug information of exactly the kernel that [`kernel`] returns.
pub fn debug_kernel(suite: Suite) -> anyhow::Result<PathBuf> {
    anyhow::bail!("no debug kernel of {suite:?} yet")
}

/// Returns the root of an unpacked arm64 package.
pub fn package(suite: Suite, name: &str) -> anyhow::Result<PathBuf> {
    anyhow::bail!("no package {name} of {suite:?} yet")
}

/// Returns the Python interpreter of a virtual environment that has drgn.
pub fn drgn_python() -> anyhow::Result<PathBuf> {
    anyhow::bail!("no drgn yet")
}

/// Returns a crash built for this machine that reads arm64 dumps.
pub fn crash_native() -> anyhow::Result<PathBuf> {
    anyhow::bail!("no crash yet")
}

/// Returns the cache folder: `KDRAW_CACHE`, or `.cache` in the workspace.
pub fn cache_dir() -> PathBuf {
    match std::env::var_os("KDRAW_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => crate::run::workspace().join(".cache"),
    }
}
