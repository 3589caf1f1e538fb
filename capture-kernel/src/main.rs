#![no_std]
#![no_main]
#![deny(clippy::unwrap_used, clippy::expect_used)]
//! The capture payload: what a panicking arm64 Linux jumps to.
//!
//! One pass, in this order: *entry* ([`entry`], entry.s) → *trust check* ([`trust`]) → *machine
//! description* (`kdraw-boards`) → *evidence* ([`evidence`]) → *black box* ([`account`]) →
//! *notes and log* → *pages* → *trailer* → *reset*. What goes wrong on the way ends in a
//! refusal before the dump is begun, in an [`epitaph`] after; what stalls, in a [`watchdog`]'s reset.
//!
//! It lives in its own image, code, read-only data and writable data apart, and in what the crash
//! region has beside its segments ([`arena`]); no heap. It sees the segments and the evidence
//! read-only, and the registers of the devices it drives; everything else faults ([`mmu`]). Other
//! CPUs help where there is only something to compute ([`smp`]).

mod account;
mod arena;
mod clock;
mod console;
mod crew;
mod dma;
mod entry;
mod epitaph;
mod evidence;
mod exception;
mod line;
mod log;
mod mmu;
mod pages;
mod psci;
mod smp;
mod target;
mod trust;
mod uart;
mod unaligned;
mod watchdog;

use aarch64_cpu::registers::{MPIDR_EL1, Readable as _};
use core::fmt::Write as _;
use kdraw_boards::machine::Machine;
use kdraw_format::addr::PhysRange;
use kdraw_format::black_box::BLACK_BOX_CHUNK;
use kdraw_format::checksum::Checksum;
use kdraw_format::chunk::{Codec, Kind};
use kdraw_format::plan::{Plan, Target};
use kdraw_format::slot::{Epitaph, EpitaphKind, SlotHeader};
use kdraw_format::working_memory::{
    CHUNK_STORED, DEFLATE, NOTES, STORED_MORE, memory_needed, stored_buffers,
};
use kdraw_linux::elfcorehdr::{ElfCoreHdr, ElfCoreHdrError};
use kdraw_linux::notes::merge_notes;
use kdraw_pipeline::dump::{Dump, Ending, choose_slot, write_journal};
use kdraw_pipeline::partition::{Partition, TargetError};
use kdraw_pipeline::ports::{BlockDevice, Clock as _, Deadline, DeviceError, DmaBuffer};
use kdraw_pipeline::serial;

use account::Account;
use arena::Arena;
use clock::Counter;
use console::say;
use entry::EntryState;
use epitaph::{Grave, Way};
use evidence::Evidence;
use line::Line;
use pages::Pages;
use smp::Cpus;
use target::Place;
use watchdog::Watched;

/// Seconds that a capture may take if the plan does not say.
const DEFAULT_BUDGET_S: u32 = 3600;
/// Buffers that are kept for the serial line while a partition is written.
const FALLBACK_BUFFERS: usize = 2;
/// How long any phase may take before watchdogs are not petted any more, in microseconds; the
/// pages' budget comes on top.
const PHASE_US: u64 = 120_000_000;
/// With less room in the slot than this, only the end of the kernel's log is kept that fits: any
/// log fits otherwise.
const WHOLE_LOG: u64 = 64 << 20;

