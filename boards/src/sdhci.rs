//! Controllers that are standard SD hosts, and what each must not be believed about.
//!
//! They are on boards of every family, and differ by a few facts only, so they stand in one table
//! of their own. What is not here though it is called SDHCI has registers of another layout: NXP's
//! eSDHC and uSDHC, Cadence's SD4HC.
//!
//! Sources: the bindings below `mmc/` of Linux, and the quirks of `drivers/mmc/host/sdhci-*.c`.

/// What a controller must not be believed about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SdhciQuirks {
    /// The base clock in its capabilities is wrong; the clock tree would say.
    pub unknown_base_clock: bool,
    /// The card's clock comes from the clock tree at its final rate, not from the standard
    /// divider: it cannot be changed, and a card only be used as Linux left it.
    pub foreign_clock: bool,
    /// The capabilities speak of DMA that is not there or does not work.
    pub no_dma: bool,
    /// The high speed bit does harm.
    pub no_high_speed: bool,
}

const PLAIN: SdhciQuirks = SdhciQuirks {
    unknown_base_clock: false,
    foreign_clock: false,
    no_dma: false,
    no_high_speed: false,
};
const UNKNOWN_BASE: SdhciQuirks = SdhciQuirks {
    unknown_base_clock: true,
    ..PLAIN
};
const NO_HIGH_SPEED: SdhciQuirks = SdhciQuirks {
    no_high_speed: true,
    ..PLAIN
};
const FOREIGN_CLOCK: SdhciQuirks = SdhciQuirks {
    foreign_clock: true,
    ..PLAIN
};
/// The Raspberry Pi's Arasan of before BCM2711: no DMA of its own, no capabilities to speak of.
const BCM2835: SdhciQuirks = SdhciQuirks {
    no_dma: true,
    no_high_speed: true,
    ..UNKNOWN_BASE
};

/// Compatible strings and their quirks.
pub const CONTROLLERS: &[(&str, SdhciQuirks)] = &[
    // sdhci-of-arasan.c.
    ("arasan,sdhci-8.9a", UNKNOWN_BASE),
    ("arasan,sdhci-5.1", UNKNOWN_BASE),
    ("arasan,sdhci-4.9a", UNKNOWN_BASE),
    ("rockchip,rk3399-sdhci-5.1", UNKNOWN_BASE),
    ("xlnx,zynqmp-8.9a", UNKNOWN_BASE),
    ("xlnx,versal-8.9a", UNKNOWN_BASE),
    ("intel,keembay-sdhci-5.1-emmc", UNKNOWN_BASE),
    ("intel,keembay-sdhci-5.1-sd", UNKNOWN_BASE),
    // sdhci-iproc.c.
    ("brcm,bcm2711-emmc2", PLAIN),
    ("brcm,bcm2835-sdhci", BCM2835),
    ("brcm,bcm2835-mmc", BCM2835),
    ("brcm,sdhci-iproc", NO_HIGH_SPEED),
    ("brcm,sdhci-iproc-cygnus", NO_HIGH_SPEED),
    // sdhci-brcmstb.c.
    ("brcm,bcm2712-sdhci", PLAIN),
    ("brcm,bcm7216-sdhci", PLAIN),
    ("brcm,bcm7445-sdhci", PLAIN),
    // sdhci-of-dwcmshc.c; Rockchip's is fed at the card's rate by the clock tree.
    ("snps,dwcmshc-sdhci", UNKNOWN_BASE),
    ("rockchip,rk3568-dwcmshc", FOREIGN_CLOCK),
    ("rockchip,rk3576-dwcmshc", FOREIGN_CLOCK),
    ("rockchip,rk3588-dwcmshc", FOREIGN_CLOCK),
    // sdhci_am654.c.
    ("ti,am654-sdhci-5.1", NO_HIGH_SPEED),
    ("ti,j721e-sdhci-8bit", NO_HIGH_SPEED),
    ("ti,j721e-sdhci-4bit", NO_HIGH_SPEED),
    ("ti,am64-sdhci-8bit", NO_HIGH_SPEED),
    ("ti,am64-sdhci-4bit", NO_HIGH_SPEED),
    ("ti,am62-sdhci", NO_HIGH_SPEED),
    // sdhci-xenon.c.
    ("marvell,armada-3700-sdhci", UNKNOWN_BASE),
    ("marvell,armada-ap806-sdhci", UNKNOWN_BASE),
    ("marvell,armada-ap807-sdhci", UNKNOWN_BASE),
    ("marvell,armada-cp110-sdhci", UNKNOWN_BASE),
    // sdhci-tegra.c, sdhci-msm.c: the clock tree sets the rate.
    ("nvidia,tegra124-sdhci", FOREIGN_CLOCK),
    ("nvidia,tegra210-sdhci", FOREIGN_CLOCK),
    ("nvidia,tegra186-sdhci", FOREIGN_CLOCK),
    ("nvidia,tegra194-sdhci", FOREIGN_CLOCK),
    ("qcom,sdhci-msm-v4", FOREIGN_CLOCK),
    ("qcom,sdhci-msm-v5", FOREIGN_CLOCK),
    // sdhci-npcm.c.
    ("nuvoton,npcm845-sdhci", PLAIN),
];
