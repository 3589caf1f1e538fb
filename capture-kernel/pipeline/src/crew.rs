//! How the first CPU and the others hand work to each other.
//!
//! The first CPU puts orders on desks, many more than there are workers: so they have work while
//! it is busy itself. Any worker takes the oldest order that waits, and a buffer to do it in from
//! a common stock. A desk's state is one atomic byte, and tells whose what lies on it is:
//!
//! ```text
//!          offer           work           done           collect
//! idle ----------> ready ---------> busy --------> done ---------> idle
//!  ^  first CPU's  |    a worker's     |   first CPU's
//!  '-- take_back --'                   '-- overdue --> abandoned, for good
//! ```
//!
//! A worker that is silent for too long, or dead, is given up: its order is done again by somebody
//! else with another buffer. If it answers after all, it finds that it was given up, and ends. So
//! a lost CPU costs time and memory, nothing else (docs/design.md, law 8).

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use kdraw_format::working_memory::{DESKS_EACH, MAX_WORKERS, stored_buffers};

use crate::ports::{Clock, Crew, Deadline, Task};

/// The most orders that can be on the way.
const MAX_DESKS: usize = 32;

const IDLE: u8 = 0;
const READY: u8 = 1;
const DONE: u8 = 2;
const ABANDONED: u8 = 3;
/// Busy, by the worker with number 0; the others follow.
const BUSY: u8 = 4;

const _: () = assert!(BUSY as usize + MAX_WORKERS <= u8::MAX as usize);
// Each of them may be lost with a desk.
const _: () = assert!(MAX_WORKERS < MAX_DESKS && DESKS_EACH > 1);

/// What lies on a desk.
enum Sheet<T: Task> {
    Order(T::Order),
    Done(T),
}

/// Where one order changes hands.
pub struct Desk<T: Task> {
    state: AtomicU8,
    /// Of the order on it: older ones have lower numbers.
    number: AtomicU32,
    /// Locked only by whose it is by `state`, and only to put something down or take it: nobody
    /// ever waits for the lock.
    sheet: spin::Mutex<Option<Sheet<T>>>,
    /// The order, to have it done again; the first CPU's alone.
    order: spin::Mutex<Option<T::Order>>,
}

impl<T: Task> Desk<T> {
    /// Returns a desk with nothing on it.
    pub const fn new() -> Self {
        Self {
            state: AtomicU8::new(IDLE),
            number: AtomicU32::new(0),
            sheet: spin::Mutex::new(None),
            order: spin::Mutex::new(None),
        }
    }

    /// Goes from one state to another; false if it was not in the first.
    fn go(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Acquire) == state
    }

    fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }
}

impl<T: Task> Default for Desk<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What all CPUs share.
pub struct Office<'a, T: Task> {
    desks: heapless::Vec<&'a Desk<T>, MAX_DESKS>,
    /// Buffers for the workers. Nobody waits for the lock.
    stock: spin::Mutex<heapless::Vec<T::Buffer, { stored_buffers(MAX_WORKERS) }>>,
    /// How many there are in it, for those who do not want to disturb.
    stocked: AtomicUsize,
    dead: [AtomicBool; MAX_WORKERS],
}

impl<'a, T: Task> Office<'a, T> {
    /// Returns an office with nothing to do. Of the desks it takes the first 32; [`DESKS_EACH`]
    /// are enough for a worker.
    pub fn new(desks: impl IntoIterator<Item = &'a Desk<T>>) -> Self {
        Self {
            desks: desks.into_iter().take(MAX_DESKS).collect(),
            stock: spin::Mutex::new(heapless::Vec::new()),
            stocked: AtomicUsize::new(0),
            dead: [const { AtomicBool::new(false) }; MAX_WORKERS],
        }
    }

    /// Tells that a worker will not answer any more.
    pub fn died(&self, worker: usize) {
        if let Some(dead) = self.dead.get(worker) {
            dead.store(true, Ordering::Release);
        }
    }

