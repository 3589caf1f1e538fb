//! What runs kdraw at boot: its commands are commands, with options that there are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use kdraw::cli::Cli;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

#[test]
fn units_run_commands_that_there_are() {
    let mut found = BTreeMap::new();
    for name in ["kdraw.service", "kdraw-extract.service"] {
        let text = fs::read_to_string(packaging().join(name)).unwrap();
        for line in text.lines().filter(|line| line.starts_with("Exec")) {
            let (key, command) = line.split_once('=').unwrap();
            let command = command.strip_prefix("/usr/bin/").unwrap();
            let words: Vec<&str> = command.split(' ').collect();
            assert!(Cli::try_parse_from(&words).is_ok(), "{line}");
            found.insert(format!("{name} {key}"), words[1].to_owned());
        }
    }
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("kdraw-extract.service ExecStart", "save"),
            ("kdraw.service ExecReload", "load"),
            ("kdraw.service ExecStart", "load"),
            ("kdraw.service ExecStop", "unload"),
        ]
    );
}

#[test]
fn the_script_runs_them_too_and_passes_on_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("kdraw");
    let said = folder.path().join("said");
    // What is told to fail does.
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> {}\n[ \"$1\" != \"$FAILS\" ]\n",
        said.display()
    );
    fs::write(&fake, script).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    for (verb, fails, code, expected) in [
        ("start", "", 0, "load --wait 60\nsave\n"),
        ("start", "load", 1, "load --wait 60\nsave\n"),
        ("start", "save", 1, "load --wait 60\nsave\n"),
        ("stop", "", 0, "unload\n"),
        ("stop", "unload", 1, "unload\n"),
        ("reload", "", 0, "load\n"),
        ("status", "status", 1, "status\n"),
        ("walk", "", 2, ""),
    ] {
        let _ = fs::remove_file(&said);
        let status = Command::new(packaging().join("kdraw.init"))
            .arg(verb)
            .env("PATH", &path)
            .env("FAILS", fails)
            .output()
            .unwrap()
            .status;
        let text = fs::read_to_string(&said).unwrap_or_default();
        assert_eq!(
            (status.code(), &*text),
            (Some(code), expected),
            "{verb} {fails}"
        );
        for line in text.lines() {
            let words = ["kdraw"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
