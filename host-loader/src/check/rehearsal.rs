//! A capture walked through without a crash: what was loaded, against this machine as it is now.

use kdraw_format::addr::PartOffset;
use kdraw_format::layout::{BLOCK, Superblock};
use kdraw_format::plan::Plan;

use crate::check::facts::Facts;
use crate::check::finding::{Finding, Judgement};
use crate::check::{Requirement, board, judge, place};
use crate::live::device;
use crate::load::state::Loaded;
use crate::load::target::Signed;
use crate::text;

/// The steps, as the payload takes them.
const STEPS: &[Requirement] = &[
    ("loaded", place::loaded),
    ("payload", payload),
    ("memory map", memory_map),
    ("device tree", device_tree),
    ("watchdog", board::watchdog),
    ("storage", place::storage),
    ("target", place::target),
    ("read-back", read_back),
    ("dump", place::room),
];

/// Takes every step.
pub fn all(facts: &Facts<'_>) -> Vec<Finding> {
    judge(STEPS, facts)
}

/// What to do about anything that has changed since.
fn changed(reason: impl Into<String>) -> Judgement {
    Judgement::red(reason).fix("kdraw load")
}

/// What is loaded, for those steps that compare with it.
fn with_loaded(facts: &Facts<'_>, judge: impl FnOnce(&Loaded) -> Judgement) -> Judgement {
    match &facts.loaded {
        Ok(loaded) => judge(loaded),
        Err(why) => Judgement::amber(format!("nothing to compare with: {why}")),
    }
}

/// The payload is the one that was loaded.
fn payload(facts: &Facts<'_>) -> Judgement {
    with_loaded(facts, |loaded| match &facts.payload {
        Ok(payload) if text::hash(payload.hash()) == loaded.payload_hash => {
            Judgement::green(format!("XXH64 {}, as loaded", loaded.payload_hash))
        }
        Ok(payload) => changed(format!(
            "XXH64 {}, but loaded was {}",
            text::hash(payload.hash()),
            loaded.payload_hash
        )),
        Err(why) => Judgement::amber(format!("nothing to compare with: {why}")),
    })
}

/// Compares a part of the plan with what was loaded.
fn same(facts: &Facts<'_>, was: fn(&Loaded) -> &str, is: fn(&Plan) -> u64) -> Option<bool> {
    let was = facts.loaded.as_ref().ok().map(was)?;
    let now = facts.loadable.as_ref()?.as_ref().ok()?;
    (!was.is_empty()).then(|| was == text::hash(is(&now.plan)))
}

/// CPUs and memory are as they were.
fn memory_map(facts: &Facts<'_>) -> Judgement {
    match same(
        facts,
        |loaded| &loaded.elfcorehdr_hash,
        |plan| plan.elfcorehdr.checksum,
    ) {
        Some(true) => Judgement::green("CPUs and memory are as when it was loaded"),
        Some(false) => changed("CPUs or memory have changed since it was loaded"),
        None => Judgement::amber("nothing to compare with"),
    }
}

/// The device tree would come out the same.
fn device_tree(facts: &Facts<'_>) -> Judgement {
    match same(
        facts,
        |loaded| &loaded.device_tree_hash,
        |plan| plan.device_tree.checksum,
    ) {
        Some(true) => Judgement::green("comes out as when it was loaded"),
        // It also tells where the parts lie, and they lie elsewhere with another payload.
        Some(false) => changed("comes out as another than the one that was loaded"),
        None => Judgement::amber("nothing to compare with"),
    }
}

/// The signature is found where the payload will look for it: at the plan's place on the disk, read
/// from the device and not from the page cache.
fn read_back(facts: &Facts<'_>) -> Judgement {
    let Some(target) = &facts.wish.target else {
        return Judgement::amber("not tried: there is no target");
    };
    let Some(path) = target.partition() else {
        return Judgement::green("a serial line has nothing to read");
    };
    // What is wrong with the partition itself is told by its own step.
    let Ok(signed) = Signed::inspect(facts.system, path) else {
        return Judgement::amber("not tried: the target is none");
    };
    with_loaded(facts, |loaded| {
        let disk = facts.system.path(signed.device.disk_path());
        let second = Superblock::second_copy(loaded.partition_len);
        for at in [PartOffset(0), second] {
            let place = loaded.partition_start.saturating_add(at.0);
            let block = match device::read_past_cache(&disk, place, BLOCK) {
                Ok(block) => block,
                Err(why) => {
                    return Judgement::red(format!(
                        "cannot read {} at byte {place}: {why}",
                        disk.display()
                    ))
                    .fix("dmesg | tail");
                }
            };
            match Superblock::decode(&block) {
                Ok(found) if text::uuid(&found.uuid) == loaded.uuid => {}
                Ok(found) => {
                    return changed(format!(
                        "byte {place} of {} has the signature {}, expected {}",
                        disk.display(),
                        text::uuid(&found.uuid),
                        loaded.uuid
                    ));
                }
                Err(why) => {
                    return Judgement::red(format!(
                        "byte {place} of {} has no signature: {why}",
                        disk.display()
                    ))
                    .fix(format!("kdraw format {}", path.display()));
                }
            }
        }
        Judgement::green(format!(
            "{} has both signatures at the plan's place, bytes {} to {}",
            disk.display(),
            loaded.partition_start,
            loaded.partition_start.saturating_add(loaded.partition_len)
        ))
    })
}
