//! What the log tells: the kernel's reports, each with its headlines, its task and its trace.
//!
//! A report is what one task, or one CPU in an interrupt, printed about one trouble: headlines
//! (`Unable to handle kernel …`, `kernel BUG at …`, `Internal error: …`), then who it was
//! (`CPU: … PID: … Comm: …`, `Workqueue: …`), where (`pc :`, `lr :`) and the call trace. A
//! headline behind a trace begins the next report. Lines of other kinds are passed over, so
//! that a log that is cut, overwritten or interleaved loses what is lost, and no more.
//!
//! Source: `kernel/panic.c`, `kernel/hung_task.c`, `kernel/watchdog.c`, `kernel/rcu/tree_stall.h`,
//! `mm/oom_kill.c`, `lib/dump_stack.c`, `arch/arm64/kernel/{process,stacktrace,traps}.c`,
//! `arch/arm64/mm/fault.c`.

use std::collections::BTreeMap;

use super::{Function, TaskName};
use crate::exception::Oops;
use crate::log::{Caller, Line};

/// The panic's own line.
pub const PANIC: &str = "Kernel panic - not syncing: ";
/// What begins a report, or adds to what is about to be reported.
const HEADLINES: [&str; 29] = [
    PANIC,
    "Unable to handle kernel ",
    "Unhandled fault at ",
    "kernel BUG at ",
    "Internal error: ",
    "Insufficient stack space to handle exception",
    "corrupted stack end detected",
    "list_add corruption",
    "list_del corruption",
    "list_add double add",
    "slab list corruption",
    "refcount_t: ",
    "detected buffer overflow in ",
    "usercopy: Kernel memory ",
    "BUG: KASAN: ",
    "BUG: KFENCE: ",
    "BUG: KCSAN: ",
    "UBSAN: ",
    "CFI failure at ",
    "BUG: scheduling while atomic: ",
    "BUG: sleeping function called from invalid context",
    "BUG: soft lockup - CPU#",
    "hard LOCKUP on cpu ",
    "self-detected stall on CPU",
    "detected stalls on CPUs/tasks",
    "detected expedited stalls on CPUs/tasks",
    " invoked oom-killer: ",
    "SError Interrupt on CPU",
    "sysrq: Trigger a crash",
];
/// The most functions of a trace that are kept.
const MAX_TRACE: usize = 4096;

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Who printed it.
    pub caller: Option<Caller>,
    /// The lines that say what happened.
    pub headlines: Vec<String>,
    /// On which CPU.
    pub cpu: Option<u32>,
    /// In which task.
    pub task: Option<TaskName>,
    /// The work that a worker did: the workqueue's name and the function.
    pub work: Option<String>,
    /// The letters of `Tainted:`; empty if it said that nothing is.
    pub taint: Option<String>,
    /// The syndrome.
    pub esr: Option<u64>,
    /// Where it happened.
    pub pc: Option<Function>,
    /// Where that returns to.
    pub lr: Option<Function>,
    /// Who called whom, innermost first.
    pub trace: Vec<Function>,
    /// The stalled CPUs that an RCU stall names.
    pub stalled_cpus: Vec<u32>,
    /// The tasks that it names, by number.
    pub stalled_tasks: Vec<i32>,
    /// The first and the last of its lines.
    pub lines: (usize, usize),
    /// Whether it happened where there is no function.
    is_nowhere: bool,
    /// Whether its trace began.
    traced: bool,
}

impl Report {
    /// The rest of the headline behind some words.
    pub fn after(&self, words: &str) -> Option<&str> {
        let mut lines = self.headlines.iter();
        lines.find_map(|line| line.split_once(words).map(|(_, rest)| rest))
    }

    /// The headline with some words.
    pub fn with(&self, words: &str) -> Option<&str> {
        let mut lines = self.headlines.iter();
        lines.find(|line| line.contains(words)).map(String::as_str)
    }

