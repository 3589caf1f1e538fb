//! Allwinner: A64, H5, H6, H616 and what is like it.
//!
//! - Storage: Allwinner's own host (`allwinner,sun50i-a64-mmc` and its like).
//! - Console: 8250 (`snps,dw-apb-uart`). Watchdog: `allwinner,sun6i-a31-wdt`. Reset: PSCI.
//!   CPUs: PSCI.
//!
//! Source: Linux arch/arm64/boot/dts/allwinner.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "Allwinner A64, H5, H6, H616",
    tier: Tier::Modelled,
    boards: &[
        "allwinner,sun50i-a64",
        "allwinner,sun50i-h5",
        "allwinner,sun50i-h6",
        "allwinner,sun50i-h616",
        "allwinner,sun50i-h618",
        "allwinner,sun50i-h700",
    ],
    controllers: &[],
    consoles: &[],
};
