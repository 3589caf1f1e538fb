//! What happened, in one sentence, and who did it.
//!
//! [`Diagnosis::of`] reads three things: the kernel's [`reports`] in the log, the stack of the
//! CPU that panicked, and all tasks. They are taken together: the [kind](Kind) is told by the
//! panic's words and the reports before it, and by functions on the stack where there is no
//! log; the stack is the walked one, and the report's trace where the memory is absent.
//!
//! The [culprit](Culprit) is the function that a person would look at first. From the
//! innermost frame outwards are passed over: what reports (`panic`, the machinery of `BUG`, list
//! checks, watchdogs), what every exception comes through, and helpers that everybody calls
//! (locks, strings, lists, allocators), whose caller passed what was bad. For lockups and
//! stalls it begins where the watchdog's interrupt came in. Where a fault's culprit would be the
//! kernel's own function, but a module from outside the kernel's source is among its next
//! callers, that module's function is it. Of a stack overflow it is the function that calls
//! itself, or those that call each other. Some ends have a task instead: who ran out of memory,
//! who held a lock, process 1, who asked through sysrq.
//!
//! It never fails: [`Diagnosis::lacks`] says what was not there.

mod blocked;
mod culprit;
mod fault;
mod kind;
mod names;
mod reports;
mod sentence;
mod signature;
mod taint;
#[cfg(test)]
mod tests;

use crate::log::{self, Line};
use crate::stack::{Cpu, Frame};
use crate::task::Task;
use crate::{Kernel, Place};

pub use blocked::{Blocked, Holder, Wait};
pub use culprit::Culprit;
pub use fault::{Did, Fault};
pub use kind::Kind;
pub use signature::{FRAMES, Signature};
pub use taint::Taint;

use reports::{PANIC, Report};

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskName {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
}

impl TaskName {
    fn of(task: &Task<'_>) -> Self {
        Self {
            pid: task.pid,
            comm: task.comm.clone(),
        }
    }
}

impl std::fmt::Display for TaskName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (PID {})", self.comm, self.pid)
    }
}

/// A function on a stack, as memory or the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Bytes from its start.
    pub offset: u64,
    /// Its size.
    pub size: u64,
    /// The module that it is in, if any.
    pub module: Option<String>,
    /// Whether an exception interrupted it.
    pub interrupted: bool,
}

impl Function {
    /// Whether both are the same place.
    fn is_at(&self, other: &Self) -> bool {
        self.name == other.name && self.offset == other.offset
    }
}

/// A frame as a function; `None` if it is in none.
fn function(frame: &Frame<'_>) -> Option<Function> {
    let Place {
        symbol,
        offset,
        module,
    } = frame.place?;
    Some(Function {
        name: symbol.name.to_owned(),
        offset,
        size: symbol.size,
        module: module.map(str::to_owned),
        interrupted: frame.registers.is_some(),
    })
}

/// Where the kernel died.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// On which CPU.
    pub cpu: Option<u32>,
    /// In which task, or interrupting which.
    pub task: Option<TaskName>,
    /// The work that the task did for a workqueue: its function.
    pub work: Option<String>,
    /// Whether in an interrupt.
    pub in_interrupt: bool,
    /// The stack of whoever is to blame, innermost first.
    pub stack: Vec<Function>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// In one sentence.
    pub sentence: String,
    /// What kind of end it was.
    pub kind: Kind,
    /// The kernel's own words.
    pub reason: Option<String>,
    /// Who did it.
    pub culprit: Option<Culprit>,
    /// What is the same in every crash of this cause.
    pub signature: Signature,
    /// Where.
    pub scene: Scene,
    /// The exception that ended the kernel, if it was an address that cannot be used.
    pub fault: Option<Fault>,
    /// Tasks in state D, the longest waiting first; `None` if the tasks cannot be read.
    pub blocked: Option<Vec<Blocked>>,
    /// What the kernel holds against itself; `None` if nothing tells.
    pub taint: Option<Vec<Taint>>,
    /// The lines of the log that tell of it.
    pub excerpt: Vec<String>,
    /// What was not there to be read, in sentences.
    pub lacks: Vec<String>,
}

/// Everything that a diagnosis is made of.
struct Evidence<'e, 'k> {
    kernel: Option<&'k Kernel<'k>>,
    log: &'e [Line],
    reports: &'e [Report],
    /// The CPUs, as far as they are known.
    cpus: Vec<Cpu<'k>>,
    panicked: Option<Cpu<'k>>,
    /// Its walked stack; empty if there is none.
    walked: Vec<Function>,
    /// The exception that its innermost function had, if it is no reporter.
    fault: Option<Fault>,
    tasks: Option<Vec<Task<'k>>>,
}

