//! The target's device, whichever it is.
//!
//! The drivers are generic over how registers are reached, for the sake of their tests. Here each
//! is made for registers in memory, and so compiled in this crate, as small as this crate is asked
//! to be (`profile.payload` in the workspace's Cargo.toml).

use core::fmt;

use kdraw_pipeline::ports::{
    BlockDevice, Clock, Completion, Deadline, DeviceError, DmaBuffer, Geometry, Request,
};

use crate::mmio::MmioRegion;
use crate::nvme::{self, Nvme};
use crate::pci::{Function, Mapper};
use crate::virtio::blk::VirtioBlk;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::pci::PciTransport;

/// How long a controller may take to come up, in microseconds.
const BRING_UP_US: u64 = 2_000_000;
/// How long an NVMe controller may take. It states a time itself, two minutes at the most; an SSD
/// that was well before takes less than a second.
const NVME_BRING_UP_US: u64 = 30_000_000;

/// A block device of one of the kinds that there are drivers for.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is no heap to box in, and one disk"
)]
pub enum Disk {
    /// virtio-blk behind memory-mapped registers.
    VirtioMmio(VirtioBlk<MmioTransport<MmioRegion>>),
    /// virtio-blk on PCI.
    VirtioPci(VirtioBlk<PciTransport<MmioRegion>>),
    /// NVMe.
    Nvme(Nvme<MmioRegion>),
}

impl Disk {
    /// Brings up the virtio-blk device behind `registers`; `memory` becomes its queue.
    ///
    /// # Errors
    /// As [`MmioTransport::new`] and [`VirtioBlk::new`].
    pub fn virtio_mmio(
        registers: MmioRegion,
        memory: DmaBuffer,
        clock: &dyn Clock,
    ) -> Result<Self, DeviceError> {
        let transport = MmioTransport::new(registers)?;
        let deadline = clock.deadline(BRING_UP_US);
        VirtioBlk::new(transport, memory, clock, deadline).map(Self::VirtioMmio)
    }

    /// Brings up a PCI function, of NVMe its namespace number `namespace`; `memory` becomes its
    /// queues.
    ///
    /// # Errors
    /// As [`PciTransport::new`], [`VirtioBlk::new`] and [`Nvme::new`].
    pub fn pci(
        function: &Function<'_, MmioRegion>,
        map: Mapper<'_, MmioRegion>,
        namespace: u32,
        memory: DmaBuffer,
        clock: &dyn Clock,
    ) -> Result<Self, DeviceError> {
        if nvme::is_nvme(function) {
            let deadline = clock.deadline(NVME_BRING_UP_US);
            return Nvme::new(function, map, namespace, memory, clock, deadline).map(Self::Nvme);
        }
        let transport = PciTransport::new(function, map)?;
        let deadline = clock.deadline(BRING_UP_US);
        VirtioBlk::new(transport, memory, clock, deadline).map(Self::VirtioPci)
    }

    fn device(&mut self) -> &mut dyn BlockDevice {
        match self {
            Self::VirtioMmio(device) => device,
            Self::VirtioPci(device) => device,
            Self::Nvme(device) => device,
        }
    }
}

impl BlockDevice for Disk {
    fn geometry(&self) -> Geometry {
        match self {
            Self::VirtioMmio(device) => device.geometry(),
            Self::VirtioPci(device) => device.geometry(),
            Self::Nvme(device) => device.geometry(),
        }
    }

    fn start(&mut self, request: Request) -> Result<(), (DeviceError, DmaBuffer)> {
        self.device().start(request)
    }

    fn poll(&mut self) -> Option<Completion> {
        self.device().poll()
    }

    fn flush(&mut self, clock: &dyn Clock, deadline: Deadline) -> Result<(), DeviceError> {
        self.device().flush(clock, deadline)
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        match self {
            Self::VirtioMmio(device) => device.describe(out),
            Self::VirtioPci(device) => device.describe(out),
            Self::Nvme(device) => device.describe(out),
        }
    }
}
