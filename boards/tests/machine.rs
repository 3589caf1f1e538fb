//! What the machine description says about real trees and about small ones made here, each
//! answer with an invalid twin.

use kdraw_boards::machine::MAX_WATCHDOGS;
use kdraw_boards::{
    Conduit, Console, ConsoleKind, Controller, ControllerKind, Cpu, EnableMethod, Error, Machine,
    PciHost, PciSpace, PciWindow, Psci, SdHost, SdKind, SdhciQuirks, Watchdog, WatchdogKind,
    controller_kind,
};
use kdraw_format::addr::{PhysAddr, PhysRange};

mod trees;

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
                registers,
                shift: 2,
                wide: true,
            })
        );
        let psci = Psci {
            conduit: expected.conduit,
            system_reset: Some(0x8400_0009),
            cpu_on: Some(0xc400_0003),
            affinity_info: Some(0xc400_0004),
        };
        assert_eq!(machine.psci(), Ok(psci));
        // On one CPU there is nothing to start, and QEMU does not say how.
        let enable_method = match expected.cpus.len() {
            1 => EnableMethod::Unknown,
            _ => EnableMethod::Psci,
        };
        let cpus = expected.cpus.iter().map(|&mpidr| Cpu {
            mpidr,
            enable_method,
        });
        assert!(machine.cpus().eq(cpus));
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

#[test]
fn small_board_has_buses_aliases_and_old_firmware() {
    let blob = trees::small_board();
    let machine = open(&blob);
    assert_eq!(machine.model(), Some("Small Board"));
    assert!(machine.family().is_none());
    let registers = range(0x10_0010_2000, 0x1000);
    assert_eq!(
        machine.console(),
        Some(Console {
            kind: ConsoleKind::Pl011,
            registers,
            shift: 2,
            wide: true,
        })
    );
    let psci = Psci {
        conduit: Conduit::Smc,
        system_reset: None,
        cpu_on: Some(0x95c1_ba60),
        affinity_info: None,
    };
    assert_eq!(machine.psci(), Ok(psci));
    assert_eq!(machine.initrd(), Ok(Some(range(0x7010_0000, 0x1000))));
    let cpus = [
        (0, EnableMethod::Unknown),
        (0x100, EnableMethod::Psci),
        (0x101, EnableMethod::SpinTable),
        (0x102, EnableMethod::Unknown),
    ];
    let cpus = cpus.map(|(low, enable_method)| Cpu {
        mpidr: 1 << 32 | low,
        enable_method,
    });
    assert_eq!(machine.cpus().collect::<Vec<_>>(), cpus);
    let memory = [range(0x4000_0000, 0x4000_0000), range(8 << 32, 1 << 32)];
    assert_eq!(machine.memory().collect::<Vec<_>>(), memory);

    let virtio = |start, dma_coherent| {
        Ok(Controller::VirtioMmio {
            registers: range(start, 0x200),
            dma_coherent,
        })
    };
    let host = PciHost {
        ecam: range(0x10_0000_0000, 0x20_0000),
        bus_start: 0x20,
        // 2 MiB hold two buses, whatever bus-range says.
        bus_end: 0x21,
        windows: heapless::Vec::from_iter([PciWindow {
            space: PciSpace::Memory32,
            prefetchable: true,
            bus_address: 0xc000_0000,
            cpu: range(0x10_0000_1000, 0x2000),
        }]),
        dma_coherent: false,
    };
    let table = [
        ("/outer@0/inner/disk@3000", virtio(0x10_0010_3000, false)),
        ("/outer/inner/disk", virtio(0x10_0010_3000, false)),
        ("//outer@0//inner/disk@3000/", virtio(0x10_0010_3000, false)),
        ("/flat/disk@5000", virtio(0x1_0000_5000, true)),
        ("/outer@0/pcie@100000", Ok(Controller::PciHost(host))),
        ("/outer@1/inner/disk@3000", Err(Error::NoNode)),
        ("/inner/disk@3000", Err(Error::NoNode)),
        ("/outer@0/flat/disk@5000", Err(Error::NoNode)),
        (
            "/outer@0/inner/across@ff00",
            Err(Error::NotMapped { address: 0xff00 }),
        ),
        (
            "/island/disk@8000",
            Err(Error::NotMapped { address: 0x8000 }),
        ),
        ("/flat/high@0", Err(Error::NotMapped { address: u64::MAX })),
        (
            "/flat/empty@6000",
            Err(Error::Value {
                property: "reg",
                value: 0,
            }),
        ),
        (
            "/flat/odd@7000",
            Err(Error::Shape {
                property: "reg",
                len: 12,
            }),
        ),
        ("/outer@0/off@4000", Err(Error::Disabled)),
        ("/sleeping/disk@9000", Err(Error::Disabled)),
        ("/other@a000", Err(Error::NoDriver)),
    ];
    for (path, expected) in table {
        assert_eq!(machine.controller(path), expected, "{path}");
    }
}

