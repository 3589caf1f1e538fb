//! Page classes, and the dump levels that say which of them are left out.
//!
//! Both are makedumpfile's: its tests decide a page's class ([`crate::classify`]), and its
//! levels are the sum of what to leave out:
//!
//! | bit | leaves out | name of what it would keep |
//! |--|--|--|
//! | 1 | pages of zeros (by content, not by class) | `zero` |
//! | 2 | page cache without private data | `cache` |
//! | 4 | page cache, with private data too | `private` |
//! | 8 | user memory: anonymous, hugetlb | `user` |
//! | 16 | free pages | `free` |
//!
//! Source: makedumpfile(8), option `-d`.

use core::fmt;

/// What a page is, by makedumpfile's tests. From the most to the least worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageClass {
    /// Everything that is nothing else: page tables, stacks, per-CPU areas, text; and every page
    /// that cannot be classified.
    Kernel,
    /// Kernel pages set aside at boot (`PG_reserved`): image, per-CPU areas, memmap. They are
    /// [`Self::Kernel`] where the classifier could not learn that flag, which no kernel exports.
    Reserved,
    /// Slab caches.
    Slab,
    /// Page cache and swap cache with private data, such as a file system's buffer heads.
    CachePrivate,
    /// Page cache and swap cache.
    Cache,
    /// Anonymous memory of processes, and huge pages of hugetlbfs.
    User,
    /// Held by the buddy allocator, or not accepted yet from the hypervisor.
    Free,
    /// Broken memory (`PG_hwpoison`).
    HwPoison,
    /// Given back: ballooned or logically offline.
    Offline,
}

impl PageClass {
    /// All classes.
    pub const ALL: [Self; 9] = [
        Self::Kernel,
        Self::Reserved,
        Self::Slab,
        Self::CachePrivate,
        Self::Cache,
        Self::User,
        Self::Free,
        Self::HwPoison,
        Self::Offline,
    ];

    /// Whether a dump of `level` leaves the class out.
    pub const fn dropped_at(self, level: DumpLevel) -> bool {
        let bits = match self {
            Self::Kernel | Self::Reserved | Self::Slab => 0,
            Self::CachePrivate => DumpLevel::CACHE_PRIVATE,
            Self::Cache => DumpLevel::CACHE | DumpLevel::CACHE_PRIVATE,
            Self::User => DumpLevel::USER,
            Self::Free => DumpLevel::FREE,
            Self::HwPoison | Self::Offline => return true,
        };
        level.0 & bits != 0
    }

    /// Whether its pages may be read. Broken memory kills the reader, memory given back may be
    /// gone.
    pub const fn readable(self) -> bool {
        !matches!(self, Self::HwPoison | Self::Offline)
    }

    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Reserved => "reserved",
            Self::Slab => "slab",
            Self::CachePrivate => "private cache",
            Self::Cache => "cache",
            Self::User => "user",
            Self::Free => "free",
            Self::HwPoison => "hwpoison",
            Self::Offline => "offline",
        }
    }
}

/// What is neither a dump level nor the name of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a dump level; a number from 0 to 31, `all`, or `kernel` with any of +user, +cache, \
     +private, +free, +zero"
)]
pub struct NotALevel;

/// makedumpfile's dump level: the sum of what is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DumpLevel(u8);

/// The words of a level's name, and the bits that keep the thing when they are clear.
const KEEPS: [(&str, u8); 5] = [
    ("user", DumpLevel::USER),
    ("cache", DumpLevel::CACHE | DumpLevel::CACHE_PRIVATE),
    ("private", DumpLevel::CACHE_PRIVATE),
    ("free", DumpLevel::FREE),
    ("zero", DumpLevel::ZERO),
];

impl DumpLevel {
    /// Leaves out pages of zeros.
    pub const ZERO: u8 = 1;
    /// Leaves out page cache without private data.
    pub const CACHE: u8 = 2;
    /// Leaves out page cache, with private data too.
    pub const CACHE_PRIVATE: u8 = 4;
    /// Leaves out user memory.
    pub const USER: u8 = 8;
    /// Leaves out free pages.
    pub const FREE: u8 = 16;

    /// Everything.
    pub const ALL_PAGES: Self = Self(0);
    /// Kernel pages only; the default.
    pub const KERNEL: Self = Self(31);

