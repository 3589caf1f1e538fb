//! The payload's address space after entry.s: adds mappings to the tables that it made.
//!
//! Link addresses show the image. The *window* shows physical memory: physical address p at
//! virtual address 2^47 + p, and there only what was mapped here: the evidence read-only, the
//! segments beside the image read-only, working memory, device registers as Device memory. The
//! boot code is also seen one to one, read-only, for CPUs that come later. Everything else faults.
//!
//! All CPUs use the same tables. Only the first one changes them, and only by adding to them.
//! Descriptors: Arm ARM (DDI 0487), D8.3, 4 KiB granule, 48-bit addresses.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable, TTBR0_EL1, TTBR0_EL2};
use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};

use crate::entry;

/// Where the window begins.
const WINDOW: u64 = 1 << 47;
/// Tables that mappings may take: two levels for each end of a range that is not aligned to a
/// block, and one for each 512 GiB.
const TABLES: usize = 64;

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const ACCESSED: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 3 << 8;
const READ_ONLY: u64 = 1 << 7;
/// AP\[1\] is RES1 in a regime with one privilege level.
const EL2_AP1: u64 = 1 << 6;
const NORMAL: u64 = 1 << 2;
const DEVICE: u64 = 0;
const NEVER_EXECUTE: u64 = 1 << 54;
const PRIVILEGED_NEVER_EXECUTE: u64 = 1 << 53;

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Memory that is only read: Normal Write-Back Inner Shareable, read-only, never executed.
    ReadOnly,
    /// Memory to work in: Normal Write-Back Inner Shareable, read-write, never executed.
    Working,
    /// Device registers: Device-nGnRnE, read-write, never executed.
    Registers,
}

/// Why a range cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// It lies above what this CPU can address.
    #[error("physical addresses {start} to {end} are out of this CPU's reach", start = .0.start, end = .0.end)]
    OutOfReach(PhysRange),
    /// There are no more tables.
    #[error("out of page tables at {0}")]
    NoTables(PhysAddr),
    /// It is mapped already, for another use.
    #[error("{0} is mapped for another use")]
    Conflict(PhysAddr),
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static TABLE_POOL: [Table; TABLES] = [const { Table([const { AtomicU64::new(0) }; 512]) }; TABLES];
static TABLES_USED: AtomicUsize = AtomicUsize::new(0);

/// The end of the physical addresses that can be mapped: what the CPU implements
/// (ID_AA64MMFR0_EL1.PARange), at most the window's size.
pub fn physical_limit() -> PhysAddr {
    let bits = match ID_AA64MMFR0_EL1.get() & 0xf {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 47,
    };
    PhysAddr(1 << bits)
}

/// Maps `range`, widened to whole frames, and returns where its first byte is seen.
///
/// # Errors
/// [`MapError`]; a part of the range may be mapped then.
pub fn map(range: PhysRange, purpose: Use) -> Result<NonNull<u8>, MapError> {
    let frame_mask = FRAME_SIZE.wrapping_sub(1);
    let mut at = range.start.0 & !frame_mask;
    let end = range.end.0.checked_next_multiple_of(FRAME_SIZE);
    let end = end.filter(|&end| end <= physical_limit().0 && at < end);
    let end = end.ok_or(MapError::OutOfReach(range))?;
    let mut attributes = ACCESSED | NEVER_EXECUTE | VALID;
    attributes |= match purpose {
        Use::ReadOnly => NORMAL | INNER_SHAREABLE | READ_ONLY,
        Use::Working => NORMAL | INNER_SHAREABLE,
        Use::Registers => DEVICE,
    };
    attributes |= if entry::el2_regime() {
        EL2_AP1
    } else {
        PRIVILEGED_NEVER_EXECUTE
    };
    while at < end {
        at = map_leaf(at, end, attributes)?;
    }
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
    let seen = WINDOW.wrapping_add(range.start.0) as *mut u8;
    NonNull::new(seen).ok_or(MapError::OutOfReach(range))
}

/// Maps the largest block or page that begins at `at` and fits before `end`; returns its end.
fn map_leaf(at: u64, end: u64, attributes: u64) -> Result<u64, MapError> {
    let mut table = root();
    for shift in [39, 30, 21, 12] {
        let size = 1u64 << shift;
        let index = ((WINDOW.wrapping_add(at)) >> shift) & 511;
        let slot = table
            .0
            .get(index as usize)
            .ok_or(MapError::NoTables(PhysAddr(at)))?;
        let old = slot.load(Ordering::Relaxed);
        let fits = at & size.wrapping_sub(1) == 0 && end.wrapping_sub(at) >= size;
        let leaf = attributes | at | if shift == 12 { TABLE_OR_PAGE } else { 0 };
        if old == leaf {
            return Ok(at.wrapping_add(size));
        }
        let is_table = old & TABLE_OR_PAGE != 0 && shift != 12;
        if old & VALID != 0 && !is_table {
            return Err(MapError::Conflict(PhysAddr(at)));
        }
        if old & VALID == 0 && shift != 39 && fits {
            slot.store(leaf, Ordering::Relaxed);
            return Ok(at.wrapping_add(size));
        }
        table = if is_table {
            table_at(old & ADDRESS)
        } else {
            let used = TABLES_USED.fetch_add(1, Ordering::Relaxed);
            let new = TABLE_POOL
                .get(used)
                .ok_or(MapError::NoTables(PhysAddr(at)))?;
            // The walker must see the new table empty before it can see the table.
            barrier::dsb(barrier::ISHST);
            let address = entry::physical(core::ptr::from_ref(new).addr());
            slot.store(address | VALID | TABLE_OR_PAGE, Ordering::Relaxed);
            new
        };
    }
    Err(MapError::NoTables(PhysAddr(at)))
}

fn root() -> &'static Table {
    let base = if entry::el2_regime() {
        TTBR0_EL2.get()
    } else {
        TTBR0_EL1.get()
    };
    table_at(base & ADDRESS)
}

/// The table at a physical address that a descriptor of ours holds.
fn table_at(physical: u64) -> &'static Table {
    let table = entry::linked(physical) as *const Table;
    // SAFETY: all tables come from entry.s's __boot_tables or TABLE_POOL, both in the image's
    // writable data, which is mapped at its link address for good; they are page-aligned and
    // only ever accessed as atomic words.
    unsafe { &*table }
}
