//! The machine, as far as the payload has to know it.
//!
//! [`Machine`] holds nothing but the checked blob: each question walks the tree when it is asked
//! and fails on its own, so that a lost disk leaves a console on which to say so.
//!
//! Sources: Devicetree Specification v0.4, chapter 3; the bindings `arm/psci.yaml`,
//! `pci/host-generic-pci.yaml`, `chosen.yaml` of Linux and dt-schema; the readers and writers of
//! `/chosen` in Linux `drivers/of/fdt.c` and `drivers/of/kexec.c`, kexec-tools
//! `kexec/arch/arm64/kexec-arm64.c`.

use crate::device::Device;
use crate::error::Error;
use crate::family::{self, ConsoleKind, ControllerKind, Family};
use crate::guard;
use crate::sd::SdKind;
use crate::sdhci::SdhciQuirks;
use crate::tree::{self, CellReader, Cells, Lineage, Node, Tree};
use crate::watchdogs::WatchdogKind;
use kdraw_format::addr::{PhysAddr, PhysRange};

/// The most CPUs that [`Machine::cpus`] yields.
pub const MAX_CPUS: usize = 512;

/// The most memory windows of a PCI host bridge that are looked at.
pub const MAX_WINDOWS: usize = 8;

/// The most watchdogs that [`Machine::watchdogs`] finds.
pub const MAX_WATCHDOGS: usize = 8;

/// ECAM bytes of one bus: 32 devices of 8 functions of 4 KiB (PCI Express 7.2.2).
const ECAM_BUS_LEN: u64 = 1 << 20;

/// The serial aliases that are looked at for a console.
const SERIAL_ALIASES: [&str; 10] = [
    "serial0", "serial1", "serial2", "serial3", "serial4", "serial5", "serial6", "serial7",
    "serial8", "serial9",
];

/// Function identifiers of PSCI 0.2 and later (Arm DEN 0022, chapter 5).
const PSCI_SYSTEM_RESET: u32 = 0x8400_0009;
const PSCI_CPU_ON_64: u32 = 0xc400_0003;
const PSCI_AFFINITY_INFO_64: u32 = 0xc400_0004;

/// What a device tree says about the machine.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    tree: Tree<'a>,
}

/// A UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    /// Which driver it needs.
    pub kind: ConsoleKind,
    /// Its registers.
    pub registers: PhysRange,
    /// The distance of two registers in bytes, as a power of two (`reg-shift`), at most 4.
    pub shift: u8,
    /// Whether registers are accessed as 32 bits (`reg-io-width` 4), else as bytes.
    pub wide: bool,
}

/// A watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// Which driver it needs.
    pub kind: WatchdogKind,
    /// Its registers.
    pub registers: PhysRange,
    /// The refresh frame, of a [`WatchdogKind::Sbsa`].
    pub refresh: Option<PhysRange>,
    /// Whether its registers are big-endian (`big-endian`).
    pub big_endian: bool,
    /// Whether a [`WatchdogKind::Imx`] resets the board by a pin (`fsl,ext-reset-output`).
    pub by_pin: bool,
}

/// How the firmware is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By `hvc #0`.
    Hvc,
    /// By `smc #0`.
    Smc,
}

/// The power firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Psci {
    /// How it is called.
    pub conduit: Conduit,
    /// The function that resets the machine; PSCI 0.1 has none.
    pub system_reset: Option<u32>,
    /// The function that starts a CPU; PSCI 0.1 has it where the tree says so.
    pub cpu_on: Option<u32>,
    /// The function that tells whether a CPU is on; PSCI 0.1 has none.
    pub affinity_info: Option<u32>,
}

/// How a CPU is started (binding `arm/cpus.yaml`, enable-method).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnableMethod {
    /// By the power firmware.
    Psci,
    /// By writing an address to memory, which must not be done while it may be the crashed
    /// kernel that waits there.
    SpinTable,
    /// Nobody says, or in a way that is not known.
    Unknown,
}

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The affinity fields of its MPIDR_EL1.
    pub mpidr: u64,
    /// How it is started.
    pub enable_method: EnableMethod,
}

