//! Plays the payload's main sequence: the real pipeline, between a fake disk and fake memory.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kdraw_format::black_box::{BLACK_BOX_CHUNK, tag};
use kdraw_format::chunk::{ClassSet, Codec, Kind};
use kdraw_format::layout::{START_UNKNOWN, Superblock};
use kdraw_format::memory_map::{Fate, MapEntry};
use kdraw_format::plan::Target;
use kdraw_format::records::RecordWriter;
use kdraw_format::slot::SlotHeader;
use kdraw_format::working_memory::{CHUNK_RAW, DEFLATE, DESKS_EACH};
use kdraw_pipeline::assembly::{Assembly, Recipe};
use kdraw_pipeline::crew::{Desk, Foreman, Office, Turn, Worker};
use kdraw_pipeline::deflate::Deflater;
use kdraw_pipeline::dump::{Dump, Ending, PagesEnded, choose_slot, write_journal};
use kdraw_pipeline::lz4::{Portable, Table};
use kdraw_pipeline::partition::{Partition, TargetError};
use kdraw_pipeline::plain::{Core, Kernel};
use kdraw_pipeline::ports::{BlockDevice, Clock, Crew, Deadline, DmaBuffer};
use kdraw_pipeline::task::{Scratch, Task};
use kdraw_pipeline::worth::Evidence;

use crate::disk::{FakeClock, FakeDisk, buffers, put_mbr, target};
use crate::memory::{FakeMemory, ranges};

/// When it crashed, in seconds since 1970.
pub const CRASH_TIME: u64 = 1_795_225_170;
/// Why.
pub const REASON: &str = "Kernel panic - not syncing: sysrq triggered crash";
/// The kernel's log.
pub const LOG: &str = "[    0.000000] Booting\n[    9.000000] Kernel panic - not syncing\n";
/// The kernel's release.
pub const RELEASE: &str = "6.1.0-test-arm64";

/// A capture to be made.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The dump's id.
    pub id: [u8; 16],
    /// What is captured.
    pub memory: FakeMemory,
    /// The kernel's log.
    pub log: Vec<u8>,
    /// How long writing pages may take; the clock goes on by 1 per look.
    pub budget_us: u64,
    /// How page chunks are packed.
    pub codec: Codec,
    /// What the other CPUs do.
    pub workers: Vec<Diligence>,
}

/// What a CPU does with the tasks that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diligence {
    /// All of them.
    Works,
    /// So many, and the next one it never ends.
    DiesAfter(usize),
}

/// How long a fake CPU may be silent, in looks at the clock.
const PATIENCE_US: u64 = 20_000;

impl Capture {
    /// A capture of everything.
    pub fn new(id: u8) -> Self {
        Self {
            id: [id; 16],
            memory: FakeMemory::default(),
            log: LOG.into(),
            budget_us: u64::MAX,
            codec: Codec::Raw,
            workers: Vec::new(),
        }
    }

    /// Writes it onto a disk, into the slot that the payload would choose; returns the slot's
    /// header, or nothing if no slot was free and a record of the journal had to do.
    ///
    /// # Errors
    /// What the target was refused for, or failed with.
    pub fn onto(
        &self,
        disk: &mut FakeDisk,
        superblock: &Superblock,
    ) -> Result<Option<SlotHeader>, TargetError> {
        self.through(disk, &FakeClock::new(1), &target(superblock))
    }

    /// Writes it through a device, as [`Capture::onto`] does.
    ///
    /// # Errors
    /// As of [`Capture::onto`].
    pub fn through(
        &self,
        device: &mut dyn BlockDevice,
        clock: &dyn Clock,
        target: &Target,
    ) -> Result<Option<SlotHeader>, TargetError> {
        let mut partition = Partition::open(device, clock, target, self.buffers())?;
        let Some((slot, old)) = choose_slot(&mut partition)? else {
            write_journal(&mut partition, self.id, black_box)?;
            return Ok(None);
        };
        let dump = Dump::begin(&mut partition, slot, &old, self.id, 0)?;
        self.write(dump, clock).map(Some)
    }

    /// Writes it into the image file of a signed partition, as [`Capture::onto`] does.
    ///
    /// # Panics
    /// If the target is refused.
    pub fn into_file(&self, path: &Path) -> Option<SlotHeader> {
        let mut disk = disk_around(path);
        let mut superblock = Superblock::decode(disk.partition_bytes()).unwrap();
        superblock.partition_start = disk.partition.start;
        let done = self.onto(&mut disk, &superblock).unwrap();
        std::fs::write(path, disk.partition_bytes()).unwrap();
        done
    }

    fn write(&self, mut dump: Dump<'_, '_>, clock: &dyn Clock) -> Result<SlotHeader, TargetError> {
        let notes = notes();
        dump.records(Kind::BlackBox, BLACK_BOX_CHUNK, black_box)?;
        dump.first_is_durable()?;
        dump.text(Kind::MemoryMap, |sink| {
            for range in ranges() {
                let fate = Fate::Memory;
                sink(&MapEntry { range, fate }.encode());
            }
        })?;
        dump.text(Kind::Notes, |sink| sink(&notes))?;
        let older = self.log.len().saturating_sub(dump.text_room() as usize);
        dump.text(Kind::KernelLog, |sink| sink(&self.log[older..]))?;
        let ended = self.pages(&mut dump, &notes, clock)?;
        let (_, unreadable) = dump.frames();
        let why = match ended {
            Err(ended) => Some(ended.to_string()),
            Ok(()) if unreadable > 0 => Some(format!("{unreadable} frames unreadable")),
            Ok(()) => None,
        };
        dump.text(Kind::PayloadLog, |sink| sink(&[0]))?;
        dump.close(&Ending {
            truncated: why.as_deref(),
            phases: "trust=12\npages=345\n",
            cpus: [1, 1],
            ..Ending::default()
        })
    }

