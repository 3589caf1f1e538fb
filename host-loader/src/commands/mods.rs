//! `kdraw mods`: the modules that were loaded.

use anyhow::Result;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::inside::modules::Line;
use crate::system::System;

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