/// A storage controller that the payload has a driver for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is no heap to box in, and one controller"
)]
pub enum Controller {
    /// A virtio device behind memory-mapped registers.
    VirtioMmio {
        /// Its registers.
        registers: PhysRange,
        /// Whether its DMA sees the CPU's caches.
        dma_coherent: bool,
    },
    /// A PCI host bridge; the disk is a function behind it.
    PciHost(PciHost),
    /// An SD host controller.
    Sd(SdHost),
}

/// An SD host controller and how it is wired (bindings `mmc/mmc-controller.yaml` and
/// `mmc/synopsys-dw-mshc-common.yaml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdHost {
    /// Whose it is.
    pub kind: SdKind,
    /// Its registers.
    pub registers: PhysRange,
    /// Whether its DMA sees the CPU's caches.
    pub dma_coherent: bool,
    /// Whether its DMA has the CPU's addresses: there is no IOMMU, and no bus above changes them.
    pub dma_is_direct: bool,
    /// Data lines: 1, 4 or 8.
    pub width: u8,
    /// The base clock in Hz; 0 if the tree does not say.
    pub base_clock_hz: u32,
    /// The fastest clock allowed, in Hz; 0 if there is no limit.
    pub max_clock_hz: u32,
    /// Whether the tree says that it does high speed; standard hosts say so themselves.
    pub high_speed: bool,
    /// Words in its FIFO; 0 if the tree does not say.
    pub fifo_depth: u32,
}

/// A PCI host bridge with the generic ECAM configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciHost {
    /// The configuration space, from `bus_start`'s on, 1 MiB for each bus.
    pub ecam: PhysRange,
    /// The first bus number.
    pub bus_start: u8,
    /// The last bus number; never one that `ecam` has no room for.
    pub bus_end: u8,
    /// Where the CPU sees PCI addresses, of the first [`MAX_WINDOWS`] entries.
    pub windows: heapless::Vec<PciWindow, MAX_WINDOWS>,
    /// Whether its devices' DMA sees the CPU's caches.
    pub dma_coherent: bool,
}

/// An address space of the PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciSpace {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory at any address.
    Memory64,
}

/// A piece of PCI address space that the CPU sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciWindow {
    /// Of which space.
    pub space: PciSpace,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
    /// The first address on the PCI bus, as a BAR would hold it.
    pub bus_address: u64,
    /// The physical addresses at which the CPU sees it.
    pub cpu: PhysRange,
}

impl<'a> Machine<'a> {
    /// Checks a flattened device tree of the running machine.
    ///
    /// `blob` may be longer than the tree's total size; see [`crate::guard::total_size`].
    ///
    /// # Errors
    /// [`Error::Malformed`], with what is wrong and where.
    pub fn from_dtb(blob: &'a [u8]) -> Result<Self, Error> {
        Ok(Self {
            tree: Tree::open(guard::check(blob)?)?,
        })
    }

