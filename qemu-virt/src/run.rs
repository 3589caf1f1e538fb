//! Runs commands, with errors that say which command failed and what it printed.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Longest piece of a failed command's output that an error message repeats, in lines.
const QUOTED_LINES: usize = 25;

/// Returns the workspace's root folder.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Returns the folder where cargo puts what it builds: `CARGO_TARGET_DIR`, or `target`.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Tells the user what is being done, one line per step.
pub fn say(text: impl AsRef<str>) {
    // A closed standard output must not stop the work.
    let _ = writeln!(std::io::stdout(), "  {}", text.as_ref());
}

/// Builds a command whose program and arguments are given as one list.
pub fn command<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut words = words.into_iter();
    let mut command = match words.next() {
        Some(program) => Command::new(program),
        None => Command::new("false"),
    };
    command.args(words);
    command
}

/// Returns a command line as a user would type it.
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for word in command.get_args() {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains(char::is_whitespace) {
            let _ = write!(line, " '{word}'");
        } else {
            let _ = write!(line, " {word}");
        }
    }
    line
}

/// Runs a command without showing its output and returns what it wrote to standard output.
///
/// # Errors
///
/// When the command cannot be started or fails; the message ends with its last lines of output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = finished(command.stdin(Stdio::null()).output(), command)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command without showing its output.
///
/// # Errors
///
/// As [`output`].
pub fn quiet(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Tells whether a command exists and succeeds; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Finds a program in `PATH` and in the folders of system programs, which a user's `PATH` may lack.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Fills a folder completely or not at all: `fill` works on a temporary neighbour that is renamed
/// to `dir` when it succeeds, so a folder that exists is a finished one.
///
/// # Errors
///
/// What `fill` returns, or a file system error.
pub fn fill_dir(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut part = dir.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    remove_dir(&part)?;
    create_dir(&part)?;
    fill(&part)?;
    remove_dir(dir)?;
    std::fs::rename(&part, dir)
        .with_context(|| format!("cannot rename {} to {}", part.display(), dir.display()))
}

/// Creates a folder and its parents.
///
/// # Errors
///
/// When the file system refuses; the message names the folder.
pub fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Removes a folder and everything in it; it need not exist.
///
/// # Errors
///
/// When the file system refuses; the message names the folder.
pub fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Lists a folder's entries in order of name.
///
/// # Errors
///
/// When the folder cannot be read; the message names it.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        found.push(
            entry
                .with_context(|| format!("cannot list {}", dir.display()))?
                .path(),
        );
    }
    found.sort();
    Ok(found)
}

/// Turns a failed or unstartable command into an error that quotes its output.
fn finished(result: std::io::Result<Output>, command: &Command) -> Result<Output> {
    let output = result.with_context(|| format!("cannot start `{}`", shown(command)))?;
    if output.status.success() {
        return Ok(output);
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.len().saturating_sub(QUOTED_LINES);
    bail!(
        "`{}` failed ({}):\n{}",
        shown(command),
        output.status,
        lines.get(tail..).unwrap_or_default().join("\n")
    )
}
