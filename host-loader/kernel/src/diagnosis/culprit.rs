//! Who did it: whose stack, and which function on it.

use super::blocked::{Blocked, Holder, waiter};
use super::kind::{Cause, Kind};
use super::names::{is_entry, is_helper, is_interrupt, is_reporter, plain};
use super::reports::Report;
use super::signature::{self, Signature};
use super::{Evidence, Function, Scene, TaskName, taint, walked};
use crate::task::Task;

/// How many callers of a fault's function are searched for a module from outside the kernel.
const NEXT_CALLERS: usize = 3;
/// The fewest turns that make a cycle of calls.
const TURNS: usize = 3;
/// The most functions of a cycle.
const CYCLE: usize = 16;

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The function.
    pub function: Option<Function>,
    /// The task, where that is the better answer.
    pub task: Option<TaskName>,
    /// Why it is believed.
    pub why: String,
}

/// What a stack overflow is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cycle {
    /// The functions that call each other, innermost first.
    pub functions: Vec<Function>,
    /// How often.
    pub turns: usize,
    /// Where the stack goes on below them.
    pub end: usize,
}

/// The longest wait, and who ends the chain of locks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hung {
    /// Who waited.
    pub task: TaskName,
    /// How long, in seconds.
    pub seconds: Option<f64>,
    /// Whether it was longer.
    pub is_least: bool,
    /// For what.
    pub wait: super::Wait,
    /// Who has it.
    pub holder: Option<Holder>,
    /// The tasks that wait for each other.
    pub deadlock: Vec<TaskName>,
}

/// Where it happened and who is to blame.
pub(super) struct Blame {
    /// Whose stack.
    pub scene: Scene,
    /// The culprit's frame in it.
    pub at: Option<usize>,
    /// The innermost helper that it called.
    pub helper: Option<Function>,
    /// Who.
    pub culprit: Option<Culprit>,
    /// Of a stack overflow.
    pub cycle: Option<Cycle>,
    /// Of a hung task.
    pub hung: Option<Hung>,
    /// Of memory that ran out: who has most of it, and how many bytes.
    pub largest: Option<(TaskName, u64)>,
    /// Of process 1: with what it ended, as `wait(2)` tells it.
    pub exit_code: Option<u64>,
}

impl Blame {
    /// What is the same in every crash of this cause.
    pub fn signature(&self, cause: &Cause<'_>, reason: Option<&str>) -> Signature {
        let function = self.at.and_then(|at| self.scene.stack.get(at..));
        let mut parts = match (&self.cycle, cause.kind, &self.culprit) {
            (Some(cycle), _, _) => {
                let names = cycle.functions.iter();
                let mut names: Vec<_> = names.map(|at| plain(&at.name).to_owned()).collect();
                // Which of them met the stack's end is chance.
                names.sort();
                names.dedup();
                names
            }
            (_, Kind::OutOfMemory, Some(culprit)) => {
                let task = culprit.task.iter();
                task.map(|task| format!("task {}", task.comm)).collect()
            }
            (_, Kind::InitDied, _) => {
                let code = self.exit_code.iter();
                code.map(|code| format!("exit code {code:#x}")).collect()
            }
            (_, Kind::SError | Kind::HardwareError | Kind::NoRoot, _) => Vec::new(),
            _ => function.map(signature::frames).unwrap_or_default(),
        };
        let needs_words = cause.kind == Kind::Panic || parts.is_empty();
        if needs_words && let Some(reason) = reason {
            parts.push(signature::words(reason));
        }
        Signature::new(cause.kind, parts)
    }
}

