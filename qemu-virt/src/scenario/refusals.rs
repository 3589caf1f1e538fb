//! What kdraw must refuse: each case with the message it owes the user, and nothing written. And
//! what may befall a capture halfway: each case with what must be left of the dump.
//!
//! A case is a script for `/init` and something done to the machine from outside, while the guest
//! waits or when the payload says a certain thing. [`CASES`] is the table.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kdraw_format::checksum::image_checksum;
use kdraw_format::layout::{BLOCK, Superblock};
use kdraw_format::plan::{PLAN_LEN, Plan, Seal};
use kdraw_format::slot::{EpitaphKind, Outcome};

use super::boot::{self, Boot};
use super::{Place, Scenario, init, unfinished, watchdog};
use crate::disk::Disk;
use crate::disk_bus::DiskBus;
use crate::dist::Dist;
use crate::material::Suite;
use crate::qemu::{Line, Monitor, Qemu};
use crate::run;

/// RAM of the guest, in MiB.
pub const MEM_MIB: u64 = 512;

/// Format and load, as a user does.
const ARMED: &str = "must format kdraw format --yes $dump\n\
                     must load kdraw load --target $dump\n\
                     must status kdraw status\n";
/// What the tool finds its target by.
const CONFIGURED: &str = "mkdir -p /etc\n\
    printf 'target = \"%s\"\\n[save]\\ndirectory = \"/fill\"\\nmin_free_mib = 1\\n' $dump \
    > /etc/kdraw.conf\n";
/// `kdraw reserve` on a Raspberry Pi's FAT: done, undone, and hindered by a full file system and by
/// one that is mounted read-only.
const RESERVED_ON_FAT: &str = "pi=/fill/pi\nboot=$pi/boot/firmware\nmkdir -p $boot\n\
    dd if=/dev/zero of=/fill/fat bs=1M count=4\nmkdosfs /fill/fat\n\
    must fat mount -t vfat -o loop /fill/fat $boot\n\
    printf 'console=serial0,115200 rootwait' > $boot/cmdline.txt\ncp $boot/cmdline.txt /fill/was\n\
    as_before() { cmp /fill/was $boot/cmdline.txt && [ \"$(ls $boot)\" = cmdline.txt ]; }\n\
    must reserve kdraw reserve --yes --root $pi\n\
    must reserved grep -q 'rootwait crashkernel=8M' $boot/cmdline.txt\n\
    must undo kdraw reserve --yes --undo --root $pi\nmust undone as_before\n\
    dd if=/dev/zero of=$boot/filler bs=512\n\
    kdraw reserve --yes --root $pi\nmust full test $? = 3\n\
    rm $boot/filler\nmust intact as_before\nmount -o remount,ro $boot\n\
    kdraw reserve --yes --root $pi\nmust read-only test $? = 3\nmust unharmed as_before\n";
/// Lets the harness act.
const PAUSE: &str = "sync\necho 'guest: pause'\nread answer\n";
/// Tells where the SD host's registers are.
const REGISTERS: &str = "read -r registers rest < /sys/class/mmc_host/mmc0/device/resource\n\
                         echo \"guest: registers $registers\"\n";
/// Panics without filling memory.
const CRASH: &str = "kdraw-guest fill=0 cache=/init tmpfs=/fill panic=sysrq cpu=0\n";

/// The payload says this when its capture has failed.
const FAILED: &str = "the capture failed";
/// A disk of this many bytes per second is at work long enough for something to happen meanwhile.
const SLOW: u64 = 32 << 20;
/// Of this many, for longer than the watchdog's 10 s.
const SLOWER: u64 = 3 << 19;
/// Longest time from a stall to the reset: the watchdog's 10 s, and what an emulated machine needs.
const STALLED: Duration = Duration::from_secs(20);

/// What is there to act on, besides the machine.
struct Scene<'a> {
    dist: &'a Dist,
    disk: &'a Disk,
    boot: &'a Boot,
}

/// Something done to the machine from outside.
type Act = fn(&Scene<'_>, &mut Qemu) -> Result<()>;

/// What a refusal may write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Nothing.
    Nothing,
    /// A record in the black-box journal of the dump partition.
    Journal,
    /// Anything on the dump partition; the script itself formats it.
    Partition,
}

