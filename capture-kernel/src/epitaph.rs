//! The payload's own end: what brought it down goes to the console and, if the device still
//! works, into the slot's header; then the machine is reset.
//!
//! Nothing here depends on what the capture was doing: the console is made anew, the device is
//! reset and brought up anew with memory of its own. A second fault on the way resets at once.

use core::sync::atomic::{AtomicBool, Ordering};

use kdraw_format::layout::SlotPlace;
use kdraw_format::plan::Target;
use kdraw_format::slot::{Epitaph, EpitaphKind, Outcome, SlotHeader};
use kdraw_pipeline::dump::write_header;
use kdraw_pipeline::partition::TargetError;
use kdraw_pipeline::ports::{BlockDevice, Clock as _, DeviceError};

use crate::clock::Counter;
use crate::console::{self, say};
use crate::line::Line;
use crate::target::Place;
use crate::watchdog::{self, Watched};
use crate::{dma, entry, psci, smp};

/// How long an epitaph may take, in microseconds.
const BUDGET_US: u64 = 60_000_000;

/// The way to a slot.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is no heap to box in, and one way"
)]
pub enum Way {
    /// On a disk.
    Disk(Place),
    /// Over a serial line.
    Line(Line),
}

/// What an epitaph needs to reach the slot.
#[derive(Clone, Debug)]
pub struct Grave {
    /// The device.
    pub way: Way,
    /// The partition.
    pub target: Target,
    /// The slot.
    pub slot: SlotPlace,
    /// Its header as it was written last.
    pub header: SlotHeader,
}

static GRAVE: spin::Mutex<Option<Grave>> = spin::Mutex::new(None);
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Tells where an epitaph is to be written, from when the slot is the dump's. The first place is
/// kept: a partition's slot, if the dump goes over a line since that failed.
pub fn prepare(grave: Grave) {
    GRAVE.lock().get_or_insert(grave);
}

/// Whether a slot is a dump's.
pub fn is_prepared() -> bool {
    GRAVE.lock().is_some()
}

/// Tells that the slot's header was written again.
pub fn header_is_now(header: &SlotHeader) {
    if let Some(grave) = &mut *GRAVE.lock() {
        grave.header = header.clone();
    }
}

/// Writes the epitaph and resets the machine.
pub fn end(mut epitaph: Epitaph) -> ! {
    if BEGUN.swap(true, Ordering::Relaxed) {
        entry::reset_bare();
    }
    watchdog::begin_phase(BUDGET_US);
    epitaph.at_us = Counter.now_us();
    say!("the capture failed: {}", epitaph.message);
    if matches!(epitaph.kind, EpitaphKind::Fault | EpitaphKind::SystemError) {
        say!(
            "ELR {:#x} ESR {:#x} FAR {:#x} SP {:#x} LR {:#x} SPSR {:#x}",
            epitaph.elr,
            epitaph.esr,
            epitaph.far,
            epitaph.sp,
            epitaph.lr,
            epitaph.spsr
        );
    }
    // A lock that is held was held by what failed.
    let grave = GRAVE.try_lock().and_then(|mut grave| grave.take());
    match grave.map(|grave| bury(grave, epitaph)) {
        Some(Ok(())) => say!("the slot's header says so; resetting"),
        Some(Err(error)) => say!("the slot's header could not be written: {error}; resetting"),
        None => say!("no slot was open; resetting"),
    }
    console::flush();
    psci::reset()
}

fn bury(grave: Grave, epitaph: Epitaph) -> Result<(), TargetError> {
    const NO_MEMORY: DeviceError = DeviceError::Unusable("no memory is left for it");
    match &grave.way {
        Way::Disk(place) => {
            let mut disk = place.bring_up(dma::small().ok_or(NO_MEMORY)?)?;
            write_down(&mut Watched(&mut disk), &grave, epitaph)
        }
        Way::Line(line) => write_down(&mut line.begin_again()?, &grave, epitaph),
    }
}

fn write_down(
    device: &mut dyn BlockDevice,
    grave: &Grave,
    epitaph: Epitaph,
) -> Result<(), TargetError> {
    let no_memory = DeviceError::Unusable("no memory is left for it");
    let buffer = dma::small().ok_or(no_memory)?;
    let mut partition = crate::open(device, &grave.target, [buffer].into_iter().collect())?;
    let header = &grave.header;
    let header = SlotHeader {
        outcome: Outcome::Failed,
        generation: header.generation.saturating_add(1),
        elapsed_us: epitaph.at_us,
        epitaph,
        ..header.clone()
    };
    write_header(&mut partition, &grave.slot, &header)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Some(seat) = smp::own_seat() {
        seat.die(format_args!("{info}"));
    }
    let mut epitaph = Epitaph {
        kind: EpitaphKind::Panic,
        ..Epitaph::default()
    };
    // What does not fit the header is cut; the console gets the same text.
    let _ = core::fmt::write(&mut epitaph.message, format_args!("{info}"));
    end(epitaph)
}
