//! `kdraw log`: what the crashed kernel had logged.

use anyhow::{Result, bail};
use kdraw_kernel::Kernel;
use kdraw_linux::printk::{LogDetails, PrintkLog};
use serde::Serialize;

use super::dump_args::DumpArgs;
use crate::dump::Dump;
use crate::exit::Verdict;
use crate::extract::dmesg;
use crate::system::System;

/// Names of levels, as dmesg(1) has them.
const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
];
/// Names of facilities, as dmesg(1) has them; the kernel's own is 0.
const FACILITIES: [&str; 12] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp",
];

/// Print the crashed kernel's log.
///
/// From the log's buffer in the dumped memory, as `crash` and dmesg(1) print it; where that is
/// lost, as the capture saved it. Exit code 1 if a record could not be read.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw log vmcore
  kdraw log --level err+ --callers /dev/mmcblk0p4
  kdraw log --since 120.5 -n 50 vmcore")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Only these levels: emerg, alert, crit, err, warn, notice, info, debug; `err+` is err and
    /// what is worse.
    #[arg(long, value_name = "LEVELS", value_delimiter = ',', value_parser = levels)]
    level: Vec<u8>,
    /// Only what programs logged, not the kernel.
    #[arg(long, conflicts_with = "kernel")]
    user: bool,
    /// Only what the kernel logged.
    #[arg(long)]
    kernel: bool,
    /// Only from this second after boot on.
    #[arg(long, value_name = "SECONDS")]
    since: Option<f64>,
    /// Only up to this second after boot.
    #[arg(long, value_name = "SECONDS")]
    until: Option<f64>,
    /// Only the last records.
    #[arg(short = 'n', long, value_name = "RECORDS")]
    tail: Option<usize>,
    /// Shows who logged: T and the task's number, or C and the CPU's in an interrupt.
    #[arg(long)]
    callers: bool,
    /// Shows facility and level.
    #[arg(short = 'x', long)]
    decode: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A level, as a set of bits; with `+` all that are worse, too.
fn levels(text: &str) -> Result<u8, String> {
    let (name, worse) = match text.strip_suffix('+') {
        Some(name) => (name, true),
        None => (text, false),
    };
    let bit = (0u32..).zip(LEVELS).find(|(_, known)| *known == name);
    let (level, _) = bit.ok_or_else(|| format!("there is no level {name:?}"))?;
    let bit = 1u8.checked_shl(level).unwrap_or(0);
    Ok(if worse {
        bit | bit.wrapping_sub(1)
    } else {
        bit
    })
}

/// A record.
#[derive(Serialize)]
struct Record {
    /// Nanoseconds after boot.
    time_ns: u64,
    level: &'static str,
    facility: String,
    /// `T12` or `C0`.
    caller: Option<String>,
    text: String,
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or has no log.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let dump = args.dump.open(system)?;
    match args.dump.kernel_in(&dump, |kernel| ring(args, kernel)) {
        Ok(verdict) => Ok(verdict),
        Err(why) => saved(args, &dump, &why),
    }
}

/// Prints what the capture saved beside the memory.
fn saved(args: &Args, dump: &Dump, why: &anyhow::Error) -> Result<Verdict> {
    let Dump::Slot { scan, .. } = dump else {
        bail!("the log cannot be read: {why:#}");
    };
    let log = dmesg::without_ring(scan, format!("{why:#}"));
    if log.text.is_empty() {
        bail!("there is no log: {why:#}");
    }
    let text = String::from_utf8_lossy(&log.text);
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&text)?),
        false => print!("{text}"),
    }
    eprintln!("from the {}, unfiltered: {why:#}", log.origin);
    Ok(Verdict::Bad)
}