/// One refusal.
struct Case {
    name: &'static str,
    /// The kernel's `crashkernel=`; empty for none.
    crashkernel: &'static str,
    smp: u32,
    disk: DiskBus,
    script: &'static [&'static str],
    /// What is done while the guest waits.
    act: Option<Act>,
    /// What is done when a line of the payload has these words.
    later: &'static [(&'static str, Act)],
    /// The step of the script that must fail; none where the payload has to refuse.
    fails: Option<&'static str>,
    /// What the console must show.
    says: &'static [&'static str],
    /// The script of an earlier boot, whose panic is captured.
    earlier: Option<&'static [&'static str]>,
    /// What of the dump partition may differ from what it was when the guest waited, or at boot.
    written: Written,
    /// The payload captures all the same.
    captures: bool,
    /// A byte of the dump partition whose sector cannot be written.
    bad_byte: Option<u64>,
    /// The disk does not say that it cannot.
    loses: bool,
    /// What `kdraw info` must show of a whole dump.
    told: &'static [&'static str],
    /// What the slot's header must say of a dump that was begun and not ended.
    left: Option<(Outcome, EpitaphKind)>,
    /// The machine has a watchdog, which the script starts.
    watchdog: bool,
    /// How long it must be from the panic to the reset, at the least.
    lasts: Duration,
    /// Runs without `--full`, too.
    quick: bool,
}

const CASE: Case = Case {
    name: "",
    crashkernel: "8M",
    smp: 1,
    disk: DiskBus::VirtioMmio,
    script: &[ARMED, PAUSE, CRASH],
    act: None,
    later: &[],
    fails: None,
    says: &[],
    earlier: None,
    written: Written::Nothing,
    captures: false,
    bad_byte: None,
    loses: false,
    told: &[],
    left: None,
    watchdog: false,
    lasts: Duration::ZERO,
    quick: false,
};

/// Something is missing, and the payload captures without.
const CAPTURES: Case = Case {
    written: Written::Partition,
    captures: true,
    ..CASE
};

/// The disk goes away behind its device, among the pages.
const GONE_HALFWAY: Case = Case {
    act: Some(|_, qemu| qemu.limit_disk(SLOW)),
    later: &[(unfinished::WRITING, remove_disk_halfway)],
    says: &[
        "the capture failed",
        "the slot's header could not be written",
    ],
    written: Written::Partition,
    left: Some((Outcome::Writing, EpitaphKind::None)),
    ..CASE
};

