//! `kdraw read`: the crashed kernel's memory, in hexadecimal.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use kdraw_format::addr::{KernelVirtAddr, PhysAddr};
use kdraw_kernel::Kernel;
use kdraw_linux::memory::PhysMem;
use serde::Serialize;

use super::dump_args::{DumpArgs, locate};
use crate::exit::Verdict;
use crate::system::System;
use crate::text;

/// The most bytes that are read at once.
const MOST: u64 = 1 << 30;
/// Bytes in a line.
const LINE: u64 = 16;

/// Print memory of the crashed kernel.
///
/// An address is one of the kernel's own, virtual; with --physical a physical one. Bytes that
/// are not mapped, or that the dump does not have, are printed as `--`, never as zeros; then the
/// exit code is 1.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw read vmcore init_uts_ns 0x40
  kdraw read vmcore ffff800081a3c000 4096
  kdraw read --physical --raw vmcore 40000000 0x1000 > page")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// A hexadecimal address or a symbol, either with `+0x…` bytes.
    address: String,
    /// Bytes: decimal, or hexadecimal with 0x.
    #[arg(value_parser = length, default_value = "64")]
    length: u64,
    /// The address is physical.
    #[arg(long)]
    physical: bool,
    /// Writes the bytes themselves; fails if one is absent.
    #[arg(long)]
    raw: bool,
    /// Prints JSON.
    #[arg(long, conflicts_with = "raw")]
    json: bool,
}

/// A line's bytes.
#[derive(Serialize)]
struct Piece {
    address: u64,
    /// In hexadecimal; nothing if they are absent.
    bytes: Option<String>,
}

fn length(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let length = parsed.map_err(|_| format!("{text:?} is no number of bytes"))?;
    match length {
        1..=MOST => Ok(length),
        _ => Err(format!("1 to {MOST} bytes can be read")),
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or has no such symbol; with --raw if a byte is absent.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let at = locate(kernel, &args.address)?;
        let mut out = std::io::stdout().lock();
        let (mut absent, mut pieces) = (0u64, Vec::new());
        let end = at.saturating_add(args.length);
        let mut line = at;
        while line < end {
            // Lines are aligned: none crosses a page.
            let next = (line & !LINE.wrapping_sub(1)).saturating_add(LINE).min(end);
            let mut bytes = vec![0; next.wrapping_sub(line) as usize];
            let read = read(kernel, args.physical, line, &mut bytes);
            let there = read.is_ok();
            if args.raw {
                read?;
                out.write_all(&bytes)?;
            } else if args.json {
                pieces.push(Piece {
                    address: line,
                    bytes: there.then(|| text::hex(&bytes)),
                });
            } else {
                writeln!(out, "{}", dumped(line, &bytes, there))?;
            }
            if !there {
                absent = absent.saturating_add(bytes.len() as u64);
            }
            if next == line {
                break;
            }
            line = next;
        }
        if args.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&pieces)?)?;
        }
        out.flush()?;
        if absent > 0 {
            eprintln!("{absent} bytes are not mapped, or not in the dump");
        }
        Ok(Verdict::from_good(absent == 0))
    })
}

fn read(kernel: &Kernel<'_>, physical: bool, at: u64, into: &mut [u8]) -> Result<()> {
    match physical {
        true => kernel.virt().memory().read(PhysAddr(at), into)?,
        false => kernel.virt().read(KernelVirtAddr(at), into)?,
    }
    Ok(())
}

/// A line: address, bytes, and what they are as text.
fn dumped(at: u64, bytes: &[u8], there: bool) -> String {
    let skip = (at % LINE) as usize;
    let mut hex = "   ".repeat(skip);
    let mut shown = " ".repeat(skip);
    for (number, byte) in (skip..).zip(bytes) {
        let gap = if number == 8 { " " } else { "" };
        // Writing to a string cannot fail.
        let _ = match there {
            true => write!(hex, "{gap}{byte:02x} "),
            false => write!(hex, "{gap}-- "),
        };
        shown.push(match byte {
            _ if !there => ' ',
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        });
    }
    let line = format!("{:016x}  {hex:<49} |{shown}|", at & !LINE.wrapping_sub(1));
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_absence_is_no_zero() {
        assert_eq!(
            dumped(0x1006, b"abc", true),
            "0000000000001000                    61 62  63                       |      abc|"
        );
        let absent = dumped(0x1000, &[0; 16], false);
        assert!(
            absent.contains("-- --") && !absent.contains("00 00"),
            "{absent}"
        );
        for (text, expected) in [
            ("64", Some(64)),
            ("0x10", Some(16)),
            ("0", None),
            ("x", None),
        ] {
            assert_eq!(length(text).ok(), expected);
        }
    }
}
