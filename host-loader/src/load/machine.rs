//! What of the running system a capture needs; each thing that is missing is a refusal that says
//! how to get it.

use kdraw_format::addr::PhysRange;

use crate::error::Error;
use crate::iomem::IoMem;
use crate::system::System;

/// Why nothing can be loaded on this machine.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Another architecture.
    #[error("this machine is {0}; the payload runs on arm64 (aarch64) only")]
    Architecture(String),
    /// We lack CAP_SYS_BOOT, or the kernel hides addresses.
    #[error("{0}; run kdraw as root")]
    NotRoot(&'static str),
    /// A kernel without kexec.
    #[error(
        "{0} does not exist: this kernel was built without CONFIG_KEXEC; it needs CONFIG_KEXEC and CONFIG_CRASH_DUMP"
    )]
    NoKexec(&'static str),
    /// kexec was switched off.
    #[error(
        "kernel.{sysctl} is {value}: loading was switched off until the next boot; \
         look for {sysctl} in /etc/sysctl.conf and /etc/sysctl.d, then reboot"
    )]
    Disabled {
        /// The setting that did it.
        sysctl: &'static str,
        /// What it is.
        value: &'static str,
    },
    /// The kernel is locked down.
    #[error(
        "the kernel is locked down ({0}) and refuses kexec_load; that comes of Secure Boot or of \
         lockdown= on its command line"
    )]
    LockedDown(String),
    /// No memory is reserved.
    #[error(
        "no crash region is reserved; `kdraw reserve` puts crashkernel=8M on the kernel's command \
         line, then reboot (now it is: {command_line:?})"
    )]
    NoCrashRegion {
        /// /proc/cmdline.
        command_line: String,
    },
    /// No device tree.
    #[error(
        "/sys/firmware/fdt does not exist: this machine was not booted with a device tree \
         (ACPI?); kdraw needs one"
    )]
    NoDeviceTree,
    /// /proc or /sys has not what it should.
    #[error(transparent)]
    Other(#[from] Error),
}

/// What the running system offers for a capture.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Where the payload lives.
    pub crash_region: PhysRange,
    /// The memory to capture.
    pub evidence: Vec<PhysRange>,
    /// The flattened device tree.
    pub device_tree: Vec<u8>,
}

impl Machine {
    /// Looks at the running system.
    ///
    /// # Errors
    /// [`NotReady`], the first thing that is missing.
    pub fn inspect(system: &System) -> Result<Self, NotReady> {
        may_load(system)?;
        kexec_is_allowed(system)?;
        let (crash_region, evidence) = memory(system)?;
        Ok(Self {
            crash_region,
            evidence,
            device_tree: device_tree(system)?,
        })
    }
}

/// Whether this is a machine, and a process, that can load at all.
///
/// # Errors
/// [`NotReady::Architecture`], [`NotReady::NotRoot`].
pub fn may_load(system: &System) -> Result<(), NotReady> {
    let architecture = system.architecture();
    if architecture != "aarch64" {
        return Err(NotReady::Architecture(architecture));
    }
    if !system.may_boot() {
        return Err(NotReady::NotRoot(
            "loading needs CAP_SYS_BOOT, which this process lacks",
        ));
    }
    Ok(())
}

/// Whether the kernel takes a crash image.
///
/// Sources: Linux `kernel/kexec.c` (`kexec_load_check`), Documentation/admin-guide/sysctl/kernel.rst
/// (kexec_load_disabled, kexec_load_limit_panic), `security/lockdown/lockdown.c`: from "integrity"
/// on kexec_load(2) is refused.
///
/// # Errors
/// [`NotReady::NoKexec`], [`NotReady::Disabled`], [`NotReady::LockedDown`].
pub fn kexec_is_allowed(system: &System) -> Result<(), NotReady> {
    const LOADED: &str = "/sys/kernel/kexec_crash_loaded";
    if !system.exists(LOADED) {
        return Err(NotReady::NoKexec(LOADED));
    }
    for (sysctl, off) in [
        ("kexec_load_disabled", "1"),
        ("kexec_load_limit_panic", "0"),
    ] {
        let found = system.text(format!("/proc/sys/kernel/{sysctl}"));
        if found.is_ok_and(|found| found == off) {
            return Err(NotReady::Disabled { sysctl, value: off });
        }
    }
    let lockdown = system.text("/sys/kernel/security/lockdown");
    let lockdown = lockdown.unwrap_or_default();
    let chosen = lockdown.split(['[', ']']).nth(1).unwrap_or("none");
    if chosen != "none" {
        return Err(NotReady::LockedDown(chosen.to_owned()));
    }
    Ok(())
}

/// Where the payload lives, and the memory to capture.
///
/// # Errors
/// [`NotReady::NoCrashRegion`], [`NotReady::NotRoot`].
pub fn memory(system: &System) -> Result<(PhysRange, Vec<PhysRange>), NotReady> {
    let iomem = IoMem::parse(&system.text("/proc/iomem")?);
    if !iomem.has_crash_region() {
        return Err(NotReady::NoCrashRegion {
            command_line: system.text("/proc/cmdline").unwrap_or_default(),
        });
    }
    let crash_region = iomem.crash_region().ok_or(NotReady::NotRoot(
        "/proc/iomem shows only zeros for addresses",
    ))?;
    Ok((crash_region, iomem.evidence()))
}

/// The flattened device tree that the machine was booted with.
///
/// # Errors
/// [`NotReady::NoDeviceTree`].
pub fn device_tree(system: &System) -> Result<Vec<u8>, NotReady> {
    const TREE: &str = "/sys/firmware/fdt";
    if !system.exists(TREE) {
        return Err(NotReady::NoDeviceTree);
    }
    Ok(system.bytes(TREE)?)
}
