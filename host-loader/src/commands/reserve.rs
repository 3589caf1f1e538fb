//! `kdraw reserve`: has the boot loader ask for the crash region.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::ask;
use crate::exit::Verdict;
use crate::reserve::change::{self, Backup};
use crate::reserve::crashkernel::{self, NAME, Taken};
use crate::reserve::kdump_rules::{RULES, Rule};
use crate::reserve::proposal::{self, Proposal};
use crate::reserve::root::Root;
use crate::reserve::{self, Afterwards, BOOT_LOADERS, Proposed, device_tree, suggestion};
use crate::system::System;
use crate::text;

/// Have the boot loader reserve memory for the payload: crashkernel=8M on the kernel's command line.
///
/// Finds the boot configuration (extlinux.conf, Raspberry Pi's cmdline.txt, armbianEnv.txt,
/// systemd-boot's entries and /etc/kernel/cmdline, /etc/default/grub, u-boot and flash-kernel), shows
/// what it would change, and asks. Another crashkernel= is replaced. A copy of each file stays beside
/// it, for --undo; files that something else changed since are left alone by that. If anything fails,
/// nothing is changed.
///
/// The reservation counts from the next boot on. GRUB, u-boot-menu and flash-kernel need a command
/// to be run before: --yes runs it, otherwise kdraw tells which.
///
/// Exit code 0 if the configuration asks for the memory, or is as it was with --undo; 1 if nothing
/// was changed for want of a yes, or not all could be undone; 3 if it could not be done.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw reserve                         # shows what would change, and asks
  kdraw reserve --yes && reboot         # changes it, and runs update-grub or the like
  kdraw reserve --yes --root /mnt       # a mounted image of a board, on any machine
  kdraw reserve --yes --dtb board.dtb   # /chosen/bootargs of a device tree
  kdraw reserve --undo                  # every file as it was")]
pub struct Args {
    /// How much, as in crashkernel=; at least 4M. Otherwise what this machine needs: 8M up to 64 GiB
    /// of memory.
    #[arg(long, value_parser = size)]
    size: Option<u64>,
    /// The folder that another system is mounted at.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A device tree blob or overlay to change instead.
    #[arg(long, value_name = "FILE", conflicts_with = "root")]
    dtb: Option<PathBuf>,
    /// Makes the changes without asking; on the running system, runs what has to be run then.
    #[arg(long)]
    yes: bool,
    /// Restores the files as they were before kdraw changed them.
    #[arg(long, conflicts_with = "size")]
    undo: bool,
    /// Prints JSON; changes nothing without --yes.
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    match crashkernel::size(text) {
        Some(size) if size >= suggestion::LEAST => Ok(size),
        Some(_) => Err("less than 4M never works".to_owned()),
        None => Err("expected a size such as 8M".to_owned()),
    }
}

