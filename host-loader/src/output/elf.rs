//! An ELF core, sparse where memory is zero; frames that are not known are not in it. The layout
//! is [`kdraw_linux::core_elf`]'s.

use kdraw_format::addr::{PhysAddr, PhysRange};
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
    image.copy(sink, layout.header_len(), |at| place(&places, at), progress)?;
    sink.end(layout.file_len())?;
    Ok(Written {
        bytes: layout.file_len(),
        frames: image.known.count(),
        invented,
        partial: 0,
    })
}

/// Where memory belongs in the file: in its segment. Ranges of known frames never straddle
/// segments, which are unions of them.
fn place(places: &[(PhysRange, u64)], memory: PhysAddr) -> u64 {
    let after = places.partition_point(|(segment, _)| segment.start <= memory);
    let segment = places.get(..after).and_then(<[_]>::last);
    segment.map_or(0, |(segment, offset)| {
        offset.saturating_add(memory.0.saturating_sub(segment.start.0))
    })
}
