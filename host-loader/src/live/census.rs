//! One pass of the payload's classifier over the running kernel, compared page by page with
//! what the kernel says.
//!
//! The system goes on while we look: a page may be freed between our look and the kernel's. So
//! pages that differ are looked at again, twice, each time a little later, and count only if they
//! differ every time. Only one kind of difference can lose a page: one that the classifier would
//! leave out and the kernel calls something else. A page that the classifier keeps though it need
//! not costs room, and is counted apart.

use std::io;
use std::time::Duration;

use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};
use kdraw_linux::classify::{Classifier, Doubts, PageClass, Span};
use kdraw_linux::translate::VirtMem;
use serde::Serialize;

use crate::live::kcore::Kcore;
use crate::live::page_flags::{Judge, PageFlags};

/// How often a page that differs is looked at in all.
pub const LOOKS: usize = 3;
/// RAM that is looked at, at most, in bytes: on larger machines pieces of it, evenly spread.
pub const MOST: u64 = 8 << 30;
/// How RAM is cut into such pieces: no compound page but hugetlb's largest crosses this.
const PIECE: u64 = 1 << 30;
/// What is looked at again around a page that differs; compound pages begin inside it.
const AROUND: u64 = 32 << 20;
/// Before each further look.
const PAUSE: Duration = Duration::from_millis(50);
/// Pages that differ and are remembered; beyond, there is nothing left to prove.
const MAX_SUSPECTS: usize = 1 << 16;

/// What the pages are.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Bytes of all RAM.
    pub ram: u64,
    /// Bytes of it that were looked at.
    pub looked_at: u64,
    /// Frames by class, in [`PageClass::ALL`]'s order.
    pub frames: [u64; PageClass::ALL.len()],
    /// All of it, in order.
    pub spans: Vec<Span>,
    /// What was implausible.
    pub doubts: Doubts,
    /// The kernel's view, if it could be had.
    pub comparison: Option<Comparison>,
}

/// The classifier's view against the kernel's, in pages of the kernel's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Pages that were compared.
    pub pages: u64,
    /// Pages of each class by the kernel's view, in [`PageClass::ALL`]'s order.
    pub by_kernel: [u64; PageClass::ALL.len()],
    /// Pages that would be left out and are something else, at each look.
    pub mistaken: [u64; LOOKS],
    /// Pages that are kept though the kernel calls them something that may be left out.
    pub kept_needlessly: u64,
}

impl Comparison {
    /// Pages that differed at every look.
    pub fn persistent(&self) -> u64 {
        self.mistaken.last().copied().unwrap_or(0)
    }

    /// How many may differ before the classifier is not trusted: one in 10 000, and 16 on small
    /// machines. A wrong offset or value differs in a class as a whole.
    pub fn allowed(&self) -> u64 {
        (self.pages / 10_000).max(16)
    }
}

impl Census {
    /// Takes `ranges` for kernel pages, unseen: what the payload does with a kernel whose pages
    /// it cannot tell apart.
    pub fn unseen(ranges: &[PhysRange]) -> Self {
        let mut this = Self::default();
        for range in pieces(ranges) {
            this.look_at(&range);
            this.add(Span {
                first: range.start.pfn(),
                frames: range.len() / FRAME_SIZE,
                class: PageClass::Kernel,
            });
        }
        this.ram = total(ranges);
        this
    }

    /// Classifies `ranges`, or as much of them as [`MOST`] allows, and compares.
    ///
    /// # Errors
    /// What the system says about reading `flags`.
    pub fn take(
        classifier: &Classifier,
        virt: &VirtMem<&Kcore>,
        ranges: &[PhysRange],
        flags: Option<&mut PageFlags>,
    ) -> io::Result<Self> {
        let mut this = Self {
            ram: total(ranges),
            ..Self::default()
        };
        let Some(flags) = flags else {
            for range in pieces(ranges) {
                this.look_at(&range);
                let mut spans = classifier.spans(virt, range);
                for span in &mut spans {
                    this.add(span);
                }
                this.doubts.add(&spans.doubts());
            }
            return Ok(this);
        };
        let mut comparison = Comparison::default();
        let mut suspects = Vec::new();
        for range in pieces(ranges) {
            this.look_at(&range);
            let mut spans = classifier.spans(virt, range);
            let mut judge = Judge::default();
            for span in &mut spans {
                this.add(span);
                for page in pages(span, virt) {
                    let seen = judge.next(flags.word(page)?);
                    comparison.add(span.class, seen);
                    if is_mistaken(span.class, seen) && suspects.len() < MAX_SUSPECTS {
                        suspects.push(page);
                    }
                }
            }
            this.doubts.add(&spans.doubts());
        }
        let ([first, later @ ..], full) = (&mut comparison.mistaken, suspects.len());
        let lost = *first;
        for count in later {
            // More than can be remembered: they cannot have come right.
            if full == MAX_SUSPECTS {
                *count = lost;
                continue;
            }
            if !suspects.is_empty() {
                std::thread::sleep(PAUSE);
                suspects = look_again(classifier, virt, ranges, flags, &suspects)?;
            }
            *count = suspects.len() as u64;
        }
        this.comparison = Some(comparison);
        Ok(this)
    }

    fn look_at(&mut self, range: &PhysRange) {
        self.looked_at = self.looked_at.saturating_add(range.len());
    }

    fn add(&mut self, span: Span) {
        if let Some(count) = self.frames.get_mut(span.class as usize) {
            *count = count.saturating_add(span.frames);
        }
        self.spans.push(span);
    }
}

