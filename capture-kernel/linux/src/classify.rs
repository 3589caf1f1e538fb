//! What each page of the crashed kernel is, from its `struct page`, by makedumpfile's tests.
//!
//! [`Classifier::new`] takes offsets and values from VMCOREINFO and checks them on the kernel's
//! own image; [`Spans`] makes one pass over the struct pages of a range, in pieces of 8 KiB, and
//! tells spans of one class. Whatever is implausible is [`PageClass::Kernel`], so that it is
//! dumped, and counted in [`Doubts`].
//!
//! | | by |
//! |--|--|
//! | free | `_mapcount` = `PAGE_BUDDY_MAPCOUNT_VALUE`, not slab; 2^`private` pages |
//! | not accepted yet (6.16) | `_mapcount` = `PAGE_UNACCEPTED_MAPCOUNT_VALUE`; a block of the largest order |
//! | cache | `PG_lru`, or `PG_swapbacked` and `PG_swapcache`; not anonymous; by `PG_private` with private data |
//! | user | anonymous: bit 0 of `mapping`, not slab; or hugetlb |
//! | broken, offline | `PG_hwpoison`; `_mapcount` = `PAGE_OFFLINE_MAPCOUNT_VALUE` |
//! | reserved | `PG_reserved`, learned from the struct pages of the image |
//! | slab | `PG_slab` or, from 6.10, `_mapcount` = `PAGE_SLAB_MAPCOUNT_VALUE` |
//!
//! A compound page's first struct page has `PG_head`, its second tells the order and, up to 6.8,
//! hugetlb: `page.compound_order` and `_dtor` (to 6.2), `folio._folio_order` and `_dtor` (6.3–6.5),
//! the low byte of its flags (6.6) and `PG_hugetlb` in them (6.6–6.8). From 6.9 the first
//! page's `_mapcount` tells hugetlb. Which it is, the keys that there are tell.
//!
//! Where makedumpfile believes an order, the pages of a block have to agree here: in a compound
//! page each is a tail of the same head, in a free block none is referenced. The first that does
//! not agree ends the block. (The vmemmap of a hugetlb page may be mapped to its first page over
//! and over, e7d324850bfc; there, heads count as tails.) And broken pages are found inside
//! blocks.
//!
//! Source: makedumpfile, `__exclude_unnecessary_pages`; `include/linux/page-flags.h`.

use kdraw_format::addr::{FRAME_SIZE, KernelVirtAddr, Pfn, PhysAddr, PhysRange};

pub use crate::dump_level::{DumpLevel, NotALevel, PageClass};
use crate::kernel_map::VirtRange;
use crate::memmap::{MemMap, Stretch};
use crate::memory::PhysMem;
use crate::struct_page::{Block, Fields, Look, UNUSUAL, word};
use crate::translate::{TranslateError, VirtMem};
use crate::vmcoreinfo::Vmcoreinfo;

/// Words of struct pages read at once.
const BUFFER: usize = 1024;
/// Words of a struct page of the usual 64 bytes.
const USUAL: usize = 8;

/// How many pages of text the classifier is tried on, and how many pages they are apart: not a
/// power of two, so that with a wrong `SIZE(page)` some lie askew.
const TEXT_PROBES: u64 = 8;
const TEXT_PROBE_PAGES: u64 = 5;
/// The bits of `page.flags` that are flags on all kernels; zone, node and others lie above.
const PAGE_FLAGS: u64 = 0xffff_ffff;

/// A key of VMCOREINFO, such as `SIZE(page)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub(crate) &'static str, pub(crate) &'static str);

impl core::fmt::Display for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self(kind, name) = self;
        write!(f, "{kind}({name})")
    }
}

/// Why pages cannot be classified. The dump then has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassifyError {
    /// A key is absent or not a number.
    #[error("VMCOREINFO has no usable {0}; pages cannot be told apart")]
    Missing(Key),
    /// A value that no kernel has.
    #[error("VMCOREINFO says {0}={1}, which no kernel has; pages cannot be told apart")]
    Absurd(Key, i128),
    /// Two flags, or two members, of struct page in one place.
    #[error("VMCOREINFO puts two {0} of struct page in one place; pages cannot be told apart")]
    Overlap(&'static str),
    /// The struct page of the kernel's own image cannot be read.
    #[error("the struct page of the kernel's image cannot be read: {0}")]
    Unreadable(#[from] TranslateError),
    /// The struct page of the kernel's own image has no memmap, or is not what it must be.
    #[error(
        "the struct page of the kernel's image, at {0}, is not that of a page in use; \
         this kernel keeps them in another way than its VMCOREINFO says"
    )]
    Unlike(KernelVirtAddr),
}

