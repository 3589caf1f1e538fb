//! NXP i.MX8M, i.MX8, i.MX9.
//!
//! - Storage: uSDHC.
//! - Console: i.MX UART (8M) or LPUART (8, 9).
//! - Watchdog: `fsl,imx21-wdt` (8M), which may reset the board by a pin. Reset: PSCI. CPUs: PSCI.
//!
//! Source: Linux arch/arm64/boot/dts/freescale.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "NXP i.MX8, i.MX9",
    tier: Tier::Emulated,
    boards: &[
        "fsl,imx8mm",
        "fsl,imx8mn",
        "fsl,imx8mp",
        "fsl,imx8mq",
        "fsl,imx8dx",
        "fsl,imx8dxl",
        "fsl,imx8dxp",
        "fsl,imx8qm",
        "fsl,imx8qxp",
        "fsl,imx8ulp",
        "fsl,imx93",
        "fsl,imx95",
    ],
    controllers: &[],
    consoles: &[],
};