const CASES: &[Case] = &[
    Case {
        name: "load-unsigned",
        script: &["step load kdraw load --target $dump\n"],
        fails: Some("load"),
        says: &["is not signed", "kdraw format"],
        ..CASE
    },
    Case {
        name: "format-too-small",
        script: &["step format kdraw format --yes ${part}1\n"],
        fails: Some("format"),
        says: &["too small"],
        ..CASE
    },
    Case {
        name: "format-file-system",
        script: &["step format kdraw format --yes ${part}3\n"],
        fails: Some("format"),
        says: &["ext4", "--force"],
        ..CASE
    },
    Case {
        name: "load-no-crashkernel",
        crashkernel: "",
        script: &[
            "must format kdraw format --yes $dump\n",
            "step load kdraw load --target $dump\n",
        ],
        fails: Some("load"),
        says: &["crashkernel=8M"],
        written: Written::Partition,
        ..CASE
    },
    Case {
        name: "load-not-root",
        script: &["step load kdraw-guest nobody kdraw load --target $dump\n"],
        fails: Some("load"),
        says: &["as root"],
        ..CASE
    },
    Case {
        name: "load-kexec-disabled",
        script: &[
            "must format kdraw format --yes $dump\n",
            "echo 1 > /proc/sys/kernel/kexec_load_disabled\n",
            "step load kdraw load --target $dump\n",
        ],
        fails: Some("load"),
        says: &["kexec_load_disabled"],
        written: Written::Partition,
        ..CASE
    },
    Case {
        name: "estimate-locked-down",
        script: &[
            "mount -t securityfs security /sys/kernel/security\n",
            "echo confidentiality > /sys/kernel/security/lockdown\n",
            "step estimate kdraw estimate\n",
        ],
        fails: Some("estimate"),
        says: &["CONFIG_PROC_KCORE that is not locked down"],
        ..CASE
    },
    Case {
        name: "load-without-kcore",
        script: &[
            "touch /fill/nothing\n",
            "mount --bind /fill/nothing /proc/kcore\n",
            ARMED,
            CRASH,
        ],
        says: &["The level stays 31"],
        ..CAPTURES
    },
    Case {
        name: "signature-gone",
        act: Some(|scene, _| erase_superblocks(scene.disk)),
        says: &["not signed for kdraw"],
        ..CASE
    },
    Case {
        name: "uuid-differs",
        act: Some(|scene, _| rewrite_superblocks(scene.disk, |superblock| superblock.uuid[0] ^= 1)),
        says: &["UUID is not the plan's"],
        ..CASE
    },
    Case {
        name: "range-differs",
        act: Some(|scene, _| {
            rewrite_superblocks(scene.disk, |superblock| {
                superblock.partition_start += 1 << 20
            })
        }),
        says: &["superblock was written for byte"],
        ..CASE
    },
    Case {
        name: "partition-moved",
        act: Some(|scene, _| scene.disk.move_dump_partition()),
        says: &["no partition at byte"],
        ..CASE
    },
    Case {
        name: "payload-corrupted",
        // A word in the middle of the image's code.
        act: Some(|scene, qemu| qemu.patch(scene.boot.crash_region.start + 0x8010, &[0xdead_beef])),
        says: &["the payload's image was changed"],
        ..CASE
    },
    Case {
        name: "plan-corrupted",
        act: Some(|scene, qemu| {
            qemu.patch(segment_address(scene.boot, "plan")? + 0x100, &[0xdead_beef])
        }),
        says: &["nothing is captured: plan damaged"],
        ..CASE
    },
    Case {
        name: "disk-dead",
        act: Some(|_, qemu| qemu.stop_disk()),
        says: &["did not answer in time"],
        written: Written::Partition,
        ..CASE
    },
    Case {
        name: "disk-silent",
        act: Some(|_, qemu| qemu.limit_disk(SLOW)),
        later: &[(unfinished::WRITING, stop_disk_halfway)],
        says: &[
            "did not answer in time",
            "the slot's header could not be written",
        ],
        written: Written::Partition,
        left: Some((Outcome::Writing, EpitaphKind::None)),
        ..CASE
    },
    Case {
        name: "disk-silent-for-a-while",
        act: Some(|_, qemu| qemu.limit_disk(SLOW)),
        later: &[
            (unfinished::WRITING, stop_disk_halfway),
            (FAILED, |_, qemu| qemu.limit_disk(0)),
        ],
        says: &["did not answer in time", "the slot's header says so"],
        written: Written::Partition,
        left: Some((Outcome::Failed, EpitaphKind::Device)),
        ..CASE
    },
    Case {
        name: "virtio-bad-sector",
        // Among the pages.
        bad_byte: Some(12 << 20),
        says: &["1 writes failed, and were done again elsewhere"],
        ..CAPTURES
    },
    Case {
        name: "nvme-bad-sector",
        disk: DiskBus::Nvme,
        bad_byte: Some(12 << 20),
        says: &["1 writes failed, and were done again elsewhere"],
        ..CAPTURES
    },
    Case {
        name: "virtio-gone-halfway",
        ..GONE_HALFWAY
    },
    Case {
        name: "nvme-gone-halfway",
        disk: DiskBus::Nvme,
        ..GONE_HALFWAY
    },
    Case {
        // QEMU's card takes the block, fails to write it, and tells the guest nothing.
        name: "sd-card-loses-block",
        disk: DiskBus::Sdhci,
        bad_byte: Some(12 << 20),
        loses: true,
        says: &["dump complete"],
        ..CAPTURES
    },
    Case {
        name: "sdhci-faults-that-pass",
        disk: DiskBus::Sdhci,
        script: &[ARMED, REGISTERS, PAUSE, CRASH],
        later: &[(unfinished::WRITING, force_faults)],
        says: &["dump complete"],
        told: &["retries"],
        ..CAPTURES
    },
    Case {
        name: "sd-card-removed-halfway",
        disk: DiskBus::Sdhci,
        later: &[(unfinished::WRITING, remove_card_halfway)],
        says: &[
            "the card does not answer any more",
            "the slot's header could not be written",
        ],
        written: Written::Partition,
        left: Some((Outcome::Writing, EpitaphKind::None)),
        ..CASE
    },
    Case {
        name: "nvme-silent-for-a-while",
        disk: DiskBus::Nvme,
        act: Some(|_, qemu| qemu.limit_disk(SLOW)),
        later: &[
            (unfinished::WRITING, stop_disk_halfway),
            (FAILED, |_, qemu| qemu.limit_disk(0)),
        ],
        says: &["did not answer in time", "the slot's header says so"],
        written: Written::Partition,
        left: Some((Outcome::Failed, EpitaphKind::Device)),
        ..CASE
    },
    Case {
        name: "payload-fault",
        act: Some(|_, qemu| qemu.limit_disk(SLOW)),
        later: &[(unfinished::WRITING, break_payload_halfway)],
        says: &[
            "the capture failed: undefined instruction",
            "the slot's header says so",
        ],
        written: Written::Partition,
        left: Some((Outcome::Failed, EpitaphKind::Fault)),
        ..CASE
    },
    Case {
        name: "unreadable-memory",
        // A mebibyte behind the end of RAM, where QEMU answers every load with an abort.
        act: Some(|scene, qemu| claim_more_memory(scene.boot, qemu, 1 << 20)),
        says: &["256 frames unreadable"],
        written: Written::Partition,
        captures: true,
        ..CASE
    },
    Case {
        name: "small-region",
        crashkernel: "4M",
        smp: 2,
        says: &["dump complete"],
        ..CAPTURES
    },
    Case {
        name: "cpus-limited",
        smp: 4,
        script: &[
            "must format kdraw format --yes $dump\n",
            "must load kdraw load --target $dump --cpus 2\n",
            CRASH,
        ],
        says: &["2 of 4 CPUs"],
        ..CAPTURES
    },
    Case {
        name: "cpus-without-firmware",
        smp: 2,
        act: Some(|scene, qemu| {
            change_device_tree(scene, qemu, |tree| {
                while let Some(at) = find(tree, b"arm,psci") {
                    tree[at..at + 8].copy_from_slice(b"arm,none");
                }
                Ok(())
            })
        }),
        says: &["1 of 2 CPUs"],
        ..CAPTURES
    },
    Case {
        name: "cpu-that-firmware-refuses",
        smp: 3,
        act: Some(|scene, qemu| {
            // An affinity that no CPU of this machine has: AFFINITY_INFO says so.
            change_device_tree(scene, qemu, |tree| {
                let reg = cpu_reg(tree, "cpu@1", 1)?;
                tree[reg..reg + 4].copy_from_slice(&0x7777_u32.to_be_bytes());
                Ok(())
            })
        }),
        says: &["2 of 3 CPUs"],
        ..CAPTURES
    },
    Case {
        name: "cpu-that-never-arrives",
        smp: 2,
        // Firmware says OFF, and takes CPU_ON.
        act: Some(|scene, qemu| change_payload(scene, qemu, "secondary_boot", LOOP)),
        says: &["1 of 2 CPUs"],
        ..CAPTURES
    },
    Case {
        name: "cpu-that-faults",
        smp: 2,
        act: Some(|scene, qemu| change_payload(scene, qemu, "kdraw_secondary", UDF)),
        says: &["1 of 2 CPUs"],
        ..CAPTURES
    },
    Case {
        name: "worker-that-faults",
        smp: 2,
        act: Some(|scene, qemu| change_payload(scene, qemu, "kdraw_work", UDF)),
        says: &["2 of 2 CPUs", "1 of them worked to the end"],
        ..CAPTURES
    },
    Case {
        name: "worker-that-is-silent",
        smp: 3,
        act: Some(|scene, qemu| change_payload(scene, qemu, "kdraw_work", LOOP)),
        says: &["3 of 3 CPUs", "1 of them worked to the end"],
        ..CAPTURES
    },
    Case {
        name: "watchdog-petted",
        watchdog: true,
        script: &[watchdog::WATCHED, ARMED, PAUSE, CRASH],
        act: Some(|_, qemu| qemu.limit_disk(SLOWER)),
        says: &[watchdog::RUNS, "in use, 10 s; the payload pets it"],
        lasts: Duration::from_secs(15),
        quick: true,
        ..CAPTURES
    },
    Case {
        name: "watchdog-resets-stalled-payload",
        watchdog: true,
        script: &[watchdog::WATCHED, ARMED, PAUSE, CRASH],
        act: Some(|_, qemu| qemu.limit_disk(SLOW)),
        later: &[(unfinished::WRITING, stall_payload_halfway)],
        says: &[watchdog::RUNS],
        written: Written::Partition,
        left: Some((Outcome::Writing, EpitaphKind::None)),
        lasts: Duration::from_secs(8),
        ..CASE
    },
    Case {
        name: "checked-rehearsed-crashed",
        script: &[
            RESERVED_ON_FAT,
            "must format kdraw format --yes $dump\n",
            CONFIGURED,
            "must load kdraw load\n",
            // Nothing that --fix could enable loads the payload at the guest's next boot.
            "kdraw check --fix --yes\nkdraw check --json > /fill/check\n",
            "must live grep -q 446 /proc/sys/kernel/sysrq\n",
            "must kept grep -q 'kernel.sysrq = 446' /etc/sysctl.d/kdraw.conf\n",
            // The service, and the whole because of it.
            "must json [ $(grep -c '\"state\": \"red\"' /fill/check) = 2 ]\n",
            "must rehearse kdraw test\n",
            "echo crash | kdraw test --crash\n",
        ],
        says: &[
            "Make room",
            "remount,rw",
            "0 amber, 1 red",
            "service          neither kdraw.service nor",
            "write /etc/sysctl.d/kdraw.conf: kernel.sysrq = 446",
            "has both signatures at the plan's place",
            "dump complete",
        ],
        quick: true,
        ..CAPTURES
    },
    Case {
        name: "slots-full",
        earlier: Some(&[ARMED, CRASH]),
        script: &["must load kdraw load --target $dump\n", PAUSE, CRASH],
        says: &["only the black box was written"],
        written: Written::Journal,
        ..CASE
    },
];

