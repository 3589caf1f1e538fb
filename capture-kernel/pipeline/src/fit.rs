//! Whether the pages that are wanted fit the slot, and which of them stay out if not.
//!
//! If they fit as they are, nothing is estimated. Otherwise a sample of each class is packed, spread
//! evenly over its pages, and the classes that fit by that estimate are kept, the most valuable
//! first: what comes after the first class that does not fit is left out. Kernel pages are never
//! left out: as much of them is written as fits.

use kdraw_format::addr::FRAME_SIZE;
use kdraw_format::chunk::{Class, ClassSet};
use kdraw_linux::classify::PageClass;
use kdraw_linux::memory::PhysMem;

use crate::assembly::Assembly;
use crate::partition::TargetError;
use crate::task::{Piece, TASK_FRAMES};
use crate::worth::{Evidence, class_of};

/// Chunks that are packed of each class.
const SAMPLES: u64 = 16;
/// The most that a frame takes in a dump, with its share of a chunk's header.
const FRAME_STORED: u64 = FRAME_SIZE + FRAME_SIZE.div_ceil(TASK_FRAMES as u64);
/// Classes, the most valuable first.
const BY_WORTH: [PageClass; 7] = [
    PageClass::Slab,
    PageClass::Reserved,
    PageClass::Kernel,
    PageClass::CachePrivate,
    PageClass::Cache,
    PageClass::User,
    PageClass::Free,
];

/// Chooses which of the classes in `wanted` are left out. Where pages cannot be told apart, none
/// is.
///
/// # Errors
/// What the device failed with.
pub fn left_out<M: PhysMem>(
    evidence: &Evidence<'_, M>,
    assembly: &mut Assembly<'_, '_, '_>,
    wanted: ClassSet,
) -> Result<ClassSet, TargetError> {
    let mut left_out = ClassSet::default();
    let Some((_, census)) = &evidence.judged else {
        return Ok(left_out);
    };
    let wanted =
        BY_WORTH.map(|class| (class, class_of(class).filter(|name| wanted.contains(*name))));
    let frames = wanted.iter().filter(|(_, name)| name.is_some());
    let frames = frames.fold(0u64, |sum, (class, _)| {
        sum.saturating_add(census.frames(*class))
    });
    let mut room = assembly.room();
    if frames.saturating_mul(FRAME_STORED) <= room {
        return Ok(left_out);
    }
    let mut full = false;
    for (class, name) in wanted {
        let Some(name) = name.filter(|_| census.frames(class) > 0) else {
            continue;
        };
        if !full {
            let need = estimate(evidence, assembly, class)?;
            full = need > room;
            room = room.saturating_sub(need);
        }
        if full && name > Class::Kernel {
            left_out.insert(name);
        }
    }
    Ok(left_out)
}

/// Estimates how many bytes of stream the pages of `class` take.
fn estimate<M: PhysMem>(
    evidence: &Evidence<'_, M>,
    assembly: &mut Assembly<'_, '_, '_>,
    class: PageClass,
) -> Result<u64, TargetError> {
    let Some((judge, census)) = &evidence.judged else {
        return Ok(0);
    };
    let frames = census.frames(class);
    let stride = frames / SAMPLES;
    let mut order = assembly.order();
    let (mut at, mut next) = (0u64, 0u64);
    let (mut packed, mut bytes) = (0u64, 0u64);
    for range in evidence.ranges {
        let spans = judge.classifier.spans(judge.virt, *range);
        for span in spans.filter(|span| span.class == class) {
            let Some(class) = class_of(class) else {
                continue;
            };
            let mut piece = Piece {
                first: span.first,
                frames: span.frames,
                class,
            };
            while piece.frames > 0 {
                let skip = next.saturating_sub(at).min(piece.frames);
                piece.skip(skip);
                let before = piece.frames;
                order.take(&mut piece);
                at = at
                    .saturating_add(skip)
                    .saturating_add(before.saturating_sub(piece.frames));
                if order.is_full() {
                    packed = packed.saturating_add(order.frames());
                    let full = core::mem::replace(&mut order, assembly.order());
                    bytes = bytes.saturating_add(assembly.measure(full)?);
                    next = next.saturating_add(stride);
                }
            }
        }
    }
    if !order.is_empty() {
        packed = packed.saturating_add(order.frames());
        bytes = bytes.saturating_add(assembly.measure(order)?);
    }
    Ok(bytes
        .saturating_mul(frames)
        .checked_div(packed)
        .unwrap_or(0))
}