    fn is_dead(&self, worker: usize) -> bool {
        let dead = self.dead.get(worker);
        dead.is_none_or(|dead| dead.load(Ordering::Acquire))
    }

    fn stocked(&self) -> usize {
        self.stocked.load(Ordering::Relaxed)
    }

    fn buffer(&self) -> Option<T::Buffer> {
        if self.stocked() == 0 {
            return None;
        }
        let mut stock = self.stock.try_lock()?;
        let buffer = stock.pop();
        self.stocked.store(stock.len(), Ordering::Relaxed);
        buffer
    }

    /// The desk in `state` with the oldest order.
    #[inline(never)]
    fn oldest(&self, state: u8) -> Option<&'a Desk<T>> {
        let desks = self.desks.iter().copied().filter(|desk| desk.is(state));
        desks.min_by_key(|desk| desk.number())
    }
}

/// What became of a worker's look for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// An order was done.
    Worked,
    /// Nothing is there to do, or nothing to do it in.
    Idle,
    /// The worker was given up: it gets nothing any more.
    Dismissed,
}

/// A worker's side of the office.
pub struct Worker<'a, T: Task> {
    office: &'a Office<'a, T>,
    /// What a desk's state is while this one works on its order.
    busy: u8,
    /// To do the next order in.
    buffer: Option<T::Buffer>,
    dismissed: bool,
}

impl<'a, T: Task> Worker<'a, T> {
    /// Takes the side of the worker with this number, from 0 on and below [`MAX_WORKERS`]; only
    /// one may be in use at a time.
    pub fn at(office: &'a Office<'a, T>, number: usize) -> Self {
        Self {
            office,
            busy: BUSY.saturating_add(u8::try_from(number).unwrap_or(u8::MAX)),
            buffer: None,
            dismissed: number >= MAX_WORKERS,
        }
    }

    /// Does the oldest order that waits, by `run`.
    pub fn work(&mut self, run: impl FnOnce(&mut T)) -> Turn {
        if self.dismissed {
            return Turn::Dismissed;
        }
        let Some(buffer) = self.buffer.take().or_else(|| self.office.buffer()) else {
            return Turn::Idle;
        };
        let desk = loop {
            match self.office.oldest(READY) {
                Some(desk) if desk.go(READY, self.busy) => break desk,
                // Somebody else was faster.
                Some(_) => {}
                None => {
                    self.buffer = Some(buffer);
                    return Turn::Idle;
                }
            }
        };
        // No lock is held while it runs: a worker that never comes back holds none.
        let order = desk.sheet.lock().take();
        match order {
            Some(Sheet::Order(order)) => {
                let mut task = T::new(order, buffer);
                run(&mut task);
                self.buffer = task.unused();
                *desk.sheet.lock() = Some(Sheet::Done(task));
            }
            // Cannot be: a desk that is ready has an order.
            other => {
                self.buffer = Some(buffer);
                *desk.sheet.lock() = other;
            }
        }
        // If it was abandoned meanwhile, what was made stays where it is.
        self.dismissed = !desk.go(self.busy, DONE);
        Turn::Worked
    }
}

/// The first CPU's side of the office.
pub struct Foreman<'a, T: Task> {
    office: &'a Office<'a, T>,
    /// By number: whether it is there and has not been given up.
    trusted: [bool; MAX_WORKERS],
    /// Of each desk: the order that was seen to be worked on, and when it is too late.
    watched: [Option<(u32, Deadline)>; MAX_DESKS],
    next: u32,
    clock: &'a dyn Clock,
    patience_us: u64,
    wake: fn(),
}

