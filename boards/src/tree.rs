//! The few kinds of lookup that the machine description needs, on top of the `fdt` crate.
//!
//! The crate walks nodes and properties; paths, cells and addresses are resolved here, because
//! the crate's own ways are loose there ([`crate::guard`] lists how). Every lookup is a fixed
//! number of walks over the blob, so its work is linear in the blob's size.

use crate::error::Error;
use crate::guard::{self, Checked};
use fdt::helpers::UnalignedFallibleNode;
use fdt::nodes::AsNode;
use fdt::nodes::root::Root;
use fdt::parsing::{NoPanic, unaligned::UnalignedParser};
use kdraw_format::addr::{PhysAddr, PhysRange};

/// A node, by reference into the blob.
pub(crate) type Node<'a> = UnalignedFallibleNode<'a>;

/// A checked device tree.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    root: Root<'a, (UnalignedParser<'a>, NoPanic)>,
}

/// A node and its ancestors.
#[derive(Clone)]
pub(crate) struct Lineage<'a> {
    node: Node<'a>,
    /// From the root down to the node's parent; empty for the root.
    above: heapless::Vec<Node<'a>, { guard::MAX_DEPTH }>,
}

impl<'a> Tree<'a> {
    /// Opens a blob, which nobody can without having checked it.
    pub(crate) fn open(checked: Checked<'a>) -> Result<Self, Error> {
        Ok(Self {
            root: fdt::Fdt::new_unaligned_fallible(checked.blob())?.root()?,
        })
    }

    /// The root node.
    pub(crate) fn root(&self) -> Node<'a> {
        self.root.as_node()
    }

    /// Finds the first node below the root, depth first, that `wanted` accepts.
    pub(crate) fn find(
        &self,
        wanted: impl Fn(Node<'a>) -> bool,
    ) -> Result<Option<Lineage<'a>>, Error> {
        for lineage in self.walk()? {
            let lineage = lineage?;
            if wanted(lineage.node) {
                return Ok(Some(lineage));
            }
        }
        Ok(None)
    }

    /// Iterates over the nodes below the root, depth first.
    pub(crate) fn walk(
        &self,
    ) -> Result<impl Iterator<Item = Result<Lineage<'a>, Error>> + use<'a>, Error> {
        let mut lineage = Lineage::root(self);
        Ok(self.root.all_nodes()?.map(move |step| {
            let (depth, node) = step?;
            lineage.step(depth, node)?;
            Ok(lineage.clone())
        }))
    }

    /// Resolves a full path such as `/virtio_mmio@a003e00`, the form that
    /// /sys/firmware/devicetree/base shows. A component without `@` also matches a node that
    /// has a unit address, the first of its name, as libfdt does.
    pub(crate) fn resolve(&self, path: &str) -> Result<Lineage<'a>, Error> {
        let components = path.strip_prefix('/').ok_or(Error::Path)?.split('/');
        let mut lineage = Lineage::root(self);
        for (component, depth) in components
            .filter(|component| !component.is_empty())
            .zip(1..)
        {
            let child = child(lineage.node, component)?.ok_or(Error::NoNode)?;
            lineage.step(depth, child)?;
        }
        Ok(lineage)
    }
}

impl<'a> Lineage<'a> {
    fn root(tree: &Tree<'a>) -> Self {
        Self {
            node: tree.root(),
            above: heapless::Vec::new(),
        }
    }

    /// Goes on to a node at `depth`: a child of the present node, or a later node of the walk.
    fn step(&mut self, depth: usize, node: Node<'a>) -> Result<(), Error> {
        if self.above.len() < depth {
            // The guard bounds the depth, so there is always room.
            self.above.push(self.node).map_err(|_| Error::Parser)?;
        }
        self.above.truncate(depth);
        self.node = node;
        Ok(())
    }

