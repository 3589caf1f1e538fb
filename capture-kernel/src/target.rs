//! From the plan's target to a block device.

use kdraw_boards::machine::{Controller, Machine, PciSpace};
use kdraw_drivers::disk::Disk;
use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::pci::{FunctionAddress, HostBridge, Window};
use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_format::plan::{PciAddress, Target};
use kdraw_pipeline::ports::{DeviceError, DmaBuffer};

use crate::clock::Counter;
use crate::mmu::{self, Use};

/// Where the target's device is; enough to bring it up, and once more for an epitaph.
#[derive(Clone, Debug)]
pub struct Place {
    controller: Controller,
    pci: Option<PciAddress>,
    namespace: u32,
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
            crash_region,
        })
    }

    /// Resets the device and brings it up; `memory` becomes its rings.
    ///
    /// # Errors
    /// What is wrong with the device.
    pub fn bring_up(&self, memory: DmaBuffer) -> Result<Disk, DeviceError> {
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
                let windows: heapless::Vec<Window, { kdraw_boards::machine::MAX_WINDOWS }> = host
                    .windows
                    .iter()
                    .filter(|window| window.space != PciSpace::Io)
                    .map(|window| Window {
                        pci_start: window.bus_address,
                        cpu: window.cpu,
                    })
                    .collect();
                let bridge = HostBridge {
                    ecam: host.ecam,
                    first_bus: host.bus_start,
                    windows: &windows,
                };
                let address = FunctionAddress {
                    bus: pci.bus,
                    device: pci.device,
                    function: pci.function,
                };
                let mut map = |at, len| self.registers(at, len);
                let function = bridge.function(address, &mut map)?;
                Disk::pci(&function, &mut map, self.namespace, memory, &Counter)
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

/// The drivers do no cache maintenance.
fn coherent(dma_coherent: bool) -> Result<(), DeviceError> {
    match dma_coherent {
        true => Ok(()),
        false => Err(DeviceError::Unusable(
            "its DMA does not see the CPU's caches",
        )),
    }
}
