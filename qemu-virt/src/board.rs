//! The machine that QEMU emulates: `virt`, or a board of the real world with its own SD host,
//! UART, reset and device tree. A further one is a further value here.
//!
//! A board boots Debian's kernel with the device tree of the same package, changed where QEMU's
//! model lacks what the tree describes; each change says why. What QEMU has of a board is in its
//! `docs/system/arm` and `hw/arm`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::disk_bus::DiskBus;
use crate::material::Kernel;

/// A machine that QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Board {
    /// No board: PCI Express, virtio, PL011, PSCI.
    Virt,
    /// Raspberry Pi 3 model B.
    Raspi3b,
    /// Raspberry Pi 4 model B.
    Raspi4b,
    /// Xilinx ZCU102, a ZynqMP.
    XlnxZcu102,
    /// NXP i.MX 8M Plus EVK.
    Imx8mpEvk,
}

/// What tells one machine from another.
struct Facts {
    /// QEMU's name.
    name: &'static str,
    /// Physical address of the first byte of RAM.
    ram_base: u64,
    /// RAM in MiB, where there is no choice.
    mem: Option<u64>,
    /// CPUs, where there is no choice: as many as the device tree has.
    cpus: Option<u32>,
    /// The kernel's name of the console.
    console: &'static str,
    /// The console's number among QEMU's UARTs.
    uart: usize,
    /// What holds the card; none where there is a choice.
    disk: Option<DiskBus>,
    /// Its device tree, below the kernel package's.
    tree: &'static str,
    /// What is changed in the tree, as source behind it.
    changes: &'static str,
    /// Whether the payload can start CPUs there.
    starts_cpus: bool,
}

const VIRT: Facts = Facts {
    name: "virt",
    // hw/arm/virt.c, VIRT_MEM.
    ram_base: 0x4000_0000,
    mem: None,
    cpus: None,
    console: "ttyAMA0",
    uart: 0,
    disk: None,
    tree: "",
    changes: "",
    starts_cpus: true,
};

/// QEMU's card is on the SDHCI as long as its pins say so; the board has a radio there and the
/// card on another host. Raspberry Pi's firmware does the same with `dtoverlay=mmc`.
const RASPI3B: Facts = Facts {
    name: "raspi3b",
    ram_base: 0,
    mem: Some(1024),
    cpus: Some(4),
    console: "ttyS1",
    uart: 1,
    disk: Some(DiskBus::Bcm2835),
    tree: "broadcom/bcm2837-rpi-3-b.dtb",
    changes: "/ { soc {
        mmc@7e202000 { status = \"disabled\"; };
        mmc@7e300000 {
            pinctrl-0 = <&{/soc/gpio@7e200000/emmc-gpio48}>;
            /delete-property/ mmc-pwrseq;
            /delete-property/ non-removable;
            /delete-node/ wifi@1;
        };
    }; };",
    starts_cpus: false,
};

