//! What the machine description says about real trees and about small ones made here, each
//! answer with an invalid twin.

use kdraw_boards::{
    Conduit, Console, ConsoleKind, Controller, Error, Machine, PciHost, PciSpace, PciWindow, Psci,
};
use kdraw_format::addr::{PhysAddr, PhysRange};

const GICV2: &[u8] = include_bytes!("../fixtures/qemu-gicv2.dtb");
const GICV3_EL2: &[u8] = include_bytes!("../fixtures/qemu-gicv3-el2.dtb");
const HIGHMEM_OFF: &[u8] = include_bytes!("../fixtures/qemu-highmem-off.dtb");

/// QEMU's PCI windows: space, PCI address, CPU address, length.
const WINDOWS: [(PciSpace, u64, u64, u64); 3] = [
    (PciSpace::Io, 0, 0x3eff_0000, 0x1_0000),
    (PciSpace::Memory32, 0x1000_0000, 0x1000_0000, 0x2eff_0000),
    (
        PciSpace::Memory64,
        0x80_0000_0000,
        0x80_0000_0000,
        0x80_0000_0000,
    ),
];

fn range(start: u64, len: u64) -> PhysRange {
    PhysRange::with_len(PhysAddr(start), len).unwrap()
}

fn open(blob: &[u8]) -> Machine<'_> {
    Machine::from_dtb(blob).unwrap()
}

#[test]
fn qemu_says_what_it_is() {
    struct Expected {
        crash_region: Result<PhysRange, Error>,
        elfcorehdr: Result<PhysRange, Error>,
        initrd: Option<PhysRange>,
        conduit: Conduit,
        cpus: &'static [u64],
        memory: PhysRange,
        ecam: PhysRange,
        last_bus: u8,
        windows: &'static [(PciSpace, u64, u64, u64)],
    }
    let missing = |property| Err(Error::Missing { property });
    let table = [
        (
            GICV2,
            Expected {
                crash_region: Ok(range(0x7f60_0000, 0x80_0000)),
                elfcorehdr: Ok(range(0x7fdf_f000, 0x400)),
                initrd: Some(range(0x7f70_0000, 0x1000)),
                conduit: Conduit::Hvc,
                cpus: &[0, 1],
                memory: range(0x4000_0000, 1 << 30),
                ecam: range(0x40_1000_0000, 256 << 20),
                last_bus: 255,
                windows: &WINDOWS,
            },
        ),
        (
            GICV3_EL2,
            Expected {
                // Two ranges are given, the low one second.
                crash_region: Ok(range(0xff60_0000, 0x80_0000)),
                elfcorehdr: Ok(range(0xffdf_0000, 0x1000)),
                initrd: Some(range(0xff70_0000, 0x1_0000)),
                conduit: Conduit::Smc,
                cpus: &[0, 1, 2, 3],
                memory: range(0x4000_0000, 3 << 30),
                ecam: range(0x40_1000_0000, 256 << 20),
                last_bus: 255,
                windows: &WINDOWS,
            },
        ),
        (
            HIGHMEM_OFF,
            Expected {
                crash_region: missing("linux,usable-memory-range"),
                elfcorehdr: missing("linux,elfcorehdr"),
                initrd: None,
                conduit: Conduit::Hvc,
                cpus: &[0],
                memory: range(0x4000_0000, 1 << 30),
                ecam: range(0x3f00_0000, 16 << 20),
                last_bus: 15,
                windows: &WINDOWS[..2],
            },
        ),
    ];
    for (blob, expected) in table {
        let machine = open(blob);
        assert_eq!(machine.model(), Some("linux,dummy-virt"));
        assert_eq!(
            machine.family().map(|family| family.name),
            Some("QEMU virt")
        );
        assert_eq!(machine.crash_region(), expected.crash_region);
        assert_eq!(machine.elfcorehdr(), expected.elfcorehdr);
        assert_eq!(machine.initrd(), Ok(expected.initrd));
        let registers = range(0x900_0000, 0x1000);
        assert_eq!(
            machine.console(),
            Some(Console {
                kind: ConsoleKind::Pl011,
                registers
            })
        );
        let psci = Psci {
            conduit: expected.conduit,
            system_reset: Some(0x8400_0009),
            cpu_on: Some(0xc400_0003),
        };
        assert_eq!(machine.psci(), Ok(psci));
        assert_eq!(machine.cpus().collect::<Vec<_>>(), expected.cpus);
        assert_eq!(machine.memory().collect::<Vec<_>>(), [expected.memory]);

        let disk = Controller::VirtioMmio {
            registers: range(0xa00_3e00, 0x200),
            dma_coherent: true,
        };
        assert_eq!(machine.controller("/virtio_mmio@a003e00"), Ok(disk));
        let windows = expected
            .windows
            .iter()
            .map(|&(space, bus_address, cpu, len)| PciWindow {
                space,
                prefetchable: false,
                bus_address,
                cpu: range(cpu, len),
            });
        let host = PciHost {
            ecam: expected.ecam,
            bus_start: 0,
            bus_end: expected.last_bus,
            windows: windows.collect(),
            dma_coherent: true,
        };
        assert_eq!(
            machine.controller("/pcie@10000000"),
            Ok(Controller::PciHost(host))
        );
        let table = [
            ("virtio_mmio@a003e00", Error::Path),
            ("/virtio_mmio@a004000", Error::NoNode),
            ("/virtio_mmio@a003e00/disk", Error::NoNode),
            ("/pl011@9000000", Error::NoDriver),
            ("/", Error::NoDriver),
        ];
        for (path, error) in table {
            assert_eq!(machine.controller(path), Err(error), "{path}");
        }
    }
}
