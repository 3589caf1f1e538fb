//! The vmcore of a dump: what is in it, and what is missing.

use kdraw_linux::memory::PhysMem;

use super::{ExtractError, Wanted};
use crate::core_file::CoreFile;
use crate::extract::dump_memory::DumpMemory;
use crate::frames::FrameSet;
use crate::output::sink::Sink;
use crate::output::{self, Format, Image, Progress, Written};
use crate::partition::DumpPartition;
use crate::plain_core::{self, CoreWindow, core_len};
use crate::scan::Scan;
use crate::source::SharedRead;

/// What became of a dump's memory.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was written.
    pub written: Written,
    /// Frames that should be in it and are not.
    pub missing: FrameSet,
    /// Problems, in words.
    pub problems: Vec<String>,
}

/// Writes the vmcore of a slot.
///
/// # Errors
/// [`ExtractError`].
pub fn write(
    partition: &DumpPartition,
    scan: &Scan,
    wanted: Wanted,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<Outcome, ExtractError> {
    if partition.superblock.plain {
        return write_plain(partition, scan, wanted, sink, progress);
    }
    // Without a page the file still has the notes, and dmesg.txt and metadata.json stand beside it.
    if scan.chunks == 0 {
        return Err(ExtractError::Nothing(scan.header.index));
    }
    let memory = DumpMemory::new(partition, scan);
    let missing = scan.missing();
    let image = image(scan, &memory, scan.known(), &missing);
    Ok(Outcome {
        written: output::write(&image, wanted.format, sink, progress)?,
        missing,
        problems: Vec::new(),
    })
}

/// Everything that a vmcore is made of, as far as the dump has it.
fn image<'a>(
    scan: &Scan,
    memory: &'a (dyn PhysMem + Sync),
    known: FrameSet,
    missing: &FrameSet,
) -> Image<'a> {
    let cut_short = match &scan.trailer {
        Some(trailer) => trailer.truncated.is_some(),
        None => true,
    };
    let uname = scan.black_box.as_ref().map(|found| found.uname.clone());
    let mut fields = uname.unwrap_or_default().into_iter();
    let mut image = Image {
        memory,
        ram: scan.promised().with(&known),
        known,
        notes: scan.notes.clone(),
        incomplete: cut_short || !missing.is_empty() || !scan.lost.is_empty(),
        level: scan.header.level,
        uname: std::array::from_fn(|_| fields.next().unwrap_or_default()),
        crash_time: scan.crash_time().unwrap_or(0),
    };
    image.find_uname();
    image
}

/// Writes the vmcore of a plain partition; an ELF file is its core as it is.
fn write_plain(
    partition: &DumpPartition,
    scan: &Scan,
    wanted: Wanted,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<Outcome, ExtractError> {
    let checked = plain_core::check(partition, scan, &mut |at, total| {
        progress("checking", at, total);
    });
    let window = CoreWindow::new(partition, core_len(scan));
    if window.is_empty() {
        return Err(ExtractError::Nothing(scan.header.index));
    }
    let mut problems = checked.problems;
    let core = CoreFile::open(window);
    let written = match (wanted.format, core) {
        (Format::Elf, _) | (_, Err(_)) => {
            let bytes = copy(window, sink, &mut problems, progress)?;
            Written {
                bytes,
                frames: checked.known.count(),
                ..Written::default()
            }
        }
        (format, Ok(core)) => {
            let mut image = image(scan, &core, checked.known, &checked.missing);
            if image.notes.is_empty() {
                image.notes = core.notes();
            }
            output::write(&image, format, sink, progress)?
        }
    };
    Ok(Outcome {
        written,
        missing: checked.missing,
        problems,
    })
}

/// Copies a core as it is; what cannot be read is told and left zero.
fn copy(
    window: CoreWindow<'_>,
    sink: &mut dyn Sink,
    problems: &mut Vec<String>,
    progress: Progress<'_>,
) -> Result<u64, ExtractError> {
    let len = window.len();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0u64;
    while at < len {
        let piece_len = len.saturating_sub(at).min(buffer.len() as u64);
        let piece = buffer.get_mut(..piece_len as usize).unwrap_or_default();
        if let Err(why) = window.read_at(at, piece) {
            problems.push(format!("core: {why}"));
            piece.fill(0);
        }
        sink.put_sparse(at, piece)?;
        at = at.saturating_add(piece_len);
        progress("extracting", at, len);
    }
    sink.end(len)?;
    Ok(len)
}
