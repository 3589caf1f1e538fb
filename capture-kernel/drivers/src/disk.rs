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
use crate::sd::card::{Card, Proof};
use crate::sd::sdhci::{self, Sdhci, Setup};
use crate::virtio::blk::VirtioBlk;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::pci::PciTransport;

/// How long a controller may take to come up, in microseconds.
const BRING_UP_US: u64 = 2_000_000;
/// How long an NVMe controller may take. It states a time itself, two minutes at the most; an SSD
/// that was well before takes less than a second.
const NVME_BRING_UP_US: u64 = 30_000_000;

/// Where an SD host's configuration space tells its first BAR, in 3 bits (SD Host Controller
/// Simplified Specification 4.20, appendix C.3.2).
const SDHCI_SLOT: usize = 0x40;

/// A clock that a driver keeps.
pub type StaticClock = &'static dyn Clock;

/// Whether a PCI function is an SD host: class 8, subclass 5.
fn is_sdhci(function: &Function<'_, MmioRegion>) -> bool {
    function.config32(8) >> 16 == 0x0805
}

/// A block device of one of the kinds that there are drivers for.
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
    /// A card behind a standard SD host.
    Sdhci(Card<Sdhci<MmioRegion, StaticClock>, StaticClock>),
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
    /// queues. `proof` is for an SD host's card.
    ///
    /// # Errors
    /// As [`PciTransport::new`], [`VirtioBlk::new`], [`Nvme::new`] and [`Card::new`].
    pub fn pci(
        function: &Function<'_, MmioRegion>,
        map: Mapper<'_, MmioRegion>,
        namespace: u32,
        memory: DmaBuffer,
        clock: StaticClock,
        proof: Option<Proof<'_>>,
    ) -> Result<Self, DeviceError> {
        if nvme::is_nvme(function) {
            let deadline = clock.deadline(NVME_BRING_UP_US);
            return Nvme::new(function, map, namespace, memory, clock, deadline).map(Self::Nvme);
        }
        if is_sdhci(function) {
            let bar = function.config32(SDHCI_SLOT) as u8 & 7;
            let at = function.bar_address(bar, 0, sdhci::REGISTERS);
            let registers = at.and_then(|at| map(at, sdhci::REGISTERS));
            let registers = registers.ok_or(DeviceError::Unusable(
                "SD host controller without registers in a window of the host bridge",
            ))?;
            let setup = Setup {
                coherent: true,
                ..Setup::default()
            };
            return Self::sdhci(registers, memory, clock, setup, proof);
        }
        let transport = PciTransport::new(function, map)?;
        let deadline = clock.deadline(BRING_UP_US);
        VirtioBlk::new(transport, memory, clock, deadline).map(Self::VirtioPci)
    }

    /// Brings up the card behind the standard SD host at `registers`; `memory` becomes its
    /// descriptors.
    ///
    /// # Errors
    /// As [`sdhci::bring_up`].
    pub fn sdhci(
        registers: MmioRegion,
        memory: DmaBuffer,
        clock: StaticClock,
        setup: Setup,
        proof: Option<Proof<'_>>,
    ) -> Result<Self, DeviceError> {
        sdhci::bring_up(registers, clock, memory, setup, proof).map(Self::Sdhci)
    }

    fn device(&mut self) -> &mut dyn BlockDevice {
        match self {
            Self::VirtioMmio(device) => device,
            Self::VirtioPci(device) => device,
            Self::Nvme(device) => device,
            Self::Sdhci(device) => device,
        }
    }
}

impl BlockDevice for Disk {
    fn geometry(&self) -> Geometry {
        match self {
            Self::VirtioMmio(device) => device.geometry(),
            Self::VirtioPci(device) => device.geometry(),
            Self::Nvme(device) => device.geometry(),
            Self::Sdhci(device) => device.geometry(),
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
            Self::Sdhci(device) => device.describe(out),
        }
    }
}
