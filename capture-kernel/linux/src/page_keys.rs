//! Reads from VMCOREINFO where the members of `struct page` lie and what their values mean.

use crate::classify::{ClassifyError, Key};
use crate::struct_page::{Fields, Half, HugeTlb, Second};
use crate::vmcoreinfo::Vmcoreinfo;

/// The largest compound page: 16 GiB, hugetlb with a granule of 64 KiB.
const MAX_COMPOUND_SHIFT: u32 = 34;
/// Orders of a zone's free lists: 11 usually, 14 with a granule of 64 KiB.
const MAX_FREE_ORDERS: u64 = 32;

impl Fields {
    /// Reads all keys.
    pub(crate) fn new(
        info: &Vmcoreinfo<'_>,
        struct_page: u64,
        page_shift: u32,
    ) -> Result<Self, ClassifyError> {
        let keys = Keys { info, struct_page };
        let head = keys.number("PG_head_mask")?;
        if !head.cast_unsigned().is_power_of_two() {
            return Err(absurd("NUMBER", "PG_head_mask", head));
        }
        let buddy = "PAGE_BUDDY_MAPCOUNT_VALUE";
        let buddy = keys.value(buddy)?.ok_or(missing("NUMBER", buddy))?;
        let slab_type = keys.value("PAGE_SLAB_MAPCOUNT_VALUE")?;
        let offline = keys.value("PAGE_OFFLINE_MAPCOUNT_VALUE")?;
        let unaccepted = keys.value("PAGE_UNACCEPTED_MAPCOUNT_VALUE")?;
        let slab = keys.flag("PG_slab")?;
        if slab_type.is_none() && slab == 0 {
            // What lies over `mapping` in a slab page may look like anonymous memory.
            return Err(missing("NUMBER", "PAGE_SLAB_MAPCOUNT_VALUE"));
        }
        let orders = "zone.free_area";
        let free_orders = info.length(orders).ok_or(missing("LENGTH", orders))?;
        if !(1..=MAX_FREE_ORDERS).contains(&free_orders) {
            return Err(absurd("LENGTH", orders, free_orders));
        }
        let hugetlb = keys.hugetlb()?;
        let huge_type = match hugetlb {
            HugeTlb::Mapcount(value) => Some(value),
            _ => None,
        };
        let special = [slab_type, offline, unaccepted, huge_type]
            .into_iter()
            .flatten()
            .fold(buddy, i32::max);
        let compound = if info.offset("page.compound_head").is_some() {
            "page.compound_head"
        } else {
            "page.compound_info"
        };
        let this = Self {
            flags: keys.word("page.flags")?,
            refcount: keys.half("page._refcount")?,
            mapping: keys.word("page.mapping")?,
            mapcount: keys.half("page._mapcount")?,
            private: keys.word("page.private")?,
            compound: keys.word(compound)?,
            order: keys
                .second_byte("page.compound_order", "folio._folio_order")?
                .map_or(Second::Flags, Second::Byte),
            hugetlb,
            lru: keys.needed_flag("PG_lru")?,
            has_private: keys.needed_flag("PG_private")?,
            swap: keys.needed_flag("PG_swapbacked")? | keys.needed_flag("PG_swapcache")?,
            head: head.cast_unsigned(),
            hwpoison: keys.flag("PG_hwpoison")?,
            slab,
            reserved: 0,
            buddy,
            slab_type,
            offline,
            unaccepted,
            special,
            free_orders,
            max_order: MAX_COMPOUND_SHIFT.saturating_sub(page_shift),
        };
        this.distinct()?;
        Ok(this)
    }

    /// Checks that no flag and no member is another one too.
    fn distinct(&self) -> Result<(), ClassifyError> {
        let bit = |word: usize| 1u64.wrapping_shl(u32::try_from(word).unwrap_or(0));
        let members = [
            self.flags,
            self.mapping,
            self.private,
            self.compound,
            self.mapcount.word,
        ];
        let flags = [
            self.lru,
            self.has_private,
            self.swap,
            self.head,
            self.hwpoison,
            self.slab,
        ];
        if shares_a_bit(members.map(bit)) {
            Err(ClassifyError::Overlap("members"))
        } else if shares_a_bit(flags) || self.swap.is_power_of_two() {
            Err(ClassifyError::Overlap("flags"))
        } else {
            Ok(())
        }
    }
}

/// Whether a bit is set in two of `sets`.
fn shares_a_bit<const N: usize>(sets: [u64; N]) -> bool {
    let mut seen = 0;
    sets.into_iter().any(|set| {
        let shared = seen & set != 0;
        seen |= set;
        shared
    })
}

