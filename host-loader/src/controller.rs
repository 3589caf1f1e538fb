//! From a disk to the controller that the payload has to drive: up the device chain in sysfs to
//! the node of the device tree.
//!
//! `…/platform/a003e00.virtio_mmio/virtio0/block/vda/vda4` has an `of_node` link at the platform
//! device. Behind PCI the function itself mostly has no node; the payload finds it by its
//! address on the host bridge, which has one.
//!
//! A namespace of an NVMe subsystem that could have several controllers lies apart from all of
//! them, `…/virtual/nvme-subsystem/nvme-subsys0/nvme0n1`: there the way goes over the namespace
//! as one controller sees it, `…/nvme0/nvme0c0n1` (Linux drivers/nvme/host/multipath.c). Nothing
//! has to be held out of runtime suspend for NVMe: the driver never lets go of the use count with
//! which the PCI core probes it (Linux drivers/pci/pci-driver.c, `local_pci_probe`).

use std::fs;
use std::path::{Path, PathBuf};

use kdraw_boards::{ControllerKind, controller_kind};
use kdraw_format::plan::{Card, PciAddress};

use crate::block::BlockDevice;
use crate::sd_card;
use crate::system::System;

/// What a PCI function must be behind.
const PCI_HOST: &str = "pci-host-ecam-generic";
/// Class of an NVMe I/O controller (NVMe over PCIe Transport Specification 1.0, 3.8.1.5).
const PCI_NVME: &str = "0x010802";
/// Class and subclass of standard SD hosts.
const PCI_SDHCI: &str = "0x0805";
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
        "the disk's controller {path} is {found}, which the payload cannot drive; it drives \
         virtio,mmio and the SD hosts that boards/README.md names, and behind \
         {PCI_HOST} virtio-blk (1af4:1001, 1af4:1042), NVMe and standard SD hosts"
    )]
    NoDriver {
        /// The controller's path in the device tree, or PCI address.
        path: String,
        /// What it is.
        found: String,
    },
    /// A controller that sees memory through an IOMMU.
    #[error(
        "the disk's controller {path} is behind an IOMMU that translates ({kind}), which the \
         payload cannot set up; boot with iommu.passthrough=1"
    )]
    Iommu {
        /// Its folder in sysfs.
        path: String,
        /// The kind of its IOMMU domain.
        kind: String,
    },
    /// A boot or other hardware partition of an eMMC device.
    #[error(
        "{0} is a hardware partition of an eMMC device, which the payload does not select; \
         take a partition of the device's user area, such as mmcblk0p4"
    )]
    HardwarePartition(String),
    /// A disk made of others.
    #[error(
        "{0} is no disk of its own but made of others (device-mapper, RAID, loop), and the payload \
         drives hardware only; take a partition of a disk"
    )]
    Virtual(String),
    /// A disk on USB.
    #[error("{0} is on USB, for which the payload has no driver; take another disk")]
    Usb(String),
}

/// A disk's controller as the plan names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its path in the device tree; behind PCI, its host bridge's.
    pub path: String,
    /// Where it is on PCI.
    pub pci: Option<PciAddress>,
    /// The disk's namespace if it is an NVMe controller, else 0.
    pub namespace: u32,
    /// The card, if the disk is on one whose address sysfs tells.
    pub card: Option<Card>,
}

