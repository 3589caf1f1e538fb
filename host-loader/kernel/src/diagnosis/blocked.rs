//! Tasks that wait and cannot be woken by a signal (state D), for what, and who has it.
//!
//! What a task waits for is told by the functions above the scheduler on its stack. Which lock
//! it is, by `task_struct.blocked_on` (a mutex; 6.17) or `blocker` (its address, the lowest bits
//! what it is; 6.16, of kernels with CONFIG_DETECT_HUNG_TASK_BLOCKER), on PREEMPT_RT by
//! `pi_blocked_on`. Elsewhere by the waiter that the lock's functions keep on the sleeper's
//! stack: a structure of three pointers, the last of them to the task, which is on the lock's
//! list. The list's head is the one element that is no waiter, and the lock is around it. Whose
//! it is, the lock's `owner` says, its lowest three bits apart; of a rw_semaphore that readers
//! have it is the last reader that came, who may have left.
//!
//! How long: from when the task last came to a CPU (`sched_info.last_arrival`, as crash's
//! `ps -m` counts) to the newest clock of a run queue.
//!
//! Source: `kernel/locking/mutex.{c,h}`, `kernel/locking/rwsem.c`, `kernel/locking/rtmutex.c`,
//! `include/linux/hung_task.h`, `kernel/sched/stats.h`.

use std::collections::BTreeMap;

use super::names::{is_waiting, plain};
use super::{Function, TaskName, function};
use crate::Kernel;
use crate::object::Object;
use crate::task::Task;

/// The most tasks that are told; the longest waiting ones.
const MOST: usize = 1000;
/// The most of a stack that is searched for a waiter: what 64 KiB pages make of it.
const STACK: u64 = 64 << 10;
/// The most waiters of a lock that are passed on the way to the list's head.
const MAX_WAITERS: usize = 4096;
/// The bits of an owner that are flags.
const FLAGS: u64 = 7;

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A mutex.
    Mutex,
    /// A rw_semaphore, as a reader.
    ReadSemaphore,
    /// A rw_semaphore, as a writer.
    WriteSemaphore,
    /// A lock of PREEMPT_RT, or an rt_mutex.
    RtMutex,
    /// A semaphore.
    Semaphore,
    /// Somebody's `complete()`.
    Completion,
    /// A page: until it is read, written, or let go.
    Folio,
    /// A bit that is cleared: of a buffer, an inode.
    Bit,
    /// Input or output.
    Io,
    /// Another thing.
    Other,
}

impl Wait {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::ReadSemaphore | Self::WriteSemaphore => "rw_semaphore",
            Self::RtMutex => "rt_mutex",
            Self::Semaphore => "semaphore",
            Self::Completion => "completion",
            Self::Folio => "page",
            Self::Bit => "bit",
            Self::Io => "i/o",
            Self::Other => "other",
        }
    }

    /// In a sentence, behind "waits for".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Mutex => "a mutex",
            Self::ReadSemaphore => "a rw_semaphore (to read)",
            Self::WriteSemaphore => "a rw_semaphore (to write)",
            Self::RtMutex => "an rt_mutex",
            Self::Semaphore => "a semaphore",
            Self::Completion => "a completion",
            Self::Folio => "a page",
            Self::Bit => "a bit",
            Self::Io => "I/O",
            Self::Other => "something",
        }
    }

    /// By the functions on a sleeper's stack.
    pub fn of(stack: &[Function]) -> Self {
        let mut wait = Self::Other;
        for frame in stack.iter().take_while(|frame| is_waiting(&frame.name)) {
            let name = plain(&frame.name);
            let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
            // The outermost says most: a page is waited for through I/O.
            wait = if starts(&["__mutex_", "mutex_", "ww_mutex_", "__ww_mutex_"]) {
                Self::Mutex
            } else if starts(&["rwsem_down_read", "down_read", "__down_read"]) {
                Self::ReadSemaphore
            } else if starts(&["rwsem_down_write", "down_write", "__down_write"]) {
                Self::WriteSemaphore
            } else if starts(&["rt_", "__rt_", "rtlock_", "rwbase_"]) {
                Self::RtMutex
            } else if starts(&["down", "__down"]) {
                Self::Semaphore
            } else if starts(&["wait_for_c", "__wait_for_common"]) {
                Self::Completion
            } else if starts(&["folio_wait", "__folio_lock", "wait_on_page", "__lock_page"]) {
                Self::Folio
            } else if starts(&[
                "__wait_on_bit",
                "out_of_line_wait",
                "wait_on_bit",
                "bit_wait",
            ]) {
                Self::Bit
            } else if starts(&["io_schedule"]) {
                Self::Io
            } else {
                wait
            };
        }
        wait
    }
}

