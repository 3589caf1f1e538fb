//! Where a dump has each frame.
//!
//! A dump holds frames in the order of their worth; whoever writes a vmcore wants them in the
//! order of their numbers. The index is sorted by frame, so that both are one look-up apart.

use kdraw_format::addr::{PartOffset, Pfn};
use kdraw_format::chunk::{Content, Run};

use crate::frames::FrameSet;

/// Consecutive frames that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first frame.
    pub first: Pfn,
    /// How many.
    pub frames: u32,
    /// Where they are.
    pub place: Place,
}

/// Where frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: all their bytes are this one.
    Filled(u8),
    /// In a chunk's raw data.
    Stored {
        /// The number of the chunk in [`FrameIndex::chunk`].
        chunk: u32,
        /// How many frames stand before the first one in the chunk's raw data.
        frame: u16,
    },
}

/// A whole chunk of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// Where it begins on the partition.
    pub at: PartOffset,
    /// All its bytes.
    pub len: u32,
}

impl Extent {
    /// The frame after its last.
    pub fn end(&self) -> u64 {
        self.first.0.saturating_add(u64::from(self.frames))
    }

    /// The part of it from frame `pfn` on, which lies inside.
    fn from(&self, pfn: u64) -> Self {
        let skip = pfn.saturating_sub(self.first.0).min(self.frames.into()) as u32;
        Self {
            first: Pfn(pfn),
            frames: self.frames.saturating_sub(skip),
            place: match self.place {
                Place::Filled(byte) => Place::Filled(byte),
                Place::Stored { chunk, frame } => Place::Stored {
                    chunk,
                    frame: frame.saturating_add(skip as u16), // a chunk has 128 frames at most
                },
            },
        }
    }
}

/// All frames of which a dump tells the content. Built by [`FrameIndex::add`] and
/// [`FrameIndex::tidy`].
#[derive(Clone, Debug, Default)]
pub struct FrameIndex {
    extents: Vec<Extent>,
    chunks: Vec<StoredChunk>,
}

impl FrameIndex {
    /// Adds a chunk; its number.
    pub fn add_chunk(&mut self, chunk: StoredChunk) -> u32 {
        let number = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        self.chunks.push(chunk);
        number
    }

    /// Adds a run of a chunk; `frame` counts the frames before it in the chunk's raw data.
    /// Unreadable frames are nowhere.
    pub fn add(&mut self, run: &Run, chunk: u32, frame: u16) {
        let place = match run.content {
            Content::Stored => Place::Stored { chunk, frame },
            Content::Filled(byte) => Place::Filled(byte),
            Content::Unreadable => return,
        };
        if run.frames > 0 {
            self.extents.push(Extent {
                first: run.first,
                frames: run.frames,
                place,
            });
        }
    }

    /// Forgets the stored extents of which `gone` says so; it is told their chunk's number.
    pub fn forget(&mut self, mut gone: impl FnMut(u32, &Extent) -> Option<()>) {
        self.extents.retain(|extent| match extent.place {
            Place::Stored { chunk, .. } => gone(chunk, extent).is_none(),
            Place::Filled(_) => true,
        });
    }

    /// Sorts by frame. Of a frame that is there twice, the one that comes first counts.
    pub fn tidy(&mut self) {
        self.extents.sort_by_key(|extent| extent.first);
        let mut end = 0;
        self.extents.retain_mut(|extent| {
            if extent.end() <= end {
                return false;
            }
            *extent = extent.from(extent.first.0.max(end));
            end = extent.end();
            true
        });
        self.extents.dedup_by(|next, kept| {
            let both = kept.frames.checked_add(next.frames);
            let joins = kept.end() == next.first.0
                && kept.place == next.place
                && matches!(kept.place, Place::Filled(_));
            if let (true, Some(both)) = (joins, both) {
                kept.frames = both;
                return true;
            }
            false
        });
        self.extents.shrink_to_fit();
    }

