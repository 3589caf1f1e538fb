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
        "kernel.kexec_load_disabled is {0}: loading was switched off until the next boot; \
         look for kexec_load_disabled in /etc/sysctl.conf and /etc/sysctl.d, then reboot"
    )]
    Disabled(u64),
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
        let architecture = system.architecture();
        if architecture != "aarch64" {
            return Err(NotReady::Architecture(architecture));
        }
        if !system.may_boot() {
            return Err(NotReady::NotRoot(
                "loading needs CAP_SYS_BOOT, which this process lacks",
            ));
        }
        const LOADED: &str = "/sys/kernel/kexec_crash_loaded";
        if !system.exists(LOADED) {
            return Err(NotReady::NoKexec(LOADED));
        }
        match system.number("/proc/sys/kernel/kexec_load_disabled") {
            Ok(0) | Err(_) => {}
            Ok(other) => return Err(NotReady::Disabled(other)),
        }
        let iomem = IoMem::parse(&system.text("/proc/iomem")?);
        if !iomem.has_crash_region() {
            return Err(NotReady::NoCrashRegion {
                command_line: system.text("/proc/cmdline").unwrap_or_default(),
            });
        }
        let crash_region = iomem.crash_region().ok_or(NotReady::NotRoot(
            "/proc/iomem shows only zeros for addresses",
        ))?;
        if !system.exists("/sys/firmware/fdt") {
            return Err(NotReady::NoDeviceTree);
        }
        Ok(Self {
            crash_region,
            evidence: iomem.evidence(),
            device_tree: system.bytes("/sys/firmware/fdt")?,
        })
    }
}
