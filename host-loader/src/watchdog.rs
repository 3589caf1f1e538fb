//! The board's watchdogs, as /sys/class/watchdog shows them: what the payload has to pet during a
//! capture, and what will cut it short because the payload cannot.
//!
//! `state` tells whether somebody has the watchdog open, not whether it runs: one that the
//! firmware started is petted by Linux itself. So the plan names each that the payload can drive,
//! and the payload looks for itself whether it runs. One that is suspended does not run, and must
//! not be looked at: its clock is off.
//!
//! Sources: Linux Documentation/ABI/testing/sysfs-class-watchdog, `drivers/watchdog/watchdog_dev.c`.

use std::fs;
use std::path::{Path, PathBuf};

use kdraw_boards::{ControllerKind, controller_kind, watchdog_kind};
use kdraw_format::plan::{self, MAX_WATCHDOGS};
use serde::Serialize;

use crate::controller::{node_above, pci_ids};
use crate::system::System;

/// Intel's 6300ESB, the one on PCI that the payload drives; QEMU has it.
const I6300ESB: (&str, &str) = ("0x8086", "0x25ab");
/// What its driver calls it. It does not say which device it drives, and drives only one
/// (`drivers/watchdog/i6300esb.c`).
const I6300ESB_NAME: &str = "i6300ESB timer";
/// What Linux calls its own, which is no hardware and dies with it (`drivers/watchdog/softdog.c`).
const SOFTDOG: &str = "Software Watchdog";

/// A watchdog that Linux has a driver for.
#[derive(Clone, Debug, Serialize)]
pub struct Watchdog {
    /// Its name, such as `watchdog0`.
    pub name: String,
    /// What the driver calls it; empty if the kernel does not tell.
    pub identity: String,
    /// After how many seconds it resets the board; 0 if the kernel does not tell.
    pub timeout_s: u32,
    /// Somebody has it open.
    pub open: bool,
    /// Where it is, if the payload can pet it.
    #[serde(skip)]
    pub plan: Option<plan::Watchdog>,
    /// Why the payload cannot pet it.
    pub obstacle: Option<String>,
}

/// Finds the watchdogs, those first that somebody has open.
pub fn all(system: &System) -> Vec<Watchdog> {
    let entries = fs::read_dir(system.path("/sys/class/watchdog"));
    let mut folders: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::canonicalize(entry.path()).ok())
        .collect();
    folders.sort();
    let found = folders.iter().map(|folder| Watchdog::of(system, folder));
    let mut found: Vec<_> = found.filter(|dog| dog.identity != SOFTDOG).collect();
    found.sort_by_key(|dog| !dog.open);
    found
}

/// What the plan says of them: as many as it has room for.
pub fn for_plan(all: &[Watchdog]) -> heapless::Vec<plan::Watchdog, MAX_WATCHDOGS> {
    let known = all.iter().filter_map(|dog| dog.plan.clone());
    known.take(MAX_WATCHDOGS).collect()
}

impl Watchdog {
    fn of(system: &System, folder: &Path) -> Self {
        let text = |file| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let timeout_s = text("timeout").trim().parse().unwrap_or(0);
        let name = folder.file_name().unwrap_or_default();
        let identity = text("identity").trim().to_owned();
        // …/fe100000.watchdog/bcm2835-wdt/watchdog/watchdog0
        let mut device = folder.ancestors().nth(2).unwrap_or(folder).to_owned();
        if identity == I6300ESB_NAME && !device.join("vendor").exists() {
            device = i6300esb(system).unwrap_or(device);
        }
        let place = place(system, &device, timeout_s);
        Self {
            name: name.to_string_lossy().into_owned(),
            identity,
            timeout_s,
            open: text("state").trim() == "active",
            obstacle: place.as_ref().err().cloned(),
            plan: place.ok(),
        }
    }

    /// Says what it is, in a line.
    pub fn line(&self) -> String {
        let Self { name, identity, .. } = self;
        let state = match (self.open, self.timeout_s) {
            (true, 0) => "in use".to_owned(),
            (true, timeout) => format!("in use, {timeout} s"),
            (false, _) => "not in use".to_owned(),
        };
        let what = match &self.obstacle {
            None => "the payload pets it if it runs".to_owned(),
            Some(obstacle) => format!("the payload cannot pet it: {obstacle}"),
        };
        format!("{name} ({identity}), {state}; {what}")
    }

