//! TI K3: AM62, AM64, AM65 and the J7.
//!
//! - Storage: standard SD hosts (`ti,am62-sdhci` and its like), 8 bits for eMMC, 4 for SD.
//! - Console: 8250 of OMAP's kind, 32-bit registers 4 bytes apart.
//! - Watchdog: RTI, which cannot be stopped. Reset: PSCI, by the device management firmware.
//!   CPUs: PSCI.
//!
//! Source: Linux arch/arm64/boot/dts/ti and drivers/mmc/host/sdhci_am654.c.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "TI AM62, AM64, AM65, J7",
    tier: Tier::Modelled,
    boards: &[
        "ti,am625",
        "ti,am62a7",
        "ti,am62p5",
        "ti,am642",
        "ti,am654",
        "ti,j722s",
        "ti,j721s2",
        "ti,j784s4",
        "ti,j7200",
        "ti,j721e",
    ],
    controllers: &[],
    consoles: &[],
};
