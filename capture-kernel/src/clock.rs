//! Time: the generic timer's virtual counter, which runs at a fixed rate without interrupts.
//! Source: Arm ARM (DDI 0487), chapter D12.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};
use kdraw_pipeline::ports::Clock;

static START: AtomicU64 = AtomicU64::new(0);

/// What CNTFRQ_EL0 should have said where firmware forgot to set it: the slowest rate in use
/// makes deadlines longer, never shorter than meant.
const SLOWEST_HZ: u64 = 1_000_000;

/// Microseconds since the payload's first instruction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter;

/// Makes `counter` (CNTVCT at the first instruction) the start of time.
pub fn start_at(counter: u64) {
    START.store(counter, Ordering::Relaxed);
}

impl Clock for Counter {
    fn now_us(&self) -> u64 {
        let ticks = CNTVCT_EL0.get().wrapping_sub(START.load(Ordering::Relaxed));
        let hz = CNTFRQ_EL0.get().max(SLOWEST_HZ);
        // In two parts, so that years of ticks do not overflow.
        let seconds = ticks.checked_div(hz).unwrap_or(0);
        let rest = ticks.checked_rem(hz).unwrap_or(0);
        let micros = rest.saturating_mul(1_000_000).checked_div(hz).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(micros)
    }
}
