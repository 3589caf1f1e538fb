//! SD host controllers, standard and others: which compatible string is whose.
//!
//! Like standard hosts, whose table is in [`sdhci`], the others are on boards of several families.
//!
//! Sources: the bindings below `mmc/` of Linux, `drivers/mmc/host/dw_mmc*.c`,
//! `sunxi-mmc.c`, `meson-gx-mmc.c` and `sdhci-esdhc-imx.c`.

use crate::family::lookup;
use crate::sdhci::{self, SdhciQuirks};

/// Whose host controller it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SdKind {
    /// Standard, with these quirks.
    Sdhci(SdhciQuirks),
    /// NXP's uSDHC.
    Usdhc,
    /// Synopsys' DesignWare mobile storage host.
    DwMmc,
    /// Allwinner's, from sun6i on.
    Sunxi,
    /// Amlogic's.
    MesonGx {
        /// Whether it is version 3 of the register map.
        version_3: bool,
    },
}

const MESON_2: SdKind = SdKind::MesonGx { version_3: false };
const MESON_3: SdKind = SdKind::MesonGx { version_3: true };

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
    ("fsl,imx6q-usdhc", SdKind::Usdhc),
    ("fsl,imx6sl-usdhc", SdKind::Usdhc),
    ("fsl,imx6sx-usdhc", SdKind::Usdhc),
    ("fsl,imx6ull-usdhc", SdKind::Usdhc),
    ("fsl,imx7d-usdhc", SdKind::Usdhc),
    ("fsl,imx7ulp-usdhc", SdKind::Usdhc),
    ("fsl,imx8qxp-usdhc", SdKind::Usdhc),
    ("fsl,imx8mm-usdhc", SdKind::Usdhc),
    ("nxp,s32g2-usdhc", SdKind::Usdhc),
    ("amlogic,meson-gx-mmc", MESON_2),
    ("amlogic,meson-gxbb-mmc", MESON_2),
    ("amlogic,meson-gxl-mmc", MESON_2),
    ("amlogic,meson-gxm-mmc", MESON_2),
    ("amlogic,meson-axg-mmc", MESON_3),
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
