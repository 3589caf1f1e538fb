//! `kdraw log`: what the crashed kernel had logged.

use anyhow::{Result, bail};
use kdraw_kernel::Kernel;
use kdraw_linux::printk::{LogDetails, PrintkLog};

use super::dump_args::DumpArgs;
use crate::dump::Dump;
use crate::exit::Verdict;
use crate::extract::dmesg;
use crate::inside::records::{LEVELS, Record, caller, facility, level};
use crate::system::System;

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
    let (mut records, mut printed) = (Vec::new(), String::new());
    let mut whole = 0u64;
    for (number, details) in wanted.into_iter().skip(skip) {
        let mut text = Vec::new();
        let complete = log.write_record(number, &mut |piece| text.extend_from_slice(piece));
        match complete {
            true => whole = whole.saturating_add(1),
            false => unreadable = unreadable.saturating_add(1),
        }
        let text = String::from_utf8_lossy(&text);
        if args.json {
            records.push(Record::new(&details, &text));
        } else {
            printed.push_str(&args.prefix(&details));
            printed.push_str(&text);
        }
    }
    if whole == 0 && unreadable > 0 {
        bail!("the dump lacks {unreadable} of its records, and has none that is wanted");
    }
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&records)?),
        false => print!("{printed}"),
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
}