/// Why nothing could be captured.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Trust(#[from] trust::Distrust),
    #[error("elfcorehdr: {0}")]
    ElfCoreHdr(#[from] ElfCoreHdrError),
    #[error("target: {0}")]
    TargetNode(kdraw_boards::Error),
    #[error("{0}")]
    Target(#[from] TargetError),
}

impl From<DeviceError> for Refusal {
    fn from(error: DeviceError) -> Self {
        Self::Target(error.into())
    }
}

/// Called by entry.s, with MMU and caches on, on the main stack.
#[unsafe(no_mangle)]
extern "C" fn kdraw_main(
    dtb: u64,
    load_offset: u64,
    counter: u64,
    sctlr: u64,
    level_and_regime: u64,
) -> ! {
    let el2_regime = level_and_regime >> 8 != 0;
    let entry = EntryState {
        dtb,
        mpidr: MPIDR_EL1.get(),
        sctlr,
        level: level_and_regime as u8,
        el2_regime,
    };
    entry::remember(load_offset, el2_regime);
    clock::start_at(counter);
    match capture(&entry) {
        Ok(()) => {}
        Err(refusal) => {
            defmt::error!("refused: {}", defmt::Display2Format(&refusal));
            say!("nothing is captured: {refusal}; resetting");
        }
    }
    console::flush();
    psci::reset()
}

/// The main sequence.
fn capture(entry: &EntryState) -> Result<(), Refusal> {
    let mut phases = Phases::default();
    let tree = trust::device_tree(entry.dtb)?;
    let machine = Machine::from_dtb(tree).map_err(trust::Distrust::from)?;
    psci::find(tree, &machine);
    console::find(&machine);
    introduce(entry, &machine);
    let trusted = trust::check(&machine, tree, entry.dtb)?;
    phases.ended("trust");

    let mut arena = Arena::open(trusted.crash_region, trusted.segments);
    defmt::info!("{=u64} KiB to work in", arena.left() >> 10);
    let header = ElfCoreHdr::parse(trusted.elfcorehdr)?;
    let evidence = crew::show(Evidence::map(&header, trusted.crash_region));
    watchdog::find(&machine, &trusted.plan);
    let plan = &trusted.plan;
    phases.capture_us = budget_us(plan.budget_s);
    let mut reserve = heapless::Vec::new();
    if plan.target.is_some() && !plan.serial.is_empty() {
        // A disk that fails keeps its buffers.
        reserve.extend(buffers(&mut arena).take(FALLBACK_BUFFERS));
    }
    let packs_by_deflate = [plan.codec, plan.line_codec].contains(&Codec::Deflate);
    let deflate = packs_by_deflate
        .then(|| memory_to_deflate(&mut arena, evidence))
        .flatten();
    let room = arena.left();
    let notes = arena.bytes(NOTES as usize).unwrap_or_default();
    let merged = merge_notes(&header, &evidence, notes);
    defmt::info!(
        "notes: {=u32} CPUs, {=u32} silent, {=u32} unreadable, {=u32} left out",
        merged.cpus,
        merged.silent,
        merged.unreadable,
        merged.left_out
    );
    let notes = notes.get(..merged.len).unwrap_or_default();
    let account = Account::new(entry, machine, &trusted, notes, evidence);
    phases.ended("evidence");

    let mut scene = Scene {
        entry,
        machine: &machine,
        plan,
        account: &account,
        evidence,
        dump_id: dump_id(&plan.seed),
        arena,
        room,
        deflate,
        memory: None,
    };
    let mut done = Ok(());
    if let Some(target) = &plan.target {
        done = scene.write_to_partition(target, trusted.crash_region, &mut phases);
        match &done {
            Err(error) if !plan.serial.is_empty() => say!("{error}; falling back"),
            _ => return conclude(done),
        }
    }
    let begun = epitaph::is_prepared();
    let sent = scene.send_over_line(reserve, &mut phases);
    if !begun {
        return sent;
    }
    if let Err(error) = sent {
        say!("{error}");
    }
    // The partition's slot, which was begun, is told what became of it.
    conclude(done)
}

/// Ends a capture; one that failed when it was begun, by an epitaph.
fn conclude(done: Result<(), Refusal>) -> Result<(), Refusal> {
    match done {
        Err(Refusal::Target(error)) if epitaph::is_prepared() => {
            let mut message = heapless::String::new();
            let _ = write!(message, "{error}");
            epitaph::end(Epitaph {
                kind: EpitaphKind::Device,
                message,
                ..Epitaph::default()
            })
        }
        done => done,
    }
}

/// Opens a target with its first buffers.
fn open<'a>(
    device: &'a mut dyn BlockDevice,
    target: &Target,
    buffers: heapless::Vec<DmaBuffer, { stored_buffers(0) }>,
) -> Result<Partition<'a>, TargetError> {
    Partition::open(device, &Counter, target, buffers)
}