/// How many pages were taken as kernel pages because something was implausible, and what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// No struct page: no memmap for the section, or not mapped.
    pub unmapped: u64,
    /// The struct page's memory, or a page table, cannot be read.
    pub unreadable: u64,
    /// The struct page was never set up: all ones.
    pub uninitialized: u64,
    /// A head or free page with an impossible order, or at a place where its order cannot be.
    pub order: u64,
    /// A tail page outside of every compound page.
    pub tail: u64,
    /// Blocks that ended early, because a page inside did not belong to them.
    pub broken_block: u64,
}

impl Doubts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_reason()
            .iter()
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The counts with their reasons, for people.
    pub fn by_reason(&self) -> [(&'static str, u64); 6] {
        [
            ("no struct page", self.unmapped),
            ("struct page unreadable", self.unreadable),
            ("struct page never set up", self.uninitialized),
            ("impossible order", self.order),
            ("tail without head", self.tail),
            ("block that ends early", self.broken_block),
        ]
    }

    /// Adds those of another range.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.unmapped, other.unmapped),
            (&mut self.unreadable, other.unreadable),
            (&mut self.uninitialized, other.uninitialized),
            (&mut self.order, other.order),
            (&mut self.tail, other.tail),
            (&mut self.broken_block, other.broken_block),
        ] {
            *mine = mine.saturating_add(theirs);
        }
    }
}

/// Consecutive frames of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first, of [`FRAME_SIZE`] bytes each.
    pub first: Pfn,
    /// How many; never 0.
    pub frames: u64,
    /// What they are.
    pub class: PageClass,
}

/// Tells what pages are. Made of VMCOREINFO alone; holds no memory.
#[derive(Clone, Copy, Debug)]
pub struct Classifier {
    fields: Fields,
    memmap: MemMap,
    struct_page: u64,
    page_shift: u32,
}

impl Classifier {
    /// Reads the keys and tries them on the struct pages of the kernel's image.
    ///
    /// # Errors
    /// [`ClassifyError`]: a key is missing or absurd, or the image's pages do not look as pages
    /// in use. All pages have to be dumped then.
    pub fn new<M: PhysMem>(
        virt: &VirtMem<M>,
        info: &Vmcoreinfo<'_>,
    ) -> Result<Self, ClassifyError> {
        let struct_page = info
            .size("page")
            .ok_or(ClassifyError::Missing(Key("SIZE", "page")))?;
        if !(56..=128).contains(&struct_page) || !struct_page.is_multiple_of(8) {
            return Err(ClassifyError::Absurd(
                Key("SIZE", "page"),
                struct_page.into(),
            ));
        }
        let page_shift = virt.layout().page_shift;
        let mut this = Self {
            fields: Fields::new(info, struct_page, page_shift)?,
            memmap: MemMap::new(virt, info, struct_page)?,
            struct_page,
            page_shift,
        };
        this.fields.reserved = this.check(virt)?;
        Ok(this)
    }

    /// Looks at the struct pages of some pages that are the kernel's for certain. Returns the
    /// one flag that all of them have, `PG_reserved`; 0 if it is not that clear.
    fn check<M: PhysMem>(&self, virt: &VirtMem<M>) -> Result<u64, ClassifyError> {
        let layout = virt.layout();
        let text = (0..TEXT_PROBES).map(|probe| {
            let pages = probe.wrapping_mul(TEXT_PROBE_PAGES);
            let distance = pages.checked_shl(self.page_shift).unwrap_or(0);
            KernelVirtAddr(layout.stext.0.wrapping_add(distance))
        });
        let mut unreadable = None;
        let mut common = None;
        for symbol in text.chain([layout.swapper_pg_dir]) {
            let number = symbol.0.wrapping_sub(layout.kimage_voffset) >> self.page_shift;
            let stretch = self.memmap.stretch(virt, number);
            let address = self
                .memmap
                .address(&stretch, number)
                .ok_or(ClassifyError::Unlike(symbol))?;
            let mut page = [0; UNUSUAL];
            match self.read_one(virt, address, &mut page) {
                Ok(()) if !self.fields.is_image_page(&page) => {
                    return Err(ClassifyError::Unlike(address));
                }
                Ok(()) => {
                    let flags = word(&page, self.fields.flags);
                    common = Some(common.unwrap_or(PAGE_FLAGS) & flags);
                }
                Err(error) => unreadable = Some(error),
            }
        }
        match (common, unreadable) {
            (None, Some(error)) => Err(error.into()),
            (Some(flag), _) if flag.is_power_of_two() => Ok(flag & !self.fields.known_flags()),
            _ => Ok(0),
        }
    }

