//! kdraw as its users have it: a Debian system with systemd, kdraw's package installed into it by
//! dpkg, the memory reserved by `kdraw reserve`; then a panic, and the dump is in /var/crash by
//! itself.
//!
//! Three boots of one disk, unattended. The harness is the boot loader: what it hands to the kernel
//! is the `append` line of the extlinux.conf on that disk. In the guest a service of the harness
//! plays the user, each boot the next part of [`SCRIPT`].

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kdraw_linux::classify::DumpLevel;

use super::boot::{self, Boot};
use super::{
    Place, Scenario, evidence, init, second_boot,
    tools::{Foreign, Readers},
};
use crate::compare::Vmcore;
use crate::disk::Disk;
use crate::dist::Dist;
use crate::material::{self, Kernel, Suite};
use crate::{package, run};

/// The scenario's name.
pub const NAME: &str = "installed";
/// RAM of the guest, in MiB.
pub const MEM_MIB: u64 = 512;
/// The system's file system: the dump fits, above the floor that the configuration leaves free.
const SYSTEM_MIB: u64 = 2048;
/// systemd's boot takes long on an emulated machine.
const BUDGET: Duration = Duration::from_secs(600);
/// The boot loader's configuration, before kdraw changes it.
const EXTLINUX: &str = "default linux\n\nlabel linux\n\tkernel /vmlinuz\n\t\
    append root=/dev/vda5 rw console=ttyAMA0 systemd.show_status=0\n";
/// Where it is.
const EXTLINUX_CONF: &str = "/boot/extlinux/extlinux.conf";
/// What plays the user.
const UNIT: &str = "[Unit]\nAfter=kdraw.service kdraw-extract.service\n\
    FailureAction=poweroff-force\n\
    [Service]\nType=oneshot\nExecStart=/bin/sh /root/user\n\
    StandardOutput=file:/dev/ttyAMA0\nStandardError=inherit\n";
/// What breaks the silence until then: a console that says nothing for minutes counts as hung.
const SPEAKER: &str = "[Unit]\nDefaultDependencies=no\n\
    [Service]\nExecStart=/bin/sh -c 'while sleep 30; do echo; done'\n\
    StandardOutput=file:/dev/ttyAMA0\n";
/// Where units are.
const UNITS: &str = "etc/systemd/system";

/// What does not run: nobody logs in where the user's words are read, and a database of devices
/// that are not there takes an emulated CPU 20 s to make.
const MASKED: [&str; 3] = [
    "serial-getty@.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
];

/// The boot before systemd: the disk's last partition becomes the root. What was unpacked belongs
/// to whoever unpacked it.
const HANDOVER: &str = "mount -t ext4 $files /mnt || fail mount\n\
    [ $(stat -c %u /mnt/usr) = 0 ] || chown -hR 0:0 /mnt\n\
    umount /fill /proc /sys\n\
    exec switch_root /mnt /sbin/init\n";

/// What the user does.
const SCRIPT: &str = r#"
export LC_ALL=C PATH=/usr/sbin:/usr/bin
udevadm settle
step() { name=$1; shift; "$@"; code=$?; echo; echo "guest: step $name $code"; return $code; }
fails() { "$@"; [ $? = 1 ]; }
within() { tries=0; until "$@"; do [ $tries -lt 120 ] || return 1; tries=$((tries + 1)); sleep 1; done; }
partition=/dev/disk/by-partuuid/$(lsblk -nro PARTUUID /dev/vda4)
echo
if [ ! -e /usr/bin/kdraw ]; then
    echo "guest: begin"
    step install dpkg -i /root/kdraw.deb
    step reserve kdraw reserve --yes
    step named test -e $partition
    step format kdraw format --yes $partition
    sed -i "s|^#target = .*|target = \"$partition\"|" /etc/kdraw.conf
    mkdir -p /etc/kdraw.d
    printf '#!/bin/sh\necho "$1" >> /root/hooked\n' > /etc/kdraw.d/note
    chmod +x /etc/kdraw.d/note
    # The memory is not there yet; what else there is to fix is fixed.
    step fix fails kdraw check --fix --yes
    systemctl --no-block reboot