/// What a dump is made of and with, wherever it goes.
struct Scene<'a> {
    entry: &'a EntryState,
    machine: &'a Machine<'a>,
    plan: &'a Plan,
    account: &'a Account<'a>,
    evidence: &'a Evidence,
    dump_id: [u8; 16],
    arena: Arena,
    /// Bytes of working memory that there were for the capture.
    room: u64,
    deflate: Option<&'static mut [u64]>,
    memory: Option<pages::Memory>,
}

impl Scene<'_> {
    /// Writes the dump onto a partition.
    fn write_to_partition(
        &mut self,
        target: &Target,
        crash_region: PhysRange,
        phases: &mut Phases,
    ) -> Result<(), Refusal> {
        let place = Place::find(self.machine, target, crash_region).map_err(Refusal::TargetNode)?;
        let no_memory = DeviceError::Unusable("no memory for its rings");
        let mut disk = place.bring_up(dma::small().ok_or(no_memory)?)?;
        let mut disk = Watched(&mut disk);
        let few = buffers(&mut self.arena).take(stored_buffers(0)).collect();
        let partition = open(&mut disk, target, few)?;
        phases.ended("target");
        self.write(partition, Way::Disk(place), target, phases)
    }

    /// Sends the dump over the serial line; what fails there ends in a line of text.
    fn send_over_line(
        &mut self,
        reserve: heapless::Vec<DmaBuffer, FALLBACK_BUFFERS>,
        phases: &mut Phases,
    ) -> Result<(), Refusal> {
        phases.begin_line();
        let line = Line::find(self.machine, self.plan, self.dump_id);
        let line = line.map_err(Refusal::TargetNode)?;
        self.account.say();
        say!("the dump comes over this line now: `kdraw receive` takes it");
        console::flush();
        let mut disk = line.begin()?;
        let target = serial::target(self.dump_id);
        let few = buffers(&mut self.arena).take(stored_buffers(0));
        let few = reserve.into_iter().chain(few).take(stored_buffers(0));
        let partition = open(&mut disk, &target, few.collect())?;
        phases.ended("line");
        if let Err(error) = self.write(partition, Way::Line(line), &target, phases) {
            self.account.say();
            say!("the dump was not sent to its end: {error}; resetting");
        }
        Ok(())
    }

    /// Writes the dump into a slot.
    fn write(
        &mut self,
        mut partition: Partition<'_>,
        way: Way,
        target: &Target,
        phases: &mut Phases,
    ) -> Result<(), Refusal> {
        let Some((slot, old)) = choose_slot(&mut partition)? else {
            write_journal(&mut partition, self.dump_id, |records| {
                self.account.black_box(records)
            })?;
            say!("every slot holds a dump that was not extracted: only the black box was written");
            return Ok(());
        };
        let total = self.evidence.total() >> 20;
        say!("writing {total} MiB into slot {}", slot.index);
        let level = match partition.superblock().plain {
            true => 0,
            false => self.plan.level,
        };
        let codec = match way {
            Way::Disk(_) => self.plan.codec,
            Way::Line(_) => self.plan.line_codec,
        };
        // A line is slower than one CPU, and one has memory to deflate.
        let deflates = codec == Codec::Deflate && self.deflate.is_some();
        let alone = deflates || matches!(way, Way::Line(_));
        let dump = Dump::begin(&mut partition, slot, &old, self.dump_id, level)?;
        epitaph::prepare(Grave {
            way,
            target: target.clone(),
            slot,
            header: dump.header().clone(),
        });
        let (account, evidence) = (self.account, self.evidence);
        let deadline = Counter.deadline(budget_us(self.plan.budget_s));
        let header = write(
            dump,
            account,
            evidence,
            move |dump: &mut Dump<'_, '_>| self.prepare_pages(dump, codec, alone, deadline),
            phases,
        )?;
        say!(
            "dump complete: {} of {total} MiB in {} MiB, {} frames unreadable, {} ms; resetting",
            header.frames.saturating_add(header.filled) >> 8,
            header.stream_len >> 20,
            header.unreadable,
            header.elapsed_us / 1000
        );
        Ok(())
    }

    /// Takes memory for the pages, and starts the other CPUs if they are to help.
    fn prepare_pages(
        &mut self,
        dump: &mut Dump<'_, '_>,
        codec: Codec,
        alone: bool,
        deadline: Deadline,
    ) -> (Pages<'_>, Cpus) {
        let mut cpus = Cpus {
            working: 1,
            present: 1,
        };
        let (arena, evidence) = (&mut self.arena, self.evidence);
        let ram = evidence.total();
        let workers = match alone {
            true => 0,
            false => smp::workers(self.machine, self.plan.cpus, ram, self.room),
        };
        let more = stored_buffers(workers).saturating_sub(stored_buffers(0));
        dump.give_buffers(buffers(arena).take(more));
        let memory = self
            .memory
            .get_or_insert_with(|| pages::Memory::carve(arena, evidence));
        if !alone && dump.superblock().plain_core().is_none() {
            cpus = smp::start(self.machine, self.entry, workers, arena);
            let more = cpus.working.saturating_sub(1).saturating_mul(STORED_MORE);
            dump.give_buffers(buffers(arena).take(more));
            say!("{} of {} CPUs", cpus.working, cpus.present);
        }
        let pages = Pages {
            evidence,
            memory,
            codec,
            deflate: self.deflate.as_deref_mut(),
            alone,
            plan: self.plan,
            deadline,
        };
        (pages, cpus)
    }
}