/// Finds who did it.
pub(super) fn find(
    evidence: &Evidence<'_, '_>,
    cause: &Cause<'_>,
    blocked: Option<&[Blocked]>,
) -> Blame {
    if cause.kind == Kind::HungTask {
        return hung(evidence, blocked.unwrap_or_default());
    }
    let mut scene = scene(evidence, cause);
    let (helper, at) = frame(&scene.stack, cause.kind);
    let cycle = match cause.kind {
        Kind::StackOverflow => cycle(&scene.stack),
        _ => None,
    };
    let mut why = "the innermost function that neither reports nor is a helper of everybody";
    if cause.kind.is_watched() {
        why = "what the watchdog interrupted";
    }
    let mut at = at;
    if let Some(cycle) = &cycle {
        why = "it calls itself until the stack is full";
        at = scene
            .stack
            .iter()
            .position(|frame| Some(frame) == cycle.functions.first());
    } else if cause.kind.is_fault()
        && let Some(foreign) = at.and_then(|at| foreign(evidence, &scene.stack, at))
    {
        at = Some(foreign);
        why = "a module from outside the kernel's source, which called what failed";
    }
    let function = at.and_then(|at| scene.stack.get(at)).cloned();
    // Behind an exception that interrupted the kernel there is another stack than the task's.
    scene.in_interrupt = at.is_some_and(|at| is_in_interrupt(&scene.stack, at));
    let mut largest = None;
    let culprit = match cause.kind {
        Kind::OutOfMemory => {
            largest = largest_task(evidence).or_else(|| largest_told(evidence));
            let task = largest.clone().map(|(task, _)| task).or(scene.task.clone());
            task.map(|task| Culprit {
                function: None,
                task: Some(task),
                why: "it has the most memory".to_owned(),
            })
        }
        Kind::InitDied => scene.task.clone().map(|task| Culprit {
            function: None,
            task: Some(task),
            why: "it is process 1, which must not end".to_owned(),
        }),
        Kind::Sysrq => Some(Culprit {
            function,
            task: scene.task.clone().filter(|_| !scene.in_interrupt),
            why: "it asked for the crash".to_owned(),
        }),
        // What ran when they came in had nothing to do with it.
        Kind::SError | Kind::HardwareError => None,
        _ => function.map(|function| Culprit {
            function: Some(function),
            task: None,
            why: why.to_owned(),
        }),
    };
    Blame {
        helper: at
            .filter(|at| helper.is_some_and(|helper| helper < *at))
            .and_then(|_| scene.stack.get(helper?))
            .cloned(),
        scene,
        at,
        culprit,
        cycle,
        hung: None,
        largest,
        exit_code: match cause.kind {
            Kind::InitDied => exit_code(evidence, cause),
            _ => None,
        },
    }
}

/// With what process 1 ended: `Attempted to kill init! exitcode=0x00000700`, or what it noted.
fn exit_code(evidence: &Evidence<'_, '_>, cause: &Cause<'_>) -> Option<u64> {
    let told = cause.panic.and_then(|panic| panic.after("exitcode=0x"));
    let told = told.and_then(|told| u64::from_str_radix(told.trim(), 16).ok());
    told.or_else(|| {
        let signal = evidence.panicked?.current.follow("signal").ok()??;
        signal.get("group_exit_code").ok()
    })
}

