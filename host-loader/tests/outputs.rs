//! What the commands print, of each the text and, where it prints data, the keys of its JSON and what
//! they hold: `outputs/NAME.txt`. After a change that is meant,
//! `TRYCMD=overwrite cargo test -p kdraw --test outputs` writes them anew. What `reserve` prints is
//! in `reserve/`, what the commands say of real dumps in `dumps/`.

mod common;

use std::collections::BTreeSet;
use std::fs;

use clap::CommandFactory;
use common::board::Board;
use kdraw::cli::Cli;
use serde_json::Value;

/// Name, exit code, arguments; played one after the other on one board. `ROOT/` is its folder.
const SESSION: &[(&str, i32, &[&str])] = &[
    ("format", 0, &["format", "DEVICE"]),
    (
        "load",
        0,
        &["load", "--target", "DEVICE", "--payload", "PAYLOAD"],
    ),
    ("status", 0, &["status"]),
    ("status-json", 0, &["status", "--json"]),
    ("check", 1, &["check", "--payload", "PAYLOAD"]),
    (
        "check-json",
        1,
        &["check", "--json", "--payload", "PAYLOAD"],
    ),
    ("test", 1, &["test", "--payload", "PAYLOAD"]),
    ("test-json", 1, &["test", "--json", "--payload", "PAYLOAD"]),
    ("estimate", 0, &["estimate"]),
    ("estimate-json", 0, &["estimate", "--json"]),
    (
        "plan",
        0,
        &[
            "plan",
            "--target",
            "DEVICE",
            "--payload",
            "PAYLOAD",
            "-o",
            "ROOT/plan",
        ],
    ),
    ("unload", 0, &["unload", "--force"]),
    ("list", 0, &["list", "ROOT/dump"]),
    ("list-json", 0, &["list", "--json", "ROOT/dump"]),
    ("info", 0, &["info", "ROOT/dump"]),
    ("info-json", 0, &["info", "--json", "ROOT/dump"]),
    ("verify", 0, &["verify", "ROOT/dump"]),
    ("verify-json", 0, &["verify", "--json", "ROOT/dump"]),
    (
        "extract",
        1,
        &["extract", "--keep", "ROOT/dump", "-o", "ROOT/a"],
    ),
    (
        "extract-json",
        1,
        &["extract", "--json", "--keep", "ROOT/dump", "-o", "ROOT/b"],
    ),
    (
        "convert",
        0,
        &[
            "convert",
            "ROOT/a/20261121T013930Z-07070707/vmcore",
            "ROOT/c",
        ],
    ),
    (
        "convert-json",
        0,
        &["convert", "--json", "ROOT/c", "ROOT/d"],
    ),
    ("receive", 1, &["receive", "ROOT/console"]),
    ("receive-json", 1, &["receive", "--json", "ROOT/console"]),
    (
        "reserve-json",
        1,
        &["reserve", "--json", "--root", "ROOT/image"],
    ),
];