impl Controller {
    /// Finds the controller of `device` and checks that the payload has a driver for it.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn of(system: &System, device: &BlockDevice) -> Result<Self, ControllerError> {
        if sd_card::is_hardware_partition(&device.sysfs) {
            return Err(ControllerError::HardwarePartition(device.name.clone()));
        }
        // …/sys/devices/virtual/block/dm-0
        let is_virtual = |pair: [&Path; 2]| {
            pair.map(Path::file_name) == ["block", "virtual"].map(|name| Some(name.as_ref()))
        };
        let above = device
            .sysfs
            .ancestors()
            .zip(device.sysfs.ancestors().skip(1));
        if above
            .into_iter()
            .any(|(folder, above)| is_virtual([folder, above]))
        {
            return Err(ControllerError::Virtual(device.name.clone()));
        }
        let usb = |folder: &Path| subsystem(folder).as_deref() == Some("usb");
        if device.sysfs.ancestors().any(usb) {
            return Err(ControllerError::Usb(device.name.clone()));
        }
        let seen_by_controller = nvme_path(&device.sysfs);
        let start = seen_by_controller.as_ref().unwrap_or(&device.sysfs);
        let above = node_above(system, start).ok_or_else(|| ControllerError::NoNode {
            disk: device.sysfs.clone(),
        })?;
        Self::checked(above, device)
    }

    fn checked(above: Above, device: &BlockDevice) -> Result<Self, ControllerError> {
        let mut namespace = 0;
        let kind = above.kinds(controller_kind);
        let Above {
            path,
            compatible,
            function,
        } = above;
        let is_host = kind == Some(ControllerKind::PciHostEcam);
        if kind.is_none() || is_host != function.is_some() {
            let found = format!("{compatible:?}");
            return Err(ControllerError::NoDriver { path, found });
        }
        if let Some((_, folder)) = &function {
            let id = |file| fs::read_to_string(folder.join(file)).unwrap_or_default();
            let (vendor, model) = pci_ids(folder);
            let is_nvme = id("class").trim() == PCI_NVME;
            let is_sdhci = id("class").starts_with(PCI_SDHCI);
            if (is_nvme || is_sdhci)
                && let Some(kind) = translation(folder)
            {
                let path = folder.display().to_string();
                return Err(ControllerError::Iommu { path, kind });
            }
            if is_nvme {
                namespace = nvme_namespace(&device.sysfs).ok_or(ControllerError::NoDriver {
                    path: folder.display().to_string(),
                    found: "NVMe, with a namespace that has no number in sysfs".into(),
                })?;
            } else if !is_sdhci && !PCI_VIRTIO_BLK.contains(&(vendor.as_str(), model.as_str())) {
                return Err(ControllerError::NoDriver {
                    path: folder.display().to_string(),
                    found: format!("PCI {vendor}:{model}"),
                });
            }
        }
        Ok(Self {
            path,
            pci: function.map(|(address, _)| address),
            namespace,
            card: sd_card::of(&device.sysfs),
        })
    }
}

/// What the device tree has above a folder of sysfs.
#[derive(Debug)]
pub(crate) struct Above {
    /// The node's path in the tree; behind PCI, the host bridge's.
    pub(crate) path: String,
    /// What the node is compatible with.
    pub(crate) compatible: Vec<String>,
    /// The PCI function on the way, and its folder.
    pub(crate) function: Option<(PciAddress, PathBuf)>,
}

impl Above {
    /// The kind that the first known compatible string stands for.
    pub(crate) fn kinds<T>(&self, kind: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.compatible.iter().find_map(|name| kind(name))
    }
}

/// Finds the next node of the device tree at a folder of sysfs or above it.
pub(crate) fn node_above(system: &System, start: &Path) -> Option<Above> {
    let tree = system.path("/sys/firmware/devicetree/base");
    let tree = fs::canonicalize(&tree).unwrap_or(tree);
    let mut function: Option<(PciAddress, PathBuf)> = None;
    for folder in start.ancestors() {
        // A function may have a node of its own; the host bridge's is what the payload needs.
        if subsystem(folder).as_deref() == Some("pci") {
            let address = pci_address(folder).map(|address| (address, folder.to_owned()));
            function = function.or(address);
            continue;
        }
        let Ok(node) = fs::canonicalize(folder.join("of_node")) else {
            continue;
        };
        let Ok(below) = node.strip_prefix(&tree) else {
            continue;
        };
        return Some(Above {
            path: format!("/{}", below.display()),
            compatible: compatible(&node),
            function,
        });
    }
    None
}

/// A PCI function's vendor and device, as sysfs writes them.
pub(crate) fn pci_ids(folder: &Path) -> (String, String) {
    let id = |file| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.trim().to_owned()
    };
    (id("vendor"), id("device"))
}

