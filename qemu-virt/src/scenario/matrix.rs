//! The scenarios of `cargo xtask test`, as a table: variants of the machine, each on every kernel.
//!
//! A new variant is a new row; `quick` names the kernels on which it also runs without `--full`.

use clap::ValueEnum;

use super::{Destination, DumpOptions, KernelChoice, Loader, Panic, Scenario};
use crate::board::Board;
use crate::disk_bus::DiskBus;
use crate::material::Suite;

/// The kernels: 6.1, 6.12 and 7.x.
const SUITES: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Sid];

/// A machine and a way to panic.
struct Variant {
    name: &'static str,
    mem: u64,
    fill: u64,
    smp: u32,
    cpu: &'static str,
    board: Board,
    virt: &'static [&'static str],
    disk: DiskBus,
    identify_card: bool,
    panic: Panic,
    panic_cpu: u32,
    plain: bool,
    loader: Loader,
    /// Compared with what `kdraw estimate` says just before.
    estimate: bool,
    /// Sent over the serial console too.
    target: Destination,
    /// Captured again and again, at every level, cut, and into small slots.
    again: bool,
    /// Booted once more after the reset, and extracted inside the guest.
    recover: bool,
    /// With a watchdog that resets the machine when it is not petted for 10 s.
    watchdog: bool,
    /// Dumped by QEMU and makedumpfile too.
    foreign: bool,
    /// The dump level.
    level: u8,
    /// Also opened with drgn, crash and gdb.
    tools: bool,
    /// Played on these kernels.
    suites: &'static [Suite],
    /// On these kernels, with `--full`, with Debian's arm64 build of crash besides.
    arm64_crash: &'static [Suite],
    quick: &'static [Suite],
}

/// Every feature QEMU has; its default pointer authentication makes the guest four times slower.
const MAX: &str = "max,pauth-impdef=on";

const BASE: Variant = Variant {
    name: "base",
    mem: 1024,
    fill: 256,
    smp: 2,
    cpu: "cortex-a72",
    board: Board::Virt,
    virt: &[],
    disk: DiskBus::VirtioMmio,
    identify_card: false,
    panic: Panic::Sysrq,
    panic_cpu: 0,
    plain: false,
    loader: Loader::Kdraw,
    estimate: false,
    target: Destination::Partition,
    again: false,
    recover: false,
    watchdog: false,
    foreign: false,
    level: 31,
    tools: false,
    suites: &SUITES,
    arm64_crash: &[],
    quick: &[],
};

/// A board with a card in its slot. Only one kernel: what differs from `virt` is the hardware.
const BOARD: Variant = Variant {
    suites: &[Suite::Trixie],
    ..BASE
};

const VARIANTS: &[Variant] = &[
    Variant {
        estimate: true,
        tools: true,
        arm64_crash: &[Suite::Bookworm],
        quick: &[Suite::Bookworm],
        ..BASE
    },
    Variant {
        name: "one-cpu-3g",
        mem: 3072,
        smp: 1,
        disk: DiskBus::VirtioPci,
        panic: Panic::Null,
        ..BASE
    },
    Variant {
        name: "four-cpus-gic3",
        smp: 4,
        virt: &["gic-version=3"],
        disk: DiskBus::VirtioPci,
        panic: Panic::IrqOff,
        panic_cpu: 3,
        quick: &[Suite::Trixie],
        ..BASE
    },
    Variant {
        name: "el2",
        virt: &["virtualization=on"],
        panic: Panic::Null,
        panic_cpu: 1,
        quick: &[Suite::Bookworm],
        ..BASE
    },
    Variant {
        name: "el2-vhe",
        smp: 4,
        cpu: MAX,
        virt: &["virtualization=on", "gic-version=3"],
        panic_cpu: 2,
        quick: &[Suite::Sid],
        ..BASE
    },
    Variant {
        name: "el2-vhe-pci-3g",
        mem: 3072,
        cpu: MAX,
        virt: &["virtualization=on"],
        disk: DiskBus::VirtioPci,
        panic: Panic::IrqOff,
        panic_cpu: 1,
        ..BASE
    },
    Variant {
        name: "plain",
        disk: DiskBus::VirtioPci,
        panic_cpu: 1,
        plain: true,
        estimate: true,
        tools: true,
        quick: &[Suite::Trixie],
        ..BASE
    },
    Variant {
        name: "nvme",
        smp: 4,
        disk: DiskBus::Nvme,
        panic: Panic::Null,
        panic_cpu: 2,
        recover: true,
        ..BASE
    },
    Variant {
        name: "again",
        again: true,
        tools: true,
        quick: &[Suite::Bookworm],
        ..BASE
    },
    Variant {
        name: "foreign",
        mem: 512,
        fill: 32,
        panic: Panic::Null,
        panic_cpu: 1,
        foreign: true,
        level: 0,
        ..BASE
    },
    Variant {
        name: "serial",
        mem: 512,
        fill: 32,
        target: Destination::Serial,
        watchdog: true,
        ..BASE
    },
    Variant {
        name: "serial-briefly",
        mem: 512,
        fill: 32,
        target: Destination::SerialBriefly,
        watchdog: true,
        quick: &[Suite::Bookworm],
        ..BASE
    },
    Variant {
        name: "sdhci",
        disk: DiskBus::Sdhci,
        recover: true,
        quick: &[Suite::Trixie],
        ..BASE
    },
    Variant {
        name: "sdhci-identify",
        disk: DiskBus::Sdhci,
        identify_card: true,
        panic: Panic::Null,
        panic_cpu: 1,
        ..BASE
    },
    Variant {
        name: "sdhci-sdma",
        disk: DiskBus::SdhciSdma,
        panic: Panic::IrqOff,
        ..BASE
    },
    Variant {
        name: "sdhci-pio",
        disk: DiskBus::SdhciPio,
        identify_card: true,
        ..BASE
    },
    Variant {
        name: "emmc",
        disk: DiskBus::Emmc,
        recover: true,
        suites: &[Suite::Bookworm],
        ..BASE
    },
    Variant {
        name: "xlnx-zcu102",
        board: Board::XlnxZcu102,
        ..BOARD
    },
    Variant {
        name: "raspi3b",
        board: Board::Raspi3b,
        ..BOARD
    },
    Variant {
        name: "raspi4b",
        board: Board::Raspi4b,
        ..BOARD
    },
    Variant {
        name: "imx8mp-evk",
        board: Board::Imx8mpEvk,
        ..BOARD
    },
    Variant {
        name: "stock-kexec",
        panic_cpu: 1,
        loader: Loader::Kexec,
        ..BASE
    },
];

