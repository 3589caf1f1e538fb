//! How the first CPU and the others hand tasks to each other.
//!
//! Each worker has two desks, so that a task waits for it while it works on another. A desk's
//! state is one atomic byte, and tells whose the task on it is:
//!
//! ```text
//!          offer           work            done           collect
//! idle ----------> ready ---------> busy ---------> done ---------> idle
//!  first CPU's  |  worker's      |  worker's     |  first CPU's
//!               '-- overdue -----'------------> abandoned, for good
//! ```
//!
//! A worker that is silent for too long, or dead, is given up: its tasks are done again by
//! somebody else with other buffers. If it answers after all, nobody looks: its desks are never
//! used again, and the buffers on them stay its own. So a lost CPU costs time and memory, nothing
//! else (docs/design.md, law 8).

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use kdraw_format::working_memory::MAX_WORKERS;

use crate::ports::{Clock, Crew, Deadline, Task};

/// Desks of one worker.
const DESKS: usize = 2;

const IDLE: u8 = 0;
const READY: u8 = 1;
const BUSY: u8 = 2;
const DONE: u8 = 3;
const ABANDONED: u8 = 4;

/// Where one task changes hands.
struct Desk<T: Task> {
    state: AtomicU8,
    /// Locked only by whose it is by `state`, and only to put a task down or take it: nobody
    /// ever waits for the lock.
    task: spin::Mutex<Option<T>>,
    /// Of the task on the desk; the first CPU's alone.
    order: spin::Mutex<Option<T::Order>>,
}

impl<T: Task> Desk<T> {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(IDLE),
            task: spin::Mutex::new(None),
            order: spin::Mutex::new(None),
        }
    }

    /// Goes from one state to another; false if it was in neither of them.
    fn go(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Acquire) == state
    }
}

/// What the first CPU and one worker share.
pub struct Workplace<T: Task> {
    desks: [Desk<T>; DESKS],
    dead: AtomicBool,
}

impl<T: Task> Workplace<T> {
    /// Returns a workplace with nothing to do.
    pub const fn new() -> Self {
        Self {
            desks: [const { Desk::new() }; DESKS],
            dead: AtomicBool::new(false),
        }
    }

    /// Tells that the worker will not answer any more.
    pub fn died(&self) {
        self.dead.store(true, Ordering::Release);
    }
}

impl<T: Task> Default for Workplace<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A worker's side of its workplace.
pub struct Worker<'a, T: Task> {
    place: &'a Workplace<T>,
    /// The desk to look at first, so that neither starves.
    next: usize,
}

impl<'a, T: Task> Worker<'a, T> {
    /// Takes the worker's side; only one may be in use at a time.
    pub fn at(place: &'a Workplace<T>) -> Self {
        Self { place, next: 0 }
    }

    /// Does one task that is ready, by `run`; false if there is none.
    pub fn work(&mut self, run: impl FnOnce(&mut T)) -> bool {
        let (later, first) = self.place.desks.split_at(self.next);
        let Some(desk) = first
            .iter()
            .chain(later)
            .find(|desk| desk.is(READY) && desk.go(READY, BUSY))
        else {
            return false;
        };
        self.next = match self.place.desks.first() {
            Some(first) if core::ptr::eq(first, desk) => 1,
            _ => 0,
        };
        // No lock is held while it runs: a worker that never comes back holds none.
        let task = desk.task.lock().take();
        if let Some(mut task) = task {
            run(&mut task);
            *desk.task.lock() = Some(task);
        }
        // If it was abandoned meanwhile, the task stays where it is.
        desk.go(BUSY, DONE);
        true
    }
}

/// The first CPU's side of one workplace.
struct Post<'a, T: Task> {
    place: &'a Workplace<T>,
    /// When the worker counts as silent, for each task that it has.
    deadlines: [Deadline; DESKS],
    given_up: bool,
}

