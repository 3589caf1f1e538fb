//! The crew: what the other CPUs do, and the first CPU's side of it.
//!
//! Each worker has a workplace, where tasks change hands ([`kdraw_pipeline::crew`]), and memory to
//! read pages to. It waits for an event when it has nothing to do; the first CPU sends one with
//! each task.

use core::arch::asm;

use kdraw_format::working_memory::{BENCH, CHUNK_RAW, MAX_WORKERS};
use kdraw_pipeline::crew::{Foreman, Worker, Workplace};
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

/// What a worker works with.
struct Bench {
    place: Workplace<Task>,
    /// Where it reads pages to; there until it takes it.
    raw: spin::Mutex<Option<&'static mut [u8]>>,
}

const _: () = assert!(size_of::<Bench>() <= BENCH as usize);

static BENCHES: [spin::Once<&'static Bench>; MAX_WORKERS] =
    [const { spin::Once::new() }; MAX_WORKERS];
/// What all of them read.
static EVIDENCE: spin::Once<Evidence> = spin::Once::new();

/// Lets all CPUs see the evidence.
pub fn show(evidence: Evidence) -> &'static Evidence {
    EVIDENCE.call_once(|| evidence)
}

/// Gives a worker its memory; false if there is none.
pub fn furnish(worker: usize, arena: &mut Arena) -> bool {
    let Some(raw) = arena.bytes(CHUNK_RAW as usize) else {
        return false;
    };
    let bench = Bench {
        place: Workplace::new(),
        raw: spin::Mutex::new(Some(raw)),
    };
    match (arena.keep(bench), BENCHES.get(worker)) {
        (Some(bench), Some(place)) => core::ptr::eq(*place.call_once(|| bench), bench),
        _ => false,
    }
}

fn bench(worker: usize) -> Option<&'static Bench> {
    BENCHES.get(worker)?.get().copied()
}

/// The first CPU's side of the workers that are here.
pub fn foreman() -> Foreman<'static, Task> {
    let here = smp::arrived().filter_map(|worker| Some(&bench(worker)?.place));
    Foreman::new(here, &Counter, PATIENCE_US, wake)
}

/// Tells that a worker will not answer any more.
pub fn died(worker: usize) {
    if let Some(bench) = bench(worker) {
        bench.place.died();
    }
}

/// What a worker does, for good.
///
/// A symbol of its own, which tests find.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn kdraw_work(worker: usize) -> ! {
    let (Some(bench), Some(evidence)) = (bench(worker), EVIDENCE.get()) else {
        entry::park()
    };
    let Some(raw) = bench.raw.lock().take() else {
        entry::park()
    };
    let mut table = Table::new();
    let mut scratch = Scratch {
        raw,
        table: &mut table,
    };
    let mut worker = Worker::at(&bench.place);
    loop {
        if !worker.work(|task| task.run::<SingleAccess>(&mut scratch, evidence)) {
            // An event that was sent since the look at the desks is not lost: it ends this at
            // once (Arm ARM D1.6.1).
            aarch64_cpu::asm::wfe();
        }
    }
}

/// Wakes the workers, once they can see what was put down for them.
fn wake() {
    // SAFETY: a barrier and an event change no memory and no register.
    unsafe { asm!("dsb ishst", "sev", options(nostack, preserves_flags)) };
}