    /// Warns of one that will reset the board during a capture; `recorded` are the names of those
    /// that the plan has.
    pub fn warning(&self, recorded: &[String]) -> Option<String> {
        let Self { name, identity, .. } = self;
        if !self.open || recorded.contains(name) {
            return None;
        }
        let when = match self.timeout_s {
            0 => "some time".to_owned(),
            timeout => format!("at most {timeout} s"),
        };
        let why = match &self.obstacle {
            Some(obstacle) => format!("the payload cannot pet it: {obstacle}"),
            None => "the plan does not name it; load again".to_owned(),
        };
        Some(format!(
            "{name} ({identity}) is running and will reset the board {when} after a panic, even in \
             the middle of a dump: {why}"
        ))
    }
}

/// Names of those that the plan has.
pub fn recorded(all: &[Watchdog]) -> Vec<String> {
    let known = all.iter().filter(|dog| dog.plan.is_some());
    let names = known.map(|dog| dog.name.clone());
    names.take(MAX_WATCHDOGS).collect()
}

/// Tells of them after a plan was made, and warns of those that it cannot do anything about.
pub fn print(all: &[Watchdog]) {
    let recorded = recorded(all);
    for dog in all {
        println!("watchdog     {}", dog.line());
        if let Some(warning) = dog.warning(&recorded) {
            println!("warning: {warning}");
        }
    }
}

/// Finds the folder of the 6300ESB.
fn i6300esb(system: &System) -> Option<PathBuf> {
    let functions = fs::read_dir(system.path("/sys/bus/pci/devices")).ok()?;
    let mut folders = functions.flatten().map(|entry| entry.path());
    let found = folders.find(|folder| {
        let (vendor, model) = pci_ids(folder);
        (vendor.as_str(), model.as_str()) == I6300ESB
    })?;
    fs::canonicalize(found).ok()
}