/// A task in state D.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocked {
    /// Who.
    pub task: TaskName,
    /// Since how many seconds.
    pub seconds: Option<f64>,
    /// What for.
    pub wait: Wait,
    /// The function that waits: the innermost that is neither scheduler nor lock.
    pub function: Option<Function>,
    /// The lock, if it was found.
    pub lock: Option<u64>,
    /// Who has it.
    pub holder: Option<Holder>,
    /// Its stack.
    pub stack: Vec<Function>,
}

/// Who has a lock.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// Who.
    pub task: TaskName,
    /// Its state's letter.
    pub state: char,
    /// Whether it is one of readers, and perhaps had the lock before them.
    pub is_reader: bool,
    /// The function in which it is: the innermost that is neither scheduler nor lock.
    pub function: Option<Function>,
    /// Its stack.
    pub stack: Vec<Function>,
}

/// The innermost function that neither waits nor schedules.
pub(super) fn waiter(stack: &[Function]) -> Option<usize> {
    stack.iter().position(|frame| !is_waiting(&frame.name))
}

/// A task's stack, as functions; empty if nobody knows where it begins.
fn stack_of<'k>(kernel: &'k Kernel<'k>, task: &Task<'k>) -> Vec<Function> {
    let cpus = match task.is_current {
        true => kernel.cpu_states().unwrap_or_default(),
        false => Vec::new(),
    };
    let mut runs = cpus.iter();
    let runs = runs.find(|cpu| cpu.current.address == task.object.address);
    let stack = match runs {
        Some(cpu) => match cpu.registers {
            Some(registers) => kernel.interrupted_stack(registers),
            None => return Vec::new(),
        },
        None => kernel.sleeping_stack(&task.object),
    };
    let frames = stack.map(|stack| stack.frames).unwrap_or_default();
    frames.iter().filter_map(function).collect()
}

/// Whether an address may be the kernel's.
fn is_kernels(address: u64) -> bool {
    address >> 48 == 0xffff || address >> 52 == 0xfff
}

/// All tasks in state D, the longest waiting first.
pub(super) fn read<'k>(kernel: &'k Kernel<'k>, tasks: &[Task<'k>]) -> Vec<Blocked> {
    let by_address: BTreeMap<u64, &Task<'k>> = tasks
        .iter()
        .map(|task| (task.object.address, task))
        .collect();
    let clocks = kernel.cpus().unwrap_or_default().into_iter();
    let clocks = clocks.filter_map(|cpu| {
        let queue = kernel.per_cpu("runqueues", "struct rq", cpu).ok()?;
        queue.get("clock").ok()
    });
    let now = clocks.max();
    let mut waiting: Vec<_> = tasks.iter().filter(|task| task.state == 'D').collect();
    let since = |task: &Task<'_>| task.object.get("sched_info.last_arrival").ok();
    waiting.sort_by_key(|task| since(task));
    let one = |task: &&Task<'k>| {
        let stack = stack_of(kernel, task);
        let wait = Wait::of(&stack);
        let lock = lock(&task.object, wait, &by_address);
        let holder = lock.and_then(|lock| holder(kernel, wait, lock, &by_address));
        let seconds = now
            .zip(since(task))
            .and_then(|(now, since)| now.checked_sub(since))
            .map(|waited| waited as f64 / 1e9);
        Blocked {
            task: TaskName::of(task),
            seconds,
            wait,
            function: waiter(&stack).and_then(|at| stack.get(at)).cloned(),
            lock,
            holder,
            stack,
        }
    };
    waiting.iter().take(MOST).map(one).collect()
}