    /// The board's model, for people to read.
    pub fn model(&self) -> Option<&'a str> {
        tree::string(self.tree.root(), "model")
    }

    /// The board's family, if it is one of ours.
    pub fn family(&self) -> Option<&'static Family> {
        tree::strings(self.tree.root(), "compatible").find_map(family::family)
    }

    /// The crash region: the memory that `crashkernel=` reserved and the payload lives in.
    ///
    /// It is the first range of `/chosen` `linux,usable-memory-range`. Linux and kexec-tools
    /// write it first; a second range is the low memory that goes with a reservation above
    /// 4 GiB, which the payload does not need.
    ///
    /// # Errors
    /// [`Error::Missing`], or [`Error::Shape`] or [`Error::Value`] if it is no range.
    pub fn crash_region(&self) -> Result<PhysRange, Error> {
        self.chosen_range("linux,usable-memory-range")
    }

    /// The ELF core header that the loader wrote: `/chosen` `linux,elfcorehdr`.
    ///
    /// # Errors
    /// As [`Machine::crash_region`].
    pub fn elfcorehdr(&self) -> Result<PhysRange, Error> {
        self.chosen_range("linux,elfcorehdr")
    }

    /// The initial RAM disk, which for the payload is the plan; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Missing`] if only one of its bounds is given, [`Error::Shape`] if one is neither
    /// a 32-bit nor a 64-bit number, [`Error::Value`] if they enclose nothing.
    pub fn initrd(&self) -> Result<Option<PhysRange>, Error> {
        let (start, end) = ("linux,initrd-start", "linux,initrd-end");
        match (self.chosen_number(start)?, self.chosen_number(end)?) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Error::Missing { property: start }),
            (Some(_), None) => Err(Error::Missing { property: end }),
            (Some(from), Some(to)) if from < to => Ok(Some(PhysRange {
                start: PhysAddr(from),
                end: PhysAddr(to),
            })),
            (Some(_), Some(to)) => Err(Error::Value {
                property: end,
                value: to,
            }),
        }
    }

    /// The console, if the payload has a driver for it.
    pub fn console(&self) -> Option<Console> {
        self.stdout()?.uart().ok()
    }

    /// The device that the console is on.
    ///
    /// It is what `/chosen` `stdout-path` names, by path or alias, without the options after
    /// the colon: the UART keeps the speed that the crashed kernel set. Where the path is
    /// missing or leads nowhere, it is what the serial alias of the lowest number names, of
    /// those that are switched on (`serial0`, which Linux takes first, too). A UART that nobody
    /// names is left alone: its clock may be off, and then the bus may hang at its registers.
    pub fn stdout(&self) -> Option<Device<'a>> {
        let named = self.chosen().and_then(|chosen| {
            let path = tree::string(chosen, "stdout-path")?.split(':').next()?;
            self.device(self.unalias(path)?).ok()
        });
        let usable = |alias: &&'static str| {
            let device = self.device(self.unalias(alias)?).ok()?;
            device.is_enabled().then_some(device)
        };
        named.or_else(|| SERIAL_ALIASES.iter().find_map(usable))
    }

    /// The UART that a path names.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn uart(&self, path: &str) -> Result<Console, Error> {
        self.device(path)?.uart()
    }

    /// The node at a path such as `/virtio_mmio@a003e00`, as /sys/firmware/devicetree/base shows
    /// it.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::NoNode`] if there is no such node.
    pub fn device(&self, path: &str) -> Result<Device<'a>, Error> {
        self.tree.resolve(path).map(Device)
    }

    /// Iterates over all nodes below the root, depth first.
    ///
    /// # Errors
    /// [`Error::Parser`], which the guard keeps away.
    pub fn devices(&self) -> Result<impl Iterator<Item = Device<'a>> + use<'a>, Error> {
        Ok(self.tree.walk()?.map_while(Result::ok).map(Device))
    }

    /// The watchdog that a path names.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn watchdog(&self, path: &str) -> Result<Watchdog, Error> {
        self.device(path)?.watchdog()
    }

    /// Finds the watchdogs that are switched on and have a driver, [`MAX_WATCHDOGS`] at the most.
    /// Whether one runs, or has a clock, the tree does not say.
    ///
    /// On a board without PSCI they are how it is reset.
    pub fn watchdogs(&self) -> heapless::Vec<Watchdog, MAX_WATCHDOGS> {
        let devices = self.devices().into_iter().flatten();
        devices
            .filter_map(|device| device.watchdog().ok())
            .take(MAX_WATCHDOGS)
            .collect()
    }

    /// The power firmware: the first node that is compatible with PSCI and switched on.
    ///
    /// # Errors
    /// [`Error::NoPsci`], or [`Error::Missing`] if it does not say how to call it.
    pub fn psci(&self) -> Result<Psci, Error> {
        let is_psci = |node| {
            tree::strings(node, "compatible").any(|name| psci_is_standard(name).is_some())
                && tree::is_enabled(node)
        };
        let node = self.tree.find(is_psci)?.ok_or(Error::NoPsci)?.node();
        let conduit = match tree::string(node, "method") {
            Some("hvc") => Conduit::Hvc,
            Some("smc") => Conduit::Smc,
            _ => return Err(Error::Missing { property: "method" }),
        };
        let standard =
            tree::strings(node, "compatible").any(|name| psci_is_standard(name) == Some(true));
        Ok(match standard {
            true => Psci {
                conduit,
                system_reset: Some(PSCI_SYSTEM_RESET),
                cpu_on: Some(PSCI_CPU_ON_64),
                affinity_info: Some(PSCI_AFFINITY_INFO_64),
            },
            false => {
                let cpu_on =
                    tree::property(node, "cpu_on").and_then(|id| <[u8; 4]>::try_from(id).ok());
                Psci {
                    conduit,
                    system_reset: None,
                    cpu_on: cpu_on.map(u32::from_be_bytes),
                    affinity_info: None,
                }
            }
        })
    }

    /// Iterates over the RAM that the firmware reported: `reg` of the memory nodes.
    ///
    /// A machine booted through UEFI may report none here. Ranges that are empty or wrap around
    /// the address space are left out.
    pub fn memory(&self) -> impl Iterator<Item = PhysRange> + use<'a> {
        let root = self.tree.root();
        let cells = Cells::of(root);
        tree::children(Some(root))
            .filter(|node| tree::string(*node, "device_type") == Some("memory"))
            .flat_map(move |node| tree::reg(node, cells))
            .filter_map(|(start, len)| PhysRange::with_len(PhysAddr(start), len))
            .filter(|range| !range.is_empty())
    }

    /// Iterates over the CPUs, [`MAX_CPUS`] at the most.
    ///
    /// A CPU whose status is `disabled` is included, since firmware may start it (specification
    /// 3.8); one that failed is not.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> + use<'a> {
        let cpus = tree::child(self.tree.root(), "cpus").ok().flatten();
        // A CPU's reg has no size (specification 3.7).
        let cells = Cells {
            address: cpus.map_or(1, |cpus| Cells::of(cpus).address),
            size: 0,
        };
        let failed = |node| tree::string(node, "status").is_some_and(|it| it.starts_with("fail"));
        tree::children(cpus)
            .filter(|node| tree::string(*node, "device_type") == Some("cpu"))
            .filter(move |node| !failed(*node))
            .filter_map(move |node| {
                let (mpidr, _) = tree::reg(node, cells).next()?;
                let enable_method = match tree::string(node, "enable-method") {
                    Some("psci") => EnableMethod::Psci,
                    Some("spin-table") => EnableMethod::SpinTable,
                    _ => EnableMethod::Unknown,
                };
                Some(Cpu {
                    mpidr,
                    enable_method,
                })
            })
            .take(MAX_CPUS)
    }

    /// Finds the storage controller at a path such as `/virtio_mmio@a003e00` or
    /// `/pcie@10000000`, as /sys/firmware/devicetree/base shows it.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::NoNode`] if there is no such node, [`Error::Disabled`] or
    /// [`Error::NoDriver`] if it cannot be used, and whatever is wrong with its properties.
    pub fn controller(&self, path: &str) -> Result<Controller, Error> {
        self.device(path)?.controller()
    }

    fn chosen(&self) -> Option<Node<'a>> {
        tree::child(self.tree.root(), "chosen").ok().flatten()
    }

    /// Reads the first range of a property of `/chosen`, written in the root's cells.
    fn chosen_range(&self, property: &'static str) -> Result<PhysRange, Error> {
        let value = self
            .chosen()
            .and_then(|chosen| tree::property(chosen, property));
        let value = value.ok_or(Error::Missing { property })?;
        let cells = Cells::of(self.tree.root());
        let first = tree::pairs(value, cells).next();
        let (start, len) = first.ok_or(Error::Shape {
            property,
            len: value.len(),
        })?;
        let range = PhysRange::with_len(PhysAddr(start), len).filter(|range| !range.is_empty());
        range.ok_or(Error::Value {
            property,
            value: len,
        })
    }

    /// Reads a property of `/chosen` that is a number of 32 or 64 bits.
    fn chosen_number(&self, property: &'static str) -> Result<Option<u64>, Error> {
        let value = self
            .chosen()
            .and_then(|chosen| tree::property(chosen, property));
        let Some(value) = value else { return Ok(None) };
        let shape = Error::Shape {
            property,
            len: value.len(),
        };
        match value.len() {
            4 => CellReader(value).take(1),
            8 => CellReader(value).take(2),
            _ => None,
        }
        .ok_or(shape)
        .map(Some)
    }

    /// Resolves an alias; a path is its own (specification 3.3).
    fn unalias(&self, path: &'a str) -> Option<&'a str> {
        if path.starts_with('/') {
            return Some(path);
        }
        tree::string(tree::child(self.tree.root(), "aliases").ok()??, path)
    }
}

