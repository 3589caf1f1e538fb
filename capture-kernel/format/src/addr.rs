//! Address and unit types: one per address space, so that they cannot be mixed up.
//!
//! A value read from foreign memory is an allegation; these types say in which space it
//! alleges to be, not that it is valid there.

use core::fmt;

/// Bytes in the unit in which page frames are counted everywhere in kdraw: 4 KiB, whatever
/// page size the crashed kernel uses (arm64 granules of 16 and 64 KiB are multiples of it).
pub const FRAME_SIZE: u64 = 4096;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $form:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Adds, or tells that the sum does not fit.
            pub const fn checked_add(self, amount: u64) -> Option<Self> {
                match self.0.checked_add(amount) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $form, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $form, ")"), self.0)
            }
        }
    };
}

unit!(
    /// A physical address, in bytes.
    PhysAddr,
    "{:#x}"
);
unit!(
    /// A virtual address of the crashed kernel, in bytes.
    KernelVirtAddr,
    "{:#x}"
);
unit!(
    /// A page frame number: a physical address divided by [`FRAME_SIZE`].
    Pfn,
    "{:#x}"
);
unit!(
    /// A logical block address on a whole block device, in that device's logical blocks.
    Lba,
    "{}"
);
unit!(
    /// A byte offset inside the dump partition; 0 is the partition's first byte.
    PartOffset,
    "{:#x}"
);

impl Pfn {
    /// The frame's first byte; `None` past the end of the address space.
    pub const fn addr(self) -> Option<PhysAddr> {
        match self.0.checked_mul(FRAME_SIZE) {
            Some(bytes) => Some(PhysAddr(bytes)),
            None => None,
        }
    }
}

impl PhysAddr {
    /// The frame that this address lies in.
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 / FRAME_SIZE)
    }
}

/// A range of physical memory, `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysRange {
    /// The first byte.
    pub start: PhysAddr,
    /// The byte after the last.
    pub end: PhysAddr,
}

impl PhysRange {
    /// The range of `len` bytes from `start`; `None` if it would wrap.
    pub const fn with_len(start: PhysAddr, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Its length in bytes; 0 if `end` lies before `start`.
    pub const fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether it has no byte.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `other` lies wholly inside.
    pub const fn contains(&self, other: &Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// Whether the two share a byte.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }
}
