//! Maple trees: pointers by ranges of numbers, such as the mappings of an address space (6.1,
//! d4af56c5c7c6).
//!
//! `ma_root`, and each slot of a node that is no leaf, is a node's address with its type in bits
//! 3 to 6 (`mte_node_type`); in a root that is a plain entry the range is 0 alone. Slot `n` of a
//! node is for the numbers behind `pivot[n - 1]` up to `pivot[n]`; where a pivot is 0 or past
//! the node's last number, that number ends the slot and the node.
//!
//! Source: `include/linux/maple_tree.h`, `lib/maple_tree.c` (`mas_logical_pivot`).

use std::collections::BTreeSet;

use crate::object::{Error, Object};
use crate::xarray;

/// The most nodes that are looked at.
const MAX_NODES: usize = 1 << 20;
/// `MAPLE_HEIGHT_MAX`.
const MAX_HEIGHT: u32 = 31;
/// Bits of a node's address that tell of its type (`MAPLE_NODE_MASK`).
const TAG: u64 = 0xff;

/// What is in a maple tree, in the order of the ranges. A node that cannot be read is an error,
/// behind which the others go on.
pub struct MapleTree<'k> {
    leaf: Object<'k>,
    inner: Object<'k>,
    /// What to look at, the next one last.
    rest: Vec<Slot>,
    seen: BTreeSet<u64>,
}

/// A slot: what is in it, and its range.
struct Slot {
    entry: u64,
    first: u64,
    last: u64,
    /// How many nodes it is below the root; `None` in leaves.
    height: Option<u32>,
}

impl<'k> MapleTree<'k> {
    pub(crate) fn new(root: &Object<'k>) -> Result<Self, Error> {
        let entry = root.get("ma_root")?;
        let is_node = xarray::node(entry).is_some();
        let kernel = root.kernel();
        Ok(Self {
            leaf: kernel.object("struct maple_range_64", 0)?,
            inner: kernel.object("struct maple_arange_64", 0)?,
            rest: vec![Slot {
                entry,
                first: 0,
                last: if is_node { u64::MAX } else { 0 },
                height: is_node.then_some(0),
            }],
            seen: BTreeSet::new(),
        })
    }

    fn open(&mut self, slot: &Slot, height: u32) -> Result<(), Error> {
        let at = slot.entry & !TAG;
        let damaged = || Error::Damaged {
            what: "a node of a maple tree",
            at,
        };
        let is_new = self.seen.len() < MAX_NODES && self.seen.insert(at);
        if !is_new || height >= MAX_HEIGHT {
            return Err(damaged());
        }
        // `enum maple_type`; no kernel makes a dense node (0).
        let (template, is_leaf) = match slot.entry >> 3 & 0xf {
            1 => (self.leaf, true),
            2 => (self.leaf, false),
            3 => (self.inner, false),
            _ => return Err(damaged()),
        };
        let node = template.moved(at);
        let (pivots, slots) = (node.field("pivot")?, node.field("slot")?);
        let mut entries = Vec::new();
        let mut first = slot.first;
        for number in 0..u64::from(slots.count()) {
            let last = match number < u64::from(pivots.count()) {
                true => pivots.index(number)?.number()?,
                false => slot.last,
            };
            let is_end = (last == 0 && number > 0) || last >= slot.last;
            let last = if is_end { slot.last } else { last };
            if last < first {
                return Err(damaged());
            }
            entries.push(Slot {
                entry: slots.index(number)?.number()?,
                first,
                last,
                height: (!is_leaf).then_some(height.saturating_add(1)),
            });
            let Some(next) = last.checked_add(1).filter(|_| !is_end) else {
                break;
            };
            first = next;
        }
        self.rest.extend(entries.into_iter().rev());
        Ok(())
    }
}

