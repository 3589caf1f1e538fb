//! Memory alone: byte 0 is the lowest address of RAM, what is not known is a hole.

use kdraw_format::addr::{FRAME_SIZE, PhysAddr};

use super::sink::Sink;
use super::{Image, Progress, WriteError, Written, fill_gap};

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
    let place = |memory: PhysAddr| memory.0.saturating_sub(base);
    let written = image.copy(sink, 0, place, progress)?;
    fill_gap(sink, written, len)?;
    sink.end(len)?;
    Ok(Written {
        bytes: len,
        frames: image.known.count(),
        ..Written::default()
    })
}
