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
            let (mut at, mut rest) = (at, bytes);
            while !rest.is_empty() {
                let page = self
                    .pages
                    .entry(at / 4096)
                    .or_insert_with(|| Box::new([0; 4096]));
                let inside = (at % 4096) as usize;
                let (now, later) = rest.split_at(rest.len().min(4096 - inside));
                page[inside..inside + now.len()].copy_from_slice(now);
                at += now.len() as u64;
                rest = later;
            }
        }

        pub(crate) fn put_u64(&mut self, at: u64, value: u64) {
            self.put(at, &value.to_le_bytes());
        }

        pub(crate) fn u64(&self, at: u64) -> u64 {
            let mut bytes = [0; 8];
            self.read(PhysAddr(at), &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        }

        /// Makes the 4 KiB page that holds `at` unreadable.
        pub(crate) fn lose(&mut self, at: u64) -> Option<Box<[u8; 4096]>> {
            self.pages.remove(&(at / 4096))
        }

        /// Puts a lost page back.
        pub(crate) fn restore(&mut self, at: u64, page: Box<[u8; 4096]>) {
            self.pages.insert(at / 4096, page);
        }

        /// Where there are pages.
        pub(crate) fn pages(&self) -> std::vec::Vec<u64> {
            self.pages.keys().map(|page| page * 4096).collect()
        }
    }

    impl PhysMem for Ram {
        fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
            let mut at = at.0;
            let mut rest = into;
            while !rest.is_empty() {
                let page = self
                    .pages
                    .get(&(at / 4096))
                    .ok_or(Unreadable { at: PhysAddr(at) })?;
                let inside = (at % 4096) as usize;
                let (now, later) = rest.split_at_mut(rest.len().min(4096 - inside));
                now.copy_from_slice(&page[inside..inside + now.len()]);
                at = at.wrapping_add(now.len() as u64);
                rest = later;
            }
            Ok(())
        }
    }
}
