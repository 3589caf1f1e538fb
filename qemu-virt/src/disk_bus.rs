//! How the guest's disk is attached: what QEMU is told, which modules Linux needs for it, and what
//! Linux calls it. A further kind of disk is a further value here.

/// How the guest's disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DiskBus {
    /// virtio-blk on a virtio-mmio slot.
    VirtioMmio,
    /// virtio-blk on PCI Express.
    VirtioPci,
    /// A namespace of an NVMe controller on PCI Express.
    Nvme,
}

impl DiskBus {
    /// Returns QEMU's `-device` options, in order; the drive is `disk`.
    pub fn devices(self) -> &'static [&'static str] {
        match self {
            Self::VirtioMmio => &["virtio-blk-device,drive=disk"],
            Self::VirtioPci => &["virtio-blk-pci,drive=disk"],
            Self::Nvme => &["nvme,drive=disk,serial=kdraw"],
        }
    }

    /// Returns the modules between the machine and the disk's block device.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Self::VirtioMmio | Self::VirtioPci => &["virtio_mmio", "virtio_pci", "virtio_blk"],
            Self::Nvme => &["nvme"],
        }
    }

    /// Returns what a partition's block device is called, up to its number.
    pub fn partition(self) -> &'static str {
        match self {
            Self::VirtioMmio | Self::VirtioPci => "/dev/vda",
            Self::Nvme => "/dev/nvme0n1p",
        }
    }
}