/// The radio's host is of no use; the card's supplies hang on the firmware's GPIOs, which QEMU
/// lacks, as it lacks what is around the display.
const RASPI4B: Facts = Facts {
    name: "raspi4b",
    ram_base: 0,
    mem: Some(2048),
    cpus: Some(4),
    console: "ttyS1",
    uart: 1,
    disk: Some(DiskBus::Bcm2711),
    tree: "broadcom/bcm2711-rpi-4-b.dtb",
    changes: "/ {
        soc {
            mmc@7e300000 { status = \"disabled\"; };
            clock@7ef00000 { status = \"disabled\"; };
            interrupt-controller@7ef00100 { status = \"disabled\"; };
            i2c@7ef04500 { status = \"disabled\"; };
            i2c@7ef09500 { status = \"disabled\"; };
        };
        emmc2bus { mmc@7e340000 {
            /delete-property/ vmmc-supply;
            /delete-property/ vqmmc-supply;
        }; };
    };",
    starts_cpus: false,
};

/// Clocks, power, pins and resets are the platform firmware's, which QEMU lacks.
const XLNX_ZCU102: Facts = Facts {
    name: "xlnx-zcu102",
    ram_base: 0,
    mem: None,
    cpus: Some(4),
    console: "ttyPS0",
    uart: 0,
    disk: Some(DiskBus::Arasan),
    tree: "xilinx/zynqmp-zcu102-rev1.0.dtb",
    changes: "/ {
        running: running-clock {
            compatible = \"fixed-clock\";
            #clock-cells = <0>;
            clock-frequency = <100000000>;
        };
        axi {
            serial@ff000000 {
                clocks = <&running &running>;
                /delete-property/ assigned-clocks;
                /delete-property/ power-domains;
                /delete-property/ resets;
                /delete-property/ pinctrl-names;
                /delete-property/ pinctrl-0;
            };
            mmc@ff170000 {
                clocks = <&running &running>;
                /delete-property/ assigned-clocks;
                /delete-property/ power-domains;
                /delete-property/ resets;
                /delete-property/ pinctrl-names;
                /delete-property/ pinctrl-0;
            };
        };
    };",
    starts_cpus: true,
};

const IMX8MP_EVK: Facts = Facts {
    name: "imx8mp-evk",
    // hw/arm/fsl-imx8mp.h, FSL_IMX8MP_RAM_START.
    ram_base: 0x4000_0000,
    mem: None,
    cpus: Some(4),
    console: "ttymxc1",
    uart: 1,
    disk: Some(DiskBus::Usdhc),
    tree: "freescale/imx8mp-evk.dtb",
    changes: "",
    starts_cpus: true,
};

impl Board {
    fn facts(self) -> &'static Facts {
        match self {
            Self::Virt => &VIRT,
            Self::Raspi3b => &RASPI3B,
            Self::Raspi4b => &RASPI4B,
            Self::XlnxZcu102 => &XLNX_ZCU102,
            Self::Imx8mpEvk => &IMX8MP_EVK,
        }
    }

    /// Returns QEMU's name of the machine.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Returns the physical address of the first byte of RAM.
    pub fn ram_base(self) -> u64 {
        self.facts().ram_base
    }

    /// Returns how much RAM it must have, in MiB, if there is no choice.
    pub fn mem(self) -> Option<u64> {
        self.facts().mem
    }

    /// Returns how many CPUs it must have, if there is no choice.
    pub fn cpus(self) -> Option<u32> {
        self.facts().cpus
    }

    /// Returns the kernel's name of the console.
    pub fn console(self) -> &'static str {
        self.facts().console
    }

    /// Returns the console's number among QEMU's UARTs.
    pub fn uart(self) -> usize {
        self.facts().uart
    }

    /// Returns how the machine's own card is attached; `virt` has none.
    pub fn disk(self) -> Option<DiskBus> {
        self.facts().disk
    }

    /// Tells whether the payload can start its CPUs.
    pub fn starts_cpus(self) -> bool {
        self.facts().starts_cpus
    }

    /// Tells whether it needs a device tree; QEMU makes that of `virt`.
    pub fn needs_device_tree(self) -> bool {
        !self.facts().tree.is_empty()
    }

    /// Writes the device tree that its kernel is to be given.
    pub fn write_device_tree(self, kernel: &Kernel, path: &Path) -> Result<()> {
        let facts = self.facts();
        let folder = format!("usr/lib/linux-image-{}", kernel.release);
        let found = kernel
            .modules
            .ancestors()
            .map(|root| root.join(&folder).join(facts.tree))
            .find(|tree| tree.exists());
        let Some(tree) = found else {
            bail!(
                "the package of kernel {} has no device tree {}",
                kernel.release,
                facts.tree
            );
        };
        let dtc = |from: &str, to: &str| {
            let mut dtc = Command::new("dtc");
            dtc.args(["-q", "-I", from, "-O", to]);
            dtc
        };
        let mut source = crate::run::output(dtc("dtb", "dts").arg(&tree))?;
        source += facts.changes;
        let mut compiler = dtc("dts", "dtb")
            .arg("-o")
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start dtc")?;
        let stdin = compiler.stdin.take().context("dtc has no stdin")?;
        { stdin }.write_all(source.as_bytes())?;
        let status = compiler.wait()?;
        ensure!(status.success(), "dtc refuses the device tree ({status})");
        Ok(())
    }
}