/// Whose stack to look at: the panicking CPU's, or the one that a watchdog on another CPU means.
fn scene(evidence: &Evidence<'_, '_>, cause: &Cause<'_>) -> Scene {
    let report = cause.report.or(cause.panic);
    let meant = report.and_then(|report| match cause.kind {
        Kind::HardLockup => report.after("hard LOCKUP on cpu ").and_then(number),
        Kind::RcuStall if report.with("self-detected").is_none() => {
            report.stalled_cpus.first().copied()
        }
        _ => None,
    });
    let cpu = match meant {
        Some(meant) => evidence
            .cpus
            .iter()
            .find(|cpu| cpu.number == meant)
            .copied(),
        None => evidence.panicked,
    };
    let mut scene = Scene::default();
    // A reader that was preempted runs nowhere.
    let preempted = report.filter(|report| report.stalled_cpus.is_empty());
    let preempted = preempted.and_then(|report| report.stalled_tasks.first());
    let reader = preempted.and_then(|pid| {
        let mut tasks = evidence.tasks.as_ref()?.iter();
        tasks.find(|task| task.pid == *pid && !task.is_current)
    });
    if let (Some(reader), Some(kernel)) = (reader, evidence.kernel) {
        let stack = kernel.sleeping_stack(&reader.object);
        let frames = stack.map(|stack| stack.frames).unwrap_or_default();
        let stack: Vec<_> = frames.iter().filter_map(super::function).collect();
        return Scene {
            task: Some(TaskName::of(reader)),
            work: work(&stack),
            stack,
            ..scene
        };
    }
    if let Some(cpu) = cpu {
        scene.cpu = Some(cpu.number);
        scene.task = Task::read(cpu.current).ok().map(|task| TaskName::of(&task));
        scene.stack = match (meant, evidence.kernel) {
            (Some(_), Some(kernel)) => walked(kernel, &cpu),
            _ => evidence.walked.clone(),
        };
    }
    if scene.stack.is_empty() {
        // Of a log alone: the trace of who is meant.
        let told = |report: &&Report| {
            let is_meant = meant.is_none_or(|meant| report.cpu == Some(meant));
            is_meant && !report.stack().is_empty()
        };
        let all = [cause.report, cause.panic].into_iter().flatten();
        let traced = all
            .clone()
            .find(|report| told(report) && !report.trace.is_empty());
        let found = traced.or(all.clone().find(told)).or_else(|| {
            evidence
                .reports
                .iter()
                .rev()
                .find(|report| told(report) && meant.is_some())
        });
        scene.stack = found.map(Report::stack).unwrap_or_default();
    }
    let told = [cause.report, cause.panic].into_iter().flatten();
    for report in told {
        scene.cpu = scene.cpu.or(meant).or(report.cpu);
        if meant.is_none() {
            scene.task = scene.task.or(report.task.clone());
        }
        // What the kernel says it does is more than what a stack shows of it.
        let told = report.work.as_deref().filter(|_| meant.is_none());
        scene.work = scene.work.or(told.and_then(work_function));
    }
    scene.work = scene.work.or_else(|| work(&scene.stack));
    scene
}

fn number(text: &str) -> Option<u32> {
    super::reports::leading_number(text).and_then(|number| u32::try_from(number).ok())
}

/// The function of `events my_work_fn [module]`.
fn work_function(told: &str) -> Option<String> {
    let mut words = told.split(' ').rev();
    let function = words.find(|word| !word.starts_with('['))?;
    Some(function.to_owned())
}

/// The function that a worker called.
fn work(stack: &[Function]) -> Option<String> {
    let caller = stack
        .iter()
        .position(|frame| plain(&frame.name) == "process_one_work")?;
    let work = stack.get(caller.checked_sub(1)?)?;
    Some(plain(&work.name).to_owned())
}

/// The innermost frame that is no reporter, and the one to blame.
fn frame(stack: &[Function], kind: Kind) -> (Option<usize>, Option<usize>) {
    let mut at = 0;
    if kind.is_watched() || kind == Kind::StackOverflow {
        // A preempted reader was not interrupted: it is where it was switched away.
        at = interrupted(stack).unwrap_or(0);
    }
    let passes = |at: usize, pass: &dyn Fn(&str) -> bool| {
        let rest = stack.get(at..).unwrap_or_default();
        let skip = rest.iter().take_while(|frame| pass(&frame.name)).count();
        at.saturating_add(skip)
    };
    let first = passes(at, &|name| is_reporter(name) || is_entry(name));
    let blamed = passes(first, &|name| is_helper(name) || is_reporter(name));
    let there = |at: usize| {
        stack
            .get(at)
            .filter(|frame| !is_entry(&frame.name))
            .map(|_| at)
    };
    // A helper that nobody but an entry called is all there is.
    (there(first), there(blamed).or(there(first)))
}

/// Where the innermost exception came in that the panic's own way did not make.
fn interrupted(stack: &[Function]) -> Option<usize> {
    let marked = stack
        .iter()
        .position(|frame| frame.interrupted && !is_reporter(&frame.name));
    marked.or_else(|| {
        let entry = |frame: &Function| {
            let name = plain(&frame.name);
            name.starts_with("el1") && !name.ends_with("_handler") && name.contains("_64_")
        };
        let entry = stack.iter().position(entry)?;
        Some(entry.saturating_add(1))
    })
}

/// Whether what is at a place of a stack runs in an interrupt.
fn is_in_interrupt(stack: &[Function], at: usize) -> bool {
    let below = stack.get(at..).unwrap_or_default();
    below.iter().any(|frame| is_interrupt(&frame.name))
}

