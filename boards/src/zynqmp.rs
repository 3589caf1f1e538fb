//! Xilinx Zynq UltraScale+ MPSoC.
//!
//! - Storage: Arasan's SDHCI, which does not know its base clock.
//! - Console: Cadence UART. Watchdog: Cadence. Reset: PSCI. CPUs: PSCI.
//!
//! Source: Linux arch/arm64/boot/dts/xilinx and drivers/mmc/host/sdhci-of-arasan.c.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "Xilinx ZynqMP",
    tier: Tier::Emulated,
    boards: &["xlnx,zynqmp"],
    controllers: &[],
    consoles: &[],
};
