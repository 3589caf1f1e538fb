//! The ways to panic, as a table: how the guest is made to, and what must be seen of each.
//!
//! Debian's kernels have no LKDTM, so most of them are in a module of our own
//! ([`crate::kernel_module`]), where each has functions of its own.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use super::{KernelChoice, Place, Scenario, boot};
use crate::guest_image::Initramfs;
use crate::kernel_module;

/// Our module, with debug information, in the output folder.
const MODULE_FILE: &str = "kdraw_panics.ko";
/// The parameter of our module that takes the name of a way to panic.
const PARAMETER: &str = "/sys/module/kdraw_panics/parameters/panic";

/// How the kernel panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Panic {
    /// `c` into /proc/sysrq-trigger.
    Sysrq,
    /// A NULL pointer dereference in kernel mode.
    Null,
    /// A panic in the UART's interrupt, with interrupts masked.
    IrqOff,
    /// A store to a field of a struct at NULL, in a module.
    NullField,
    /// A load through an error number that is taken for a pointer, some calls deep in a module.
    ErrorPointer,
    /// `BUG()`.
    Bug,
    /// A list entry whose neighbour does not point back, as CONFIG_DEBUG_LIST sees it.
    ListCorruption,
    /// A function that calls itself for ever.
    StackOverflow,
    /// A loop with preemption off, as the soft lockup detector sees it.
    SoftLockup,
    /// A loop inside an RCU read-side critical section.
    RcuStall,
    /// A thread that sleeps for ever with a mutex, and one that waits for the mutex.
    HungTask,
    /// No memory left, under `vm.panic_on_oom`.
    OutOfMemory,
    /// The end of process 1.
    InitExit,
}

/// Who makes the kernel panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `kdraw-guest`, whose `trigger` module says what happens.
    Guest,
    /// The same, as process 1.
    Init,
    /// Our module.
    Module,
}

/// A way to panic, and what must be seen of it.
pub struct Way {
    /// Who does it.
    pub by: By,
    /// Files that are written just before, and what is written.
    settings: &'static [(&'static str, &'static str)],
    /// What the console shows; of messages that are no alerts, only what follows the first alert.
    pub proof: &'static str,
    /// Whether the CPU that panics is any, and not the one on which it was asked for.
    pub on_any_cpu: bool,
    /// What the black box gives as the reason.
    pub reason: &'static str,
    /// The function or the task to which a person would trace the panic; the log tells it.
    pub culprit: &'static str,
    /// What `kdraw report` says.
    pub report: Told,
    /// Functions on the stack of the panicking task, the innermost first. Not the caller of a
    /// function without a frame of its own: only DWARF tells that.
    pub frames: &'static [&'static str],
}

/// What `kdraw report` must say of a way to panic, on every kernel.
pub struct Told {
    /// The kind's word.
    pub kind: &'static str,
    /// The culprit: its function, or else its task.
    pub culprit: &'static str,
    /// Parts of the sentence, in their order.
    pub sentence: &'static [&'static str],
    /// The signature, whatever the kernel; empty where kernels differ in their functions.
    pub signature: &'static str,
}

/// What the rows of the table have in common.
const WAY: Way = Way {
    by: By::Module,
    settings: &[],
    proof: "",
    on_any_cpu: false,
    reason: "",
    culprit: "",
    report: Told {
        kind: "",
        culprit: "",
        sentence: &[],
        signature: "",
    },
    frames: &[],
};

