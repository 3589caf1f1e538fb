//! Where the payload lives, and where a dump goes.

use kdraw_boards::machine::Machine;

use crate::block::BlockDevice;
use crate::check::facts::Facts;
use crate::check::finding::Judgement;
use crate::controller::Controller;
use crate::error::Error;
use crate::live::estimate::Verdict;
use crate::load::machine::NotReady;
use crate::load::state::NotLoaded;
use crate::load::target::{BadTarget, Destination, SerialLine, Signed};
use crate::text;

/// What sets aside memory.
const RESERVE: &str = "kdraw reserve";

/// There is a payload to load.
pub fn payload(facts: &Facts<'_>) -> Judgement {
    match &facts.payload {
        Ok(payload) => Judgement::green(format!(
            "{}, XXH64 {}",
            text::size(payload.image().len() as u64),
            text::hash(payload.hash())
        )),
        Err(why) => Judgement::red(why.to_string()).fix("cargo xtask dist"),
    }
}

/// Memory is set aside, and enough of it.
pub fn crash_region(facts: &Facts<'_>) -> Judgement {
    let region = match &facts.crash_region {
        Ok(region) => region,
        Err(NotReady::NoCrashRegion { command_line }) => {
            let why = match command_line.contains("crashkernel=") {
                true => {
                    "the kernel reserved no memory, though its command line has crashkernel= \
                         (`dmesg | grep -i crash` tells why)"
                }
                false => "no memory is reserved: the command line has no crashkernel=",
            };
            return Judgement::red(why).fix(RESERVE);
        }
        Err(why @ NotReady::NotRoot(_)) => {
            return Judgement::red(why.to_string()).fix("sudo kdraw check");
        }
        Err(why) => return Judgement::red(why.to_string()),
    };
    let place = format!(
        "{}-{} ({})",
        region.start,
        region.end,
        text::size(region.len())
    );
    match &facts.loadable {
        Some(Ok(loadable)) => {
            let work = &loadable.work;
            let cpus = format!("{} of {} CPUs", work.cpus_that_fit, work.cpus);
            if work.cpus_that_fit < work.cpus_wanted {
                Judgement::amber(format!("{place} leaves room for {cpus} to work")).fix(RESERVE)
            } else {
                Judgement::green(format!("{place}, room for {cpus} to work"))
            }
        }
        Some(Err(why @ (Error::SmallRegion { .. } | Error::NoRoom { .. }))) => {
            Judgement::red(format!("{place}: {why}")).fix(RESERVE)
        }
        Some(Err(why)) if facts.loaded.is_ok() => {
            Judgement::amber(format!("{place}; whether it is enough is unknown: {why}"))
        }
        Some(Err(why)) => Judgement::red(format!("{place}; nothing can be loaded there: {why}"))
            .fix("report this with the output of `kdraw load --dry-run`"),
        None => Judgement::amber(format!(
            "{place}; whether it is enough is unknown without a payload and a device tree"
        )),
    }
}

/// What to do if nobody names a target.
fn unnamed() -> Judgement {
    Judgement::red("nobody says where a dump is to go")
        .fix("kdraw format DEVICE, then target = \"DEVICE\" in /etc/kdraw.conf")
}

/// The payload can drive what the target is on.
pub fn storage(facts: &Facts<'_>) -> Judgement {
    let Some(target) = &facts.wish.target else {
        return unnamed();
    };
    let tree = facts.device_tree.as_ref().ok();
    let tree = tree.and_then(|blob| Machine::from_dtb(blob).ok());
    let elsewhere = "take another target";
    let (path, found) = match target {
        Destination::Serial(name) => match SerialLine::inspect(facts.system, name) {
            Ok(line) => {
                let found = tree.map(|tree| tree.uart(&line.node).map(drop));
                (line.node.to_string(), found)
            }
            Err(why) => return Judgement::red(why.to_string()).fix(elsewhere),
        },
        Destination::Partition(device) => {
            let device = match BlockDevice::of(facts.system, device) {
                Ok(Some(device)) => device,
                Ok(None) => {
                    let why = BadTarget::NotBlock(device.clone());
                    return Judgement::red(why.to_string()).fix(elsewhere);
                }
                Err(why) => return Judgement::red(why.to_string()).fix(elsewhere),
            };
            match Controller::of(facts.system, &device) {
                Ok(controller) => {
                    let found = tree.map(|tree| tree.controller(&controller.path).map(drop));
                    (controller.path, found)
                }
                Err(why) => return Judgement::red(why.to_string()).fix(elsewhere),
            }
        }
    };
    match found {
        Some(Err(why)) => Judgement::red(format!(
            "the payload cannot use {path} as the device tree describes it: {why}"
        ))
        .fix(elsewhere),
        _ => Judgement::green(format!("{target} is on {path}, which the payload drives")),
    }
}