    /// Reads one struct page.
    fn read_one<M: PhysMem>(
        &self,
        virt: &VirtMem<M>,
        address: KernelVirtAddr,
        into: &mut [u64],
    ) -> Result<(), TranslateError> {
        let len = usize::try_from(self.struct_page).unwrap_or(0);
        let bytes = bytemuck::must_cast_slice_mut::<u64, u8>(into);
        virt.read(address, bytes.get_mut(..len).unwrap_or_default())
    }

    /// Where the struct pages of `range` lie, for [`Leaves`](crate::kernel_map::Leaves): the pages
    /// behind them are [`PageClass::Reserved`], but worth less than others of that class. None if
    /// there are none or they are not in one piece.
    pub fn memmap<M: PhysMem>(&self, virt: &VirtMem<M>, range: PhysRange) -> Option<VirtRange> {
        let address = |at: u64| {
            let page = at.checked_shr(self.page_shift)?;
            let stretch = self.memmap.stretch(virt, page);
            self.memmap.address(&stretch, page).map(|address| address.0)
        };
        if range.is_empty() {
            return None;
        }
        let first = address(range.start.0)?;
        let last = address(range.end.0.checked_sub(1)?)?.checked_add(self.struct_page)?;
        let expected = range.len().checked_shr(self.page_shift)?;
        let found = last.checked_sub(first)?.checked_div(self.struct_page)?;
        (found.abs_diff(expected) <= 1).then_some(VirtRange {
            first: KernelVirtAddr(first),
            last: KernelVirtAddr(last.checked_sub(1)?),
        })
    }

    /// Classifies the pages of `range`. A range should be a whole piece of RAM: a compound page
    /// that began before it is not recognized.
    pub fn spans<'a, M: PhysMem>(&self, virt: &'a VirtMem<M>, range: PhysRange) -> Spans<'a, M> {
        let frames = |bytes: PhysAddr| bytes.0.div_ceil(FRAME_SIZE);
        let (first, end) = (range.start.pfn().0, frames(range.end));
        let end = if range.is_empty() { first } else { end };
        let per_page_shift = self.page_shift.saturating_sub(FRAME_SIZE.trailing_zeros());
        let page_size = 1u64.checked_shl(self.page_shift).unwrap_or(FRAME_SIZE);
        let page = range.start.0.checked_shr(self.page_shift).unwrap_or(0);
        Spans {
            classifier: *self,
            virt,
            frames: (first, end),
            per_page_shift,
            end: if range.is_empty() {
                page
            } else {
                range.end.0.div_ceil(page_size)
            },
            cursor: page,
            told: page,
            held: None,
            state: State::default(),
            stretch: None,
            buffer: [0; BUFFER],
            at: 0,
            filled: 0,
        }
    }
}

/// What the classifier remembers from page to page.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    block: Option<Block>,
    doubts: Doubts,
}

impl State {
    /// Classifies the first of `pages`, page number `number`, and as many after it as are of the
    /// same class and easily told. None, if it takes a second page and there is one to be had.
    fn run<const W: usize>(
        &mut self,
        fields: &Fields,
        pages: &[[u64; W]],
        number: u64,
        last: bool,
    ) -> Option<(PageClass, usize)> {
        if let Some(mut block) = self.block.take() {
            let (class, count) = block.continues(fields, pages);
            if count > 0 {
                let taken = u64::try_from(count).unwrap_or(u64::MAX);
                block.left = block.left.saturating_sub(taken);
                self.block = (block.left > 0).then_some(block);
                return Some((class, count));
            }
            self.doubts.broken_block = self.doubts.broken_block.saturating_add(1);
        }
        let (first, rest) = pages.split_first()?;
        if let Some(class) = fields.plain(first) {
            let more = rest
                .iter()
                .take_while(|page| fields.plain(page) == Some(class))
                .count();
            return Some((class, more.saturating_add(1)));
        }
        if rest.is_empty() && !last && word(first, fields.flags) & fields.head != 0 {
            return None;
        }
        let class = match fields.look(first, rest.first(), number) {
            Look::Page(class) => class,
            Look::Block(mut block) => {
                block.left = block.left.saturating_sub(1);
                self.block = (block.left > 0).then_some(block);
                block.class
            }
            Look::Doubt(reason) => {
                let count = reason(&mut self.doubts);
                *count = count.saturating_add(1);
                PageClass::Kernel
            }
        };
        Some((class, 1))
    }
}