/// Returns the names of all cases, or of those that run without `--full`.
pub fn names(full: bool) -> impl Iterator<Item = &'static str> {
    let cases = CASES.iter().filter(move |case| full || case.quick);
    cases.map(|case| case.name)
}

/// Plays the case of a name; returns a line about what was seen.
pub fn play(name: &str, dist: &Dist, place: &Place) -> Result<String> {
    let case = CASES
        .iter()
        .find(|case| case.name == name)
        .context("no such case")?;
    let disk = Disk::create(&place.file("dump.img"), case.disk, MEM_MIB + 64, 1, 0)?;
    if let Some(script) = case.earlier {
        let boot = boot(case, script, dist, place, &disk)?;
        boot.find("dump complete")
            .context("the earlier boot's panic was not captured")?;
    }
    let boot = boot(case, case.script, dist, place, &disk)?;
    check_end(case, &boot)?;
    let said = check_said(case, &boot)?;
    let allowed = match case.written {
        Written::Nothing => 0..0,
        Written::Journal => disk.journal_range(),
        Written::Partition => disk.dump_range(),
    };
    if let Some(difference) = disk.difference(&allowed)? {
        bail!("something was written: {difference}");
    }
    if case.written == Written::Journal {
        let list = run::output(Command::new(&dist.kdraw).arg("list").arg(&disk.path))?;
        if !list.contains("journal record") {
            bail!("`kdraw list` shows no journal record:\n{list}");
        }
    }
    if case.loses {
        return unfinished::check_damaged(dist, place, &disk, &boot);
    }
    if !case.told.is_empty() {
        run::quiet(Command::new(&dist.kdraw).arg("verify").arg(&disk.path))?;
        let info = run::output(Command::new(&dist.kdraw).arg("info").arg(&disk.path))?;
        for words in case.told {
            if !info.contains(words) {
                bail!("`kdraw info` lacks {words:?}:\n{info}");
            }
        }
    }
    if case.bad_byte.is_some() {
        return unfinished::check_whole(dist, place, &disk, &boot);
    }
    match case.left {
        Some(left) => unfinished::check(left, dist, place, &disk, &boot),
        None => Ok(said),
    }
}

