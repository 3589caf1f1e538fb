//! SD host controllers, standard and others: which compatible string is whose.
//!
//! Like standard hosts, whose table is in [`sdhci`], the others are on boards of several families.
//!
//! Sources: the bindings below `mmc/` of Linux, `drivers/mmc/host/dw_mmc*.c` and `sunxi-mmc.c`.

use crate::family::lookup;
use crate::sdhci::{self, SdhciQuirks};

/// Whose host controller it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SdKind {
    /// Standard, with these quirks.
    Sdhci(SdhciQuirks),
    /// Synopsys' DesignWare mobile storage host.
    DwMmc,
    /// Allwinner's, from sun6i on.
    Sunxi,
}

impl SdKind {
    /// Whether every one does high speed and the tree need not say so.
    pub const fn always_high_speed(self) -> bool {
        matches!(self, Self::Sunxi)
    }
}

/// Compatible strings of hosts that are not standard. Only those whose card clock is made as the
/// driver thinks; what else is called DesignWare has a divider of its own before it (Exynos) or
/// clock phases inside (RK3576).
const OTHERS: &[(&str, SdKind)] = &[
    ("rockchip,rk2928-dw-mshc", SdKind::DwMmc),
    ("rockchip,rk3288-dw-mshc", SdKind::DwMmc),
    ("snps,dw-mshc", SdKind::DwMmc),
    ("altr,socfpga-dw-mshc", SdKind::DwMmc),
    ("hisilicon,hi3660-dw-mshc", SdKind::DwMmc),
    ("hisilicon,hi6220-dw-mshc", SdKind::DwMmc),
    ("allwinner,sun50i-a64-mmc", SdKind::Sunxi),
    ("allwinner,sun50i-a64-emmc", SdKind::Sunxi),
    ("allwinner,sun50i-a100-mmc", SdKind::Sunxi),
    ("allwinner,sun50i-a100-emmc", SdKind::Sunxi),
    ("allwinner,sun20i-d1-mmc", SdKind::Sunxi),
];

/// Whose controller goes by this compatible string.
pub(crate) fn kind(compatible: &str) -> Option<SdKind> {
    let standard = lookup(sdhci::CONTROLLERS, compatible).map(SdKind::Sdhci);
    standard.or_else(|| lookup(OTHERS, compatible))
}
