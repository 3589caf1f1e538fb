//! Memory alone: byte 0 is the lowest address of RAM, what is not known is a hole.

use kdraw_format::addr::FRAME_SIZE;

use super::elf::fill_gap;
use super::sink::Sink;
use super::{Image, Progress, WriteError, Written};

/// Writes it.
///
/// # Errors
/// [`WriteError`].
pub fn write(
    image: &Image<'_>,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<Written, WriteError> {
    let sets = [&image.ram, &image.known];
    let starts = sets.iter().filter_map(|set| set.ranges().first());
    let ends = sets.iter().filter_map(|set| set.ranges().last());
    let base = starts.map(|(start, _)| *start).min().unwrap_or(0);
    let base = base.saturating_mul(FRAME_SIZE);
    let end = ends.map(|(_, end)| *end).max().unwrap_or(0);
    let len = end.saturating_mul(FRAME_SIZE).saturating_sub(base);
    let mut written = 0;
    image.for_batches(
        &image.known,
        |_, bytes| bytes,
        |batch, bytes| {
            let at = batch.start.0.saturating_sub(base);
            fill_gap(sink, written, at)?;
            sink.put_sparse(at, &bytes)?;
            written = at.saturating_add(batch.len());
            Ok(())
        },
        progress,
    )?;
    fill_gap(sink, written, len)?;
    sink.end(len)?;
    Ok(Written {
        bytes: len,
        frames: image.known.count(),
        ..Written::default()
    })
}