/// Replaces what looks like `pattern`: d a digit, x a hexadecimal one.
fn masked(text: &str, pattern: &str, by: &str) -> String {
    let fits = |found: &str| {
        let mut found = found.chars();
        pattern.chars().all(|wanted| {
            found.next().is_some_and(|found| match wanted {
                'd' => found.is_ascii_digit(),
                'x' => found.is_ascii_hexdigit(),
                wanted => found == wanted,
            })
        })
    };
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let len = match fits(rest) {
            true => {
                out.push_str(by);
                pattern.len()
            }
            false => {
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    out
}

/// What was measured here and now: a number before such a unit.
fn without_measures(text: &str) -> String {
    const UNITS: [&str; 8] = [
        "ms", "s", "MB/s", "MiB/s", "GiB/s", "MiB free", "GiB free", "TiB free",
    ];
    let measured = |rest: &str| {
        let number = rest.find(|found: char| !found.is_ascii_digit() && found != '.')?;
        let unit = rest.get(number..)?.strip_prefix(' ')?;
        let ends =
            |unit: &str| !unit.starts_with(|found: char| found.is_alphanumeric() || found == '/');
        let is = |name: &&&str| unit.strip_prefix(**name).is_some_and(ends);
        let found = UNITS.iter().find(is).filter(|_| number > 0)?;
        Some((number + 1 + found.len(), *found))
    };
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let in_number = out.ends_with(|found: char| found.is_ascii_digit() || found == '.');
        let len = match measured(rest).filter(|_| !in_number) {
            Some((len, unit)) => {
                let unit = match unit {
                    "ms" => "s",
                    "GiB/s" => "MiB/s",
                    "MiB free" | "TiB free" => "GiB free",
                    unit => unit,
                };
                out.push_str(&format!("SOME {unit}"));
                len
            }
            None => {
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    out
}

/// The places in a JSON text, and what they hold.
fn shape(value: &Value, place: &str, found: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Object(fields) => {
            let name = |key: &str| format!("{place}.{key}");
            fields
                .iter()
                .for_each(|(key, value)| shape(value, &name(key), found));
            return;
        }
        Value::Array(items) if !items.is_empty() => {
            items
                .iter()
                .for_each(|item| shape(item, &format!("{place}[]"), found));
            return;
        }
        Value::Array(_) => "[]",
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    found.insert(format!("{place}: {kind}\n"));
}

/// What is kept of what a command printed.
fn kept(name: &str, text: &str, root: &str) -> String {
    if name.ends_with("-json") {
        let text = text
            .get(text.find(['{', '[']).unwrap_or(0)..)
            .unwrap_or_default();
        let mut stream = serde_json::Deserializer::from_str(text).into_iter();
        let json = stream.next().and_then(Result::ok);
        let json = json.unwrap_or_else(|| panic!("{name} is no JSON: {text}"));
        let mut found = BTreeSet::new();
        shape(&json, "", &mut found);
        return found.into_iter().collect();
    }
    let text = text.replace(root, "ROOT");
    let text = masked(&text, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "ID");
    let text = masked(&text, "dddd-dd-dd dd:dd:dd UTC", "TIME");
    // Whether a payload is inside is the build's affair.
    let lines = text
        .lines()
        .filter(|line| !line.contains("has no payload inside"));
    without_measures(&lines.map(|line| format!("{line}\n")).collect::<String>())
}

#[test]
fn every_command_prints_what_was_read_last() {
    let board = Board::new(6, 0);
    let system = &board.system;
    let root = system
        .path("")
        .to_str()
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let dump = system.path("dump");
    common::formatted(&dump, 8 << 20, 2, false);
    common::dump(&dump, 7);
    system.put("console", "Starting \x1b[32mkdraw\x1b[0m\r\nlogin: \n\0");
    let settings = "[save]\ndirectory = \"/\"\nmin_free_mib = 0\n";
    system.put("etc/kdraw.conf", settings);
    system.put("image/boot/cmdline.txt", "console=tty1 rootwait\n");
    let overwrite = std::env::var("TRYCMD").is_ok_and(|mode| mode == "overwrite");
    let mut wrong = Vec::new();
    for (name, code, words) in SESSION {
        if *name == "unload" {
            system.put("sys/kernel/kexec_crash_loaded", "1\n");
        }
        let words: Vec<String> = words
            .iter()
            .map(|word| word.replace("ROOT", &root))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (found, text) = system.kdraw(&words);
        assert_eq!(found, *code, "{words:?}: {text}");
        let text = kept(name, &text, &root);
        let path = format!("tests/outputs/{name}.txt");
        if overwrite {
            fs::create_dir_all("tests/outputs").unwrap();
            fs::write(&path, &text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if text != expected {
            wrong.push(format!("{path} expects\n{expected}\nand it is\n{text}"));
        }
        if *name == "load" {
            system.put("sys/kernel/kexec_crash_loaded", "1\n");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_command_is_in_the_session() {
    let played: BTreeSet<&str> = SESSION.iter().map(|(_, _, words)| words[0]).collect();
    // With tests of their own; `payload` writes what the build has, or has not, inside.
    let elsewhere = [
        "bt", "dis", "files", "irq", "log", "mem", "mods", "mounts", "net", "open", "payload",
        "ps", "read", "report", "save", "ship", "struct", "sym", "vm",
    ];
    let cli = Cli::command();
    for command in cli.get_subcommands() {
        let name = command.get_name();
        assert!(
            played.contains(name) || elsewhere.contains(&name),
            "{name}: play it in the session, or name it with those whose output is tested elsewhere"
        );
        let prints_data = command.get_arguments().any(|it| it.get_id() == "json");
        let with_json = |row: &&(_, _, &[&str])| row.2[0] == name && row.2.contains(&"--json");
        assert!(
            !prints_data || elsewhere.contains(&name) || SESSION.iter().any(|row| with_json(&row)),
            "{name} --json"
        );
    }
}
