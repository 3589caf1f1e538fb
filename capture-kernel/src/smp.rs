//! The other CPUs: started by the power firmware, if it can, to work for the first one.
//!
//! Linux stops them by CPU_OFF before it jumps here. So AFFINITY_INFO is asked first, and only
//! CPUs that are off are started: one that is not may still be the crashed kernel's. A CPU that
//! firmware refuses, that never arrives, or that the device tree starts in another way than by
//! PSCI is one CPU less, and the log says which (docs/design.md, law 8).
//!
//! They use the first CPU's tables, so they see what it sees, the evidence read-only as well, and
//! each has a number (TPIDR_EL1), two stacks, and a [`Seat`]. They do not use the console, the
//! log, the clock (its offset at EL2 is this CPU's own) or any device. One that faults or panics
//! leaves its last words and parks; the first CPU carries on.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use heapless::{String, Vec};
use kdraw_boards::machine::{EnableMethod, Machine};
use kdraw_format::working_memory::{self, MAX_WORKERS, WORKER_FAULT_STACK, WORKER_STACK};
use kdraw_pipeline::ports::Clock as _;

use crate::arena::Arena;
use crate::clock::Counter;
use crate::crew::{self, kdraw_work};
use crate::entry::{self, EntryState};
use crate::psci::{self, Power, Refused};

/// The affinity fields of MPIDR_EL1: Aff0 to Aff3.
pub const AFFINITY: u64 = 0xff_00ff_ffff;
/// How long all CPUs together may take to be off and to be started, and then to arrive, in
/// microseconds each. One took 2 ms at the most where it was measured.
const PATIENCE_US: u64 = 100_000;
/// The most CPUs that are asked for.
const MAX_ASKED: usize = 64;

/// entry.s reads them: the ends of stack and fault stack.
#[unsafe(no_mangle)]
static SECONDARY_STACKS: [[AtomicU64; 2]; MAX_WORKERS] =
    [const { [const { AtomicU64::new(0) }; 2] }; MAX_WORKERS];

static SEATS: [Seat; MAX_WORKERS] = [const { Seat::new() }; MAX_WORKERS];

const EMPTY: u8 = 0;
const AWAITED: u8 = 1;
const ARRIVED: u8 = 2;
const GIVEN_UP: u8 = 3;

/// What the first CPU knows of another.
pub struct Seat {
    state: AtomicU8,
    mpidr: AtomicU64,
    /// Locked by the CPU itself, and by the first one at the end.
    last_words: spin::Mutex<String<120>>,
}

impl Seat {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            mpidr: AtomicU64::new(0),
            last_words: spin::Mutex::new(String::new()),
        }
    }

    fn go(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Ends this CPU, for the reason given.
    pub fn die(&self, why: core::fmt::Arguments<'_>) -> ! {
        if let Some(mut words) = self.last_words.try_lock() {
            // What does not fit is cut.
            let _ = core::fmt::write(&mut *words, why);
        }
        crew::died(entry::cpu().wrapping_sub(1));
        entry::park()
    }
}

/// The seat of the CPU that runs this; `None` on the first one.
pub fn own_seat() -> Option<&'static Seat> {
    SEATS.get(entry::cpu().checked_sub(1)?)
}

/// Called by entry.s on a CPU that was started, on its stack.
#[unsafe(no_mangle)]
extern "C" fn kdraw_secondary() -> ! {
    match own_seat() {
        Some(seat) if seat.go(AWAITED, ARRIVED) => kdraw_work(entry::cpu().wrapping_sub(1)),
        // Too late: it has been given up.
        _ => entry::park(),
    }
}

/// The workers that are here, by number from 0 on.
pub fn arrived() -> impl Iterator<Item = usize> {
    let here = |(_, seat): &(usize, &Seat)| seat.state.load(Ordering::Acquire) == ARRIVED;
    (0..).zip(&SEATS).filter(here).map(|(worker, _)| worker)
}

/// What came of asking for a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not yet off, or not yet asked.
    On,
    /// Started, at a seat.
    Started(usize),
    /// The firmware refused.
    Refused(Refused),
}

/// How many CPUs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// That work, the first one included.
    pub working: usize,
    /// That the device tree has.
    pub present: usize,
}

/// How many CPUs may work beside the first one: `limit` in all (0: no limit), and as many as
/// `room` bytes are enough for on a machine with `ram` bytes of evidence.
pub fn workers(machine: &Machine<'_>, limit: u16, ram: u64, room: u64) -> usize {
    let present = machine.cpus().count() as u64;
    let cpus = match limit {
        0 => present,
        limit => present.min(u64::from(limit)),
    };
    // At most MAX_WORKERS.
    working_memory::workers_that_fit(cpus, ram, room) as usize
}

