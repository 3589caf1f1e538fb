//! Debian's kexec-tools for the guest: the other way to load the payload.
//!
//! One version serves all kernels. Its libraries are copied by name, because a whole C library
//! would fill the guest's memory with locales.

use anyhow::Result;

use super::Scenario;
use super::evidence::find_file;
use crate::guest_image::Initramfs;
use crate::material::{self, Suite};

/// Packages of its libraries, and the file that is taken from each.
const LIBRARIES: [(&str, &str); 11] = [
    ("libc6", "ld-linux-aarch64.so.1"),
    ("libc6", "libc.so.6"),
    ("zlib1g", "libz.so.1"),
    ("libxenmisc4.17", "libxenctrl.so.4.17"),
    ("libxencall1", "libxencall.so.1"),
    ("libxendevicemodel1", "libxendevicemodel.so.1"),
    ("libxenevtchn1", "libxenevtchn.so.1"),
    ("libxenforeignmemory1", "libxenforeignmemory.so.1"),
    ("libxengnttab1", "libxengnttab.so.1"),
    ("libxentoolcore1", "libxentoolcore.so.1"),
    ("libxentoollog1", "libxentoollog.so.1"),
];

/// What a script that needs kexec-tools holds.
pub const KEXEC: &str = "must load kexec ";

/// Returns the script's lines that load the payload as its user's manual says.
pub fn load(scenario: &Scenario) -> String {
    format!(
        "must payload kdraw payload -o /tmp/capture.img\n\
         must plan kdraw plan --target $dump {} -o /tmp/plan.bin\n\
         {KEXEC}-p /tmp/capture.img --initrd=/tmp/plan.bin\n",
        scenario.dump
    )
}

/// Puts `kexec` and its libraries into an initramfs.
pub fn install(image: &mut Initramfs) -> Result<()> {
    let root = material::package(Suite::Bookworm, "kexec-tools")?;
    image.copy("bin/kexec", &root.join("sbin/kexec"))?;
    for (package, file) in LIBRARIES {
        let root = material::package(Suite::Bookworm, package)?;
        image.copy(&format!("lib/{file}"), &find_file(&root, file)?)?;
    }
    Ok(())
}