/// A way to panic. The machine is a small one: what differs is what the kernel says and where it
/// stands.
const PANIC: Variant = Variant {
    mem: 512,
    fill: 32,
    panic_cpu: 1,
    tools: true,
    ..BASE
};

/// A scenario and how it takes part in `cargo xtask test`.
pub struct Entry {
    /// The scenario.
    pub scenario: Scenario,
    /// Runs without `--full`.
    pub quick: bool,
    /// With `--tools`, the vmcore is also opened with the foreign readers.
    pub tools: bool,
    /// With `--full`, Debian's arm64 build of crash is one of them.
    pub arm64_crash: bool,
}

/// Returns every scenario.
pub fn all() -> Vec<Entry> {
    let mut entries = Vec::new();
    for suite in SUITES {
        for variant in VARIANTS {
            if !variant.suites.contains(&suite) {
                continue;
            }
            entries.push(variant.on(suite));
        }
        entries.extend(Panic::value_variants().iter().map(|&panic| {
            let mut entry = Variant { panic, ..PANIC }.on(suite);
            entry.scenario.name = format!("{}-panic-{}", suite.name(), panic.word());
            entry
        }));
    }
    entries
}

impl Variant {
    fn on(&self, suite: Suite) -> Entry {
        let mut scenario = Scenario {
            name: format!("{}-{}", suite.name(), self.name),
            kernel: KernelChoice::Suite(suite),
            mem: self.mem,
            smp: self.smp,
            crashkernel: "8M".into(),
            cpu: self.cpu.into(),
            board: self.board,
            virt: self.virt.iter().map(|&option| option.into()).collect(),
            disk: self.disk,
            identify_card: self.identify_card,
            fill: self.fill,
            panic: self.panic,
            panic_cpu: self.panic_cpu,
            plain: self.plain,
            loader: self.loader,
            target: self.target,
            again: self.again,
            recover: self.recover,
            watchdog: self.watchdog,
            estimate: self.estimate,
            foreign: self.foreign,
            dump: DumpOptions {
                level: self.level,
                ..DumpOptions::default()
            },
        };
        scenario.fit_machine();
        Entry {
            scenario,
            quick: self.quick.contains(&suite),
            tools: self.tools,
            arm64_crash: self.arm64_crash.contains(&suite),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_possible_and_told_apart() {
        let mut names = std::collections::HashSet::new();
        for entry in all() {
            let scenario = entry.scenario;
            assert!(
                scenario.panic_cpu < scenario.smp,
                "{} panics on no CPU",
                scenario.name
            );
            assert!(
                names.insert(scenario.name.clone()),
                "two scenarios {}",
                scenario.name
            );
        }
    }
}
