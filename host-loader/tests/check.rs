//! `kdraw check` and `kdraw test`: a fake root on which everything is green, and each requirement
//! turned red in it, one at a time.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use common::FakeSystem;
use common::board::Board;
use serde_json::Value;

const RELEASE: &str = "6.1.0-kdraw";
const BUILT: &str = "CONFIG_KEXEC=y\nCONFIG_CRASH_DUMP=y\n";
const WANTS: &str = "etc/systemd/system/multi-user.target.wants";

/// A machine on which every requirement is met, and a payload is loaded.
fn green() -> Board {
    let board = Board::new(6, 0);
    let system = &board.system;
    for (path, text) in [
        ("proc/sys/kernel/osrelease", RELEASE),
        ("boot/config-6.1.0-kdraw", BUILT),
        (
            "sys/kernel/security/lockdown",
            "[none] integrity confidentiality\n",
        ),
        ("proc/sys/kernel/panic_on_oops", "1\n"),
        ("proc/sys/kernel/sysrq", "1\n"),
        ("proc/sys/kernel/hung_task_panic", "0\n"),
        ("proc/sys/kernel/softlockup_panic", "0\n"),
        ("proc/sys/kernel/panic", "10\n"),
        (
            "sys/module/kernel/parameters/crash_kexec_post_notifiers",
            "N\n",
        ),
        ("proc/sysrq-trigger", ""),
        ("lib/systemd/system/kdraw.service", "[Unit]\n"),
    ] {
        system.put(path, text);
    }
    configure(&board, "");
    let wants = system.path(WANTS);
    fs::create_dir_all(&wants).unwrap();
    symlink(
        "/lib/systemd/system/kdraw.service",
        wants.join("kdraw.service"),
    )
    .unwrap();
    // The disk has the partition where the kernel says it is.
    let disk = fs::File::create(system.path("dev/vda")).unwrap();
    let partition = fs::read(system.device()).unwrap();
    disk.write_all_at(&partition, FakeSystem::PARTITION_START)
        .unwrap();
    load(&board);
    board
}

/// Writes the configuration; `[panic]` may follow.
fn configure(board: &Board, text: &str) {
    let device = board.system.device();
    let text =
        format!("target = {device:?}\n{text}\n[save]\ndirectory = \"/\"\nmin_free_mib = 0\n");
    board.system.put("etc/kdraw.conf", text);
}

fn load(board: &Board) {
    let (code, text) = board.system.kdraw(&["load", "--payload", "PAYLOAD"]);
    assert_eq!(code, 0, "{text}");
    board.system.put("sys/kernel/kexec_crash_loaded", "1\n");
}

/// Changes some bytes of the device tree, as many as there are.
fn patch_tree(board: &Board, from: &str, to: &str) {
    let path = "sys/firmware/fdt";
    let mut tree = fs::read(board.system.path(path)).unwrap();
    let places: Vec<_> = tree
        .windows(from.len())
        .enumerate()
        .filter(|(_, found)| *found == from.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty() && from.len() == to.len());
    for at in places {
        tree[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    board.system.put(path, tree);
}

/// A requirement, and how it stands.
struct Line {
    name: String,
    state: String,
    reason: String,
    fix: String,
}

/// Runs a command that prints findings below `key`.
fn findings(board: &Board, words: &[&str], key: &str) -> (i32, Vec<Line>) {
    let (code, text) = board.system.kdraw(words);
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let lines = json[key].as_array().unwrap().iter().map(|line| {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        Line {
            name: text("requirement"),
            state: text("state"),
            reason: text("reason"),
            fix: text("fix"),
        }
    });
    (code, lines.collect())
}

fn check(board: &Board) -> (i32, Vec<Line>) {
    let words = ["check", "--json", "--payload", "PAYLOAD"];
    findings(board, &words, "requirements")
}

fn rehearse(board: &Board) -> (i32, Vec<Line>) {
    findings(board, &["test", "--json", "--payload", "PAYLOAD"], "steps")
}

/// The names of those in a state, and everything as text for a message.
fn in_state<'a>(lines: &'a [Line], state: &str) -> (Vec<&'a str>, String) {
    let of_it = lines.iter().filter(|line| line.state == state);
    let names = of_it.map(|line| line.name.as_str()).collect();
    let all = lines.iter().map(|line| {
        let Line {
            name,
            state,
            reason,
            fix,
        } = line;
        format!("{state} {name}: {reason} [{fix}]\n")
    });
    (names, all.collect())
}

type Break = fn(&Board);

/// Which are then red (the first is looked at), a part of its reason, a part of its fix.
type Row = (&'static [&'static str], &'static str, &'static str, Break);

