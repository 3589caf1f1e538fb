//! A `struct page`: where its members lie, and what they tell of the page.
//!
//! The tests are makedumpfile's; which members and values there are, [`crate::page_keys`] reads
//! from VMCOREINFO.

use crate::classify::{Doubts, PageClass};

/// Room for a struct page of any size.
pub(crate) const UNUSUAL: usize = 16;
/// No page of the kernel image is referenced more often.
const MAX_IMAGE_REFERENCES: u32 = 1 << 16;

/// A `u32` of a struct page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    pub(crate) word: usize,
    pub(crate) shift: u32,
}

/// Where the second struct page of a compound page tells of the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Second {
    /// A byte.
    Byte(Half),
    /// The low byte of its flags.
    Flags,
}

/// How hugetlb pages are known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HugeTlb {
    /// No such key: built without.
    Never,
    /// A byte of the second struct page has this value.
    Dtor(Half, u8),
    /// A bit of the second's flags.
    Flag(u64),
    /// The first's `_mapcount`.
    Mapcount(i32),
}

/// Where the members of a struct page lie, in words of 8 bytes, and what values tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub(crate) flags: usize,
    pub(crate) refcount: Half,
    pub(crate) mapping: usize,
    pub(crate) mapcount: Half,
    pub(crate) private: usize,
    /// `compound_head`, `compound_info` since 7.1.
    pub(crate) compound: usize,
    pub(crate) order: Second,
    pub(crate) hugetlb: HugeTlb,

    pub(crate) lru: u64,
    pub(crate) has_private: u64,
    /// `PG_swapbacked` and `PG_swapcache`.
    pub(crate) swap: u64,
    pub(crate) head: u64,
    /// 0 if the kernel has no such flag; as `slab`.
    pub(crate) hwpoison: u64,
    pub(crate) slab: u64,
    /// 0 until it is learned.
    pub(crate) reserved: u64,

    pub(crate) buddy: i32,
    pub(crate) slab_type: Option<i32>,
    pub(crate) offline: Option<i32>,
    pub(crate) unaccepted: Option<i32>,
    /// The highest of all special `_mapcount`s: above, it is a count.
    pub(crate) special: i32,
    pub(crate) free_orders: u64,
    pub(crate) max_order: u32,
}

impl Fields {
    /// All flags whose meaning VMCOREINFO tells.
    pub(crate) fn known_flags(&self) -> u64 {
        self.lru | self.has_private | self.swap | self.head | self.hwpoison | self.slab
    }

    /// Whether a struct page is as those of the image: in use, nobody's.
    pub(crate) fn is_image_page(&self, page: &[u64; UNUSUAL]) -> bool {
        word(page, self.flags) & (self.lru | self.head | self.hwpoison | self.slab) == 0
            && word(page, self.compound) & 1 == 0
            && half(page, self.mapcount).cast_signed() == -1
            && (1..MAX_IMAGE_REFERENCES).contains(&half(page, self.refcount))
    }

    /// The class of a page that is in no block; `None` if it takes a closer look.
    #[inline(always)]
    pub(crate) fn plain<const W: usize>(&self, page: &[u64; W]) -> Option<PageClass> {
        let flags = word(page, self.flags);
        let tail = word(page, self.compound) & 1;
        let mapcount = half(page, self.mapcount).cast_signed();
        if flags & (self.head | self.hwpoison) | tail != 0 || mapcount <= self.special {
            return None;
        }
        let anonymous = word(page, self.mapping) & 1;
        if flags & (self.lru | self.swap | self.slab | self.reserved) | anonymous == 0 {
            return Some(PageClass::Kernel);
        }
        Some(self.class_of(flags, flags & self.slab != 0, anonymous != 0))
    }

    /// The class of a page in use.
    fn class_of(&self, flags: u64, slab: bool, user: bool) -> PageClass {
        let cache = flags & self.lru != 0 || flags & self.swap == self.swap;
        if slab {
            PageClass::Slab
        } else if user {
            PageClass::User
        } else if !cache && flags & self.reserved != 0 {
            PageClass::Reserved
        } else if !cache {
            PageClass::Kernel
        } else if flags & self.has_private != 0 {
            PageClass::CachePrivate
        } else {
            PageClass::Cache
        }
    }