impl Iterator for MapleTree<'_> {
    /// The first and last number of the range, and the entry.
    type Item = Result<(u64, u64, u64), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(slot) = self.rest.pop() {
            match slot.height {
                Some(_) if slot.entry == 0 => {}
                Some(height) => {
                    if let Err(why) = self.open(&slot, height) {
                        return Some(Err(why));
                    }
                }
                None if xarray::is_value(slot.entry) => {
                    return Some(Ok((slot.first, slot.last, slot.entry)));
                }
                None => {}
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

    type Found = Result<(u64, u64, u64), Error>;

    /// Nodes of 3 pivots and 4 slots, of which an inner one's come behind another word.
    fn walked(root: u64, nodes: &[(u64, [u64; 3], [u64; 4])]) -> Vec<Found> {
        let mut types = Writer::new(0, 0);
        let word = types.number("unsigned long", 8);
        let (pivots, slots) = (types.array(word, 3), types.array(word, 4));
        types.structure("maple_tree", 16, &[("ma_root", word, 64)]);
        for name in ["maple_range_64", "maple_arange_64"] {
            let members = [("pivot", pivots, 64), ("slot", slots, 256)];
            types.structure(name, 64, &members);
        }
        let mut ram = Ram::default();
        ram.put_words(0x100, &[0, root]);
        for (at, pivots, slots) in nodes {
            ram.put_words(at + 8, pivots);
            ram.put_words(at + 32, slots);
        }
        let options = with_types(&mut ram, 0x4_0000, &types, &[]);
        let notes = notes();
        let kernel = Kernel::open(&ram, &notes, options).unwrap();
        let tree = kernel.object("struct maple_tree", VA + 0x100).unwrap();
        tree.maple_tree().unwrap().take(100).collect()
    }

    const fn to(node: u64, ty: u64) -> u64 {
        (VA + node) | ty << 3 | 2
    }

    #[test]
    fn ranges_end_at_their_pivots() {
        assert_eq!(walked(0, &[]), []);
        assert_eq!(walked(0x7000, &[]), [Ok((0, 0, 0x7000))]);
        let leaves = [
            (0x1000, [0xff, 0, 0], [to(0x1100, 1), to(0x1200, 1), 9, 9]),
            (0x1100, [0, 0xf, 0xff], [0x7000, 0x7008, 0, 0x7010]),
            (0x1200, [0x1ff, 0x2ff, 0x3ff], [0, 0x7018, 0x406, 0x7020]),
        ];
        assert_eq!(
            walked(to(0x1000, 3), &leaves),
            [
                Ok((0, 0, 0x7000)),
                Ok((1, 0xf, 0x7008)),
                Ok((0x200, 0x2ff, 0x7018)),
                Ok((0x400, u64::MAX, 0x7020))
            ]
        );
    }

    #[test]
    fn damage_hides_no_more_than_itself() {
        let damaged = |at: u64| {
            Err(Error::Damaged {
                what: "a node of a maple tree",
                at: VA + at,
            })
        };
        let good = (0x1100, [0xff, 0, 0], [0, 0x7000, 0, 0]);
        for (child, expected) in [
            (to(0x1000, 2), damaged(0x1000)),
            (to(0x1300, 0), damaged(0x1300)),
            (to(0x1200, 1), damaged(0x1200)),
        ] {
            let nodes = [
                (0x1000, [0xfff, 0, 0], [child, to(0x1100, 1), 0, 0]),
                good,
                (0x1200, [0x80, 0x40, 0], [0; 4]),
            ];
            let found = walked(to(0x1000, 2), &nodes);
            assert_eq!(found.first(), Some(&expected));
        }
        let lost = [
            (0x1000, [0xfff, 0, 0], [to(0x9000, 1), to(0x1100, 1), 0, 0]),
            (0x1100, [0x1000, 0, 0], [0, 0x7000, 0, 0]),
        ];
        let found = walked(to(0x1000, 2), &lost);
        assert!(matches!(found[0], Err(Error::Memory(_))), "{found:?}");
        assert_eq!(found[1..], [Ok((0x1001, u64::MAX, 0x7000))]);
    }
}
