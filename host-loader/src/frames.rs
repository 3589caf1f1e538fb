//! Sets of page frames, as sorted ranges.

use kdraw_format::addr::{FRAME_SIZE, Pfn, PhysAddr, PhysRange};

/// How many ranges may be added before they are sorted and joined.
const SLACK: usize = 4096;

/// Frames, in sorted, disjoint, not adjacent ranges once [`FrameSet::tidy`] was called.
#[derive(Clone, Debug, Default)]
pub struct FrameSet {
    ranges: Vec<(u64, u64)>,
    tidy_len: usize,
}

impl FrameSet {
    /// Adds `count` frames from `first` on.
    pub fn add(&mut self, first: Pfn, count: u64) {
        let end = first.0.saturating_add(count);
        if end == first.0 {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.1 == first.0 => last.1 = end,
            _ => self.ranges.push((first.0, end)),
        }
        if self.ranges.len() > self.tidy_len.saturating_mul(2).saturating_add(SLACK) {
            self.tidy();
        }
    }

    /// Adds the frames that lie wholly in a range.
    pub fn add_range(&mut self, range: PhysRange) {
        let first = range.start.0.div_ceil(FRAME_SIZE);
        let end = range.end.0 / FRAME_SIZE;
        self.add(Pfn(first), end.saturating_sub(first));
    }