impl Diagnosis {
    /// Diagnoses a crashed kernel.
    pub fn of<'k>(kernel: &'k Kernel<'k>) -> Self {
        Self::with_log(kernel, kernel.newest_log())
    }

    /// The same, with a log that is from elsewhere, where the kernel's own is lost.
    pub fn with_log<'k>(kernel: &'k Kernel<'k>, log: Vec<Line>) -> Self {
        let mut lacks = Vec::new();
        if log.is_empty() {
            lacks.push("The log cannot be read.".to_owned());
        }
        let cpus = match kernel.cpu_states() {
            Ok(cpus) => cpus,
            Err(why) => {
                lacks.push(format!("What the CPUs did is not known: {why}."));
                Vec::new()
            }
        };
        let number = kernel.panicked_cpu(&cpus);
        let panicked = cpus.iter().find(|cpu| Some(cpu.number) == number).copied();
        let walked = panicked.map(|cpu| walked(kernel, &cpu)).unwrap_or_default();
        let registers = panicked.and_then(|cpu| cpu.registers);
        let fault = registers.filter(|registers| {
            let place = kernel.place(registers.pc);
            !place.is_some_and(|place| names::is_reporter(place.symbol.name))
        });
        let fault = fault.map(|registers| Fault::of_instruction(kernel, &registers));
        if panicked.is_none() && !cpus.is_empty() {
            lacks.push("Which CPU panicked is not known.".to_owned());
        } else if panicked.is_some() && walked.is_empty() {
            lacks.push("The stack of the CPU that panicked cannot be read.".to_owned());
        }
        let tasks = match kernel.tasks() {
            Ok(tasks) => Some(tasks),
            Err(why) => {
                lacks.push(format!("The tasks cannot be read: {why}."));
                None
            }
        };
        let reports = reports::read(&log);
        let evidence = Evidence {
            kernel: Some(kernel),
            log: &log,
            reports: &reports,
            cpus,
            panicked,
            walked,
            fault,
            tasks,
        };
        Self::from_evidence(&evidence, lacks)
    }

    /// Diagnoses by a log alone, such as dmesg.txt's text.
    pub fn of_log(text: &str) -> Self {
        let log = log::lines(text);
        let reports = reports::read(&log);
        let evidence = Evidence {
            kernel: None,
            log: &log,
            reports: &reports,
            cpus: Vec::new(),
            panicked: None,
            walked: Vec::new(),
            fault: None,
            tasks: None,
        };
        let lacks = vec!["Only the log was there to be read.".to_owned()];
        Self::from_evidence(&evidence, lacks)
    }

    fn from_evidence(evidence: &Evidence<'_, '_>, lacks: Vec<String>) -> Self {
        let cause = kind::decide(evidence.reports, &evidence.walked, evidence.fault.as_ref());
        let told = cause.report.map(|report| Fault::of_oops(&report.oops()));
        let fault = told.filter(|told| told.address.is_some() || told.did.is_some());
        let fault = fault.or(evidence.fault);
        let blocked = match (evidence.kernel, &evidence.tasks) {
            (Some(kernel), Some(tasks)) => Some(blocked::read(kernel, tasks)),
            _ => None,
        };
        let mut newest = evidence.reports.iter().rev();
        let taints = newest.find_map(|report| report.taint.as_deref());
        let blame = culprit::find(evidence, &cause, blocked.as_deref());
        let reason = reason(&cause);
        let signature = blame.signature(&cause, reason.as_deref());
        let sentence = sentence::say(evidence, &cause, fault.as_ref(), &blame, reason.as_deref());
        Self {
            sentence,
            kind: cause.kind,
            reason,
            signature,
            fault: fault.filter(|_| cause.kind.is_fault()),
            taint: taint::read(evidence.kernel, taints),
            excerpt: excerpt(evidence, &cause),
            culprit: blame.culprit,
            scene: blame.scene,
            blocked,
            lacks,
        }
    }
}

/// A CPU's stack, as functions.
fn walked<'k>(kernel: &'k Kernel<'k>, cpu: &Cpu<'k>) -> Vec<Function> {
    let stack = cpu
        .registers
        .and_then(|registers| kernel.interrupted_stack(registers).ok());
    let frames = stack.map(|stack| stack.frames).unwrap_or_default();
    frames.iter().filter_map(function).collect()
}

/// The kernel's words: the panic's own, if they tell what happened, or else the report's that do.
fn reason(cause: &kind::Cause<'_>) -> Option<String> {
    let words = cause.panic.and_then(|panic| panic.after(PANIC));
    let words = words.filter(|words| match kind::of_words(words) {
        Some(kind) => kind == cause.kind,
        None => cause.kind == Kind::Panic,
    });
    let told = || {
        let lines = &cause.report.or(cause.panic)?.headlines;
        let tells =
            |line: &&String| !line.contains("sysrq: Trigger") && !line.contains("Internal error: ");
        let line = lines.iter().find(tells).or(lines.first())?;
        Some(line.as_str())
    };
    words.or_else(told).map(|words| words.trim().to_owned())
}

/// From the first line of the report that tells most to the last of the panic.
fn excerpt(evidence: &Evidence<'_, '_>, cause: &kind::Cause<'_>) -> Vec<String> {
    const MOST: usize = 400;
    let both = [cause.report, cause.panic].into_iter().flatten();
    let first = both.clone().map(|report| report.lines.0).min();
    let last = both.map(|report| report.lines.1).max();
    let (Some(first), Some(last)) = (first, last) else {
        return Vec::new();
    };
    let lines = evidence.log.get(first..=last).unwrap_or_default();
    lines
        .iter()
        .take(MOST)
        .map(|line| line.text.clone())
        .collect()
}