    /// The node itself.
    pub(crate) fn node(&self) -> Node<'a> {
        self.node
    }

    /// Checks that the node and every bus above it is switched on.
    pub(crate) fn check_enabled(&self) -> Result<(), Error> {
        match self
            .above
            .iter()
            .chain([&self.node])
            .all(|node| is_enabled(*node))
        {
            true => Ok(()),
            false => Err(Error::Disabled),
        }
    }

    /// Whether the node or a bus above it has a property, whatever its value.
    pub(crate) fn inherits(&self, name: &str) -> bool {
        self.above
            .iter()
            .chain([&self.node])
            .any(|node| property(*node, name).is_some())
    }

    /// Whether the device's DMA has the CPU's addresses: no IOMMU is named, and each bus above
    /// with `dma-ranges` maps every range of it to itself (specification 2.3.9). How far the
    /// ranges reach is not looked at.
    pub(crate) fn dma_is_direct(&self) -> bool {
        let maps_to_itself = |pair: &[Node<'a>]| {
            let [outer, bus] = pair else { return true };
            let mut ranges = CellReader(property(*bus, "dma-ranges").unwrap_or_default());
            let (inner, outer) = (Cells::of(*bus), Cells::of(*outer));
            while !ranges.is_empty() {
                let entry = ranges.take(inner.address).zip(ranges.take(outer.address));
                let whole = entry.filter(|_| ranges.take(inner.size).is_some());
                if whole.is_none_or(|(device, cpu)| device != cpu) {
                    return false;
                }
            }
            true
        };
        property(self.node, "iommus").is_none() && self.above.windows(2).all(maps_to_itself)
    }

    /// The cells in which the node's own addresses are written: its parent's.
    pub(crate) fn outer_cells(&self) -> Cells {
        Cells::of(*self.above.last().unwrap_or(&self.node))
    }

    /// Reads the first entry of the node's `reg` (specification 2.3.6) as the CPU sees it.
    pub(crate) fn registers(&self) -> Result<PhysRange, Error> {
        self.registers_at(0)
    }

    /// Reads the entry of the node's `reg` with this number, from 0 on, as the CPU sees it.
    pub(crate) fn registers_at(&self, index: usize) -> Result<PhysRange, Error> {
        let value = property(self.node, "reg").ok_or(Error::Missing { property: "reg" })?;
        let entry = pairs(value, self.outer_cells()).nth(index);
        let (address, len) = entry.ok_or(Error::Shape {
            property: "reg",
            len: value.len(),
        })?;
        self.translate(address, len)
    }

    /// Translates `len` bytes at `address`, an address of the node's own as in its `reg`, to
    /// what the CPU sees: through the `ranges` of every bus above it (specification 2.3.8).
    /// An empty `ranges` is the identity; where it is missing, the way ends.
    pub(crate) fn translate(&self, mut address: u64, len: u64) -> Result<PhysRange, Error> {
        for pair in self.above.windows(2).rev() {
            let [outer, bus] = pair else { continue };
            address = out_of(*bus, *outer, address, len)?;
        }
        if len == 0 {
            return Err(Error::Value {
                property: "reg",
                value: 0,
            });
        }
        PhysRange::with_len(PhysAddr(address), len).ok_or(Error::NotMapped { address })
    }
}

/// Translates an address on `bus` to one on the bus `outer` above it.
fn out_of(bus: Node<'_>, outer: Node<'_>, address: u64, len: u64) -> Result<u64, Error> {
    let not_mapped = Error::NotMapped { address };
    let mut ranges = property(bus, "ranges").map(CellReader).ok_or(not_mapped)?;
    if ranges.is_empty() {
        return Ok(address);
    }
    let (inner, outer) = (Cells::of(bus), Cells::of(outer));
    let mut entry = || {
        Some((
            ranges.take(inner.address)?,
            ranges.take(outer.address)?,
            ranges.take(inner.size)?,
        ))
    };
    while let Some((start, mapped, size)) = entry() {
        let Some(offset) = address.checked_sub(start) else {
            continue;
        };
        if offset.checked_add(len).is_some_and(|end| end <= size) {
            return mapped.checked_add(offset).ok_or(not_mapped);
        }
    }
    Err(not_mapped)
}

/// How many 32-bit cells a bus uses for addresses and for sizes (specification 2.3.5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cells {
    pub(crate) address: usize,
    pub(crate) size: usize,
}

