//! Stacks as data, and as `bt` prints them.

use std::fmt::Write;
use std::ops::Range;

use kdraw_kernel::exception::{self, Oops};
use kdraw_kernel::stack::{Cpu, End, Frame, Stack};
use kdraw_kernel::task::Task;
use kdraw_kernel::{Kernel, Place};
use kdraw_linux::notes::{PrStatus, Registers};
use serde::Serialize;

use super::tracer::last_oops;
use crate::debug_info::sources::{Source, Sources};

/// A task's stack.
#[derive(Clone, Debug, Serialize)]
pub struct Traced {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// The CPU that it ran on last.
    pub cpu: u32,
    /// ps(1)'s letter.
    pub state: char,
    /// Its `struct task_struct`.
    pub task: u64,
    /// Whether it was running.
    pub running: bool,
    /// Whether it is the one that panicked.
    pub panicked: bool,
    /// Newest first.
    pub frames: Vec<Line>,
    /// How the stack ended: `bottom`, `user`, `absent`, `broken`, or `unknown`.
    pub end: &'static str,
    /// The program's registers, if it was one that entered the kernel.
    pub user: Option<Regs>,
}

/// A frame.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Where it goes on: a return address, or the interrupted instruction.
    pub pc: u64,
    /// The function.
    pub function: Option<String>,
    /// Bytes from the function's start.
    pub offset: Option<u64>,
    /// The function's bytes.
    pub size: Option<u64>,
    /// The module that it is in.
    pub module: Option<String>,
    /// Whether an exception interrupted it.
    pub interrupted: bool,
    /// What the exception was.
    pub exception: Option<String>,
    /// Registers, if it was interrupted.
    pub registers: Option<Regs>,
    /// Where it is in the sources, what was inlined first; if debug information was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
}

/// Registers.
#[derive(Clone, Debug, Serialize)]
pub struct Regs {
    /// The program counter.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// PSTATE.
    pub pstate: u64,
    /// x0 to x30.
    pub x: Vec<u64>,
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

    /// All of them, with their names.
    pub fn named(&self) -> Vec<(String, u64)> {
        let named = |(number, value): (usize, &u64)| (format!("x{number}"), *value);
        let mut all: Vec<_> = self.x.iter().enumerate().map(named).collect();
        all.push(("sp".to_owned(), self.sp));
        all.push(("pc".to_owned(), self.pc));
        all.push(("ps".to_owned(), self.pstate));
        all
    }

    /// In lines of four.
    pub fn in_words(&self) -> String {
        let all = self.named();
        let line = |four: &[(String, u64)]| {
            let four = four
                .iter()
                .map(|(name, value)| format!("{name:>4} {value:016x}"));
            format!("     {}\n", four.collect::<Vec<_>>().join(" "))
        };
        all.chunks(4).map(line).collect()
    }
}

impl Traced {
    /// What a CPU's registers tell of a kernel whose types are not known: where it was, and whom
    /// that returns to.
    pub fn of_registers(kernel: &Kernel<'_>, status: &PrStatus<'_>) -> Self {
        let registers = status.registers();
        let [.., lr] = registers.x;
        let frame = |pc, registers| Frame {
            pc,
            place: kernel.place(pc),
            record: 0,
            registers,
        };
        let frames = [frame(registers.pc, Some(registers)), frame(lr, None)];
        let oops = last_oops(kernel);
        Self {
            pid: status.pid(),
            comm: "?".to_owned(),
            cpu: 0,
            state: 'R',
            task: 0,
            running: true,
            panicked: false,
            frames: frames
                .iter()
                .map(|frame| Line::new(kernel, frame, &oops))
                .collect(),
            end: "unknown",
            user: None,
        }
    }

    /// Adds where the frames are in the sources.
    pub fn add_sources(&mut self, sources: &mut Sources) {
        for line in &mut self.frames {
            // A return address is behind its call, which may be the last of its line.
            let back = if line.interrupted { 0 } else { 4 };
            line.sources = match (&line.module, &line.function, line.offset, line.size) {
                (None, ..) => sources.at(line.pc.wrapping_sub(back)),
                (Some(module), Some(function), Some(offset), Some(size)) => {
                    sources.in_module(module, function, size, offset.wrapping_sub(back))
                }
                _ => Vec::new(),
            };
        }
    }

