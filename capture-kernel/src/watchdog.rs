//! The board's watchdogs: petted as long as the capture gets on, and how the board is reset where
//! its firmware does not do that.
//!
//! Only what was achieved pets: a request that a device has completed, a chunk that was made, bytes
//! of a dump that a UART has taken, a phase that has ended. Waiting does not. And each phase has a
//! budget, after which nothing pets any more. So a payload that stalls, or runs in circles, is
//! reset.
//!
//! The plan says where watchdogs are that Linux has found; their registers say whether they run. One
//! that does not is left alone.
//!
//! There is no hook by which a test could make the payload stall: the tests put a loop into its code
//! from outside.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use kdraw_boards::WatchdogKind;
use kdraw_boards::machine::{self, Controller, Machine};
use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::registers::{Registers, Width};
use kdraw_drivers::watchdog::{Imx, Model, Watchdog, i6300esb};
use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_format::plan::{self, MAX_WATCHDOGS, PciAddress};
use kdraw_pipeline::ports::{
    BlockDevice, Clock as _, Completion, Deadline, DeviceError, DmaBuffer, Geometry, Request,
};

use crate::clock::Counter;
use crate::console::say;
use crate::mmu::{self, Use};
use crate::target;

/// They are petted no more often than this, in microseconds: a tenth of the shortest time that any
/// of them has.
const PAUSE_US: u64 = 100_000;
/// How long a reset by a watchdog may take, in microseconds.
const RESET_US: u64 = 2_000_000;

/// Those that were found running.
static RUNNING: spin::Once<heapless::Vec<Watchdog<Seen>, MAX_WATCHDOGS>> = spin::Once::new();
static PETTED_US: AtomicU64 = AtomicU64::new(0);
/// When the present phase has used up its budget.
static PHASE_END_US: AtomicU64 = AtomicU64::new(u64::MAX);

/// Finds those of the plan's watchdogs that run, and pets them. Call it when the evidence is mapped:
/// no memory can be taken for registers then.
pub fn find(machine: &Machine<'_>, plan: &plan::Plan) {
    let mut running = heapless::Vec::new();
    for named in &plan.watchdogs {
        let found = match named.pci {
            None => machine
                .watchdog(&named.node)
                .ok()
                .and_then(|found| at(machine, &found)),
            Some(pci) => on_pci(machine, &named.node, pci),
        };
        match found {
            Some(watchdog) if watchdog.is_running() => {
                watchdog.pet();
                let (node, timeout) = (&named.node, named.timeout_s);
                say!("watchdog at {node} runs, {timeout} s: petted while the capture gets on");
                // There is room for as many as the plan has.
                let _ = running.push(watchdog);
            }
            Some(_) => {}
            None => say!("the watchdog at {} cannot be reached", named.node),
        }
    }
    RUNNING.call_once(|| running);
}

/// Begins a phase that may take so many microseconds, which ends the one before.
pub fn begin_phase(budget_us: u64) {
    let end = Counter.now_us().saturating_add(budget_us);
    PHASE_END_US.store(end, Ordering::Relaxed);
    progress();
}

/// Tells that something was achieved.
pub fn progress() {
    let running = RUNNING.get().map_or(&[][..], |running| running);
    if running.is_empty() {
        return;
    }
    let now = Counter.now_us();
    let petted = PETTED_US.load(Ordering::Relaxed);
    let in_budget = now < PHASE_END_US.load(Ordering::Relaxed);
    if in_budget && now.saturating_sub(petted) >= PAUSE_US {
        PETTED_US.store(now, Ordering::Relaxed);
        running.iter().for_each(Watchdog::pet);
    }
}

/// Resets the board by a watchdog; comes back if that cannot be done. Those that run come first;
/// of the others it is not known whether they have a clock.
pub fn reset(machine: Option<&Machine<'_>>) {
    let running = RUNNING.get().map_or(&[][..], |running| running);
    running.iter().for_each(reset_by);
    let Some(machine) = machine else { return };
    for found in machine.watchdogs() {
        if let Some(watchdog) = at(machine, &found) {
            reset_by(&watchdog);
        }
    }
}