impl Cells {
    /// Reads a bus's cell counts; each has its own default. The guard has checked their shape.
    pub(crate) fn of(bus: Node<'_>) -> Self {
        let count = |name, default| {
            let cells = property(bus, name).and_then(|value| CellReader(value).take(1));
            cells
                .and_then(|cells| usize::try_from(cells).ok())
                .unwrap_or(default)
        };
        Self {
            address: count("#address-cells", 2),
            size: count("#size-cells", 1),
        }
    }
}

/// A property's value, read cell by cell.
pub(crate) struct CellReader<'a>(pub(crate) &'a [u8]);

impl CellReader<'_> {
    /// Takes a number of `cells` cells: 0 (always zero), 1 or 2. `None` at the value's end and
    /// for wider numbers, which no address that a CPU sees has.
    pub(crate) fn take(&mut self, cells: usize) -> Option<u64> {
        let (number, rest) = match cells {
            0 => (0, self.0),
            1 => self
                .0
                .split_first_chunk()
                .map(|(cell, rest)| (u64::from(u32::from_be_bytes(*cell)), rest))?,
            2 => self
                .0
                .split_first_chunk()
                .map(|(cells, rest)| (u64::from_be_bytes(*cells), rest))?,
            _ => return None,
        };
        self.0 = rest;
        Some(number)
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Iterates over the entries (address, size) of a node's `reg`; of a missing one, over nothing.
pub(crate) fn reg<'a>(node: Node<'a>, cells: Cells) -> impl Iterator<Item = (u64, u64)> + 'a {
    pairs(property(node, "reg").unwrap_or_default(), cells)
}

/// Iterates over the entries (address, size) of a value.
pub(crate) fn pairs(value: &[u8], cells: Cells) -> impl Iterator<Item = (u64, u64)> + '_ {
    let mut reader = CellReader(value);
    core::iter::from_fn(move || {
        // Entries of no cells at all would never end.
        (!reader.is_empty()).then_some(())?;
        (cells.address > 0).then_some(())?;
        Some((reader.take(cells.address)?, reader.take(cells.size)?))
    })
}

/// Finds a node's property.
pub(crate) fn property<'a>(node: Node<'a>, name: &str) -> Option<&'a [u8]> {
    node.raw_property(name)
        .ok()
        .flatten()
        .map(|property| property.value)
}

/// Finds a node's property that is a string (specification 2.2.4): printable, NUL-terminated.
/// Of a list of strings it is the first.
pub(crate) fn string<'a>(node: Node<'a>, name: &str) -> Option<&'a str> {
    strings(node, name).next()
}

/// Iterates over a property that is a list of strings, up to the first malformed one.
pub(crate) fn strings<'a>(node: Node<'a>, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let list = property(node, name).and_then(|value| value.strip_suffix(&[0]));
    let strings = list
        .into_iter()
        .flat_map(|list| list.split(|byte| *byte == 0));
    strings.map_while(|bytes| {
        let printable = bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
        core::str::from_utf8(bytes).ok().filter(|_| printable)
    })
}

/// Whether a device is switched on (specification 2.3.4); `ok` is an old spelling that Linux
/// takes too.
pub(crate) fn is_enabled(node: Node<'_>) -> bool {
    property(node, "status").is_none() || matches!(string(node, "status"), Some("okay" | "ok"))
}

/// Finds a node's child by its name, with or without unit address.
pub(crate) fn child<'a>(node: Node<'a>, component: &str) -> Result<Option<Node<'a>>, Error> {
    let (wanted, unit_address) = match component.split_once('@') {
        Some((name, unit_address)) => (name, Some(unit_address)),
        None => (component, None),
    };
    for child in node.children()?.iter() {
        let child = child?;
        let name = child.name()?;
        if name.name == wanted && (unit_address.is_none() || name.unit_address == unit_address) {
            return Ok(Some(child));
        }
    }
    Ok(None)
}

/// Iterates over a node's children.
pub(crate) fn children<'a>(node: Option<Node<'a>>) -> impl Iterator<Item = Node<'a>> + use<'a> {
    let children = node.and_then(|node| node.children().ok());
    children
        .into_iter()
        .flat_map(|children| children.iter().map_while(Result::ok))
}
