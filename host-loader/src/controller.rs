//! From a disk to the controller that the payload has to drive: up the device chain in sysfs to
//! the node of the device tree.
//!
//! `…/platform/a003e00.virtio_mmio/virtio0/block/vda/vda4` has an `of_node` link at the platform
//! device. Behind PCI the function itself mostly has no node; the payload finds it by its
//! address on the host bridge, which has one.

use std::fs;
use std::path::{Path, PathBuf};

use kdraw_format::plan::PciAddress;

use crate::block::BlockDevice;
use crate::system::System;

/// What the payload drives.
const MMIO: &str = "virtio,mmio";
const PCI_HOST: &str = "pci-host-ecam-generic";
/// Vendor and device of virtio-blk: transitional and modern (virtio 1.2, 4.1.2.1).
const PCI_VIRTIO_BLK: [(&str, &str); 2] = [("0x1af4", "0x1001"), ("0x1af4", "0x1042")];

/// Why the payload could not reach a disk.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    /// No ancestor of the disk has a device-tree node.
    #[error(
        "no controller above {disk} has a node in the device tree; \
         kdraw needs a disk on a controller that the device tree names"
    )]
    NoNode {
        /// The disk's folder in sysfs.
        disk: PathBuf,
    },
    /// A controller that the payload has no driver for.
    #[error(
        "the disk's controller {path} is {found}, which the payload cannot drive; \
         it drives {MMIO}, and virtio-blk (1af4:1001, 1af4:1042) behind {PCI_HOST}"
    )]
    NoDriver {
        /// The controller's path in the device tree, or PCI address.
        path: String,
        /// What it is.
        found: String,
    },
}

/// A disk's controller as the plan names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its path in the device tree; behind PCI, its host bridge's.
    pub path: String,
    /// Where it is on PCI.
    pub pci: Option<PciAddress>,
}

impl Controller {
    /// Finds the controller of `device` and checks that the payload has a driver for it.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn of(system: &System, device: &BlockDevice) -> Result<Self, ControllerError> {
        let tree = system.path("/sys/firmware/devicetree/base");
        let tree = fs::canonicalize(&tree).unwrap_or(tree);
        let mut function: Option<(PciAddress, PathBuf)> = None;
        for folder in device.sysfs.ancestors() {
            if function.is_none()
                && subsystem(folder).as_deref() == Some("pci")
                && let Some(address) = pci_address(folder)
            {
                function = Some((address, folder.to_owned()));
            }
            // A function may have a node of its own; the host bridge's is what the payload needs.
            if subsystem(folder).as_deref() == Some("pci") {
                continue;
            }
            let Ok(node) = fs::canonicalize(folder.join("of_node")) else {
                continue;
            };
            let Ok(below) = node.strip_prefix(&tree) else {
                continue;
            };
            let path = format!("/{}", below.display());
            return Self::checked(path, &node, function);
        }
        Err(ControllerError::NoNode {
            disk: device.sysfs.clone(),
        })
    }

    fn checked(
        path: String,
        node: &Path,
        function: Option<(PciAddress, PathBuf)>,
    ) -> Result<Self, ControllerError> {
        let compatible = compatible(node);
        let wanted = if function.is_some() { PCI_HOST } else { MMIO };
        if !compatible.iter().any(|name| name == wanted) {
            let found = format!("{compatible:?}");
            return Err(ControllerError::NoDriver { path, found });
        }
        if let Some((_, folder)) = &function {
            let id = |file| fs::read_to_string(folder.join(file)).unwrap_or_default();
            let (vendor, model) = (id("vendor"), id("device"));
            if !PCI_VIRTIO_BLK.contains(&(vendor.trim(), model.trim())) {
                return Err(ControllerError::NoDriver {
                    path: folder.display().to_string(),
                    found: format!("PCI {}:{}", vendor.trim(), model.trim()),
                });
            }
        }
        Ok(Self {
            path,
            pci: function.map(|(address, _)| address),
        })
    }
}

