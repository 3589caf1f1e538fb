//! What kdraw replaces: a second Linux that copies /proc/vmcore onto a file system.
//!
//! It gets its fairest set-up: 256 MiB, `kexec -i` (the hash in kexec-tools' purgatory is slow
//! under QEMU only), a minimal initramfs, one CPU, no CMA area, and on kernels whose kallsyms lack
//! `_text` a copy that has it.

use anyhow::Result;

use super::evidence::find_file;
use super::init::{self, SHEBANG};
use super::stock_kexec;
use crate::disk_bus::DiskBus;
use crate::dist::Dist;
use crate::guest_image::Initramfs;
use crate::material::{self, Kernel};

/// What the crash kernel's memory takes, as on the first kernel's command line.
pub const RESERVATION: &str = "256M";

/// What makedumpfile's libraries are called.
const LIBRARIES: [&str; 9] = [
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libz.so.1",
    "libdw.so.1",
    "libelf.so.1",
    "liblzo2.so.2",
    "liblzma.so.5",
    "libbz2.so.1.0",
    "libzstd.so.1",
];

/// A way to save the memory.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name in tables.
    pub name: &'static str,
    /// The command that makes /mnt/vmcore of /proc/vmcore.
    pub command: &'static str,
    /// CPUs of the crash kernel.
    pub cpus: u32,
}

/// Prepares for kexec. Debian's 6.1 hides `_text`, 64 KiB before `_stext`, from kexec-tools.
const LOAD: &str = r#"if ! grep -q ' T _text$' /proc/kallsyms; then
    cp /proc/kallsyms /run/kallsyms
    stext=$(sed -n 's/ T _stext$//p' /proc/kallsyms)
    printf '%x T _text\n' $((0x$stext - 0x10000)) >> /run/kallsyms
    mount --bind /run/kallsyms /proc/kallsyms
fi
"#;

/// The crash kernel's command line, up to the number of its CPUs.
const APPEND: &str = "console=ttyAMA0 rdinit=/init reset_devices cma=0 panic=1 loglevel=4 nr_cpus=";

/// `/init` of the crash kernel, up to the dump itself.
const CRASH_PROLOGUE: &str = r#"/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
tries=0
while [ ! -b $files ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mount -t ext4 $files /mnt
echo 'guest: dump begins'
"#;

/// How the crash kernel ends.
const CRASH_EPILOGUE: &str = r#"code=$?
[ $code = 0 ] || tail -n 3 /tmp/log
sync
mount -o remount,ro /mnt
cat /tmp/time
echo "guest: step dump $code"
echo "guest: dumped $(stat -c %s /mnt/vmcore)"
reboot -f
sleep 60
"#;

/// Returns the initramfs of the kernel that panics: `script` runs after kdump is armed.
pub fn image(
    script: &str,
    method: &Method,
    disk: DiskBus,
    dist: &Dist,
    kernel: &Kernel,
    scratch: &std::path::Path,
) -> Result<Initramfs> {
    let mut crash = Initramfs::new();
    crash.copy("bin/busybox", &material::busybox()?)?;
    let root = material::makedumpfile_arm64()?;
    crash.copy("bin/makedumpfile", &root.join("usr/bin/makedumpfile"))?;
    for file in LIBRARIES {
        crash.copy(
            &format!("lib/{file}"),
            &find_file(&root.join("usr/lib"), file)?,
        )?;
    }
    crash.modules(&kernel.modules, &init::modules(disk))?;
    // What the command itself used of the CPU, in seconds of the guest's time.
    let dump = format!(
        "time -o /tmp/time -f 'guest: cpu %U %S' {} > /tmp/log 2>&1",
        method.command
    );
    crash.program(
        "init",
        format!(
            "{SHEBANG}{}{CRASH_PROLOGUE}{dump}\n{CRASH_EPILOGUE}",
            init::names(disk)
        )
        .as_bytes(),
    );
    crash.write(scratch)?;

    let load = format!(
        "must load kexec -i -c -p /kdump/Image --initrd=/kdump/initramfs --append=\"{APPEND}{}\"\n",
        method.cpus
    );
    let script = format!("{}{LOAD}{load}{script}", init::prologue(disk));
    let mut image = init::image(&script, disk, dist, kernel)?;
    stock_kexec::install(&mut image)?;
    image.folder("kdump");
    image.copy("kdump/Image", &kernel.image)?;
    image.copy("kdump/initramfs", scratch)?;
    Ok(image)
}
