//! A board or two of each family: what its tree resolves to. Each row is what the README's table
//! says of it.

use kdraw_boards::family::FAMILIES;
use kdraw_boards::{ConsoleKind, Controller, Device, EnableMethod, Machine, Tier, WatchdogKind};

/// What a board has.
struct Board {
    fixture: &'static [u8],
    family: &'static str,
    /// Where the console is.
    console: (ConsoleKind, u64),
    /// Where its storage controllers are, those that can hold a disk and, unless the family is
    /// only described, have a driver.
    storage: &'static [u64],
    watchdogs: &'static [WatchdogKind],
    /// Whether PSCI resets it and starts its CPUs.
    psci: bool,
}

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/", $name, ".dtb"))
    };
}

fn boards() -> Vec<Board> {
    vec![
        Board {
            fixture: fixture!("raspberry-pi-3b"),
            family: "Raspberry Pi 3, 4, 5",
            console: (ConsoleKind::MiniUart, 0x3f21_5040),
            storage: &[],
            watchdogs: &[WatchdogKind::Bcm2835],
            psci: false,
        },
        Board {
            fixture: fixture!("raspberry-pi-4b"),
            family: "Raspberry Pi 3, 4, 5",
            console: (ConsoleKind::MiniUart, 0xfe21_5040),
            storage: &[0xfe34_0000],
            watchdogs: &[WatchdogKind::Bcm2835],
            psci: false,
        },
        Board {
            fixture: fixture!("raspberry-pi-5"),
            family: "Raspberry Pi 3, 4, 5",
            console: (ConsoleKind::Pl011, 0x10_7d00_1000),
            storage: &[0x10_00ff_f000],
            watchdogs: &[],
            psci: true,
        },
        Board {
            fixture: fixture!("rock64"),
            family: "Rockchip RK3328, RK3399, RK3566/68, RK3588",
            console: (ConsoleKind::Ns16550, 0xff13_0000),
            storage: &[0xff50_0000, 0xff52_0000],
            watchdogs: &[WatchdogKind::DesignWare],
            psci: true,
        },
        Board {
            fixture: fixture!("rockpro64"),
            family: "Rockchip RK3328, RK3399, RK3566/68, RK3588",
            console: (ConsoleKind::Ns16550, 0xff1a_0000),
            storage: &[0xfe31_0000, 0xfe32_0000, 0xfe33_0000],
            watchdogs: &[WatchdogKind::DesignWare],
            psci: true,
        },
        Board {
            fixture: fixture!("quartz64-a"),
            family: "Rockchip RK3328, RK3399, RK3566/68, RK3588",
            console: (ConsoleKind::Ns16550, 0xfe66_0000),
            storage: &[0xfe2b_0000, 0xfe2c_0000, 0xfe31_0000],
            watchdogs: &[WatchdogKind::DesignWare],
            psci: true,
        },
        Board {
            fixture: fixture!("rock-5b"),
            family: "Rockchip RK3328, RK3399, RK3566/68, RK3588",
            console: (ConsoleKind::Ns16550, 0xfeb5_0000),
            storage: &[0xfe2c_0000, 0xfe2e_0000],
            watchdogs: &[WatchdogKind::DesignWare],
            psci: true,
        },
        Board {
            fixture: fixture!("imx8mm-evk"),
            family: "NXP i.MX8, i.MX9",
            console: (ConsoleKind::Imx, 0x3089_0000),
            storage: &[0x30b5_0000, 0x30b6_0000],
            watchdogs: &[WatchdogKind::Imx],
            psci: true,
        },
        Board {
            fixture: fixture!("imx93-evk"),
            family: "NXP i.MX8, i.MX9",
            console: (ConsoleKind::Lpuart, 0x4438_0000),
            storage: &[0x4285_0000, 0x4286_0000],
            watchdogs: &[],
            psci: true,
        },
        Board {
            fixture: fixture!("am625-sk"),
            family: "TI AM62, AM64, AM65, J7",
            console: (ConsoleKind::Ns16550Wide, 0x280_0000),
            storage: &[0xfa1_0000, 0xfa0_0000],
            watchdogs: &[
                WatchdogKind::Rti,
                WatchdogKind::Rti,
                WatchdogKind::Rti,
                WatchdogKind::Rti,
                WatchdogKind::Rti,
            ],
            psci: true,
        },
        Board {
            fixture: fixture!("am642-sk"),
            family: "TI AM62, AM64, AM65, J7",
            console: (ConsoleKind::Ns16550Wide, 0x280_0000),
            storage: &[0xfa0_0000],
            watchdogs: &[WatchdogKind::Rti, WatchdogKind::Rti],
            psci: true,
        },
        Board {
            fixture: fixture!("zcu102"),
            family: "Xilinx ZynqMP",
            console: (ConsoleKind::Cadence, 0xff00_0000),
            storage: &[0xff17_0000],
            watchdogs: &[WatchdogKind::Cadence],
            psci: true,
        },
        Board {
            fixture: fixture!("pine64"),
            family: "Allwinner A64, H5, H6, H616",
            console: (ConsoleKind::Ns16550, 0x1c2_8000),
            storage: &[0x1c0_f000],
            watchdogs: &[WatchdogKind::Sunxi],
            psci: true,
        },
        Board {
            fixture: fixture!("pine-h64"),
            family: "Allwinner A64, H5, H6, H616",
            console: (ConsoleKind::Ns16550, 0x500_0000),
            storage: &[0x402_0000, 0x402_2000],
            watchdogs: &[WatchdogKind::Sunxi],
            psci: true,
        },
        Board {
            fixture: fixture!("orangepi-zero2"),
            family: "Allwinner A64, H5, H6, H616",
            console: (ConsoleKind::Ns16550, 0x500_0000),
            storage: &[0x402_0000],
            watchdogs: &[WatchdogKind::Sunxi],
            psci: true,
        },
        Board {
            fixture: fixture!("libretech-cc"),
            family: "Amlogic GXBB to SM1",
            console: (ConsoleKind::Meson, 0xc810_04c0),
            storage: &[0xd007_2000, 0xd007_4000],
            watchdogs: &[WatchdogKind::Meson],
            psci: true,
        },
        Board {
            fixture: fixture!("odroid-n2"),
            family: "Amlogic GXBB to SM1",
            console: (ConsoleKind::Meson, 0xff80_3000),
            storage: &[0xffe0_5000, 0xffe0_7000],
            watchdogs: &[WatchdogKind::Meson],
            psci: true,
        },
        Board {
            fixture: fixture!("espressobin"),
            family: "Marvell Armada 3700, 7K, 8K, CN913x",
            console: (ConsoleKind::Mvebu, 0xd001_2000),
            storage: &[0xd00d_0000],
            watchdogs: &[],
            psci: true,
        },
        Board {
            fixture: fixture!("dragonboard-410c"),
            family: "Qualcomm Snapdragon",
            console: (ConsoleKind::UartDm, 0x78b_0000),
            storage: &[0x782_4900, 0x786_4900],
            watchdogs: &[],
            psci: true,
        },
        Board {
            fixture: fixture!("robotics-rb1"),
            family: "Qualcomm Snapdragon",
            console: (ConsoleKind::Geni, 0x4a9_0000),
            storage: &[0x474_4000, 0x478_4000],
            watchdogs: &[],
            psci: true,
        },
        Board {
            fixture: fixture!("jetson-nano"),
            family: "NVIDIA Tegra210",
            console: (ConsoleKind::Ns16550, 0x7000_6000),
            storage: &[0x700b_0000, 0x700b_0400],
            watchdogs: &[],
            psci: true,
        },
        Board {
            fixture: fixture!("juno-r2"),
            family: "Arm Juno, FVP",
            console: (ConsoleKind::Pl011, 0x7ff8_0000),
            storage: &[0x4000_0000],
            watchdogs: &[WatchdogKind::Sp805],
            psci: true,
        },
    ]
}

