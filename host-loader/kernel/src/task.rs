//! Tasks: all there are, and what each does.
//!
//! `init_task` heads the list of processes (`tasks`), each of which has a list of its threads
//! (`signal->thread_head`); the other CPUs' idle tasks are on no list: their run queues name
//! them. A kernel whose kallsyms has no data does not tell where `init_task` is; then the
//! image's data is searched for the task named `swapper/0` that is its own parent.
//!
//! Source: `include/linux/sched.h`, `include/linux/sched/signal.h`, `init/init_task.c`.

use std::collections::BTreeSet;

use crate::Kernel;
use crate::object::{Error, List, Object};

/// The most tasks: `PID_MAX_LIMIT`.
const MAX_TASKS: usize = 4 << 20;
/// `TASK_IDLE`: does not count as load, and no signal wakes it.
const IDLE: u64 = 0x402;
/// The letters of `task_state_to_char`, by the highest bit of what is reported.
const LETTERS: [char; 8] = ['R', 'S', 'D', 'T', 't', 'X', 'Z', 'P'];
/// What of the state is reported.
const REPORTED: u64 = 0x7f;

/// A task.
#[derive(Clone, Debug)]
pub struct Task<'k> {
    /// Its `struct task_struct`.
    pub object: Object<'k>,
    /// The number of the thread.
    pub pid: i32,
    /// The number of its process.
    pub tgid: i32,
    /// The number of the process that reaps it.
    pub ppid: i32,
    /// Its name.
    pub comm: String,
    /// The CPU that it ran on last.
    pub cpu: u32,
    /// The letter that ps(1) shows for what it does.
    pub state: char,
    /// Whether it was running on its CPU.
    pub is_current: bool,
    /// User and system time, in nanoseconds.
    pub time_ns: u64,
    /// Its memory; `None` for the kernel's own threads.
    pub memory: Option<Memory>,
}

/// How much memory a process has, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Mapped.
    pub total: u64,
    /// In RAM.
    pub resident: u64,
}

impl<'k> Task<'k> {
    /// Reads what ps(1) shows of a task.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(object: Object<'k>) -> Result<Self, Error> {
        let pid = |object: &Object<'_>, field: &str| object.get(field).map(|pid| pid as i32);
        let parent = object.follow("real_parent")?;
        let state = object.any_field(&["__state", "state"])?.number()?;
        let exit = object.get("exit_state")?;
        let cpu = object.any_field(&["thread_info.cpu", "cpu"])?.number()?;
        let time = object.get("utime")?.saturating_add(object.get("stime")?);
        let memory = match object.follow("mm")? {
            // A process's memory may be absent though the process is there.
            Some(mm) => memory(&mm, &object).ok(),
            None => None,
        };
        let own = pid(&object, "pid")?;
        Ok(Self {
            pid: own,
            tgid: pid(&object, "tgid")?,
            // Who forked an idle task tells nothing; the kernel's own tools say 0.
            ppid: match parent.filter(|_| own != 0) {
                Some(parent) => pid(&parent, "tgid")?,
                None => 0,
            },
            comm: object.field("comm")?.text()?,
            cpu: cpu as u32,
            state: letter(state, exit),
            is_current: object.get("on_cpu")? != 0,
            time_ns: time,
            memory,
            object,
        })
    }
}

/// `task_state_to_char`.
fn letter(state: u64, exit: u64) -> char {
    if state & IDLE == IDLE {
        return 'I';
    }
    // `TASK_RTLOCK_WAIT` (0x1000) reads as uninterruptible.
    let waits = if state & 0x1000 != 0 { 2 } else { 0 };
    let reported = (state | exit | waits) & REPORTED;
    let highest = 64u32.saturating_sub(reported.leading_zeros());
    LETTERS.get(highest as usize).copied().unwrap_or('?')
}

/// Pages of a task's address space.
fn memory(mm: &Object<'_>, task: &Object<'_>) -> Result<Memory, Error> {
    // File pages, anonymous ones and shared memory; 2 is swap.
    const COUNTED: [u64; 3] = [0, 1, 3];
    let kernel = mm.kernel();
    let counters = mm.any_field(&["rss_stat.count", "rss_stat"])?;
    let mut resident = 0i64;
    for index in COUNTED {
        let counter = counters.index(index)?;
        if !counter.has("counters") {
            resident = resident.saturating_add(counter.signed()?);
            continue;
        }
        // A percpu_counter (6.2, f1a7941243c1): a sum, and what each CPU has not added yet.
        resident = resident.saturating_add(counter.field("count")?.signed()?);
        let own = counter.get("counters")?;
        for offset in kernel.per_cpu_offsets().into_iter().flatten() {
            let part = kernel.read_number(own.wrapping_add(offset), 4);
            let part = part.map_or(0, |part| i64::from(part as i32));
            resident = resident.saturating_add(part);
        }
    }
    // Until 6.1 each thread counts for itself first (`SPLIT_RSS_COUNTING`).
    if task.has("rss_stat.count") {
        for thread in threads(task)?.take(MAX_TASKS).map_while(Result::ok) {
            for index in COUNTED {
                let counted = thread.field("rss_stat.count")?.index(index)?.signed()?;
                resident = resident.saturating_add(counted);
            }
        }
    }
    Ok(Memory {
        total: mm.get("total_vm")?,
        resident: u64::try_from(resident).unwrap_or(0),
    })
}