/// The strings of a node's `compatible`.
fn compatible(node: &Path) -> Vec<String> {
    let bytes = fs::read(node.join("compatible")).unwrap_or_default();
    bytes
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// The name of the bus that a device is on.
fn subsystem(folder: &Path) -> Option<String> {
    let link = fs::read_link(folder.join("subsystem")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Reads `domain:bus:device.function`; the domain is what the host bridge stands for.
fn pci_address(folder: &Path) -> Option<PciAddress> {
    let name = folder.file_name()?.to_str()?;
    let mut parts = name.split([':', '.']).skip(1);
    let mut number = || u8::from_str_radix(parts.next()?, 16).ok();
    Some(PciAddress {
        bus: number()?,
        device: number()?,
        function: number()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A disk below `chain`, whose first folder has the node `node` of the device tree.
    fn resolve(
        chain: &[(&str, Option<&str>)],
        compatible: &str,
        ids: [&str; 2],
    ) -> Result<Controller, ControllerError> {
        let root = tempfile::tempdir().unwrap();
        let node = root
            .path()
            .join("sys/firmware/devicetree/base/soc/ctl@1000");
        fs::create_dir_all(&node).unwrap();
        fs::write(node.join("compatible"), compatible).unwrap();
        let mut folder = root.path().join("sys/devices");
        for (depth, (name, bus)) in chain.iter().enumerate() {
            folder.push(name);
            fs::create_dir_all(&folder).unwrap();
            if depth == 0 {
                symlink(&node, folder.join("of_node")).unwrap();
            }
            if let Some(bus) = bus {
                symlink(format!("/sys/bus/{bus}"), folder.join("subsystem")).unwrap();
            }
            fs::write(folder.join("vendor"), ids[0]).unwrap();
            fs::write(folder.join("device"), ids[1]).unwrap();
        }
        let device = BlockDevice {
            name: "vda4".into(),
            sysfs: fs::canonicalize(&folder).unwrap(),
            partition: Some(4),
            start: 0,
            len: 0,
            numbers: "254:4".into(),
        };
        Controller::of(&System::new(root.path()), &device)
    }

    const MMIO_CHAIN: [(&str, Option<&str>); 4] = [
        ("a003e00.virtio_mmio", Some("platform")),
        ("virtio0", Some("virtio")),
        ("vda", None),
        ("vda4", None),
    ];
    const PCI_CHAIN: [(&str, Option<&str>); 5] = [
        ("10000000.pcie", Some("platform")),
        ("pci0000:00", None),
        ("0000:00:01.0", Some("pci")),
        ("0000:01:1f.2", Some("pci")),
        ("virtio1", Some("virtio")),
    ];

    #[test]
    fn controllers_the_payload_drives_are_found() {
        let path = "/soc/ctl@1000".to_owned();
        assert_eq!(
            resolve(&MMIO_CHAIN, "virtio,mmio\0", ["", ""]),
            Ok(Controller {
                path: path.clone(),
                pci: None
            })
        );
        let pci = Some(PciAddress {
            bus: 1,
            device: 31,
            function: 2,
        });
        assert_eq!(
            resolve(
                &PCI_CHAIN,
                "x\0pci-host-ecam-generic\0",
                ["0x1af4\n", "0x1042\n"]
            ),
            Ok(Controller { path, pci })
        );
    }

    #[test]
    fn others_are_refused() {
        for (chain, compatible, ids) in [
            (&MMIO_CHAIN[..], "arasan,sdhci-8.9a\0", ["", ""]),
            (&PCI_CHAIN[..], "brcm,bcm2711-pcie\0", ["0x1af4", "0x1042"]),
            (
                &PCI_CHAIN[..],
                "pci-host-ecam-generic\0",
                ["0x1b36", "0x0010"],
            ),
        ] {
            let found = resolve(chain, compatible, ids);
            assert!(
                matches!(found, Err(ControllerError::NoDriver { .. })),
                "{found:?}"
            );
        }
        let root = tempfile::tempdir().unwrap();
        let device = BlockDevice {
            name: "sda".into(),
            sysfs: root.path().join("usb1"),
            partition: None,
            start: 0,
            len: 0,
            numbers: "8:0".into(),
        };
        let found = Controller::of(&System::new(root.path()), &device);
        assert!(matches!(found, Err(ControllerError::NoNode { .. })));
    }
}