/// Describes a UART (binding `serial/8250.yaml` for where its registers lie).
pub(crate) fn uart(device: &Lineage<'_>, kind: ConsoleKind) -> Result<Console, Error> {
    let node = device.node();
    let number = |property, default| {
        let cell = tree::property(node, property).and_then(|value| CellReader(value).take(1));
        match cell.map_or(Ok(default), u8::try_from) {
            Ok(number) if number <= 4 => Ok(number),
            _ => Err(Error::Value {
                property,
                value: cell.unwrap_or(0),
            }),
        }
    };
    let (shift, width) = match kind {
        ConsoleKind::Ns16550 => (number("reg-shift", 0)?, number("reg-io-width", 1)?),
        _ => (2, 4),
    };
    Ok(Console {
        kind,
        registers: device.registers()?,
        shift,
        wide: width == 4,
    })
}

/// Describes a watchdog.
pub(crate) fn watchdog(device: &Lineage<'_>, kind: WatchdogKind) -> Result<Watchdog, Error> {
    let node = device.node();
    Ok(Watchdog {
        kind,
        registers: device.registers()?,
        refresh: match kind {
            WatchdogKind::Sbsa => Some(device.registers_at(1)?),
            _ => None,
        },
        big_endian: tree::property(node, "big-endian").is_some(),
        by_pin: tree::property(node, "fsl,ext-reset-output").is_some(),
    })
}

