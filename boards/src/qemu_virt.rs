//! QEMU's `-M virt`, and the virtual machines that describe themselves like it.
//!
//! Source: QEMU `hw/arm/virt.c`, which builds the device tree; the bindings
//! `virtio/mmio.yaml`, `pci/host-generic-pci.yaml` and `serial/pl011.yaml` of Linux.

use crate::family::{ConsoleKind, ControllerKind, Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "QEMU virt",
    tier: Tier::Emulated,
    boards: &["linux,dummy-virt"],
    controllers: &[
        ("virtio,mmio", ControllerKind::VirtioMmio),
        ("pci-host-ecam-generic", ControllerKind::PciHostEcam),
    ],
    consoles: &[("arm,pl011", ConsoleKind::Pl011)],
};