/// The spans of a range: in order, without gap or overlap, the whole range.
#[derive(Debug)]
pub struct Spans<'a, M> {
    classifier: Classifier,
    virt: &'a VirtMem<M>,
    /// The range: first frame, frame after the last.
    frames: (u64, u64),
    /// log2 of the frames in a page.
    per_page_shift: u32,
    /// The page after the last.
    end: u64,
    /// The next page to classify.
    cursor: u64,
    /// The first page of the next span.
    told: u64,
    /// The class of the pages between `told` and `cursor`, if there are any.
    held: Option<PageClass>,
    state: State,
    stretch: Option<Stretch>,
    /// Struct pages, each as many words as [`Self::width`].
    buffer: [u64; BUFFER],
    /// How many struct pages are in the buffer, and how many of them are done.
    filled: usize,
    at: usize,
}

impl<M: PhysMem> Spans<'_, M> {
    /// What was implausible up to here.
    pub fn doubts(&self) -> Doubts {
        self.state.doubts
    }

    /// Classifies one page or more.
    fn step(&mut self) -> Option<PageClass> {
        if self.cursor >= self.end {
            return None;
        }
        if self.at >= self.filled
            && let Some(class) = self.fill()
        {
            return Some(class);
        }
        let (class, count) = match self.run() {
            Some(run) => run,
            // The second struct page is not in the buffer yet.
            None => {
                if let Some(class) = self.fill() {
                    return Some(class);
                }
                self.run().unwrap_or((PageClass::Kernel, 1))
            }
        };
        self.at = self.at.saturating_add(count);
        self.advance(u64::try_from(count).unwrap_or(1));
        Some(class)
    }

    fn advance(&mut self, pages: u64) {
        self.cursor = self.cursor.saturating_add(pages.max(1)).min(self.end);
    }

    fn run(&mut self) -> Option<(PageClass, usize)> {
        let width = self.width();
        let words = self
            .buffer
            .get(self.at.saturating_mul(width)..self.filled.saturating_mul(width))?;
        let fields = &self.classifier.fields;
        let last = self.at == 0 || self.cursor.saturating_add(1) >= self.end;
        if width == USUAL {
            let pages = words.as_chunks::<USUAL>().0;
            self.state.run(fields, pages, self.cursor, last)
        } else {
            let pages = words.as_chunks::<UNUSUAL>().0;
            self.state.run(fields, pages, self.cursor, last)
        }
    }

    /// Words that a struct page has in the buffer.
    fn width(&self) -> usize {
        if self.classifier.struct_page == 64 {
            USUAL
        } else {
            UNUSUAL
        }
    }

    /// Reads struct pages from the cursor's on. If there are none, passes over those that cannot
    /// be read and returns what they are.
    fn fill(&mut self) -> Option<PageClass> {
        self.at = 0;
        self.filled = 0;
        let failed = match self.read_pages() {
            Ok(()) => return None,
            Err(failed) => failed,
        };
        // What follows cannot be told to belong to the block.
        if self.state.block.take().is_some() {
            let broken = &mut self.state.doubts.broken_block;
            *broken = broken.saturating_add(1);
        }
        let pages = failed.pages.clamp(1, self.end.saturating_sub(self.cursor));
        let count = (failed.reason)(&mut self.state.doubts);
        *count = count.saturating_add(pages);
        self.advance(pages);
        Some(PageClass::Kernel)
    }

    fn read_pages(&mut self) -> Result<(), Failed> {
        let cursor = self.cursor;
        let memmap = &self.classifier.memmap;
        let stretch = match self.stretch {
            Some(known) if (known.first..known.end).contains(&cursor) => known,
            _ => *self.stretch.insert(memmap.stretch(self.virt, cursor)),
        };
        let end = stretch.end.min(self.end);
        let Some(address) = memmap.address(&stretch, cursor) else {
            return Err(Failed::unmapped(end.saturating_sub(cursor)));
        };
        let width = self.width();
        let room = BUFFER.checked_div(width).unwrap_or(0);
        let wanted = usize::try_from(end.saturating_sub(cursor))
            .unwrap_or(room)
            .min(room);
        let struct_page = self.classifier.struct_page;
        let result = if width == USUAL {
            let bytes = bytemuck::must_cast_slice_mut::<u64, u8>(&mut self.buffer);
            let bytes = bytes
                .get_mut(..wanted.saturating_mul(64))
                .unwrap_or_default();
            let (read, result) = read_up_to(self.virt, address, bytes);
            self.filled = read / 64;
            result
        } else {
            let mut at = address;
            let mut result = Ok(());
            for slot in self.buffer.chunks_mut(width).take(wanted) {
                result = self.classifier.read_one(self.virt, at, slot);
                if result.is_err() {
                    break;
                }
                at = KernelVirtAddr(at.0.wrapping_add(struct_page));
                self.filled = self.filled.saturating_add(1);
            }
            result
        };
        match result {
            Err(error) if self.filled == 0 => {
                // A bulk read may have failed on a later page.
                let slot = self.buffer.get_mut(..width).unwrap_or_default();
                if self.classifier.read_one(self.virt, address, slot).is_ok() {
                    self.filled = 1;
                    return Ok(());
                }
                let page = 1u64.checked_shl(self.classifier.page_shift).unwrap_or(1);
                // All struct pages up to `span`'s next multiple are as far away as this one.
                let up_to = |span: u64| {
                    let inside = address.0 & span.wrapping_sub(1);
                    span.wrapping_sub(inside)
                        .checked_div(struct_page)
                        .unwrap_or(0)
                };
                Err(match error {
                    TranslateError::NotMapped { span, .. } => Failed::unmapped(up_to(span)),
                    TranslateError::NotKernel(_) => Failed::unmapped(up_to(page)),
                    TranslateError::Unreadable(_) if self.virt.translate(address).is_ok() => {
                        Failed::unreadable(1)
                    }
                    TranslateError::Unreadable(_) => Failed::unreadable(up_to(page)),
                })
            }
            _ => Ok(()),
        }
    }
}