#[test]
fn chosen_values_that_make_no_sense() {
    let missing = |property| Error::Missing { property };
    let shape = |property, len| Error::Shape { property, len };
    let value = |property, value| Error::Value { property, value };
    let region = "linux,usable-memory-range";
    let (start, end) = ("linux,initrd-start", "linux,initrd-end");

    type Answer = Result<Option<PhysRange>, Error>;
    type Ask = fn(&Machine<'_>) -> Answer;
    type Properties<'a> = &'a [(&'a str, &'a [u32])];
    let ask_region: Ask = |machine| machine.crash_region().map(Some);
    let ask_initrd: Ask = |machine| machine.initrd();
    let table: &[(Ask, u32, Properties<'_>, Answer)] = &[
        // The root's cells count, 1 or 2; what follows the first range does not matter.
        (ask_region, 1, &[(region, &[5, 6])], Ok(Some(range(5, 6)))),
        (
            ask_region,
            2,
            &[(region, &[0, 5, 1, 6, 7])],
            Ok(Some(range(5, 1 << 32 | 6))),
        ),
        (
            ask_region,
            3,
            &[(region, &[0, 0, 5, 0, 0, 6])],
            Err(shape(region, 24)),
        ),
        (ask_region, 0, &[(region, &[5, 6])], Err(shape(region, 8))),
        (
            ask_region,
            2,
            &[(region, &[0, 5, 1])],
            Err(shape(region, 12)),
        ),
        (ask_region, 2, &[(region, &[])], Err(shape(region, 0))),
        (
            ask_region,
            2,
            &[(region, &[0, 5, 0, 0])],
            Err(value(region, 0)),
        ),
        (ask_region, 1, &[], Err(missing(region))),
        (
            ask_region,
            2,
            &[(region, &[u32::MAX, u32::MAX, 0, 2])],
            Err(value(region, 2)),
        ),
        (
            ask_initrd,
            2,
            &[(start, &[5]), (end, &[1, 0])],
            Ok(Some(range(5, (1 << 32) - 5))),
        ),
        (ask_initrd, 2, &[(start, &[5])], Err(missing(end))),
        (ask_initrd, 2, &[(end, &[5])], Err(missing(start))),
        (
            ask_initrd,
            2,
            &[(start, &[5]), (end, &[5])],
            Err(value(end, 5)),
        ),
        (
            ask_initrd,
            2,
            &[(start, &[5]), (end, &[0, 0, 6])],
            Err(shape(end, 12)),
        ),
    ];
    for (ask, count, properties, expected) in table {
        let blob = trees::tree(|root| {
            trees::counts(root, *count, *count);
            trees::node(root, "chosen", |chosen| {
                properties
                    .iter()
                    .for_each(|(name, values)| trees::cells(chosen, name, values));
            });
        });
        assert_eq!(ask(&open(&blob)), *expected, "{properties:x?}");
    }
}

#[test]
fn consoles_that_cannot_be_used() {
    let uart = |start| {
        Some(Console {
            kind: ConsoleKind::Pl011,
            registers: range(start, 0x1000),
            shift: 2,
            wide: true,
        })
    };
    type Aliases<'a> = &'a [(&'a str, &'a str)];
    // Aliases of which the lowest that is switched on counts.
    let serial: Aliases<'_> = &[
        ("serial9", "/uart@4000"),
        ("serial3", "/uart@2000"),
        ("serial1", "/off@1000"),
    ];
    let table: [(Option<&str>, Aliases<'_>, _); 11] = [
        // What stdout-path says, the serial aliases, and what follows.
        (Some("/uart@2000"), &[], uart(0x2000)),
        (Some("/uart@2000:115200n8"), &[], uart(0x2000)),
        (Some("serial9"), serial, uart(0x4000)),
        (Some("/other@3000"), serial, None),
        (Some("/off@1000"), serial, None),
        // It is missing or leads nowhere.
        (None, serial, uart(0x2000)),
        (Some(""), serial, uart(0x2000)),
        (Some("serial4"), serial, uart(0x2000)),
        (Some("/uart@2001"), serial, uart(0x2000)),
        (
            None,
            &[("serial0", "/other@3000"), ("serial1", "/uart@2000")],
            None,
        ),
        // A UART that nobody names is none.
        (None, &[("serial", "/uart@2000")], None),
    ];
    for (path, aliases, expected) in table {
        let blob = trees::tree(|root| {
            trees::counts(root, 1, 1);
            trees::node(root, "off@1000", |off| {
                trees::text(off, "compatible", "arm,pl011");
                trees::text(off, "status", "disabled");
                trees::cells(off, "reg", &[0x1000, 0x1000]);
            });
            trees::device(root, "uart@2000", "arm,pl011", &[0x2000, 0x1000]);
            trees::device(root, "other@3000", "acme,uart", &[0x3000, 0x1000]);
            trees::device(root, "uart@4000", "arm,pl011", &[0x4000, 0x1000]);
            trees::node(root, "aliases", |node| {
                for (name, path) in aliases {
                    trees::text(node, name, path);
                }
            });
            trees::node(root, "chosen", |chosen| {
                path.into_iter()
                    .for_each(|path| trees::text(chosen, "stdout-path", path));
            });
        });
        assert_eq!(open(&blob).console(), expected, "{path:?} {aliases:?}");
    }
}

#[test]
fn registers_of_an_8250_lie_where_its_node_says() {
    let value = |property, value| Err(Error::Value { property, value });
    // Compatible string, reg-shift, reg-io-width; shift and whether they are 32 bits wide.
    let table = [
        ("ns16550a", None, None, Ok((0, false))),
        ("snps,dw-apb-uart", Some(2), Some(4), Ok((2, true))),
        ("ns16550a", Some(2), None, Ok((2, false))),
        ("ns16550a", Some(5), None, value("reg-shift", 5)),
        (
            "ns16550a",
            Some(2),
            Some(1 << 20),
            value("reg-io-width", 1 << 20),
        ),
        ("ti,am654-uart", None, None, Ok((2, true))),
        ("brcm,bcm2835-aux-uart", None, None, Ok((2, true))),
        ("acme,uart", None, None, Err(Error::NoDriver)),
    ];
    for (compatible, shift, width, expected) in table {
        let blob = trees::tree(|root| {
            trees::counts(root, 1, 1);
            trees::node(root, "uart@2000", |uart| {
                trees::text(uart, "compatible", compatible);
                trees::cells(uart, "reg", &[0x2000, 0x100]);
                for (name, value) in [("reg-shift", shift), ("reg-io-width", width)] {
                    value
                        .into_iter()
                        .for_each(|value| trees::cells(uart, name, &[value]));
                }
            });
        });
        let found = open(&blob).uart("/uart@2000");
        let found = found.map(|uart| (uart.shift, uart.wide));
        assert_eq!(found, expected, "{compatible} {shift:?} {width:?}");
    }
}

#[test]
fn firmware_that_cannot_be_called() {
    let table = [
        ("arm,psci-0.2", Some("hvc"), Ok(Some(0x8400_0009))),
        ("arm,psci", Some("hvc"), Ok(None)),
        (
            "arm,psci-0.2",
            Some("svc"),
            Err(Error::Missing { property: "method" }),
        ),
        (
            "arm,psci-0.2",
            None,
            Err(Error::Missing { property: "method" }),
        ),
        ("arm,psci-9", Some("hvc"), Err(Error::NoPsci)),
    ];
    for (compatible, method, expected) in table {
        let blob = trees::tree(|root| {
            trees::node(root, "off", |psci| {
                trees::text(psci, "compatible", "arm,psci-1.0");
                trees::text(psci, "status", "disabled");
            });
            trees::node(root, "firmware", |psci| {
                trees::text(psci, "compatible", compatible);
                method
                    .into_iter()
                    .for_each(|method| trees::text(psci, "method", method));
            });
        });
        assert_eq!(
            open(&blob).psci().map(|psci| psci.system_reset),
            expected,
            "{compatible}"
        );
    }
}

#[test]
fn sd_hosts_are_described_with_their_wiring() {
    const HOST: SdHost = SdHost {
        registers: PhysRange {
            start: PhysAddr(0x9000),
            end: PhysAddr(0x9100),
        },
        dma_coherent: false,
        dma_is_direct: true,
        width: 1,
        base_clock_hz: 0,
        max_clock_hz: 0,
        high_speed: false,
        fifo_depth: 0,
        kind: SdKind::Sdhci(SdhciQuirks {
            unknown_base_clock: false,
            foreign_clock: false,
            no_dma: false,
            no_high_speed: false,
        }),
    };
    let indirect = SdHost {
        dma_is_direct: false,
        ..HOST
    };
    type Cell<'a> = (&'a str, &'a [u32]);
    // Properties of the bus, of the controller, and what follows.
    let table: [(&[Cell<'_>], &[Cell<'_>], SdHost); 13] = [
        (&[], &[], HOST),
        (&[], &[("bus-width", &[4])], SdHost { width: 4, ..HOST }),
        (&[], &[("bus-width", &[8])], SdHost { width: 8, ..HOST }),
        (&[], &[("bus-width", &[5])], HOST),
        (
            &[],
            &[
                ("max-frequency", &[25_000_000]),
                ("clock-frequency", &[200_000_000]),
                ("dma-coherent", &[]),
            ],
            SdHost {
                base_clock_hz: 200_000_000,
                max_clock_hz: 25_000_000,
                dma_coherent: true,
                ..HOST
            },
        ),
        (
            &[],
            &[("fifo-depth", &[256]), ("cap-sd-highspeed", &[])],
            SdHost {
                fifo_depth: 256,
                high_speed: true,
                ..HOST
            },
        ),
        (
            &[],
            &[("cap-mmc-highspeed", &[])],
            SdHost {
                high_speed: true,
                ..HOST
            },
        ),
        (&[], &[("iommus", &[1, 2])], indirect),
        // The Raspberry Pi 4's emmc2bus as its firmware writes it, newer steppings and older.
        (&[("dma-ranges", &[])], &[], HOST),
        (&[("dma-ranges", &[0, 0, 0, 0, 0xfc00_0000])], &[], HOST),
        (
            &[("dma-ranges", &[0, 0xc000_0000, 0, 0, 0x4000_0000])],
            &[],
            indirect,
        ),
        (
            &[("dma-ranges", &[0, 0, 0, 0, 4096, 0, 4096, 0, 0, 4096])],
            &[],
            indirect,
        ),
        (&[("dma-ranges", &[0, 0, 0, 0])], &[], indirect),
    ];
    for (bus, controller, expected) in table {
        let blob = trees::tree(|root| {
            trees::counts(root, 2, 1);
            trees::node(root, "bus", |node| {
                trees::counts(node, 2, 1);
                trees::cells(node, "ranges", &[]);
                for (name, values) in bus {
                    trees::cells(node, name, values);
                }
                trees::node(node, "mmc@9000", |node| {
                    trees::text(node, "compatible", "brcm,bcm2711-emmc2");
                    trees::cells(node, "reg", &[0, 0x9000, 0x100]);
                    for (name, values) in controller {
                        trees::cells(node, name, values);
                    }
                });
            });
        });
        let found = open(&blob).controller("/bus/mmc@9000");
        assert_eq!(
            found,
            Ok(Controller::Sd(expected)),
            "{bus:x?} {controller:x?}"
        );
    }
}

#[test]
fn an_assigned_rate_is_the_base_clock_of_hosts_that_do_not_know_theirs() {
    for (name, expected) in [
        ("fsl,imx8mm-usdhc", 200_000_000),
        ("rockchip,rk3399-sdhci-5.1", 200_000_000),
        ("brcm,bcm2711-emmc2", 0),
    ] {
        let blob = trees::tree(|root| {
            trees::counts(root, 2, 1);
            trees::node(root, "mmc@9000", |node| {
                trees::text(node, "compatible", name);
                trees::cells(node, "reg", &[0, 0x9000, 0x100]);
                trees::cells(node, "assigned-clock-rates", &[200_000_000]);
            });
        });
        let Ok(Controller::Sd(host)) = open(&blob).controller("/mmc@9000") else {
            panic!("{name}");
        };
        assert_eq!(host.base_clock_hz, expected, "{name}");
    }
}

#[test]
fn an_sd_hosts_quirks_are_those_of_the_first_name_that_is_known() {
    for (names, quirks) in [
        (
            &["rockchip,rk3588-dwcmshc"][..],
            SdhciQuirks {
                foreign_clock: true,
                ..SdhciQuirks::default()
            },
        ),
        (
            &[
                "acme,sdhci",
                "rockchip,rk3399-sdhci-5.1",
                "arasan,sdhci-5.1",
            ],
            SdhciQuirks {
                unknown_base_clock: true,
                ..SdhciQuirks::default()
            },
        ),
    ] {
        let found = names.iter().find_map(|name| controller_kind(name));
        assert_eq!(
            found,
            Some(ControllerKind::Sd(SdKind::Sdhci(quirks))),
            "{names:?}"
        );
    }
    for (names, kind) in [
        (
            ["rockchip,rk3399-dw-mshc", "rockchip,rk3288-dw-mshc"],
            SdKind::DwMmc,
        ),
        (
            ["allwinner,sun50i-h6-mmc", "allwinner,sun50i-a64-mmc"],
            SdKind::Sunxi,
        ),
        (["fsl,imx8mp-usdhc", "fsl,imx8mm-usdhc"], SdKind::Usdhc),
        (
            ["amlogic,meson-sm1-mmc", "amlogic,meson-axg-mmc"],
            SdKind::MesonGx { version_3: true },
        ),
        (
            ["amlogic,meson-gx-mmc", "amlogic,meson-gxbb-mmc"],
            SdKind::MesonGx { version_3: false },
        ),
    ] {
        let found = names.iter().find_map(|name| controller_kind(name));
        assert_eq!(found, Some(ControllerKind::Sd(kind)), "{names:?}");
    }
    assert_eq!(controller_kind("fsl,esdhc"), None);
}

#[test]
fn watchdogs_are_found_with_all_their_ranges() {
    let blob = trees::tree(|root| {
        trees::counts(root, 1, 1);
        trees::node(root, "soc", |soc| {
            trees::counts(soc, 1, 1);
            trees::cells(soc, "ranges", &[0x7e00_0000, 0xfe00_0000, 0x100_0000]);
            let pm = &[0x7e10_0000, 0x114, 0x7e00_a000, 0x24];
            trees::device(soc, "watchdog@7e100000", "brcm,bcm2711-pm", pm);
            trees::node(soc, "watchdog@7e200000", |imx| {
                trees::text(imx, "compatible", "fsl,imx21-wdt");
                trees::cells(imx, "reg", &[0x7e20_0000, 0x1_0000]);
                trees::cells(imx, "big-endian", &[]);
                trees::cells(imx, "fsl,ext-reset-output", &[]);
            });
            trees::node(soc, "watchdog@7e300000", |off| {
                trees::text(off, "compatible", "snps,dw-wdt");
                trees::cells(off, "reg", &[0x7e30_0000, 0x100]);
                trees::text(off, "status", "disabled");
            });
            let frames = &[0x7e40_0000, 0x1000, 0x7e41_0000, 0x1000];
            trees::device(soc, "watchdog@7e400000", "arm,sbsa-gwdt", frames);
            // One frame is missing.
            trees::device(soc, "watchdog@7e500000", "arm,sbsa-gwdt", &frames[..2]);
            trees::device(soc, "watchdog@7e600000", "acme,wdt", &[0x7e60_0000, 0x100]);
        });
    });
    let machine = open(&blob);
    let plain = |kind, registers| Watchdog {
        kind,
        registers,
        refresh: None,
        big_endian: false,
        by_pin: false,
    };
    let bcm2835 = plain(WatchdogKind::Bcm2835, range(0xfe10_0000, 0x114));
    let imx = Watchdog {
        big_endian: true,
        by_pin: true,
        ..plain(WatchdogKind::Imx, range(0xfe20_0000, 0x1_0000))
    };
    let sbsa = Watchdog {
        refresh: Some(range(0xfe41_0000, 0x1000)),
        ..plain(WatchdogKind::Sbsa, range(0xfe40_0000, 0x1000))
    };
    assert_eq!(machine.watchdogs(), [bcm2835, imx, sbsa]);
    for (path, expected) in [
        ("/soc/watchdog@7e200000", Ok(imx)),
        ("/soc/watchdog@7e300000", Err(Error::Disabled)),
        ("/soc/watchdog@7e600000", Err(Error::NoDriver)),
        (
            "/soc/watchdog@7e500000",
            Err(Error::Shape {
                property: "reg",
                len: 8,
            }),
        ),
    ] {
        assert_eq!(machine.watchdog(path), expected, "{path}");
    }
}

#[test]
fn no_more_watchdogs_are_found_than_there_is_room_for() {
    let blob = trees::tree(|root| {
        trees::counts(root, 1, 1);
        for number in 1..20 {
            let name = format!("watchdog@{number}000");
            trees::device(root, &name, "arm,sp805", &[number << 12, 0x1000]);
        }
    });
    let found = open(&blob).watchdogs();
    assert_eq!(found.len(), MAX_WATCHDOGS);
    assert_eq!(
        found.last().map(|last| last.registers),
        Some(range(0x8000, 0x1000))
    );
}