/// Says who is here.
fn introduce(entry: &EntryState, machine: &Machine<'_>) {
    let vhe = if entry.level == 2 && !entry.el2_regime {
        " with VHE"
    } else {
        ""
    };
    say!(
        "capture {} at EL{}{vhe}, CPU {:#x}, {}",
        env!("CARGO_PKG_VERSION"),
        entry.level,
        entry.mpidr & smp::AFFINITY,
        machine.model().unwrap_or("unknown board")
    );
    defmt::info!(
        "entered at EL{=u8}, SCTLR {=u64:#x}, MPIDR {=u64:#x}",
        entry.level,
        entry.sctlr,
        entry.mpidr
    );
}

/// Carves buffers for chunks, as many as there is memory for.
fn buffers(arena: &mut Arena) -> impl Iterator<Item = DmaBuffer> {
    core::iter::from_fn(|| arena.dma(CHUNK_STORED as usize))
}

/// Carves memory for Deflate, if what one CPU needs is left.
fn memory_to_deflate(arena: &mut Arena, evidence: &Evidence) -> Option<&'static mut [u64]> {
    let left = arena.left().checked_sub(DEFLATE)?;
    if left < memory_needed(1, evidence.total()).least {
        say!("no memory for deflate: LZ4 packs");
        return None;
    }
    bytemuck::try_cast_slice_mut(arena.bytes(DEFLATE as usize)?).ok()
}