impl<'a, T: Task> Foreman<'a, T> {
    /// Takes the first CPU's side of the office, in which the workers with the numbers `here` are.
    ///
    /// A worker is silent if it does not finish what it was seen to work on within `patience_us`
    /// microseconds; `wake` is called when there is something to do.
    pub fn new(
        office: &'a Office<'a, T>,
        here: impl IntoIterator<Item = usize>,
        clock: &'a dyn Clock,
        patience_us: u64,
        wake: fn(),
    ) -> Self {
        let mut trusted = [false; MAX_WORKERS];
        for worker in here {
            if let Some(trusted) = trusted.get_mut(worker) {
                *trusted = true;
            }
        }
        Self {
            office,
            trusted,
            watched: [None; MAX_DESKS],
            next: 0,
            clock,
            patience_us,
            wake,
        }
    }
}

impl<T: Task> Crew<T> for Foreman<'_, T> {
    fn workers(&self) -> usize {
        let trusted = (0..).zip(&self.trusted);
        trusted
            .filter(|&(worker, &trusted)| trusted && !self.office.is_dead(worker))
            .count()
    }

    fn supply(&mut self, buffer: T::Buffer) -> Result<(), T::Buffer> {
        if self.workers() == 0 {
            return Err(buffer);
        }
        let Some(mut stock) = self.office.stock.try_lock() else {
            return Err(buffer);
        };
        stock.push(buffer)?;
        self.office.stocked.store(stock.len(), Ordering::Relaxed);
        drop(stock);
        (self.wake)();
        Ok(())
    }

    fn spare(&mut self) -> Option<T::Buffer> {
        self.office.buffer()
    }

    fn is_provided(&self) -> bool {
        self.office.stocked() >= self.workers()
    }

    fn offer(&mut self, order: T::Order) -> Result<(), T::Order> {
        let mut desks = self.office.desks.iter();
        let Some(desk) = desks.find(|desk| desk.is(IDLE) && self.workers() > 0) else {
            return Err(order);
        };
        *desk.order.lock() = Some(order.clone());
        *desk.sheet.lock() = Some(Sheet::Order(order));
        desk.number.store(self.next, Ordering::Relaxed);
        // A dump has fewer than 2^32 chunks; were it not so, only the order would suffer.
        self.next = self.next.wrapping_add(1);
        desk.state.store(READY, Ordering::Release);
        (self.wake)();
        Ok(())
    }

    fn collect(&mut self) -> Option<T> {
        let desk = self.office.oldest(DONE)?;
        let sheet = desk.sheet.lock().take();
        desk.state.store(IDLE, Ordering::Release);
        match sheet? {
            Sheet::Done(task) => Some(task),
            // Cannot be: what is done is no order any more.
            Sheet::Order(_) => None,
        }
    }

    fn take_back(&mut self) -> Option<T::Order> {
        let desk = self.office.oldest(READY)?;
        desk.go(READY, IDLE).then(|| desk.order.lock().take())?
    }

    fn overdue(&mut self) -> Option<T::Order> {
        for (desk, watched) in self.office.desks.iter().zip(&mut self.watched) {
            let state = desk.state.load(Ordering::Acquire);
            let Some(worker) = state.checked_sub(BUSY).map(usize::from) else {
                continue;
            };
            let number = desk.number();
            let deadline = match watched {
                Some((seen, deadline)) if *seen == number => *deadline,
                _ => {
                    let deadline = self.clock.deadline(self.patience_us);
                    *watched = Some((number, deadline));
                    deadline
                }
            };
            let silent = self.office.is_dead(worker) || deadline.passed(self.clock);
            if silent && desk.go(state, ABANDONED) {
                if let Some(trusted) = self.trusted.get_mut(worker) {
                    *trusted = false;
                }
                return desk.order.lock().take();
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

    fn supply(&mut self, buffer: T::Buffer) -> Result<(), T::Buffer> {
        Err(buffer)
    }

    fn spare(&mut self) -> Option<T::Buffer> {
        None
    }

    fn is_provided(&self) -> bool {
        true
    }

    fn offer(&mut self, order: T::Order) -> Result<(), T::Order> {
        Err(order)
    }

    fn collect(&mut self) -> Option<T> {
        None
    }

    fn take_back(&mut self) -> Option<T::Order> {
        None
    }

    fn overdue(&mut self) -> Option<T::Order> {
        None
    }
}
