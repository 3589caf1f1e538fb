//! Writes the vmcore: an ELF core, sparse where memory is zero.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};
use kdraw_linux::core_elf::CoreLayout;
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use super::dump_memory::DumpMemory;
use super::{ExtractError, check_room};
use crate::error::Error;
use crate::frames::FrameSet;
use crate::parallel;
use crate::partition::DumpPartition;
use crate::plain_core::{self, CoreWindow};
use crate::scan::Scan;
use crate::source::SharedRead;

/// The most pieces of memory that a vmcore is split into; ELF has room for 65534 headers, and
/// the kernel image takes some.
const MAX_SEGMENTS: usize = 60_000;

/// Bytes that are read at once.
const BATCH: u64 = 1 << 20;

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    /// The file's length; what it takes on the disk may be less.
    pub bytes: u64,
    /// Frames in it.
    pub frames: u64,
    /// Frames that should be in it and are not.
    pub missing: FrameSet,
    /// Frames in it that are not known and read as zero, because there were too many holes.
    pub filled: u64,
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
    file: &mut File,
    path: &Path,
    progress: &mut dyn FnMut(&'static str, u64, u64),
) -> Result<Written, ExtractError> {
    // Without a page the file still has the notes, and dmesg.txt and metadata.json stand beside it.
    if scan.chunks == 0 {
        return Err(ExtractError::Nothing(scan.header.index));
    }
    let known = scan.known();
    let memory = DumpMemory::new(partition, scan);
    let (segments, filled) = known.phys_ranges(MAX_SEGMENTS);
    let info = Vmcoreinfo::from_notes(&scan.notes);
    let kernel = info
        .as_ref()
        .and_then(|info| KernelLayout::from_vmcoreinfo(info).ok());
    let image = kernel
        .zip(info.as_ref())
        .and_then(|(kernel, info)| VirtMem::new(&memory, kernel).image(info));
    let layout = CoreLayout::new(&segments, kernel, image, scan.notes.len())?;
    let missing = scan.missing();
    let incomplete = !missing.is_empty() || !scan.lost.is_empty() || scan.trailer.is_none();
    let stored = scan.stored.count().saturating_mul(FRAME_SIZE);
    check_room(path, layout.header_len().saturating_add(stored))?;
    file.set_len(layout.file_len())
        .map_err(Error::io("make room in", path))?;
    let mut header = vec![0; layout.header_len() as usize];
    layout.write_header(&scan.notes, incomplete, &mut header)?;
    put(file, path, 0, &header)?;
    let places: Vec<_> = layout.segments().collect();
    let total = known.count().saturating_mul(FRAME_SIZE);
    let mut done = 0u64;
    parallel::in_order(
        &known.batches(BATCH),
        |batch| (*batch, read_batch(&memory, batch)),
        |(batch, bytes)| {
            let bytes = bytes.map_err(|why| ExtractError::Unstable(why.at))?;
            put_memory(file, path, &places, batch.start, &bytes)?;
            done = done.saturating_add(batch.len());
            progress("extracting", done, total);
            Ok::<_, ExtractError>(())
        },
    )?;
    Ok(Written {
        bytes: layout.file_len(),
        frames: known.count(),
        missing,
        filled,
        problems: Vec::new(),
    })
}

fn read_batch(memory: &impl PhysMem, batch: &PhysRange) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = vec![0; batch.len() as usize];
    memory.read(batch.start, &mut bytes).map(|()| bytes)
}

/// Writes memory to where its segment has it.
fn put_memory(
    file: &File,
    path: &Path,
    places: &[(PhysRange, u64)],
    at: PhysAddr,
    bytes: &[u8],
) -> Result<(), Error> {
    let after = places.partition_point(|(segment, _)| segment.start <= at);
    // A batch never straddles segments: they are unions of ranges of known frames.
    let Some((segment, offset)) = places.get(..after).and_then(<[_]>::last) else {
        return Ok(());
    };
    let base = offset.saturating_add(at.0.saturating_sub(segment.start.0));
    put_sparse(file, path, base, bytes)
}

/// Writes bytes but leaves out frames of zeros, which a sparse file has already.
fn put_sparse(file: &File, path: &Path, at: u64, bytes: &[u8]) -> Result<(), Error> {
    const FRAME: usize = FRAME_SIZE as usize;
    let mut begun = 0usize;
    let mut here = 0usize;
    for frame in bytes.chunks(FRAME) {
        let end = here.saturating_add(frame.len());
        if frame.iter().all(|&byte| byte == 0) {
            put(
                file,
                path,
                at.saturating_add(begun as u64),
                bytes.get(begun..here).unwrap_or_default(),
            )?;
            begun = end;
        }
        here = end;
    }
    put(
        file,
        path,
        at.saturating_add(begun as u64),
        bytes.get(begun..).unwrap_or_default(),
    )
}

fn put(file: &File, path: &Path, at: u64, bytes: &[u8]) -> Result<(), Error> {
    file.write_all_at(bytes, at)
        .map_err(Error::io("write", path))
}

/// Copies a plain partition's core.
///
/// # Errors
/// [`ExtractError`].
pub fn copy_plain(
    partition: &DumpPartition,
    scan: &Scan,
    file: &mut File,
    path: &Path,
    progress: &mut dyn FnMut(&'static str, u64, u64),
) -> Result<Written, ExtractError> {
    let checked = plain_core::check(partition, scan, &mut |at, total| {
        progress("checking", at, total);
    });
    let window = CoreWindow::new(partition, plain_core::core_len(scan));
    let len = window.len();
    if len == 0 {
        return Err(ExtractError::Nothing(scan.header.index));
    }
    check_room(path, len)?;
    file.set_len(len).map_err(Error::io("make room in", path))?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0u64;
    let mut problems = checked.problems;
    while at < len {
        let piece_len = len.saturating_sub(at).min(buffer.len() as u64);
        let piece = buffer.get_mut(..piece_len as usize).unwrap_or_default();
        match window.read_at(at, piece) {
            Ok(()) => put_sparse(file, path, at, piece)?,
            Err(why) => problems.push(format!("core: {why}")),
        }
        at = at.saturating_add(piece_len);
        progress("extracting", at, len);
    }
    Ok(Written {
        bytes: len,
        frames: checked.frames,
        missing: checked.missing,
        filled: 0,
        problems,
    })
}