/// Writes the dump in its order of worth: black box, memory map, notes, log, pages, and the end.
/// What only the pages need is prepared when the rest is on its way.
fn write<'p>(
    mut dump: Dump<'_, '_>,
    account: &Account<'_>,
    evidence: &Evidence,
    prepare_pages: impl FnOnce(&mut Dump<'_, '_>) -> (Pages<'p>, Cpus),
    phases: &mut Phases,
) -> Result<SlotHeader, TargetError> {
    dump.records(Kind::BlackBox, BLACK_BOX_CHUNK, |records| {
        account.black_box(records);
    })?;
    dump.first_is_durable()?;
    phases.ended("black_box");
    say!("black box is durable");

    dump.text(Kind::MemoryMap, |sink| {
        evidence
            .map_entries()
            .for_each(|entry| sink(&entry.encode()));
    })?;
    dump.text(Kind::Notes, |sink| sink(account.notes()))?;
    if let Some(log) = account.log() {
        let room = dump.text_room();
        dump.text(Kind::KernelLog, |sink| {
            if room < WHOLE_LOG {
                log.write_tail(room, sink);
            } else {
                log.write(sink);
            }
        })?;
    }
    phases.ended("log");

    // Whoever starts a CPU may fail: what matters most is on its way by now.
    let (pages, mut cpus) = prepare_pages(&mut dump);
    phases.ended("cpus");
    let left_out = evidence.left_out();
    let written = pages.write(&mut dump, account, phases)?;
    phases.ended("pages");
    if written.working < cpus.working {
        say!("{} of them worked to the end", written.working);
        cpus.working = written.working;
    }

    let mut why = heapless::String::<128>::new();
    let (_, unreadable) = dump.frames();
    // Cannot overflow: all texts are shorter than 128 bytes.
    let _ = match written.ended {
        Err(ended) => write!(why, "{ended}"),
        Ok(()) if !written.left_out.is_empty() => {
            write!(why, "the slot has no room for less valuable pages")
        }
        Ok(()) if unreadable > 0 || left_out > 0 => {
            write!(
                why,
                "{unreadable} frames unreadable, {left_out} ranges left out"
            )
        }
        Ok(()) => Ok(()),
    };
    let faults = exception::evidence_faults();
    defmt::info!("pages written, {=u64} faults on the way", faults);
    smp::log_deaths();
    dump.text(Kind::PayloadLog, |sink| sink(log::bytes()))?;
    if dump.failures() > 0 {
        say!(
            "{} writes failed, and were done again elsewhere",
            dump.failures()
        );
    }
    dump.close(&Ending {
        truncated: Some(why.as_str()).filter(|why| !why.is_empty()),
        dropped_ranges: left_out as u64,
        phases: &phases.text,
        found: written.found,
        doubts: &written.doubts,
        cpus: [cpus.working, cpus.present].map(|count| count as u64),
    })
}

/// How long the capture may begin further pages, in microseconds.
fn budget_us(seconds: u32) -> u64 {
    let seconds = if seconds == 0 {
        DEFAULT_BUDGET_S
    } else {
        seconds
    };
    u64::from(seconds).saturating_mul(1_000_000)
}

/// This dump's id: the plan's random seed and the moment, so that two crashes after one load
/// differ too.
fn dump_id(seed: &[u8; 16]) -> [u8; 16] {
    let mut sum = Checksum::default();
    sum.add(seed);
    sum.add(&aarch64_cpu::registers::CNTVCT_EL0.get().to_le_bytes());
    let low = sum.finish().to_le_bytes();
    sum.add(&low);
    let high = sum.finish().to_le_bytes();
    let mut id = [0; 16];
    id.as_chunks_mut().0.copy_from_slice(&[low, high]);
    id
}

/// When each phase ended, as the trailer has it.
#[derive(Default)]
struct Phases {
    text: heapless::String<512>,
    /// How long the capture may begin further pages, in microseconds.
    capture_us: u64,
    /// Whether a serial line is used.
    over_line: bool,
}

impl Phases {
    /// Begins the budget of the serial line: one for all that goes over it, since any of that may
    /// wait for a receiver, and the line has its own end.
    fn begin_line(&mut self) {
        self.over_line = true;
        let longest = self.capture_us.saturating_add(line::DRAIN_US);
        watchdog::begin_phase(longest.saturating_add(PHASE_US));
    }

    /// Ends a phase, and begins the budget of the next.
    fn ended(&mut self, name: &str) {
        let more = match name {
            // Pages come next; on a plain partition, without being told apart before.
            "cpus" | "classify" => self.capture_us,
            _ => 0,
        };
        if !self.over_line {
            watchdog::begin_phase(PHASE_US.saturating_add(more));
        }
        let now = Counter.now_us();
        // What does not fit is left out.
        let _ = writeln!(self.text, "{name}={now}");
        defmt::debug!("{=str} ended", name);
    }
}
