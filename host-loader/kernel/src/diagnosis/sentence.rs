//! What happened, in one sentence.

use super::culprit::{Blame, Cycle, Hung};
use super::fault::{Did, Fault};
use super::kind::{Cause, Kind, error_number};
use super::names::{is_entry, plain};
use super::reports::{PANIC, leading_number};
use super::{Evidence, Function};

/// Error numbers' names, `include/uapi/asm-generic/errno-base.h` and the commonest of `errno.h`.
const ERRORS: [(u64, &str); 42] = [
    (1, "EPERM"),
    (2, "ENOENT"),
    (3, "ESRCH"),
    (4, "EINTR"),
    (5, "EIO"),
    (6, "ENXIO"),
    (7, "E2BIG"),
    (8, "ENOEXEC"),
    (9, "EBADF"),
    (10, "ECHILD"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (15, "ENOTBLK"),
    (16, "EBUSY"),
    (17, "EEXIST"),
    (18, "EXDEV"),
    (19, "ENODEV"),
    (20, "ENOTDIR"),
    (21, "EISDIR"),
    (22, "EINVAL"),
    (23, "ENFILE"),
    (24, "EMFILE"),
    (25, "ENOTTY"),
    (27, "EFBIG"),
    (28, "ENOSPC"),
    (29, "ESPIPE"),
    (30, "EROFS"),
    (31, "EMLINK"),
    (32, "EPIPE"),
    (33, "EDOM"),
    (34, "ERANGE"),
    (35, "EDEADLK"),
    (38, "ENOSYS"),
    (61, "ENODATA"),
    (71, "EPROTO"),
    (95, "EOPNOTSUPP"),
    (110, "ETIMEDOUT"),
    (116, "ESTALE"),
    (517, "EPROBE_DEFER"),
    (524, "ENOTSUPP"),
];
/// Signals that end a program, `include/uapi/asm-generic/signal.h`.
const SIGNALS: [(u64, &str); 9] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (15, "SIGTERM"),
];
/// Patterns that the kernel writes where nobody should read, `include/linux/poison.h`.
const POISONS: [(u64, u64, &str); 5] = [
    (
        0xdead_0000_0000_0100,
        0xfff,
        "the mark of an entry that was taken off a list",
    ),
    (0x6b6b_6b6b_6b6b_6b6b, 0xffff, "the mark of freed memory"),
    (
        0x5a5a_5a5a_5a5a_5a5a,
        0xffff,
        "the mark of memory that was never written",
    ),
    (0xaaaa_aaaa_aaaa_aaaa, 0xffff, "the mark of freed pages"),
    (0x00ad_4ead_0000_0000, 0xffff_ffff, "the mark of a spinlock"),
];

fn named<'n>(table: &[(u64, &'n str)], number: u64) -> Option<&'n str> {
    let found = table.iter().find(|(known, _)| *known == number);
    found.map(|(_, name)| *name)
}

/// A function, and its module.
fn in_words(function: &Function) -> String {
    match &function.module {
        Some(module) => format!("{} (module {module})", plain(&function.name)),
        None => plain(&function.name).to_owned(),
    }
}

/// What is known of where it happened.
struct Where<'e> {
    blame: &'e Blame,
}

impl Where<'_> {
    fn function(&self) -> Option<&Function> {
        self.blame.at.and_then(|at| self.blame.scene.stack.get(at))
    }

    /// ` in f (module m) through memcpy, called from g`.
    fn place(&self) -> String {
        let (Some(at), Some(function)) = (self.blame.at, self.function()) else {
            return String::new();
        };
        let next = self.blame.scene.stack.get(at.saturating_add(1));
        let caller = next.filter(|next| !is_entry(&next.name) && next.name != function.name);
        let caller = match caller {
            Some(caller) if caller.module == function.module => {
                format!(", called from {}", plain(&caller.name))
            }
            Some(caller) => format!(", called from {}", in_words(caller)),
            None => String::new(),
        };
        let helper = self.blame.helper.as_ref();
        let helper = helper.map(|helper| format!(" through {}", plain(&helper.name)));
        let helper = helper.unwrap_or_default();
        format!(" in {}{helper}{caller}", in_words(function))
    }

    /// `, in task insmod (PID 101) on CPU 1`.
    fn context(&self) -> String {
        let scene = &self.blame.scene;
        let cpu = scene.cpu.map(|cpu| format!(" on CPU {cpu}"));
        let cpu = cpu.unwrap_or_default();
        match (&scene.task, scene.in_interrupt, &scene.work) {
            (Some(task), true, _) if task.pid == 0 => {
                format!(", in an interrupt{cpu}, idle before")
            }
            (Some(task), true, _) => format!(", in an interrupt{cpu} while {task} ran"),
            (None, true, _) => format!(", in an interrupt{cpu}"),
            (Some(task), false, Some(work)) => {
                format!(", in the work {work} that {task} did{cpu}")
            }
            (Some(task), false, None) => format!(", in task {task}{cpu}"),
            (None, false, _) if !cpu.is_empty() => format!(",{cpu}"),
            (None, false, _) => String::new(),
        }
    }

    fn all(&self) -> String {
        format!("{}{}", self.place(), self.context())
    }
}