/// Boots the guest with a script, acting on the machine where the script waits.
fn boot(case: &Case, script: &[&str], dist: &Dist, place: &Place, disk: &Disk) -> Result<Boot> {
    let scenario = scenario(case);
    let kernel = scenario.kernel()?;
    let initramfs = place.file("initramfs");
    let script = format!(
        "{}{}poweroff -f\nsleep 60\n",
        init::prologue(case.disk),
        script.concat()
    );
    init::image(&script, case.disk, dist, &kernel)?.write(&initramfs)?;
    let command_line = scenario.command_line();
    let mut machine = super::machine(&scenario, &kernel, place, disk, &initramfs, &command_line);
    let bad = |byte| disk.dump_range().start + byte;
    machine.bad_byte = case.bad_byte.map(bad);
    let mut waited = false;
    let mut watch = |line: &Line, boot: &Boot, qemu: &mut Qemu| {
        let scene = Scene { dist, disk, boot };
        if line.text == "guest: pause" {
            if let Some(act) = case.act {
                act(&scene, qemu)?;
            }
            disk.keep_copy()?;
            waited = true;
            qemu.type_text("\n")?;
        }
        for (words, act) in case.later {
            if line.text.starts_with("kdraw: ") && line.text.contains(words) {
                act(&scene, qemu)?;
            }
        }
        Ok(())
    };
    let budget = super::budget(&scenario);
    let boot = boot::run(&machine, &place.console(), budget, &mut watch)?;
    if let Some(hang) = &boot.hang {
        bail!("{hang}; last: {}", boot.tail());
    }
    if script.contains(PAUSE) && !waited {
        bail!("the guest never waited; last: {}", boot.tail());
    }
    Ok(boot)
}

