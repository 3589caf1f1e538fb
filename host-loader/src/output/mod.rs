//! Writes vmcores: makes files of memory, notes, and a little beside them.
//!
//! [`Image`] is what there is to write, wherever it comes from; [`Format`] is how. Memory is read
//! and compressed on all CPUs, written in the order of frames, and never held as a whole.

pub mod elf;
pub mod kdump;
pub mod raw;
pub mod sink;

use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};
use kdraw_linux::core_elf::CoreElfError;
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::translate::VirtMem;
use kdraw_linux::uname::Uname;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::error::Error;
use crate::frames::FrameSet;
use crate::parallel;
use sink::Sink;

/// Bytes that are worked on at once.
const BATCH: u64 = 1 << 20;

/// What a vmcore is made of.
pub struct Image<'a> {
    /// The memory.
    pub memory: &'a (dyn PhysMem + Sync),
    /// The frames in it.
    pub known: FrameSet,
    /// The frames that the crashed kernel had.
    pub ram: FrameSet,
    /// ELF notes.
    pub notes: Vec<u8>,
    /// Whether something is missing that should be there.
    pub incomplete: bool,
    /// The dump level, makedumpfile's bits.
    pub level: u8,
    /// System, node, release, version, machine; empty where not known.
    pub uname: [String; 5],
    /// When it crashed, in seconds since 1970; 0 if not known.
    pub crash_time: u64,
}

/// The layout of a vmcore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// kdump-compressed, see [`kdump`].
    Kdump(kdump::Compression),
    /// ELF, see [`elf`].
    Elf,
    /// Memory alone, see [`raw`].
    Raw,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The file's length; what it takes on the disk may be less.
    pub bytes: u64,
    /// Frames in it.
    pub frames: u64,
    /// Frames in it that are not known and read as zero, because there were too many holes.
    pub invented: u64,
    /// Known frames that are not in it, because other frames of their page are not known.
    pub partial: u64,
}

impl Written {
    /// What was lost by writing it, in words.
    pub fn losses(&self) -> Vec<String> {
        let mut losses = Vec::new();
        if self.invented > 0 {
            losses.push(format!(
                "{} unknown frames read as zero: there are more holes than ELF headers",
                self.invented
            ));
        }
        if self.partial > 0 {
            losses.push(format!(
                "{} frames are left out: other parts of their pages are missing",
                self.partial
            ));
        }
        losses
    }
}