/// What is found and done.
#[derive(Debug, Serialize)]
struct Report {
    crashkernel: String,
    size: u64,
    ram: Option<u64>,
    now: Option<Taken>,
    kdump: Vec<Kdump>,
    boot_loaders: Vec<&'static str>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What happens to the files, there and back.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    done: bool,
    files: Vec<FileReport>,
    notes: Vec<String>,
    afterwards: Vec<Ran>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    path: PathBuf,
    diff: String,
    backup: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Ran {
    command: String,
    ran: bool,
}

/// What kdump takes by one rule.
#[derive(Debug, Serialize)]
struct Kdump {
    #[serde(flatten)]
    rule: Rule,
    /// On this machine, in bytes, if its memory is known.
    reserves: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// Whatever keeps the change from being made, or undone.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let root = Root::new(args.root.clone().unwrap_or_else(|| system.path("/")));
    if !root.folder().is_dir() {
        bail!(
            "{} is no folder; mount the image first",
            root.folder().display()
        );
    }
    let here = args.root.is_none() && args.dtb.is_none();
    let architecture = system.architecture();
    if here && architecture != "aarch64" {
        bail!(
            "this machine is {architecture}, and the payload runs on arm64 (aarch64) only; name a \
             board's mounted image with --root, or its device tree with --dtb"
        );
    }
    if args.undo {
        return undo(args, system, &root);
    }
    let ram = suggestion::ram(system).filter(|_| here);
    let size = args
        .size
        .unwrap_or_else(|| ram.map_or(suggestion::USUAL, suggestion::for_ram));
    if let Some(ram) = ram.filter(|&ram| size >= ram) {
        bail!(
            "{} asks for more than the {} of memory that this machine has",
            crashkernel::size_text(size),
            text::size(ram)
        );
    }
    let value = crashkernel::size_text(size);
    let proposed = match &args.dtb {
        Some(file) => Proposed {
            boot_loaders: vec!["device tree"],
            proposals: vec![device_tree::propose(file, &value)?],
            ..Proposed::default()
        },
        None => reserve::propose(&root, &value)?,
    };
    let mut report = Report {
        crashkernel: value,
        size,
        ram,
        now: ram.and_then(|ram| {
            let line = system.text("/proc/cmdline").ok()?;
            Some(crashkernel::taken(&line, ram))
        }),
        kdump: RULES.map(|rule| Kdump::of(rule, ram)).into(),
        boot_loaders: proposed.boot_loaders.clone(),
        outcome: Outcome::default(),
    };
    if !args.json {
        report.print();
    }
    let verdict = change(args, system, &proposed, &mut report.outcome)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(verdict)
}

fn change(
    args: &Args,
    system: &System,
    proposed: &Proposed,
    outcome: &mut Outcome,
) -> Result<Verdict> {
    let changed = |proposal: &&Proposal| proposal.changes();
    let notes = proposed.proposals.iter().flat_map(|found| &found.notes);
    outcome.notes = notes.chain(&proposed.notes).cloned().collect();
    outcome.files = proposed
        .proposals
        .iter()
        .map(|proposal| FileReport {
            path: proposal.real.clone(),
            diff: if proposal.changes() {
                proposal.diff()
            } else {
                String::new()
            },
            backup: None,
        })
        .collect();
    outcome.print(args);
    let count = proposed.proposals.iter().filter(changed).count();
    if count == 0 {
        outcome.done = true;
        say(args, "Nothing to change: it is asked for already.");
        return Ok(Verdict::Good);
    }
    if !may_change(args, &format!("Change {count} file(s)?"))? {
        outcome.tell(args, &proposed.afterwards);
        return Ok(Verdict::Bad);
    }
    for backup in change::make(&proposed.proposals)? {
        let (file, path) = (backup.file.display(), backup.path.display());
        let line = if backup.existed {
            format!("{file}: changed; the former one is {path}")
        } else {
            format!("{file}: new; {path} notes that there was none")
        };
        say(args, &line);
        let mut files = outcome.files.iter_mut();
        if let Some(file) = files.find(|file| file.path == backup.file) {
            file.backup = Some(backup.path);
        }
    }
    outcome.done = true;
    follow_up(args, system, &proposed.afterwards, outcome)?;
    Ok(Verdict::Good)
}

fn undo(args: &Args, system: &System, root: &Root) -> Result<Verdict> {
    let mut outcome = Outcome::default();
    let mut fitting: Vec<Backup> = Vec::new();
    let mut afterwards = Vec::new();
    let mut left = false;
    let sources: Vec<(Vec<PathBuf>, Option<Afterwards>)> = match &args.dtb {
        Some(file) => vec![(vec![device_tree::real(file)?], None)],
        None => BOOT_LOADERS
            .iter()
            .map(|found| {
                let files = found.files(root);
                let real = files.iter().map(|path| root.real(path));
                Ok((real.collect::<Result<_, _>>()?, found.afterwards(root)))
            })
            .collect::<Result<_>>()?,
    };
    for (files, then) in sources {
        let mut any = false;
        for file in files {
            // Two boot loaders may read one file.
            if fitting.iter().any(|known| known.file == file) {
                any = true;
                continue;
            }
            let backups = change::backups(&file)?;
            let fits = backups.iter().find(|(_, fits)| *fits);
            if let Some((backup, _)) = fits {
                outcome.files.push(FileReport {
                    diff: undo_diff(backup, args.dtb.is_some())?,
                    path: file,
                    backup: None,
                });
                fitting.push(backup.clone());
                any = true;
            } else if let Some((backup, _)) = backups.last() {
                left = true;
                let note = format!(
                    "{} was changed again after kdraw changed it, so it is left as it is; before \
                     kdraw it was {}",
                    file.display(),
                    backup.path.display()
                );
                if !outcome.notes.contains(&note) {
                    outcome.notes.push(note);
                }
            }
        }
        afterwards.extend(then.filter(|_| any));
    }
    outcome.print(args);
    let mut verdict = Verdict::from_good(!left);
    if fitting.is_empty() {
        outcome.done = !left;
        say(args, "Nothing to undo.");
    } else if may_change(args, &format!("Restore {} file(s)?", fitting.len()))? {
        for backup in &fitting {
            backup.restore()?;
            say(args, &format!("{}: as it was", backup.file.display()));
        }
        outcome.done = !left;
        follow_up(args, system, &afterwards, &mut outcome)?;
    } else {
        outcome.tell(args, &afterwards);
        verdict = Verdict::Bad;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    }
    Ok(verdict)
}

/// What restoring a backup changes.
fn undo_diff(backup: &Backup, is_blob: bool) -> Result<String> {
    let shown = |bytes: Option<Vec<u8>>| {
        let bytes = bytes.unwrap_or_default();
        if is_blob {
            device_tree::shown_of(&bytes)
        } else {
            proposal::text(&bytes)
        }
    };
    let now = reserve::root::read(&backup.file)?;
    let path = backup.file.display().to_string();
    let was = shown(backup.bytes()?);
    Ok(proposal::diff(
        &path,
        true,
        &shown(now),
        backup.existed,
        &was,
    ))
}

/// Gets the permission.
fn may_change(args: &Args, question: &str) -> Result<bool> {
    if args.yes || args.json {
        return Ok(args.yes);
    }
    if !ask::is_possible() {
        println!("Nothing was changed: there is no terminal to ask on. Add --yes to change it.");
        return Ok(false);
    }
    let yes = ask::yes_or_no(question)?;
    if !yes {
        println!("Nothing was changed.");
    }
    Ok(yes)
}

/// Runs what is to be run after a change, or tells of it.
fn follow_up(
    args: &Args,
    system: &System,
    afterwards: &[Afterwards],
    outcome: &mut Outcome,
) -> Result<()> {
    let may_run = args.yes && args.root.is_none() && system.is_running();
    for then in afterwards {
        let command = then.command.join(" ");
        if may_run && then.may_run {
            say(args, &format!("Running {command}"));
            run_command(&then.command).with_context(|| {
                format!(
                    "the files are changed, but {command} failed, and without it the change may \
                     not count; run it by hand, or take the change back by `kdraw reserve --undo`"
                )
            })?;
        }
    }
    let ran = |then: &Afterwards| may_run && then.may_run;
    let told: Vec<_> = afterwards
        .iter()
        .filter(|then| !ran(then))
        .cloned()
        .collect();
    outcome.tell(args, &told);
    outcome
        .afterwards
        .extend(afterwards.iter().filter(|then| ran(then)).map(|then| Ran {
            command: then.command.join(" "),
            ran: true,
        }));
    if args.root.is_none() && args.dtb.is_none() {
        say(
            args,
            "Next: reboot; then `kdraw status` tells whether the memory is there.",
        );
    }
    Ok(())
}

fn run_command(command: &[&str]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
        .stdin(Stdio::null())
        // Our own output may be JSON.
        .stdout(std::io::stderr().as_fd().try_clone_to_owned()?)
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}

fn say(args: &Args, line: &str) {
    if !args.json {
        println!("{line}");
    }
}

impl Outcome {
    fn print(&self, args: &Args) {
        for note in &self.notes {
            say(args, &format!("Note: {note}"));
        }
        for file in self.files.iter().filter(|file| !file.diff.is_empty()) {
            say(args, file.diff.trim_end_matches('\n'));
        }
    }