/// Checks that the right one refused: the tool in its step, or the payload after the panic.
fn check_end(case: &Case, boot: &Boot) -> Result<()> {
    for (step, code) in &boot.steps {
        let must_fail = case.fails == Some(step);
        if must_fail == (*code == 0) {
            bail!(
                "step {step} ended with exit status {code}; last: {}",
                boot.tail()
            );
        }
    }
    if let Some(step) = case.fails {
        if !boot.steps.contains_key(step) {
            bail!("step {step} did not run; last: {}", boot.tail());
        }
        return Ok(());
    }
    let panic = boot.panic_line().context("the kernel did not panic")?;
    let lasted = boot.end.saturating_sub(panic.at);
    if lasted < case.lasts {
        bail!("only {:.1} s from panic to reset", lasted.as_secs_f64());
    }
    if boot.payload().is_empty() {
        bail!("no line of the payload; last: {}", boot.tail());
    }
    if boot.find("dump complete").is_some() != case.captures {
        let did = if case.captures {
            "did not capture"
        } else {
            "captured"
        };
        bail!("the payload {did}; last: {}", boot.tail());
    }
    Ok(())
}

/// Checks the messages; returns the line with the first of them.
fn check_said(case: &Case, boot: &Boot) -> Result<String> {
    for words in case.says {
        if boot.find(words).is_none() {
            bail!("the console lacks {words:?}; last: {}", boot.tail());
        }
    }
    let line = case.says.first().and_then(|words| boot.find(words));
    Ok(line.map(|line| line.text.clone()).unwrap_or_default())
}

