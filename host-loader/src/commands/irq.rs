//! `kdraw irq`: interrupts, who handled them and how often.

use anyhow::Result;
use kdraw_kernel::irq::{self, Action, Irq};
use serde::Serialize;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::inside::readable;
use crate::system::System;

/// List interrupts, how often each CPU took them, and who handled them.
///
/// As /proc/interrupts does, with the `struct irq_desc` of each, the CPUs that it may go to, and
/// the functions that handle it. Without --all those that nobody handles are left out. A count is
/// `-` where it is absent. Exit code 1 if an interrupt is absent.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw irq vmcore")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Shows those that nobody handles, too.
    #[arg(short, long)]
    all: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What is shown.
#[derive(Serialize)]
struct Shown {
    cpus: Vec<u32>,
    interrupts: Vec<Irq>,
    /// What could not be read.
    lost: Vec<String>,
}

/// A handler's name and functions.
fn in_words(action: &Action) -> String {
    let name = match action.name.as_str() {
        "" => "-",
        name => name,
    };
    let functions = [&action.handler, &action.thread].into_iter().flatten();
    let functions: Vec<_> = functions.map(String::as_str).collect();
    format!("{name} ({})", functions.join(", "))
}

/// Numbers as ranges: `0-3,6`.
fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let text = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the interrupts cannot be found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let mut all = irq::read(kernel)?;
        all.retain(|irq| match irq {
            Ok(irq) => args.all || !irq.actions.is_empty(),
            Err(_) => true,
        });
        let (interrupts, lost) = readable(all);
        let shown = Shown {
            cpus: kernel.cpus().unwrap_or_default(),
            interrupts,
            lost,
        };
        if args.json {
            println!("{}", serde_json::to_string_pretty(&shown)?);
        } else {
            print(&shown);
        }
        Ok(Verdict::from_good(shown.lost.is_empty()))
    })
}

fn print(shown: &Shown) {
    let count = |count: &Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    let counts = shown.interrupts.iter().flat_map(|irq| &irq.counts);
    let width = counts.map(|of| count(of).len()).max().unwrap_or(0).max(5);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let widest = |of: fn(&Irq) -> &Option<String>| {
        let widths = shown.interrupts.iter().map(|irq| or_dash(of(irq)).len());
        widths.max().unwrap_or(0).max(6)
    };
    let (chips, domains) = (widest(|irq| &irq.chip), widest(|irq| &irq.domain));
    let cpus = shown.cpus.iter();
    let cpus = cpus.map(|cpu| format!(" {:>width$}", format!("CPU{cpu}")));
    println!(
        "{:>4}  {:<16} {}  {:<chips$}  {:<domains$}  {:>6}  {:<8}  HANDLERS",
        "IRQ",
        "IRQ_DESC",
        cpus.collect::<String>(),
        "CHIP",
        "DOMAIN",
        "HWIRQ",
        "AFFINITY"
    );
    for irq in &shown.interrupts {
        let counts = irq.counts.iter();
        let counts = counts.map(|of| format!(" {:>width$}", count(of)));
        let handlers = irq.actions.iter().map(in_words);
        let shown = format!(
            "{:>4}  {:016x} {}  {:<chips$}  {:<domains$}  {:>6}  {:<8}  {}",
            irq.number,
            irq.desc,
            counts.collect::<String>(),
            or_dash(&irq.chip),
            or_dash(&irq.domain),
            irq.hwirq,
            or_dash(&irq.affinity.as_deref().map(ranges)),
            handlers.collect::<Vec<_>>().join("; ")
        );
        println!("{}", shown.trim_end());
    }
    for lost in &shown.lost {
        println!("absent: {lost}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(ranges(&[u32::MAX]), "4294967295");
    }
}
