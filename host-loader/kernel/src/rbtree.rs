//! Red-black trees, whose nodes (`struct rb_node`) are embedded in what hangs on the tree.
//!
//! Source: `include/linux/rbtree_types.h`.

use std::collections::BTreeSet;

use crate::object::{Error, Object};

/// The most nodes that are looked at.
const MAX_NODES: usize = 1 << 20;

/// What is on a tree, in its order. What cannot be read is an error, behind which the rest of
/// the tree goes on.
pub struct RbTree<'k> {
    /// `struct rb_node`, at no address.
    link: Object<'k>,
    element: Object<'k>,
    /// Bytes from the element's start to its link.
    distance: u64,
    /// Down whose left side to go next, if anywhere.
    next: u64,
    /// What comes behind it, the nearest last: links, and to the right of each.
    above: Vec<(u64, u64)>,
    seen: BTreeSet<u64>,
}

impl<'k> RbTree<'k> {
    pub(crate) fn new(root: &Object<'k>, ty: &str, path: &str) -> Result<Self, Error> {
        let embedded = root.container(ty, path)?;
        let kernel = root.kernel();
        Ok(Self {
            link: kernel.object("struct rb_node", 0)?,
            element: embedded,
            distance: root.address.wrapping_sub(embedded.address),
            next: root.get("rb_node")?,
            above: Vec::new(),
            seen: BTreeSet::new(),
        })
    }

    /// Goes down to the left as far as it goes.
    fn descend(&mut self) -> Result<(), Error> {
        while self.next != 0 {
            let at = std::mem::take(&mut self.next);
            if self.seen.len() >= MAX_NODES || !self.seen.insert(at) {
                return Err(Error::Damaged {
                    what: "a node of a red-black tree",
                    at,
                });
            }
            let link = self.link.moved(at);
            self.above.push((at, link.get("rb_right")?));
            self.next = link.get("rb_left")?;
        }
        Ok(())
    }
}

impl<'k> Iterator for RbTree<'k> {
    type Item = Result<Object<'k>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(why) = self.descend() {
            return Some(Err(why));
        }
        let (at, right) = self.above.pop()?;
        self.next = right;
        Some(Ok(self.element.moved(at.wrapping_sub(self.distance))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;
    use crate::btf::tests::Writer;
    use crate::fake::{Ram, VA, notes, with_types};

    /// The numbers in front of the links; of each link where it is, and what is right and left.
    fn walked(root: u64, links: &[(u64, u64, u64)]) -> Vec<Result<u64, Error>> {
        let mut types = Writer::new(0, 0);
        let word = types.number("unsigned long", 8);
        types.structure("rb_root", 8, &[("rb_node", word, 0)]);
        let members = [("rb_right", word, 64), ("rb_left", word, 128)];
        let link = types.structure("rb_node", 24, &members);
        types.structure("item", 32, &[("number", word, 0), ("link", link, 64)]);
        let mut ram = Ram::default();
        let to = |at: u64| if at == 0 { 0 } else { VA + at };
        ram.put_words(0x100, &[to(root)]);
        for (at, right, left) in links {
            ram.put_words(at - 8, &[*at, 0, to(*right), to(*left)]);
        }
        let options = with_types(&mut ram, 0x4_0000, &types, &[]);
        let notes = notes();
        let kernel = Kernel::open(&ram, &notes, options).unwrap();
        let root = kernel.object("struct rb_root", VA + 0x100).unwrap();
        let items = root.rb_tree("struct item", "link").unwrap().take(100);
        items
            .map(|item| item.and_then(|item| item.get("number")))
            .collect()
    }

    #[test]
    fn elements_come_in_their_order() {
        assert_eq!(walked(0, &[]), []);
        let links = [
            (0x400, 0x600, 0x200),
            (0x200, 0x300, 0),
            (0x300, 0, 0),
            (0x600, 0, 0x500),
            (0x500, 0, 0),
        ];
        let found: Result<Vec<u64>, Error> = walked(0x400, &links).into_iter().collect();
        assert_eq!(found, Ok(vec![0x200, 0x300, 0x400, 0x500, 0x600]));
    }

    #[test]
    fn damage_hides_no_more_than_itself() {
        let circle = [(0x400, 0x600, 0x200), (0x200, 0x400, 0), (0x600, 0, 0)];
        let damaged = Err(Error::Damaged {
            what: "a node of a red-black tree",
            at: VA + 0x400,
        });
        let found = walked(0x400, &circle);
        assert_eq!(found, [Ok(0x200), damaged, Ok(0x400), Ok(0x600)]);
        let found = walked(0x400, &[(0x400, 0x600, 0x9000), (0x600, 0, 0)]);
        assert!(matches!(found[0], Err(Error::Memory(_))), "{found:?}");
        assert_eq!(found[1..], [Ok(0x400), Ok(0x600)]);
    }
}
