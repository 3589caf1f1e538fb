//! NVIDIA Tegra210: Jetson Nano and TX1.
//!
//! - Storage: a standard SD host whose clock comes from the clock tree, so that the card can only be
//!   used as Linux left it.
//! - Console: 8250, registers 4 bytes apart. Watchdog: none that has a driver. Reset: PSCI.
//!   CPUs: PSCI.
//!
//! Source: Linux arch/arm64/boot/dts/nvidia and drivers/mmc/host/sdhci-tegra.c.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "NVIDIA Tegra210",
    tier: Tier::Modelled,
    boards: &["nvidia,tegra210"],
    controllers: &[],
    consoles: &[],
};