fn scenario(case: &Case) -> Scenario {
    Scenario {
        mem: MEM_MIB,
        smp: case.smp,
        crashkernel: case.crashkernel.into(),
        disk: case.disk,
        watchdog: case.watchdog,
        ..Scenario::new(case.name, Suite::Bookworm)
    }
}

fn stop_disk_halfway(scene: &Scene<'_>, qemu: &mut Qemu) -> Result<()> {
    unfinished::wait_until_halfway(scene.disk)?;
    qemu.stop_disk()
}

fn remove_disk_halfway(scene: &Scene<'_>, qemu: &mut Qemu) -> Result<()> {
    unfinished::wait_until_halfway(scene.disk)?;
    qemu.remove_disk()
}

fn remove_card_halfway(scene: &Scene<'_>, qemu: &mut Qemu) -> Result<()> {
    unfinished::wait_until_halfway(scene.disk)?;
    qemu.remove_card()
}

/// Lets the SD host report, one after the other: a command without an answer, one with a garbled
/// answer, data that does not come, garbled data. (SD Host Controller Simplified Specification
/// 4.20, 2.2.22: whoever writes this register raises the errors.)
fn force_faults(scene: &Scene<'_>, qemu: &mut Qemu) -> Result<()> {
    const FORCE_EVENT: u64 = 0x50;
    unfinished::wait_until_halfway(scene.disk)?;
    let told = scene.boot.find("guest: registers 0x");
    let told = told.context("the guest did not say where the registers are")?;
    let address = told.text.trim_start_matches("guest: registers 0x").trim();
    let registers = u64::from_str_radix(address, 16)?;
    for bit in [16, 17, 20, 21] {
        qemu.patch(registers + FORCE_EVENT, &[1 << bit])?;
        // Time for the next request.
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// An instruction that does not exist (Arm ARM C6.2, UDF).
const UDF: u32 = 0;
/// A branch to itself (Arm ARM C6.2, B).
const LOOP: u32 = 0x1400_0000;

/// Makes the payload's copy loop an instruction that does not exist.
fn break_payload_halfway(scene: &Scene<'_>, qemu: &mut Qemu) -> Result<()> {
    change_copy_loop_halfway(scene, qemu, UDF)
}

/// Makes the payload's copy loop one without an end, and waits for the watchdog.
fn stall_payload_halfway(scene: &Scene<'_>, qemu: &mut Qemu) -> Result<()> {
    let mut monitor = Monitor::connect(qemu)?;
    change_copy_loop_halfway(scene, qemu, LOOP)?;
    monitor.wait_for("WATCHDOG", STALLED)
}

fn change_copy_loop_halfway(scene: &Scene<'_>, qemu: &mut Qemu, word: u32) -> Result<()> {
    unfinished::wait_until_halfway(scene.disk)?;
    let offset =
        unfinished::copy_loop(scene.dist)? - unfinished::payload_symbol(scene.dist, "_start")?;
    qemu.patch(scene.boot.crash_region.start + offset, &[word])
}

/// Lets the last memory range of the loaded elfcorehdr reach `more` bytes further, and seals the
/// plan anew over it, as a mistaken firmware table and an honest loader would leave them.
fn claim_more_memory(boot: &Boot, qemu: &mut Qemu, more: u64) -> Result<()> {
    const PHDR: usize = 56;
    let plan_at = segment_address(boot, "plan")?;
    let header_at = segment_address(boot, "elfcorehdr")?;
    let mut plan = Plan::decode(&qemu.memory(plan_at, PLAN_LEN)?)?;
    let mut header = qemu.memory(header_at, plan.elfcorehdr.len as usize)?;
    // p_filesz and p_memsz of the last program header.
    let last = header
        .len()
        .checked_sub(PHDR)
        .context("no program header")?;
    for field in [last + 32, last + 40] {
        let (size, _) = header[field..]
            .split_first_chunk_mut::<8>()
            .context("cut")?;
        *size = (u64::from_le_bytes(*size) + more).to_le_bytes();
    }
    plan.elfcorehdr = Seal::of(&header);
    qemu.patch(header_at, &words(&header))?;
    write_plan(&plan, plan_at, qemu)
}

/// Changes the loaded device tree, and seals the plan anew over it.
fn change_device_tree(
    scene: &Scene<'_>,
    qemu: &mut Qemu,
    change: fn(&mut [u8]) -> Result<()>,
) -> Result<()> {
    let (plan_at, tree_at) = (
        segment_address(scene.boot, "plan")?,
        segment_address(scene.boot, "device")?,
    );
    let mut plan = Plan::decode(&qemu.memory(plan_at, PLAN_LEN)?)?;
    let before = qemu.memory(tree_at, plan.device_tree.len as usize)?;
    let mut tree = before.clone();
    change(&mut tree)?;
    plan.device_tree = Seal::of(&tree);
    let changed = words(&before).into_iter().zip(words(&tree));
    for (at, (before, after)) in (tree_at..).step_by(4).zip(changed) {
        if before != after {
            qemu.patch(at, &[after])?;
        }
    }
    write_plan(&plan, plan_at, qemu)
}

/// Changes the first instruction at a symbol of the loaded payload, and seals the plan anew over
/// it.
fn change_payload(scene: &Scene<'_>, qemu: &mut Qemu, symbol: &str, word: u32) -> Result<()> {
    let plan_at = segment_address(scene.boot, "plan")?;
    let image_at = scene.boot.crash_region.start;
    let address = |symbol| unfinished::payload_symbol(scene.dist, symbol);
    let offset = address(symbol)? - address("_start")?;
    qemu.patch(image_at + offset, &[word])?;
    let mut plan = Plan::decode(&qemu.memory(plan_at, PLAN_LEN)?)?;
    let image = qemu.memory(image_at, plan.image.len as usize)?;
    plan.image.checksum = image_checksum(&image);
    write_plan(&plan, plan_at, qemu)
}

fn write_plan(plan: &Plan, at: u64, qemu: &Qemu) -> Result<()> {
    let mut block = [0; PLAN_LEN];
    plan.encode(&mut block);
    qemu.patch(at, &words(&block))
}

/// Finds the value of a CPU's `reg` in a flattened device tree, by what it is: QEMU's tree has
/// one cell for it, and no other property of the node with that value.
fn cpu_reg(tree: &[u8], node: &str, value: u32) -> Result<usize> {
    // FDT_PROP, length 4, and after the name's offset the value (specification 5.4.2).
    let head = [0, 0, 0, 3, 0, 0, 0, 4];
    let start = find(tree, format!("{node}\0").as_bytes()).context("no such CPU")?;
    let mut properties = tree[start..].windows(16);
    let reg = properties.position(|it| it[..8] == head && it[12..] == value.to_be_bytes());
    Ok(start + 12 + reg.context("the CPU has no such reg")?)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|it| it == wanted)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u32::from_le_bytes(*word)).collect()
}