/// Whether a compatible string is of PSCI, and then whether of 0.2 or later, which fixed the
/// function identifiers.
fn psci_is_standard(compatible: &str) -> Option<bool> {
    match compatible {
        "arm,psci-1.0" | "arm,psci-0.2" => Some(true),
        "arm,psci" => Some(false),
        _ => None,
    }
}

/// Describes a storage controller.
pub(crate) fn controller(device: &Lineage<'_>, kind: ControllerKind) -> Result<Controller, Error> {
    match kind {
        ControllerKind::VirtioMmio => Ok(Controller::VirtioMmio {
            registers: device.registers()?,
            dma_coherent: device.inherits("dma-coherent"),
        }),
        ControllerKind::PciHostEcam => pci_host(device).map(Controller::PciHost),
        ControllerKind::Sd(kind) => sd_host(device, kind).map(Controller::Sd),
    }
}

/// Describes an SD host controller.
fn sd_host(device: &Lineage<'_>, kind: SdKind) -> Result<SdHost, Error> {
    let number = |name| {
        let value = tree::property(device.node(), name);
        let value = value.and_then(|value| CellReader(value).take(1));
        value
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or(0)
    };
    let has = |name| tree::property(device.node(), name).is_some();
    let reaches_memory = device.dma_is_direct() && !has("amlogic,dram-access-quirk");
    if matches!(kind, SdKind::MesonGx { .. }) && !reaches_memory {
        // It has no way but DMA, and one of G12's three does not have that.
        return Err(Error::NoDriver);
    }
    Ok(SdHost {
        kind,
        registers: device.registers()?,
        dma_coherent: device.inherits("dma-coherent"),
        dma_is_direct: device.dma_is_direct(),
        width: match number("bus-width") {
            8 => 8,
            4 => 4,
            _ => 1,
        },
        // What feeds it alone may be told as the rate that it is to be given (`clock/clock.yaml` of
        // dt-schema).
        base_clock_hz: match (number("clock-frequency"), kind) {
            (
                0,
                SdKind::Usdhc
                | SdKind::Sdhci(SdhciQuirks {
                    unknown_base_clock: true,
                    ..
                }),
            ) => number("assigned-clock-rates"),
            (told, _) => told,
        },
        max_clock_hz: number("max-frequency"),
        high_speed: kind.always_high_speed() || has("cap-sd-highspeed") || has("cap-mmc-highspeed"),
        fifo_depth: number("fifo-depth"),
    })
}

