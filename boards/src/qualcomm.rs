//! Qualcomm: the SoCs whose boards have SD or eMMC.
//!
//! - Storage: `qcom,sdhci-msm-v4`, `-v5`: a standard SD host whose clock comes from the clock tree,
//!   so that the card can only be used as Linux left it. UFS has no driver.
//! - Console: UARTDM or GENI; the payload sends on them and receives nothing.
//! - Watchdog: none that has a driver. Reset: PSCI. CPUs: PSCI.
//! - DMA: behind an IOMMU on most; the host is driven without DMA there.
//!
//! Source: Linux arch/arm64/boot/dts/qcom and drivers/mmc/host/sdhci-msm.c.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "Qualcomm Snapdragon",
    tier: Tier::Modelled,
    boards: &[
        "qcom,apq8016",
        "qcom,msm8916",
        "qcom,apq8096",
        "qcom,msm8996",
        "qcom,msm8998",
        "qcom,qcs404",
        "qcom,qcm2290",
        "qcom,sc7180",
        "qcom,sc7280",
        "qcom,sdm845",
        "qcom,sm8250",
    ],
    controllers: &[],
    consoles: &[],
};
