//! The one way in which everything here reads the crashed kernel's memory.

use kdraw_format::addr::PhysAddr;

/// Why a read of physical memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("physical memory at {at} cannot be read")]
pub struct Unreadable {
    /// The first byte asked for.
    pub at: PhysAddr,
}

/// The crashed kernel's physical memory, read-only.
///
/// In the payload this is the evidence mapping, where a read may fault and comes back as an
/// error; in the tool it is a dump; in tests a table.
pub trait PhysMem {
    /// Fills `into` from physical memory at `at`.
    ///
    /// # Errors
    /// [`Unreadable`] if any byte lies outside the crashed kernel's memory, was not captured,
    /// or faults. `into` may then hold a part of it.
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable>;
}

impl<M: PhysMem + ?Sized> PhysMem for &M {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(at, into)
    }
}