/// A function of a module from outside the kernel's source among the next callers.
fn foreign(evidence: &Evidence<'_, '_>, stack: &[Function], at: usize) -> Option<usize> {
    let modules = evidence.kernel?.modules().ok()?;
    if stack.get(at)?.module.is_some() {
        return None;
    }
    let next = stack
        .iter()
        .enumerate()
        .skip(at)
        .take(NEXT_CALLERS.saturating_add(1));
    let mut next = next.take_while(|(_, frame)| !is_entry(&frame.name));
    let is_foreign = |frame: &Function| {
        let own = |name: &String| modules.iter().find(|module| module.name == *name);
        let module = frame.module.as_ref().and_then(own);
        module.is_some_and(|module| taint::has(module.taints, taint::OUT_OF_TREE))
    };
    next.find(|(_, frame)| is_foreign(frame)).map(|(at, _)| at)
}

/// The functions that call each other until the stack is full: the shortest period that repeats.
fn cycle(stack: &[Function]) -> Option<Cycle> {
    let name = |at: usize| stack.get(at).map(|frame| plain(&frame.name));
    // What met the stack's end may be called from within a turn.
    for start in 0..CYCLE.min(stack.len()) {
        for period in 1..=CYCLE {
            let mut end = start;
            while name(end).is_some() && name(end) == name(end.saturating_add(period)) {
                end = end.saturating_add(1);
            }
            let length = end.saturating_add(period).saturating_sub(start);
            let turns = length.checked_div(period).unwrap_or(0);
            if turns >= TURNS && length > period {
                let functions = stack.get(start..start.saturating_add(period))?;
                return Some(Cycle {
                    functions: functions.to_vec(),
                    turns,
                    end: start.saturating_add(length),
                });
            }
        }
    }
    None
}

/// The task with the most memory.
fn largest_task(evidence: &Evidence<'_, '_>) -> Option<(TaskName, u64)> {
    let page = evidence.kernel?.virt().layout().page_shift;
    let tasks = evidence.tasks.as_ref()?.iter();
    let sizes = tasks.filter_map(|task| Some((task, task.memory?.resident)));
    let (task, pages) = sizes
        .filter(|(_, pages)| *pages > 0)
        .max_by_key(|(_, pages)| *pages)?;
    Some((TaskName::of(task), pages.checked_shl(page)?))
}

/// The same as the log's table of tasks tells it: `[  112]     0   112    99696    99483 … name`.
fn largest_told(evidence: &Evidence<'_, '_>) -> Option<(TaskName, u64)> {
    const PAGE: u64 = 4096;
    let row = |line: &str| {
        let (pid, rest) = line.strip_prefix('[')?.split_once(']')?;
        let mut words = rest.split_whitespace();
        let resident: u64 = words.nth(3)?.parse().ok()?;
        let task = TaskName {
            pid: pid.trim().parse().ok()?,
            comm: words.last()?.to_owned(),
        };
        Some((task, resident.saturating_mul(PAGE)))
    };
    let rows = evidence.log.iter().filter_map(|line| row(&line.text));
    rows.max_by_key(|(_, bytes)| *bytes)
}

