#![no_std]
#![no_main]
#![deny(clippy::unwrap_used, clippy::expect_used)]
//! The capture payload: what a panicking arm64 Linux jumps to.
//!
//! One pass, in this order: *entry* ([`entry`], entry.s) → *trust check* ([`trust`]) → *machine
//! description* (`kdraw-boards`) → *evidence* ([`evidence`]) → *black box* ([`account`]) →
//! *notes and log* → *pages* → *trailer* → *reset*. What goes wrong on the way ends in a
//! refusal before the dump is begun, in an [`epitaph`] after.
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
mod log;
mod mmu;
mod pages;
mod psci;
mod smp;
mod target;
mod trust;
mod uart;
mod unaligned;

use aarch64_cpu::registers::{MPIDR_EL1, Readable as _};
use core::fmt::Write as _;
use kdraw_boards::machine::Machine;
use kdraw_format::black_box::BLACK_BOX_CHUNK;
use kdraw_format::checksum::Checksum;
use kdraw_format::chunk::Kind;
use kdraw_format::slot::{Epitaph, EpitaphKind, SlotHeader};
use kdraw_format::working_memory::{CHUNK_STORED, NOTES, STORED_MORE, stored_buffers};
use kdraw_linux::elfcorehdr::{ElfCoreHdr, ElfCoreHdrError};
use kdraw_linux::notes::merge_notes;
use kdraw_pipeline::dump::{Dump, Ending, choose_slot, write_journal};
use kdraw_pipeline::partition::{Partition, TargetError};
use kdraw_pipeline::ports::{Clock as _, Deadline, DeviceError, DmaBuffer};

use account::Account;
use arena::Arena;
use clock::Counter;
use console::say;
use entry::EntryState;
use epitaph::Grave;
use evidence::Evidence;
use pages::Pages;
use smp::Cpus;
use target::Place;

/// Seconds that a capture may take if the plan does not say.
const DEFAULT_BUDGET_S: u32 = 3600;
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
    console::find(&machine);
    introduce(entry, &machine);
    let trusted = trust::check(&machine, tree, entry.dtb)?;
    phases.ended("trust");

    let mut arena = Arena::open(trusted.crash_region, trusted.segments);
    defmt::info!("{=u64} KiB to work in", arena.left() >> 10);
    let header = ElfCoreHdr::parse(trusted.elfcorehdr)?;
    let evidence = crew::show(Evidence::map(&header, trusted.crash_region));
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

    let target = &trusted.plan.target;
    let place = Place::find(&machine, target, trusted.crash_region).map_err(Refusal::TargetNode)?;
    let no_memory = DeviceError::Unusable("no memory for its rings");
    let mut disk = place.bring_up(dma::small().ok_or(no_memory)?)?;
    let few = buffers(&mut arena).take(stored_buffers(0));
    let mut partition = Partition::open(&mut disk, &Counter, target, few)?;
    let dump_id = dump_id(&trusted.plan.seed);
    phases.ended("target");

    let Some((slot, old)) = choose_slot(&mut partition)? else {
        write_journal(&mut partition, dump_id, |records| {
            account.black_box(records)
        })?;
        say!("every slot holds a dump that was not extracted: only the black box was written");
        return Ok(());
    };
    let total = evidence.total() >> 20;
    say!("writing {total} MiB into slot {}", slot.index);
    let level = match partition.superblock().plain {
        true => 0,
        false => trusted.plan.level,
    };
    let dump = Dump::begin(&mut partition, slot, &old, dump_id, level)?;
    epitaph::prepare(Grave {
        place,
        target: target.clone(),
        slot,
        header: dump.header().clone(),
    });
    let deadline = budget(trusted.plan.budget_s);
    let prepare_pages = |dump: &mut Dump<'_, '_>| {
        psci::find(&machine);
        let workers = smp::workers(&machine, trusted.plan.cpus, evidence.total(), room);
        let more = stored_buffers(workers).saturating_sub(stored_buffers(0));
        dump.give_buffers(buffers(&mut arena).take(more));
        let pages = Pages {
            evidence,
            memory: pages::Memory::carve(&mut arena, evidence),
            plan: &trusted.plan,
            deadline,
        };
        let mut cpus = Cpus {
            working: 1,
            present: 1,
        };
        if dump.superblock().plain_core().is_none() {
            cpus = smp::start(&machine, entry, workers, &mut arena);
            let more = cpus.working.saturating_sub(1).saturating_mul(STORED_MORE);
            dump.give_buffers(buffers(&mut arena).take(more));
            say!("{} of {} CPUs", cpus.working, cpus.present);
        }
        (pages, cpus)
    };
    match write(dump, &account, evidence, prepare_pages, &mut phases) {
        Ok(header) => say!(
            "dump complete: {} of {total} MiB in {} MiB, {} frames unreadable, {} ms; resetting",
            header.frames.saturating_add(header.filled) >> 8,
            header.stream_len >> 20,
            header.unreadable,
            header.elapsed_us / 1000
        ),
        Err(error) => {
            let mut message = heapless::String::new();
            let _ = write!(message, "{error}");
            epitaph::end(Epitaph {
                kind: EpitaphKind::Device,
                message,
                ..Epitaph::default()
            })
        }
    }
    Ok(())
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

/// When the capture gives up on further pages.
fn budget(seconds: u32) -> Deadline {
    let seconds = if seconds == 0 {
        DEFAULT_BUDGET_S
    } else {
        seconds
    };
    Counter.deadline(u64::from(seconds).saturating_mul(1_000_000))
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
}

impl Phases {
    fn ended(&mut self, name: &str) {
        let now = Counter.now_us();
        // What does not fit is left out.
        let _ = writeln!(self.text, "{name}={now}");
        defmt::debug!("{=str} ended", name);
    }
}
