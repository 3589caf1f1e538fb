//! `kdraw bt`: the stacks of the crashed kernel's tasks.

use anyhow::{Result, bail};
use kdraw_kernel::exception::{self, Oops};
use kdraw_kernel::stack::{Cpu, End, Frame, Stack};
use kdraw_kernel::task::Task;
use kdraw_kernel::{Kernel, Place};
use kdraw_linux::notes::Registers;
use kdraw_linux::printk::PrintkLog;
use serde::Serialize;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::system::System;

/// The newest records of the log, among which the oops is looked for.
const NEWEST_RECORDS: u64 = 1000;

/// Show who called whom when the kernel crashed.
///
/// Without a PID the stack of the task that panicked; with -a those of all CPUs. Addresses are
/// return addresses, as in the kernel's own traces; `!` marks where an exception interrupted.
/// What the exception was is told in words, if the log tells it. Exit code 1 if a stack ends
/// early, because its memory is damaged or not in the dump.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw bt vmcore
  kdraw bt -a -r vmcore
  kdraw bt vmcore 1 2 817")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Numbers of tasks.
    #[arg(conflicts_with_all = ["all_cpus", "all"])]
    pid: Vec<i32>,
    /// Shows the tasks that the CPUs were running.
    #[arg(short, long)]
    all_cpus: bool,
    /// Shows every task.
    #[arg(long, conflicts_with = "all_cpus")]
    all: bool,
    /// Shows the registers wherever an exception interrupted.
    #[arg(short, long)]
    registers: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A task's stack.
#[derive(Serialize)]
struct Traced {
    pid: i32,
    comm: String,
    cpu: u32,
    state: char,
    /// Its `struct task_struct`.
    task: u64,
    /// Whether it was running.
    running: bool,
    /// Whether it is the one that panicked.
    panicked: bool,
    frames: Vec<Line>,
    /// How the stack ended: `bottom`, `user`, `absent` or `broken`.
    end: &'static str,
    /// The program's registers, if it was one that entered the kernel.
    user: Option<Regs>,
}

/// A frame.
#[derive(Serialize)]
struct Line {
    pc: u64,
    function: Option<String>,
    offset: Option<u64>,
    size: Option<u64>,
    module: Option<String>,
    /// Whether an exception interrupted it.
    interrupted: bool,
    /// What the exception was.
    exception: Option<String>,
    registers: Option<Regs>,
}

/// Registers.
#[derive(Serialize)]
struct Regs {
    pc: u64,
    sp: u64,
    pstate: u64,
    x: Vec<u64>,
}

impl Regs {
    fn new(registers: &Registers) -> Self {
        Self {
            pc: registers.pc,
            sp: registers.sp,
            pstate: registers.pstate,
            x: registers.x.to_vec(),
        }
    }

    /// In lines of four.
    fn in_words(&self) -> String {
        let named = |(number, value): (usize, &u64)| (format!("x{number}"), *value);
        let mut all: Vec<_> = self.x.iter().enumerate().map(named).collect();
        all.push(("sp".to_owned(), self.sp));
        all.push(("pc".to_owned(), self.pc));
        all.push(("ps".to_owned(), self.pstate));
        let line = |four: &[(String, u64)]| {
            let four = four
                .iter()
                .map(|(name, value)| format!("{name:>4} {value:016x}"));
            format!("     {}\n", four.collect::<Vec<_>>().join(" "))
        };
        all.chunks(4).map(line).collect()
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or there is no such task.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let traced = traced(args, kernel)?;
        let whole = |traced: &Traced| matches!(traced.end, "bottom" | "user");
        if args.json {
            println!("{}", serde_json::to_string_pretty(&traced)?);
        } else {
            for (number, traced) in traced.iter().enumerate() {
                if number > 0 {
                    println!();
                }
                print(traced, args.registers);
            }
        }
        Ok(Verdict::from_good(traced.iter().all(whole)))
    })
}

fn traced(args: &Args, kernel: &Kernel<'_>) -> Result<Vec<Traced>> {
    let cpus = kernel.cpu_states()?;
    let panicked = panicked(kernel, &cpus);
    let oops = last_oops(kernel);
    let trace = |task: Task<'_>| -> Result<Traced> {
        let cpu = cpus
            .iter()
            .find(|cpu| cpu.current.address == task.object.address);
        let stack = match cpu.map(|cpu| cpu.registers) {
            Some(Some(registers)) => kernel.interrupted_stack(registers)?,
            Some(None) => bail!(
                "PID {} was running on CPU {}, which did not stop: nobody knows its registers",
                task.pid,
                task.cpu
            ),
            None => kernel.sleeping_stack(&task.object)?,
        };
        let is_panicked = cpu.is_some_and(|cpu| Some(cpu.number) == panicked);
        Ok(Traced::new(kernel, &task, &stack, is_panicked, cpu, &oops))
    };
    if args.pid.is_empty() && !args.all {
        let wanted = cpus
            .iter()
            .filter(|cpu| args.all_cpus || Some(cpu.number) == panicked);
        return wanted.map(|cpu| trace(Task::read(cpu.current)?)).collect();
    }
    let tasks = kernel.tasks()?;
    if let Some(pid) = args
        .pid
        .iter()
        .find(|pid| tasks.iter().all(|task| task.pid != **pid))
    {
        bail!("there is no task {pid}; `kdraw ps` lists them");
    }
    let wanted = tasks
        .into_iter()
        .filter(|task| args.all || args.pid.contains(&task.pid));
    wanted.map(trace).collect()
}

