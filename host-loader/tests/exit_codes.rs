//! Exit codes of every command: 2 for wrong usage, 1 for a bad finding, 3 for what cannot be done.

mod common;

use clap::CommandFactory;
use common::FakeSystem;
use common::board::Board;
use kdraw::cli::Cli;

type Prepare = fn(&FakeSystem);

/// Command, exit code, arguments, and what is done to a system on which all is ready.
const TABLE: &[(&str, i32, &[&str], Prepare)] = &[
    ("bt", 2, &["-a", "NONE", "1"], |_| {}),
    ("bt", 3, &["NONE"], |_| {}),
    ("check", 1, &["--payload", "PAYLOAD"], |_| {}),
    ("check", 2, &["--yes"], |_| {}),
    ("check", 3, &["--fix"], |s| {
        s.put("proc/sys/kernel/panic_on_oops", "0\n");
    }),
    ("convert", 3, &["NONE", "NONE/x"], |_| {}),
    ("dis", 2, &["NONE"], |_| {}),
    ("dis", 3, &["NONE", "panic"], |_| {}),
    ("estimate", 1, &[], |s| {
        std::fs::remove_file(s.path("proc/kpageflags")).unwrap()
    }),
    ("estimate", 2, &["--level", "32"], |_| {}),
    ("estimate", 3, &[], |s| {
        std::fs::remove_file(s.path("proc/kcore")).unwrap()
    }),
    ("extract", 1, &["DEVICE"], |_| {}),
    (
        "extract",
        2,
        &["-o", "-", "--format", "elf", "DEVICE"],
        |s| common::dump(&s.device(), 1),
    ),
    ("extract", 3, &["NONE"], |_| {}),
    ("files", 2, &["NONE"], |_| {}),
    ("files", 3, &["NONE", "1"], |_| {}),
    ("format", 2, &["--slots", "17", "DEVICE"], |_| {}),
    ("format", 3, &["NONE"], |_| {}),
    ("info", 3, &["DEVICE", "7"], |_| {}),
    ("irq", 2, &[], |_| {}),
    ("irq", 3, &["NONE"], |_| {}),
    ("list", 3, &["NONE"], |_| {}),
    ("load", 2, &[], |_| {}),
    ("load", 3, &["--target", "NONE"], |_| {}),
    ("log", 2, &["--level", "loud", "NONE"], |_| {}),
    ("log", 3, &["NONE"], |_| {}),
    ("mem", 2, &[], |_| {}),
    ("mem", 3, &["NONE"], |_| {}),
    ("mods", 2, &[], |_| {}),
    ("mods", 3, &["NONE"], |_| {}),
    ("mounts", 2, &[], |_| {}),
    ("mounts", 3, &["NONE"], |_| {}),
    ("net", 2, &[], |_| {}),
    ("net", 3, &["NONE"], |_| {}),
    ("open", 2, &["NONE"], |_| {}),
    ("open", 3, &["--with", "gdb", "NONE"], |_| {}),
    ("payload", 3, &["-o", "NONE/x"], |_| {}),
    ("plan", 2, &["-o", "NONE/x"], |_| {}),
    ("plan", 3, &["--target", "NONE", "-o", "NONE/x"], |_| {}),
    ("ps", 2, &["-t", "--state", "D", "NONE"], |_| {}),
    ("ps", 3, &["NONE"], |_| {}),
    ("read", 2, &["NONE", "panic", "0"], |_| {}),
    ("read", 3, &["NONE", "panic"], |_| {}),
    ("receive", 3, &["NONE"], |_| {}),
    ("report", 1, &["DEVICE"], |s| common::dump(&s.device(), 1)),
    ("report", 2, &[], |_| {}),
    ("report", 3, &["NONE"], |_| {}),
    ("reserve", 2, &["--size", "1M"], |_| {}),
    ("reserve", 3, &["--yes", "--dtb", "NONE"], |_| {}),
    ("save", 1, &[], |s| {
        let target = format!("target = {:?}\n", s.device());
        s.put("etc/kdraw.conf", target);
        common::dump(&s.device(), 1);
    }),
    ("save", 3, &[], |s| {
        s.put("etc/kdraw.conf", "target = 'NONE'\n");
    }),
    ("ship", 2, &["--patience", "long"], |_| {}),
    ("ship", 3, &["--config", "NONE"], |_| {}),
    ("status", 1, &[], |_| {}),
    ("struct", 2, &["NONE"], |_| {}),
    ("struct", 3, &["NONE", "page"], |_| {}),
    ("sym", 2, &["NONE"], |_| {}),
    ("sym", 3, &["NONE", "panic"], |_| {}),
    ("test", 1, &["--payload", "PAYLOAD"], |_| {}),
    ("test", 2, &["--crash", "--json"], |_| {}),
    ("unload", 3, &[], |s| {
        s.put("sys/kernel/kexec_crash_loaded", "1\n")
    }),
    ("verify", 3, &["NONE"], |_| {}),
    ("vm", 2, &["NONE"], |_| {}),
    ("vm", 3, &["NONE", "1"], |_| {}),
];

#[test]
fn every_command_tells_wrong_usage_a_bad_finding_and_trouble_apart() {
    for (name, code, words, prepare) in TABLE {
        let board = Board::new(6, 0);
        prepare(&board.system);
        let words: Vec<&str> = [*name].iter().chain(*words).copied().collect();
        let (found, text) = board.system.kdraw(&words);
        assert_eq!(found, *code, "{words:?}: {text}");
    }
    let system = FakeSystem::new();
    let cli = Cli::command();
    for command in cli.get_subcommands() {
        let name = command.get_name();
        assert_eq!(system.kdraw(&[name, "--no-such-option"]).0, 2, "{name}");
        let trouble = TABLE.iter().any(|row| row.0 == name && row.1 == 3);
        // For `status` and `test`, what cannot be looked at is a finding.
        let judges = ["status", "test"].contains(&name);
        assert!(trouble || judges, "{name} has no row");
    }
}
