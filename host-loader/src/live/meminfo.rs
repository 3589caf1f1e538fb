//! /proc/meminfo: the kernel's totals of what it uses memory for.
//!
//! They are counted on other paths than the page flags, so they are a second opinion. They do
//! not fit exactly: pages on their way to a list are in no class yet. Source: proc(5),
//! `fs/proc/meminfo.c`.

use serde::Serialize;

use crate::system::System;
use crate::text;

/// How far totals may lie apart, as a part of all RAM.
const TOLERANCE: u64 = 20;

/// What memory is used for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Free: `MemFree`.
    pub free: u64,
    /// Page cache: `Cached` and `Buffers`.
    pub cache: u64,
    /// Of processes: `AnonPages` and `Hugetlb`.
    pub user: u64,
}

/// The kernel's totals, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemInfo {
    /// The three that the filter has classes for.
    #[serde(flatten)]
    pub totals: Totals,
    /// `SwapCached`: anonymous pages with a copy in swap. `AnonPages` lacks those that nobody has
    /// mapped.
    pub swap_cached: u64,
}

impl Totals {
    /// What each is called, with its bytes.
    pub fn named(&self) -> [(&'static str, u64); 3] {
        [
            ("free", self.free),
            ("cache", self.cache),
            ("user", self.user),
        ]
    }
}

impl MemInfo {
    /// Reads it; `None` if it cannot be read or lacks a total that every kernel has.
    pub fn read(system: &System) -> Option<Self> {
        Self::parse(&system.text("/proc/meminfo").ok()?)
    }

    /// Tells which of `found` is far from the kernel's total, on a machine with `ram` bytes.
    pub fn contradicts(&self, found: &Totals, ram: u64) -> Option<String> {
        let tolerance = ram
            .checked_div(TOLERANCE)
            .unwrap_or(0)
            .saturating_add(self.swap_cached);
        let pairs = found.named().into_iter().zip(self.totals.named());
        let far =
            |((_, ours), (_, theirs)): &((_, u64), (_, u64))| ours.abs_diff(*theirs) > tolerance;
        let ((name, ours), (_, theirs)) = pairs.into_iter().find(far)?;
        Some(format!(
            "{} are {name} by the filter, {} by /proc/meminfo",
            text::size(ours),
            text::size(theirs)
        ))
    }

    fn parse(text: &str) -> Option<Self> {
        let total = |name: &str| {
            text.lines().find_map(|line| {
                let (found, rest) = line.split_once(':')?;
                let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
                (found == name).then(|| kib.saturating_mul(1024))
            })
        };
        let or_none = |name| total(name).unwrap_or(0);
        Some(Self {
            totals: Totals {
                free: total("MemFree")?,
                cache: total("Cached")?.saturating_add(or_none("Buffers")),
                user: total("AnonPages")?.saturating_add(or_none("Hugetlb")),
            },
            swap_cached: or_none("SwapCached"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_in_bytes() {
        let text = "MemTotal: 1000 kB\nMemFree:    8 kB\nBuffers: 1 kB\nCached: 2 kB\n\
                    SwapCached: 4 kB\nAnonPages: 3 kB\nHugePages_Total:       7\nHugetlb: 16 kB\n";
        let found = MemInfo::parse(text).unwrap();
        let kib = found.totals.named().map(|(_, bytes)| bytes / 1024);
        assert_eq!((kib, found.swap_cached), ([8, 3, 19], 4096));
        assert_eq!(MemInfo::parse("MemFree: 8 kB\n"), None);
    }

    #[test]
    fn what_swap_explains_is_no_contradiction() {
        let totals = Totals {
            free: 1 << 30,
            cache: 2 << 30,
            user: 3 << 30,
        };
        let mut meminfo = MemInfo {
            totals,
            swap_cached: 0,
        };
        let ram = 20 << 30;
        let moved = |bytes| Totals {
            user: totals.user - bytes,
            ..totals
        };
        assert_eq!(meminfo.contradicts(&moved(1 << 30), ram), None);
        let said = meminfo.contradicts(&moved((1 << 30) + 1), ram).unwrap();
        assert!(said.starts_with("2.0 GiB are user by the filter, 3.0 GiB"));
        meminfo.swap_cached = 1;
        assert_eq!(meminfo.contradicts(&moved((1 << 30) + 1), ram), None);
    }
}