/// Says what happened.
pub(super) fn say(
    evidence: &Evidence<'_, '_>,
    cause: &Cause<'_>,
    fault: Option<&Fault>,
    blame: &Blame,
    reason: Option<&str>,
) -> String {
    let place = Where { blame };
    let at = place.all();
    let report = cause.report.or(cause.panic);
    let after = |words: &str| report.and_then(|report| report.after(words));
    let reason = reason.unwrap_or("it did not say why");
    let did = |what: &str| format!("The kernel {what}{at}.");
    let mut sentence = match cause.kind {
        Kind::Sysrq => {
            let who = match (&blame.scene.task, blame.scene.in_interrupt) {
                (Some(task), false) => format!(", by {task}"),
                (_, true) => ", by a key or a break in an interrupt".to_owned(),
                (None, false) => String::new(),
            };
            let cpu = blame
                .scene
                .cpu
                .map(|cpu| format!(" on CPU {cpu}"))
                .unwrap_or_default();
            format!("A user asked for the crash through sysrq{who}{cpu}.")
        }
        Kind::NullDereference | Kind::ErrorPointer | Kind::UserAddress | Kind::BadAddress => {
            let has = |words: &str| report.is_some_and(|report| report.with(words).is_some());
            let note = match () {
                () if has("read-only memory") => " (read-only)",
                () if has("non-executable memory") => " (not executable)",
                () => "",
            };
            let fault = fault.copied().unwrap_or_default();
            bad_address(cause.kind, fault, &format!("{note}{at}"))
        }
        Kind::BusError => format!("The hardware answered an access with an error{at}."),
        Kind::SError => format!(
            "The hardware told of an error that belongs to no instruction (SError), noticed{at}."
        ),
        Kind::HardwareError => format!("The firmware told of a hardware error: {reason}."),
        Kind::Bug => match after("kernel BUG at ") {
            Some(line) => {
                let line = line.trim_end_matches('!');
                did(&format!("hit a BUG() at {line}"))
            }
            None => did("hit a BUG()"),
        },
        Kind::ListCorruption => {
            let adds = report.is_some_and(|report| report.with("list_add").is_some());
            let dels = report.is_some_and(|report| report.with("list_del").is_some());
            match (adds, dels) {
                (true, _) => did("found a linked list corrupted when an entry was added"),
                (_, true) => did("found a linked list corrupted when an entry was removed"),
                _ => did("found a linked list corrupted"),
            }
        }
        Kind::BufferOverflow => did(&format!("stopped a copy beyond an object's end ({reason})")),
        Kind::Refcount => did(&format!("found a reference count wrong ({reason})")),
        Kind::Sanitizer => did(&format!("found a wrong access ({reason})")),
        Kind::ControlFlow => did("branched or returned to where it must not"),
        Kind::UndefinedInstruction => did("met an instruction that there is not"),
        Kind::StackOverflow => overflow(blame.cycle.as_ref(), &place),
        Kind::StackCorruption => {
            let told = after("Kernel stack is corrupted in: ");
            match told.and_then(super::reports::function) {
                Some(function) => format!(
                    "The kernel's stack was overwritten in {}{}.",
                    in_words(&function),
                    place.context()
                ),
                None => format!("The kernel's stack was overwritten, as was noticed{at}."),
            }
        }
        Kind::HungTask => match &blame.hung {
            Some(hung) => hung_task(hung, blame),
            None => "A task was blocked for too long; the hung-task detector panicked.".to_owned(),
        },
        Kind::SoftLockup | Kind::HardLockup | Kind::RcuStall => watched(cause, &place),
        Kind::OutOfMemory => out_of_memory(evidence, cause, blame, reason),
        Kind::InitDied => {
            let init = match &blame.scene.task {
                Some(task) => format!("Process 1 ({})", task.comm),
                None => "Process 1".to_owned(),
            };
            format!(
                "{init} {}, and a kernel cannot go on without it.",
                exit(blame.exit_code)
            )
        }
        Kind::NoRoot => format!("The kernel could not start a program: {reason}."),
        Kind::Warning => {
            let told = report.and_then(|report| report.with("WARNING: "));
            let line = told.and_then(|line| {
                let (_, rest) = line.split_once(" at ").unwrap_or(("", line));
                rest.split(' ').next()
            });
            let line = line.map(|line| format!(" (at {line})")).unwrap_or_default();
            format!("A warning{line} ended the kernel, as panic_on_warn asks for,{at}.")
        }
        Kind::Oops => match after("Internal error: ") {
            Some(told) => {
                let what = told.split(": ").next().unwrap_or(told);
                did(&format!("met an exception ({what})"))
            }
            None => did("met an exception"),
        },
        Kind::Panic => format!("The kernel panicked{at}: {reason}."),
        Kind::Unknown => format!("The kernel ended{at}, and nothing tells why."),
    };
    // Until 5.10 sysrq crashed by a NULL pointer, and so does whoever patches the kernel to.
    let asked = evidence
        .log
        .iter()
        .any(|line| line.text.contains("sysrq: Trigger a crash"));
    let in_sysrq = place
        .function()
        .is_some_and(|at| plain(&at.name) == "sysrq_handle_crash");
    if cause.kind != Kind::Sysrq && asked && in_sysrq {
        sentence = format!(
            "{}; a user had asked for a crash through sysrq.",
            sentence.trim_end_matches('.')
        );
    }
    sentence
}