    /// Tells what people have to run themselves.
    fn tell(&mut self, args: &Args, afterwards: &[Afterwards]) {
        for then in afterwards {
            let command = match &args.root {
                Some(root) => chroot(root, &then.command),
                None => then.command.join(" "),
            };
            say(args, &format!("To be run after the change: {command}"));
            self.afterwards.push(Ran {
                command,
                ran: false,
            });
        }
    }
}

fn chroot(root: &Path, command: &[&str]) -> String {
    format!("chroot {} {}", root.display(), command.join(" "))
}

impl Kdump {
    fn of(rule: Rule, ram: Option<u64>) -> Self {
        Self {
            rule,
            reserves: ram.map(|ram| rule.reserves(ram)),
        }
    }
}

impl Report {
    fn print(&self) {
        match self.ram {
            Some(ram) => {
                println!(
                    "kdraw takes   {NAME}{} of {}",
                    self.crashkernel,
                    text::size(ram)
                );
                println!("kdump takes   {}", kdump_line(ram));
            }
            None => {
                println!("kdraw takes   {NAME}{}", self.crashkernel);
                for gib in [2u64, 8, 64] {
                    println!("kdump takes   of {gib:>2} GiB: {}", kdump_line(gib << 30));
                }
            }
        }
        match &self.now {
            Some(Taken::Reserved(now)) => println!("Linux has now {}", text::size(now.size)),
            Some(Taken::Ignored(why)) => println!("Linux has now nothing: in its {NAME} {why}"),
            Some(Taken::Absent) => println!("Linux has now nothing"),
            None => {}
        }
        println!("Found         {}", self.boot_loaders.join(", "));
    }
}

/// What kdump reserves of `ram` bytes by its packages' rules.
fn kdump_line(ram: u64) -> String {
    let takes = RULES.map(|rule| match rule.reserves(ram) {
        0 => format!("{}: nothing, too little memory", rule.system),
        bytes => format!("{}: {}", rule.system, text::size(bytes)),
    });
    takes.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_or_is_missing_is_told() {
        assert!(run_command(&["true"]).is_ok());
        let failed = run_command(&["false"]).unwrap_err();
        assert!(
            failed
                .to_string()
                .contains("false ended with exit status: 1")
        );
        let missing = run_command(&["kdraw-no-such-program"]).unwrap_err();
        assert!(missing.to_string().contains("cannot start"));
    }
}