/// The number of the NVMe namespace that a disk is, or a partition is of.
fn nvme_namespace(disk: &Path) -> Option<u32> {
    let folders = disk.ancestors().take(2);
    let mut numbers = folders.filter_map(|folder| fs::read_to_string(folder.join("nsid")).ok());
    numbers.next()?.trim().parse().ok()
}

/// The folder of an NVMe disk as one of its controllers sees it, if the disk lies apart from them:
/// for `nvme0n1` that is `nvme0c0n1` below the subsystem's first controller.
fn nvme_path(disk: &Path) -> Option<PathBuf> {
    let folder = disk.ancestors().find(|folder| {
        let above = folder.parent().and_then(Path::parent);
        above.and_then(Path::file_name) == Some("nvme-subsystem".as_ref())
    })?;
    let (head, number) = folder.file_name()?.to_str()?.rsplit_once('n')?;
    let is_path = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let parts = name.and_then(|name| name.strip_prefix(head)?.rsplit_once('n'));
        parts.is_some_and(|(controller, of)| controller.starts_with('c') && of == number)
    };
    let below = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    // The subsystem's folder has links to its controllers.
    let controllers = below(folder.parent()?).into_iter();
    let mut seen = controllers
        .filter_map(|controller| fs::canonicalize(controller).ok())
        .flat_map(|controller| below(&controller));
    seen.find(is_path)
}

