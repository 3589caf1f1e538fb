//! Huge pages that were set aside (hugetlb).
//!
//! Each size has a `struct hstate` in the array `hstates`. A kernel whose kallsyms has no data
//! does not tell where that is; then the image is searched for the name that each has, such as
//! `hugepages-2048kB`, which fits its own `order`.
//!
//! Source: `include/linux/hugetlb.h`, `mm/hugetlb.c`.

use serde::Serialize;

use crate::Kernel;
use crate::object::{Error, Object};

/// The most sizes; arm64 has four.
const MAX_SIZES: u64 = 8;

/// Huge pages, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// Those there are.
    pub total: u64,
    /// Those that nobody uses.
    pub free: u64,
}

/// A size's bytes, if it is one.
fn size(state: &Object<'_>, page: u64) -> Option<u64> {
    let order = u32::try_from(state.get("order").ok()?).ok()?;
    let bytes = page.checked_shl(order).filter(|bytes| *bytes > page)?;
    let name = format!("hugepages-{}kB", bytes / 1024);
    (state.field("name").ok()?.text().ok()? == name).then_some(bytes)
}

impl Kernel<'_> {
    /// The huge pages of all sizes.
    ///
    /// # Errors
    /// [`Error`] if they cannot be found.
    pub fn huge_pages(&self) -> Result<HugePages, Error> {
        let mut found = HugePages::default();
        // A kernel without hugetlb has none.
        if self.types()?.named_struct("hstate").is_none() {
            return Ok(found);
        }
        let page = self.vmcoreinfo().page_size().unwrap_or(4096);
        let template = self.object("struct hstate", 0)?;
        let (stride, name) = (template.size(), template.field("name")?.address);
        let first = self.symbol("hstates").or_else(|| {
            self.search_image(8, |at, bytes| {
                let state = template.moved(at.wrapping_sub(name));
                let is_one = bytes.starts_with(b"hugepages-") && size(&state, page).is_some();
                is_one.then_some(state.address)
            })
        });
        let first = first.ok_or_else(|| Error::NoSymbol("hstates".into()))?;
        for index in 0..MAX_SIZES {
            let state = template.moved(first.wrapping_add(index.wrapping_mul(stride)));
            let Some(size) = size(&state, page) else {
                break;
            };
            let bytes = |name| Ok::<_, Error>(state.get(name)?.saturating_mul(size));
            found.total = found.total.saturating_add(bytes("nr_huge_pages")?);
            found.free = found.free.saturating_add(bytes("free_huge_pages")?);
        }
        Ok(found)
    }
}
