//! UARTs that many families share: compatible strings and the driver of each.
//!
//! Source: the bindings of Linux, `serial/*.yaml`, and which of its strings its drivers match:
//! `8250/8250_of.c`, `8250/8250_dw.c`, `8250/8250_omap.c`, `8250/8250_bcm2835aux.c`, `imx.c`,
//! `meson_uart.c`, `xilinx_uartps.c`, `fsl_lpuart.c`, `mvebu-uart.c`, `msm_serial.c`,
//! `qcom_geni_serial.c`.

use crate::family::ConsoleKind;

/// The UARTs of boards of any family.
pub const UARTS: &[(&str, ConsoleKind)] = &[
    ("arm,pl011", ConsoleKind::Pl011),
    ("ns16550a", ConsoleKind::Ns16550),
    ("ns16550", ConsoleKind::Ns16550),
    ("ns8250", ConsoleKind::Ns16550),
    ("snps,dw-apb-uart", ConsoleKind::Ns16550),
    ("marvell,armada-38x-uart", ConsoleKind::Ns16550),
    ("nvidia,tegra20-uart", ConsoleKind::Ns16550),
    ("ti,am654-uart", ConsoleKind::Ns16550Wide),
    ("ti,am64-uart", ConsoleKind::Ns16550Wide),
    ("brcm,bcm2835-aux-uart", ConsoleKind::MiniUart),
    ("fsl,imx6q-uart", ConsoleKind::Imx),
    ("fsl,imx21-uart", ConsoleKind::Imx),
    ("amlogic,meson-gx-uart", ConsoleKind::Meson),
    ("amlogic,meson-uart", ConsoleKind::Meson),
    ("cdns,uart-r1p8", ConsoleKind::Cadence),
    ("cdns,uart-r1p12", ConsoleKind::Cadence),
    ("xlnx,xuartps", ConsoleKind::Cadence),
    ("fsl,imx7ulp-lpuart", ConsoleKind::Lpuart),
    ("fsl,imx8qxp-lpuart", ConsoleKind::Lpuart),
    ("marvell,armada-3700-uart", ConsoleKind::Mvebu),
    ("qcom,msm-uartdm-v1.4", ConsoleKind::UartDm),
    ("qcom,geni-debug-uart", ConsoleKind::Geni),
    ("qcom,geni-uart", ConsoleKind::Geni),
];