/// Where the watchdog is, or why the payload cannot pet it.
fn place(system: &System, device: &Path, timeout_s: u32) -> Result<plan::Watchdog, String> {
    let above = node_above(system, device).ok_or("the device tree does not have it")?;
    let (known, what) = match &above.function {
        None => {
            let known = above.kinds(watchdog_kind).is_some();
            (known, format!("{:?}", above.compatible))
        }
        Some((_, folder)) => {
            let is_host = above.kinds(controller_kind) == Some(ControllerKind::PciHostEcam);
            let (vendor, model) = pci_ids(folder);
            let known = is_host && (vendor.as_str(), model.as_str()) == I6300ESB;
            let host = &above.compatible;
            (known, format!("PCI {vendor}:{model} behind {host:?}"))
        }
    };
    if !known {
        return Err(format!("it has no driver for {what}"));
    }
    let power = fs::read_to_string(device.join("power/runtime_status")).unwrap_or_default();
    if power.trim() == "suspended" {
        return Err("it is suspended".into());
    }
    let node = heapless::String::try_from(above.path.as_str());
    Ok(plan::Watchdog {
        node: node.map_err(|_| "its path in the device tree is too long")?,
        pci: above.function.map(|(address, _)| address),
        timeout_s,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kdraw_format::plan::PciAddress;
    use std::os::unix::fs::symlink;

    /// A watchdog below `device`, whose node or host bridge is compatible with `compatible`.
    fn put(root: &Path, number: u8, device: &str, compatible: &str, files: &[(&str, &str)]) {
        let folder = root
            .join("sys/devices")
            .join(device)
            .join(format!("watchdog/watchdog{number}"));
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        if !compatible.is_empty() {
            let node = root.join(format!("sys/firmware/devicetree/base/soc/node@{number}"));
            fs::create_dir_all(&node).unwrap();
            fs::write(node.join("compatible"), compatible).unwrap();
            let top = root
                .join("sys/devices")
                .join(device.split('/').next().unwrap());
            symlink(node, top.join("of_node")).unwrap();
        }
        let class = root.join("sys/class/watchdog");
        fs::create_dir_all(&class).unwrap();
        symlink(&folder, class.join(format!("watchdog{number}"))).unwrap();
    }

    #[test]
    fn those_in_use_come_first_and_others_are_told() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(
            root,
            0,
            "a.wdt",
            "rockchip,rk3399-wdt\0snps,dw-wdt\0",
            &[
                ("state", "inactive\n"),
                ("timeout", "30\n"),
                ("identity", "Synopsys DesignWare Watchdog\n"),
            ],
        );
        put(
            root,
            1,
            "b.watchdog/bcm2835-wdt",
            "brcm,bcm2711-pm\0",
            &[
                ("state", "active\n"),
                ("timeout", "15\n"),
                ("identity", "Broadcom\n"),
            ],
        );
        put(
            root,
            2,
            "c.pmic",
            "acme,pmic\0",
            &[
                ("state", "active\n"),
                ("timeout", "7\n"),
                ("identity", "Acme PMIC\n"),
            ],
        );
        put(
            root,
            3,
            "virtual",
            "",
            &[("state", "active\n"), ("identity", "Software Watchdog\n")],
        );
        put(
            root,
            4,
            "d.rti",
            "ti,j7-rti-wdt\0",
            &[
                ("state", "inactive\n"),
                ("../../power/runtime_status", "suspended\n"),
            ],
        );
        let all = all(&System::new(root));
        let names: Vec<_> = all.iter().map(|dog| dog.name.as_str()).collect();
        assert_eq!(names, ["watchdog1", "watchdog2", "watchdog0", "watchdog4"]);
        let plan = for_plan(&all);
        let plan: Vec<_> = plan
            .iter()
            .map(|dog| (dog.node.as_str(), dog.pci, dog.timeout_s))
            .collect();
        assert_eq!(plan, [("/soc/node@1", None, 15), ("/soc/node@0", None, 30)]);
        assert_eq!(recorded(&all), ["watchdog1", "watchdog0"]);
        let warnings = |recorded: &[String]| -> Vec<String> {
            all.iter().filter_map(|dog| dog.warning(recorded)).collect()
        };
        let [pmic] = &warnings(&recorded(&all))[..] else {
            panic!("{:?}", warnings(&recorded(&all)));
        };
        for part in ["watchdog2 (Acme PMIC)", "at most 7 s", "acme,pmic"] {
            assert!(pmic.contains(part), "{part} is not in: {pmic}");
        }
        // Opened since: the plan lacks it.
        assert!(warnings(&[])[0].contains("load again"));
        assert!(all[3].line().contains("suspended"), "{}", all[3].line());
    }

    #[test]
    fn the_one_on_pci_is_found_though_its_driver_does_not_say_where() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(
            root,
            0,
            "virtual",
            "",
            &[("state", "active\n"), ("identity", "i6300ESB timer\n")],
        );
        assert!(all(&System::new(root))[0].plan.is_none(), "none there");
        let node = root.join("sys/firmware/devicetree/base/pcie@1000");
        let function = root.join("sys/devices/pcie/pci0000:00/0000:00:03.0");
        fs::create_dir_all(&node).unwrap();
        fs::create_dir_all(&function).unwrap();
        fs::write(node.join("compatible"), "pci-host-ecam-generic\0").unwrap();
        symlink(&node, root.join("sys/devices/pcie/of_node")).unwrap();
        symlink("/sys/bus/pci", function.join("subsystem")).unwrap();
        fs::write(function.join("vendor"), "0x8086\n").unwrap();
        fs::write(function.join("device"), "0x25ab\n").unwrap();
        let bus = root.join("sys/bus/pci/devices");
        fs::create_dir_all(&bus).unwrap();
        symlink(&function, bus.join("0000:00:03.0")).unwrap();
        let found = all(&System::new(root));
        let plan = found[0].plan.as_ref().unwrap();
        assert_eq!(plan.node, "/pcie@1000");
        assert_eq!(plan.pci.map(|pci| pci.device), Some(3));
    }

    #[test]
    fn the_one_on_pci_is_known_by_its_ids() {
        for (host, model, known) in [
            ("pci-host-ecam-generic\0", "0x25ab\n", true),
            ("pci-host-ecam-generic\0", "0x25ac\n", false),
            ("brcm,bcm2711-pcie\0", "0x25ab\n", false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let function = "pcie/pci0000:00/0000:00:03.0";
            put(root.path(), 0, function, host, &[("state", "active\n")]);
            let folder = root.path().join("sys/devices").join(function);
            symlink("/sys/bus/pci", folder.join("subsystem")).unwrap();
            fs::write(folder.join("vendor"), "0x8086\n").unwrap();
            fs::write(folder.join("device"), model).unwrap();
            let plan = for_plan(&all(&System::new(root.path())));
            let address = PciAddress {
                bus: 0,
                device: 3,
                function: 0,
            };
            assert_eq!(
                plan.first().map(|dog| dog.pci),
                known.then_some(Some(address))
            );
        }
    }
}