/// An address that cannot be used.
fn bad_address(kind: Kind, fault: Fault, at: &str) -> String {
    let did = match fault.did {
        Some(Did::Jump) => "jumped to",
        Some(Did::Write) => "wrote to",
        Some(Did::Read) => "read from",
        None => "used",
    };
    let what = match (kind, fault.address) {
        (Kind::NullDereference, Some(0) | None) => "a NULL pointer".to_owned(),
        (Kind::NullDereference, Some(offset)) => {
            format!("a field at offset {offset:#x} of a NULL pointer")
        }
        (Kind::ErrorPointer, Some(address)) => {
            let number = error_number(address).unwrap_or(0);
            let name = named(&ERRORS, number).map(|name| format!(", {name}"));
            let name = name.unwrap_or_default();
            format!("an error number (-{number}{name}) taken for a pointer")
        }
        (Kind::UserAddress, Some(address)) => format!("a program's address ({address:#x})"),
        (_, Some(address)) => {
            let is_poison = |pattern: u64, mask: u64| (address ^ pattern) & !mask == 0;
            let mut poisons = POISONS.iter();
            let poison = poisons.find(|(pattern, mask, _)| is_poison(*pattern, *mask));
            let poison = poison.map(|(_, _, what)| format!(" ({what})"));
            format!("the bad address {address:#x}{}", poison.unwrap_or_default())
        }
        (_, None) => "a bad address".to_owned(),
    };
    format!("The kernel {did} {what}{at}.")
}

/// The stack's end.
fn overflow(cycle: Option<&Cycle>, place: &Where<'_>) -> String {
    let Some(cycle) = cycle else {
        return format!("The kernel's stack overflowed{}.", place.all());
    };
    let from = place.blame.scene.stack.get(cycle.end);
    let from = from.filter(|from| !is_entry(&from.name));
    let from = from.map(|from| format!(", called from {},", plain(&from.name)));
    let from = from.unwrap_or_default();
    let turns = cycle.turns;
    let who = match cycle.functions.as_slice() {
        [one] => format!("{}{from} called itself {turns} times", in_words(one)),
        several => {
            // The outermost first, as they call.
            let names: Vec<_> = several.iter().rev().map(in_words).collect();
            format!("{}{from} called each other {turns} times", names.join(", "))
        }
    };
    format!("The kernel's stack overflowed: {who}{}.", place.context())
}

/// In whole seconds, and tenths of the first ten.
fn seconds(seconds: f64) -> String {
    match seconds < 9.95 {
        true => format!("{seconds:.1} s").replace(".0 s", " s"),
        false => format!("{seconds:.0} s"),
    }
}

