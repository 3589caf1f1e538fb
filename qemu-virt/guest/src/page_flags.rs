//! What the guest's kernel says of each page, in pages of the guest's memory.
//!
//! A page has [`MAGIC`], the first page frame, and [`ENTRIES`] entries of /proc/kpageflags from
//! that frame on (Documentation/admin-guide/mm/pagemap.rst), all of 8 bytes, little-endian.

use crate::pattern::PAGE_SIZE;

/// How each page begins.
pub const MAGIC: u64 = 0x6b64_7261_7766_6c67;
/// Page frames that a page tells of.
pub const ENTRIES: u64 = PAGE_SIZE as u64 / 8 - 2;