/// The target is signed, the right one, and has a free slot.
pub fn target(facts: &Facts<'_>) -> Judgement {
    let Some(target) = &facts.wish.target else {
        return unnamed();
    };
    let format = format!("kdraw format {target}");
    let bad = |why: &BadTarget| {
        let judgement = Judgement::red(why.to_string());
        match why {
            BadTarget::Unsigned { .. } | BadTarget::Moved { .. } => judgement.fix(&format),
            BadTarget::ReadOnly(_) => judgement.fix(format!("blockdev --setrw {target}")),
            BadTarget::Uuid { found, .. } => {
                judgement.fix(format!("uuid = \"{found}\" in /etc/kdraw.conf"))
            }
            _ => judgement.fix("correct target and fallback in /etc/kdraw.conf"),
        }
    };
    let signed = match target {
        Destination::Serial(_) => None,
        Destination::Partition(path) => match Signed::inspect(facts.system, path) {
            Ok(signed) => Some(signed),
            Err(why) => return bad(&why),
        },
    };
    match &facts.targets {
        // The storage is told by itself.
        None | Some(Ok(_) | Err(BadTarget::Controller(_))) => {}
        Some(Err(why)) => return bad(why),
    }
    let Some(mut signed) = signed else {
        return Judgement::green(format!("{target}, taken with `kdraw receive`"));
    };
    let superblock = signed.partition.superblock.clone();
    let free = signed.partition.free_slots();
    if free == 0 && !superblock.overwrite {
        let save = facts.config.save.directory.display();
        return Judgement::red("every slot holds a dump that nobody has extracted")
            .fix(format!("kdraw extract {target} -o {save}"));
    }
    Judgement::green(format!(
        "{target} is signed, id {}, {free} of {} slots free",
        text::uuid(&superblock.uuid),
        superblock.slots
    ))
}

/// The dump fits, and the filter can be trusted.
pub fn room(facts: &Facts<'_>) -> Judgement {
    let outlook = match &facts.outlook {
        Ok(outlook) => outlook,
        Err(why) => return Judgement::amber(format!("no estimate is possible: {why}")),
    };
    let dump = format!(
        "a dump takes about {}, and at least {}",
        text::size(outlook.estimate.dump_bytes),
        text::duration((outlook.dump_s * 1e6) as u64)
    );
    let slot = outlook.slot.as_ref();
    let room = slot.map_or_else(String::new, |slot| {
        format!("; a slot has {}", text::size(slot.bytes))
    });
    if outlook.fits == Some(false) {
        return Judgement::red(format!(
            "{dump}{room}: what is worth least will be missing; use a larger partition, fewer \
             slots, or a level that leaves out more"
        ))
        .fix(format!(
            "kdraw format --slots 1 {}",
            facts
                .wish
                .target
                .as_ref()
                .map_or_else(String::new, ToString::to_string)
        ));
    }
    match outlook.estimate.proof.verdict {
        Verdict::Agrees => Judgement::green(format!("{dump}{room}")),
        Verdict::Disagrees => Judgement::amber(format!(
            "{dump}{room}; the filter is wrong about this kernel, so every page is kept: {}",
            outlook.estimate.proof.detail
        )),
        Verdict::NotPossible => Judgement::amber(format!(
            "{dump}{room}; whether the filter is right is not known: {}",
            outlook.estimate.proof.detail
        )),
    }
}

/// A crash image is loaded: ours, and for this target.
pub fn loaded(facts: &Facts<'_>) -> Judgement {
    const LOAD: &str = "kdraw load";
    let loaded = match &facts.loaded {
        Ok(loaded) => loaded,
        Err(why @ NotLoaded::NotOurs) => {
            return Judgement::red(why.to_string()).fix("kdraw unload --force && kdraw load");
        }
        Err(why) => return Judgement::red(why.to_string()).fix(LOAD),
    };
    let now = facts.targets.as_ref().and_then(|found| found.as_ref().ok());
    let other = match now.and_then(|found| found.partition.as_ref()) {
        Some(partition) => !loaded.is_for(partition),
        None => facts.wish.target != Some(loaded.target.to_string_lossy().as_ref().into()),
    };
    // A target that leads nowhere is told by itself.
    if now.is_some() && other {
        return Judgement::red(format!(
            "what is loaded writes to {} (id {}), not to {}",
            loaded.target.display(),
            loaded.uuid,
            facts
                .wish
                .target
                .as_ref()
                .map_or_else(String::new, ToString::to_string)
        ))
        .fix(LOAD);
    }
    if let Ok(payload) = &facts.payload
        && text::hash(payload.hash()) != loaded.payload_hash
    {
        return Judgement::amber(format!(
            "the loaded payload (XXH64 {}) is another than this kdraw's",
            loaded.payload_hash
        ))
        .fix(LOAD);
    }
    Judgement::green(format!(
        "by kdraw at {}, {} of memory",
        text::time(loaded.at),
        text::size(loaded.total)
    ))
}