/// The threads of a task's process, itself among them.
fn threads<'k>(task: &Object<'k>) -> Result<List<'k>, Error> {
    let signal = task.follow("signal")?;
    let signal = signal.ok_or_else(|| Error::NoSymbol("signal".into()))?;
    signal
        .field("thread_head")?
        .list("struct task_struct", "thread_node")
}

impl<'k> Kernel<'k> {
    /// The first task, idle on the first CPU.
    ///
    /// # Errors
    /// [`Error`] if it cannot be found.
    pub fn init_task(&'k self) -> Result<Object<'k>, Error> {
        let searched = || match self.symbol("init_task") {
            Some(at) => Some(at),
            None => self.searched_init_task().ok()?,
        };
        // Whether there are types is told first: without them nothing can be searched for.
        self.types()?;
        let known = *self.init_task.get_or_init(searched);
        let at = known.ok_or_else(|| Error::NoSymbol("init_task".into()))?;
        self.object("struct task_struct", at)
    }

    fn searched_init_task(&'k self) -> Result<Option<u64>, Error> {
        const NAME: &[u8] = b"swapper/0\0";
        let template = self.object("struct task_struct", 0)?;
        let name = template.field("comm")?.address;
        let parent = template.field("real_parent")?.address;
        let pid = template.field("pid")?.address;
        Ok(self.search_image(8, |at, bytes| {
            // Names are aligned as the structure's `comm` is: to four bytes at least.
            let task = [0u64, 4].into_iter().find_map(|skip| {
                let text = bytes.get(skip as usize..)?;
                let there = at.wrapping_add(skip);
                text.starts_with(NAME).then(|| there.wrapping_sub(name))
            })?;
            let own_parent = self.read_u64(task.wrapping_add(parent)) == Ok(task);
            let first = self.read_number(task.wrapping_add(pid), 4) == Ok(0);
            (own_parent && first).then_some(task)
        }))
    }

    /// All tasks but the other CPUs' idle ones: processes in their order, each before its other
    /// threads. Ends where a list is damaged.
    ///
    /// # Errors
    /// [`Error`] if there is no first task.
    pub(crate) fn all_tasks(&'k self) -> Result<Vec<Object<'k>>, Error> {
        let init = self.init_task()?;
        let mut tasks = vec![init];
        let mut seen = BTreeSet::from([init.address]);
        let processes = init.field("tasks")?.list("struct task_struct", "tasks")?;
        for process in processes.take(MAX_TASKS).map_while(Result::ok) {
            if seen.insert(process.address) {
                tasks.push(process);
            }
            let Ok(threads) = threads(&process) else {
                continue;
            };
            for thread in threads.take(MAX_TASKS).map_while(Result::ok) {
                if tasks.len() < MAX_TASKS && seen.insert(thread.address) {
                    tasks.push(thread);
                }
            }
        }
        Ok(tasks)
    }

    /// All tasks, the idle ones first, the others by number.
    ///
    /// # Errors
    /// [`Error`] if there is no first task. A task that cannot be read is left out.
    pub fn tasks(&'k self) -> Result<Vec<Task<'k>>, Error> {
        let mut objects = self.all_tasks()?;
        for cpu in self.cpus().unwrap_or_default() {
            let queue = self.per_cpu("runqueues", "struct rq", cpu);
            let idle = queue.and_then(|queue| queue.follow("idle"));
            if let Ok(Some(idle)) = idle
                && objects.iter().all(|known| known.address != idle.address)
            {
                objects.push(idle);
            }
        }
        let mut tasks: Vec<_> = objects
            .into_iter()
            .filter_map(|object| Task::read(object).ok())
            .collect();
        tasks.sort_by_key(|task| (task.pid, task.cpu));
        Ok(tasks)
    }

    /// The task that a CPU was running.
    ///
    /// # Errors
    /// [`Error`].
    pub fn current(&'k self, cpu: u32) -> Result<Option<Object<'k>>, Error> {
        self.per_cpu("runqueues", "struct rq", cpu)?.follow("curr")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_kernels_letters() {
        for (state, exit, expected) in [
            (0, 0, 'R'),
            (1, 0, 'S'),
            (2, 0, 'D'),
            (0x102, 0, 'D'),
            (0x402, 0, 'I'),
            (4, 0, 'T'),
            (8, 0, 't'),
            (0x80, 0x20, 'Z'),
            (0x80, 0x10, 'X'),
            (0x40, 0, 'P'),
            (0x1000, 0, 'D'),
        ] {
            assert_eq!(letter(state, exit), expected, "{state:#x} {exit:#x}");
        }
    }
}