    /// Its exception.
    pub fn oops(&self) -> Oops {
        let mut oops = Oops::last(self.headlines.iter().map(String::as_str));
        oops.esr = self.esr.or(oops.esr);
        oops
    }

    /// Its stack: the trace, and the caller that made no record and is known by x30 only.
    pub fn stack(&self) -> Vec<Function> {
        let mut stack = self.trace.clone();
        // A call that was its function's last instruction returns to the next function.
        stack.retain(|frame| frame.offset != 0 || self.pc.as_ref() == Some(frame));
        // A warning's or a lockup's trace may begin in what reports.
        let Some(pc) = &self.pc else {
            // The kernel jumped to nowhere; x30 says from where.
            if let Some(lr) = self.lr.as_ref().filter(|_| self.is_nowhere)
                && !stack.first().is_some_and(|first| first.is_at(lr))
            {
                stack.insert(0, lr.clone());
            }
            return stack;
        };
        let at = stack.iter().position(|frame| frame.is_at(pc));
        let at = match at {
            Some(at) => at,
            None if stack.is_empty() => {
                stack.push(pc.clone());
                0
            }
            None => return stack,
        };
        if let Some(frame) = stack.get_mut(at) {
            frame.interrupted = true;
        }
        let next = at.saturating_add(1);
        if let Some(lr) = &self.lr
            && lr.name != pc.name
            && !stack.get(next).is_some_and(|frame| frame.is_at(lr))
        {
            stack.insert(next.min(stack.len()), lr.clone());
        }
        stack
    }
}

/// A function as the kernel prints it: `name+0x10/0x20 [module build-id]`, with anything behind.
pub fn function(text: &str) -> Option<Function> {
    let mut words = text.trim().split(' ');
    let place = words.next()?;
    let (name, numbers) = place.rsplit_once('+')?;
    let (offset, size) = numbers.split_once('/')?;
    let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (offset, size) = (hex(offset)?, hex(size)?);
    let mut is_pc = false;
    let mut module = None;
    for word in words {
        if let Some(inside) = word.strip_prefix('[') {
            let inside = inside.trim_end_matches(']');
            // Behind the name may stand its taints: `ext4(OE)`.
            let name = inside.split('(').next().unwrap_or_default();
            module = (!name.is_empty()).then(|| name.to_owned());
        }
        is_pc |= word == "(P)";
    }
    (!name.is_empty()).then(|| Function {
        name: name.to_owned(),
        offset,
        size,
        module,
        interrupted: is_pc,
    })
}

/// The number that text begins with.
pub fn leading_number(text: &str) -> Option<u64> {
    let digits = text.len().saturating_sub(
        text.trim_start_matches(|digit: char| digit.is_ascii_digit())
            .len(),
    );
    text.get(..digits)?.parse().ok()
}

/// The word behind some words.
fn word_after<'t>(text: &'t str, before: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_whitespace().next()
}

/// `CPU: 1 UID: 0 PID: 101 Comm: kworker/u8:1 Kdump: loaded Tainted: …`
fn identity(report: &mut Report, line: &str) {
    report.cpu = word_after(line, "CPU: ").and_then(leading).or(report.cpu);
    let pid = word_after(line, "PID: ").and_then(leading);
    if let (Some(pid), Some((_, rest))) = (pid, line.split_once("Comm: ")) {
        // A name may have spaces; what stands behind it is the rest of `print_tainted`.
        let ends = [" Kdump: ", " Tainted: ", " Not tainted "];
        let end = ends.iter().filter_map(|end| rest.find(end)).min();
        let comm = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
        report.task = Some(TaskName {
            pid: pid.cast_signed(),
            comm: comm.trim_end().to_owned(),
        });
    }
    taint(report, line);
}

fn taint(report: &mut Report, line: &str) {
    if line.contains("Not tainted ") {
        report.taint = Some(String::new());
    } else if let Some((_, rest)) = line.split_once("Tainted: ") {
        let letters = rest
            .chars()
            .take_while(|letter| letter.is_ascii_uppercase() || *letter == ' ');
        report.taint = Some(letters.filter(|letter| *letter != ' ').collect());
    }
}

