//! The watchdog that QEMU can add to a machine: Intel's 6300ESB on PCI, running at 10 s.
//!
//! Linux starts it. In the machine of a further capture, which no kernel has booted, the harness
//! does what PCI enumeration and Linux's driver do.
//!
//! Sources: QEMU `hw/watchdog/wdt_i6300esb.c`, `hw/arm/virt.c`; Linux `drivers/watchdog/i6300esb.c`.

use anyhow::Result;
use kdraw_format::plan::PciAddress;

use crate::qemu::Qemu;

/// Starts the watchdog, and a daemon that pets it as long as the kernel lives.
pub const WATCHED: &str = "must watchdog watchdog -t 1 -T 10 /dev/watchdog\n\
    until grep -qs '^active' /sys/class/watchdog/watchdog0/state; do sleep 0.1; done\n";
/// Linux's module for it.
pub const MODULE: &str = "i6300esb";
/// The payload says this of it.
pub const RUNS: &str = "kdraw: watchdog at /pcie@10000000 runs, 10 s";

/// The configuration space of `virt`'s PCI (VIRT_HIGH_PCIE_ECAM), and where its window of 32-bit
/// addresses begins (VIRT_PCIE_MMIO).
const ECAM: u64 = 0x40_1000_0000;
const WINDOW: u32 = 0x1000_0000;

// Configuration space.
const COMMAND: u64 = 0x04;
const BAR: u64 = 0x10;
const CONFIG: u64 = 0x60;
const LOCK: u64 = 0x68;

/// Starts it in a machine that stands still; the machine runs on after that.
pub fn start(qemu: &Qemu, pci: PciAddress) -> Result<()> {
    let function = u64::from(pci.bus) << 20 | u64::from(pci.device) << 15;
    let config = ECAM | function | u64::from(pci.function) << 12;
    // One of its two timers counts 5 s in units of 1/1024 s; each write needs the keys before it.
    let timer = 5_u32 << 10;
    let registers = u64::from(WINDOW);
    let timers = [registers, registers + 4].map(|at| {
        let keys = [0x80_u8, 0x86].map(|key| (registers + 0xc, vec![key]));
        keys.into_iter().chain([(at, timer.to_le_bytes().to_vec())])
    });
    let mut writes = vec![
        (config | BAR, WINDOW.to_le_bytes().to_vec()),
        (config | COMMAND, 2_u16.to_le_bytes().to_vec()),
        // No interrupt between the two; the end of the second resets.
        (config | CONFIG, 3_u16.to_le_bytes().to_vec()),
    ];
    writes.extend(timers.into_iter().flatten());
    // Enabled.
    writes.push((config | LOCK, vec![2]));
    qemu.write(writes.iter().map(|(at, bytes)| (*at, bytes.as_slice())))
}