/// Describes a PCI host bridge (binding `pci/host-generic-pci.yaml`).
fn pci_host(device: &Lineage<'_>) -> Result<PciHost, Error> {
    let node = device.node();
    let ecam = device.registers()?;
    let (bus_start, bus_end) = bus_range(node, ecam)?;
    Ok(PciHost {
        ecam,
        bus_start,
        bus_end,
        windows: pci_windows(device)?,
        dma_coherent: device.inherits("dma-coherent"),
    })
}

/// Reads `bus-range`, cut to what the configuration space holds, as Linux does.
fn bus_range(node: Node<'_>, ecam: PhysRange) -> Result<(u8, u8), Error> {
    let property = "bus-range";
    let (start, end) = match tree::property(node, property) {
        None => (0, 255),
        Some(value) => tree::pairs(
            value,
            Cells {
                address: 1,
                size: 1,
            },
        )
        .next()
        .ok_or(Error::Shape {
            property,
            len: value.len(),
        })?,
    };
    let room = (ecam.len() / ECAM_BUS_LEN)
        .checked_sub(1)
        .ok_or(Error::Value {
            property: "reg",
            value: ecam.len(),
        })?;
    let last = end.min(start.saturating_add(room));
    match (u8::try_from(start), u8::try_from(last)) {
        (Ok(first), Ok(last)) if start <= end => Ok((first, last)),
        _ => Err(Error::Value {
            property,
            value: end,
        }),
    }
}

/// Reads `ranges`: PCI address (3 cells), CPU address on the bus above, size (2 cells), as
/// IEEE 1275's PCI bus binding, section 2.2, has it.
fn pci_windows(device: &Lineage<'_>) -> Result<heapless::Vec<PciWindow, MAX_WINDOWS>, Error> {
    let property = "ranges";
    let value = tree::property(device.node(), property).ok_or(Error::Missing { property })?;
    let shape = Error::Shape {
        property,
        len: value.len(),
    };
    if Cells::of(device.node())
        != (Cells {
            address: 3,
            size: 2,
        })
    {
        return Err(shape);
    }
    let above = device.outer_cells().address;
    let mut reader = CellReader(value);
    let mut windows = heapless::Vec::new();
    for _ in 0..MAX_WINDOWS {
        if reader.is_empty() {
            break;
        }
        let mut entry = || {
            Some((
                reader.take(1)?,
                reader.take(2)?,
                reader.take(above)?,
                reader.take(2)?,
            ))
        };
        let (flags, bus_address, address, len) = entry().ok_or(shape)?;
        // phys.hi: bit 30 prefetchable, bits 25:24 the space.
        let space = match (flags >> 24) & 3 {
            1 => PciSpace::Io,
            2 => PciSpace::Memory32,
            3 => PciSpace::Memory64,
            _ => continue,
        };
        // A window that the CPU does not see is of no use, but others may be.
        let Ok(cpu) = device.translate(address, len) else {
            continue;
        };
        let window = PciWindow {
            space,
            prefetchable: flags & (1 << 30) != 0,
            bus_address,
            cpu,
        };
        // There is room for as many as the loop has turns.
        let _ = windows.push(window);
    }
    Ok(windows)
}