/// Why a vmcore cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Memory that was there when it was looked for is not any more.
    #[error(
        "memory at {0} was whole a moment ago and now is not: the device is failing; try again"
    )]
    Unstable(PhysAddr),
    /// No header can be made.
    #[error(transparent)]
    Core(#[from] CoreElfError),
    /// I/O.
    #[error(transparent)]
    Other(#[from] Error),
}

/// Hears what is done, how far it came, and how far it may go, in bytes.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// Writes a vmcore.
///
/// # Errors
/// [`WriteError`].
pub fn write(
    image: &Image<'_>,
    format: Format,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<Written, WriteError> {
    match format {
        Format::Kdump(compression) => kdump::write(image, compression, sink, progress),
        Format::Elf => elf::write(image, sink, progress),
        Format::Raw => raw::write(image, sink, progress),
    }
}

impl Image<'_> {
    /// VMCOREINFO, if there is one.
    pub fn vmcoreinfo(&self) -> Option<Vmcoreinfo<'_>> {
        Vmcoreinfo::from_notes(&self.notes)
    }

    /// Reads `uname` from the memory where it is not known yet.
    pub fn find_uname(&mut self) {
        let found = self.vmcoreinfo().and_then(|info| {
            let kernel = KernelLayout::from_vmcoreinfo(&info).ok()?;
            Uname::read(&VirtMem::new(self.memory, kernel), &info)
        });
        let release = self.vmcoreinfo().and_then(|info| info.key("OSRELEASE"));
        let release = release.map(str::to_owned);
        let known = match found {
            Some(uname) => [
                uname.sysname,
                uname.nodename,
                uname.release,
                uname.version,
                uname.machine,
            ]
            .map(|field| field.as_str().to_owned()),
            None => {
                let [mut system, node, mut name, version, mut machine] = <[String; 5]>::default();
                if let Some(release) = release {
                    (system, name) = ("Linux".to_owned(), release);
                    "aarch64".clone_into(&mut machine);
                }
                [system, node, name, version, machine]
            }
        };
        for (field, known) in self.uname.iter_mut().zip(known) {
            if field.is_empty() {
                *field = known;
            }
        }
    }

    /// Does `work` on every batch of the frames in `set`, on all CPUs and each with `tools` of its
    /// own, and hands what came of it to `take` in the order of frames.
    fn for_batches<S, R: Send>(
        &self,
        set: &FrameSet,
        tools: impl Fn() -> S + Sync,
        work: impl Fn(&mut S, Vec<u8>) -> R + Sync,
        mut take: impl FnMut(&[PhysRange], R) -> Result<(), WriteError>,
        progress: Progress<'_>,
    ) -> Result<(), WriteError> {
        let total = set.count().saturating_mul(FRAME_SIZE);
        let mut done = 0u64;
        let batches = set.batches(BATCH);
        let mut taken = batches.iter();
        parallel::in_order(
            &batches,
            tools,
            |tools, batch| self.read(batch).map(|bytes| work(tools, bytes)),
            |result| {
                let result = result.map_err(|Unreadable { at }| WriteError::Unstable(at))?;
                let batch = taken.next().map(Vec::as_slice).unwrap_or_default();
                take(batch, result)?;
                done = batch
                    .iter()
                    .fold(done, |sum, range| sum.saturating_add(range.len()));
                progress("extracting", done, total);
                Ok(())
            },
        )
    }

    /// Reads the ranges of a batch, one behind the other.
    fn read(&self, batch: &[PhysRange]) -> Result<Vec<u8>, Unreadable> {
        let len = batch.iter().map(PhysRange::len).sum::<u64>();
        let mut bytes = vec![0; len as usize];
        let mut rest = bytes.as_mut_slice();
        for range in batch {
            let (now, later) = rest
                .split_at_mut_checked(range.len() as usize)
                .unwrap_or_default();
            self.memory.read(range.start, now)?;
            rest = later;
        }
        Ok(bytes)
    }

    /// Writes all known frames as they are: those of an address to where `place` says.
    fn copy(
        &self,
        sink: &mut dyn Sink,
        mut end: u64,
        place: impl Fn(PhysAddr) -> u64,
        progress: Progress<'_>,
    ) -> Result<u64, WriteError> {
        self.for_batches(
            &self.known,
            || (),
            |(), bytes| bytes,
            |batch, bytes| {
                let mut rest = bytes.as_slice();
                for range in batch {
                    let (now, later) = rest
                        .split_at_checked(range.len() as usize)
                        .unwrap_or_default();
                    let at = place(range.start);
                    fill_gap(sink, end, at)?;
                    sink.put_sparse(at, now)?;
                    end = at.saturating_add(range.len());
                    rest = later;
                }
                Ok(())
            },
            progress,
        )?;
        Ok(end)
    }
}

/// Writes the zeros between two offsets, where what is never written does not read as zeros.
fn fill_gap(sink: &mut dyn Sink, from: u64, to: u64) -> Result<(), WriteError> {
    if sink.is_sparse() {
        return Ok(());
    }
    let zeros = vec![0; 1 << 20];
    let mut at = from;
    while at < to {
        let len = to.saturating_sub(at).min(zeros.len() as u64);
        sink.put(at, zeros.get(..len as usize).unwrap_or_default())?;
        at = at.saturating_add(len);
    }
    Ok(())
}
