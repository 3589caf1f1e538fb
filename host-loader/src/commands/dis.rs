//! `kdraw dis`: instructions of the crashed kernel.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use kdraw_kernel::stack::Frame;
use kdraw_kernel::{Kernel, Place};
use serde::Serialize;

use super::dump_args::{DumpArgs, locate, plain_address};
use crate::disassembly::Instruction;
use crate::exit::Verdict;
use crate::system::System;

/// Bytes of an instruction.
const SIZE: u64 = 4;
/// The most instructions of one function that are shown unless a number is asked for.
const MOST: u64 = 1 << 16;
/// Instructions that are shown from an address on.
const FROM_ADDRESS: u64 = 16;

/// Disassemble a function of the crashed kernel, as it was in memory.
///
/// What ran is shown: patched alternatives, trace points, modules. `=>` marks where an exception
/// interrupted a CPU in the function, `->` the call that had not come back. Exit code 1 if some
/// of the instructions are not in the dump.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw dis vmcore sysrq_handle_crash
  kdraw dis vmcore __handle_sysrq+0x8c -n 4
  kdraw dis vmcore 0xffff8000800a1b2c")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// A function: all of it. With `+0x…`, or a hexadecimal address: some instructions from there
    /// on.
    #[arg(value_name = "WHAT")]
    what: String,
    /// How many instructions.
    #[arg(short = 'n', long)]
    count: Option<u64>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A line.
#[derive(Serialize)]
struct Line {
    address: u64,
    function: Option<String>,
    offset: Option<u64>,
    /// Its encoding; nothing if it is not in the dump.
    word: Option<u32>,
    /// Nothing if it is no instruction.
    mnemonic: Option<String>,
    operands: Option<String>,
    /// Where it branches to.
    target: Option<String>,
    /// `interrupted` or `called`, if a CPU was here.
    here: Option<&'static str>,
    /// Those CPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u32>,
}

/// Which CPUs were at an instruction, and whether an exception interrupted them there.
type Here = BTreeMap<u64, (bool, Vec<u32>)>;

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or has no such function.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let lines = lines(args, kernel)?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&lines)?);
        } else {
            print(&lines);
        }
        Ok(Verdict::from_good(
            lines.iter().all(|line| line.word.is_some()),
        ))
    })
}

fn lines(args: &Args, kernel: &Kernel<'_>) -> Result<Vec<Line>> {
    let start = locate(kernel, &args.what)?;
    if !start.is_multiple_of(SIZE) {
        bail!("no instruction begins at {start:#x}: instructions lie at multiples of 4");
    }
    let is_whole = plain_address(&args.what).is_none() && !args.what.contains('+');
    let size = kernel.place(start).map(|place| place.symbol.size);
    let count = match (args.count, size.filter(|_| is_whole)) {
        (Some(count), _) => count,
        (None, Some(size)) => size.div_ceil(SIZE),
        (None, None) => FROM_ADDRESS,
    };
    let here = here(kernel);
    let addresses =
        (0..count.min(MOST)).map(|number| start.wrapping_add(number.wrapping_mul(SIZE)));
    let lines: Vec<_> = addresses.map(|at| Line::new(kernel, at, &here)).collect();
    if lines.iter().all(|line| line.word.is_none()) {
        let place = kernel
            .place(start)
            .context("no function of the kernel is there")?;
        bail!("{} is not in the dump", place.symbol.name);
    }
    Ok(lines)
}

/// Where the CPUs were. Nothing if the dump does not tell: the instructions can be read all the
/// same.
fn here(kernel: &Kernel<'_>) -> Here {
    let mut here = Here::new();
    for cpu in kernel.cpu_states().unwrap_or_default() {
        let stack = cpu
            .registers
            .map(|registers| kernel.interrupted_stack(registers));
        for frame in stack
            .and_then(Result::ok)
            .map(|stack| stack.frames)
            .unwrap_or_default()
        {
            let (at, is_interrupted) = instruction(&frame);
            let (interrupted, cpus) = here.entry(at).or_default();
            *interrupted |= is_interrupted;
            cpus.push(cpu.number);
        }
    }
    here
}

/// The instruction that a frame is at: the interrupted one, or the call.
fn instruction(frame: &Frame<'_>) -> (u64, bool) {
    match frame.registers {
        Some(_) => (frame.pc, true),
        None => (frame.pc.wrapping_sub(SIZE), false),
    }
}

impl Line {
    fn new(kernel: &Kernel<'_>, address: u64, here: &Here) -> Self {
        let place = kernel.place(address);
        let word = kernel.read_number(address, SIZE as usize).ok();
        let word = word.map(|word| word as u32);
        let instruction = word.and_then(|word| Instruction::decode(word, address));
        let target = instruction.as_ref().and_then(|found| found.target);
        let (mnemonic, operands) = instruction
            .map(|found| (found.mnemonic, found.operands))
            .unzip();
        let here = here.get(&address);
        Self {
            address,
            function: place.map(|place| place.symbol.name.to_owned()),
            offset: place.map(|place| place.offset),
            word,
            mnemonic,
            operands,
            target: target.and_then(|at| kernel.place(at)).map(|at| named(&at)),
            here: here.map(|(interrupted, _)| match interrupted {
                true => "interrupted",
                false => "called",
            }),
            cpus: here.map(|(_, cpus)| cpus.clone()).unwrap_or_default(),
        }
    }
}

fn named(place: &Place<'_>) -> String {
    match place.offset {
        0 => place.symbol.name.to_owned(),
        offset => format!("{}+{offset:#x}", place.symbol.name),
    }
}

fn print(lines: &[Line]) {
    let mut function = None;
    for line in lines {
        if line.function != function {
            function.clone_from(&line.function);
            println!("{}:", function.as_deref().unwrap_or("?"));
        }
        let mark = match line.here {
            Some("interrupted") => "=>",
            Some(_) => "->",
            None => "  ",
        };
        let offset = line
            .offset
            .map_or_else(String::new, |at| format!("+{at:#x}"));
        let text = match (line.word, &line.mnemonic, &line.operands) {
            (Some(word), Some(mnemonic), Some(operands)) => {
                format!("{word:08x}  {mnemonic:<7} {operands}")
            }
            (Some(word), ..) => format!("{word:08x}  .inst   {word:#010x}"),
            (None, ..) => "--------  not in the dump".to_owned(),
        };
        let target = line.target.as_ref().map(|name| format!("  <{name}>"));
        let cpus = match line.cpus.as_slice() {
            [] => String::new(),
            cpus => format!("  // {}", on(cpus)),
        };
        let text = format!(
            "{mark} {:016x} {offset:>7}  {text}{}{cpus}",
            line.address,
            target.unwrap_or_default(),
        );
        println!("{}", text.trim_end());
    }
}

fn on(cpus: &[u32]) -> String {
    let numbers: Vec<_> = cpus.iter().map(u32::to_string).collect();
    match numbers.as_slice() {
        [one] => format!("CPU {one}"),
        several => format!("CPUs {}", several.join(", ")),
    }
}