    /// Sorts and joins.
    pub fn tidy(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, kept| {
            let joins = next.0 <= kept.1;
            if joins {
                kept.1 = kept.1.max(next.1);
            }
            joins
        });
        self.tidy_len = self.ranges.len();
    }

    /// How many frames are in it. Call [`FrameSet::tidy`] first.
    pub fn count(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, (first, end)| {
            end.saturating_sub(*first).saturating_add(sum)
        })
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Its ranges: first frame, frame after the last.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// The frames that are in this set and not in `other`; both tidy.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        let mut holes = other.ranges.iter().peekable();
        for &(first, end) in &self.ranges {
            let mut at = first;
            while let Some(&&(hole, hole_end)) = holes.peek() {
                if hole >= end {
                    break;
                }
                left.add(Pfn(at), hole.saturating_sub(at));
                at = at.max(hole_end);
                if hole_end > end {
                    break;
                }
                holes.next();
            }
            left.add(Pfn(at), end.saturating_sub(at));
        }
        left.tidy();
        left
    }

    /// These frames and those of another set.
    pub fn with(mut self, other: &Self) -> Self {
        self.ranges.extend(&other.ranges);
        self.tidy();
        self
    }

    /// The parts of its ranges between two frames.
    pub fn overlapping(&self, first: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        let from = self.ranges.partition_point(|range| range.1 <= first);
        self.ranges
            .iter()
            .skip(from)
            .take_while(move |range| range.0 < end)
            .map(move |range| (range.0.max(first), range.1.min(end)))
    }

    /// The pages of `frames` frames each of which all frames are in it, or `any`; counted in
    /// pages.
    pub fn pages(&self, frames: u64, any: bool) -> Self {
        let mut pages = Self::default();
        let frames = frames.max(1);
        for &(first, end) in &self.ranges {
            let (first, end) = match any {
                true => (first.checked_div(frames).unwrap_or(0), end.div_ceil(frames)),
                false => (first.div_ceil(frames), end.checked_div(frames).unwrap_or(0)),
            };
            pages.add(Pfn(first), end.saturating_sub(first));
        }
        pages.tidy();
        pages
    }

    /// Its ranges in bytes, in pieces that begin at multiples of `most` bytes or at a range's
    /// start; consecutive pieces of at most `most` bytes in all are one batch.
    pub fn batches(&self, most: u64) -> Vec<Vec<PhysRange>> {
        let frames = (most / FRAME_SIZE).max(1);
        let (mut batches, mut batch, mut room) = (Vec::new(), Vec::new(), frames);
        for &(first, end) in &self.ranges {
            let mut at = first;
            while at < end {
                let next = at.saturating_add(1).next_multiple_of(frames).min(end);
                let count = next.saturating_sub(at);
                if count > room {
                    batches.push(std::mem::take(&mut batch));
                    room = frames;
                }
                room = room.saturating_sub(count);
                batch.push(PhysRange {
                    start: PhysAddr(at.saturating_mul(FRAME_SIZE)),
                    end: PhysAddr(next.saturating_mul(FRAME_SIZE)),
                });
                at = next;
            }
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }

    /// Its ranges in bytes, at most `most`: beyond that the smallest gaps are filled. Returns
    /// the frames that so came in, too.
    pub fn phys_ranges(&self, most: usize) -> (Vec<PhysRange>, u64) {
        let mut joined = self.ranges.clone();
        let (mut gap, mut filled) = (1u64, 0u64);
        while joined.len() > most {
            joined.dedup_by(|next, kept| {
                let between = next.0.saturating_sub(kept.1);
                let joins = between <= gap;
                if joins {
                    filled = filled.saturating_add(between);
                    kept.1 = next.1;
                }
                joins
            });
            gap = gap.saturating_mul(2);
        }
        let bytes = |frame: u64| PhysAddr(frame.saturating_mul(FRAME_SIZE));
        let ranges = joined
            .iter()
            .map(|(first, end)| PhysRange {
                start: bytes(*first),
                end: bytes(*end),
            })
            .collect();
        (ranges, filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> FrameSet {
        let mut set = FrameSet::default();
        for (first, end) in ranges {
            set.add(Pfn(*first), end - first);
        }
        set.tidy();
        set
    }

    #[test]
    fn ranges_join_whatever_their_order() {
        let joined = set(&[(10, 20), (5, 8), (8, 10), (15, 17), (30, 31)]);
        assert_eq!(joined.ranges(), [(5, 20), (30, 31)]);
        assert_eq!(joined.count(), 16);
    }

    #[test]
    fn subtraction_agrees_with_one_frame_at_a_time() {
        for seed in 0..2000u32 {
            let bits =
                |salt: u32| (seed.wrapping_mul(2_654_435_761) ^ salt).wrapping_mul(40_503) >> 8;
            let (a, b) = (bits(1) & 0xffff, bits(77) & 0xffff);
            let to_set = |bits: u32| {
                let frames: Vec<_> = (0..16).filter(|n| bits >> n & 1 == 1).collect();
                set(&frames.iter().map(|n| (*n, n + 1)).collect::<Vec<_>>())
            };
            assert_eq!(
                to_set(a).without(&to_set(b)).ranges(),
                to_set(a & !b).ranges(),
                "{a:b} {b:b}"
            );
        }
    }

    #[test]
    fn pages_are_of_all_their_frames_or_of_any() {
        let frames = set(&[(3, 9), (12, 16), (17, 18)]);
        assert_eq!(frames.pages(4, false).ranges(), [(1, 2), (3, 4)]);
        assert_eq!(frames.pages(4, true).ranges(), [(0, 5)]);
        assert_eq!(frames.pages(1, false).ranges(), frames.ranges());
        let parts: Vec<_> = frames.overlapping(8, 17).collect();
        assert_eq!(parts, [(8, 9), (12, 16)]);
    }

    #[test]
    fn batches_cover_everything_once() {
        let batches = set(&[(3, 9), (20, 21), (23, 24), (29, 31)]).batches(4 * FRAME_SIZE);
        let frames = |range: &PhysRange| (range.start.0 / FRAME_SIZE, range.end.0 / FRAME_SIZE);
        let frames: Vec<Vec<_>> = batches
            .iter()
            .map(|batch| batch.iter().map(frames).collect())
            .collect();
        let expected: [&[_]; 4] = [
            &[(3, 4)],
            &[(4, 8)],
            &[(8, 9), (20, 21), (23, 24)],
            &[(29, 31)],
        ];
        assert_eq!(frames, expected);
        assert!(set(&[]).batches(4 * FRAME_SIZE).is_empty());
    }

    #[test]
    fn too_many_ranges_lose_their_smallest_gaps() {
        let (ranges, filled) = set(&[(0, 1), (2, 3), (100, 101)]).phys_ranges(2);
        assert_eq!(filled, 1);
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0].end, PhysAddr(3 * FRAME_SIZE));
    }
}