/// Struct pages that could not be read.
struct Failed {
    pages: u64,
    reason: fn(&mut Doubts) -> &mut u64,
}

impl Failed {
    fn unmapped(pages: u64) -> Self {
        Self {
            pages,
            reason: |doubts| &mut doubts.unmapped,
        }
    }

    fn unreadable(pages: u64) -> Self {
        Self {
            pages,
            reason: |doubts| &mut doubts.unreadable,
        }
    }
}

/// Fills `into` from `va` as far as it can be read; tells how far that is.
fn read_up_to<M: PhysMem>(
    virt: &VirtMem<M>,
    va: KernelVirtAddr,
    into: &mut [u8],
) -> (usize, Result<(), TranslateError>) {
    let mut done = 0usize;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = KernelVirtAddr(va.0.wrapping_add(u64::try_from(done).unwrap_or(0)));
        let near = match virt.translate(at) {
            Ok((_, near)) => usize::try_from(near).unwrap_or(usize::MAX),
            Err(error) => return (done, Err(error)),
        };
        let len = near.min(rest.len()).max(1);
        if let Err(error) = virt.read(at, rest.get_mut(..len).unwrap_or_default()) {
            return (done, Err(error));
        }
        done = done.saturating_add(len);
    }
    (done, Ok(()))
}

impl<M: PhysMem> Iterator for Spans<'_, M> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let first = self.told;
        let class = match self.held.take() {
            Some(class) => class,
            None => self.step()?,
        };
        let mut end = self.cursor;
        while let Some(next) = self.step() {
            if next != class {
                self.held = Some(next);
                break;
            }
            end = self.cursor;
        }
        self.told = end;
        // A page of 16 or 64 KiB may reach beyond the range.
        let (range_first, range_end) = self.frames;
        let frame = |page: u64| page.checked_shl(self.per_page_shift).unwrap_or(u64::MAX);
        let first = frame(first).max(range_first);
        Some(Span {
            first: Pfn(first),
            frames: frame(end).min(range_end).saturating_sub(first),
            class,
        })
    }
}

impl<M: PhysMem> core::iter::FusedIterator for Spans<'_, M> {}
