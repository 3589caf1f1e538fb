//! What kind of end it was: by the panic's words, by the reports before it, or by the stack.

use super::Function;
use super::fault::Fault;
use super::names::plain;
use super::reports::{PANIC, Report, hung_task};
use crate::exception::Oops;

/// What kind of end the kernel had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A user asked for it.
    Sysrq,
    /// NULL, or a member of NULL, was used as an address.
    NullDereference,
    /// An error number was used as an address.
    ErrorPointer,
    /// A program's address was used without the functions that are meant for it.
    UserAddress,
    /// Another address that cannot be used.
    BadAddress,
    /// A device or the memory answered an access with an error.
    BusError,
    /// The same, told later, of nobody knows which access.
    SError,
    /// The firmware told of a hardware error.
    HardwareError,
    /// `BUG()`.
    Bug,
    /// A list whose neighbours disagree.
    ListCorruption,
    /// A copy beyond an object, found by fortify or by hardened usercopy.
    BufferOverflow,
    /// A reference count that overflowed, or was used after it was zero.
    Refcount,
    /// What KASAN, KFENCE, KCSAN or UBSAN found.
    Sanitizer,
    /// A branch or return to where there is none to be: CFI, BTI, pointer authentication.
    ControlFlow,
    /// An instruction that there is not.
    UndefinedInstruction,
    /// The stack's end.
    StackOverflow,
    /// The canary on the stack, or the mark at the stack's end, was overwritten.
    StackCorruption,
    /// A task that waited too long.
    HungTask,
    /// A CPU that did not schedule.
    SoftLockup,
    /// A CPU that took no interrupts.
    HardLockup,
    /// A CPU or task that kept RCU from going on.
    RcuStall,
    /// No memory, under `vm.panic_on_oom`, or nobody left to kill.
    OutOfMemory,
    /// Process 1 ended.
    InitDied,
    /// No root file system, or no process 1 in it.
    NoRoot,
    /// A warning, under `panic_on_warn`.
    Warning,
    /// Another exception.
    Oops,
    /// Another panic.
    Panic,
    /// Nothing tells.
    Unknown,
}

impl Kind {
    /// A word for it, which stays as it is.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sysrq => "sysrq",
            Self::NullDereference => "null-dereference",
            Self::ErrorPointer => "error-pointer",
            Self::UserAddress => "user-address",
            Self::BadAddress => "bad-address",
            Self::BusError => "bus-error",
            Self::SError => "serror",
            Self::HardwareError => "hardware-error",
            Self::Bug => "bug",
            Self::ListCorruption => "list-corruption",
            Self::BufferOverflow => "buffer-overflow",
            Self::Refcount => "refcount",
            Self::Sanitizer => "sanitizer",
            Self::ControlFlow => "control-flow",
            Self::UndefinedInstruction => "undefined-instruction",
            Self::StackOverflow => "stack-overflow",
            Self::StackCorruption => "stack-corruption",
            Self::HungTask => "hung-task",
            Self::SoftLockup => "soft-lockup",
            Self::HardLockup => "hard-lockup",
            Self::RcuStall => "rcu-stall",
            Self::OutOfMemory => "out-of-memory",
            Self::InitDied => "init-died",
            Self::NoRoot => "no-root",
            Self::Warning => "warning",
            Self::Oops => "oops",
            Self::Panic => "panic",
            Self::Unknown => "unknown",
        }
    }

    /// Whether somebody watched and interrupted who is to blame.
    pub fn is_watched(self) -> bool {
        matches!(self, Self::SoftLockup | Self::HardLockup | Self::RcuStall)
    }

    /// Whether an address was used that cannot be.
    pub fn is_fault(self) -> bool {
        matches!(
            self,
            Self::NullDereference | Self::ErrorPointer | Self::UserAddress | Self::BadAddress
        )
    }
}

/// What happened, and which report tells it.
#[derive(Clone, Copy, Debug)]
pub struct Cause<'r> {
    /// What.
    pub kind: Kind,
    /// The report that tells most.
    pub report: Option<&'r Report>,
    /// The one with the panic's own line.
    pub panic: Option<&'r Report>,
}

/// Panics by their words.
const PANICS: [(&str, Kind); 21] = [
    ("sysrq triggered crash", Kind::Sysrq),
    ("kernel stack overflow", Kind::StackOverflow),
    ("hung_task: blocked tasks", Kind::HungTask),
    ("softlockup: hung tasks", Kind::SoftLockup),
    ("Hard LOCKUP", Kind::HardLockup),
    ("hard LOCKUP", Kind::HardLockup),
    ("RCU Stall", Kind::RcuStall),
    ("Out of memory", Kind::OutOfMemory),
    ("System is deadlocked on memory", Kind::OutOfMemory),
    ("Attempted to kill init!", Kind::InitDied),
    ("stack-protector: ", Kind::StackCorruption),
    ("corrupted stack end", Kind::StackCorruption),
    ("SError", Kind::SError),
    ("Unable to mount root fs", Kind::NoRoot),
    ("No working init found", Kind::NoRoot),
    ("Requested init ", Kind::NoRoot),
    ("Fatal hardware error", Kind::HardwareError),
    ("hardware memory error", Kind::HardwareError),
    ("UBSAN: ", Kind::Sanitizer),
    ("scheduling while atomic", Kind::Bug),
    ("CFI failure", Kind::ControlFlow),
];
/// Panics that only say that something else happened before.
const SEQUELS: [&str; 5] = [
    "Fatal exception",
    "Aiee, killing interrupt handler",
    "Attempted to kill the idle task",
    "Oops",
    "Unhandled exception",
];
/// The same of what was no exception.
const SEQUELS_OF_WARNINGS: [&str; 3] = ["panic_on_warn", "kasan.fault", "KFENCE"];