impl Panic {
    /// Returns its name on the command line, which is the guest's word for it, too.
    pub fn word(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Returns the arguments of `kdraw-guest` that make it panic.
    pub fn arguments(self) -> String {
        let way = self.way();
        let mut settings: Vec<String> = way
            .settings
            .iter()
            .map(|(file, value)| format!(" set={file}={value}"))
            .collect();
        let word = match way.by {
            By::Guest | By::Init => self.word(),
            By::Module => {
                settings.push(format!(" set={PARAMETER}={}", self.word()));
                "none".into()
            }
        };
        format!("panic={word}{}", settings.concat())
    }

    /// Returns its row of the table.
    pub fn way(self) -> Way {
        match self {
            Self::Sysrq => Way {
                by: By::Guest,
                proof: "write_sysrq_trigger",
                reason: "sysrq triggered crash",
                // `sysrq_handle_crash` ends with the call of `panic`, which does not return: the log
                // names the function behind it.
                culprit: "__handle_sysrq",
                report: Told {
                    kind: "sysrq",
                    culprit: "sysrq_handle_crash",
                    sentence: &[
                        "A user asked for the crash through sysrq, by kdraw-guest (PID ",
                        ") on CPU ",
                    ],
                    signature: "7701947211fd9e66",
                },
                frames: &["__handle_sysrq", "write_sysrq_trigger"],
                ..WAY
            },
            Self::Null => Way {
                by: By::Guest,
                proof: "Unable to handle kernel NULL pointer dereference",
                reason: "NULL pointer dereference at virtual address 0000000000000000",
                culprit: "sysrq_handle_crash",
                report: Told {
                    kind: "null-dereference",
                    culprit: "sysrq_handle_crash",
                    sentence: &[
                        "The kernel read from a NULL pointer in sysrq_handle_crash, called from __handle_sysrq, in task kdraw-guest (PID ",
                        "; a user had asked for a crash through sysrq.",
                    ],
                    signature: "658b48e7ac1dec66",
                },
                frames: &["sysrq_handle_crash", "write_sysrq_trigger"],
                ..WAY
            },
            Self::IrqOff => Way {
                by: By::Guest,
                proof: "pl011_int",
                reason: "sysrq triggered crash",
                culprit: "__handle_sysrq",
                report: Told {
                    kind: "sysrq",
                    culprit: "sysrq_handle_crash",
                    sentence: &[
                        "A user asked for the crash through sysrq,",
                        " in an interrupt on CPU ",
                    ],
                    signature: "",
                },
                frames: &["__handle_sysrq", "pl011_int"],
                ..WAY
            },
            Self::NullField => Way {
                proof: "pc : panics_set_reading",
                reason: "NULL pointer dereference at virtual address 0000000000000040",
                culprit: "panics_set_reading",
                report: Told {
                    kind: "null-dereference",
                    culprit: "panics_set_reading",
                    sentence: &[
                        "The kernel wrote to a field at offset 0x40 of a NULL pointer in panics_set_reading (module kdraw_panics), called from panics_null_field, in task kdraw-guest (PID ",
                    ],
                    signature: "7237f423b2de9f85",
                },
                frames: &["panics_set_reading", "panics_set"],
                ..WAY
            },
            Self::ErrorPointer => Way {
                proof: "pc : panics_first_letter",
                reason: "kernel paging request at virtual address fffffffffffffff4",
                culprit: "panics_first_letter",
                report: Told {
                    kind: "error-pointer",
                    culprit: "panics_first_letter",
                    sentence: &[
                        "The kernel read from an error number (-12, ENOMEM) taken for a pointer in panics_first_letter (module kdraw_panics), called from panics_read_gauge, in task kdraw-guest (PID ",
                    ],
                    signature: "45e1a876ec5e513e",
                },
                frames: &[
                    "panics_first_letter",
                    "panics_open_gauge",
                    "panics_error_pointer",
                    "panics_set",
                ],
                ..WAY
            },
            Self::Bug => Way {
                proof: "pc : panics_bug",
                reason: "kernel BUG at kdraw_panics.c:",
                culprit: "panics_bug",
                report: Told {
                    kind: "bug",
                    culprit: "panics_bug",
                    sentence: &[
                        "The kernel hit a BUG() at kdraw_panics.c:",
                        " in panics_bug (module kdraw_panics), called from panics_set, in task kdraw-guest (PID ",
                    ],
                    signature: "388148d62150427b",
                },
                frames: &["panics_bug", "param_attr_store"],
                ..WAY
            },
            Self::ListCorruption => Way {
                proof: "pc : __list_del_entry_valid",
                reason: "kernel BUG at lib/list_debug.c:",
                culprit: "panics_unlink",
                report: Told {
                    kind: "list-corruption",
                    culprit: "panics_unlink",
                    sentence: &[
                        "The kernel found a linked list corrupted when an entry was removed in panics_unlink (module kdraw_panics), called from panics_list_corruption, in task kdraw-guest (PID ",
                    ],
                    signature: "a76d487f6a6150e9",
                },
                frames: &["panics_unlink", "panics_list_corruption", "panics_set"],
                ..WAY
            },
            Self::StackOverflow => Way {
                // It is handled like an NMI, in which `printk` leaves the console alone
                // (arch/arm64/kernel/traps.c, `panic_bad_stack`).
                proof: boot::PAYLOAD,
                on_any_cpu: true,
                reason: "kernel stack overflow",
                culprit: "panics_recurse",
                // crash shows no more of 6.1: it does not leave the overflow stack there.
                report: Told {
                    kind: "stack-overflow",
                    culprit: "panics_recurse",
                    sentence: &[
                        "The kernel's stack overflowed: panics_recurse (module kdraw_panics), called from panics_stack_overflow, called itself ",
                        " times, in task kdraw-guest (PID ",
                    ],
                    signature: "0445fd0b4c303562",
                },
                frames: &["__crash_kexec"],
                ..WAY
            },
            Self::SoftLockup => Way {
                settings: &[
                    ("/proc/sys/kernel/softlockup_panic", "1"),
                    ("/proc/sys/kernel/watchdog_thresh", "2"),
                ],
                proof: "watchdog: BUG: soft lockup - CPU#",
                reason: "softlockup: hung tasks",
                culprit: "panics_soft_lockup",
                report: Told {
                    kind: "soft-lockup",
                    culprit: "panics_soft_lockup",
                    sentence: &[
                        "was stuck for ",
                        " s in panics_soft_lockup (module kdraw_panics), called from panics_set, in task kdraw-guest (PID ",
                        "; the soft-lockup watchdog panicked.",
                    ],
                    signature: "cd0827f1886f1a87",
                },
                frames: &[
                    "watchdog_timer_fn",
                    "panics_soft_lockup",
                    "param_attr_store",
                ],
                ..WAY
            },
            Self::RcuStall => Way {
                settings: &[
                    ("/proc/sys/kernel/soft_watchdog", "0"),
                    ("/proc/sys/kernel/panic_on_rcu_stall", "1"),
                    ("/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout", "3"),
                ],
                proof: "panics_rcu_stall+",
                reason: "RCU Stall",
                culprit: "panics_rcu_stall",
                report: Told {
                    kind: "rcu-stall",
                    culprit: "panics_rcu_stall",
                    sentence: &[
                        "was stuck in panics_rcu_stall (module kdraw_panics), called from panics_set, in task kdraw-guest (PID ",
                        ", so that RCU could not go on;",
                    ],
                    signature: "8b53dc8b08ff7aa7",
                },
                frames: &[
                    "rcu_sched_clock_irq",
                    "panics_rcu_stall",
                    "param_attr_store",
                ],
                ..WAY
            },
            Self::HungTask => Way {
                settings: &[
                    ("/proc/sys/kernel/hung_task_panic", "1"),
                    ("/proc/sys/kernel/hung_task_timeout_secs", "3"),
                ],
                proof: "INFO: task panics_holder:",
                on_any_cpu: true,
                reason: "hung_task: blocked tasks",
                culprit: "panics_hold",
                report: Told {
                    kind: "hung-task",
                    culprit: "panics_hold",
                    sentence: &[
                        "Task panics_waiter (PID ",
                        ") was blocked for ",
                        " s on a mutex held by panics_holder (PID ",
                        "), which sleeps in panics_hold (module kdraw_panics); the hung-task detector panicked.",
                    ],
                    signature: "f4e1c462419c1501",
                },
                frames: &["watchdog", "kthread"],
                ..WAY
            },
            Self::OutOfMemory => Way {
                by: By::Guest,
                settings: &[("/proc/sys/vm/panic_on_oom", "1")],
                proof: "out_of_memory+",
                reason: "Out of memory: system-wide panic_on_oom is enabled",
                culprit: "kdraw-guest",
                report: Told {
                    kind: "out-of-memory",
                    culprit: "kdraw-guest",
                    sentence: &[
                        "Memory ran out while kdraw-guest (PID ",
                        " MiB resident, the most of all) was allocating, and vm.panic_on_oom is set.",
                    ],
                    signature: "f481c63c29bc3f5e",
                },
                frames: &["out_of_memory", "do_page_fault"],
                ..WAY
            },
            Self::InitExit => Way {
                by: By::Init,
                proof: "Attempted to kill init!",
                reason: "Attempted to kill init! exitcode=0x00000700",
                culprit: "kdraw-guest",
                report: Told {
                    kind: "init-died",
                    culprit: "kdraw-guest",
                    sentence: &["Process 1 (kdraw-guest) ended with exit code 7"],
                    signature: "5a409beddfd5a062",
                },
                frames: &["do_exit", "do_group_exit"],
                ..WAY
            },
        }
    }
}

/// Puts our module into an initramfs if the scenario's panic is of it. With debug information it
/// is left in the output folder.
///
/// # Errors
///
/// When it does not build.
pub fn install(scenario: &Scenario, place: &Place, image: &mut Initramfs) -> Result<()> {
    if scenario.panic.way().by != By::Module {
        return Ok(());
    }
    let KernelChoice::Suite(suite) = scenario.kernel else {
        bail!("our module needs a Debian kernel, for its headers");
    };
    let module = kernel_module::build(suite)?;
    let (from, to) = (&module.debug, place.file(MODULE_FILE));
    std::fs::copy(from, &to).with_context(|| format!("cannot write {}", to.display()))?;
    // Behind the kernel's own, which have numbers.
    image.copy(&format!("modules/own-{MODULE_FILE}"), &module.stripped)
}

/// Returns our module with its debug information, if the scenario's kernel had it.
pub fn installed(place: &Place) -> Option<PathBuf> {
    Some(place.file(MODULE_FILE)).filter(|file| file.exists())
}
