//! The guest's `/init`: a shell script made for the scenario.
//!
//! What the harness must understand is printed as lines that start with `guest: `:
//! `step NAME EXIT`, `iomem …`, `ready`, `failed NAME`; and what `kdraw-guest` prints.

use std::fmt::Write;

use anyhow::Result;

use super::panics::By;
use super::{Loader, Scenario, stock_kexec, watchdog};
use crate::disk_bus::DiskBus;
use crate::dist::Dist;
use crate::guest_image::Initramfs;
use crate::material::{self, Kernel};

/// The first line of a script.
pub const SHEBANG: &str = "#!/bin/busybox sh\n";

/// The modules between a block device and a mounted file system. `crc32c` is the checksum that
/// ext4 asks the crypto API for by name, so no module depends on it.
const FILE_SYSTEM: [&str; 3] = ["crc32c_generic", "crc32c_cryptoapi", "ext4"];

/// How a script mounts FAT in a file, and the modules for it: the kernel asks for code page and
/// character set by name.
pub const MOUNT_FAT: &str = "mount -t vfat -o loop";
const FAT: [&str; 4] = ["loop", "vfat", "nls_cp437", "nls_ascii"];

/// Makes six huge pages, and a file of three.
const HUGE_PAGES: &str = "echo 6 > /proc/sys/vm/nr_hugepages\n\
    mkdir /huge && mount -t hugetlbfs huge /huge && fallocate -l 6M /huge/file || fail huge\n";

/// Returns the modules between the machine and a mounted file system.
pub fn modules(disk: DiskBus) -> Vec<&'static str> {
    [disk.modules(), &FILE_SYSTEM].concat()
}

/// Returns the lines that give a script its names for partitions: `$dump` is for dumps, `$files`
/// has a file system, and `${part}N` is any.
pub fn names(disk: DiskBus) -> String {
    let part = disk.partition();
    format!("part={part}\ndump={part}4\nfiles={part}5\n")
}

/// Puts a script, the programs that it needs and the modules into an initramfs.
pub fn image(script: &str, disk: DiskBus, dist: &Dist, kernel: &Kernel) -> Result<Initramfs> {
    let mut image = Initramfs::new();
    image.copy("bin/busybox", &material::busybox()?)?;
    image.copy("bin/kdraw-guest", &dist.guest)?;
    if dist.kdraw_aarch64.exists() {
        image.copy("bin/kdraw", &dist.kdraw_aarch64)?;
    }
    if script.contains(stock_kexec::KEXEC) {
        stock_kexec::install(&mut image)?;
    }
    let mut modules = modules(disk);
    if script.contains(watchdog::WATCHED) {
        modules.push(watchdog::MODULE);
    }
    if script.contains(MOUNT_FAT) {
        modules.extend(FAT);
    }
    image.modules(&kernel.modules, &modules)?;
    image.program("init", script.as_bytes());
    Ok(image)
}

/// Returns the script of the boot that ends in the panic.
pub fn crash_script(scenario: &Scenario) -> String {
    arm_script(scenario) + &fill_and_panic(scenario)
}

/// Returns the beginning of the script, up to the armed capture.
pub fn arm_script(scenario: &Scenario) -> String {
    let mut script = prologue(scenario.disk);
    if scenario.watchdog {
        script += watchdog::WATCHED;
    }
    if scenario.loader != Loader::None {
        let plain = if scenario.plain { " --plain" } else { "" };
        _ = writeln!(script, "must format kdraw format --yes{plain} $dump");
        script += &match scenario.loader {
            Loader::Kexec => stock_kexec::load(scenario),
            _ => format!(
                "must load kdraw load --target $dump{}{} {}\nstep status kdraw status --json\n",
                match scenario.identify_card {
                    true => " --identify-card",
                    false => "",
                },
                match scenario.target.is_serial() {
                    true => " --fallback serial:ttyAMA0",
                    false => "",
                },
                scenario.dump
            ),
        };
    }
    script
}

/// Returns the end of the script: the guest's program fills memory and panics.
pub fn fill_and_panic(scenario: &Scenario) -> String {
    let (huge_pages, snapshot) = match scenario.again {
        true => (HUGE_PAGES, " snapshot"),
        false => ("", ""),
    };
    let estimate = match scenario.estimate {
        true => format!(" \"estimate=--target $dump {}\"", scenario.dump),
        false => String::new(),
    };
    let exec = match scenario.panic.way().by {
        By::Init => "exec ",
        By::Guest | By::Module => "",
    };
    format!(
        "mount -o ro,noload -t ext4 $files /mnt || fail mount\n\
         {huge_pages}\
         {exec}kdraw-guest fill={} cache=/mnt/cache.bin tmpfs=/fill {} cpu={}{snapshot}{estimate}\n\
         fail panic\n",
        scenario.fill,
        scenario.panic.arguments(),
        scenario.panic_cpu
    )
}

/// Returns the beginning of every script: mounts, modules, the disk, helpers.
///
/// The first line is empty: a UART that is set up may leave a character on the line.
/// The kernel's own messages but alerts leave the console here: they would cut into ours. A panic
/// makes the kernel verbose again.
pub fn prologue(disk: DiskBus) -> String {
    format!("{SHEBANG}{}{PROLOGUE}", names(disk))
}

const PROLOGUE: &str = r#"/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=90% fill /fill
dmesg -n 2
hostname kdraw-guest
step() { name=$1; shift; "$@"; code=$?; echo "guest: step $name $code"; return $code; }
fail() { echo "guest: failed $1"; poweroff -f; sleep 60; }
must() { step "$@" || fail "$1"; }
for module in /modules/*.ko; do insmod $module || echo "guest: error insmod $module"; done
tries=0
while [ ! -b $files ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -b $files ] || fail disk
echo
while read -r line; do
    case $line in *"System RAM"|*"Crash kernel") echo "guest: iomem $line" ;; esac
done < /proc/iomem
echo "guest: ready $(uname -r) cpus $(nproc)"
"#;