/// What a panic's words say by themselves.
pub fn of_words(text: &str) -> Option<Kind> {
    let found = PANICS.iter().find(|(words, _)| text.contains(words));
    found.map(|(_, kind)| *kind)
}

/// Decides what happened by all reports, the panicking CPU's stack, and the exception that its
/// innermost function had.
pub fn decide<'r>(reports: &'r [Report], stack: &[Function], fault: Option<&Fault>) -> Cause<'r> {
    let panic_at = reports
        .iter()
        .rposition(|report| report.after(PANIC).is_some());
    let panic = panic_at.and_then(|at| reports.get(at));
    let before = reports
        .get(..panic_at.unwrap_or(reports.len()))
        .unwrap_or_default();
    let cause = |kind, report| Cause {
        kind,
        report,
        panic,
    };
    let silent = || of_stack(stack, fault);
    let oops = before.iter().rev().find(|report| is_oops(report));
    let Some(text) = panic.and_then(|panic| panic.after(PANIC)) else {
        // A crash kernel that is loaded takes over before an oops says "panic".
        return match oops.filter(|oops| agrees(oops, stack)) {
            Some(oops) => cause(of_oops(oops, stack), Some(oops)),
            None => cause(silent(), None),
        };
    };
    if SEQUELS_OF_WARNINGS.iter().any(|words| text.contains(words)) {
        let warning = before.iter().rev().find(|report| is_warning(report));
        let kind = warning.map_or(Kind::Warning, of_warning);
        return cause(kind, warning.or(panic));
    }
    if let Some(kind) = of_words(text) {
        let report = before.iter().rev().find(|report| tells(report, kind));
        // Process 1 ends also by an oops of its own.
        if kind == Kind::InitDied
            && let Some(oops) = oops.filter(|oops| is_init(oops))
        {
            return cause(of_oops(oops, &[]), Some(oops));
        }
        return cause(kind, report.or(panic));
    }
    if SEQUELS.iter().any(|words| text.contains(words)) {
        return match oops {
            Some(oops) => cause(of_oops(oops, stack), Some(oops)),
            None => cause(Kind::Oops, panic),
        };
    }
    cause(Kind::Panic, panic)
}

fn is_init(report: &Report) -> bool {
    report.task.as_ref().is_some_and(|task| task.pid == 1)
}

fn is_oops(report: &Report) -> bool {
    [
        "Internal error: ",
        "Unable to handle kernel ",
        "kernel BUG at ",
        "Unhandled fault at ",
    ]
    .iter()
    .any(|words| report.with(words).is_some())
}

/// Whether an oops is that of the stack, and none that the kernel had survived.
fn agrees(oops: &Report, stack: &[Function]) -> bool {
    let Some(pc) = &oops.pc else {
        return true;
    };
    stack.is_empty() || stack.iter().any(|frame| frame.is_at(pc))
}

fn is_warning(report: &Report) -> bool {
    let words = [
        "WARNING: ",
        "BUG: KASAN: ",
        "BUG: KFENCE: ",
        "BUG: KCSAN: ",
        "UBSAN: ",
        "refcount_t: ",
        "BUG: ",
    ];
    words.iter().any(|words| report.with(words).is_some())
}

/// Whether a report is the one that a panic of some kind has before it.
fn tells(report: &Report, kind: Kind) -> bool {
    match kind {
        Kind::SoftLockup => report.with("BUG: soft lockup - CPU#").is_some(),
        Kind::HardLockup => report.with("hard LOCKUP on cpu ").is_some(),
        Kind::RcuStall => report.with("stall").is_some(),
        Kind::StackOverflow => report.with("Insufficient stack space").is_some(),
        Kind::HungTask => report
            .headlines
            .iter()
            .any(|line| hung_task(line).is_some()),
        Kind::OutOfMemory => report.with(" invoked oom-killer: ").is_some(),
        Kind::SError => report.with("SError Interrupt on CPU").is_some(),
        Kind::StackCorruption => report.with("corrupted stack end").is_some(),
        Kind::Sanitizer => report.with("UBSAN: ").is_some(),
        _ => false,
    }
}

