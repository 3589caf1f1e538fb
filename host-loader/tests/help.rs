//! What `--help` says, of every command: `help/NAME.txt`. After a change that is meant,
//! `TRYCMD=overwrite cargo test -p kdraw --test help` writes them anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use kdraw::cli::Cli;

/// Columns that the texts are wrapped at.
const WIDTH: usize = 100;

/// The help of each command by its name; `kdraw`'s own, too.
fn helps() -> BTreeMap<String, String> {
    let mut cli = Cli::command().term_width(WIDTH);
    cli.build();
    let commands = cli.get_subcommands().cloned();
    let commands = commands.filter(|found| found.get_name() != "help");
    commands
        .chain([cli.clone()])
        .map(|mut command| {
            let text = command.render_long_help().to_string();
            let lines = text.lines().map(|line| format!("{}\n", line.trim_end()));
            (command.get_name().to_owned(), lines.collect())
        })
        .collect()
}

#[test]
fn every_help_is_as_it_was_read_last() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    if std::env::var("TRYCMD").is_ok_and(|mode| mode == "overwrite") {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in helps() {
            fs::write(folder.join(format!("{name}.txt")), text).unwrap();
        }
        return;
    }
    let files = fs::read_dir(&folder).unwrap();
    let kept: BTreeMap<String, String> = files
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    let helps = helps();
    assert_eq!(
        helps.keys().collect::<Vec<_>>(),
        kept.keys().collect::<Vec<_>>(),
        "a command came or went: write tests/help anew"
    );
    for (name, text) in helps {
        assert!(
            text == kept[&name],
            "the help of {name} is another:\n{text}\nwas:\n{}",
            kept[&name]
        );
    }
}

#[test]
fn every_command_has_a_man_page_with_its_example() {
    let folder = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), folder.path()).unwrap();
    for name in helps().keys().filter(|name| *name != "kdraw") {
        let path = folder.path().join(format!("kdraw-{name}.1"));
        let page = fs::read_to_string(path).unwrap_or_else(|why| panic!("{name}: {why}"));
        let (_, examples) = page.split_once("Example").unwrap_or_default();
        assert!(examples.contains(&format!("kdraw {name}")), "{name}");
        assert!(page.contains(".SH OPTIONS"), "{name}");
    }
    let page = fs::read_to_string(folder.path().join("kdraw.1")).unwrap();
    assert!(page.contains("Exit codes"));
}

#[test]
fn every_command_shows_an_example_and_what_prints_data_does_json() {
    let helps = helps();
    for (name, text) in helps.iter().filter(|(name, _)| *name != "kdraw") {
        let (_, examples) = text.split_once("Example").unwrap_or_default();
        assert!(examples.contains(&format!("kdraw {name}")), "{name}");
    }
    let without = |name: &&String| !helps[*name].contains("--json");
    let acts: Vec<&String> = helps.keys().filter(without).collect();
    // These do something, and say in a line or two that they did.
    assert_eq!(
        acts,
        [
            "format", "kdraw", "load", "open", "payload", "plan", "unload"
        ]
    );
}
