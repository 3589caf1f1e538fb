//! Raspberry Pi 3, 4 and 5.
//!
//! - Storage: the 4's and 5's card slot is a standard SD host (`brcm,bcm2711-emmc2`,
//!   `brcm,bcm2712-sdhci`). The 3's is on a controller of its own (`brcm,bcm2835-sdhost`), for which
//!   there is no driver; the firmware's overlay `mmc` gives it to the SDHCI one.
//! - Console: PL011 (5) or the mini-UART (3 and 4, unless Bluetooth was moved there), whose speed
//!   follows the core clock.
//! - Reset and watchdog: the power management block. The 5 has PSCI, too.
//! - CPUs: spin tables on the 3 and 4, which the payload leaves alone, so it has one CPU there.
//! - DMA: the 4's first steppings see memory elsewhere than the CPU (`dma-ranges` of emmc2bus).
//!
//! Source: Linux arch/arm64/boot/dts/broadcom and drivers/mmc/host/sdhci-iproc.c, sdhci-brcmstb.c.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "Raspberry Pi 3, 4, 5",
    tier: Tier::Emulated,
    boards: &["brcm,bcm2837", "brcm,bcm2711", "brcm,bcm2712"],
    controllers: &[],
    consoles: &[],
};