/// The first CPU's side of all workplaces.
pub struct Foreman<'a, T: Task> {
    posts: heapless::Vec<Post<'a, T>, MAX_WORKERS>,
    clock: &'a dyn Clock,
    patience_us: u64,
    wake: fn(),
}

impl<'a, T: Task> Foreman<'a, T> {
    /// Takes the first CPU's side of `places`, the first [`MAX_WORKERS`] of them.
    ///
    /// A worker is silent if it finishes nothing for `patience_us` microseconds while it has a
    /// task; `wake` is called when there is one for it.
    pub fn new(
        places: impl IntoIterator<Item = &'a Workplace<T>>,
        clock: &'a dyn Clock,
        patience_us: u64,
        wake: fn(),
    ) -> Self {
        let deadlines = [clock.deadline(patience_us); DESKS];
        let post = |place| Post {
            place,
            deadlines,
            given_up: false,
        };
        Self {
            posts: places.into_iter().map(post).take(MAX_WORKERS).collect(),
            clock,
            patience_us,
            wake,
        }
    }
}

impl<T: Task> Post<'_, T> {
    /// How many tasks the worker has.
    fn load(&self) -> usize {
        let taken = |desk: &&Desk<T>| !desk.is(IDLE);
        self.place.desks.iter().filter(taken).count()
    }

    /// Whether the worker has let a task's deadline pass, or is known to be dead.
    fn is_silent(&self, clock: &dyn Clock) -> bool {
        let late = |(desk, deadline): (&Desk<T>, &Deadline)| {
            (desk.is(READY) || desk.is(BUSY)) && deadline.passed(clock)
        };
        self.place.dead.load(Ordering::Acquire)
            || self.place.desks.iter().zip(&self.deadlines).any(late)
    }
}

impl<T: Task> Crew<T> for Foreman<'_, T> {
    fn workers(&self) -> usize {
        self.posts.iter().filter(|post| !post.given_up).count()
    }

    fn offer(&mut self, task: T) -> Result<(), T> {
        let free = self.posts.iter_mut().filter(|post| !post.given_up);
        let Some(post) = free.min_by_key(|post| post.load()) else {
            return Err(task);
        };
        let mut desks = post.place.desks.iter().zip(&mut post.deadlines);
        let Some((desk, deadline)) = desks.find(|(desk, _)| desk.is(IDLE)) else {
            return Err(task);
        };
        *deadline = self.clock.deadline(self.patience_us);
        *desk.order.lock() = Some(task.order());
        *desk.task.lock() = Some(task);
        desk.state.store(READY, Ordering::Release);
        (self.wake)();
        Ok(())
    }

    fn collect(&mut self) -> Option<T> {
        for post in &mut self.posts {
            let Some(desk) = post.place.desks.iter().find(|desk| desk.is(DONE)) else {
                continue;
            };
            let task = desk.task.lock().take();
            desk.state.store(IDLE, Ordering::Release);
            // It has just shown that it is there.
            post.deadlines = [self.clock.deadline(self.patience_us); DESKS];
            if task.is_some() {
                return task;
            }
        }
        None
    }

    fn overdue(&mut self) -> Option<T::Order> {
        for post in &mut self.posts {
            post.given_up = post.given_up || post.is_silent(self.clock);
            if !post.given_up {
                continue;
            }
            for desk in &post.place.desks {
                if desk.go(READY, ABANDONED) || desk.go(BUSY, ABANDONED) {
                    return desk.order.lock().take();
                }
            }
        }
        None
    }
}

/// Nobody: the crew of a machine whose first CPU works alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl<T: Task> Crew<T> for Nobody {
    fn workers(&self) -> usize {
        0
    }

    fn offer(&mut self, task: T) -> Result<(), T> {
        Err(task)
    }

    fn collect(&mut self) -> Option<T> {
        None
    }

    fn overdue(&mut self) -> Option<T::Order> {
        None
    }
}