    /// The level of a number; `None` above 31.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits <= 31 { Some(Self(bits)) } else { None }
    }

    /// Its number.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether pages of zeros are left out.
    pub const fn drops_zero(self) -> bool {
        self.0 & Self::ZERO != 0
    }

    /// Reads a number, or the name of what is kept: `all`, `kernel`, `kernel+user+cache`, …
    ///
    /// # Errors
    /// [`NotALevel`].
    pub fn parse(text: &str) -> Result<Self, NotALevel> {
        if let Ok(bits) = text.parse() {
            return Self::new(bits).ok_or(NotALevel);
        }
        if text == "all" {
            return Ok(Self::ALL_PAGES);
        }
        let mut words = text.split('+');
        if words.next() != Some("kernel") {
            return Err(NotALevel);
        }
        words.try_fold(Self::KERNEL, |level, word| {
            let (_, bits) = KEEPS
                .iter()
                .find(|(name, _)| *name == word)
                .ok_or(NotALevel)?;
            Ok(Self(level.0 & !bits))
        })
    }
}

impl Default for DumpLevel {
    fn default() -> Self {
        Self::KERNEL
    }
}

impl core::str::FromStr for DumpLevel {
    type Err = NotALevel;

    fn from_str(text: &str) -> Result<Self, NotALevel> {
        Self::parse(text)
    }
}

/// Its number and the name of what it keeps: `31 (kernel)`.
impl fmt::Display for DumpLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.0)?;
        if *self == Self::ALL_PAGES {
            return f.write_str("all)");
        }
        f.write_str("kernel")?;
        let mut named = 0;
        for (name, bits) in KEEPS {
            if self.0 & bits == 0 && named & bits != bits {
                write!(f, "+{name}")?;
                named |= bits;
            }
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_level_drops_what_makedumpfile_drops() {
        use PageClass::{Cache, CachePrivate, Free, HwPoison, Offline, User};
        let table: [(u8, &[PageClass]); 9] = [
            (0, &[]),
            (1, &[]),
            (2, &[Cache]),
            (4, &[CachePrivate, Cache]),
            (6, &[CachePrivate, Cache]),
            (8, &[User]),
            (16, &[Free]),
            (17, &[Free]),
            (31, &[CachePrivate, Cache, User, Free]),
        ];
        for (bits, dropped) in table {
            let level = DumpLevel::new(bits).unwrap();
            let found: Vec<_> = PageClass::ALL
                .into_iter()
                .filter(|class| class.dropped_at(level))
                .collect();
            let expected = [dropped, &[HwPoison, Offline]].concat();
            assert_eq!(found, expected, "level {bits}");
        }
    }

    #[test]
    fn names_and_numbers_are_read_and_told() {
        for (text, bits, told) in [
            ("0", 0, "0 (all)"),
            ("all", 0, "0 (all)"),
            ("kernel", 31, "31 (kernel)"),
            ("31", 31, "31 (kernel)"),
            ("kernel+user", 23, "23 (kernel+user)"),
            ("kernel+cache", 25, "25 (kernel+cache)"),
            ("kernel+private", 27, "27 (kernel+private)"),
            ("kernel+user+cache+free", 1, "1 (kernel+user+cache+free)"),
            ("1", 1, "1 (kernel+user+cache+free)"),
            ("kernel+zero", 30, "30 (kernel+zero)"),
        ] {
            let level = DumpLevel::parse(text).unwrap();
            assert_eq!((level.bits(), level.to_string().as_str()), (bits, told));
        }
        for text in [
            "", "32", "-1", "256", "user", "kernel+", "kernel+x", "Kernel", "all+user",
        ] {
            assert_eq!(DumpLevel::parse(text), Err(NotALevel), "{text}");
        }
        // A name keeps no more and no less than the number that it is told for.
        for bits in 0..32 {
            let level = DumpLevel::new(bits).unwrap();
            let told = level.to_string();
            let name = told.split(['(', ')']).nth(1).unwrap();
            let again = DumpLevel::parse(name).unwrap();
            for class in PageClass::ALL {
                assert_eq!(class.dropped_at(again), class.dropped_at(level), "{told}");
            }
            assert_eq!(again.drops_zero(), level.drops_zero(), "{told}");
        }
        assert_eq!(format!("{}", DumpLevel::default()), "31 (kernel)");
    }
}
