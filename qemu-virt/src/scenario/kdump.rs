//! What kdraw replaces: a second Linux that copies /proc/vmcore onto a file system.
//!
//! It gets its fairest set-up: 256 MiB, `kexec -i` (the hash in kexec-tools' purgatory is slow
//! under QEMU only), a minimal initramfs, one CPU, no CMA area, and on kernels whose kallsyms lack
//! `_text` a copy that has it.

use anyhow::Result;

use super::evidence::find_file;
use super::stock_kexec;
use crate::dist::Dist;
use crate::guest_image::Initramfs;
use crate::material::{self, Kernel, Suite};

/// What the crash kernel's memory takes, as on the first kernel's command line.
pub const RESERVATION: &str = "256M";

/// Packages of makedumpfile's libraries that kexec does not need, and the file from each.
const LIBRARIES: [(&str, &str); 5] = [
    ("libdw1", "libdw.so.1"),
    ("libelf1", "libelf.so.1"),
    ("liblzo2-2", "liblzo2.so.2"),
    ("liblzma5", "liblzma.so.5"),
    ("libbz2-1.0", "libbz2.so.1.0"),
];

/// Arms kdump. Debian's 6.1 hides `_text`, 64 KiB before `_stext`, from kexec-tools.
const LOAD: &str = r#"if ! grep -q ' T _text$' /proc/kallsyms; then
    cp /proc/kallsyms /run/kallsyms
    stext=$(sed -n 's/ T _stext$//p' /proc/kallsyms)
    printf '%x T _text\n' $((0x$stext - 0x10000)) >> /run/kallsyms
    mount --bind /run/kallsyms /proc/kallsyms
fi
must load kexec -i -c -p /kdump/Image --initrd=/kdump/initramfs \
    --append="console=ttyAMA0 rdinit=/init nr_cpus=1 reset_devices cma=0 panic=1 loglevel=4"
"#;

/// `/init` of the crash kernel, up to the dump itself.
const CRASH_PROLOGUE: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
tries=0
while [ ! -b /dev/vda5 ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mount -t ext4 /dev/vda5 /mnt
echo 'guest: dump begins'
"#;

/// How the crash kernel ends.
const CRASH_EPILOGUE: &str = r#"code=$?
sync
mount -o remount,ro /mnt
echo "guest: step dump $code"
echo "guest: dumped $(stat -c %s /mnt/vmcore)"
reboot -f
sleep 60
"#;

/// Returns how `suite`'s kernel is dumped in full. makedumpfile refuses kernels built for 52-bit
/// addresses, so those are copied.
pub fn command(suite: Suite) -> &'static str {
    match suite {
        Suite::Bookworm => "makedumpfile -d 0 /proc/vmcore /mnt/vmcore > /tmp/log 2>&1",
        Suite::Trixie | Suite::Sid => "cp /proc/vmcore /mnt/vmcore",
    }
}

/// Returns the initramfs of the kernel that panics: `script` runs after kdump is armed.
pub fn image(
    prologue: &str,
    script: &str,
    suite: Suite,
    dist: &Dist,
    kernel: &Kernel,
    scratch: &std::path::Path,
) -> Result<Initramfs> {
    let mut crash = Initramfs::new();
    crash.copy("bin/busybox", &material::busybox()?)?;
    let makedumpfile = material::package(Suite::Bookworm, "makedumpfile")?;
    crash.copy(
        "bin/makedumpfile",
        &makedumpfile.join("usr/bin/makedumpfile"),
    )?;
    stock_kexec::libraries(&mut crash)?;
    for (package, file) in LIBRARIES {
        let root = material::package(Suite::Bookworm, package)?;
        crash.copy(&format!("lib/{file}"), &find_file(&root, file)?)?;
    }
    crash.modules(&kernel.modules, &super::init::MODULES)?;
    let init = format!("{CRASH_PROLOGUE}{}\n{CRASH_EPILOGUE}", command(suite));
    crash.program("init", init.as_bytes());
    crash.write(scratch)?;

    let script = format!("{prologue}{LOAD}{script}");
    let mut image = super::init::image(&script, dist, kernel)?;
    stock_kexec::install(&mut image)?;
    image.folder("kdump");
    image.copy("kdump/Image", &kernel.image)?;
    image.copy("kdump/initramfs", scratch)?;
    Ok(image)
}
