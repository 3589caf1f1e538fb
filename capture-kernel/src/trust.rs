//! The trust check: before any device is touched, the payload makes sure that it, its plan and
//! the segments beside it are what `kdraw load` left (docs/design.md, law 10).

use kdraw_boards::machine::Machine;
use kdraw_boards::{Error as TreeError, guard};
use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_format::checksum::image_checksum;
use kdraw_format::plan::{PLAN_LEN, Plan, PlanError, Seal};

use crate::entry;
use crate::mmu::{self, MapError, Use};

/// Why nothing is captured.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// Nobody passed a device tree: not in x0 and not in the image.
    #[error("no device tree was passed; load the payload with kdraw load or kexec -p --dtb")]
    NoDeviceTree,
    /// The device tree is malformed, or lacks what every kexec loader writes.
    #[error("device tree: {0}")]
    DeviceTree(#[from] TreeError),
    /// The first bytes are no device tree.
    #[error("device tree: {0}")]
    NoTree(#[from] guard::GuardError),
    /// A segment lies where the payload cannot look.
    #[error("{0}")]
    Unmapped(#[from] MapError),
    /// A segment does not lie in the crash region.
    #[error("the {0} does not lie in the crash region: it may have been overwritten")]
    Outside(&'static str),
    /// The loader passed no plan.
    #[error("no plan was passed as initrd; load with kdraw load, or kexec -p --initrd=PLAN")]
    NoPlan,
    /// The plan is damaged or of another version.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// The image in memory is not the image that was loaded.
    #[error("the payload's image was changed in memory after it was loaded")]
    Image,
    /// A segment in memory is not what was loaded.
    #[error("the {0} was changed in memory after it was loaded")]
    Segment(&'static str),
}

/// Finds the device tree at a physical address and maps it.
///
/// # Errors
/// [`Distrust`] if there is none; whether it is sound is [`Machine::from_dtb`]'s question.
pub fn device_tree(at: u64) -> Result<&'static [u8], Distrust> {
    if at == 0 {
        return Err(Distrust::NoDeviceTree);
    }
    let head = bytes(PhysRange {
        start: PhysAddr(at),
        end: PhysAddr(at.saturating_add(8)),
    })?;
    let head = head.first_chunk().ok_or(Distrust::NoDeviceTree)?;
    let len = guard::total_size(head)? as u64;
    let whole = PhysRange::with_len(PhysAddr(at), len).ok_or(Distrust::NoDeviceTree)?;
    Ok(bytes(whole)?)
}

/// What is trusted from here on.
pub struct Trusted {
    /// The plan.
    pub plan: Plan,
    /// The memory that is the payload's.
    pub crash_region: PhysRange,
    /// The elfcorehdr, as loaded.
    pub elfcorehdr: &'static [u8],
    /// What of the crash region is in use: the payload, its plan, the device tree, the elfcorehdr.
    pub segments: [PhysRange; 4],
}

/// Checks image, plan, device tree and elfcorehdr against each other.
///
/// # Errors
/// What cannot be trusted.
pub fn check(machine: &Machine<'_>, tree: &[u8], dtb: u64) -> Result<Trusted, Distrust> {
    let crash_region = machine.crash_region()?;
    let inside = |what, start: u64, len: u64| match PhysRange::with_len(PhysAddr(start), len) {
        Some(range) if crash_region.contains(&range) => Ok(range),
        _ => Err(Distrust::Outside(what)),
    };
    let (image, image_end) = entry::image_bounds();
    let image_len = image_end.saturating_sub(image) as u64;
    let payload = inside("payload", entry::physical(image), image_len)?;
    let device_tree = inside("device tree", dtb, tree.len() as u64)?;

    let plan = machine.initrd()?.ok_or(Distrust::NoPlan)?;
    let plan_at = inside("plan", plan.start.0, PLAN_LEN as u64)?;
    let plan = Plan::decode(bytes(plan_at)?)?;

    let image = entry::image_file(plan.image.len as usize).ok_or(Distrust::Image)?;
    if image_checksum(image) != plan.image.checksum {
        return Err(Distrust::Image);
    }
    unchanged("device tree", tree, &plan.device_tree)?;
    let header = machine.elfcorehdr()?;
    // kexec-tools puts it at the very top of the region, rounded up to whole pages.
    let header_at = inside("elfcorehdr", header.start.0, header.len())?;
    let header = bytes(header_at)?;
    unchanged("elfcorehdr", header, &plan.elfcorehdr)?;
    Ok(Trusted {
        plan,
        crash_region,
        elfcorehdr: header,
        segments: [payload, plan_at, device_tree, header_at],
    })
}

/// Compares a segment with its seal; a seal that says nothing (stock kexec) fits everything.
fn unchanged(what: &'static str, found: &[u8], seal: &Seal) -> Result<(), Distrust> {
    let same = found
        .get(..seal.len as usize)
        .is_some_and(|found| Seal::of(found) == *seal);
    if seal.is_unknown() || same {
        Ok(())
    } else {
        Err(Distrust::Segment(what))
    }
}

/// Maps physical memory and looks at it.
fn bytes(range: PhysRange) -> Result<&'static [u8], MapError> {
    let seen = mmu::map(range, Use::ReadOnly)?;
    let len = range.len() as usize;
    // SAFETY: `map` just mapped these bytes read-only, for good; they belong to segments in the
    // crash region, which nobody writes: the dead kernel is dead and the payload works elsewhere, in its
    // image and where no segment is. A fault on memory that is not there ends in an epitaph.
    Ok(unsafe { core::slice::from_raw_parts(seen.as_ptr(), len) })
}
