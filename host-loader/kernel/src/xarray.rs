//! XArrays and radix trees: sparse arrays of pointers. Both are made of the same nodes (4.20,
//! f8d5d0cc145c and 01959dfe771c).
//!
//! `xa_head`, and each slot of a node, is an entry: nothing (0), a pointer (its lowest bits are
//! 00), a number (its lowest bit is 1), or internal (10): a node's address plus 2, or below 4096
//! a mark (a sibling of the slot before, or an entry that was reserved or moved). A node's
//! `shift` says how many bits of the index are left to its children.
//!
//! Source: `include/linux/xarray.h`, `lib/xarray.c`.

use std::collections::BTreeSet;

use crate::object::{Error, Object};

/// The most nodes that are looked at.
const MAX_NODES: usize = 1 << 20;
/// Internal entries up to here are marks (`xa_is_node`).
const LAST_MARK: u64 = 4096;

/// The node behind an entry, if it is one.
pub(crate) fn node(entry: u64) -> Option<u64> {
    (entry & 3 == 2 && entry > LAST_MARK).then_some(entry & !3)
}

/// Whether an entry is somebody's: not nothing, and not internal.
pub(crate) fn is_value(entry: u64) -> bool {
    entry != 0 && entry & 3 != 2
}

/// What is in an XArray, in the order of the indices. A node that cannot be read is an error,
/// behind which the others go on.
pub struct XArray<'k> {
    /// `struct xa_node`, at no address.
    template: Object<'k>,
    /// Entries to look at, the next one last: its first index, and how far its node's indices
    /// may be shifted.
    rest: Vec<(u64, u64, u64)>,
    seen: BTreeSet<u64>,
}

impl<'k> XArray<'k> {
    pub(crate) fn new(root: &Object<'k>) -> Result<Self, Error> {
        let head = root.get("xa_head")?;
        Ok(Self {
            template: root.kernel().object("struct xa_node", 0)?,
            rest: vec![(head, 0, 64)],
            seen: BTreeSet::new(),
        })
    }

    fn open(&mut self, at: u64, first: u64, below: u64) -> Result<(), Error> {
        let damaged = || Error::Damaged {
            what: "a node of an XArray",
            at,
        };
        if self.seen.len() >= MAX_NODES || !self.seen.insert(at) {
            return Err(damaged());
        }
        let node = self.template.moved(at);
        // Each level has fewer bits left than the one above; so depth ends.
        let shift = node.get("shift")?;
        if shift >= below {
            return Err(damaged());
        }
        let slots = node.field("slots")?;
        let mut entries = Vec::new();
        for slot in 0..u64::from(slots.count()) {
            let entry = slots.index(slot)?.number()?;
            let distance = slot.checked_shl(shift as u32).unwrap_or(0);
            entries.push((entry, first.wrapping_add(distance), shift));
        }
        self.rest.extend(entries.into_iter().rev());
        Ok(())
    }
}

impl Iterator for XArray<'_> {
    /// The index, and the entry there: a pointer or a number.
    type Item = Result<(u64, u64), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((entry, first, below)) = self.rest.pop() {
            if let Some(at) = node(entry) {
                if let Err(why) = self.open(at, first, below) {
                    return Some(Err(why));
                }
            } else if is_value(entry) {
                return Some(Ok((first, entry)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;
    use crate::btf::tests::Writer;
    use crate::fake::{Ram, VA, notes, with_types};

    /// Where nodes of 4 slots are, what each shifts by, and what is in its slots.
    type Nodes<'a> = &'a [(u64, u64, [u64; 4])];

    fn walked(head: u64, nodes: Nodes<'_>) -> Vec<Result<(u64, u64), Error>> {
        let mut types = Writer::new(0, 0);
        let word = types.number("unsigned long", 8);
        let byte = types.number("unsigned char", 1);
        let slots = types.array(word, 4);
        types.structure("xarray", 16, &[("xa_head", word, 64)]);
        let members = [("shift", byte, 0), ("slots", slots, 64)];
        types.structure("xa_node", 40, &members);
        let mut ram = Ram::default();
        ram.put_words(0x100, &[0, head]);
        for (at, shift, slots) in nodes {
            ram.put_words(*at, &[*shift]);
            ram.put_words(at + 8, slots);
        }
        let options = with_types(&mut ram, 0x4_0000, &types, &[]);
        let notes = notes();
        let kernel = Kernel::open(&ram, &notes, options).unwrap();
        let root = kernel.object("struct xarray", VA + 0x100).unwrap();
        root.xarray().unwrap().take(100).collect()
    }

    const fn to(node: u64) -> u64 {
        VA + node + 2
    }

    #[test]
    fn entries_come_with_their_indices() {
        assert_eq!(walked(0, &[]), []);
        assert_eq!(walked(0x7000, &[]), [Ok((0, 0x7000))]);
        let nodes: Nodes<'_> = &[
            (0x1000, 2, [to(0x1100), 0, 0x7008, 2 << 2 | 2]),
            (0x1100, 0, [0, 0x7010, 257 << 2 | 2, 9]),
        ];
        let found = walked(to(0x1000), nodes);
        assert_eq!(found, [Ok((1, 0x7010)), Ok((3, 9)), Ok((8, 0x7008))]);
    }

    #[test]
    fn damage_hides_no_more_than_itself() {
        let damaged = |at: u64| {
            Err(Error::Damaged {
                what: "a node of an XArray",
                at: VA + at,
            })
        };
        let circle: Nodes<'_> = &[(0x1000, 2, [0x7000, to(0x1000), 0, 0x7008])];
        assert_eq!(
            walked(to(0x1000), circle),
            [Ok((0, 0x7000)), damaged(0x1000), Ok((12, 0x7008))]
        );
        let endless: Nodes<'_> = &[
            (0x1000, 2, [to(0x1100), 0, 0, 0]),
            (0x1100, 2, [0x7000, 0, 0, 0]),
        ];
        assert_eq!(walked(to(0x1000), endless), [damaged(0x1100)]);
        let lost: Nodes<'_> = &[(0x1000, 2, [to(0x9000), 0x7000, 0, 0])];
        let found = walked(to(0x1000), lost);
        assert!(matches!(found[0], Err(Error::Memory(_))), "{found:?}");
        assert_eq!(found[1..], [Ok((4, 0x7000))]);
    }
}
