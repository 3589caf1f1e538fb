//! Amlogic: GXBB, GXL, GXM, AXG, G12A, G12B, SM1.
//!
//! - Storage: Amlogic's own host (`amlogic,meson-gx-mmc`, `amlogic,meson-axg-mmc`).
//! - Console: Meson UART of the always-on domain. Watchdog: `amlogic,meson-gxbb-wdt`. Reset: PSCI.
//!   CPUs: PSCI.
//!
//! Source: Linux arch/arm64/boot/dts/amlogic.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "Amlogic GXBB to SM1",
    tier: Tier::Modelled,
    boards: &[
        "amlogic,meson-gxbb",
        "amlogic,meson-gxl",
        "amlogic,meson-gxlx",
        "amlogic,meson-gxm",
        "amlogic,meson-axg",
        "amlogic,g12a",
        "amlogic,g12b",
        "amlogic,sm1",
    ],
    controllers: &[],
    consoles: &[],
};
