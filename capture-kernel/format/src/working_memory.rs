//! How much of the crash region the payload needs beside its segments.
//!
//! The payload has no heap: it carves its working memory from the crash region once, at start.
//! The tool reckons with the same figures when it loads, so that a region that is too small is
//! refused while there is time to reserve a larger one. What is missing above the least costs
//! speed, not pages: fewer CPUs work.

use crate::addr::{FRAME_SIZE, PhysAddr, PhysRange};

/// Bytes for the notes of all CPUs and VMCOREINFO: about 140 CPUs.
pub const NOTES: u64 = 64 << 10;
/// Bytes of pages that one chunk holds before compression.
pub const CHUNK_RAW: u64 = 256 << 10;
/// Bytes of a buffer for a finished chunk: its pages if nothing compresses, its header and runs.
pub const CHUNK_STORED: u64 = 264 << 10;
/// Bytes that the first CPU packs by Deflate in, if the plan asks for that. They are taken only if
/// what one CPU needs is left: without them it packs by LZ4.
pub const DEFLATE: u64 = 112 << 10;
/// Bytes of a worker's stack. The compressor's table takes half of it.
pub const WORKER_STACK: u64 = 64 << 10;
/// Places for an order to wait or be done on, for each worker: enough small orders to last while
/// the first CPU does a large one itself.
pub const DESKS_EACH: usize = 8;
/// Bytes of such a place, at the most.
pub const DESK: u64 = 4 << 10;
/// Bytes of a worker's stack for exceptions.
pub const WORKER_FAULT_STACK: u64 = 8 << 10;
/// The most CPUs that work beside the first one. More would wait for the device.
pub const MAX_WORKERS: usize = 15;

/// Buffers of [`CHUNK_STORED`] bytes for each CPU: one being filled, one that waits to be written.
const STORED_EACH: usize = 2;
/// Further ones, in the device's hands.
const STORED_IN_FLIGHT: usize = 2;
/// What a CPU compresses with, in bytes.
const COMPRESSING: u64 = CHUNK_RAW + STORED_EACH as u64 * CHUNK_STORED;
/// What one CPU needs that works alone, in bytes, but for the bitmap.
const ONE_CPU: u64 = NOTES + COMPRESSING + STORED_IN_FLIGHT as u64 * CHUNK_STORED;
/// What each worker needs, in bytes: two unmapped frames guard its stacks.
pub const WORKER: u64 =
    COMPRESSING + DESKS_EACH as u64 * DESK + WORKER_STACK + WORKER_FAULT_STACK + 2 * FRAME_SIZE;

/// Bytes of working memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Without this much nothing is captured as it should be.
    pub least: u64,
    /// With this much all CPUs work.
    pub wanted: u64,
}

/// Computes what a machine with `cpus` CPUs and `ram` bytes of memory needs: the least is the
/// notes, one bit for each frame and what one CPU compresses with.
pub const fn memory_needed(cpus: u64, ram: u64) -> MemoryNeed {
    let bitmap = ram.div_ceil(FRAME_SIZE).div_ceil(8);
    let least = bitmap.next_multiple_of(FRAME_SIZE).saturating_add(ONE_CPU);
    MemoryNeed {
        least,
        wanted: least.saturating_add(workers_wanted(cpus).saturating_mul(WORKER)),
    }
}

/// How many buffers of [`CHUNK_STORED`] bytes each worker gets beyond those, as long as there is
/// memory: other CPUs go on while the device, or the first CPU, takes its time.
pub const STORED_MORE: usize = 4;

/// How many buffers of [`CHUNK_STORED`] bytes there are to be with `workers` CPUs beside the first.
pub const fn stored_buffers(workers: usize) -> usize {
    workers
        .saturating_add(1)
        .saturating_mul(STORED_EACH)
        .saturating_add(STORED_IN_FLIGHT)
}

/// How many of `cpus` CPUs work beside the first one, if `room` bytes are there to work in.
pub const fn workers_that_fit(cpus: u64, ram: u64, room: u64) -> u64 {
    let fit = room.saturating_sub(memory_needed(1, ram).least) / WORKER;
    let wanted = workers_wanted(cpus);
    if fit < wanted { fit } else { wanted }
}

const fn workers_wanted(cpus: u64) -> u64 {
    let others = cpus.saturating_sub(1);
    if others < MAX_WORKERS as u64 {
        others
    } else {
        MAX_WORKERS as u64
    }
}

/// The most ranges that can be taken out of a [`Room`] beforehand.
pub const MAX_TAKEN: usize = 8;

/// What a crash region has beside the segments in it: handed out once, in whole frames.
#[derive(Clone, Debug, Default)]
pub struct Room {
    gaps: heapless::Vec<PhysRange, { MAX_TAKEN + 1 }>,
}

impl Room {
    /// The frames of `region` in which no byte of `taken` lies, the first [`MAX_TAKEN`] of them
    /// looked at. (Linux's own pages in the region are dead after the jump, and not taken.)
    pub fn new(region: PhysRange, taken: impl IntoIterator<Item = PhysRange>) -> Self {
        let mut this = Self::default();
        if let Some(region) = whole_frames(region.start.0.checked_add(FRAME_SIZE - 1), region.end.0)
        {
            let _ = this.gaps.push(region);
        }
        for taken in taken.into_iter().take(MAX_TAKEN) {
            let end = taken.end.0.checked_next_multiple_of(FRAME_SIZE);
            let (before, after) = (taken.start.0, end.unwrap_or(u64::MAX));
            let mut gaps = heapless::Vec::new();
            for gap in &this.gaps {
                let pieces = [
                    whole_frames(Some(gap.start.0), gap.end.0.min(before)),
                    whole_frames(Some(gap.start.0.max(after)), gap.end.0),
                ];
                // Each range taken out makes one gap more at the most, for which there is room.
                gaps.extend(pieces.into_iter().flatten());
            }
            this.gaps = gaps;
        }
        this
    }

