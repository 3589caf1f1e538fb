//! Watchdogs: compatible strings and the driver of each.
//!
//! Source: the bindings of Linux, `watchdog/*.yaml` and `soc/bcm/brcm,bcm2835-pm.yaml`, and which
//! of their strings its drivers match: `drivers/watchdog/*.c`, `drivers/mfd/bcm2835-pm.c`.

use crate::family::lookup;

/// A watchdog that the payload has a driver for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogKind {
    /// The power management block of the BCM2835 and its descendants.
    Bcm2835,
    /// Synopsys DesignWare.
    DesignWare,
    /// NXP i.MX and Layerscape.
    Imx,
    /// TI's real time interrupt module.
    Rti,
    /// Cadence.
    Cadence,
    /// Allwinner, from the A31 on.
    Sunxi,
    /// Amlogic, from GXBB on.
    Meson,
    /// Arm's generic one: a control frame and a refresh frame.
    Sbsa,
    /// Arm SP805.
    Sp805,
}

/// The watchdogs of boards of any family.
pub const WATCHDOGS: &[(&str, WatchdogKind)] = &[
    ("brcm,bcm2835-pm", WatchdogKind::Bcm2835),
    ("brcm,bcm2835-pm-wdt", WatchdogKind::Bcm2835),
    ("brcm,bcm2711-pm", WatchdogKind::Bcm2835),
    ("brcm,bcm2712-pm", WatchdogKind::Bcm2835),
    ("snps,dw-wdt", WatchdogKind::DesignWare),
    ("fsl,imx21-wdt", WatchdogKind::Imx),
    ("ti,j7-rti-wdt", WatchdogKind::Rti),
    ("cdns,wdt-r1p2", WatchdogKind::Cadence),
    ("allwinner,sun6i-a31-wdt", WatchdogKind::Sunxi),
    ("amlogic,meson-gxbb-wdt", WatchdogKind::Meson),
    ("amlogic,t7-wdt", WatchdogKind::Meson),
    ("arm,sbsa-gwdt", WatchdogKind::Sbsa),
    ("arm,sp805", WatchdogKind::Sp805),
];

/// Finds the driver for a watchdog by one of its compatible strings.
///
/// `kdraw load` asks this too, so as to warn of a running one that the payload cannot pet.
pub fn watchdog_kind(compatible: &str) -> Option<WatchdogKind> {
    lookup(WATCHDOGS, compatible)
}
