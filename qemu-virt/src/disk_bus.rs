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
    /// An SD card behind a standard SD host on PCI, which does ADMA2.
    Sdhci,
    /// The same behind a host whose capabilities have no ADMA2, but SDMA.
    SdhciSdma,
    /// The same behind a host whose capabilities have no DMA.
    SdhciPio,
    /// An eMMC device behind such a host, by ADMA2. Not every QEMU has one to plug in: 11.1 does,
    /// 10.0 only has it soldered on.
    Emmc,
}

/// The least size of an SD card's image. Those of more than 2 GiB are addressed in blocks, as are
/// all that boards have.
const SD_CARD: u64 = 4 << 30;

impl DiskBus {
    /// Returns QEMU's `-device` options, in order; the drive is `disk`.
    pub fn devices(self) -> &'static [&'static str] {
        match self {
            Self::VirtioMmio => &["virtio-blk-device,drive=disk"],
            Self::VirtioPci => &["virtio-blk-pci,drive=disk"],
            Self::Nvme => &["nvme,drive=disk,serial=kdraw"],
            Self::Sdhci => &["sdhci-pci", "sd-card,drive=disk"],
            // QEMU's default (hw/sd/sdhci.c, SDHC_CAPAB_REG_DEFAULT) less bits 19 and 20, ADMA.
            Self::SdhciSdma => &["sdhci-pci,capareg=0x056034b4", "sd-card,drive=disk"],
            // And less bit 22, SDMA.
            Self::SdhciPio => &["sdhci-pci,capareg=0x052034b4", "sd-card,drive=disk"],
            Self::Emmc => &["sdhci-pci", "emmc,drive=disk"],
        }
    }

    /// Returns the modules between the machine and the disk's block device.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Self::VirtioMmio | Self::VirtioPci => &["virtio_mmio", "virtio_pci", "virtio_blk"],
            Self::Nvme => &["nvme"],
            Self::Sdhci | Self::SdhciSdma | Self::SdhciPio | Self::Emmc => {
                &["sdhci_pci", "mmc_block"]
            }
        }
    }

    /// Returns what a partition's block device is called, up to its number.
    pub fn partition(self) -> &'static str {
        match self {
            Self::VirtioMmio | Self::VirtioPci => "/dev/vda",
            Self::Nvme => "/dev/nvme0n1p",
            Self::Sdhci | Self::SdhciSdma | Self::SdhciPio | Self::Emmc => "/dev/mmcblk0p",
        }
    }

    /// Returns how long the image must be to hold `least` bytes; QEMU's cards have a power of two.
    pub fn image_size(self, least: u64) -> u64 {
        match self {
            Self::VirtioMmio | Self::VirtioPci | Self::Nvme => least,
            Self::Sdhci | Self::SdhciSdma | Self::SdhciPio | Self::Emmc => {
                least.max(SD_CARD).next_power_of_two()
            }
        }
    }

    /// Returns what `kdraw info` must say of the device: what it was, how the payload came by its
    /// card, and how it moved data.
    pub fn told(self, identify_card: bool) -> String {
        let way = match self {
            Self::VirtioMmio | Self::VirtioPci => return "device       virtio-blk".into(),
            Self::Nvme => return "device       NVMe".into(),
            Self::Sdhci | Self::Emmc => "ADMA2 (32-bit)",
            Self::SdhciSdma => "SDMA",
            Self::SdhciPio => "PIO",
        };
        // QEMU's host has 52 MHz to divide: as much as eMMC may have, more than SD.
        let (kind, khz) = match self {
            Self::Emmc => ("eMMC", 52000),
            _ => ("SD card", 26000),
        };
        let how = match identify_card {
            true => "identified from scratch",
            false => "taken over as Linux left it",
        };
        format!("{kind} {how}, 4 bit at {khz} kHz, SDHCI 2.00 by {way},")
    }
}
