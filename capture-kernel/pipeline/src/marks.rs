//! One bit for each frame of the evidence.

use kdraw_format::addr::{Pfn, PhysRange};

/// Frames that are marked.
pub struct Marks<'m> {
    ranges: &'m [PhysRange],
    words: &'m mut [u64],
}

impl<'m> Marks<'m> {
    /// Bytes of memory that the marks of `ranges` take.
    pub fn len(ranges: &[PhysRange]) -> usize {
        let frames = ranges.iter().map(frames).fold(0, u64::saturating_add);
        (frames.div_ceil(64) as usize).saturating_mul(8)
    }

    /// Marks none of the frames of `ranges`; `None` if `memory` is shorter than [`Marks::len`].
    pub fn new(ranges: &'m [PhysRange], memory: &'m mut [u8]) -> Option<Self> {
        let memory = memory.get_mut(..Self::len(ranges))?;
        let words = bytemuck::try_cast_slice_mut(memory).ok()?;
        let mut this = Self { ranges, words };
        this.clear();
        Some(this)
    }

    /// Bytes of the memory that can be marked.
    pub fn bytes_of_evidence(&self) -> u64 {
        self.ranges
            .iter()
            .map(PhysRange::len)
            .fold(0, u64::saturating_add)
    }

    /// Takes all marks away.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Marks the frames of `range`, or takes their marks away; what is not evidence is passed over.
    pub fn set(&mut self, range: PhysRange, marked: bool) {
        let mut base = 0u64;
        for known in self.ranges {
            let first = range.start.pfn().max(known.start.pfn());
            let end = range.end.pfn().min(known.end.pfn());
            if first < end {
                let from = first.0.saturating_sub(known.start.pfn().0);
                let to = end.0.saturating_sub(known.start.pfn().0);
                self.set_bits(base.saturating_add(from), base.saturating_add(to), marked);
            }
            base = base.saturating_add(frames(known));
        }
    }

    fn set_bits(&mut self, from: u64, to: u64, marked: bool) {
        let mut at = from;
        while at < to {
            let bits = left_in_word(at).min(to.saturating_sub(at));
            let mask = u64::MAX.checked_shr(64u64.saturating_sub(bits) as u32);
            let mask = mask.unwrap_or(0) << (at % 64);
            if let Some(word) = self.words.get_mut((at / 64) as usize) {
                *word = if marked { *word | mask } else { *word & !mask };
            }
            at = at.saturating_add(bits);
        }
    }

    /// Splits `count` frames from `first` on into parts that are marked and parts that are not.
    /// Frames that are no evidence are not marked.
    pub fn split(&self, first: Pfn, count: u64) -> impl Iterator<Item = (Pfn, u64, bool)> {
        let mut base = 0u64;
        let mut start = None;
        for known in self.ranges {
            if known.start.pfn() <= first && first < known.end.pfn() {
                start = Some(base.saturating_add(first.0.saturating_sub(known.start.pfn().0)));
            }
            base = base.saturating_add(frames(known));
        }
        let mut done = 0u64;
        core::iter::from_fn(move || {
            let left = count.checked_sub(done).filter(|left| *left > 0)?;
            let at = start.map(|start| start.saturating_add(done));
            let word = at.and_then(|at| self.words.get((at / 64) as usize));
            let (marked, same) = match (word, at) {
                (Some(word), Some(at)) => {
                    let rest = word >> (at % 64);
                    let marked = rest & 1 != 0;
                    let same = if marked {
                        rest.trailing_ones()
                    } else {
                        rest.trailing_zeros()
                    };
                    (marked, u64::from(same).min(left_in_word(at)))
                }
                _ => (false, left),
            };
            let part = (Pfn(first.0.saturating_add(done)), same.min(left), marked);
            done = done.saturating_add(part.1);
            Some(part)
        })
    }
}

/// Bits from `at` on to the end of its word.
fn left_in_word(at: u64) -> u64 {
    64u64.saturating_sub(at % 64)
}

fn frames(range: &PhysRange) -> u64 {
    let (start, end) = (range.start.pfn().0, range.end.pfn().0);
    end.saturating_sub(start)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use kdraw_format::addr::PhysAddr;
    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, end: u64) -> PhysRange {
        PhysRange {
            start: PhysAddr(first << 12),
            end: PhysAddr(end << 12),
        }
    }

    proptest! {
        #[test]
        fn what_was_set_last_counts(
            sets in prop::collection::vec((0u64..400, 0u64..200, any::<bool>()), 0..20),
            from in 0u64..400,
            count in 0u64..300,
        ) {
            // Two ranges with a hole between them, not at multiples of 64.
            let ranges = [range(3, 150), range(200, 333)];
            let evidence = |pfn: &u64| (3..150).contains(pfn) || (200..333).contains(pfn);
            let mut memory = vec![0u64; Marks::len(&ranges) / 8];
            let mut marks = Marks::new(&ranges, bytemuck::cast_slice_mut(&mut memory)).unwrap();
            let mut expected = BTreeSet::new();
            for (first, len, marked) in sets {
                marks.set(range(first, first + len), marked);
                for pfn in (first..first + len).filter(evidence) {
                    if marked { expected.insert(pfn) } else { expected.remove(&pfn) };
                }
            }
            // Parts do not reach over the end of a range: whoever splits, splits evidence.
            let count = match from {
                3..150 => count.min(150 - from),
                200..333 => count.min(333 - from),
                _ => count,
            };
            let found: Vec<(u64, bool)> = marks
                .split(Pfn(from), count)
                .flat_map(|(first, len, marked)| (first.0..first.0 + len).map(move |pfn| (pfn, marked)))
                .collect();
            let wanted: Vec<(u64, bool)> = (from..from + count)
                .map(|pfn| (pfn, evidence(&from) && expected.contains(&pfn)))
                .collect();
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn too_little_memory_is_told() {
        let ranges = [range(0, 65)];
        assert!(Marks::new(&ranges, bytemuck::cast_slice_mut(&mut [0u64; 1])).is_none());
        assert!(Marks::new(&ranges, bytemuck::cast_slice_mut(&mut [0u64; 2])).is_some());
    }
}
