//! How much a machine should reserve.

use kdraw_format::addr::PhysRange;
use kdraw_format::working_memory::memory_needed;

use crate::iomem::IoMem;
use crate::load::segments::{KERNEL_PAGES, MAX_TOTAL};
use crate::system::System;

/// What suits nearly every machine, in bytes: up to 64 GiB of memory.
pub const USUAL: u64 = 8 << 20;
/// Less never works, in bytes.
pub const LEAST: u64 = 4 << 20;
/// What Linux aligns the region to on arm64, in bytes (`CRASH_ALIGN`).
const STEP: u64 = 2 << 20;

/// The machine's memory in bytes, as far as it tells: without root, what Linux has of it.
pub fn ram(system: &System) -> Option<u64> {
    let iomem = IoMem::parse(&system.text("/proc/iomem").unwrap_or_default());
    let sum = |ranges: &[PhysRange]| ranges.iter().map(PhysRange::len).sum();
    let all: u64 = sum(iomem.ram());
    if !iomem.is_hidden() && all > 0 {
        return Some(all);
    }
    let meminfo = system.text("/proc/meminfo").ok()?;
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// What to reserve on a machine with `ram` bytes, in bytes.
pub fn for_ram(ram: u64) -> u64 {
    let need = memory_needed(1, ram).least;
    let need = need.saturating_add(MAX_TOTAL).saturating_add(KERNEL_PAGES);
    need.checked_next_multiple_of(STEP)
        .unwrap_or(need)
        .max(USUAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_mib_do_up_to_64_gib() {
        for (gib, mib) in [(1, 8), (64, 8), (256, 14), (1024, 38)] {
            assert_eq!(for_ram(gib << 30) >> 20, mib, "{gib} GiB");
        }
    }

    #[test]
    fn memory_is_told_with_and_without_root() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            std::fs::create_dir_all(folder.path().join("proc")).unwrap();
            std::fs::write(folder.path().join("proc").join(name), text).unwrap();
        };
        let system = System::new(folder.path());
        assert_eq!(ram(&system), None);
        put("meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\n");
        put("iomem", "00000000-00000000 : System RAM\n");
        assert_eq!(ram(&system), Some(1_024_000));
        put(
            "iomem",
            "40000000-7fffffff : System RAM\n  7f000000-7f7fffff : Crash kernel\n",
        );
        assert_eq!(ram(&system), Some(1 << 30));
    }
}
