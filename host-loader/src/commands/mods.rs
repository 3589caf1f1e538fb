//! `kdraw mods`: the modules that were loaded.

use anyhow::Result;
use kdraw_kernel::modules::Module;
use serde::Serialize;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::system::System;

/// Letters of taint bits, from bit 0 on (`kernel/panic.c`, `taint_flags`).
const TAINTS: &str = "PFSRMBUDAWCIOELKXTN";

/// List the modules that were loaded when the kernel crashed.
///
/// As lsmod(8) does, with addresses, states other than live, and what taints the kernel:
/// P proprietary, O out of tree, E unsigned, C staging, …
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw mods vmcore")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A module.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    /// Its `struct module`.
    module: u64,
    /// First byte of its text.
    base: u64,
    /// Bytes of all its memory.
    size: u64,
    references: Option<i64>,
    users: &'a [String],
    state: &'a str,
    /// Letters, as /proc/modules has them.
    taints: String,
    symbols: usize,
}

impl<'a> Line<'a> {
    fn new(module: &'a Module) -> Self {
        let bits = TAINTS.chars().zip(0u32..);
        let set = |bit: &u32| module.taints.checked_shr(*bit).unwrap_or(0) & 1 != 0;
        Self {
            name: &module.name,
            module: module.address,
            base: module.regions.first().map_or(0, |(base, _)| *base),
            size: module.size(),
            references: module.references,
            users: &module.users,
            state: module.state,
            taints: bits.filter(|(_, bit)| set(bit)).map(|(c, _)| c).collect(),
            symbols: module.symbols.len(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the list of modules cannot be found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let modules = kernel.modules()?;
        let lines: Vec<_> = modules.iter().map(Line::new).collect();
        if args.json {
            println!("{}", serde_json::to_string_pretty(&lines)?);
            return Ok(Verdict::Good);
        }
        println!(
            "{:<16}  {:<16}  {:<24} {:>8}  used by",
            "MODULE", "BASE", "NAME", "SIZE"
        );
        for line in &lines {
            let mut used = line.references.map_or("-".to_owned(), |n| n.to_string());
            if !line.users.is_empty() {
                used.push_str(&format!(" {}", line.users.join(",")));
            }
            if line.state != "live" {
                used.push_str(&format!(" [{}]", line.state));
            }
            if !line.taints.is_empty() {
                used.push_str(&format!(" ({})", line.taints));
            }
            println!(
                "{:016x}  {:016x}  {:<24} {:>8}  {used}",
                line.module, line.base, line.name, line.size
            );
        }
        Ok(Verdict::Good)
    })
}