impl Comparison {
    fn add(&mut self, class: PageClass, seen: PageClass) {
        let one_more = |count: &mut u64| *count = count.saturating_add(1);
        one_more(&mut self.pages);
        if let Some(count) = self.by_kernel.get_mut(seen as usize) {
            one_more(count);
        }
        if is_mistaken(class, seen) {
            let [first, ..] = &mut self.mistaken;
            one_more(first);
        } else if is_always_kept(class) && !is_always_kept(seen) {
            one_more(&mut self.kept_needlessly);
        }
    }
}

fn is_always_kept(class: PageClass) -> bool {
    matches!(
        class,
        PageClass::Kernel | PageClass::Reserved | PageClass::Slab
    )
}

fn is_mistaken(class: PageClass, seen: PageClass) -> bool {
    class != seen && !is_always_kept(class)
}

/// The pages that a span lies in.
fn pages(span: Span, virt: &VirtMem<&Kcore>) -> std::ops::Range<u64> {
    let frames_per_page = page_size(virt) / FRAME_SIZE;
    let end = span.first.0.saturating_add(span.frames);
    let page = |frame: u64| frame.checked_div(frames_per_page).unwrap_or(frame);
    page(span.first.0)..page(end)
}

/// The size of the kernel's pages, in bytes.
pub fn page_size(virt: &VirtMem<&Kcore>) -> u64 {
    1u64.checked_shl(virt.layout().page_shift)
        .unwrap_or(FRAME_SIZE)
}

/// Looks at `suspects`, which are in order, and returns those that still differ.
fn look_again(
    classifier: &Classifier,
    virt: &VirtMem<&Kcore>,
    ranges: &[PhysRange],
    flags: &mut PageFlags,
    suspects: &[u64],
) -> io::Result<Vec<u64>> {
    let mut left = Vec::new();
    let page_size = page_size(virt);
    let pages_around = AROUND.checked_div(page_size).unwrap_or(1).max(1);
    let around = |page: &u64| page.checked_div(pages_around);
    flags.forget();
    for group in suspects.chunk_by(|one, other| around(one) == around(other)) {
        let Some(number) = group.first().and_then(around) else {
            continue;
        };
        let start = PhysAddr(number.saturating_mul(AROUND));
        let block = PhysRange {
            start,
            end: PhysAddr(start.0.saturating_add(AROUND)),
        };
        for range in ranges.iter().filter_map(|range| overlap(range, &block)) {
            let mut judge = Judge::default();
            for span in classifier.spans(virt, range) {
                for page in pages(span, virt) {
                    let seen = judge.next(flags.word(page)?);
                    if is_mistaken(span.class, seen) && group.binary_search(&page).is_ok() {
                        left.push(page);
                    }
                }
            }
        }
    }
    Ok(left)
}

/// What two ranges share.
pub fn overlap(one: &PhysRange, other: &PhysRange) -> Option<PhysRange> {
    let both = PhysRange {
        start: one.start.max(other.start),
        end: one.end.min(other.end),
    };
    (!both.is_empty()).then_some(both)
}

fn total(ranges: &[PhysRange]) -> u64 {
    let lens = ranges.iter().map(PhysRange::len);
    lens.fold(0, u64::saturating_add)
}

/// What of `ranges` is looked at: all of it, or pieces of [`PIECE`] bytes.
fn pieces(ranges: &[PhysRange]) -> Vec<PhysRange> {
    if total(ranges) <= MOST {
        return ranges.to_vec();
    }
    let mut pieces = Vec::new();
    for range in ranges {
        let mut start = range.start.0;
        while start < range.end.0 {
            let next = start.saturating_add(1).next_multiple_of(PIECE);
            pieces.push(PhysRange {
                start: PhysAddr(start),
                end: PhysAddr(next.min(range.end.0)),
            });
            start = next;
        }
    }
    let step = total(ranges).div_ceil(MOST);
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    pieces.into_iter().step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange {
            start: PhysAddr(start),
            end: PhysAddr(end),
        }
    }

    #[test]
    fn large_machines_are_looked_at_in_pieces_that_are_spread() {
        let small = [range(GIB, GIB + 5), range(2 * GIB, 9 * GIB)];
        assert_eq!(pieces(&small), small);
        let large = [range(GIB, 3 * GIB), range(8 * GIB + 7, 36 * GIB)];
        let pieces = pieces(&large);
        assert!(total(&pieces) <= MOST, "{pieces:?}");
        assert_eq!(pieces[0], range(GIB, 2 * GIB));
        assert_eq!(pieces.last().unwrap().end.0, 35 * GIB);
        for piece in pieces {
            assert!(large.iter().any(|range| range.contains(&piece)));
        }
    }

    #[test]
    fn only_what_would_be_left_out_can_be_mistaken() {
        use PageClass::{Cache, CachePrivate, Free, Kernel, Slab, User};
        let mut comparison = Comparison::default();
        for (class, seen) in [
            (Kernel, Slab),
            (Slab, Kernel),
            (Free, Free),
            (Kernel, Free),
            (Free, Kernel),
            (Cache, CachePrivate),
            (User, Slab),
        ] {
            comparison.add(class, seen);
        }
        assert_eq!(comparison.pages, 7);
        assert_eq!(comparison.mistaken, [3, 0, 0]);
        assert_eq!(comparison.kept_needlessly, 1);
    }
}
