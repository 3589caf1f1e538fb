//! The pages: told apart, and written as chunks in order of worth, or on a plain partition as a
//! raw ELF core.

use core::fmt::Write as _;

use kdraw_format::chunk::{ClassSet, Codec};
use kdraw_format::plan::Plan;
use kdraw_format::working_memory::CHUNK_RAW;
use kdraw_linux::classify::{DumpLevel, PageClass};
use kdraw_linux::elfcorehdr::MAX_RANGES;
use kdraw_pipeline::assembly::{Assembly, Recipe};
use kdraw_pipeline::crew::Nobody;
use kdraw_pipeline::deflate::Deflater;
use kdraw_pipeline::dump::{Dump, PagesEnded};
use kdraw_pipeline::fit;
use kdraw_pipeline::lz4::Table;
use kdraw_pipeline::marks::Marks;
use kdraw_pipeline::partition::TargetError;
use kdraw_pipeline::plain::{Core, Kernel};
use kdraw_pipeline::ports::{Crew, Deadline};
use kdraw_pipeline::task::{Scratch, Task};
use kdraw_pipeline::worth::{self, Census, Found};

use crate::Phases;
use crate::account::Account;
use crate::arena::Arena;
use crate::console::say;
use crate::evidence::Evidence;
use crate::unaligned::SingleAccess;
use crate::{crew, epitaph, watchdog};

/// What became of the pages.
pub struct Written {
    /// Why not all that was chosen is there.
    pub ended: Result<(), PagesEnded>,
    /// Classes that were not chosen for want of room.
    pub left_out: ClassSet,
    /// Frames of each class.
    pub found: Found,
    /// What was implausible, as lines.
    pub doubts: heapless::String<256>,
    /// CPUs that worked to the end.
    pub working: usize,
}

/// Memory for packing and telling apart; what is missing costs speed and order, not pages.
#[derive(Debug)]
pub struct Memory {
    raw: Option<&'static mut [u8]>,
    marks: Option<&'static mut [u8]>,
}

impl Memory {
    /// Carves it.
    pub fn carve(arena: &mut Arena, evidence: &Evidence) -> Self {
        let ranges: heapless::Vec<_, MAX_RANGES> = evidence.ranges().collect();
        Self {
            raw: arena.bytes(CHUNK_RAW as usize),
            marks: arena.bytes(Marks::len(&ranges)),
        }
    }
}

/// What is written, and how.
pub struct Pages<'a> {
    /// The crashed kernel's memory.
    pub evidence: &'a Evidence,
    /// Memory to work in.
    pub memory: &'a mut Memory,
    /// How they are packed.
    pub codec: Codec,
    /// What Deflate works in; without it, LZ4 packs.
    pub deflate: Option<&'a mut [u64]>,
    /// Whether other CPUs take no part.
    pub alone: bool,
    /// What is wanted.
    pub plan: &'a Plan,
    /// When no further pages are begun.
    pub deadline: Deadline,
}

impl Pages<'_> {
    /// Writes them.
    pub fn write(
        self,
        dump: &mut Dump<'_, '_>,
        account: &Account<'_>,
        phases: &mut Phases,
    ) -> Result<Written, TargetError> {
        let Self {
            evidence,
            memory,
            codec,
            deflate,
            alone,
            plan,
            deadline,
        } = self;
        if let Some(place) = dump.superblock().plain_core() {
            let (layout, image) = account.layout();
            let notes = account.notes();
            let kernel = Kernel {
                layout,
                image,
                notes,
            };
            let incomplete = evidence.left_out() > 0;
            let core = Core::begin(dump, place, evidence.ranges(), &kernel, incomplete)?;
            epitaph::header_is_now(dump.header());
            return Ok(Written {
                ended: core.write(dump, evidence, deadline)?,
                left_out: ClassSet::default(),
                found: Found::default(),
                doubts: heapless::String::new(),
                working: 1,
            });
        }
        let ranges: heapless::Vec<_, MAX_RANGES> = evidence.ranges().collect();
        let judged = match account.judge() {
            Ok(judge) => {
                let census = Census::take(&judge, &ranges);
                Some((judge, census))
            }
            Err(error) => {
                say!("every page is kept: {error}");
                None
            }
        };
        phases.ended("classify");
        let pages = worth::Evidence {
            ranges: &ranges,
            judged,
        };
        // Without memory to pack in, nothing is packed.
        let codec = match memory.raw {
            Some(_) => codec,
            None => Codec::Raw,
        };
        let mut table = Table::new();
        let mut scratch = Scratch {
            raw: memory.raw.as_deref_mut().unwrap_or_default(),
            table: &mut table,
            deflater: deflate.and_then(Deflater::new),
        };
        let mut work = |task: &mut Task| {
            task.run::<SingleAccess>(&mut scratch, evidence);
            watchdog::progress();
        };
        let (mut foreman, mut nobody) = (crew::foreman(), Nobody);
        let crew: &mut dyn Crew<Task> = match &mut foreman {
            Some(foreman) if !alone => foreman,
            _ => &mut nobody,
        };
        let mut assembly = Assembly::new(dump, &mut *crew, &mut work, Recipe { codec, deadline });
        let wanted = worth::kept_at(DumpLevel::new(plan.level).unwrap_or(DumpLevel::ALL_PAGES));
        let left_out = fit::left_out(&pages, &mut assembly, wanted)?;
        if !left_out.is_empty() {
            epitaph::header_is_now(assembly.leave_out(left_out)?);
        }
        let keep = wanted.without(left_out);
        let marks = memory.marks.as_deref_mut();
        let marks = marks.and_then(|bytes| Marks::new(&ranges, bytes));
        let found = pages.give(&mut assembly, keep, marks)?;
        let census = pages.judged.map(|(_, census)| census);
        Ok(Written {
            ended: assembly.finish()?,
            left_out,
            found,
            doubts: census.as_ref().map(doubts).unwrap_or_default(),
            working: 1 + crew.workers(),
        })
    }
}

/// What the trailer says of pages that something is wrong with.
fn doubts(census: &Census) -> heapless::String<256> {
    let mut text = heapless::String::new();
    let never_read = [PageClass::HwPoison, PageClass::Offline];
    let never_read = never_read.map(|class| (class.name(), census.frames(class)));
    for (reason, pages) in census.doubts.by_reason().into_iter().chain(never_read) {
        if pages > 0 {
            // What does not fit is left out.
            let _ = writeln!(text, "{reason}={pages}");
        }
    }
    text
}
