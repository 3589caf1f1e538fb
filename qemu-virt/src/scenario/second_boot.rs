//! The boot after the reset: what a user types, in the same guest, to get the dump off the
//! partition onto a file system.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::result::Outcome;
use super::{Place, Scenario, boot, evidence, init};
use crate::disk::Disk;
use crate::dist::Dist;
use crate::material::Kernel;
use crate::qemu::Line;
use crate::run;

/// How long it may take.
const BUDGET: Duration = Duration::from_secs(300);

/// Without a terminal `extract` shows no progress bar.
const SCRIPT: &str = "mount -t ext4 $files /mnt || fail mount\n\
    mkdir -p /mnt/dumps\n\
    must list kdraw list $dump\n\
    step extract kdraw extract $dump -o /mnt/dumps 2> /tmp/errors || {\n\
        cat /tmp/errors\n\
        fail extract\n\
    }\n\
    must files ls -lhR /mnt/dumps\n\
    umount /mnt\n\
    sync\n\
    poweroff -f\n\
    sleep 60\n";

/// Returns the free room on the file system that an extracted dump may need, in MiB.
pub fn room(mem_mib: u64) -> u64 {
    mem_mib + 256
}

/// Boots the guest from `disk`, on which is a dump, and extracts that onto its file system.
pub fn play(
    scenario: &Scenario,
    dist: &Dist,
    kernel: &Kernel,
    place: &Place,
    disk: &Disk,
    watch: &mut dyn FnMut(&Line),
    outcome: &mut Outcome,
) -> Result<()> {
    let initramfs = place.file("initramfs-2");
    let script = init::prologue(scenario.disk) + SCRIPT;
    init::image(&script, scenario.disk, dist, kernel)?.write(&initramfs)?;
    let command_line = scenario.command_line();
    let ram = place.file("second.ram");
    let mut machine = super::machine(scenario, kernel, place, disk, &initramfs, &command_line);
    machine.ram = &ram;
    let boot = boot::run(
        &machine,
        &place.file("serial-2.log"),
        BUDGET,
        &mut |line, _, _| {
            watch(line);
            Ok(())
        },
    )?;
    std::fs::remove_file(&ram)?;
    std::fs::remove_file(&initramfs)?;
    for (step, code) in &boot.steps {
        outcome.check(
            &format!("second-{step}"),
            *code == 0,
            format!("exit status {code}"),
        );
    }
    outcome.check(
        "second-boot",
        boot.hang.is_none() && boot.steps.len() >= 3,
        boot.tail(),
    );
    Ok(())
}

/// Gets the vmcore that the guest extracted into the folder `dumps` of its file system, into `folder`.
pub fn from_guest(disk: &Disk, dumps: &str, folder: &Path) -> Result<PathBuf> {
    run::create_dir(folder)?;
    let debugfs =
        run::find_program("debugfs").context("there is no debugfs; `cargo xtask setup`")?;
    let image = format!("{}?offset={}", disk.path.display(), disk.part(5).start);
    let request = format!("rdump {dumps} {}", folder.display());
    run::quiet(Command::new(debugfs).args(["-R", &request, &image]))?;
    evidence::find_file(folder, "vmcore")
}

/// Compares the vmcore that the guest extracted as ELF with `ours`: how small pages get depends on
/// the CPU.
pub fn same_in_guest(disk: &Disk, dist: &Dist, folder: &Path, ours: &Path) -> Result<String> {
    let theirs = from_guest(disk, "/dumps", folder)?;
    same(dist, &theirs, ours)?;
    run::remove_dir(folder)?;
    Ok("the vmcore on the guest's file system is the one extracted here".into())
}

/// Checks that a vmcore is, as ELF, the same as `ours`.
pub fn same(dist: &Dist, theirs: &Path, ours: &Path) -> Result<()> {
    let elf = theirs.with_extension("elf");
    evidence::convert(dist, &["--format", "elf"], theirs, &elf)?;
    run::quiet(Command::new("cmp").args([elf.as_path(), ours]))?;
    std::fs::remove_file(&elf).with_context(|| format!("cannot remove {}", elf.display()))
}
