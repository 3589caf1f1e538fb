//! Rockchip: RK3328, RK3399, RK3566/68, RK3588.
//!
//! - Storage: eMMC on SDHCI (Arasan's in the RK3399, DWC MSHC from the RK3568 on, whose clock comes
//!   from the clock tree); SD on dw_mmc; the RK3328 has dw_mmc for both.
//! - Console: 8250 (`snps,dw-apb-uart`), mostly at 1,500,000 baud.
//! - Watchdog: DesignWare. Reset: PSCI. CPUs: PSCI.
//! - PCI: configuration space behind a window of its own, so no NVMe.
//!
//! Source: Linux arch/arm64/boot/dts/rockchip and drivers/mmc/host/sdhci-of-arasan.c,
//! sdhci-of-dwcmshc.c.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "Rockchip RK3328, RK3399, RK3566/68, RK3588",
    tier: Tier::Modelled,
    boards: &[
        "rockchip,rk3328",
        "rockchip,rk3399",
        "rockchip,rk3399pro",
        "rockchip,rk3566",
        "rockchip,rk3568",
        "rockchip,rk3588",
        "rockchip,rk3588s",
    ],
    controllers: &[],
    consoles: &[],
};