    /// Looks closer at a page that is in no block, page number `number`.
    pub(crate) fn look<const W: usize>(
        &self,
        page: &[u64; W],
        second: Option<&[u64; W]>,
        number: u64,
    ) -> Look {
        let flags = word(page, self.flags);
        let broken = flags & self.hwpoison != 0;
        if flags == u64::MAX {
            return Look::Doubt(|doubts| &mut doubts.uninitialized);
        }
        if word(page, self.compound) & 1 != 0 {
            return if broken {
                Look::Page(PageClass::HwPoison)
            } else {
                Look::Doubt(|doubts| &mut doubts.tail)
            };
        }
        let mapcount = half(page, self.mapcount).cast_signed();
        let slab = flags & self.slab != 0 || Some(mapcount) == self.slab_type;
        let aligned = |order: u32| {
            1u64.checked_shl(order)
                .filter(|pages| number & pages.wrapping_sub(1) == 0)
        };
        let free_order = if slab {
            None
        } else if mapcount == self.buddy {
            Some(word(page, self.private))
        } else if Some(mapcount) == self.unaccepted {
            Some(self.free_orders.wrapping_sub(1))
        } else {
            None
        };
        if let Some(order) = free_order {
            let pages = u32::try_from(order)
                .ok()
                .filter(|_| order < self.free_orders && half(page, self.refcount) == 0)
                .and_then(aligned);
            return match pages {
                Some(_) if broken => Look::Page(PageClass::HwPoison),
                Some(pages) => Look::Block(Block {
                    class: PageClass::Free,
                    left: pages,
                    word: self.refcount.word,
                    mask: u64::from(u32::MAX) << self.refcount.shift,
                    expected: 0,
                    heads: 0,
                }),
                None => Look::Doubt(|doubts| &mut doubts.order),
            };
        }
        let offline = !slab && Some(mapcount) == self.offline;
        let anonymous = word(page, self.mapping) & 1 != 0;
        let class = |hugetlb| {
            if broken {
                PageClass::HwPoison
            } else if offline {
                PageClass::Offline
            } else {
                self.class_of(flags, slab, anonymous || hugetlb)
            }
        };
        if flags & self.head == 0 {
            return Look::Page(class(false));
        }
        let order = second.map(|second| match self.order {
            Second::Byte(at) => half(second, at) & 0xff,
            Second::Flags => u32::try_from(word(second, self.flags) & 0xff).unwrap_or(0),
        });
        let pages = order
            .filter(|order| (1..=self.max_order).contains(order))
            .and_then(aligned);
        let (Some(pages), Some(second)) = (pages, second) else {
            // makedumpfile believes the first page alone then; it is kept here, unless it must
            // not be read.
            return match class(false) {
                unreadable if !unreadable.readable() => Look::Page(unreadable),
                _ => Look::Doubt(|doubts| &mut doubts.order),
            };
        };
        let hugetlb = match self.hugetlb {
            HugeTlb::Never => false,
            HugeTlb::Dtor(at, value) => half(second, at) & 0xff == u32::from(value),
            HugeTlb::Flag(flag) => word(second, self.flags) & flag != 0,
            HugeTlb::Mapcount(value) => mapcount == value,
        };
        Look::Block(Block {
            class: class(hugetlb),
            left: pages,
            word: self.compound,
            mask: u64::MAX,
            // If it is no tail, the block ends right there.
            expected: word(second, self.compound) | 1,
            heads: if hugetlb { self.head } else { 0 },
        })
    }
}

/// What a closer look at a page tells.
pub(crate) enum Look {
    /// One page.
    Page(PageClass),
    /// The first page of a block.
    Block(Block),
    /// Implausible, for a reason to be counted.
    Doubt(fn(&mut Doubts) -> &mut u64),
}

/// A word of a struct page. `W` is a power of two, and no word lies behind it.
#[inline(always)]
pub(crate) fn word<const W: usize>(page: &[u64; W], at: usize) -> u64 {
    page.get(at & W.wrapping_sub(1))
        .copied()
        .map_or(0, u64::from_le)
}

/// Half a word of a struct page; more if the shift is no multiple of 32.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn half<const W: usize>(page: &[u64; W], at: Half) -> u32 {
    word(page, at.word).wrapping_shr(at.shift) as u32
}

/// Pages that are one: a compound page, or a free block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) class: PageClass,
    /// Pages to come, the first one included.
    pub(crate) left: u64,
    /// What every page but the first has in this word, under this mask.
    pub(crate) word: usize,
    pub(crate) mask: u64,
    pub(crate) expected: u64,
    /// A flag that makes up for it.
    pub(crate) heads: u64,
}

impl Block {
    /// The class of the next pages of this block, and how many of `pages` have it; 0 if the
    /// first does not belong to the block.
    pub(crate) fn continues<const W: usize>(
        &self,
        fields: &Fields,
        pages: &[[u64; W]],
    ) -> (PageClass, usize) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let Self {
            word: at,
            mask,
            expected,
            ..
        } = *self;
        let count = pages
            .iter()
            .take(left)
            .take_while(|page| {
                (word(page, at) ^ expected) & mask | word(page, fields.flags) & fields.hwpoison == 0
            })
            .count();
        match pages.first() {
            Some(page) if count == 0 => {
                let flags = word(page, fields.flags);
                // All ones is no flag.
                if flags & fields.hwpoison != 0 && flags != u64::MAX {
                    (PageClass::HwPoison, 1)
                } else {
                    (
                        self.class,
                        usize::from(flags & self.heads != 0 && flags != u64::MAX),
                    )
                }
            }
            _ => (self.class, count),
        }
    }
}
