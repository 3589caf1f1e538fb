//! What happens on an exception: a fault while evidence is read becomes a result, anything
//! else is the payload's end on the first CPU, and the CPU's own on another.

use core::sync::atomic::{AtomicU64, Ordering};

use kdraw_format::slot::{Epitaph, EpitaphKind};

use crate::{epitaph, smp};

/// The registers that entry.s saved, on the fault stack.
#[repr(C)]
pub struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
    esr: u64,
    far: u64,
    sp: u64,
}

unsafe extern "C" {
    static evidence_copy_end: u8;
    static evidence_copy_fault: u8;
}

static EVIDENCE_FAULTS: AtomicU64 = AtomicU64::new(0);

/// How many aborts and SErrors were met while evidence was read.
pub fn evidence_faults() -> u64 {
    EVIDENCE_FAULTS.load(Ordering::Relaxed)
}

/// ESR_ELx.EC: data abort taken without a change of exception level.
const EC_DATA_ABORT: u64 = 0x25;
/// ESR_ELx.ISS.WnR of a data abort: it was a write.
const WRITE: u64 = 1 << 6;

/// Called by the vectors in entry.s; returning resumes at `frame.elr`.
#[unsafe(no_mangle)]
extern "C" fn kdraw_exception(frame: &mut Frame, system_error: u64) {
    let copy = (crate::evidence::evidence_copy as *const ()).addr() as u64;
    let copy_end = (&raw const evidence_copy_end).addr() as u64;
    let read_abort = frame.esr >> 26 == EC_DATA_ABORT && frame.esr & WRITE == 0;
    if (copy..copy_end).contains(&frame.elr) && (system_error != 0 || read_abort) {
        EVIDENCE_FAULTS.fetch_add(1, Ordering::Relaxed);
        frame.elr = (&raw const evidence_copy_fault).addr() as u64;
        return;
    }
    let what = match system_error {
        0 => describe(frame.esr),
        _ => "SError",
    };
    if let Some(seat) = smp::own_seat() {
        let (elr, esr, far) = (frame.elr, frame.esr, frame.far);
        seat.die(format_args!(
            "{what}, ELR {elr:#x} ESR {esr:#x} FAR {far:#x}"
        ));
    }
    let mut message = heapless::String::new();
    let _ = message.push_str(what);
    epitaph::end(Epitaph {
        kind: if system_error != 0 {
            EpitaphKind::SystemError
        } else {
            EpitaphKind::Fault
        },
        elr: frame.elr,
        esr: frame.esr,
        far: frame.far,
        sp: frame.sp,
        lr: frame.x[30],
        spsr: frame.spsr,
        at_us: 0,
        message,
    })
}

/// The exception class in words (Arm ARM, ESR_EL1.EC).
fn describe(esr: u64) -> &'static str {
    match esr >> 26 {
        0x00 => "undefined instruction",
        0x07 => "trapped FP or SIMD instruction",
        0x0e => "illegal execution state",
        0x21 => "instruction abort",
        0x22 => "PC alignment fault",
        0x25 => "data abort",
        0x26 => "SP alignment fault",
        0x3c => "breakpoint instruction",
        _ => "unexpected exception",
    }
}
