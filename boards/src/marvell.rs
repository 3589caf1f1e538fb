//! Marvell: Armada 3700, 7K, 8K, CN913x.
//!
//! - Storage: Xenon, a standard SD host with several slots of which Linux uses one. The PHY stays
//!   as Linux left it.
//! - Console: a UART of its own (3700), 8250 (others). Watchdog: none that has a driver on the
//!   3700, Arm's generic one on the others. Reset: PSCI. CPUs: PSCI.
//!
//! Source: Linux arch/arm64/boot/dts/marvell and drivers/mmc/host/sdhci-xenon.c.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "Marvell Armada 3700, 7K, 8K, CN913x",
    tier: Tier::Modelled,
    boards: &[
        "marvell,armada3700",
        "marvell,armada3710",
        "marvell,armada3720",
        "marvell,armada-ap806",
        "marvell,armada-ap806-quad",
        "marvell,armada-ap807",
        "marvell,armada-ap807-quad",
        "marvell,cn9130",
    ],
    controllers: &[],
    consoles: &[],
};
