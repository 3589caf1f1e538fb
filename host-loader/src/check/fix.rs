//! What can be set right here and now, without harm: the kernel's settings, now and at each boot,
//! and the service.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::check::settings::{POST_NOTIFIERS, SYSCTL};
use crate::error::Error;
use crate::system::System;

/// Where our settings stand, to be set at each boot (sysctl.d(5)).
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/kdraw.conf";
/// What does it.
pub const COMMAND: &str = "kdraw check --fix";
/// What the file begins with.
const HEAD: &str = "# What kdraw's configuration (/etc/kdraw.conf) asks of the kernel; written by \
                    `kdraw check --fix`.\n";

/// A thing to set right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Sets `kernel.NAME`, now and at each boot.
    Sysctl {
        /// Its name, without `kernel.`.
        name: &'static str,
        /// Its value.
        value: i64,
    },
    /// Sets settings at each boot only: nothing runs here.
    Persist(Vec<(&'static str, i64)>),
    /// Lets the kernel's panic notifiers run first, or not, until the next boot.
    PostNotifiers(bool),
    /// Runs a program.
    Run(Vec<String>),
}

impl Remedy {
    /// The command that does the same.
    pub fn command(&self) -> String {
        match self {
            Self::Sysctl { name, value } => {
                format!("sysctl -w kernel.{name}={value}  # {COMMAND} also keeps it")
            }
            Self::Persist(_) => COMMAND.to_owned(),
            Self::PostNotifiers(first) => format!("echo {} > {POST_NOTIFIERS}", yes_no(*first)),
            Self::Run(words) => words.join(" "),
        }
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "Y" } else { "N" }
}

/// What is to be done about several findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Settings to be kept.
    kept: Vec<(&'static str, i64)>,
    /// Files to be written, and what.
    written: Vec<(String, String)>,
    /// Programs to be run.
    run: Vec<Vec<String>>,
}

impl Plan {
    /// Puts remedies together.
    pub fn of<'a>(remedies: impl IntoIterator<Item = &'a Remedy>) -> Self {
        let mut plan = Self::default();
        for remedy in remedies {
            match remedy {
                Remedy::Sysctl { name, value } => {
                    plan.kept.push((*name, *value));
                    plan.written
                        .push((format!("{SYSCTL}/{name}"), value.to_string()));
                }
                Remedy::Persist(settings) => plan.kept.extend(settings),
                Remedy::PostNotifiers(first) => {
                    plan.written
                        .push((POST_NOTIFIERS.to_owned(), yes_no(*first).to_owned()));
                }
                Remedy::Run(words) => plan.run.push(words.clone()),
            }
        }
        plan
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Does it.
    ///
    /// # Errors
    /// The first thing that could not be done; what comes after it is not done.
    pub fn apply(&self, system: &System) -> Result<()> {
        if !self.kept.is_empty() {
            keep(system, &self.kept)?;
        }
        for (path, value) in &self.written {
            let path = system.path(path);
            fs::write(&path, format!("{value}\n")).map_err(Error::io("write", &path))?;
        }
        for words in &self.run {
            let command = words.join(" ");
            let (program, arguments) = words.split_first().context("no program")?;
            let status = Command::new(program).args(arguments).status();
            let status = status.with_context(|| format!("cannot run `{command}`"))?;
            if !status.success() {
                bail!("`{command}` ended with {status}");
            }
        }
        Ok(())
    }
}

/// What would be done, a line for each thing.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.kept {
            writeln!(f, "write {SYSCTL_FILE}: kernel.{name} = {value}")?;
        }
        for (path, value) in &self.written {
            writeln!(f, "write {path}: {value}")?;
        }
        for words in &self.run {
            writeln!(f, "run {}", words.join(" "))?;
        }
        Ok(())
    }
}

/// What our file sets `kernel.NAME` to.
pub fn persistent(system: &System, name: &str) -> Option<i64> {
    let text = system.text(SYSCTL_FILE).ok()?;
    text.lines().rev().find_map(|line| value_of(line, name))
}

/// The value, if a line of a sysctl.d file sets `kernel.NAME`.
fn value_of(line: &str, name: &str) -> Option<i64> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim().trim_start_matches('-').replace('/', ".");
    (key == format!("kernel.{name}"))
        .then(|| value.trim().parse().ok())
        .flatten()
}

/// Puts settings into our file, beside what else is there. The file is there as it was or as it is
/// to be, whatever happens meanwhile.
fn keep(system: &System, settings: &[(&'static str, i64)]) -> Result<(), Error> {
    let path = system.path(SYSCTL_FILE);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    }
    let mut text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => HEAD.to_owned(),
        Err(why) => return Err(Error::io("read", &path)(why)),
    };
    let is_ours = |line: &&str| {
        let mut names = settings.iter().map(|(name, _)| name);
        !names.any(|name| value_of(line, name).is_some())
    };
    let others: Vec<&str> = text.lines().filter(is_ours).collect();
    let ours = settings
        .iter()
        .map(|(name, value)| format!("kernel.{name} = {value}"));
    let lines = others.into_iter().map(str::to_owned).chain(ours);
    text = lines.map(|line| line + "\n").collect();
    let new = path.with_extension("conf.new");
    fs::write(&new, text).map_err(Error::io("write", &new))?;
    fs::File::open(&new)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("flush", &new))?;
    fs::rename(&new, &path).map_err(Error::io("replace", &path))
}
