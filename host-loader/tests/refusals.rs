//! Every refusal: a clear message, the exit code, and nothing written.

mod common;

use std::fs;

use common::FakeSystem;
use kdraw_format::chunk::Codec;
use kdraw_format::layout::START_UNKNOWN;

/// Formats the fake partition by the tool itself.
fn ready() -> FakeSystem {
    let system = FakeSystem::new();
    let (code, text) = system.kdraw(&["format", "DEVICE"]);
    assert_eq!(code, 0, "{text}");
    system
}

#[test]
fn a_machine_that_has_everything_is_loaded() {
    let system = ready();
    let (code, text) = system.load();
    assert_eq!(code, 0, "{text}");
    for part in [
        "payload",
        "device tree",
        "/virtio_mmio@a003e00",
        "0x7f000000",
        "from byte 536870912",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn what_keeps_load_from_working_is_named() {
    type Break = fn(&FakeSystem);
    let table: [(&str, Break); 19] = [
        ("x86_64", |s| s.put("proc/sys/kernel/arch", "x86_64")),
        ("run kdraw as root", |s| {
            s.put("proc/self/status", "CapEff:\t0000000000000000\n");
        }),
        ("run kdraw as root", |s| {
            s.put(
                "proc/iomem",
                "00000000-00000000 : System RAM\n  00000000-00000000 : Crash kernel\n",
            );
        }),
        ("CONFIG_KEXEC", |s| {
            fs::remove_file(s.path("sys/kernel/kexec_crash_loaded")).unwrap();
        }),
        ("kexec_load_disabled is 1", |s| {
            s.put("proc/sys/kernel/kexec_load_disabled", "1\n");
        }),
        ("locked down (integrity)", |s| {
            s.put(
                "sys/kernel/security/lockdown",
                "none [integrity] confidentiality\n",
            );
        }),
        ("crashkernel=8M", |s| {
            s.put("proc/iomem", "40000000-7fffffff : System RAM\n");
        }),
        ("crashkernel=8M", |s| {
            s.put(
                "proc/iomem",
                "40000000-7fffffff : System RAM\n  7f000000-7f03ffff : Crash kernel\n",
            );
        }),
        ("the payload works in", |s| {
            s.put(
                "proc/iomem",
                "40000000-7fffffff : System RAM\n  7f000000-7f0fffff : Crash kernel\n",
            );
        }),
        ("device tree", |s| {
            fs::remove_file(s.path("sys/firmware/fdt")).unwrap();
        }),
        ("device tree", |s| s.put("sys/firmware/fdt", [0; 64])),
        ("is not signed", |s| {
            fs::write(s.device(), vec![0; FakeSystem::PARTITION_LEN as usize]).unwrap();
        }),
        // Created anew elsewhere, or resized.
        ("was signed as", |s| {
            s.put("sys/class/block/vda4/start", "2097152\n");
        }),
        ("was signed as", |s| {
            s.put("sys/class/block/vda4/size", "8184\n")
        }),
        ("is read-only", |s| s.put("sys/class/block/vda4/ro", "1\n")),
        ("cannot drive", |s| {
            let node = "sys/firmware/devicetree/base/virtio_mmio@a003e00/compatible";
            s.put(node, "brcm,bcm2835-sdhost\0");
        }),
        ("no controller", |s| {
            fs::remove_file(s.path("sys/devices/platform/a003e00.virtio_mmio/of_node")).unwrap();
        }),
        ("ARM\\x64", |s| s.put("payload.img", [0; 4096])),
        ("vmcoreinfo", |s| s.put("sys/kernel/vmcoreinfo", "?\n")),
    ];
    for (expected, break_it) in table {
        let system = ready();
        break_it(&system);
        let before = fs::read(system.device()).unwrap();
        let (code, text) = system.load();
        assert_eq!(code, 3, "{expected}: {text}");
        assert!(
            text.contains(expected),
            "expected {expected:?}, got: {text}"
        );
        assert!(before == fs::read(system.device()).unwrap(), "{expected}");
    }
}

#[test]
fn the_configuration_says_what_the_command_line_does_not() {
    let system = ready();
    let out = system.path("plan.bin");
    let plan = |words: &[&str]| {
        let plan = ["plan", "--payload", "PAYLOAD", "-o", out.to_str().unwrap()];
        let (code, text) = system.kdraw(&[&plan, words].concat());
        let bytes = fs::read(&out).unwrap_or_default();
        let _ = fs::remove_file(&out);
        let found = kdraw_format::plan::Plan::decode(&bytes).ok();
        (code, text, found)
    };
    // Nobody names a target.
    let (code, text, _) = plan(&[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("/etc/kdraw.conf"), "{text}");
    let device = system.device();
    let settings = "level = 17\ncompress = 'none'\ncpus = 3\nbudget = 9";
    system.put(
        "etc/kdraw.conf",
        format!("target = {device:?}\n{settings}\n"),
    );
    let found = plan(&[]).2.unwrap();
    assert_eq!(
        (found.level, found.codec, found.cpus, found.budget_s),
        (17, Codec::Raw, 3, 9)
    );
    let options = [
        "--level",
        "kernel",
        "--compress",
        "lz4",
        "--cpus",
        "0",
        "--budget",
        "0",
    ];
    let found = plan(&options).2.unwrap();
    assert_eq!(
        (found.level, found.codec, found.cpus, found.budget_s),
        (31, Codec::Lz4, 0, 0)
    );
    assert_eq!(
        found.target.unwrap().partition_start,
        FakeSystem::PARTITION_START
    );
    let (code, text) = system.kdraw(&["load", "--payload", "PAYLOAD"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Armed"), "{text}");
    // The fallback and the id are for the file's target only.
    let uuid = "00000000-0000-0000-0000-000000000000";
    let settings = format!("target = '/dev/none'\nfallback = 'serial:x'\nuuid = '{uuid}'\n");
    system.put("other.conf", settings);
    let other = system.path("other.conf");
    let other = ["--config", other.to_str().unwrap()];
    assert_eq!(plan(&other).0, 3);
    let (code, text, _) = plan(&[&other[..], &["--target", "DEVICE"]].concat());
    assert_eq!(code, 0, "{text}");
    system.put("etc/kdraw.conf", "levle = 31\n");
    for words in [&["load"][..], &["estimate"]] {
        let (code, text) = system.kdraw(words);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("did you mean `level`?"), "{text}");
    }
}

#[test]
fn cpus_that_have_no_room_to_work_are_told() {
    let system = ready();
    for cpu in 1..4 {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}");
        system.put(&format!("{folder}/crash_notes"), "41001000\n");
        system.put(&format!("{folder}/crash_notes_size"), "424\n");
    }
    let warns = |region: &str, options: &[&str]| {
        let iomem = format!("40000000-7fffffff : System RAM\n  {region} : Crash kernel\n");
        system.put("proc/iomem", iomem);
        let load = ["load", "--target", "DEVICE", "--payload", "PAYLOAD"];
        let (code, text) = system.kdraw(&[&load[..], options].concat());
        assert_eq!(code, 0, "{text}");
        let line = text.lines().find(|line| line.contains("to work in"));
        line.map(str::to_owned)
    };
    let small = "7f000000-7f1fffff";
    assert_eq!(warns("7f000000-7f7fffff", &[]), None);
    let line = warns(small, &[]).unwrap();
    assert!(line.contains("enough for 1 of 4 CPUs"), "{line}");
    assert!(line.contains("crashkernel=8M"), "{line}");
    assert_eq!(warns(small, &["--cpus", "1"]), None);
}

#[test]
fn another_uuid_and_a_file_are_no_target() {
    let system = ready();
    let uuid = "00000000-0000-0000-0000-000000000000";
    let load = ["load", "--payload", "PAYLOAD", "--target"];
    let (code, text) = system.kdraw(&[&load[..], &["DEVICE", "--uuid", uuid]].concat());
    assert_eq!(code, 3);
    assert!(text.contains("expected 00000000-"), "{text}");
    let file = system.path("payload.img");
    let (code, text) = system.kdraw(&[&load[..], &[file.to_str().unwrap()]].concat());
    assert_eq!(code, 3);
    assert!(text.contains("no block device"), "{text}");
    let (code, text) = system.kdraw(&["load", "--target", "DEVICE"]);
    assert_eq!(code, 3);
    assert!(text.contains("--payload FILE"), "{text}");
}

#[test]
fn status_is_good_only_if_a_panic_would_be_captured() {
    let system = ready();
    let (code, text) = system.kdraw(&["status"]);
    assert_eq!(code, 1);
    assert!(text.contains("kdraw load"), "{text}");
    let list = system.kdraw(&["list", "--json", "DEVICE"]).1;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let state = serde_json::json!({
        "boot_id": "boot-1", "at": 1, "target": system.device(), "uuid": list["uuid"],
        "partition_start": FakeSystem::PARTITION_START,
        "partition_len": FakeSystem::PARTITION_LEN,
        "payload_hash": "0", "region_start": 0x7f00_0000u64, "region_end": 0x7f80_0000u64,
        "total": 1
    });
    system.put("run/kdraw/loaded.json", state.to_string());
    system.put("sys/kernel/kexec_crash_loaded", "1\n");
    let (code, text) = system.kdraw(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &status["armed"]), (0, &true.into()), "{text}");
    assert_eq!(status["free_slots"], 1);

    // Each of these alone disarms it.
    let boot = "proc/sys/kernel/random/boot_id";
    let iomem = "40000000-7fffffff : System RAM\n  7f000000-7f3fffff : Crash kernel\n";
    for (path, broken, whole) in [
        (boot, "boot-2\n", "boot-1\n"),
        ("sys/kernel/kexec_crash_loaded", "0\n", "1\n"),
        ("sys/class/block/vda4/start", "2097152\n", "1048576\n"),
        (
            "proc/iomem",
            iomem,
            "40000000-7fffffff : System RAM\n  7f000000-7f7fffff : Crash kernel\n",
        ),
    ] {
        system.put(path, broken);
        let (code, text) = system.kdraw(&["status"]);
        assert_eq!(code, 1, "{path}: {text}");
        system.put(path, whole);
    }
    assert_eq!(system.kdraw(&["status"]).0, 0);
    // Formatted anew, and full.
    system.kdraw(&["format", "DEVICE"]);
    let (code, text) = system.kdraw(&["status"]);
    assert_eq!(code, 1);
    assert!(text.contains("not the partition that was loaded"), "{text}");
    common::dump(&system.device(), 1);
    let (_, text) = system.kdraw(&["status"]);
    assert!(text.contains("nobody has extracted"), "{text}");
    assert_eq!(system.kdraw(&["unload"]).0, 0);
}

#[test]
fn format_destroys_nothing_unasked() {
    type Put = fn(&FakeSystem);
    let table: [(&str, Put); 6] = [
        ("mounted at /", |s| {
            s.put("proc/self/mountinfo", "1 0 254:4 / / rw - ext4 x rw\n");
        }),
        ("in use as swap", |s| {
            s.put("proc/swaps", "Filename Type\n/dev/vda4 partition 1 0 -2\n");
        }),
        ("part of dm-0", |s| {
            s.put("sys/class/block/vda4/holders/dm-0", "")
        }),
        ("XFS", |s| {
            let mut bytes = vec![0; FakeSystem::PARTITION_LEN as usize];
            bytes[..4].copy_from_slice(b"XFSB");
            fs::write(s.device(), bytes).unwrap();
        }),
        ("1 dump(s) that nobody has extracted", |s| {
            common::formatted(&s.device(), FakeSystem::PARTITION_LEN, 2, false);
            common::dump(&s.device(), 1);
        }),
        ("too small", |s| {
            fs::write(s.device(), vec![0; 1 << 20]).unwrap();
        }),
    ];
    for (expected, put) in table {
        let system = FakeSystem::new();
        put(&system);
        let before = fs::read(system.device()).unwrap();
        for extra in [&[][..], &["--force"]] {
            let (code, text) = system.kdraw(&[&["format", "DEVICE"][..], extra].concat());
            assert_eq!(code, 3, "{expected}: {text}");
            let asks = text.contains("no terminal to ask on");
            assert!(text.contains(expected) || asks, "{expected}: {text}");
            assert!(before == fs::read(system.device()).unwrap(), "{expected}");
        }
    }
    // A whole disk with a partition table, whatever is said.
    let system = FakeSystem::new();
    let mut disk = vec![0; 8 << 20];
    disk[446 + 4] = 0x83;
    disk[446 + 8] = 8;
    disk[446 + 12] = 100;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    system.put("dev/vda", &disk);
    let vda = system.path("dev/vda");
    let (code, text) = system.kdraw(&["format", "--force", "--yes", vda.to_str().unwrap()]);
    assert_eq!(code, 3);
    assert!(text.contains("whole disk with a partition table"), "{text}");
    assert!(disk == fs::read(&vda).unwrap());
}

#[test]
fn force_and_yes_format_and_the_superblock_knows_its_place() {
    let system = FakeSystem::new();
    common::formatted(&system.device(), FakeSystem::PARTITION_LEN, 1, false);
    common::dump(&system.device(), 1);
    let force = ["format", "--force", "--yes", "--slots", "2", "DEVICE"];
    assert_eq!(system.kdraw(&force).0, 0);
    let partition = common::open(&system.device());
    assert_eq!(partition.superblock.slots, 2);
    assert_eq!(
        partition.superblock.partition_start,
        FakeSystem::PARTITION_START
    );
    assert_ne!(partition.superblock.partition_start, START_UNKNOWN);
    assert_eq!(system.kdraw(&["verify", "DEVICE"]).0, 0);
    assert_eq!(system.kdraw(&["format", "--slots", "17", "DEVICE"]).0, 2);
    assert_eq!(
        system
            .kdraw(&["format", "--plain", "--slots", "2", "DEVICE"])
            .0,
        2
    );
}

#[test]
fn a_serial_line_is_named_by_its_terminal_and_a_fallback_follows_a_partition() {
    let system = ready();
    for (terminal, node, compatible) in [
        (
            "ttyAMA0",
            "soc/serial@9000000",
            "arm,pl011\0arm,primecell\0",
        ),
        ("ttyX0", "soc/serial@a000000", "acme,uart\0"),
    ] {
        // Since Linux 6.6 two devices of the serial core lie between terminal and UART.
        let device = format!("sys/devices/platform/{terminal}.uart");
        let base = "sys/firmware/devicetree/base";
        system.put(&format!("{base}/{node}/compatible"), compatible);
        system.put(&format!("{device}/ctrl:0/port:0.0/tty/{terminal}/dev"), "");
        for (to, from) in [
            (format!("{base}/{node}"), format!("{device}/of_node")),
            (
                format!("{device}/ctrl:0/port:0.0"),
                format!("{device}/ctrl:0/port:0.0/tty/{terminal}/device"),
            ),
            (
                format!("{device}/ctrl:0/port:0.0/tty/{terminal}"),
                format!("sys/class/tty/{terminal}"),
            ),
        ] {
            let from = system.path(&from);
            fs::create_dir_all(from.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(system.path(&to), from).unwrap();
        }
    }
    let plan = |name: &str, words: &[&str]| {
        let out = system.path(name);
        let plan = ["plan", "--payload", "PAYLOAD", "-o", out.to_str().unwrap()];
        let (code, text) = system.kdraw(&[&plan, words].concat());
        let bytes = fs::read(&out).unwrap_or_default();
        let found = kdraw_format::plan::Plan::decode(&bytes).ok();
        (code, text, found)
    };
    let (code, text, found) = plan("a", &["--target", "serial:ttyAMA0"]);
    assert_eq!(code, 0, "{text}");
    let found = found.unwrap();
    assert_eq!(found.serial.as_str(), "/soc/serial@9000000");
    assert_eq!(found.target, None);
    let both = ["--target", "DEVICE", "--fallback", "serial:ttyAMA0"];
    let found = plan("b", &both).2.unwrap();
    assert!(found.target.is_some() && !found.serial.is_empty());
    for (words, expected) in [
        (&["--target", "serial:ttyX0"][..], "acme,uart"),
        (&["--target", "serial:ttyS9"], "no terminal ttyS9"),
        (&["--target", "serial:"], "no terminal"),
        (
            &["--target", "DEVICE", "--fallback", "DEVICE"],
            "--fallback takes serial:NAME",
        ),
        (
            &["--target", "serial:ttyAMA0", "--fallback", "serial:ttyAMA0"],
            "--fallback takes serial:NAME",
        ),
    ] {
        let (code, text, found) = plan("c", words);
        assert_eq!((code, found), (3, None), "{words:?}");
        assert!(text.contains(expected), "{words:?}: {text}");
    }
}

#[test]
fn the_plan_is_for_this_target_and_never_over_a_file() {
    let system = ready();
    let out = system.path("plan.bin");
    let out = out.to_str().unwrap();
    let plan = [
        "plan",
        "--target",
        "DEVICE",
        "--payload",
        "PAYLOAD",
        "-o",
        out,
    ];
    assert_eq!(system.kdraw(&plan).0, 0);
    let bytes = fs::read(out).unwrap();
    let found = kdraw_format::plan::Plan::decode(&bytes).unwrap();
    let target = found.target.unwrap();
    assert_eq!(target.controller.as_str(), "/virtio_mmio@a003e00");
    assert_eq!(target.partition_start, FakeSystem::PARTITION_START);
    assert!(found.device_tree.is_unknown() && found.elfcorehdr.is_unknown());
    assert_eq!(found.hostname.as_str(), "board");
    assert_eq!((found.level, found.codec, found.cpus), (31, Codec::Lz4, 0));
    assert_eq!(found.line_codec, Codec::Deflate);
    assert_eq!(system.kdraw(&plan).0, 3);
    assert!(bytes == fs::read(out).unwrap());
}

#[test]
fn the_plan_says_what_was_asked_for_but_a_plain_partition_gets_every_page() {
    let system = ready();
    let asked = |name: &str, level: &str| {
        let out = system.path(name);
        let words = ["plan", "--target", "DEVICE", "--payload", "PAYLOAD", "-o"];
        let options = ["--level", level, "--compress", "none", "--cpus", "2"];
        let arguments = [&words[..], &[out.to_str().unwrap()], &options].concat();
        let (code, text) = system.kdraw(&arguments);
        let plan = fs::read(out).ok().map(|bytes| {
            let plan = kdraw_format::plan::Plan::decode(&bytes).unwrap();
            assert_eq!(plan.line_codec, Codec::Raw);
            (plan.level, plan.codec, plan.cpus)
        });
        (code, plan, text)
    };
    assert_eq!(asked("a", "17").1, Some((17, Codec::Raw, 2)));
    assert_eq!(asked("n", "kernel+user").1, Some((23, Codec::Raw, 2)));
    let (code, plan, text) = asked("b", "32");
    assert_eq!((code, plan), (2, None), "{text}");
    system.kdraw(&["format", "--plain", "--yes", "DEVICE"]);
    assert_eq!(asked("c", "31").1, Some((0, Codec::Raw, 2)));
}

#[test]
fn watchdogs_are_in_the_plan_or_warned_of() {
    let system = ready();
    let put = |device: &str, number: u8, timeout: &str| {
        let folder = format!("sys/devices/{device}/watchdog/watchdog{number}");
        for (file, text) in [
            ("state", "active\n"),
            ("timeout", timeout),
            ("identity", "Dog\n"),
        ] {
            system.put(&format!("{folder}/{file}"), text);
        }
        let class = system.path("sys/class/watchdog");
        fs::create_dir_all(&class).unwrap();
        let link = class.join(format!("watchdog{number}"));
        std::os::unix::fs::symlink(system.path(&folder), link).unwrap();
    };
    let node = "sys/firmware/devicetree/base/watchdog@fe100000";
    system.put(&format!("{node}/compatible"), "brcm,bcm2711-pm\0");
    put("platform/fe100000.watchdog/bcm2835-wdt", 0, "15\n");
    let of_node = system.path("sys/devices/platform/fe100000.watchdog/of_node");
    std::os::unix::fs::symlink(system.path(node), of_node).unwrap();
    put("platform/pmic", 1, "7\n");

    let (code, text) = system.load();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("watchdog0 (Dog), in use, 15 s"), "{text}");
    let warning = "warning: watchdog1 (Dog) is running and will reset the board at most 7 s";
    assert!(text.contains(warning), "{text}");
    let out = system.path("plan.bin");
    let words = ["plan", "--target", "DEVICE", "--payload", "PAYLOAD", "-o"];
    let (code, text) = system.kdraw(&[&words[..], &[out.to_str().unwrap()]].concat());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(warning), "{text}");
    let plan = kdraw_format::plan::Plan::decode(&fs::read(out).unwrap()).unwrap();
    let [dog] = &plan.watchdogs[..] else {
        panic!("{:?}", plan.watchdogs);
    };
    let found = (dog.node.as_str(), dog.pci, dog.timeout_s);
    assert_eq!(found, ("/watchdog@fe100000", None, 15));
    let (_, text) = system.kdraw(&["status"]);
    assert!(text.contains("watchdog      watchdog1 (Dog)"), "{text}");
}