fn missing(kind: &'static str, name: &'static str) -> ClassifyError {
    ClassifyError::Missing(Key(kind, name))
}

fn absurd(kind: &'static str, name: &'static str, value: impl Into<i128>) -> ClassifyError {
    ClassifyError::Absurd(Key(kind, name), value.into())
}

/// The keys of a struct page.
struct Keys<'a> {
    info: &'a Vmcoreinfo<'a>,
    struct_page: u64,
}

impl Keys<'_> {
    fn number(&self, name: &'static str) -> Result<i64, ClassifyError> {
        self.info.number(name).ok_or(missing("NUMBER", name))
    }

    /// A special `_mapcount`; `None` if the kernel has no such key.
    fn value(&self, name: &'static str) -> Result<Option<i32>, ClassifyError> {
        let Some(number) = self.info.number(name) else {
            return Ok(None);
        };
        // A type may be printed as the unsigned number that it is.
        match i32::try_from(number).or_else(|_| u32::try_from(number).map(u32::cast_signed)) {
            // -1 is "not mapped", from there on it counts.
            Ok(value) if value < -1 => Ok(Some(value)),
            _ => Err(absurd("NUMBER", name, number)),
        }
    }

    /// The mask of a flag; 0 if the kernel has none.
    fn flag(&self, name: &'static str) -> Result<u64, ClassifyError> {
        let Some(bit) = self.info.number(name) else {
            return Ok(0);
        };
        u32::try_from(bit)
            .ok()
            .and_then(|bit| 1u64.checked_shl(bit))
            .ok_or(absurd("NUMBER", name, bit))
    }

    fn needed_flag(&self, name: &'static str) -> Result<u64, ClassifyError> {
        match self.flag(name)? {
            0 => Err(missing("NUMBER", name)),
            flag => Ok(flag),
        }
    }

    /// Where a member of `len` bytes, aligned to its size, lies.
    fn member(&self, name: &'static str, len: u64) -> Result<Half, ClassifyError> {
        let at = self.info.offset(name).ok_or(missing("OFFSET", name))?;
        let fits = at
            .checked_add(len)
            .is_some_and(|end| end <= self.struct_page);
        if fits && at.is_multiple_of(len) {
            Ok(place(at))
        } else {
            Err(absurd("OFFSET", name, at))
        }
    }

    fn word(&self, name: &'static str) -> Result<usize, ClassifyError> {
        self.member(name, 8).map(|place| place.word)
    }

    fn half(&self, name: &'static str) -> Result<Half, ClassifyError> {
        self.member(name, 4)
    }

    /// A byte of the second struct page: by its offset in struct page or, as a member of folio,
    /// by its offset from the first.
    fn second_byte(
        &self,
        of_page: &'static str,
        of_folio: &'static str,
    ) -> Result<Option<Half>, ClassifyError> {
        let (name, at) = match (self.info.offset(of_page), self.info.offset(of_folio)) {
            (Some(at), _) => (of_page, at),
            (None, Some(at)) => (of_folio, at.wrapping_sub(self.struct_page)),
            (None, None) => return Ok(None),
        };
        if at >= self.struct_page {
            return Err(absurd("OFFSET", name, at));
        }
        Ok(Some(place(at)))
    }

    fn hugetlb(&self) -> Result<HugeTlb, ClassifyError> {
        if let Some(value) = self.value("PAGE_HUGETLB_MAPCOUNT_VALUE")? {
            return Ok(HugeTlb::Mapcount(value));
        }
        let flag = self.flag("PG_hugetlb")?;
        if flag != 0 {
            return Ok(HugeTlb::Flag(flag));
        }
        let name = "HUGETLB_PAGE_DTOR";
        let dtor = self.second_byte("page.compound_dtor", "folio._folio_dtor")?;
        let Some((at, value)) = dtor.zip(self.info.number(name)) else {
            return Ok(HugeTlb::Never);
        };
        match u8::try_from(value) {
            Ok(value) => Ok(HugeTlb::Dtor(at, value)),
            Err(_) => Err(absurd("NUMBER", name, value)),
        }
    }
}

/// The word that holds the byte at `offset`, and how far it is shifted there.
fn place(offset: u64) -> Half {
    Half {
        word: usize::try_from(offset >> 3).unwrap_or(0),
        shift: u32::try_from(offset & 7).unwrap_or(0).wrapping_mul(8),
    }
}
