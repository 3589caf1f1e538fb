//! `kdraw-guest`: fills the guest's memory with known pages and panics the kernel.
//!
//! Started by the harness's `/init` as the last thing of the first boot:
//!
//! ```text
//! kdraw-guest fill=256 cache=/mnt/cache.bin tmpfs=/fill panic=sysrq cpu=0 [snapshot] \
//!     [estimate="--target /dev/vda4"] [set=/proc/sys/vm/panic_on_oom=1]…
//! ```
//!
//! What the harness has to know afterwards is printed as lines that start with `guest: `.

#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt;

mod estimate;
mod files;
mod memory;
mod snapshot;
mod trigger;

/// An error with a sentence for the console.
type Result<T> = std::result::Result<T, String>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("hold") => memory::hold(&arguments),
        Some("nobody") => nobody(&arguments),
        _ => crash(&arguments),
    };
    if let Err(message) = done {
        println!("guest: error {message}");
        std::process::exit(1);
    }
}

/// Runs a command without root's rights: `nobody PROGRAM ARGUMENT…`.
fn nobody(arguments: &[String]) -> Result<()> {
    let program = arguments.get(1).ok_or("nobody needs a program")?;
    let mut command = std::process::Command::new(program);
    let status = command
        .args(arguments.iter().skip(2))
        .uid(65534)
        .gid(65534)
        .status();
    let status = status.map_err(|e| format!("{program}: {e}"))?;
    std::process::exit(status.code().unwrap_or(255))
}

/// Fills memory, prints where the markers are, panics.
fn crash(arguments: &[String]) -> Result<()> {
    let fill_mib: u64 = number(arguments, "fill")?;
    let cpu = number(arguments, "cpu")?;
    let tmpfs = value(arguments, "tmpfs")?;
    let cache = value(arguments, "cache")?;
    let panic = value(arguments, "panic")?;
    let settings = settings(arguments)?;

    let mut processes = memory::spawn_holders(fill_mib / 2)?;
    memory::fill_tmpfs(tmpfs, fill_mib / 4)?;
    let cached = memory::read_cache(cache)?;
    let pipes = memory::pipe_markers()?;
    let files = files::open(tmpfs)?;
    let with_snapshot = arguments.iter().any(|argument| argument == "snapshot");
    let snapshot = with_snapshot
        .then(snapshot::Snapshot::prepare)
        .transpose()?;
    let markers = memory::Markers::lock()?;
    println!(
        "guest: filled processes={} tmpfs_mib={} cache_mib={}",
        processes.len(),
        fill_mib / 4,
        cached >> 20
    );
    markers.print()?;
    if let Ok(options) = value(arguments, "estimate") {
        estimate::run(options)?;
    }
    let snapshot = snapshot.map(snapshot::Snapshot::take).transpose()?;
    trigger::panic(panic, cpu, &settings)?;

    // The panic is on its way; hold everything in memory until it comes.
    std::thread::sleep(std::time::Duration::from_secs(60));
    drop((pipes, files, markers, snapshot));
    for process in &mut processes {
        process.kill().map_err(|e| format!("kill: {e}"))?;
    }
    Err("the kernel did not panic within 60 s".into())
}

/// Returns what `set=FILE=VALUE` arguments say.
fn settings(arguments: &[String]) -> Result<Vec<(&str, &str)>> {
    arguments
        .iter()
        .filter_map(|argument| argument.strip_prefix("set="))
        .map(|setting| {
            let pair = setting.split_once('=');
            pair.ok_or_else(|| format!("argument set={setting} is not set=FILE=VALUE"))
        })
        .collect()
}

/// Returns the value of `key=value`.
fn value<'a>(arguments: &'a [String], key: &str) -> Result<&'a str> {
    arguments
        .iter()
        .find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
        .ok_or_else(|| format!("argument {key}=… is missing"))
}

/// Returns the number in `key=number`.
fn number<T: std::str::FromStr>(arguments: &[String], key: &str) -> Result<T> {
    let text = value(arguments, key)?;
    text.parse()
        .map_err(|_| format!("argument {key}={text} is not a number"))
}

fn write(path: &str, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| format!("{path}: {e}"))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}