fn ring(args: &Args, kernel: &Kernel<'_>) -> Result<Verdict> {
    let log = PrintkLog::open(kernel.virt(), &kernel.vmcoreinfo())?;
    let mut wanted = Vec::new();
    let mut unreadable = 0u64;
    for number in 0..log.ids() {
        match log.details(number) {
            Ok(Some(details)) if args.wants(&details) => wanted.push((number, details)),
            Ok(_) => {}
            Err(_) => unreadable = unreadable.saturating_add(1),
        }
    }
    let skip = args
        .tail
        .map_or(0, |tail| wanted.len().saturating_sub(tail));
    let mut records = Vec::new();
    for (number, details) in wanted.into_iter().skip(skip) {
        let mut text = Vec::new();
        let complete = log.write_record(number, &mut |piece| text.extend_from_slice(piece));
        if !complete {
            unreadable = unreadable.saturating_add(1);
        }
        let text = String::from_utf8_lossy(&text);
        if args.json {
            records.push(record(&details, &text));
        } else {
            print!("{}{text}", args.prefix(&details));
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&records)?);
    }
    if unreadable > 0 {
        eprintln!("{unreadable} records cannot be read, in whole or in part");
    }
    Ok(Verdict::from_good(unreadable == 0))
}

impl Args {
    fn wants(&self, details: &LogDetails) -> bool {
        let levels = self.level.iter().fold(0, |all, levels| all | levels);
        let bit = 1u8.checked_shl(details.level.into()).unwrap_or(0);
        let seconds = details.time_ns as f64 / 1e9;
        let is_kernel = details.facility == 0;
        (levels == 0 || levels & bit != 0)
            && !(self.kernel && !is_kernel || self.user && is_kernel)
            && self.since.is_none_or(|since| seconds >= since)
            && self.until.is_none_or(|until| seconds <= until)
    }

    /// What is asked for in front of a record.
    fn prefix(&self, details: &LogDetails) -> String {
        let mut prefix = String::new();
        if self.decode {
            prefix.push_str(&format!("{:<6}:{:<6}: ", facility(details), level(details)));
        }
        if self.callers {
            let caller = caller(details).unwrap_or_default();
            prefix.push_str(&format!("[{caller:>6}] "));
        }
        prefix
    }
}

fn level(details: &LogDetails) -> &'static str {
    let level = LEVELS.get(usize::from(details.level));
    level.copied().unwrap_or_default()
}

fn facility(details: &LogDetails) -> String {
    let known = FACILITIES.get(usize::from(details.facility));
    known.map_or_else(|| details.facility.to_string(), |name| (*name).to_owned())
}

fn caller(details: &LogDetails) -> Option<String> {
    /// Set for a CPU's number (`printk_caller_id`).
    const CPU: u32 = 1 << 31;
    let caller = details.caller?;
    Some(match caller & CPU {
        0 => format!("T{caller}"),
        _ => format!("C{}", caller & !CPU),
    })
}

fn record(details: &LogDetails, printed: &str) -> Record {
    // Without the time in front, and without the indentation of further lines.
    let (prefix, text) = printed.split_once("] ").unwrap_or(("", printed));
    let indent = " ".repeat(prefix.len().saturating_add(2));
    let lines = text
        .lines()
        .map(|line| line.strip_prefix(&indent).unwrap_or(line));
    Record {
        time_ns: details.time_ns,
        level: level(details),
        facility: facility(details),
        caller: caller(details),
        text: lines.collect::<Vec<_>>().join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_sets() {
        assert_eq!(levels("err"), Ok(0x08));
        assert_eq!(levels("err+"), Ok(0x0f));
        assert_eq!(levels("debug+"), Ok(0xff));
        assert!(levels("loud").is_err());
    }

    #[test]
    fn a_records_further_lines_lose_their_indentation() {
        let details = LogDetails {
            time_ns: 1_500_000_000,
            level: 3,
            facility: 0,
            caller: Some(1 << 31 | 2),
        };
        let printed = "[    1.500000] one\n               two\n";
        let record = record(&details, printed);
        assert_eq!(record.text, "one\ntwo");
        assert_eq!(record.caller.as_deref(), Some("C2"));
    }
}
