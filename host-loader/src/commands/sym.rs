//! `kdraw sym`: addresses and names of the crashed kernel's symbols.

use anyhow::{Context, Result};
use kdraw_kernel::{Kernel, Place};
use serde::Serialize;

use super::dump_args::{DumpArgs, address, plain_address, unknown};
use crate::exit::Verdict;
use crate::system::System;

/// Say where a symbol of the crashed kernel is, or what is at an address.
///
/// The symbols are the dead kernel's own (kallsyms), its modules' too. Exit code 1 if one of
/// those asked for is not there.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw sym vmcore panic
  kdraw sym /dev/mmcblk0p4 0xffff8000800a1b2c")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Names and hexadecimal addresses.
    #[arg(required = true)]
    wanted: Vec<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A symbol that was asked for.
#[derive(Serialize)]
struct Found<'a> {
    /// What was asked for.
    wanted: &'a str,
    address: u64,
    name: &'a str,
    /// Bytes from the symbol's start.
    offset: u64,
    /// Bytes to the next symbol; 0 if not known.
    size: u64,
    /// The letter that nm gives it.
    kind: char,
    /// The module that it is in, if any.
    module: Option<&'a str>,
}

impl<'a> Found<'a> {
    fn new(wanted: &'a str, place: Place<'a>) -> Self {
        Self {
            wanted,
            address: place.symbol.address.wrapping_add(place.offset),
            name: place.symbol.name,
            offset: place.offset,
            size: place.symbol.size,
            kind: place.symbol.kind,
            module: place.module,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump
        .with_kernel(system, |kernel| {
            let (mut found, mut missing) = (Vec::new(), Vec::new());
            for wanted in &args.wanted {
                let before = found.len();
                found.extend(look_up(kernel, wanted));
                if found.len() == before {
                    missing.push(wanted);
                }
            }
            if args.json {
                println!("{}", serde_json::to_string_pretty(&found)?);
            } else {
                for found in &found {
                    let module = found.module.map(|name| format!(" [{name}]"));
                    println!(
                        "{:016x} {} {}+{:#x}/{:#x}{}",
                        found.address,
                        found.kind,
                        found.name,
                        found.offset,
                        found.size,
                        module.unwrap_or_default()
                    );
                }
            }
            for wanted in &missing {
                eprintln!("{}", unknown(kernel, wanted));
            }
            Ok(Verdict::from_good(missing.is_empty()))
        })
        .context("cannot look up symbols")
}

/// The symbols of a name, or the one at an address.
fn look_up<'a>(kernel: &'a Kernel<'_>, wanted: &'a str) -> Vec<Found<'a>> {
    if plain_address(wanted).is_none() {
        let named = kernel.symbols_named(wanted);
        let named: Vec<_> = named.map(|place| Found::new(wanted, place)).collect();
        if !named.is_empty() {
            return named;
        }
    }
    let place = address(wanted).ok().and_then(|at| kernel.place(at));
    place
        .map(|place| Found::new(wanted, place))
        .into_iter()
        .collect()
}