elif [ ! -e /root/crashed ]; then
    step enabled systemctl is-enabled kdraw.service kdraw-extract.service
    # At boot it may be loaded twice: see 90-kdraw.rules.
    step active within sh -c '[ "$(systemctl is-active kdraw.service)" = active ]'
    kdraw check
    step check sh -c 'kdraw check --json | grep -m 1 state | grep green'
    # A CPU comes: the kernel's own event, sent once more.
    cp /run/kdraw/loaded.json /run/before
    echo add > /sys/devices/system/cpu/cpu1/uevent
    step reload within fails cmp -s /run/before /run/kdraw/loaded.json
    step status within kdraw status
    touch /root/crashed
    sync
    echo c > /proc/sysrq-trigger
else
    step saved within sh -c 'test -f /var/crash/*/vmcore &&
        [ "$(systemctl is-active kdraw-extract.service)" = inactive ]'
    step hooked grep -x '/var/crash/.*' /root/hooked
    step nothing-more kdraw save
    step check kdraw check
    step info kdraw info $partition
    step units fails systemctl is-failed kdraw.service kdraw-extract.service
    journalctl --no-pager -b -u kdraw.service -u kdraw-extract.service
    ls -l /var/crash /var/crash/*
    echo "guest: ready"
    systemctl --no-block poweroff
fi
"#;

/// The steps of each boot.
const STEPS: [&[&str]; 3] = [
    &["install", "reserve", "named", "format", "fix"],
    &["enabled", "active", "check", "reload", "status"],
    &["saved", "hooked", "nothing-more", "check", "info", "units"],
];

/// Plays it, and opens the dump with `readers`; returns a line about what was seen.
pub fn play(dist: &Dist, place: &Place, readers: Readers) -> Result<String> {
    let scenario = scenario();
    let kernel = scenario.kernel()?;
    let root = place.file("root");
    make_root(&root, &package::arm64(dist)?, &kernel)?;
    let dump_mib = MEM_MIB + 64;
    let image = place.file("dump.img");
    let disk = Disk::with_last(&image, scenario.disk, dump_mib, SYSTEM_MIB, &root)?;
    run::remove_dir(&root)?;
    let initramfs = place.file("initramfs");
    let script = init::prologue(scenario.disk) + HANDOVER;
    init::image(&script, scenario.disk, dist, &kernel)?.write(&initramfs)?;
    let play = |number: usize| -> Result<Boot> {
        let command_line = append_line(&disk)?;
        ensure!(
            command_line.contains("crashkernel=") == (number > 0),
            "boot {number} has the command line {command_line:?}"
        );
        let machine = super::machine(&scenario, &kernel, place, &disk, &initramfs, &command_line);
        let log = place.file(&format!("serial-{number}.log"));
        let boot = boot::run(&machine, &log, BUDGET, &mut |_, _, _| Ok(()))?;
        check_steps(number, &boot).with_context(|| format!("see {}", log.display()))?;
        Ok(boot)
    };
    let install = play(0)?;
    let crash = play(1)?;
    let last = crash.payload().last().map(|line| line.text.clone());
    let last = last.unwrap_or_default();
    ensure!(
        last.contains("dump complete"),
        "the payload ended with {last:?}"
    );
    // As it is on the partition: the next boot takes it off.
    let copy = disk.copy_to(&place.file("second.img"))?;
    let ours = evidence::extract_what_is_there(dist, &copy.path, &place.file("extracted"))?;
    std::fs::remove_file(&copy.path)?;
    ensure!(ours.complete, "the dump is not complete");
    let vmcore = Vmcore::open(&ours.elf)?;
    let compared = vmcore.compare(place.ram(), &crash)?;
    ensure!(
        compared.pages > 0 && compared.mismatches == 0 && compared.outside.is_empty(),
        "{} of {} pages differ from the RAM file, outside RAM: {:x?}",
        compared.mismatches,
        compared.pages,
        compared.outside
    );
    let level = DumpLevel::new(31).context("no level 31")?;
    evidence::coverage(place, &crash, &vmcore, level)?;
    let saved = play(2)?;
    let from_guest = place.file("from-guest");
    let theirs = second_boot::from_guest(&disk, "/var/crash", &from_guest)?;
    second_boot::same(dist, &theirs, &ours.elf)?;
    if readers != Readers::None {
        for (reader, answer) in Foreign::new(&scenario, &theirs, &ours.elf)?.tasks() {
            let text = answer?;
            std::fs::write(place.file(&format!("{reader}.txt")), &text)?;
            for word in ["write_sysrq_trigger", "systemd-journal"] {
                ensure!(text.contains(word), "{reader} does not show {word}");
            }
        }
    }
    run::remove_dir(&from_guest)?;
    disk.forget_copy()?;
    std::fs::remove_file(&initramfs)?;
    let at = |boot: &Boot, text: &str| -> Result<Duration> {
        let line = boot.find(text).with_context(|| format!("no {text:?}"))?;
        Ok(line.at)
    };
    let before_reboot = install.end - at(&install, "guest: begin")?;
    let to_green = at(&crash, "guest: step check ")?;
    Ok(format!(
        "{} pages of the vmcore in /var/crash as in RAM; from .deb to a reboot {:.0} s, to all green \
         {:.0} s more; saved {:.0} s into the next boot",
        compared.pages,
        before_reboot.as_secs_f64(),
        to_green.as_secs_f64(),
        at(&saved, "guest: step saved ")?.as_secs_f64()
    ))
}

fn check_steps(number: usize, boot: &Boot) -> Result<()> {
    for step in STEPS[number] {
        match boot.steps.get(*step) {
            Some(0) => {}
            Some(code) => bail!("boot {number}: {step} ended with {code}"),
            None => bail!(
                "boot {number} did not come to {step}; last: {}",
                boot.tail()
            ),
        }
    }
    match &boot.hang {
        Some(hang) => bail!("boot {number}: {hang}; last: {}", boot.tail()),
        None => Ok(()),
    }
}

/// Makes the system's files: Debian's, the package, the boot loader's, and the user.
fn make_root(root: &Path, deb: &Path, kernel: &Kernel) -> Result<()> {
    let system = material::debian_system()?;
    run::quiet(Command::new("cp").arg("-a").args([&system, root]))?;
    let copy = |from: &Path, to: &str| {
        let to = root.join(to);
        std::fs::copy(from, &to).with_context(|| format!("cannot copy to {}", to.display()))
    };
    copy(deb, "root/kdraw.deb")?;
    let config = format!("boot/config-{}", kernel.release);
    copy(&kernel.image.with_file_name(&config), &config)?;
    let wants = |target: &str| format!("{UNITS}/{target}.target.wants");
    for folder in ["boot/extlinux", &wants("sysinit"), &wants("multi-user")] {
        run::create_dir(&root.join(folder))?;
    }
    for (name, text) in [
        (EXTLINUX_CONF.trim_start_matches('/'), EXTLINUX),
        ("etc/fstab", "/dev/vda5 / ext4 defaults 0 0\n"),
        ("etc/hostname", "kdraw-guest\n"),
        ("root/user", SCRIPT),
        (&format!("{UNITS}/user.service"), UNIT),
        (&format!("{UNITS}/speaker.service"), SPEAKER),
    ] {
        let path = root.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut links = vec![
        ("../user.service", wants("multi-user") + "/user.service"),
        ("../speaker.service", wants("sysinit") + "/speaker.service"),
    ];
    links.extend(MASKED.map(|unit| ("/dev/null", format!("{UNITS}/{unit}"))));
    for (to, from) in links {
        std::os::unix::fs::symlink(to, root.join(from)).context("cannot link")?;
    }
    Ok(())
}

/// Returns what the boot loader would hand to the kernel.
fn append_line(disk: &Disk) -> Result<String> {
    let debugfs =
        run::find_program("debugfs").context("there is no debugfs; `cargo xtask setup`")?;
    let image = format!("{}?offset={}", disk.path.display(), disk.part(5).start);
    let request = format!("cat {EXTLINUX_CONF}");
    let text = run::output(Command::new(debugfs).args(["-R", &request, &image]))?;
    let append = |line: &str| Some(line.trim().strip_prefix("append ")?.to_owned());
    text.lines()
        .find_map(append)
        .with_context(|| format!("{EXTLINUX_CONF} has no append line:\n{text}"))
}

fn scenario() -> Scenario {
    Scenario {
        mem: MEM_MIB,
        crashkernel: String::new(),
        ..Scenario::new(NAME, Suite::Trixie)
    }
}