/// Starts up to `workers` other CPUs, and waits for them.
pub fn start(machine: &Machine<'_>, entry: &EntryState, workers: usize, arena: &mut Arena) -> Cpus {
    let mut asked = candidates(machine, entry.mpidr & AFFINITY);
    let seats = asked.len().min(workers);
    let seats = (0..seats).take_while(|&seat| furnish(seat, arena)).count();
    crew::open(seats, arena);
    let deadline = Counter.deadline(PATIENCE_US);
    let mut taken = 0;
    while taken < seats && !deadline.passed(&Counter) {
        let Some((mpidr, fate)) = asked.iter_mut().find(|(_, fate)| *fate == Fate::On) else {
            break;
        };
        *fate = ask(*mpidr, taken, entry.level);
        match fate {
            Fate::Started(_) => taken += 1,
            // The next one's turn, before this one's comes again.
            Fate::On => asked.rotate_left(1),
            Fate::Refused(_) => {}
        }
    }
    let awaited = |seat: &Seat| seat.state.load(Ordering::Acquire) == AWAITED;
    let deadline = Counter.deadline(PATIENCE_US);
    while SEATS.iter().any(awaited) && !deadline.passed(&Counter) {
        core::hint::spin_loop();
    }
    for (mpidr, fate) in &asked {
        report(*mpidr, *fate);
    }
    Cpus {
        working: arrived().count() + 1,
        present: machine.cpus().count().max(1),
    }
}

/// The CPUs besides `own` that the firmware may start.
fn candidates(machine: &Machine<'_>, own: u64) -> Vec<(u64, Fate), MAX_ASKED> {
    let others = machine.cpus().filter(|cpu| cpu.mpidr & AFFINITY != own);
    let mut asked = Vec::new();
    for cpu in others {
        if cpu.enable_method != EnableMethod::Psci || !psci::starts_cpus() {
            defmt::info!("CPU {=u64:#x}: not started by PSCI", cpu.mpidr);
        } else if asked.push((cpu.mpidr, Fate::On)).is_err() {
            break;
        }
    }
    asked
}

/// Gives a seat its stacks, and the worker there its memory.
fn furnish(seat: usize, arena: &mut Arena) -> bool {
    let Some([stack, fault_stack]) = SECONDARY_STACKS.get(seat) else {
        return false;
    };
    let mut carve = |end: &AtomicU64, len: u64| {
        let carved = arena.stack(len as usize);
        end.store(carved.unwrap_or(0), Ordering::Release);
        carved.is_some()
    };
    carve(stack, WORKER_STACK)
        && carve(fault_stack, WORKER_FAULT_STACK)
        && crew::furnish(seat, arena)
}

/// Starts a CPU at a seat if it is off.
fn ask(mpidr: u64, number: usize, level: u8) -> Fate {
    match psci::power(mpidr) {
        Ok(Power::On) => return Fate::On,
        Ok(Power::Off) => {}
        Err(refused) => return Fate::Refused(refused),
    }
    let Some(seat) = SEATS.get(number) else {
        return Fate::On;
    };
    seat.mpidr.store(mpidr, Ordering::Relaxed);
    seat.state.store(AWAITED, Ordering::Release);
    // Numbers begin with 1.
    let context = entry::secondary_context(number as u16 + 1, level);
    match psci::cpu_on(mpidr, entry::secondary_entry(), context) {
        Ok(()) => Fate::Started(number),
        Err(refused) => {
            seat.state.store(EMPTY, Ordering::Release);
            Fate::Refused(refused)
        }
    }
}

/// Logs what came of a CPU, and gives up one that has not arrived.
fn report(mpidr: u64, fate: Fate) {
    match fate {
        Fate::On => defmt::info!("CPU {=u64:#x}: not started, it is on or not needed", mpidr),
        Fate::Refused(Refused(code)) => {
            defmt::warn!("CPU {=u64:#x}: refused, {=i32}", mpidr, code);
        }
        Fate::Started(number) => {
            let gone = |seat: &Seat| seat.go(AWAITED, GIVEN_UP);
            match SEATS.get(number).is_some_and(gone) {
                true => defmt::warn!("CPU {=u64:#x}: started, and never arrived", mpidr),
                false => defmt::info!("CPU {=u64:#x}: here, number {=usize}", mpidr, number + 1),
            }
        }
    }
}

/// Logs the last words of CPUs that died.
pub fn log_deaths() {
    for seat in &SEATS {
        let Some(words) = seat.last_words.try_lock() else {
            continue;
        };
        if !words.is_empty() {
            let mpidr = seat.mpidr.load(Ordering::Relaxed);
            defmt::error!("CPU {=u64:#x} died: {=str}", mpidr, words.as_str());
        }
    }
}
