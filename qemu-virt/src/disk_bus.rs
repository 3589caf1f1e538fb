//! How the guest's disk is attached: what QEMU is told, which modules Linux needs for it, and what
//! Linux calls it. A further kind of disk is a further value here.

use std::path::PathBuf;

use anyhow::Result;

use crate::material;

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
    /// 10.0 only has it soldered on, so set-up fetches a newer one where need be.
    Emmc,
    /// An SD card in the slot of a Raspberry Pi 3, as far as its SDHCI has it.
    #[value(skip)]
    Bcm2835,
    /// An SD card in the slot of a Raspberry Pi 4.
    #[value(skip)]
    Bcm2711,
    /// An SD card in the slot of a ZynqMP board.
    #[value(skip)]
    Arasan,
    /// An SD card in the slot of an i.MX 8M board.
    #[value(skip)]
    Usdhc,
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
            // The machine's own card is on its other host; this is the newest "generic-sdhci".
            Self::Bcm2711 => &["sd-card,drive=disk,bus=/generic-sdhci/sd-bus"],
            Self::Bcm2835 | Self::Arasan | Self::Usdhc => &[],
        }
    }

    /// Returns the place of the drive among the machine's own devices.
    pub fn slot(self) -> &'static str {
        match self {
            Self::Bcm2835 => "if=sd",
            // The second host.
            Self::Arasan => "if=sd,index=1",
            Self::Usdhc => "if=sd,bus=1",
            _ => "if=none",
        }
    }

    /// Returns the QEMU that has such a disk: this machine's own, if it is not too old.
    pub fn qemu(self) -> Result<PathBuf> {
        match self {
            Self::Emmc | Self::Bcm2711 | Self::Usdhc => material::newest_qemu(),
            _ => Ok(material::QEMU.into()),
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
            Self::Bcm2835 | Self::Bcm2711 => &["sdhci_iproc", "mmc_block"],
            Self::Arasan => &["sdhci_of_arasan", "mmc_block"],
            // The card's supply is a regulator that a GPIO switches.
            Self::Usdhc => &["fixed", "sdhci_esdhc_imx", "mmc_block"],
        }
    }

    /// Returns what a partition's block device is called, up to its number.
    pub fn partition(self) -> &'static str {
        match self {
            Self::VirtioMmio | Self::VirtioPci => "/dev/vda",
            Self::Nvme => "/dev/nvme0n1p",
            // The device tree's alias says 1.
            Self::Usdhc => "/dev/mmcblk1p",
            _ => "/dev/mmcblk0p",
        }
    }

    /// Returns how long the image must be to hold `least` bytes; QEMU's cards have a power of two.
    pub fn image_size(self, least: u64) -> u64 {
        match self {
            Self::VirtioMmio | Self::VirtioPci | Self::Nvme => least,
            _ => least.max(SD_CARD).next_power_of_two(),
        }
    }

    /// Returns what `kdraw info` must say of the device: what it was and how the payload came by
    /// its card; and how it moved data.
    pub fn told(self, identify_card: bool) -> [String; 2] {
        let way = match self {
            Self::VirtioMmio | Self::VirtioPci => {
                return ["device       virtio-blk".into(), String::new()];
            }
            Self::Nvme => return ["device       NVMe".into(), String::new()],
            Self::Sdhci | Self::Emmc | Self::Usdhc => "ADMA2 (32-bit)",
            Self::SdhciSdma => "SDMA",
            Self::SdhciPio | Self::Bcm2835 | Self::Bcm2711 => "PIO",
            Self::Arasan => "ADMA2 (64-bit)",
        };
        // QEMU's host has 52 MHz to divide: as much as eMMC may have, more than SD. Of a board's
        // host the payload does not know what is divided.
        let (kind, clock) = match self {
            Self::Emmc => ("eMMC", "52.0 MHz, SDHCI 2.00"),
            Self::Sdhci | Self::SdhciSdma | Self::SdhciPio => ("SD card", "26.0 MHz, SDHCI 2.00"),
            _ => ("SD card", ""),
        };
        let how = match identify_card {
            true => "identified from scratch",
            false => "taken over as Linux left it",
        };
        [
            format!("{kind} {how}, 4 bit at {clock}"),
            format!(" by {way},"),
        ]
    }
}