    /// Takes `len` bytes, rounded up to whole frames, where they first fit.
    pub fn take(&mut self, len: u64) -> Option<PhysRange> {
        let len = len.checked_next_multiple_of(FRAME_SIZE)?;
        let gap = self.gaps.iter_mut().find(|gap| gap.len() >= len)?;
        let taken = PhysRange::with_len(gap.start, len)?;
        gap.start = taken.end;
        Some(taken)
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        let lens = self.gaps.iter().map(PhysRange::len);
        lens.fold(0, u64::saturating_add)
    }
}

/// The whole frames from the one that `start` lies in up to `end`; `None` if there are none.
fn whole_frames(start: Option<u64>, end: u64) -> Option<PhysRange> {
    let mask = !(FRAME_SIZE - 1);
    let range = PhysRange {
        start: PhysAddr(start? & mask),
        end: PhysAddr(end & mask),
    };
    Some(range).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange {
            start: PhysAddr(start),
            end: PhysAddr(end),
        }
    }

    #[test]
    fn a_room_is_what_the_segments_leave_in_whole_frames() {
        let table: [(PhysRange, &[PhysRange], &[PhysRange]); 7] = [
            (range(0x1000, 0x9000), &[], &[range(0x1000, 0x9000)]),
            // Frames that are touched are taken whole.
            (
                range(0x1001, 0x9fff),
                &[range(0x3fff, 0x5001)],
                &[range(0x2000, 0x3000), range(0x6000, 0x9000)],
            ),
            (
                range(0x1000, 0x9000),
                &[range(0x7000, 0x8000), range(0x2000, 0x3000)],
                &[
                    range(0x1000, 0x2000),
                    range(0x3000, 0x7000),
                    range(0x8000, 0x9000),
                ],
            ),
            // At the edges, outside, over the edge, overlapping.
            (
                range(0x1000, 0x9000),
                &[
                    range(0x1000, 0x2000),
                    range(0x8800, 0x9000),
                    range(0x9000, 0xa000),
                    range(0, 0x1000),
                ],
                &[range(0x2000, 0x8000)],
            ),
            (
                range(0x1000, 0x9000),
                &[range(0x5000, u64::MAX), range(0x4000, 0x6000)],
                &[range(0x1000, 0x4000)],
            ),
            (range(0x1000, 0x9000), &[range(0, u64::MAX)], &[]),
            (range(u64::MAX - 1, u64::MAX), &[], &[]),
        ];
        for (region, taken, expected) in table {
            let mut room = Room::new(region, taken.iter().copied());
            assert_eq!(
                room.left(),
                expected.iter().map(PhysRange::len).sum(),
                "{region:x?} {taken:x?}"
            );
            let frames = core::iter::from_fn(|| Some(room.take(1)?.start.0));
            let expected = expected
                .iter()
                .flat_map(|gap| (gap.start.0..gap.end.0).step_by(0x1000));
            assert!(frames.eq(expected), "{region:x?} {taken:x?}");
        }
    }

    #[test]
    fn nothing_is_handed_out_twice_and_nothing_in_two_pieces() {
        let mut room = Room::new(range(0x1000, 0x9000), [range(0x3000, 0x4000)]);
        assert_eq!(room.take(0x6000), None);
        assert_eq!(room.take(0x2001), Some(range(0x4000, 0x7000)));
        assert_eq!(room.take(0x2000), Some(range(0x1000, 0x3000)));
        assert_eq!(room.take(u64::MAX), None);
        assert_eq!(
            (room.take(0x2000), room.take(1)),
            (Some(range(0x7000, 0x9000)), None)
        );
        assert_eq!(room.left(), 0);
    }

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// What the segments leave of a region: payload, plan, elfcorehdr, and QEMU's device tree.
    fn room(region: u64) -> u64 {
        region - 9 * MIB / 4
    }

    #[test]
    fn eight_mebibytes_do_for_64_gibibytes_and_64_cpus() {
        assert!(memory_needed(64, 64 * GIB).least <= room(8 * MIB));
        assert_eq!(workers_that_fit(64, 64 * GIB, room(8 * MIB)), 2);
        assert_eq!(workers_that_fit(4, 4 * GIB, room(8 * MIB)), 3);
    }

    #[test]
    fn four_mebibytes_do_for_8_gibibytes_on_one_cpu() {
        assert!(memory_needed(64, 8 * GIB).least + DEFLATE <= room(4 * MIB));
        assert!(memory_needed(64, 16 * GIB).least > room(4 * MIB));
    }

    #[test]
    fn each_cpu_adds_the_same_until_they_are_too_many() {
        let wanted = |cpus| memory_needed(cpus, GIB).wanted;
        assert_eq!(wanted(1), memory_needed(1, GIB).least);
        assert_eq!(wanted(3) - wanted(2), WORKER);
        assert_eq!(wanted(1 + MAX_WORKERS as u64), wanted(1000));
        for cpus in [1, 2, 16] {
            let fit = workers_that_fit(1000, GIB, wanted(cpus));
            assert_eq!(fit, cpus - 1);
            assert_eq!(
                workers_that_fit(1000, GIB, wanted(cpus) - 1),
                fit.saturating_sub(1)
            );
        }
        assert_eq!(
            memory_needed(u64::MAX, u64::MAX).least,
            memory_needed(1, u64::MAX).least
        );
    }
}
