//! /proc/kpageflags: what the running kernel says about each page.
//!
//! One word per page number, with bits that do not change from kernel to kernel, unlike those of
//! `struct page`. The kernel sees to compound pages itself for some bits only: a tail page has its
//! head's others. Source: `include/uapi/linux/kernel-page-flags.h`,
//! `include/linux/kernel-page-flags.h` (bits from 32 on), `fs/proc/page.c`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kdraw_linux::classify::PageClass;

use crate::error::Error;
use crate::system::System;

const FILE: &str = "/proc/kpageflags";
const NEEDS: &str = "root, and a kernel with CONFIG_PROC_PAGE_MONITOR";

/// `KPF_*`, as bits.
pub mod kpf {
    /// On the lists of pages that can be reclaimed.
    pub const LRU: u64 = 1 << 5;
    /// Slab cache.
    pub const SLAB: u64 = 1 << 7;
    /// In a free block.
    pub const BUDDY: u64 = 1 << 10;
    /// Anonymous.
    pub const ANON: u64 = 1 << 12;
    /// In the swap cache, and backed by swap.
    pub const SWAPCACHE: u64 = 1 << 13;
    /// First of a compound page.
    pub const COMPOUND_HEAD: u64 = 1 << 15;
    /// Another page of a compound page.
    pub const COMPOUND_TAIL: u64 = 1 << 16;
    /// hugetlb.
    pub const HUGE: u64 = 1 << 17;
    /// Broken.
    pub const HWPOISON: u64 = 1 << 19;
    /// No struct page.
    pub const NOPAGE: u64 = 1 << 20;
    /// Offline.
    pub const OFFLINE: u64 = 1 << 23;
    /// `PG_reserved`.
    pub const RESERVED: u64 = 1 << 32;
    /// `PG_private`.
    pub const PRIVATE: u64 = 1 << 35;
}

/// What a tail page has of its head.
const OF_THE_WHOLE: u64 =
    kpf::LRU | kpf::SLAB | kpf::ANON | kpf::SWAPCACHE | kpf::HUGE | kpf::PRIVATE;
/// Words that are read at once.
const READ_AHEAD: usize = 4096;

/// The file, read ahead.
#[derive(Debug)]
pub struct PageFlags {
    file: File,
    first: u64,
    words: Vec<u64>,
}

impl PageFlags {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::NotTold`] if there is none or it may not be read.
    pub fn open(system: &System) -> Result<Self, Error> {
        let path = system.path(FILE);
        let file = File::open(&path).map_err(Error::not_told("open", &path, NEEDS))?;
        let mut this = Self {
            file,
            first: 0,
            words: Vec::new(),
        };
        this.word(0)
            .map_err(Error::not_told("read", &path, NEEDS))?;
        Ok(this)
    }

    /// Forgets what was read ahead.
    pub fn forget(&mut self) {
        self.words.clear();
    }

    /// The word of a page.
    ///
    /// # Errors
    /// What the system says. A page beyond the file's end has no struct page.
    pub fn word(&mut self, page: u64) -> io::Result<u64> {
        if let Some(word) = self.known(page) {
            return Ok(word);
        }
        let mut bytes = vec![0; READ_AHEAD.saturating_mul(8)];
        let len = self.file.read_at(&mut bytes, page.saturating_mul(8))?;
        let words = bytes.get(..len).unwrap_or_default().chunks_exact(8);
        self.words.clear();
        self.words.extend(words.map(|word| {
            let word = word.first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(word)
        }));
        self.first = page;
        Ok(self.known(page).unwrap_or(kpf::NOPAGE))
    }

    fn known(&self, page: u64) -> Option<u64> {
        let inside = usize::try_from(page.checked_sub(self.first)?).ok()?;
        self.words.get(inside).copied()
    }
}

/// Judges pages by their words, one after the other in order of their numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judge {
    head: u64,
}

impl Judge {
    /// The class of the next page, by makedumpfile's tests on the kernel's own view.
    pub fn next(&mut self, word: u64) -> PageClass {
        if word & kpf::COMPOUND_HEAD != 0 {
            self.head = word;
        } else if word & kpf::COMPOUND_TAIL == 0 {
            self.head = 0;
        }
        let whole = word | self.head & OF_THE_WHOLE;
        let has = |bits| whole & bits != 0;
        if has(kpf::NOPAGE) {
            PageClass::Kernel
        } else if has(kpf::HWPOISON) {
            PageClass::HwPoison
        } else if has(kpf::OFFLINE) {
            PageClass::Offline
        } else if has(kpf::BUDDY) {
            PageClass::Free
        } else if has(kpf::SLAB) {
            PageClass::Slab
        } else if has(kpf::ANON | kpf::HUGE) {
            PageClass::User
        } else if has(kpf::LRU | kpf::SWAPCACHE) {
            if has(kpf::PRIVATE) {
                PageClass::CachePrivate
            } else {
                PageClass::Cache
            }
        } else if has(kpf::RESERVED) {
            PageClass::Reserved
        } else {
            PageClass::Kernel
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_its_word_and_its_head_say() {
        let table: [(u64, PageClass); 16] = [
            (0, PageClass::Kernel),
            (kpf::NOPAGE, PageClass::Kernel),
            (kpf::RESERVED, PageClass::Reserved),
            (kpf::BUDDY, PageClass::Free),
            (kpf::LRU, PageClass::Cache),
            (kpf::LRU | kpf::PRIVATE, PageClass::CachePrivate),
            (kpf::SWAPCACHE, PageClass::Cache),
            (kpf::LRU | kpf::ANON | kpf::SWAPCACHE, PageClass::User),
            (kpf::ANON | kpf::HWPOISON, PageClass::HwPoison),
            (kpf::OFFLINE, PageClass::Offline),
            // A folio of page cache: on older kernels its tails have no flags.
            (kpf::COMPOUND_HEAD | kpf::LRU, PageClass::Cache),
            (kpf::COMPOUND_TAIL, PageClass::Cache),
            (kpf::COMPOUND_TAIL | kpf::HWPOISON, PageClass::HwPoison),
            (kpf::COMPOUND_HEAD | kpf::SLAB | kpf::ANON, PageClass::Slab),
            (kpf::COMPOUND_TAIL, PageClass::Slab),
            // The compound page has ended.
            (0, PageClass::Kernel),
        ];
        let mut judge = Judge::default();
        for (word, expected) in table {
            assert_eq!(judge.next(word), expected, "{word:#x}");
        }
    }
}
