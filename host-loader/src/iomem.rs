//! /proc/iomem: where RAM is, and where `crashkernel=` reserved some of it.
//!
//! Lines are `start-end : name` in hexadecimal, `end` inclusive, nested by two spaces. Whoever
//! lacks CAP_SYS_ADMIN sees zeros for all addresses. Source: `kernel/resource.c`.

use kdraw_format::addr::{PhysAddr, PhysRange};

/// The memory resources of the running kernel.
#[derive(Clone, Debug, Default)]
pub struct IoMem {
    ram: Vec<PhysRange>,
    crash: Vec<PhysRange>,
    hidden: bool,
}

impl IoMem {
    /// Reads the text of /proc/iomem; lines that are none are skipped.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut highest = 0;
        for line in text.lines() {
            let Some((range, name)) = parse_line(line) else {
                continue;
            };
            highest = highest.max(range.end.0);
            match name {
                "System RAM" => found.ram.push(range),
                "Crash kernel" => found.crash.push(range),
                _ => {}
            }
        }
        found.hidden = highest <= 1;
        found
    }

    /// Whether the kernel hid all addresses from us.
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// All System RAM, with the crash regions in it.
    pub fn ram(&self) -> &[PhysRange] {
        &self.ram
    }

    /// Whether a crash region is reserved at all.
    pub fn has_crash_region(&self) -> bool {
        !self.crash.is_empty()
    }

    /// The crash region that kexec_load takes segments in. With `crashkernel=…,high` there are
    /// two, and it is the upper one (`crashk_res`; the lower is `crashk_low_res`).
    pub fn crash_region(&self) -> Option<PhysRange> {
        self.crash
            .iter()
            .copied()
            .max_by_key(|range| range.start)
            .filter(|_| !self.hidden)
    }

    /// The crashed kernel's memory: all System RAM but the crash regions.
    pub fn evidence(&self) -> Vec<PhysRange> {
        let mut ranges = self.ram.clone();
        for hole in &self.crash {
            ranges = ranges
                .into_iter()
                .flat_map(|range| {
                    let below = PhysRange {
                        start: range.start,
                        end: range.end.min(hole.start),
                    };
                    let above = PhysRange {
                        start: range.start.max(hole.end),
                        end: range.end,
                    };
                    [below, above]
                })
                .filter(|range| !range.is_empty())
                .collect();
        }
        ranges
    }
}

fn parse_line(line: &str) -> Option<(PhysRange, &str)> {
    let (range, name) = line.split_once(" : ")?;
    let (start, last) = range.trim().split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let last = u64::from_str_radix(last, 16).ok()?;
    let range = PhysRange {
        start: PhysAddr(start),
        end: PhysAddr(last.checked_add(1)?),
    };
    Some((range, name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange {
            start: PhysAddr(start),
            end: PhysAddr(end),
        }
    }

    #[test]
    fn crash_region_is_cut_out_of_ram() {
        let iomem = IoMem::parse(
            "09000000-09000fff : pl011@9000000\n40000000-7fffffff : System RAM\n  \
             40210000-415fffff : Kernel code\n  7f000000-7f7fffff : Crash kernel\n\
             100000000-13fffffff : System RAM\n  120000000-1207fffff : Crash kernel\n",
        );
        assert!(!iomem.is_hidden());
        let high = range(0x1_2000_0000, 0x1_2080_0000);
        assert_eq!(iomem.crash_region(), Some(high));
        assert_eq!(
            iomem.evidence(),
            [
                range(0x4000_0000, 0x7f00_0000),
                range(0x7f80_0000, 0x8000_0000),
                range(0x1_0000_0000, 0x1_2000_0000),
                range(0x1_2080_0000, 0x1_4000_0000),
            ]
        );
    }

    #[test]
    fn hidden_addresses_and_a_missing_region_are_told_apart() {
        let hidden =
            IoMem::parse("00000000-00000000 : System RAM\n  00000000-00000000 : Crash kernel\n");
        assert!(hidden.is_hidden() && hidden.has_crash_region());
        assert_eq!(hidden.crash_region(), None);
        let none = IoMem::parse("40000000-7fffffff : System RAM\n");
        assert!(!none.is_hidden() && !none.has_crash_region());
    }
}
