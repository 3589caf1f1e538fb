//! An ELF core, sparse where memory is zero; frames that are not known are not in it. The layout
//! is [`kdraw_linux::core_elf`]'s.

use kdraw_format::addr::PhysRange;
use kdraw_linux::core_elf::CoreLayout;
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::translate::VirtMem;

use super::sink::Sink;
use super::{Image, Progress, WriteError, Written};

/// The most pieces of memory that a vmcore is split into; ELF has room for 65534 headers, and
/// the kernel image takes some.
const MAX_SEGMENTS: usize = 60_000;

/// Writes it.
///
/// # Errors
/// [`WriteError`].
pub fn write(
    image: &Image<'_>,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<Written, WriteError> {
    let (segments, invented) = image.known.phys_ranges(MAX_SEGMENTS);
    let info = image.vmcoreinfo();
    let kernel = info.and_then(|info| KernelLayout::from_vmcoreinfo(&info).ok());
    let text = kernel
        .zip(image.vmcoreinfo())
        .and_then(|(kernel, info)| VirtMem::new(image.memory, kernel).image(&info));
    let layout = CoreLayout::new(&segments, kernel, text, image.notes.len())?;
    let mut header = vec![0; layout.header_len() as usize];
    layout.write_header(&image.notes, image.incomplete, &mut header)?;
    sink.put(0, &header)?;
    let places: Vec<_> = layout.segments().collect();
    let mut end = layout.header_len();
    image.for_batches(
        &image.known,
        |_, bytes| bytes,
        |batch, bytes| {
            let at = place(&places, batch);
            fill_gap(sink, end, at)?;
            sink.put_sparse(at, &bytes)?;
            end = at.saturating_add(batch.len());
            Ok(())
        },
        progress,
    )?;
    sink.end(layout.file_len())?;
    Ok(Written {
        bytes: layout.file_len(),
        frames: image.known.count(),
        invented,
        partial: 0,
    })
}

/// Where a batch belongs in the file: in its segment. Batches never straddle segments, which are
/// unions of ranges of known frames.
fn place(places: &[(PhysRange, u64)], batch: &PhysRange) -> u64 {
    let after = places.partition_point(|(segment, _)| segment.start <= batch.start);
    let segment = places.get(..after).and_then(<[_]>::last);
    segment.map_or(0, |(segment, offset)| {
        offset.saturating_add(batch.start.0.saturating_sub(segment.start.0))
    })
}

/// Writes the zeros of frames that are in a segment without being known, where holes are nothing.
pub(super) fn fill_gap(sink: &mut dyn Sink, from: u64, to: u64) -> Result<(), WriteError> {
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