fn play(table: &[Row], run: fn(&Board) -> (i32, Vec<Line>)) {
    for (names, reason, fix, break_it) in table {
        let board = green();
        break_it(&board);
        let (code, lines) = run(&board);
        let (red, all) = in_state(&lines, "red");
        assert_eq!((code, &red[..]), (1, *names), "{all}");
        let line = lines.iter().find(|line| line.name == names[0]).unwrap();
        assert!(line.reason.contains(reason), "{reason} is not in: {all}");
        assert!(line.fix.contains(fix), "{fix} is not in: {all}");
    }
}

#[test]
fn a_machine_that_has_everything_is_green() {
    let board = green();
    let (code, lines) = check(&board);
    let (green, all) = in_state(&lines, "green");
    assert_eq!((code, green.len()), (0, lines.len()), "{all}");
    let (code, text) = board.system.kdraw(&["check", "--payload", "PAYLOAD"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.ends_with(&format!("{} green, 0 amber, 0 red\n", lines.len())),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "colours are for terminals");
}

#[test]
fn each_requirement_turns_red_with_its_reason_and_its_fix() {
    let table: &[Row] = &[
        (&["machine"], "x86_64", "", |b| {
            b.system.put("proc/sys/kernel/arch", "x86_64\n");
        }),
        (&["machine"], "CAP_SYS_BOOT", "sudo kdraw check", |b| {
            b.system
                .put("proc/self/status", "CapEff:\t0000000000000000\n");
        }),
        (
            &["configuration"],
            "did you mean `level`",
            "/etc/kdraw.conf",
            |b| {
                configure(b, "levle = 31");
            },
        ),
        (
            &["kernel"],
            "without CONFIG_KEXEC (/boot/config-6.1.0-kdraw)",
            "-e KEXEC",
            |b| {
                b.system
                    .put("boot/config-6.1.0-kdraw", "CONFIG_CRASH_DUMP=y\n");
            },
        ),
        (
            &["kernel"],
            "without CONFIG_CRASH_DUMP (/proc/config.gz)",
            "-e CRASH_DUMP",
            |b| {
                let mut packed = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                std::io::Write::write_all(&mut packed, b"CONFIG_KEXEC=y\n").unwrap();
                b.system.put("proc/config.gz", packed.finish().unwrap());
            },
        ),
        (
            &["kexec", "loaded"],
            "kexec_load_disabled is 1",
            "/etc/sysctl.d/50-hard.conf",
            |b| {
                b.system.put("proc/sys/kernel/kexec_load_disabled", "1\n");
                b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
                b.system.put(
                    "etc/sysctl.d/10-other.conf",
                    "#kernel.kexec_load_disabled = 0\n",
                );
                b.system.put(
                    "etc/sysctl.d/50-hard.conf",
                    "kernel.kexec_load_disabled = 1\n",
                );
            },
        ),
        (
            &["kexec", "loaded"],
            "kexec_load_limit_panic is 0",
            "reboot",
            |b| {
                b.system
                    .put("proc/sys/kernel/kexec_load_limit_panic", "0\n");
                b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
            },
        ),
        (
            &["kexec", "loaded"],
            "locked down (integrity)",
            "lockdown=",
            |b| {
                b.system.put(
                    "sys/kernel/security/lockdown",
                    "none [integrity] confidentiality\n",
                );
                b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
            },
        ),
        (
            &["kexec", "loaded"],
            "locked down (confidentiality)",
            "mokutil",
            |b| {
                b.system.put(
                    "sys/kernel/security/lockdown",
                    "none integrity [confidentiality]\n",
                );
                b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
                let variable = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
                b.system.put(
                    &format!("sys/firmware/efi/efivars/{variable}"),
                    [6, 0, 0, 0, 1],
                );
            },
        ),
        (
            &["kexec", "loaded"],
            "CONFIG_KEXEC",
            "CONFIG_KEXEC=y",
            |b| {
                b.remove("sys/kernel/kexec_crash_loaded");
            },
        ),
        (&["payload"], "no ARM\\x64", "cargo xtask dist", |b| {
            b.system.put("payload.img", [0; 4096]);
        }),
        (
            &["crash region"],
            "has no crashkernel=",
            "kdraw reserve",
            |b| {
                b.system
                    .put("proc/iomem", "40000000-40ffffff : System RAM\n");
                b.system.put("proc/cmdline", "root=/dev/vda2\n");
            },
        ),
        (
            &["crash region"],
            "though its command line has",
            "kdraw reserve",
            |b| {
                b.system
                    .put("proc/iomem", "40000000-40ffffff : System RAM\n");
            },
        ),
        (
            &["crash region", "loaded"],
            "too small",
            "kdraw reserve",
            |b| {
                b.system.put(
                    "proc/iomem",
                    "40000000-40ffffff : System RAM\n7f000000-7f0fffff : Crash kernel\n",
                );
            },
        ),
        (
            &["crash region", "loaded"],
            "nothing can be loaded there",
            "kdraw load --dry-run",
            |b| {
                b.system
                    .put("sys/devices/system/cpu/cpu0/crash_notes", "none\n");
                b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
            },
        ),
        (
            &["device tree"],
            "not booted with a device tree",
            "acpi=off",
            |b| {
                b.remove("sys/firmware/fdt");
            },
        ),
        (&["device tree"], "cannot read it", "report", |b| {
            b.system.put("sys/firmware/fdt", [0; 64]);
        }),
        (
            &["reset"],
            "nothing resets the board",
            "boards/README.md",
            |b| {
                patch_tree(b, "arm,psci", "arm,none");
            },
        ),
        (
            &["watchdog"],
            "will reset the board at most 7 s",
            "RuntimeWatchdogSec",
            |b| {
                let folder = "sys/devices/platform/pmic/watchdog/watchdog0";
                for (file, text) in [
                    ("state", "active\n"),
                    ("timeout", "7\n"),
                    ("identity", "D\n"),
                ] {
                    b.system.put(&format!("{folder}/{file}"), text);
                }
                fs::create_dir_all(b.system.path("sys/class/watchdog")).unwrap();
                let link = b.system.path("sys/class/watchdog/watchdog0");
                symlink(b.system.path(folder), link).unwrap();
            },
        ),
        (&["storage"], "cannot drive", "another target", |b| {
            let node = "sys/firmware/devicetree/base/virtio_mmio@a003e00/compatible";
            b.system.put(node, "brcm,bcm2835-sdhost\0");
        }),
        (
            &["storage"],
            "as the device tree describes it",
            "another target",
            |b| {
                patch_tree(b, "virtio,mmio", "virtio,none");
            },
        ),
        (&["target"], "is not signed", "kdraw format", |b| {
            let zeros = vec![0; FakeSystem::PARTITION_LEN as usize];
            fs::write(b.system.device(), zeros).unwrap();
        }),
        (&["target"], "was signed as", "kdraw format", |b| {
            b.system.put("sys/class/block/vda4/start", "2097152\n");
        }),
        (&["target"], "expected 00000000-", "uuid = ", |b| {
            configure(b, "uuid = '00000000-0000-0000-0000-000000000000'");
        }),
        (&["target"], "is read-only", "blockdev --setrw ", |b| {
            b.system.put("sys/class/block/vda4/ro", "1\n");
        }),
        (&["target"], "nobody has extracted", "kdraw extract", |b| {
            common::dump(&b.system.device(), 1);
        }),
        (
            &["storage", "target", "loaded"],
            "nobody says",
            "kdraw format",
            |b| {
                b.remove("etc/kdraw.conf");
                b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
            },
        ),
        (&["room"], "what is worth least", "kdraw format", |b| {
            // The filter is wrong by the kernel's view: every page, at its full size.
            b.system.put("proc/kpageflags", vec![0; 4 << 20]);
        }),
        (&["loaded"], "no crash image is loaded", "kdraw load", |b| {
            b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
        }),
        (
            &["loaded"],
            "not by this kdraw",
            "kdraw unload --force",
            |b| {
                b.system.put("proc/sys/kernel/random/boot_id", "boot-2\n");
            },
        ),
        (&["loaded"], "not to /", "kdraw load", |b| {
            let (code, text) = b.system.kdraw(&["format", "DEVICE"]);
            assert_eq!(code, 0, "{text}");
        }),
        (
            &["panic_on_oops"],
            "an oops would not be",
            "sysctl -w kernel.panic_on_oops=1",
            |b| {
                b.system.put("proc/sys/kernel/panic_on_oops", "0\n");
            },
        ),
        (
            &["sysrq"],
            "without the bit 8",
            "sysctl -w kernel.sysrq=446",
            |b| {
                b.system.put("proc/sys/kernel/sysrq", "438\n");
            },
        ),
        (&["sysrq"], "CONFIG_MAGIC_SYSRQ", "sysrq = false", |b| {
            b.remove("proc/sys/kernel/sysrq")
        }),
        (&["hung_task_panic"], "a hung task", "sysctl -w", |b| {
            configure(b, "[panic]\nhung_task_panic = true");
        }),
        (&["softlockup_panic"], "a soft lockup", "sysctl -w", |b| {
            configure(b, "[panic]\nsoftlockup_panic = true");
        }),
        (
            &["hardlockup_panic"],
            "this kernel has no kernel.hard",
            "hardlockup_panic = false",
            |b| {
                configure(b, "[panic]\nhardlockup_panic = true");
            },
        ),
        (
            &["panic"],
            "hangs for ever",
            "sysctl -w kernel.panic=10",
            |b| {
                b.system.put("proc/sys/kernel/panic", "0\n");
            },
        ),
        (
            &["crash_kexec_post_notifiers"],
            "before the capture",
            "echo N >",
            |b| {
                let path = "sys/module/kernel/parameters/crash_kexec_post_notifiers";
                b.system.put(path, "Y\n");
            },
        ),
        (
            &["crash_kexec_post_notifiers"],
            "do not run",
            "echo Y >",
            |b| configure(b, "[panic]\ncrash_kexec_post_notifiers = true"),
        ),
        (
            &["service"],
            "not enabled",
            "systemctl enable kdraw.service",
            |b| {
                b.remove(&format!("{WANTS}/kdraw.service"));
            },
        ),
        (&["service"], "neither kdraw.service nor", "package", |b| {
            b.remove(&format!("{WANTS}/kdraw.service"));
            b.remove("lib/systemd/system/kdraw.service");
        }),
        (
            &["service"],
            "not enabled",
            "rc-update add kdraw default",
            |b| {
                b.remove(&format!("{WANTS}/kdraw.service"));
                b.remove("lib/systemd/system/kdraw.service");
                b.system.put("etc/init.d/kdraw", "#!/sbin/openrc-run\n");
                fs::create_dir_all(b.system.path("etc/runlevels/default")).unwrap();
            },
        ),
    ];
    play(table, check);
}

/// Runs a command as it is named as a fix, on this machine instead of the real one.
fn run(board: &Board, command: &str) -> String {
    let system = &board.system;
    let root = system.path("");
    let root = root.to_str().unwrap().trim_end_matches('/');
    let tool = env!("CARGO_BIN_EXE_kdraw");
    for (name, script) in [
        (
            // The kernel says by itself what is loaded.
            "kdraw",
            format!(
                "case $1 in load) set -- \"$@\" --payload {root}/payload.img ;; esac\n\
                 {tool} \"$@\" --sysroot {root} || exit\n\
                 case $1 in load) echo 1 ;; unload) echo 0 ;; *) exit 0 ;; esac \
                 > {root}/sys/kernel/kexec_crash_loaded\n"
            ),
        ),
        (
            "sysctl",
            format!("it=${{2#kernel.}}\necho ${{it#*=}} > {root}/proc/sys/kernel/${{it%%=*}}\n"),
        ),
    ] {
        let path = format!("bin/{name}");
        system.put(&path, format!("#!/bin/sh\n{script}"));
        fs::set_permissions(system.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("sh")
        .args(["-c", command])
        .env("PATH", format!("{root}/bin:{path}"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn what_is_named_as_a_fix_sets_it_right_when_it_is_run() {
    let table: &[(&str, &str, Break)] = &[
        ("loaded", "kdraw load", |b| {
            b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
        }),
        ("loaded", "kdraw unload --force && kdraw load", |b| {
            b.system.put("proc/sys/kernel/random/boot_id", "boot-2\n");
        }),
        ("loaded", "kdraw load", |b| {
            let (code, text) = b.system.kdraw(&["format", "DEVICE"]);
            assert_eq!(code, 0, "{text}");
        }),
        ("loaded", "kdraw load", |b| {
            let mut image = fs::read(b.system.path("payload.img")).unwrap();
            image[4096] = 1;
            b.system.put("payload.img", image);
        }),
        ("target", "kdraw format ", |b| {
            let zeros = vec![0; FakeSystem::PARTITION_LEN as usize];
            fs::write(b.system.device(), zeros).unwrap();
        }),
        ("target", "kdraw format ", |b| {
            b.system.put("sys/class/block/vda4/start", "2097152\n");
        }),
        ("target", "kdraw extract ", |b| {
            common::dump(&b.system.device(), 1);
            let (device, to) = (b.system.device(), b.system.path("crash"));
            let text =
                format!("target = {device:?}\n[save]\ndirectory = {to:?}\nmin_free_mib = 0\n");
            b.system.put("etc/kdraw.conf", text);
        }),
        ("panic_on_oops", "sysctl", |b| {
            b.system.put("proc/sys/kernel/panic_on_oops", "0\n");
        }),
        ("sysrq", "sysctl", |b| {
            b.system.put("proc/sys/kernel/sysrq", "438\n");
        }),
        ("hung_task_panic", "sysctl", |b| {
            configure(b, "[panic]\nhung_task_panic = true");
        }),
        ("softlockup_panic", "sysctl", |b| {
            configure(b, "[panic]\nsoftlockup_panic = true");
        }),
        ("panic", "sysctl", |b| {
            b.system.put("proc/sys/kernel/panic", "0\n");
        }),
    ];
    for (name, begin, break_it) in table {
        let board = green();
        break_it(&board);
        let look = || {
            let (_, lines) = check(&board);
            let line = lines.into_iter().find(|line| line.name == *name);
            line.unwrap()
        };
        let Line { state, fix, .. } = look();
        assert!(state != "green" && fix.starts_with(begin), "{name}: {fix}");
        let told = run(&board, &fix);
        let Line { state, reason, .. } = look();
        assert!(state == "green", "{fix} said {told}and {name}: {reason}");
    }
}

#[test]
fn what_works_with_less_is_amber_and_what_was_not_asked_for_is_green() {
    let table: &[(&str, &str, &str, Break)] = &[
        ("amber", "kernel", "modprobe configs", |b| {
            b.remove("boot/config-6.1.0-kdraw");
            b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
        }),
        ("green", "kernel", "has loaded a crash image", |b| {
            b.remove("boot/config-6.1.0-kdraw")
        }),
        ("green", "kexec", "stays loaded", |b| {
            b.system.put("proc/sys/kernel/kexec_load_disabled", "1\n");
        }),
        ("amber", "crash region", "1 of 4 CPUs", |b| {
            b.system.put(
                "proc/iomem",
                "40000000-40ffffff : System RAM\n7f000000-7f1fffff : Crash kernel\n",
            );
            for cpu in 1..4 {
                let folder = format!("sys/devices/system/cpu/cpu{cpu}");
                b.system.put(&format!("{folder}/crash_notes"), "41001000\n");
                b.system.put(&format!("{folder}/crash_notes_size"), "424\n");
            }
        }),
        ("amber", "crash region", "unknown", |b| {
            b.system
                .put("sys/devices/system/cpu/cpu0/crash_notes", "none\n");
        }),
        (
            "amber",
            "console",
            "nothing of the dump is lost by it",
            |b| {
                patch_tree(b, "arm,pl011", "arm,pl999");
            },
        ),
        ("amber", "room", "no estimate is possible", |b| {
            b.remove("proc/kcore")
        }),
        (
            "amber",
            "room",
            "whether the filter is right is not known",
            |b| {
                b.remove("proc/kpageflags");
            },
        ),
        ("amber", "loaded", "another than this kdraw's", |b| {
            let mut image = fs::read(b.system.path("payload.img")).unwrap();
            image[4096] = 1;
            b.system.put("payload.img", image);
        }),
        ("amber", "save", "would stay on its partition", |b| {
            let text = format!(
                "target = {:?}\n[save]\nmin_free_mib = 9999999999\n",
                b.system.device()
            );
            b.system.put("etc/kdraw.conf", text);
        }),
        ("green", "panic_on_oops", "not asked for", |b| {
            b.system.put("proc/sys/kernel/panic_on_oops", "0\n");
            configure(b, "[panic]\npanic_on_oops = false");
        }),
        ("green", "service", "etc/rc2.d/S01kdraw", |b| {
            b.remove(&format!("{WANTS}/kdraw.service"));
            b.system.put("etc/rc2.d/S01kdraw", "");
        }),
    ];
    for (state, name, part, change) in table {
        let board = green();
        change(&board);
        let (_, lines) = check(&board);
        let (found, all) = in_state(&lines, state);
        assert!(found.contains(name), "{name} is not {state}: {all}");
        let line = lines.iter().find(|line| line.name == *name).unwrap();
        let text = format!("{} {}", line.reason, line.fix);
        assert!(text.contains(part), "{part} is not in: {all}");
    }
}

#[test]
fn fix_sets_right_what_it_shows_and_nothing_unasked() {
    let board = green();
    let system = &board.system;
    for (name, text) in [
        ("panic_on_oops", "0\n"),
        ("sysrq", "438\n"),
        ("panic", "0\n"),
    ] {
        system.put(&format!("proc/sys/kernel/{name}"), text);
    }
    let notifiers = "sys/module/kernel/parameters/crash_kexec_post_notifiers";
    system.put(notifiers, "Y\n");
    let link = format!("{WANTS}/kdraw.service");
    board.remove(&link);
    let mine = "# mine\nkernel.panic_on_oops=0\nvm.swappiness = 10\n";
    system.put("etc/sysctl.d/kdraw.conf", mine);
    // What systemctl does, as far as it matters here.
    let to = system.path(&link);
    system.put(
        "bin/systemctl",
        format!(
            "#!/bin/sh\n[ \"$*\" = 'enable kdraw.service' ] && ln -s x {}\n",
            to.display()
        ),
    );
    let program = system.path("bin/systemctl");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let read = |path: &str| fs::read_to_string(system.path(path)).unwrap();

    let payload = system.path("payload.img");
    let words = ["check", "--fix", "--payload", payload.to_str().unwrap()];
    let (code, text) = system.kdraw_asked(&words, "y\n");
    assert_eq!(code, 3, "a pipe is no terminal: {text}");
    for shown in [
        "write /etc/sysctl.d/kdraw.conf: kernel.sysrq = 446",
        "write /proc/sys/kernel/panic: 10",
        "run systemctl enable kdraw.service",
    ] {
        assert!(text.contains(shown), "{shown} is not in: {text}");
    }
    assert_eq!(read("etc/sysctl.d/kdraw.conf"), mine);
    assert_eq!(read("proc/sys/kernel/panic"), "0\n");

    let (code, text) = system.kdraw_asked(&[&words[..], &["--yes"]].concat(), "");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(" 0 red"), "{text}");
    assert_eq!(
        read("etc/sysctl.d/kdraw.conf"),
        "# mine\nvm.swappiness = 10\nkernel.panic_on_oops = 1\nkernel.sysrq = 446\n\
         kernel.panic = 10\n"
    );
    for (path, expected) in [
        ("proc/sys/kernel/panic_on_oops", "1\n"),
        ("proc/sys/kernel/sysrq", "446\n"),
        ("proc/sys/kernel/panic", "10\n"),
        (notifiers, "N\n"),
    ] {
        assert_eq!(read(path), expected, "{path}");
    }
    let (code, text) = system.kdraw_asked(&[&words[..], &["--yes"]].concat(), "");
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("nothing that --fix could set right"),
        "{text}"
    );

    // A program that fails is told.
    fs::remove_file(&to).unwrap();
    system.put("bin/systemctl", "#!/bin/sh\nexit 4\n");
    let (code, text) = system.kdraw_asked(&[&words[..], &["--yes"]].concat(), "");
    assert_eq!(code, 3, "{text}");
    assert!(
        text.contains("`systemctl enable kdraw.service` ended with"),
        "{text}"
    );
}

#[test]
fn an_image_is_judged_by_its_files() {
    let image = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = image.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("boot/config-6.1.0-1", BUILT);
    put("boot/config-6.1.0-2", "CONFIG_KEXEC=y\n");
    put("lib/systemd/system/kdraw.service", "[Unit]\n");
    let root = image.path().to_str().unwrap().to_owned();
    let run = |extra: &[&str]| {
        let words = [&["check", "--root", &root, "--json"][..], extra].concat();
        let output = common::kdraw(&words);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let lines = json["requirements"].as_array().cloned().unwrap_or_default();
        let red = lines.iter().filter(|line| line["state"] == "red");
        let red: Vec<_> = red.map(|line| line["requirement"].clone()).collect();
        let fixes = lines
            .iter()
            .map(|line| line["fix"].as_str().unwrap_or_default());
        (
            output.status.code(),
            red,
            fixes.collect::<Vec<_>>().join("\n"),
        )
    };
    let (code, red, fixes) = run(&[]);
    assert_eq!(
        (code, &red[..]),
        (
            Some(1),
            &["kernel", "panic settings", "service"].map(Value::from)[..]
        )
    );
    assert!(
        fixes.contains(&format!("systemctl --root={root}/ enable kdraw.service")),
        "{fixes}"
    );
    put("boot/config-6.1.0-2", BUILT);
    put(&format!("{WANTS}/kdraw.service"), "");
    let link = image.path().join(WANTS).join("kdraw.service");
    fs::remove_file(&link).unwrap();
    symlink("/lib/systemd/system/kdraw.service", link).unwrap();
    let (code, red, _) = run(&[]);
    assert_eq!(
        (code, &red[..]),
        (Some(1), &[Value::from("panic settings")][..])
    );
    let (code, red, _) = run(&["--fix", "--yes"]);
    assert_eq!((code, red.len()), (Some(0), 0));
    let text = fs::read_to_string(image.path().join("etc/sysctl.d/kdraw.conf")).unwrap();
    assert!(
        text.ends_with("kernel.panic_on_oops = 1\nkernel.panic = 10\n"),
        "{text}"
    );
}

#[test]
fn a_rehearsal_finds_what_has_changed_since_the_load() {
    let board = green();
    let (code, lines) = rehearse(&board);
    let (green_ones, all) = in_state(&lines, "green");
    assert_eq!((code, green_ones.len()), (0, lines.len()), "{all}");
    let (_, text) = board
        .system
        .kdraw(&["test", "--json", "--payload", "PAYLOAD"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert!(json["dump_bytes"].as_u64().unwrap() > 1 << 20, "{text}");
    let table: &[Row] = &[
        (&["loaded"], "no crash image", "kdraw load", |b| {
            b.system.put("sys/kernel/kexec_crash_loaded", "0\n");
        }),
        (&["payload"], "but loaded was", "kdraw load", |b| {
            let mut image = fs::read(b.system.path("payload.img")).unwrap();
            image[4096] = 1;
            b.system.put("payload.img", image);
        }),
        (
            &["memory map", "device tree"],
            "have changed",
            "kdraw load",
            |b| {
                b.system
                    .put("sys/devices/system/cpu/cpu1/crash_notes", "41001000\n");
                b.system
                    .put("sys/devices/system/cpu/cpu1/crash_notes_size", "424\n");
            },
        ),
        (&["device tree"], "another than", "kdraw load", |b| {
            patch_tree(b, "linux,dummy-virt", "linux,other-virt");
        }),
        (&["target"], "is not signed", "kdraw format", |b| {
            let zeros = vec![0; FakeSystem::PARTITION_LEN as usize];
            fs::write(b.system.device(), zeros).unwrap();
        }),
        (&["read-back"], "no signature", "kdraw format", |b| {
            let disk = fs::OpenOptions::new()
                .write(true)
                .open(b.system.path("dev/vda"));
            let end = FakeSystem::PARTITION_START + FakeSystem::PARTITION_LEN;
            disk.unwrap().write_all_at(&[0; 4096], end - 4096).unwrap();
        }),
        (&["read-back"], "cannot read", "dmesg", |b| {
            let disk = fs::OpenOptions::new()
                .write(true)
                .open(b.system.path("dev/vda"));
            disk.unwrap()
                .set_len(FakeSystem::PARTITION_START + 4096)
                .unwrap();
        }),
        (&["loaded", "read-back"], "not to", "kdraw load", |b| {
            let (code, text) = b.system.kdraw(&["format", "DEVICE"]);
            assert_eq!(code, 0, "{text}");
            let partition = fs::read(b.system.device()).unwrap();
            let disk = fs::OpenOptions::new()
                .write(true)
                .open(b.system.path("dev/vda"));
            disk.unwrap()
                .write_all_at(&partition, FakeSystem::PARTITION_START)
                .unwrap();
        }),
    ];
    play(table, rehearse);
}

#[test]
fn a_crash_takes_the_word_and_a_green_rehearsal() {
    let board = green();
    let system = &board.system;
    let trigger = || fs::read_to_string(system.path("proc/sysrq-trigger")).unwrap();
    let payload = system.path("payload.img");
    let words = ["test", "--crash", "--payload", payload.to_str().unwrap()];
    for answer in ["", "y\n", "Crash\n"] {
        let (code, text) = system.kdraw_asked(&words, answer);
        assert_eq!((code, trigger().as_str()), (1, ""), "{text}");
    }
    system.put("sys/kernel/kexec_crash_loaded", "0\n");
    let (code, text) = system.kdraw_asked(&words, "crash\n");
    assert_eq!((code, trigger().as_str()), (1, ""), "{text}");
    assert!(
        text.contains("Not crashed: a panic now would not be captured"),
        "{text}"
    );
    system.put("sys/kernel/kexec_crash_loaded", "1\n");
    let (code, text) = system.kdraw_asked(&words, "crash\n");
    assert_eq!((code, trigger().as_str()), (0, "c"), "{text}");
    board.remove("proc/sysrq-trigger");
    fs::create_dir(system.path("proc/sysrq-trigger")).unwrap();
    assert_eq!(system.kdraw_asked(&words, "crash\n").0, 3);
}