/// What kind of oops a report tells.
fn of_oops(report: &Report, stack: &[Function]) -> Kind {
    if report.with("list_add ").is_some()
        || report.with("list_del ").is_some()
        || report.with("list corruption").is_some()
    {
        return Kind::ListCorruption;
    }
    if report.with("detected buffer overflow in ").is_some()
        || report.with("usercopy: Kernel memory ").is_some()
    {
        return Kind::BufferOverflow;
    }
    if report.with("UBSAN: ").is_some()
        || report.with("Internal error: KASAN").is_some()
        || report.with("Oops - KASAN").is_some()
    {
        return Kind::Sanitizer;
    }
    if let Some(fault) = report.with("Unable to handle kernel ") {
        let address = fault_address(fault);
        return if fault.contains("NULL pointer") {
            Kind::NullDereference
        } else if address.is_some_and(|address| error_number(address).is_some()) {
            Kind::ErrorPointer
        } else if fault.contains("user memory") || address.is_some_and(|at| at >> 48 == 0) {
            Kind::UserAddress
        } else {
            Kind::BadAddress
        };
    }
    let internal = report.after("Internal error: ").unwrap_or_default();
    let has = |words: &str| internal.contains(words);
    if report.with("Unhandled fault at ").is_some() || has("external abort") || has("ECC error") {
        return Kind::BusError;
    }
    if has("Oops - CFI") || has("Oops - BTI") || has("FPAC") || report.with("CFI failure").is_some()
    {
        return Kind::ControlFlow;
    }
    let top = report.pc.as_ref().or(stack.first());
    if top.is_some_and(|top| is_list_check(&top.name)) {
        return Kind::ListCorruption;
    }
    if has("Oops - BUG") || report.with("kernel BUG at ").is_some() {
        return Kind::Bug;
    }
    if has("ndefined instruction") || has("undefined instruction") {
        return Kind::UndefinedInstruction;
    }
    Kind::Oops
}

fn is_list_check(name: &str) -> bool {
    let name = plain(name);
    name.starts_with("__list_") && name.contains("valid")
}

fn of_warning(report: &Report) -> Kind {
    if ["BUG: K", "UBSAN: "]
        .iter()
        .any(|words| report.with(words).is_some())
    {
        return Kind::Sanitizer;
    }
    if report.with("refcount_t: ").is_some() {
        return Kind::Refcount;
    }
    let text = report.headlines.join("\n");
    if text.contains("list_add ") || text.contains("list_del ") || text.contains("list corruption")
    {
        return Kind::ListCorruption;
    }
    Kind::Warning
}

/// What functions on the stack say where the log does not.
fn of_stack(stack: &[Function], fault: Option<&Fault>) -> Kind {
    let signs: [(&str, Kind); 15] = [
        ("sysrq_handle_crash", Kind::Sysrq),
        ("panic_bad_stack", Kind::StackOverflow),
        ("handle_bad_stack", Kind::StackOverflow),
        ("__stack_chk_fail", Kind::StackCorruption),
        ("watchdog_timer_fn", Kind::SoftLockup),
        ("watchdog_hardlockup_check", Kind::HardLockup),
        ("watchdog_overflow_callback", Kind::HardLockup),
        ("panic_on_rcu_stall", Kind::RcuStall),
        ("watchdog", Kind::HungTask),
        ("out_of_memory", Kind::OutOfMemory),
        ("do_serror", Kind::SError),
        ("mount_root_generic", Kind::NoRoot),
        ("mount_block_root", Kind::NoRoot),
        ("check_panic_on_warn", Kind::Warning),
        ("fortify_panic", Kind::BufferOverflow),
    ];
    if stack.first().is_some_and(|top| is_list_check(&top.name)) {
        return Kind::ListCorruption;
    }
    if let Some(fault) = fault {
        return fault.kind();
    }
    for frame in stack {
        if let Some((_, kind)) = signs.iter().find(|(name, _)| plain(&frame.name) == *name) {
            return *kind;
        }
    }
    let has = |name: &str| stack.iter().any(|frame| plain(&frame.name) == name);
    if has("do_exit") && (has("panic") || has("vpanic")) {
        return Kind::InitDied;
    }
    match has("panic") || has("vpanic") {
        true => Kind::Panic,
        false => Kind::Unknown,
    }
}

/// The address of `… at virtual address 0000000000000040`.
pub fn fault_address(line: &str) -> Option<u64> {
    Oops::last([line].into_iter()).address
}

/// The error number that an address is: `ERR_PTR()` makes the last 4095 addresses of them.
pub fn error_number(address: u64) -> Option<u64> {
    let number = address.wrapping_neg();
    (1..=4095).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kebab_case_and_each_its_own() {
        let words: Vec<_> = PANICS.iter().map(|(_, kind)| kind.word()).collect();
        for word in words {
            assert!(
                word.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{word}"
            );
        }
    }

    #[test]
    fn errors_are_the_last_addresses() {
        assert_eq!(error_number(0xffff_ffff_ffff_fff4), Some(12));
        assert_eq!(error_number(u64::MAX), Some(1));
        assert_eq!(error_number(0xffff_ffff_ffff_f000), None);
        assert_eq!(error_number(0), None);
    }
}
