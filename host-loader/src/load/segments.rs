//! How payload, plan, device tree and elfcorehdr lie in the crash region.
//!
//! One after the other from the region's start, each at a multiple of 64 KiB: that suits every
//! page size that arm64 Linux has. What they leave free is needed: the kernel takes its control
//! page and VMCOREINFO's safe copy from the holes of the region
//! (`kimage_alloc_crash_control_pages` in `kernel/kexec_core.c`) and the load fails without.

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_format::chunk::Codec;
use kdraw_format::plan::{MAX_PATH, MAX_WATCHDOGS, PLAN_LEN, Plan, Seal, Target, Watchdog};
use kdraw_format::working_memory::{MemoryNeed, Room, memory_needed, workers_that_fit};
use kdraw_linux::classify::DumpLevel;

use crate::error::Error;
use crate::load::device_tree::{self, Chosen};
use crate::load::elfcorehdr::{self, NotePlace};
use crate::load::machine::Machine;
use crate::load::options::cpus_at_work;
use crate::payload::Payload;
use crate::sys::Segment;

/// Segments are multiples of this, and aligned to it.
const ALIGN: u64 = 64 << 10;
/// The most that all segments together may take.
pub const MAX_TOTAL: u64 = 3 << 20;
/// What has to stay free for the kernel's own pages, in bytes: four pages of 64 KiB.
pub const KERNEL_PAGES: u64 = 4 * ALIGN;

/// What is not found out but decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The partition that the dump goes to.
    pub target: Option<Target>,
    /// The device-tree path of the UART that it goes over, or else goes over; empty: none.
    pub serial: heapless::String<MAX_PATH>,
    /// Random.
    pub seed: [u8; 16],
    /// Seconds that the capture may take; 0: the payload's default.
    pub budget_s: u32,
    /// Seconds since 1970.
    pub created: u64,
    /// The machine's name, cut to 64 bytes.
    pub hostname: String,
    /// Which pages are left out.
    pub level: DumpLevel,
    /// How page chunks are packed on the partition.
    pub codec: Codec,
    /// How page chunks are packed that go over the UART.
    pub line_codec: Codec,
    /// CPUs to use at most; 0: all.
    pub cpus: u16,
    /// Watchdogs that may run.
    pub watchdogs: heapless::Vec<Watchdog, MAX_WATCHDOGS>,
}

/// Segments ready to be loaded.
#[derive(Clone, Debug)]
pub struct Loadable {
    /// In the order of their addresses; the payload, which is entered at its start, is the first.
    pub segments: Vec<Segment>,
    /// The plan that is in one of them.
    pub plan: Plan,
    /// What they leave of the crash region.
    pub work: WorkingMemory,
}

/// What the payload has to work in, and what it needs: [`kdraw_format::working_memory`].
#[derive(Clone, Copy, Debug)]
pub struct WorkingMemory {
    /// Bytes that are there.
    pub room: u64,
    /// What this machine needs.
    pub need: MemoryNeed,
    /// CPUs that are to work.
    pub cpus: u64,
    /// How many of them would, with room for all.
    pub cpus_wanted: u64,
    /// How many can in this room.
    pub cpus_that_fit: u64,
}

impl WorkingMemory {
    fn new(region: PhysRange, segments: &[Segment], ram: u64, cpus: u64) -> Self {
        let taken = segments.iter().filter_map(|segment| {
            PhysRange::with_len(PhysAddr(segment.address), segment.memory_len)
        });
        let room = Room::new(region, taken).left();
        let cpus_in = |room| workers_that_fit(cpus, ram, room).saturating_add(1);
        Self {
            room,
            need: memory_needed(cpus, ram),
            cpus,
            cpus_wanted: cpus_in(u64::MAX),
            cpus_that_fit: cpus_in(room),
        }
    }

    /// The `crashkernel=` that would do for `need` bytes more than there are now, in MiB.
    pub fn advice(&self, region: PhysRange, need: u64) -> u64 {
        let missing = need.saturating_sub(self.room);
        let wanted = region.len().saturating_add(missing);
        // arm64 reserves multiples of 2 MiB.
        wanted.div_ceil(2 << 20).saturating_mul(2).max(8)
    }
}

impl Loadable {
    /// Where the payload is entered.
    pub fn entry(&self) -> u64 {
        self.segments.first().map_or(0, |payload| payload.address)
    }

    /// Bytes of memory that all segments take.
    pub fn total(&self) -> u64 {
        self.segments
            .iter()
            .fold(0, |sum, segment| segment.memory_len.saturating_add(sum))
    }