/// The address of the lock that a task waits for.
fn lock(task: &Object<'_>, wait: Wait, tasks: &BTreeMap<u64, &Task<'_>>) -> Option<u64> {
    const KIND: u64 = 3;
    let noted = |field: &str| task.get(field).ok().filter(|at| is_kernels(*at));
    match wait {
        Wait::RtMutex => {
            let waiter = task.follow("pi_blocked_on").ok()??;
            waiter.get("lock").ok().filter(|at| is_kernels(*at))
        }
        Wait::Mutex => noted("blocked_on")
            .or_else(|| noted("blocker").map(|at| at & !KIND))
            .or_else(|| by_waiter(task, "mutex", tasks)),
        Wait::ReadSemaphore | Wait::WriteSemaphore => noted("blocker")
            .map(|at| at & !KIND)
            .or_else(|| by_waiter(task, "rw_semaphore", tasks)),
        _ => None,
    }
}

/// Finds a lock by the waiter on the sleeper's stack.
fn by_waiter(task: &Object<'_>, lock: &str, tasks: &BTreeMap<u64, &Task<'_>>) -> Option<u64> {
    let kernel = task.kernel();
    let waiter = match lock {
        "mutex" => "struct mutex_waiter",
        _ => "struct rwsem_waiter",
    };
    let waiter = kernel.object(waiter, 0).ok()?;
    let link = waiter.field("list").ok()?.address;
    let who = waiter.field("task").ok()?.address;
    let lock = kernel.object(&format!("struct {lock}"), 0).ok()?;
    let head = lock.field("wait_list").ok()?.address;
    let owner = lock.field("owner").ok()?.address;
    let at = |base: u64, offset: u64| kernel.read_u64(base.wrapping_add(offset)).ok();
    let is_waiter = |link_at: u64| {
        let of = at(link_at.wrapping_sub(link), who);
        of.is_some_and(|of| tasks.contains_key(&of))
    };
    let is_lock = |lock: u64| {
        let of = at(lock, owner).map(|of| of & !FLAGS);
        of.is_some_and(|of| of == 0 || tasks.contains_key(&of))
    };
    let start = task.get("thread.cpu_context.sp").ok()?;
    for skip in (0..STACK).step_by(8) {
        let here = start.wrapping_add(skip);
        let Ok(word) = kernel.read_u64(here) else {
            return None;
        };
        if word != task.address {
            continue;
        }
        let own = here.wrapping_sub(who).wrapping_add(link);
        let mut next = own;
        for _ in 0..MAX_WAITERS {
            let following = kernel.read_u64(next).ok();
            let Some(following) = following.filter(|at| is_kernels(*at) && at % 8 == 0) else {
                break;
            };
            // The list holds together, or it is none.
            if kernel.read_u64(following.wrapping_add(8)) != Ok(next) || following == own {
                break;
            }
            let lock = following.wrapping_sub(head);
            if !is_waiter(following) && is_lock(lock) {
                return Some(lock);
            }
            next = following;
        }
    }
    None
}

/// Who has a lock.
fn holder<'k>(
    kernel: &'k Kernel<'k>,
    wait: Wait,
    lock: u64,
    tasks: &BTreeMap<u64, &Task<'k>>,
) -> Option<Holder> {
    const READER: u64 = 1;
    let (ty, flags) = match wait {
        Wait::Mutex => ("struct mutex", FLAGS),
        Wait::ReadSemaphore | Wait::WriteSemaphore => ("struct rw_semaphore", FLAGS),
        Wait::RtMutex => ("struct rt_mutex_base", READER),
        _ => return None,
    };
    let owner = kernel.object(ty, lock).ok()?.get("owner").ok()?;
    let task = tasks.get(&(owner & !flags))?;
    let stack = stack_of(kernel, task);
    Some(Holder {
        task: TaskName::of(task),
        state: task.state,
        is_reader: ty == "struct rw_semaphore" && owner & READER != 0,
        function: waiter(&stack).and_then(|at| stack.get(at)).cloned(),
        stack,
    })
}