fn leading(text: &str) -> Option<u32> {
    leading_number(text).and_then(|number| u32::try_from(number).ok())
}

/// `INFO: task NAME:PID blocked for more than 120 seconds.`
pub fn hung_task(line: &str) -> Option<(TaskName, u64)> {
    let (_, rest) = line.split_once("INFO: task ")?;
    let (who, rest) = rest
        .split_once(" blocked for more than ")
        .or_else(|| rest.split_once(" blocked in I/O wait for more than "))?;
    let seconds = leading_number(rest)?;
    task_name(who, ':').map(|name| (name, seconds))
}

/// `NAME:PID`.
pub fn task_name(text: &str, separator: char) -> Option<TaskName> {
    let (comm, pid) = text.rsplit_once(separator)?;
    Some(TaskName {
        comm: comm.to_owned(),
        pid: leading(pid)?.cast_signed(),
    })
}

fn is_headline(line: &str) -> bool {
    // The panic's end repeats its beginning.
    !line.contains("---[ end ")
        && (HEADLINES.iter().any(|words| line.contains(words))
            || hung_task(line).is_some()
            || line.starts_with("WARNING: "))
}

/// Reads all reports of a log, in their order.
pub fn read(log: &[Line]) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    let mut open: BTreeMap<Option<Caller>, usize> = BTreeMap::new();
    for (number, line) in log.iter().enumerate() {
        let text = line.text.as_str();
        let current = open.get(&line.caller).copied();
        if is_headline(text) {
            let goes_on = current
                .and_then(|current| reports.get_mut(current))
                .filter(|report| !report.traced && !text.contains(PANIC));
            match goes_on {
                Some(report) => report.headlines.push(text.to_owned()),
                None => {
                    open.insert(line.caller, reports.len());
                    reports.push(Report {
                        caller: line.caller,
                        headlines: vec![text.to_owned()],
                        lines: (number, number),
                        ..Report::default()
                    });
                }
            }
        }
        let open = open.get(&line.caller).copied();
        let Some(report) = open.and_then(|open| reports.get_mut(open)) else {
            continue;
        };
        if detail(report, text) {
            report.lines.1 = number;
        }
    }
    reports
}

/// Takes what a line tells of a report; false if it tells nothing.
fn detail(report: &mut Report, line: &str) -> bool {
    let trimmed = line.trim_start();
    if is_headline(line) {
        return true;
    }
    if trimmed.starts_with("CPU: ") && trimmed.contains("Comm: ") {
        // What follows is of who is named here, which may be another CPU's.
        report.traced = true;
        identity(report, trimmed);
    } else if let Some(esr) = trimmed
        .strip_prefix("ESR = 0x")
        .or(trimmed.strip_prefix("ESR: 0x"))
    {
        let digits = esr.split([' ', ',']).next().unwrap_or_default();
        report.esr = u64::from_str_radix(digits, 16).ok();
    } else if let Some(work) = trimmed.strip_prefix("Workqueue: ") {
        report.work = Some(work.to_owned());
    } else if let Some(pc) = trimmed.strip_prefix("pc : ") {
        report.traced = true;
        report.pc = function(pc);
        report.is_nowhere = report.pc.is_none();
    } else if let Some(lr) = trimmed.strip_prefix("lr : ") {
        report.lr = function(lr);
    } else if trimmed.starts_with("Call trace:") {
        report.traced = true;
        report.trace.clear();
    } else if trimmed.starts_with("Tainted: ") && !trimmed.contains('[') {
        taint(report, trimmed);
    } else if let Some(cpu) = stalled_cpu(trimmed) {
        report.stalled_cpus.push(cpu);
    } else if let Some(tasks) = stalled_tasks(trimmed) {
        report.stalled_tasks.extend(tasks);
    } else if line.starts_with(' ') && report.traced && report.trace.len() < MAX_TRACE {
        let Some(frame) = function(line) else {
            return false;
        };
        report.trace.push(frame);
    } else {
        return false;
    }
    true
}