    /// Takes filled frames only as far as they are in `within`, and the first `most` of them;
    /// returns how many are left out. The index must be tidy: extents that overlap would multiply.
    pub fn limit_filled(&mut self, within: Option<&FrameSet>, most: u64) -> u64 {
        let (mut kept, mut found) = (0u64, 0u64);
        let mut extents = Vec::with_capacity(self.extents.len());
        for extent in std::mem::take(&mut self.extents) {
            if matches!(extent.place, Place::Stored { .. }) {
                extents.push(extent);
                continue;
            }
            found = found.saturating_add(extent.frames.into());
            let (first, end) = (extent.first.0, extent.end());
            let whole = within.is_none().then_some((first, end));
            let parts = within.map(|within| within.overlapping(first, end));
            for (first, end) in parts.into_iter().flatten().chain(whole) {
                let room = most.saturating_sub(kept);
                let frames = end.saturating_sub(first).min(room) as u32; // of those of `extent`
                if frames > 0 {
                    kept = kept.saturating_add(frames.into());
                    extents.push(Extent {
                        frames,
                        ..extent.from(first)
                    });
                }
            }
        }
        self.extents = extents;
        found.saturating_sub(kept)
    }

    /// What is known of a frame: the extent from there on.
    pub fn find(&self, pfn: Pfn) -> Option<Extent> {
        let after = self.extents.partition_point(|extent| extent.first <= pfn);
        let extent = self.extents.get(..after)?.last()?;
        (pfn.0 < extent.end()).then(|| extent.from(pfn.0))
    }

    /// A chunk by its number.
    pub fn chunk(&self, number: u32) -> Option<&StoredChunk> {
        self.chunks.get(number as usize)
    }

    /// Everything, by frame.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The frames of the extents that are asked for.
    pub fn frames(&self, wanted: impl Fn(Place) -> bool) -> FrameSet {
        let mut set = FrameSet::default();
        for extent in self.extents.iter().filter(|extent| wanted(extent.place)) {
            set.add(extent.first, extent.frames.into());
        }
        set.tidy();
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, frames: u32, content: Content) -> Run {
        Run {
            first: Pfn(first),
            frames,
            content,
            ..Run::default()
        }
    }

    #[test]
    fn the_first_of_two_extents_counts_and_the_other_keeps_its_rest() {
        let mut index = FrameIndex::default();
        index.add(&run(0x100, 4, Content::Stored), 0, 0);
        index.add(&run(0x102, 8, Content::Stored), 1, 3);
        index.add(&run(0x101, 2, Content::Filled(7)), 1, 3);
        index.add(&run(0x200, 1, Content::Unreadable), 1, 3);
        index.add(&run(0x10b, 2, Content::Filled(0)), 2, 0);
        index.add(&run(0x10a, 1, Content::Filled(0)), 3, 0);
        index.tidy();
        let stored = |chunk, frame| Place::Stored { chunk, frame };
        let found: Vec<_> = index
            .extents()
            .iter()
            .map(|extent| (extent.first.0, extent.frames, extent.place))
            .collect();
        assert_eq!(
            found,
            [
                (0x100, 4, stored(0, 0)),
                (0x104, 6, stored(1, 5)),
                (0x10a, 3, Place::Filled(0)),
            ]
        );
        let inside = index.find(Pfn(0x106)).unwrap();
        assert_eq!((inside.frames, inside.place), (4, stored(1, 7)));
        for absent in [0xff, 0x10d, 0x200] {
            assert_eq!(index.find(Pfn(absent)), None);
        }
        index.forget(|chunk, _| (chunk == 1).then_some(()));
        assert_eq!(index.find(Pfn(0x106)), None);
    }

    #[test]
    fn filled_frames_are_those_of_the_machine_and_not_without_number() {
        let mut ram = FrameSet::default();
        ram.add(Pfn(0x100), 0x10);
        ram.add(Pfn(0x200), 0x10);
        ram.tidy();
        for (within, most, expected, kept) in [
            (
                Some(&ram),
                u64::MAX,
                &[(0x80, 4), (0x104, 12), (0x200, 16)][..],
                28,
            ),
            (Some(&ram), 14, &[(0x80, 4), (0x104, 12), (0x200, 2)], 14),
            (None, 20, &[(0x80, 4), (0x104, 20)], 20),
        ] {
            let mut index = FrameIndex::default();
            index.add(&run(0x80, 4, Content::Stored), 0, 0);
            index.add(&run(0x104, u32::MAX, Content::Filled(0)), 0, 0);
            index.tidy();
            let found = index.limit_filled(within, most);
            let extents = index.extents().iter();
            let extents: Vec<_> = extents.map(|it| (it.first.0, it.frames)).collect();
            assert_eq!(extents, expected, "{most}");
            assert_eq!(found, u64::from(u32::MAX) - kept);
        }
    }
}