/// Returns where `kdraw load` said that a segment lies: `NAME  0xSTART-0xEND …`; of a name of two
/// words, the first one is looked for.
pub fn segment_address(boot: &Boot, name: &str) -> Result<u64> {
    let mut lines = boot.lines.iter().map(|line| line.text.split_whitespace());
    let range = lines.find_map(|mut words| {
        let is_it = words.next() == Some(name);
        is_it.then(|| words.find(|word| word.starts_with("0x")))?
    });
    let start = range.and_then(|range| range.split('-').next()?.strip_prefix("0x"));
    let start = start.with_context(|| format!("`kdraw load` did not say where the {name} is"))?;
    u64::from_str_radix(start, 16).with_context(|| format!("the {name}'s address is no number"))
}

fn erase_superblocks(disk: &Disk) -> Result<()> {
    for at in disk.superblocks() {
        disk.write_dump(at, &[0; BLOCK])?;
    }
    Ok(())
}

fn rewrite_superblocks(disk: &Disk, change: fn(&mut Superblock)) -> Result<()> {
    let mut block = [0; BLOCK];
    disk.read_dump(0, &mut block)?;
    let mut superblock = Superblock::decode(&block).context("the guest left no superblock")?;
    change(&mut superblock);
    disk.sign(&superblock)
}