/// `rcu: \t1-....: (4691 ticks this GP) idle=…`
fn stalled_cpu(line: &str) -> Option<u32> {
    let (number, rest) = line.strip_prefix("rcu:")?.trim_start().split_once('-')?;
    let cpu = leading(number).filter(|_| number.bytes().all(|digit| digit.is_ascii_digit()));
    cpu.filter(|_| rest.contains("ticks this GP") || rest.contains("GPs behind"))
}

/// `rcu: \tTasks blocked on level-0 rcu_node (CPUs 0-1): P123/1:b..l P124`
fn stalled_tasks(line: &str) -> Option<impl Iterator<Item = i32>> {
    let (_, tasks) = line.split_once("Tasks blocked on level-")?;
    let (_, tasks) = tasks.split_once("): ")?;
    let number = |task: &str| leading(task.strip_prefix('P')?).map(u32::cast_signed);
    Some(tasks.split(' ').filter_map(number))
}

/// `INFO: task A:1 is blocked on a mutex likely owned by task B:2.`
pub fn owner(line: &str) -> Option<(TaskName, TaskName)> {
    let (_, rest) = line.split_once("INFO: task ")?;
    let (who, rest) = rest.split_once(" is blocked on a ")?;
    let (_, owner) = rest.split_once(" owned by task ")?;
    let owner = owner.trim_end_matches(|end: char| !end.is_ascii_digit());
    Some((task_name(who, ':')?, task_name(owner, ':')?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log;

    #[test]
    fn functions_are_read_as_the_kernel_prints_them() {
        let read = function(" panics_recurse+0x14/0xa0 [kdraw_panics 1f] (P)").unwrap();
        assert_eq!(read.name, "panics_recurse");
        assert_eq!((read.offset, read.size), (0x14, 0xa0));
        assert_eq!(read.module.as_deref(), Some("kdraw_panics"));
        assert!(read.interrupted);
        let plain = function("__do_sys_a+b.isra.0+0x1/0x2").unwrap();
        assert_eq!(
            (plain.name.as_str(), plain.module),
            ("__do_sys_a+b.isra.0", None)
        );
        for bad in ["", "+", "a+1/2", "a+0x1", "+0x1/0x2", "0xffff800010000000"] {
            assert_eq!(function(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lines_of_two_cpus_do_not_mix() {
        let mut lines = log::lines(
            "kernel BUG at a.c:1!\nwatchdog: BUG: soft lockup - CPU#1 stuck for 5s! [x:7]\n\
             pc : first+0x4/0x8\npc : second+0x4/0x8\nCall trace:\nCall trace:\n first+0x4/0x8\n \
             second+0x4/0x8",
        );
        for (number, line) in lines.iter_mut().enumerate() {
            line.caller = Some(match number % 2 {
                0 => Caller::Task(5),
                _ => Caller::Cpu(1),
            });
        }
        let reports = read(&lines);
        let names: Vec<_> = reports
            .iter()
            .map(|report| {
                report
                    .trace
                    .iter()
                    .map(|frame| frame.name.as_str())
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(names, [["first"], ["second"]]);
    }

    #[test]
    fn names_with_spaces_and_colons_are_whole() {
        let mut report = Report::default();
        identity(
            &mut report,
            "CPU: 3 UID: 0 PID: 44 Comm: my app: x Kdump: loaded Tainted: G        W  O       6.12.0 #1",
        );
        assert_eq!(report.cpu, Some(3));
        let task = report.task.unwrap();
        assert_eq!((task.pid, task.comm.as_str()), (44, "my app: x"));
        assert_eq!(report.taint.as_deref(), Some("GWO"));
        let (task, seconds) =
            hung_task("INFO: task kworker/u8:1:44 blocked for more than 120 seconds.").unwrap();
        assert_eq!(
            (task.comm.as_str(), task.pid, seconds),
            ("kworker/u8:1", 44, 120)
        );
    }
}
