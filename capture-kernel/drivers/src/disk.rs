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
use crate::sd::dw_mmc::DwMmc;
use crate::sd::meson_gx::{self, MesonGx};
use crate::sd::sdhci::{self, Sdhci};
use crate::sd::usdhc::Layout;
use crate::sd::{self, Bus, Command, Data, Fault, Host, Limits, dw_mmc};
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
    /// A card behind an SD host.
    Sd(Card<SdHost, StaticClock>),
}

/// What an SD host is and what its driver has to know.
#[derive(Clone, Copy, Debug)]
pub enum SdSetup {
    /// Standard.
    Sdhci(sdhci::Setup),
    /// NXP's uSDHC.
    Usdhc(sdhci::Setup),
    /// DesignWare's or Allwinner's.
    DwMmc(dw_mmc::Setup),
    /// Amlogic's.
    MesonGx(meson_gx::Setup),
}

/// An SD host of one of the kinds that there are drivers for, so that the card layer is compiled
/// once.
#[allow(
    clippy::large_enum_variant,
    reason = "there is no heap to box in, and one host"
)]
pub enum SdHost {
    /// Standard, or uSDHC seen as such.
    Sdhci(Sdhci<Layout<MmioRegion>, StaticClock>),
    /// DesignWare's or Allwinner's.
    DwMmc(DwMmc<MmioRegion, StaticClock>),
    /// Amlogic's.
    MesonGx(MesonGx<MmioRegion, StaticClock>),
}

impl SdHost {
    fn host(&self) -> &dyn Host {
        match self {
            Self::Sdhci(host) => host,
            Self::DwMmc(host) => host,
            Self::MesonGx(host) => host,
        }
    }

    fn host_mut(&mut self) -> &mut dyn Host {
        match self {
            Self::Sdhci(host) => host,
            Self::DwMmc(host) => host,
            Self::MesonGx(host) => host,
        }
    }
}

impl Host for SdHost {
    fn limits(&self) -> Limits {
        self.host().limits()
    }

    fn bus(&self) -> Bus {
        self.host().bus()
    }

    fn take_over(&mut self) -> Result<(), Fault> {
        self.host_mut().take_over()
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.host_mut().restart()
    }

    fn set_bus(&mut self, bus: Bus) -> Result<(), Fault> {
        self.host_mut().set_bus(bus)
    }

    fn reset_lines(&mut self) -> Result<(), Fault> {
        self.host_mut().reset_lines()
    }

    fn degrade(&mut self) -> bool {
        self.host_mut().degrade()
    }

    fn start(&mut self, command: Command, data: Option<&Data<'_>>) -> Result<(), Fault> {
        self.host_mut().start(command, data)
    }

    fn poll(&mut self, data: Option<&Data<'_>>) -> Option<Result<[u32; 4], Fault>> {
        self.host_mut().poll(data)
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.host().describe(out)
    }
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
            let setup = SdSetup::Sdhci(sdhci::Setup {
                coherent: true,
                ..sdhci::Setup::default()
            });
            return Self::sd(registers, memory, clock, setup, proof);
        }
        let transport = PciTransport::new(function, map)?;
        let deadline = clock.deadline(BRING_UP_US);
        VirtioBlk::new(transport, memory, clock, deadline).map(Self::VirtioPci)
    }

    /// Brings up the card behind the SD host at `registers`; `memory` becomes its descriptors.
    ///
    /// # Errors
    /// As [`sd::memory_for`] and [`Card::new`].
    pub fn sd(
        registers: MmioRegion,
        memory: DmaBuffer,
        clock: StaticClock,
        setup: SdSetup,
        proof: Option<Proof<'_>>,
    ) -> Result<Self, DeviceError> {
        let (descriptors, scratch) = sd::memory_for(memory)?;
        let host = match setup {
            SdSetup::Sdhci(setup) => {
                let registers = Layout::Standard(registers);
                SdHost::Sdhci(Sdhci::new(registers, clock, descriptors, setup))
            }
            SdSetup::Usdhc(setup) => {
                let registers = Layout::Usdhc(registers);
                SdHost::Sdhci(Sdhci::new(registers, clock, descriptors, setup))
            }
            SdSetup::DwMmc(setup) => SdHost::DwMmc(DwMmc::new(registers, clock, setup)),
            SdSetup::MesonGx(setup) => {
                SdHost::MesonGx(MesonGx::new(registers, clock, descriptors, setup))
            }
        };
        Card::new(host, clock, scratch, proof).map(Self::Sd)
    }

    fn device(&mut self) -> &mut dyn BlockDevice {
        match self {
            Self::VirtioMmio(device) => device,
            Self::VirtioPci(device) => device,
            Self::Nvme(device) => device,
            Self::Sd(device) => device,
        }
    }
}

impl BlockDevice for Disk {
    fn geometry(&self) -> Geometry {
        match self {
            Self::VirtioMmio(device) => device.geometry(),
            Self::VirtioPci(device) => device.geometry(),
            Self::Nvme(device) => device.geometry(),
            Self::Sd(device) => device.geometry(),
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
            Self::Sd(device) => device.describe(out),
        }
    }
}