    /// Whether the walk came to the stack's first frame.
    pub fn is_whole(&self) -> bool {
        matches!(self.end, "bottom" | "user")
    }

    /// The task, in a line.
    pub fn headline(&self) -> String {
        let what = match (self.panicked, self.running) {
            (true, _) => "panicked".to_owned(),
            (_, true) => "running".to_owned(),
            _ => format!("state {}", self.state),
        };
        format!(
            "PID {}  CPU {}  {}  {what}  task {:016x}",
            self.pid, self.cpu, self.comm, self.task
        )
    }

    /// How it ended, unless that is plain.
    pub fn end_in_words(&self) -> Option<String> {
        match (self.end, &self.user) {
            ("user", Some(user)) => Some(format!(
                "from a program: pc {:#x} sp {:#x}",
                user.pc, user.sp
            )),
            ("absent", _) => Some("the stack's rest is not in the dump".to_owned()),
            ("unknown", _) => Some(
                "further frames take the task's stack, and which that is nobody knows".to_owned(),
            ),
            ("broken", _) => Some("the stack's rest makes no sense".to_owned()),
            _ => None,
        }
    }

    /// The frames that are left out if no more than `most` are shown: those in the middle.
    pub fn left_out(&self, most: usize) -> Range<usize> {
        match self.frames.len() {
            len if len > most => most / 2..len.saturating_sub(most / 2),
            _ => 0..0,
        }
    }

    /// The frames in lines, no more than `most`, with registers if they are wanted.
    pub fn in_words(&self, registers: bool, most: usize) -> String {
        let mut text = self.headline();
        text.push('\n');
        let left_out = self.left_out(most);
        for (number, line) in self.frames.iter().enumerate() {
            if left_out.contains(&number) {
                if number == left_out.start {
                    let _ = writeln!(text, "     … {} frames …", left_out.len());
                }
                continue;
            }
            let mark = if line.interrupted { '!' } else { ' ' };
            let _ = writeln!(
                text,
                "{number:>3}{mark} {:016x}  {}",
                line.pc,
                line.function_in_words()
            );
            for (number, source) in line.sources.iter().enumerate() {
                let is_own = number.saturating_add(1) == line.sources.len();
                let inlined = source.function.as_ref().filter(|_| !is_own);
                let inlined = inlined.map(|name| format!("  {name}, inlined"));
                let inlined = inlined.unwrap_or_default();
                let _ = writeln!(text, "       {}:{}{inlined}", source.file, source.line);
            }
            if let Some(exception) = &line.exception {
                let _ = writeln!(text, "     {exception}");
            }
            if let Some(line) = line.registers.as_ref().filter(|_| registers) {
                text.push_str(&line.in_words());
            }
        }
        if let Some(end) = self.end_in_words() {
            let _ = writeln!(text, "     {end}");
        }
        if let Some(user) = self.user.as_ref().filter(|_| registers) {
            text.push_str(&user.in_words());
        }
        text
    }

    /// What a walk of a task's stack found.
    pub fn new(
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
    /// As the kernel prints it: `function+0x4/0x20 [module]`.
    pub fn function_in_words(&self) -> String {
        let module = self.module.as_ref().map(|name| format!(" [{name}]"));
        let module = module.unwrap_or_default();
        match (&self.function, self.offset, self.size) {
            (Some(name), Some(offset), Some(size)) => {
                format!("{name}+{offset:#x}/{size:#x}{module}")
            }
            _ => format!("?{module}"),
        }
    }

    fn new(kernel: &Kernel<'_>, frame: &Frame<'_>, oops: &Oops) -> Self {
        let place = frame.place;
        let here = place.map(|place| in_function(&place));
        let told = oops.pc.as_ref().and_then(|pc| pc.split('/').next());
        let is_oops = frame.registers.is_some() && here.is_some() && here.as_deref() == told;
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
            sources: Vec::new(),
        }
    }
}

/// `function+0x4`. The size that the kernel prints behind it is, of a module's function, that up to
/// the next symbol, which is not what its symbol says.
fn in_function(place: &Place<'_>) -> String {
    format!("{}+{:#x}", place.symbol.name, place.offset)
}
