//! The board, as its device tree describes it to the payload.

use kdraw_boards::machine::{Conduit, Machine};

use crate::check::facts::Facts;
use crate::check::finding::Judgement;
use crate::load::machine::NotReady;
use crate::watchdog;

/// Reads the tree, and says something about it.
fn with_tree(facts: &Facts<'_>, judge: impl FnOnce(&Machine<'_>) -> Judgement) -> Judgement {
    let unknown = || Judgement::amber("unknown without a device tree");
    let Ok(blob) = &facts.device_tree else {
        return unknown();
    };
    Machine::from_dtb(blob).map_or_else(|_| unknown(), |tree| judge(&tree))
}

/// The board was booted with a device tree that the payload can read.
pub fn device_tree(facts: &Facts<'_>) -> Judgement {
    let blob = match &facts.device_tree {
        Ok(blob) => blob,
        Err(why @ NotReady::NoDeviceTree) => {
            return Judgement::red(why.to_string()).fix("add acpi=off to the command line; reboot");
        }
        Err(why) => return Judgement::red(why.to_string()),
    };
    match Machine::from_dtb(blob) {
        Ok(tree) => {
            let family = match tree.family() {
                Some(family) => format!(", of the family {}", family.name),
                None => ", of no family in boards/README.md".to_owned(),
            };
            let model = tree.model().unwrap_or("a board without a name");
            Judgement::green(format!("{model}{family}"))
        }
        Err(why) => Judgement::red(format!("the payload cannot read it: {why}"))
            .fix("report this with /sys/firmware/fdt"),
    }
}

/// What a capture without a console lacks, and why that is not worse.
const SILENT: &str = "a capture says nothing while it runs, and nothing of the dump is lost by it: \
                      what it would have said is in the dump";

/// The payload has a console.
pub fn console(facts: &Facts<'_>) -> Judgement {
    with_tree(facts, |tree| match (tree.console(), tree.stdout()) {
        (Some(console), _) => {
            Judgement::green(format!("{:?} at {}", console.kind, console.registers.start))
        }
        (None, Some(device)) => {
            let found: Vec<&str> = device.compatible().collect();
            Judgement::amber(format!("no driver for {found:?}: {SILENT}"))
        }
        (None, None) => Judgement::amber(format!(
            "/chosen/stdout-path and the serial aliases name none: {SILENT}"
        )),
    })
}

/// The payload can reset the board.
pub fn reset(facts: &Facts<'_>) -> Judgement {
    with_tree(facts, |tree| {
        let psci = tree.psci();
        if let Ok(psci) = &psci
            && psci.system_reset.is_some()
        {
            let call = match psci.conduit {
                Conduit::Hvc => "hvc",
                Conduit::Smc => "smc",
            };
            return Judgement::green(format!("PSCI's SYSTEM_RESET, by {call}"));
        }
        let why = match psci {
            Ok(_) => "PSCI 0.1 has no reset".to_owned(),
            Err(why) => why.to_string(),
        };
        match tree.watchdogs().first() {
            Some(dog) => Judgement::green(format!(
                "by the watchdog {:?} at {} ({why})",
                dog.kind, dog.registers.start
            )),
            None => Judgement::red(format!(
                "nothing resets the board after the dump: {why}, and no watchdog has a driver"
            ))
            .fix("add the watchdog's driver: boards/README.md"),
        }
    })
}

/// No watchdog cuts the capture short.
pub fn watchdog(facts: &Facts<'_>) -> Judgement {
    let dogs = &facts.watchdogs;
    // Before the first load, what a load would record.
    let recorded = match &facts.loaded {
        Ok(loaded) => loaded.watchdogs.clone(),
        Err(_) => watchdog::recorded(dogs),
    };
    let warnings = dogs.iter().filter_map(|dog| dog.warning(&recorded));
    let warnings: Vec<String> = warnings.collect();
    if warnings.is_empty() {
        let lines: Vec<String> = dogs.iter().map(|dog| dog.line()).collect();
        return Judgement::green(match lines.is_empty() {
            true => "none in /sys/class/watchdog".to_owned(),
            false => lines.join("; "),
        });
    }
    let fix = match dogs.iter().any(|dog| dog.open && dog.obstacle.is_some()) {
        true => {
            "stop what pets it: RuntimeWatchdogSec=off in /etc/systemd/system.conf, or its daemon"
        }
        false => "kdraw load",
    };
    Judgement::red(warnings.join("; ")).fix(fix)
}
