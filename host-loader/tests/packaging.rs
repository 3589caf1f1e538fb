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

/// A script of one init system, and what runs it.
struct Script {
    name: &'static str,
    /// A shell's program that plays the verb `$1` with the script `$0`.
    runner: &'static str,
    /// The exit code after nothing but the saving of dumps failed.
    after_save_failed: i32,
}

const SCRIPTS: [Script; 2] = [
    Script {
        name: "kdraw.init",
        runner: r#"exec "$0" "$1""#,
        after_save_failed: 1,
    },
    // As openrc-run(8) does: it sources the script and calls the verb's function. Its own functions
    // are stood in for; eend returns its argument.
    Script {
        name: "kdraw.openrc",
        runner: r#"ebegin() { :; }; eend() { return $1; }; . "$0"; "$1""#,
        after_save_failed: 0,
    },
];

#[test]
fn the_scripts_run_them_too_and_pass_on_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("kdraw");
    let said = folder.path().join("said");
    // What is told to fail does.
    let text = format!(
        "#!/bin/sh\necho \"$*\" >> {}\n[ \"$1\" != \"$FAILS\" ]\n",
        said.display()
    );
    fs::write(&fake, text).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    // Plays a verb; returns the exit code, and what was run.
    let play = |script: &Script, verb: &str, fails: &str| {
        let _ = fs::remove_file(&said);
        let output = Command::new("sh")
            .args(["-c", script.runner])
            .arg(packaging().join(script.name))
            .arg(verb)
            .env("PATH", &path)
            .env("FAILS", fails)
            .output()
            .unwrap();
        let text = fs::read_to_string(&said).unwrap_or_default();
        for line in text.lines() {
            let words = ["kdraw"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        (output.status.code().unwrap(), text)
    };
    for script in &SCRIPTS {
        for (verb, fails, code, expected) in [
            ("start", "", 0, "load --wait 60\nsave\n"),
            ("start", "load", 1, "load --wait 60\nsave\n"),
            (
                "start",
                "save",
                script.after_save_failed,
                "load --wait 60\nsave\n",
            ),
            ("stop", "", 0, "unload\n"),
            ("stop", "unload", 1, "unload\n"),
            ("reload", "", 0, "load\n"),
            ("reload", "load", 1, "load\n"),
        ] {
            let name = script.name;
            assert_eq!(
                play(script, verb, fails),
                (code, expected.to_owned()),
                "{name} {verb} {fails}"
            );
        }
    }
    let [sysv, _] = &SCRIPTS;
    assert_eq!(play(sysv, "status", "status"), (1, "status\n".to_owned()));
    assert_eq!(play(sysv, "walk", ""), (2, String::new()));
}
