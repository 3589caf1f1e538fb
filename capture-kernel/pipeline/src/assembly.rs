//! Where chunks of pages are made and written: the first CPU's loop.
//!
//! Pieces of memory come in, in order of worth; as soon as there are enough for a chunk they
//! become an order. Other CPUs do them; while they have enough to do, the first CPU does one
//! itself. What is done is sealed and written in the order in which it is done, so that no CPU
//! ever waits for another: a chunk may stand behind as many less valuable ones as there are orders
//! on the way, no more.
//!
//! Chunks without data, of frames that are told by their runs alone, are not written one by one:
//! their runs are gathered.

use core::ops::ControlFlow;

use kdraw_format::chunk::{ClassSet, Codec, MAX_RUNS, Run};
use kdraw_format::slot::SlotHeader;

use crate::dump::{Dump, PagesEnded};
use crate::partition::TargetError;
use crate::ports::{Crew, Deadline, DeviceError, DmaBuffer, Task as _};
use crate::task::{Order, Piece, Product, Task, append};

/// How chunks are made.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// How they are packed.
    pub codec: Codec,
    /// When no further ones are begun.
    pub deadline: Deadline,
}

/// Chunks in the making.
pub struct Assembly<'d, 'p, 'a> {
    dump: &'d mut Dump<'p, 'a>,
    crew: &'d mut dyn Crew<Task>,
    /// How the first CPU does a task.
    work: &'d mut dyn FnMut(&mut Task),
    recipe: Recipe,
    order: Order,
    /// Runs without data that are not written yet.
    told: heapless::Vec<Run, MAX_RUNS>,
    /// Orders that other CPUs have.
    given: usize,
    ended: Option<PagesEnded>,
}

impl<'d, 'p, 'a> Assembly<'d, 'p, 'a> {
    /// Begins with nothing in the making; `work` does a task on this CPU.
    pub fn new(
        dump: &'d mut Dump<'p, 'a>,
        crew: &'d mut dyn Crew<Task>,
        work: &'d mut dyn FnMut(&mut Task),
        recipe: Recipe,
    ) -> Self {
        Self {
            dump,
            crew,
            work,
            recipe,
            order: Order::new(recipe.codec),
            told: heapless::Vec::new(),
            given: 0,
            ended: None,
        }
    }