    /// Builds everything.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if it does not fit, [`Error::DeviceTree`] if the tree is malformed.
    pub fn build(
        machine: &Machine,
        payload: &Payload,
        notes: &[NotePlace],
        settings: Settings,
    ) -> Result<Self, Error> {
        let elfcorehdr = elfcorehdr::build(notes, &machine.evidence)?;
        let mut layout = Layout::new(machine.crash_region);
        let image_at = layout.place(payload.memory_len());
        let plan_at = layout.place(PLAN_LEN as u64);
        let elfcorehdr_at = layout.place(elfcorehdr.len() as u64);
        let chosen = Chosen {
            usable: machine.crash_region,
            elfcorehdr: extent(elfcorehdr_at, elfcorehdr.len()),
            plan: extent(plan_at, PLAN_LEN),
        };
        let device_tree = device_tree::rewrite(&machine.device_tree, &chosen)?;
        let device_tree_at = layout.place(device_tree.len() as u64);
        layout.check()?;
        let plan = plan(
            payload,
            Seal::of(&device_tree),
            Seal::of(&elfcorehdr),
            settings,
        );
        let mut block = [0; PLAN_LEN];
        plan.encode(&mut block);
        let image = payload.with_device_tree_at(device_tree_at.0);
        let segments = [
            ("payload", image_at, image, payload.memory_len()),
            ("plan", plan_at, block.to_vec(), PLAN_LEN as u64),
            ("elfcorehdr", elfcorehdr_at, elfcorehdr, 1),
            ("device tree", device_tree_at, device_tree, 1),
        ]
        .map(|(name, address, bytes, at_least)| Segment {
            name,
            memory_len: at_least.max(bytes.len() as u64).next_multiple_of(ALIGN),
            bytes,
            address: address.0,
        });
        let ram = machine.evidence.iter().map(PhysRange::len);
        let ram = ram.fold(0, u64::saturating_add);
        let cpus = cpus_at_work(elfcorehdr::cpus(notes), plan.cpus, plan.codec);
        let work = WorkingMemory::new(machine.crash_region, &segments, ram, cpus);
        if work.room < work.need.least {
            return Err(Error::SmallRegion {
                region: machine.crash_region.len(),
                room: work.room,
                need: work.need.least,
                advice: work.advice(machine.crash_region, work.need.least),
            });
        }
        Ok(Self {
            segments: segments.to_vec(),
            plan,
            work,
        })
    }
}

/// Makes a plan; unknown seals for what somebody else loads.
pub fn plan(payload: &Payload, device_tree: Seal, elfcorehdr: Seal, settings: Settings) -> Plan {
    let mut hostname = heapless::String::new();
    for letter in settings.hostname.chars() {
        if hostname.push(letter).is_err() {
            break;
        }
    }
    Plan {
        image: Seal {
            len: u32::try_from(payload.image().len()).unwrap_or(u32::MAX),
            checksum: payload.hash(),
        },
        device_tree,
        elfcorehdr,
        seed: settings.seed,
        target: settings.target,
        serial: settings.serial,
        budget_s: settings.budget_s,
        created: settings.created,
        hostname,
        level: settings.level.bits(),
        codec: settings.codec,
        line_codec: settings.line_codec,
        cpus: settings.cpus,
        watchdogs: settings.watchdogs,
    }
}

fn extent(start: PhysAddr, len: usize) -> PhysRange {
    PhysRange {
        start,
        end: PhysAddr(start.0.saturating_add(len as u64)),
    }
}

/// Hands out the region from its start on.
struct Layout {
    region: PhysRange,
    start: u64,
    next: u64,
}

impl Layout {
    fn new(region: PhysRange) -> Self {
        let start = region.start.0.next_multiple_of(ALIGN);
        Self {
            region,
            start,
            next: start,
        }
    }

    fn place(&mut self, len: u64) -> PhysAddr {
        let at = self.next;
        self.next = at
            .saturating_add(len)
            .checked_next_multiple_of(ALIGN)
            .unwrap_or(u64::MAX);
        PhysAddr(at)
    }

    /// Whether everything that was placed fits.
    fn check(&self) -> Result<(), Error> {
        let need = self.next.saturating_sub(self.start);
        if need > MAX_TOTAL {
            return Err(Error::NoRoom {
                what: "segments",
                need,
                room: MAX_TOTAL,
                hint: "the device tree or the payload is unusually large",
            });
        }
        let room = self
            .region
            .end
            .0
            .saturating_sub(self.start)
            .saturating_sub(KERNEL_PAGES);
        if need > room {
            return Err(Error::NoRoom {
                what: "segments",
                need,
                room,
                hint: "the crash region is too small; boot with crashkernel=8M",
            });
        }
        Ok(())
    }
}
