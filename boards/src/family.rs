//! Board families: which compatible string means which of our drivers.
//!
//! A driver is chosen by the device's own `compatible` strings, not by the board's: a family
//! lists what its boards carry, and every family's list is searched. So a new board with known
//! devices works before anybody has listed it, at no promised tier. What many families have stands
//! in tables of its own: [`crate::sd`], [`crate::uarts`], [`crate::watchdogs`].

use crate::sd::{self, SdKind};
use crate::{
    allwinner, amlogic, arm_reference, imx, marvell, qemu_virt, qualcomm, raspberry_pi, rockchip,
    tegra, ti_k3, uarts, zynqmp,
};

/// A storage controller that the payload has a driver for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// A virtio device behind memory-mapped registers.
    VirtioMmio,
    /// A PCI host bridge with the generic ECAM configuration space; the disk is behind it.
    PciHostEcam,
    /// An SD host controller.
    Sd(SdKind),
}

/// A UART that the payload has a driver for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    /// Arm PrimeCell PL011.
    Pl011,
    /// 8250, 16550 and what is compatible: where the registers lie, the node says.
    Ns16550,
    /// An 8250 whose registers are 32 bits wide and 4 bytes apart, whatever the node says.
    Ns16550Wide,
    /// The mini-UART of the BCM2835.
    MiniUart,
    /// NXP i.MX.
    Imx,
    /// Amlogic Meson.
    Meson,
    /// Cadence, of Zynq and ZynqMP.
    Cadence,
    /// NXP's low power UART of the i.MX, 32 bits wide.
    Lpuart,
    /// Marvell's of the Armada 3700.
    Mvebu,
    /// Qualcomm's UARTDM, which only sends.
    UartDm,
    /// Qualcomm's GENI, which only sends.
    Geni,
}

/// How well a family is known to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Captures are made under QEMU by the test suite.
    Emulated,
    /// The drivers of its devices are tested against fakes of their registers.
    Modelled,
    /// What it has is known; for its storage there is no driver.
    Described,
}

/// A family of boards and the devices it brings.
#[derive(Debug)]
pub struct Family {
    /// What people call it.
    pub name: &'static str,
    /// How well it is known to work.
    pub tier: Tier,
    /// The root node's compatible strings that tell its boards: mostly the SoC's.
    pub boards: &'static [&'static str],
    /// Compatible strings of storage controllers that no other family has.
    pub controllers: &'static [(&'static str, ControllerKind)],
    /// Compatible strings of UARTs that no other family has.
    pub consoles: &'static [(&'static str, ConsoleKind)],
}

/// Every family, in the order of the README's table.
pub const FAMILIES: &[&Family] = &[
    &qemu_virt::FAMILY,
    &raspberry_pi::FAMILY,
    &rockchip::FAMILY,
    &imx::FAMILY,
    &ti_k3::FAMILY,
    &zynqmp::FAMILY,
    &allwinner::FAMILY,
    &amlogic::FAMILY,
    &marvell::FAMILY,
    &qualcomm::FAMILY,
    &tegra::FAMILY,
    &arm_reference::FAMILY,
];

/// Finds the driver for a storage controller by one of its compatible strings.
///
/// `kdraw load` asks this too, so as to refuse early a target that the payload cannot drive.
pub fn controller_kind(compatible: &str) -> Option<ControllerKind> {
    let of_family = FAMILIES
        .iter()
        .find_map(|family| lookup(family.controllers, compatible));
    of_family.or_else(|| sd::kind(compatible).map(ControllerKind::Sd))
}

/// Finds the driver for a UART by one of its compatible strings.
pub fn console_kind(compatible: &str) -> Option<ConsoleKind> {
    let of_families = FAMILIES
        .iter()
        .find_map(|family| lookup(family.consoles, compatible));
    of_families.or_else(|| lookup(uarts::UARTS, compatible))
}

/// Finds the family of a board by one of its root node's compatible strings.
pub fn family(compatible: &str) -> Option<&'static Family> {
    FAMILIES
        .iter()
        .copied()
        .find(|family| family.boards.contains(&compatible))
}

pub(crate) fn lookup<T: Copy>(table: &[(&str, T)], compatible: &str) -> Option<T> {
    table
        .iter()
        .find(|(name, _)| *name == compatible)
        .map(|(_, kind)| *kind)
}