/// A lock and who has it.
fn hung_task(hung: &Hung, blame: &Blame) -> String {
    let least = if hung.is_least { "more than " } else { "" };
    let long = hung.seconds;
    let long = long.map(|long| format!(" for {least}{}", seconds(long)));
    let long = long.unwrap_or_default();
    let detector = "the hung-task detector panicked";
    let wait = hung.wait.in_words();
    let function = blame.at.and_then(|at| blame.scene.stack.get(at));
    let Some(holder) = &hung.holder else {
        let place = function.map(|at| format!(" in {}", in_words(at)));
        return format!(
            "Task {} was blocked{long}{}, waiting for {wait}; {detector}.",
            hung.task,
            place.unwrap_or_default()
        );
    };
    if !hung.deadlock.is_empty() {
        let names: Vec<_> = hung.deadlock.iter().map(ToString::to_string).collect();
        return match names.as_slice() {
            [one] => format!("Task {one} was blocked{long} on {wait} that it holds; {detector}."),
            several => format!(
                "Tasks {} wait for locks that the others hold, {}{long} on {wait}; {detector}.",
                several.join(" and "),
                hung.task
            ),
        };
    }
    let does = match (holder.state, function) {
        ('R', Some(at)) => format!(", which can run, in {}", in_words(at)),
        ('R', None) => ", which runs".to_owned(),
        (_, Some(at)) => format!(", which sleeps in {}", in_words(at)),
        (_, None) => String::new(),
    };
    let held = match holder.is_reader {
        true => "last taken by",
        false => "held by",
    };
    format!(
        "Task {} was blocked{long} on {wait} {held} {}{does}; {detector}.",
        hung.task, holder.task
    )
}

/// What a watchdog saw.
fn watched(cause: &Cause<'_>, place: &Where<'_>) -> String {
    let scene = &place.blame.scene;
    let cpu = match scene.cpu {
        Some(cpu) => format!("CPU {cpu}"),
        None => "A CPU".to_owned(),
    };
    let report = cause.report.or(cause.panic);
    let long = report.and_then(|report| report.after(" stuck for "));
    let long = long
        .and_then(leading_number)
        .map(|long| format!(" for {long} s"));
    let long = long.unwrap_or_default();
    let task = scene.task.as_ref().map(|task| format!(", in task {task}"));
    let task = task.unwrap_or_default();
    let at = place.place();
    match cause.kind {
        Kind::SoftLockup => {
            format!("{cpu} was stuck{long}{at}{task}; the soft-lockup watchdog panicked.")
        }
        Kind::HardLockup => format!(
            "{cpu} was stuck and took no interrupts{at}{task}; the hard-lockup watchdog panicked."
        ),
        _ => format!(
            "{cpu} was stuck{at}{task}, so that RCU could not go on; its stall detector panicked."
        ),
    }
}

/// Memory ran out.
fn out_of_memory(
    evidence: &Evidence<'_, '_>,
    cause: &Cause<'_>,
    blame: &Blame,
    reason: &str,
) -> String {
    let panic = cause
        .panic
        .and_then(|panic| panic.after(PANIC))
        .unwrap_or(reason);
    let why = if cause.panic.is_none() {
        "and the kernel panicked over it"
    } else if panic.contains("no killable") {
        "and there was nobody left to kill"
    } else if panic.contains("compulsory") {
        "and vm.panic_on_oom asks for a panic in every case"
    } else if panic.contains("panic_on_oom") {
        "and vm.panic_on_oom is set"
    } else {
        "and the kernel could not go on"
    };
    let mib = |bytes: u64| format!("{} MiB resident", bytes >> 20);
    let allocating = blame.scene.task.as_ref();
    let largest = blame.largest.as_ref();
    let own = allocating.and_then(|task| {
        let tasks = evidence.tasks.as_ref()?;
        let page = evidence.kernel?.virt().layout().page_shift;
        let task = tasks.iter().find(|known| known.pid == task.pid)?;
        task.memory?.resident.checked_shl(page)
    });
    match (allocating, largest) {
        (Some(task), Some((largest, bytes))) if largest.pid == task.pid => format!(
            "Memory ran out while {} (PID {}, {}, the most of all) was allocating, {why}.",
            task.comm,
            task.pid,
            mib(*bytes)
        ),
        (Some(task), Some((largest, bytes))) => {
            let own = own.map(|own| format!(", {}", mib(own))).unwrap_or_default();
            format!(
                "Memory ran out while {} (PID {}{own}) was allocating, {why}; most is with {} \
                 (PID {}, {}).",
                task.comm,
                task.pid,
                largest.comm,
                largest.pid,
                mib(*bytes)
            )
        }
        (Some(task), None) => format!("Memory ran out while {task} was allocating, {why}."),
        (None, _) => format!("Memory ran out, {why}."),
    }
}

/// What became of process 1.
fn exit(code: Option<u64>) -> String {
    let Some(code) = code else {
        return "ended".to_owned();
    };
    match code & 0x7f {
        0 => format!("ended with exit code {}", code >> 8 & 0xff),
        signal => {
            let name = named(&SIGNALS, signal).map(|name| format!(" ({name})"));
            format!("was ended by signal {signal}{}", name.unwrap_or_default())
        }
    }
}