#[test]
fn boards_resolve_to_their_devices() {
    for board in boards() {
        let machine = Machine::from_dtb(board.fixture).unwrap();
        let model = machine.model().unwrap();
        let family = machine.family().unwrap();
        assert_eq!(family.name, board.family, "{model}");
        let console = machine.console().unwrap();
        let found = (console.kind, console.registers.start.0);
        assert_eq!(found, board.console, "{model}");
        let devices = machine.devices().unwrap();
        let storage = devices
            .filter(|device| !device.is_sdio_only())
            .filter_map(|device| device.controller().ok())
            .map(|controller| match controller {
                Controller::Sd(host) => host.registers.start.0,
                Controller::PciHost(host) => host.ecam.start.0,
                other => panic!("{model}: {other:?}"),
            });
        if family.tier != Tier::Described {
            assert_eq!(storage.collect::<Vec<_>>(), board.storage, "{model}");
        }
        let watchdogs = machine
            .watchdogs()
            .into_iter()
            .map(|watchdog| watchdog.kind);
        assert_eq!(watchdogs.collect::<Vec<_>>(), board.watchdogs, "{model}");
        let resets = machine.psci().is_ok_and(|psci| psci.system_reset.is_some());
        let starts = machine
            .cpus()
            .all(|cpu| cpu.enable_method == EnableMethod::Psci);
        assert_eq!((resets, starts), (board.psci, board.psci), "{model}");
    }
}

#[test]
fn a_radio_is_no_disk() {
    let radio = Machine::from_dtb(fixture!("raspberry-pi-3b")).unwrap();
    let devices = radio.devices().unwrap();
    let hosts = devices.filter(|device| device.controller().is_ok());
    let hosts: Vec<Device<'_>> = hosts.collect();
    assert_eq!(hosts.len(), 1);
    assert!(hosts[0].is_sdio_only());
}

#[test]
fn every_family_has_boards_and_a_row_in_the_readme() {
    let readme = include_str!("../README.md");
    for family in FAMILIES {
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| [{}]", family.name)));
        let row = row.unwrap_or_else(|| panic!("{} has no row", family.name));
        let tier = match family.tier {
            Tier::Emulated => "emulated",
            Tier::Modelled => "modelled",
            Tier::Described => "described",
        };
        assert!(row.ends_with(&format!("| {tier} |")), "{row}");
        let shared = FAMILIES.iter().filter(|other| {
            let is_ours = |name: &&&str| family.boards.contains(*name);
            other.boards.iter().find(is_ours).is_some()
        });
        assert_eq!(shared.count(), 1, "{} shares a board", family.name);
        let tested = boards().iter().any(|board| board.family == family.name);
        assert!(tested || family.tier == Tier::Emulated, "{}", family.name);
    }
}
