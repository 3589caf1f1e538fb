//! The crew: what the other CPUs do, and the first CPU's side of it.
//!
//! Orders change hands in one office ([`kdraw_pipeline::crew`]); each worker has memory to read
//! pages to. It waits for an event when it has nothing to do; the first CPU sends one with each
//! order.

use core::arch::asm;

use kdraw_format::working_memory::{CHUNK_RAW, DESK, DESKS_EACH, MAX_WORKERS};
use kdraw_pipeline::crew::{Desk, Foreman, Office, Turn, Worker};
use kdraw_pipeline::lz4::Table;
use kdraw_pipeline::task::{Scratch, Task};

use crate::arena::Arena;
use crate::clock::Counter;
use crate::entry;
use crate::evidence::Evidence;
use crate::smp;
use crate::unaligned::SingleAccess;

/// How long a worker may be silent, in microseconds. A chunk takes milliseconds; a little core, an
/// emulated one or a host that is busy takes longer, and a worker that is given up is lost.
const PATIENCE_US: u64 = 3_000_000;

const _: () = assert!(size_of::<Desk<Task>>() <= DESK as usize);

static OFFICE: spin::Once<Office<'static, Task>> = spin::Once::new();
/// Where each worker reads pages to; there until it takes it.
static RAW: [spin::Mutex<Option<&'static mut [u8]>>; MAX_WORKERS] =
    [const { spin::Mutex::new(None) }; MAX_WORKERS];
/// What all of them read.
static EVIDENCE: spin::Once<Evidence> = spin::Once::new();

/// Lets all CPUs see the evidence.
pub fn show(evidence: Evidence) -> &'static Evidence {
    EVIDENCE.call_once(|| evidence)
}

/// Makes an office for so many workers, before there are any.
pub fn open(workers: usize, arena: &mut Arena) {
    let desks = core::iter::from_fn(|| arena.keep(Desk::new()));
    let desks = desks.take(workers.saturating_mul(DESKS_EACH));
    OFFICE.call_once(|| Office::new(desks));
}

/// Gives a worker its memory; false if there is none.
pub fn furnish(worker: usize, arena: &mut Arena) -> bool {
    let (Some(place), Some(raw)) = (RAW.get(worker), arena.bytes(CHUNK_RAW as usize)) else {
        return false;
    };
    *place.lock() = Some(raw);
    true
}

/// The first CPU's side of the workers that are here; `None` if there never were any.
pub fn foreman() -> Option<Foreman<'static, Task>> {
    let office = OFFICE.get()?;
    let here = smp::arrived();
    Some(Foreman::new(office, here, &Counter, PATIENCE_US, wake))
}

/// Tells that a worker will not answer any more.
pub fn died(worker: usize) {
    if let Some(office) = OFFICE.get() {
        office.died(worker);
    }
}

/// What a worker does, for good.
///
/// A symbol of its own, which tests find.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn kdraw_work(number: usize) -> ! {
    let (Some(office), Some(evidence)) = (OFFICE.get(), EVIDENCE.get()) else {
        entry::park()
    };
    let Some(raw) = RAW.get(number).and_then(|place| place.lock().take()) else {
        entry::park()
    };
    let mut table = Table::new();
    let mut scratch = Scratch {
        raw,
        table: &mut table,
        deflater: None,
    };
    let mut worker = Worker::at(office, number);
    loop {
        match worker.work(|task| task.run::<SingleAccess>(&mut scratch, evidence)) {
            Turn::Worked => {}
            // An event that was sent since the look at the desks is not lost: it ends this at
            // once (Arm ARM D1.6.1).
            Turn::Idle => aarch64_cpu::asm::wfe(),
            Turn::Dismissed => entry::park(),
        }
    }
}

/// Wakes the workers, once they can see what was put down for them.
fn wake() {
    // SAFETY: a barrier and an event change no memory and no register.
    unsafe { asm!("dsb ishst", "sev", options(nostack, preserves_flags)) };
}