    /// Takes further memory; breaks when no more is wanted.
    ///
    /// # Errors
    /// What the device failed with.
    pub fn take(&mut self, mut piece: Piece) -> Result<ControlFlow<()>, TargetError> {
        while piece.frames > 0 {
            self.order.take(&mut piece);
            if self.order.is_full() {
                self.begin()?;
            }
            if self.ended.is_some() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Ends a step of the order of worth: what was taken so far is begun and, if it has no data,
    /// told.
    ///
    /// # Errors
    /// What the device failed with.
    pub fn end_step(&mut self) -> Result<(), TargetError> {
        self.begin()?;
        self.tell_all()
    }

    /// Ends the pages, when every order has been done.
    ///
    /// # Errors
    /// The outer error is the device's; the inner tells why not everything was written.
    pub fn finish(mut self) -> Result<Result<(), PagesEnded>, TargetError> {
        self.begin()?;
        while self.given > 0 {
            if let Some(order) = self.crew.take_back() {
                self.given = self.given.saturating_sub(1);
                if self.ended.is_none() {
                    self.do_it(order)?;
                }
            }
            self.collect()?;
            core::hint::spin_loop();
        }
        self.tell_all()?;
        Ok(self.ended.map_or(Ok(()), Err))
    }

    /// Bytes of stream that pages can still take.
    pub fn room(&self) -> u64 {
        self.dump.room()
    }

    /// An order of no frames yet.
    pub(crate) const fn order(&self) -> Order {
        Order::new(self.recipe.codec)
    }

    /// How many bytes of stream an order would take; it is done and not written.
    ///
    /// # Errors
    /// What the device failed with.
    pub(crate) fn measure(&mut self, order: Order) -> Result<u64, TargetError> {
        let mut task = Task::new(order, self.buffer()?);
        (self.work)(&mut task);
        let (buffer, product) = task.done()?;
        if let Some(buffer) = buffer {
            self.dump.partition.release(buffer);
        }
        Ok(product.body.map_or(0, |body| body.chunk_len() as u64))
    }

    /// Leaves `classes` out of the dump, and says so in the slot's header.
    ///
    /// # Errors
    /// What the device failed with.
    pub fn leave_out(&mut self, classes: ClassSet) -> Result<&SlotHeader, TargetError> {
        self.dump.leave_out(classes)?;
        Ok(self.dump.header())
    }

    /// Has what was taken done.
    fn begin(&mut self) -> Result<(), TargetError> {
        let order = core::mem::replace(&mut self.order, Order::new(self.recipe.codec));
        if order.is_empty() || self.ended.is_some() {
            return Ok(());
        }
        if self.recipe.deadline.passed(self.dump.partition.clock()) {
            self.ended = Some(PagesEnded::OutOfTime);
            return Ok(());
        }
        self.supply()?;
        self.get_done(order)?;
        self.collect()
    }

    /// Gives the other CPUs all buffers but the last: so this CPU can go on whatever they do.
    fn supply(&mut self) -> Result<(), TargetError> {
        while let Some(buffer) = self.dump.partition.free_buffer()? {
            let last = !self.dump.partition.has_buffers();
            let back = match last {
                true => Some(buffer),
                false => self.crew.supply(buffer).err(),
            };
            if let Some(buffer) = back {
                self.dump.partition.release(buffer);
                break;
            }
        }
        Ok(())
    }

    /// Has an order done, by whoever has time. This CPU does one if the others have enough to do
    /// meanwhile, buffers included: they must not wait for it.
    fn get_done(&mut self, mut order: Order) -> Result<(), TargetError> {
        let deadline = self.dump.partition.patience();
        loop {
            order = match self.crew.offer(order) {
                Ok(()) => {
                    self.given = self.given.saturating_add(1);
                    return Ok(());
                }
                Err(order) => order,
            };
            if self.crew.is_provided() || deadline.passed(self.dump.partition.clock()) {
                return self.do_it(order);
            }
            self.collect()?;
            self.supply()?;
            core::hint::spin_loop();
        }
    }

    /// Does an order on this CPU.
    fn do_it(&mut self, order: Order) -> Result<(), TargetError> {
        let mut task = Task::new(order, self.buffer()?);
        (self.work)(&mut task);
        self.put(task)
    }

    /// Takes a buffer, as soon as there is one.
    fn buffer(&mut self) -> Result<DmaBuffer, TargetError> {
        let deadline = self.dump.partition.patience();
        loop {
            let free = self.dump.partition.free_buffer()?;
            if let Some(buffer) = free.or_else(|| self.crew.spare()) {
                return Ok(buffer);
            }
            // One that failed comes back when what is in it has been written elsewhere.
            self.dump.rewrite_failed()?;
            self.collect_done()?;
            if deadline.passed(self.dump.partition.clock()) {
                return Err(DeviceError::Timeout("no buffer came back").into());
            }
            core::hint::spin_loop();
        }
    }

    /// Takes in what other CPUs have done, and does again what they have not.
    fn collect(&mut self) -> Result<(), TargetError> {
        self.collect_done()?;
        while let Some(order) = self.crew.overdue() {
            self.given = self.given.saturating_sub(1);
            self.do_it(order)?;
        }
        Ok(())
    }

    fn collect_done(&mut self) -> Result<(), TargetError> {
        while let Some(task) = self.crew.collect() {
            self.given = self.given.saturating_sub(1);
            self.put(task)?;
        }
        Ok(())
    }

    /// Writes what a task made.
    fn put(&mut self, task: Task) -> Result<(), TargetError> {
        let (buffer, product) = task.done()?;
        match (buffer, &product.body) {
            (Some(buffer), Some(body)) => {
                if !self.dump.write_pages(buffer, &product, body)? {
                    self.ended = Some(PagesEnded::SlotFull);
                }
                Ok(())
            }
            (buffer, _) => {
                self.dump.give_buffers(buffer);
                self.tell(&product)
            }
        }
    }

    /// Gathers the runs of a chunk that has no data.
    fn tell(&mut self, product: &Product) -> Result<(), TargetError> {
        for run in &product.runs {
            if !append(&mut self.told, *run) {
                self.tell_all()?;
                append(&mut self.told, *run);
            }
        }
        Ok(())
    }

    /// Writes the runs that were gathered.
    fn tell_all(&mut self) -> Result<(), TargetError> {
        if self.told.is_empty() {
            return Ok(());
        }
        let runs = core::mem::take(&mut self.told);
        let buffer = self.buffer()?;
        if !self.dump.write_told(buffer, &runs)? {
            self.ended = Some(PagesEnded::SlotFull);
        }
        Ok(())
    }
}