/// What kind of translation is between a device and memory, if any
/// (Documentation/ABI/testing/sysfs-kernel-iommu_groups).
fn translation(folder: &Path) -> Option<String> {
    let group = folder.join("iommu_group");
    if !group.exists() {
        return None;
    }
    let kind = fs::read_to_string(group.join("type")).unwrap_or_else(|_| "unknown".into());
    Some(kind.trim().to_owned()).filter(|kind| kind != "identity")
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
pub(crate) fn subsystem(folder: &Path) -> Option<String> {
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
                pci: None,
                namespace: 0,
                card: None,
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
            Ok(Controller {
                path,
                pci,
                namespace: 0,
                card: None,
            })
        );
    }

    /// A partition of namespace 3 of an NVMe controller, below it or (`apart`) below its
    /// subsystem, and what is behind an IOMMU of this kind.
    fn resolve_nvme(apart: bool, iommu: Option<&str>) -> Result<Controller, ControllerError> {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let folder = root.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            folder
        };
        let node = make("sys/firmware/devicetree/base/pcie@1000");
        fs::write(node.join("compatible"), "pci-host-ecam-generic\0").unwrap();
        symlink(&node, make("sys/devices/host").join("of_node")).unwrap();
        let function = make("sys/devices/host/pci0000:00/0000:00:02.0");
        symlink("/sys/bus/pci", function.join("subsystem")).unwrap();
        fs::write(function.join("class"), "0x010802\n").unwrap();
        if let Some(kind) = iommu {
            make("sys/devices/host/pci0000:00/0000:00:02.0/iommu_group");
            fs::write(function.join("iommu_group/type"), kind).unwrap();
        }
        let controller = make("sys/devices/host/pci0000:00/0000:00:02.0/nvme/nvme1");
        let disk = if apart {
            make("sys/devices/host/pci0000:00/0000:00:02.0/nvme/nvme1/nvme0c1n2");
            let disk = make("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n2");
            symlink(&controller, disk.with_file_name("nvme1")).unwrap();
            disk
        } else {
            make("sys/devices/host/pci0000:00/0000:00:02.0/nvme/nvme1/nvme0n2")
        };
        fs::write(disk.join("nsid"), "3\n").unwrap();
        fs::create_dir(disk.join("nvme0n2p4")).unwrap();
        let device = BlockDevice {
            name: "nvme0n2p4".into(),
            sysfs: fs::canonicalize(disk.join("nvme0n2p4")).unwrap(),
            partition: Some(4),
            start: 0,
            len: 0,
            numbers: "259:4".into(),
        };
        Controller::of(&System::new(root.path()), &device)
    }

    #[test]
    fn an_nvme_namespace_is_found_below_its_controller_or_apart() {
        for (apart, iommu) in [(false, None), (true, None), (true, Some("identity\n"))] {
            let expected = Controller {
                path: "/pcie@1000".into(),
                pci: Some(PciAddress {
                    bus: 0,
                    device: 2,
                    function: 0,
                }),
                namespace: 3,
                card: None,
            };
            assert_eq!(
                resolve_nvme(apart, iommu),
                Ok(expected),
                "{apart}, {iommu:?}"
            );
        }
        let translated = resolve_nvme(false, Some("DMA-FQ\n"));
        assert!(
            matches!(&translated, Err(ControllerError::Iommu { kind, .. }) if kind == "DMA-FQ"),
            "{translated:?}"
        );
    }

    #[test]
    fn others_are_refused() {
        for (chain, compatible, ids) in [
            (&MMIO_CHAIN[..], "fsl,esdhc\0", ["", ""]),
            (&MMIO_CHAIN[..], "pci-host-ecam-generic\0", ["", ""]),
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

    /// A disk in this folder of sysfs.
    fn folder(root: &Path, folder: &str) -> BlockDevice {
        let path = root.join(folder);
        fs::create_dir_all(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        BlockDevice {
            name,
            sysfs: fs::canonicalize(path).unwrap(),
            partition: None,
            start: 0,
            len: 0,
            numbers: "1:0".into(),
        }
    }

    #[test]
    fn an_sd_host_on_pci_is_known_by_its_class() {
        for (class, known) in [("0x080501\n", true), ("0x080400\n", false)] {
            let root = tempfile::tempdir().unwrap();
            let node = root.path().join("sys/firmware/devicetree/base/pcie@1000");
            fs::create_dir_all(&node).unwrap();
            fs::write(node.join("compatible"), "pci-host-ecam-generic\0").unwrap();
            let card = "sys/devices/host/0000:00:02.0/mmc_host/mmc0/mmc0:b368";
            let disk = folder(root.path(), &format!("{card}/block/mmcblk0"));
            let at = |path: &str| root.path().join(path);
            symlink(&node, at("sys/devices/host/of_node")).unwrap();
            let function = at("sys/devices/host/0000:00:02.0");
            symlink("/sys/bus/pci", function.join("subsystem")).unwrap();
            fs::write(function.join("class"), class).unwrap();
            symlink("/sys/bus/mmc", at(card).join("subsystem")).unwrap();
            fs::write(at(card).join("type"), "SD\n").unwrap();
            fs::write(at(card).join("rca"), "0xb368\n").unwrap();
            let found = Controller::of(&System::new(root.path()), &disk);
            match known {
                true => assert_eq!(found.unwrap().card, Some(Card::Sd(0xb368))),
                false => assert!(matches!(found, Err(ControllerError::NoDriver { .. }))),
            }
        }
    }

    #[test]
    fn what_is_no_disk_of_its_own_is_named() {
        let root = tempfile::tempdir().unwrap();
        let refusal = |path: &str| {
            let disk = folder(root.path(), path);
            Controller::of(&System::new(root.path()), &disk).unwrap_err()
        };
        let virtual_disk = refusal("sys/devices/virtual/block/dm-0");
        assert_eq!(virtual_disk, ControllerError::Virtual("dm-0".into()));
        let hardware = refusal("sys/devices/mmc0:0001/block/mmcblk0boot0");
        let expected = ControllerError::HardwarePartition("mmcblk0boot0".into());
        assert_eq!(hardware, expected);
        let bus = root.path().join("sys/devices/bus");
        fs::create_dir_all(&bus).unwrap();
        symlink("/sys/bus/usb", bus.join("subsystem")).unwrap();
        let usb = refusal("sys/devices/bus/host0/block/sda");
        assert_eq!(usb, ControllerError::Usb("sda".into()));
    }
}