/// The CPU that panicked: what the kernel noted, or who wrote the log's last record.
fn panicked(kernel: &Kernel<'_>, cpus: &[Cpu<'_>]) -> Option<u32> {
    const IN_INTERRUPT: u32 = 1 << 31;
    let noted = kernel.symbol("panic_cpu");
    let noted = noted.and_then(|at| kernel.read_number(at, 4).ok());
    let is_cpu = |number: u32| cpus.iter().any(|cpu| cpu.number == number);
    if let Some(cpu) = noted.map(|cpu| cpu as u32).filter(|cpu| is_cpu(*cpu)) {
        return Some(cpu);
    }
    let log = PrintkLog::open(kernel.virt(), &kernel.vmcoreinfo()).ok()?;
    let details = |number| log.details(number).ok().flatten();
    let last = (0..log.ids()).rev().find_map(details)?.caller?;
    let wrote = |cpu: &&Cpu<'_>| match last & IN_INTERRUPT {
        0 => cpu.current.get("pid") == Ok(last.into()),
        _ => cpu.number == last & !IN_INTERRUPT,
    };
    cpus.iter().find(wrote).map(|cpu| cpu.number)
}

fn last_oops(kernel: &Kernel<'_>) -> Oops {
    let Ok(log) = PrintkLog::open(kernel.virt(), &kernel.vmcoreinfo()) else {
        return Oops::default();
    };
    let mut text = Vec::new();
    for number in log.ids().saturating_sub(NEWEST_RECORDS)..log.ids() {
        log.write_record(number, &mut |piece| text.extend_from_slice(piece));
    }
    let text = String::from_utf8_lossy(&text);
    // Without the time in front.
    let lines = text.lines();
    Oops::last(lines.map(|line| line.split_once("] ").map_or(line, |(_, rest)| rest)))
}

impl Traced {
    fn new(
        kernel: &Kernel<'_>,
        task: &Task<'_>,
        stack: &Stack<'_>,
        panicked: bool,
        cpu: Option<&Cpu<'_>>,
        oops: &Oops,
    ) -> Self {
        let lines = stack.frames.iter();
        let (end, user) = match &stack.end {
            End::Bottom => ("bottom", None),
            End::User(registers) => ("user", Some(Regs::new(registers))),
            End::Absent(_) => ("absent", None),
            End::Broken(_) => ("broken", None),
        };
        Self {
            pid: task.pid,
            comm: task.comm.clone(),
            cpu: cpu.map_or(task.cpu, |cpu| cpu.number),
            state: task.state,
            task: task.object.address,
            running: cpu.is_some(),
            panicked,
            frames: lines.map(|frame| Line::new(kernel, frame, oops)).collect(),
            end,
            user,
        }
    }
}

impl Line {
    fn new(kernel: &Kernel<'_>, frame: &Frame<'_>, oops: &Oops) -> Self {
        let place = frame.place;
        let here = place.map(|place| in_function(&place));
        let is_oops = frame.registers.is_some() && here.is_some() && here == oops.pc;
        let exception = oops.esr.filter(|_| is_oops).map(|esr| {
            let what = exception::in_words(esr);
            match oops.address {
                Some(address) => {
                    let at = exception::address_in_words(kernel, address);
                    format!("{what}, at {address:#x} ({at})")
                }
                None => what,
            }
        });
        Self {
            pc: frame.pc,
            function: place.map(|place| place.symbol.name.to_owned()),
            offset: place.map(|place| place.offset),
            size: place.map(|place| place.symbol.size),
            module: place.and_then(|place| place.module).map(str::to_owned),
            interrupted: frame.registers.is_some(),
            exception,
            registers: frame.registers.as_ref().map(Regs::new),
        }
    }
}

/// As the kernel prints it.
fn in_function(place: &Place<'_>) -> String {
    format!(
        "{}+{:#x}/{:#x}",
        place.symbol.name, place.offset, place.symbol.size
    )
}

fn print(traced: &Traced, registers: bool) {
    let what = match (traced.panicked, traced.running) {
        (true, _) => "panicked".to_owned(),
        (_, true) => "running".to_owned(),
        _ => format!("state {}", traced.state),
    };
    println!(
        "PID {}  CPU {}  {}  {what}  task {:016x}",
        traced.pid, traced.cpu, traced.comm, traced.task
    );
    for (number, line) in traced.frames.iter().enumerate() {
        let mark = if line.interrupted { '!' } else { ' ' };
        let module = line.module.as_ref().map(|name| format!(" [{name}]"));
        let function = match (&line.function, line.offset, line.size) {
            (Some(name), Some(offset), Some(size)) => format!("{name}+{offset:#x}/{size:#x}"),
            _ => "?".to_owned(),
        };
        println!(
            "{number:>3}{mark} {:016x}  {function}{}",
            line.pc,
            module.unwrap_or_default()
        );
        if let Some(exception) = &line.exception {
            println!("     {exception}");
        }
        if let Some(line) = line.registers.as_ref().filter(|_| registers) {
            print!("{}", line.in_words());
        }
    }
    match (traced.end, &traced.user) {
        ("user", Some(user)) => {
            println!("     from a program: pc {:#x} sp {:#x}", user.pc, user.sp);
            if registers {
                print!("{}", user.in_words());
            }
        }
        ("absent", _) => println!("     the stack's rest is not in the dump"),
        ("broken", _) => println!("     the stack's rest makes no sense"),
        _ => {}
    }
}
