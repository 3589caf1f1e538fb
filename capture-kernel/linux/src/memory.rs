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

#[cfg(test)]
pub(crate) mod tests {
    use std::boxed::Box;
    use std::collections::BTreeMap;

    use super::*;

    /// Sparse memory of 4 KiB pages: what was never put there cannot be read.
    #[derive(Default)]
    pub(crate) struct Ram {
        pages: BTreeMap<u64, Box<[u8; 4096]>>,
    }

    impl Ram {
        pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
            for (at, byte) in (at..).zip(bytes) {
                let page = self
                    .pages
                    .entry(at / 4096)
                    .or_insert_with(|| Box::new([0; 4096]));
                page[(at % 4096) as usize] = *byte;
            }
        }

        pub(crate) fn put_u64(&mut self, at: u64, value: u64) {
            self.put(at, &value.to_le_bytes());
        }
    }

    impl PhysMem for Ram {
        fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
            for (at, byte) in (at.0..).zip(into) {
                let page = self
                    .pages
                    .get(&(at / 4096))
                    .ok_or(Unreadable { at: PhysAddr(at) })?;
                *byte = page[(at % 4096) as usize];
            }
            Ok(())
        }
    }
}
