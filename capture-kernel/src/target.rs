//! From the plan's target to a block device.

use kdraw_boards::machine::{Controller, MAX_WINDOWS, Machine, PciHost, PciSpace, SdHost};
use kdraw_boards::{SdKind, SdhciQuirks};
use kdraw_drivers::disk::{Disk, SdSetup};
use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::pci::{FunctionAddress, HostBridge, Window};
use kdraw_drivers::sd::card::{Kind, Known, Proof};
use kdraw_drivers::sd::dw_mmc::{self, Make};
use kdraw_drivers::sd::sdhci::{self, capability};
use kdraw_drivers::sd::{BLOCK, Wiring, meson_gx, usdhc};
use kdraw_format::addr::{Lba, PhysAddr, PhysRange};
use kdraw_format::layout::Superblock;
use kdraw_format::plan::{Card, PciAddress, Target};
use kdraw_pipeline::ports::{DeviceError, DmaBuffer};

use crate::clock::Counter;
use crate::mmu::{self, Use};

/// Where the target's device is; enough to bring it up, and once more for an epitaph.
#[derive(Clone, Debug)]
pub struct Place {
    controller: Controller,
    pci: Option<PciAddress>,
    namespace: u32,
    card: Option<Card>,
    partition_start: u64,
    uuid: [u8; 16],
    crash_region: PhysRange,
}

impl Place {
    /// Looks the plan's target up in the device tree.
    ///
    /// # Errors
    /// What the device tree lacks.
    pub fn find(
        machine: &Machine<'_>,
        target: &Target,
        crash_region: PhysRange,
    ) -> Result<Self, kdraw_boards::Error> {
        let controller = machine.controller(&target.controller)?;
        Ok(Self {
            controller,
            pci: target.pci,
            namespace: target.namespace,
            card: target.card,
            partition_start: target.partition_start,
            uuid: target.uuid,
            crash_region,
        })
    }

    /// Resets the device and brings it up; `memory` becomes its rings.
    ///
    /// # Errors
    /// What is wrong with the device.
    pub fn bring_up(&self, memory: DmaBuffer) -> Result<Disk, DeviceError> {
        // What proves that a card can be used as Linux left it: the partition's superblock.
        let mut is_right = |block: &[u8; _]| {
            Superblock::decode(block).is_ok_and(|superblock| superblock.uuid == self.uuid)
        };
        let proof = self.card.map(|card| Proof {
            known: match card {
                Card::Sd(rca) => Known {
                    kind: Kind::Sd,
                    rca,
                },
                Card::Mmc(rca) => Known {
                    kind: Kind::Mmc,
                    rca,
                },
            },
            lba: Lba(self.partition_start / u64::from(BLOCK)),
            is_right: &mut is_right,
        });
        match &self.controller {
            Controller::VirtioMmio {
                registers,
                dma_coherent,
            } => {
                coherent(*dma_coherent)?;
                let registers = self
                    .registers(registers.start, registers.len())
                    .ok_or(DeviceError::Unusable("its registers cannot be mapped"))?;
                Disk::virtio_mmio(registers, memory, &Counter)
            }
            Controller::PciHost(host) => {
                coherent(host.dma_coherent)?;
                let pci = self
                    .pci
                    .ok_or(DeviceError::NotFound("the plan names no function"))?;
                let windows = windows(host);
                let mut map = |at, len| self.registers(at, len);
                let function = bridge(host, &windows).function(address(pci), &mut map)?;
                Disk::pci(&function, &mut map, self.namespace, memory, &Counter, proof)
            }
            Controller::Sd(host) => {
                let registers = self
                    .registers(host.registers.start, host.registers.len())
                    .ok_or(DeviceError::Unusable("its registers cannot be mapped"))?;
                Disk::sd(registers, memory, &Counter, setup(host), proof)
            }
        }
    }

    /// Maps device registers. Memory is refused: the evidence is mapped read-only already, so
    /// the address space refuses it, and the crash region is refused here.
    fn registers(&self, at: PhysAddr, len: u64) -> Option<MmioRegion> {
        let range = PhysRange::with_len(at, len)?;
        if range.overlaps(&self.crash_region) {
            return None;
        }
        let seen = mmu::map(range, Use::Registers).ok()?;
        // SAFETY: just mapped as Device memory for `len` bytes, for good; the target's driver is
        // the only user, and an epitaph's second one begins by resetting the device.
        Some(unsafe { MmioRegion::new(seen, len as usize) })
    }
}

/// The memory windows of a PCI host bridge.
pub fn windows(host: &PciHost) -> heapless::Vec<Window, MAX_WINDOWS> {
    let memory = host.windows.iter();
    let memory = memory.filter(|window| window.space != PciSpace::Io);
    let windows = memory.map(|window| Window {
        pci_start: window.bus_address,
        cpu: window.cpu,
    });
    windows.collect()
}

/// What the driver is told of a PCI host bridge.
pub fn bridge<'w>(host: &PciHost, windows: &'w [Window]) -> HostBridge<'w> {
    HostBridge {
        ecam: host.ecam,
        first_bus: host.bus_start,
        windows,
    }
}

/// The plan's address of a PCI function as the driver has it.
pub fn address(pci: PciAddress) -> FunctionAddress {
    FunctionAddress {
        bus: pci.bus,
        device: pci.device,
        function: pci.function,
    }
}

/// What the driver is told of an SD host.
fn setup(host: &SdHost) -> SdSetup {
    let wiring = Wiring {
        width: host.width,
        high_speed: host.high_speed,
        max_clock_hz: host.max_clock_hz,
    };
    let make = match host.kind {
        SdKind::Sdhci(quirks) => return SdSetup::Sdhci(standard_setup(host, quirks)),
        SdKind::Usdhc => return SdSetup::Usdhc(usdhc_setup(host)),
        SdKind::MesonGx { version_3 } => {
            return SdSetup::MesonGx(meson_gx::Setup {
                wiring,
                version_3,
                coherent: host.dma_coherent,
            });
        }
        SdKind::DwMmc => Make::Synopsys,
        SdKind::Sunxi => Make::Allwinner,
    };
    SdSetup::DwMmc(dw_mmc::Setup {
        make,
        wiring,
        fifo_depth: host.fifo_depth,
    })
}

fn usdhc_setup(host: &SdHost) -> sdhci::Setup {
    let setup = standard_setup(host, SdhciQuirks::default());
    let base_clock_hz = match setup.base_clock_hz {
        0 => usdhc::FASTEST_BASE_HZ,
        told => told,
    };
    sdhci::Setup {
        base_clock_hz,
        ..setup
    }
}

fn standard_setup(host: &SdHost, quirks: SdhciQuirks) -> sdhci::Setup {
    let mut broken = 0;
    if quirks.unknown_base_clock {
        broken |= capability::BASE_CLOCK;
    }
    if quirks.no_high_speed {
        broken |= capability::HIGH_SPEED;
    }
    if quirks.no_dma || !host.dma_is_direct {
        broken |= capability::ADMA2 | capability::SDMA;
    }
    sdhci::Setup {
        width: host.width,
        base_clock_hz: host.base_clock_hz,
        max_clock_hz: host.max_clock_hz,
        coherent: host.dma_coherent,
        broken,
        foreign_clock: quirks.foreign_clock,
    }
}

/// Neither virtio nor anything on PCI has its memory written back from the caches here.
fn coherent(dma_coherent: bool) -> Result<(), DeviceError> {
    match dma_coherent {
        true => Ok(()),
        false => Err(DeviceError::Unusable(
            "its DMA does not see the CPU's caches",
        )),
    }
}