/// Who waited, and for whom.
fn hung(evidence: &Evidence<'_, '_>, blocked: &[Blocked]) -> Blame {
    let told: Vec<_> = evidence
        .reports
        .iter()
        .filter_map(|report| {
            let named = report
                .headlines
                .iter()
                .find_map(|line| super::reports::hung_task(line));
            named.map(|(task, seconds)| (report, task, seconds))
        })
        .collect();
    let is_told = |task: &TaskName| told.iter().any(|(_, name, _)| name.pid == task.pid);
    // Who waits for somebody tells more than who waits for nobody knows what.
    let with_holder = |task: &&Blocked| task.holder.is_some();
    let victim = blocked
        .iter()
        .filter(|task| is_told(&task.task))
        .find(with_holder)
        .or_else(|| blocked.iter().find(|task| is_told(&task.task)))
        .or_else(|| blocked.iter().find(with_holder))
        .or(blocked.first());
    if let Some(victim) = victim {
        return hung_in_memory(victim, blocked);
    }
    let mut blame = Blame {
        scene: Scene::default(),
        at: None,
        helper: None,
        culprit: None,
        cycle: None,
        hung: None,
        largest: None,
        exit_code: None,
    };
    let owner = evidence
        .log
        .iter()
        .find_map(|line| super::reports::owner(&line.text));
    if let Some((waiter_name, owner)) = owner {
        return hung_told(&told, &waiter_name, owner, blame);
    }
    if let Some((report, task, seconds)) = told.first() {
        blame.scene.task = Some(task.clone());
        blame.scene.stack = report.stack();
        blame.at = waiter(&blame.scene.stack);
        let function = blame.at.and_then(|at| blame.scene.stack.get(at)).cloned();
        blame.culprit = Some(Culprit {
            function,
            task: Some(task.clone()),
            why: "the log names it first among those who waited too long".to_owned(),
        });
        blame.hung = Some(Hung {
            task: task.clone(),
            seconds: Some(*seconds as f64),
            is_least: true,
            wait: super::Wait::of(&blame.scene.stack),
            holder: None,
            deadlock: Vec::new(),
        });
    }
    blame
}

/// Who waited for whom, where the kernel told it itself.
fn hung_told(
    told: &[(&Report, TaskName, u64)],
    waits: &TaskName,
    owner: TaskName,
    mut blame: Blame,
) -> Blame {
    let of = |pid: i32| told.iter().find(|(_, task, _)| task.pid == pid);
    let stack = |pid: i32| {
        of(pid)
            .map(|(report, _, _)| report.stack())
            .unwrap_or_default()
    };
    blame.scene.stack = stack(owner.pid);
    blame.scene.task = Some(owner.clone());
    blame.at = waiter(&blame.scene.stack);
    let function = blame.at.and_then(|at| blame.scene.stack.get(at)).cloned();
    blame.hung = Some(Hung {
        task: waits.clone(),
        seconds: of(waits.pid).map(|(_, _, seconds)| *seconds as f64),
        is_least: true,
        wait: super::Wait::of(&stack(waits.pid)),
        holder: Some(Holder {
            task: owner.clone(),
            state: if blame.at.is_some() { 'D' } else { '?' },
            is_reader: false,
            function: function.clone(),
            stack: blame.scene.stack.clone(),
        }),
        deadlock: Vec::new(),
    });
    blame.culprit = Some(Culprit {
        function,
        task: Some(owner),
        why: "it holds what another waits for".to_owned(),
    });
    blame
}

fn hung_in_memory(victim: &Blocked, blocked: &[Blocked]) -> Blame {
    let mut holder = victim.holder.clone();
    let mut deadlock = Vec::new();
    let mut passed = vec![victim.task.clone()];
    // Who holds a lock may wait for another's.
    while let Some(known) = &holder {
        if let Some(first) = passed.iter().position(|task| *task == known.task) {
            deadlock = passed.split_off(first);
            break;
        }
        passed.push(known.task.clone());
        let waits = blocked.iter().find(|task| task.task.pid == known.task.pid);
        match waits.and_then(|waits| waits.holder.clone()) {
            Some(next) => holder = Some(next),
            None => break,
        }
    }
    let (task, stack) = match &holder {
        Some(holder) => (holder.task.clone(), holder.stack.clone()),
        None => (victim.task.clone(), victim.stack.clone()),
    };
    let at = waiter(&stack);
    let why = match &holder {
        Some(_) if !deadlock.is_empty() => "it waits for one who waits for it",
        Some(_) => "it holds what another waits for",
        None => "it waited the longest",
    };
    Blame {
        culprit: Some(Culprit {
            function: at.and_then(|at| stack.get(at)).cloned(),
            task: Some(task.clone()),
            why: why.to_owned(),
        }),
        scene: Scene {
            cpu: None,
            task: Some(task),
            work: work(&stack),
            in_interrupt: false,
            stack,
        },
        at,
        helper: None,
        cycle: None,
        hung: Some(Hung {
            task: victim.task.clone(),
            seconds: victim.seconds,
            is_least: false,
            wait: victim.wait,
            holder,
            deadlock,
        }),
        largest: None,
        exit_code: None,
    }
}