fn reset_by(watchdog: &Watchdog<Seen>) {
    watchdog.reset();
    let deadline = Counter.deadline(RESET_US);
    while !deadline.passed(&Counter) {
        core::hint::spin_loop();
    }
}

/// Maps a watchdog of the device tree.
fn at(machine: &Machine<'_>, found: &machine::Watchdog) -> Option<Watchdog<Seen>> {
    let model = match found.kind {
        WatchdogKind::Bcm2835 => Model::Bcm2835,
        WatchdogKind::DesignWare => Model::DesignWare,
        WatchdogKind::Imx => Model::Imx(Imx {
            big_endian: found.big_endian,
            by_pin: found.by_pin,
        }),
        WatchdogKind::Rti => Model::Rti,
        WatchdogKind::Cadence => Model::Cadence,
        WatchdogKind::Sunxi => Model::Sunxi,
        WatchdogKind::Meson => Model::Meson,
        WatchdogKind::Sbsa => Model::Sbsa,
        WatchdogKind::Sp805 => Model::Sp805,
    };
    let second = match found.refresh {
        Some(refresh) => Some(Seen::map(machine, refresh)?),
        None => None,
    };
    let first = Seen::map(machine, found.registers)?;
    Some(Watchdog::new(model, first, second))
}

/// Maps a watchdog behind a PCI host bridge.
fn on_pci(machine: &Machine<'_>, host: &str, pci: PciAddress) -> Option<Watchdog<Seen>> {
    let Ok(Controller::PciHost(host)) = machine.controller(host) else {
        return None;
    };
    let windows = target::windows(&host);
    let mut map = |at: PhysAddr, len| Seen::map(machine, PhysRange::with_len(at, len)?);
    let bridge = target::bridge(&host, &windows);
    let function = bridge.function(target::address(pci), &mut map).ok()?;
    if (function.vendor(), function.device()) != i6300esb::ID {
        return None;
    }
    let bar = function.bar_address(0, 0, i6300esb::BAR_LEN)?;
    let registers = map(bar, i6300esb::BAR_LEN)?;
    let config = function.into_config();
    Some(Watchdog::new(Model::I6300esb, registers, Some(config)))
}

/// Registers that are mapped for good.
#[derive(Clone, Copy, Debug)]
struct Seen {
    base: usize,
    len: usize,
}

impl Seen {
    /// Maps registers; refuses memory, which a damaged tree could name.
    fn map(machine: &Machine<'_>, range: PhysRange) -> Option<Self> {
        if machine.memory().any(|memory| memory.overlaps(&range)) {
            return None;
        }
        let seen = mmu::map(range, Use::Registers).ok()?;
        Some(Self {
            base: seen.as_ptr().addr(),
            len: range.len() as usize,
        })
    }

    fn region(self) -> MmioRegion {
        let base = NonNull::new(self.base as *mut u8).unwrap_or(NonNull::dangling());
        // SAFETY: `map` mapped `len` bytes there as Device memory, for good; only the first CPU
        // comes here, and the region is gone after one access.
        unsafe { MmioRegion::new(base, self.len) }
    }
}

impl Registers for Seen {
    fn size(&self) -> usize {
        self.len
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        self.region().read(offset, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        self.region().write(offset, width, value);
    }
}

/// A block device whose completed requests are progress.
pub struct Watched<'d>(pub &'d mut dyn BlockDevice);

impl BlockDevice for Watched<'_> {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)> {
        self.0.start(request)
    }

    fn poll(&mut self) -> Option<Completion> {
        let done = self.0.poll()?;
        if done.result.is_ok() {
            progress();
        }
        Some(done)
    }

    fn flush(
        &mut self,
        clock: &dyn kdraw_pipeline::ports::Clock,
        deadline: Deadline,
    ) -> Result<(), DeviceError> {
        self.0.flush(clock, deadline)?;
        progress();
        Ok(())
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.0.describe(out)
    }

    fn patience_us(&self) -> u64 {
        self.0.patience_us()
    }
}