    fn pages(
        &self,
        dump: &mut Dump<'_, '_>,
        notes: &[u8],
        clock: &dyn Clock,
    ) -> Result<Result<(), PagesEnded>, TargetError> {
        let deadline = || clock.deadline(self.budget_us);
        if let Some(place) = dump.superblock().plain_core() {
            let kernel = Kernel {
                notes,
                ..Kernel::default()
            };
            let core = Core::begin(dump, place, ranges(), &kernel, false)?;
            return core.write(dump, &self.memory, deadline());
        }
        let desks: Vec<_> = (0..DESKS_EACH * self.workers.len())
            .map(|_| Desk::new())
            .collect();
        let office = Office::new(&desks);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 0..self.workers.len() {
                let (office, over) = (&office, &over);
                scope.spawn(move || self.other_cpu(office, number, over));
            }
            let here = 0..self.workers.len();
            let mut crew = Foreman::new(&office, here, clock, PATIENCE_US, || {});
            let ended = self.page_chunks(dump, &mut crew, deadline());
            over.store(true, Ordering::Relaxed);
            ended
        })
    }

    fn page_chunks(
        &self,
        dump: &mut Dump<'_, '_>,
        crew: &mut dyn Crew<Task>,
        deadline: Deadline,
    ) -> Result<Result<(), PagesEnded>, TargetError> {
        let (mut raw, mut table) = (vec![0; CHUNK_RAW as usize], Table::new());
        let mut memory = vec![0; DEFLATE as usize / size_of::<u64>()];
        let mut scratch = Scratch {
            raw: &mut raw,
            table: &mut table,
            deflater: Deflater::new(&mut memory),
        };
        let mut work = |task: &mut Task| task.run::<Portable>(&mut scratch, &self.memory);
        let recipe = Recipe {
            codec: self.codec,
            deadline,
        };
        let mut assembly = Assembly::new(dump, crew, &mut work, recipe);
        let evidence = Evidence::<FakeMemory> {
            ranges: &ranges(),
            judged: None,
        };
        evidence.give(&mut assembly, ClassSet::default(), None)?;
        assembly.finish()
    }

    fn other_cpu(&self, office: &Office<'_, Task>, number: usize, over: &AtomicBool) {
        let diligence = self.workers[number];
        let (mut raw, mut table) = (vec![0; CHUNK_RAW as usize], Table::new());
        let mut scratch = Scratch {
            raw: &mut raw,
            table: &mut table,
            deflater: None,
        };
        let mut worker = Worker::at(office, number);
        let mut done = 0;
        while !over.load(Ordering::Relaxed) {
            let worked = worker.work(|task| {
                while diligence == Diligence::DiesAfter(done) && !over.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                task.run::<Portable>(&mut scratch, &self.memory);
                done += 1;
            });
            if worked != Turn::Worked {
                thread::yield_now();
            }
        }
    }

    /// Buffers for all CPUs, as the payload has them.
    fn buffers(&self) -> Vec<DmaBuffer> {
        buffers(2 * (1 + self.workers.len()).max(2))
    }
}

/// The disk that a partition's image file would be of: the partition lies where it was signed
/// for.
pub fn disk_around(path: &Path) -> FakeDisk {
    let image = std::fs::read(path).unwrap();
    let start = match Superblock::decode(&image).unwrap().partition_start {
        START_UNKNOWN => 1 << 20,
        start => start,
    };
    let end = start + image.len() as u64;
    let mut disk = vec![0; end as usize];
    put_mbr(&mut disk, start, image.len() as u64);
    disk[start as usize..].copy_from_slice(&image);
    FakeDisk::new(disk, start..end)
}

fn black_box(records: &mut RecordWriter<'_>) {
    records.put(tag::REASON, &[REASON.as_bytes()]);
    records.put(tag::OS_RELEASE, &[RELEASE.as_bytes()]);
    records.put(tag::CRASH_TIME, &[&CRASH_TIME.to_le_bytes()]);
    records.put(tag::LOG_TAIL, &[LOG.as_bytes()]);
}

/// One note: VMCOREINFO with too little in it to find the ring buffer.
pub fn notes() -> Vec<u8> {
    let text = format!("OSRELEASE={RELEASE}\nPAGESIZE=4096\nCRASHTIME={CRASH_TIME}\n");
    let mut notes = Vec::new();
    for word in [11, text.len() as u32, 0] {
        notes.extend(word.to_le_bytes());
    }
    notes.extend(b"VMCOREINFO\0\0");
    notes.extend(text.as_bytes());
    notes.resize(notes.len().next_multiple_of(4), 0);
    notes
}
