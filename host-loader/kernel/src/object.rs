//! Typed access: members by name, pointers, text, lists.

use kdraw_linux::translate::TranslateError;

use crate::Kernel;
use crate::btf::{Field, Kind, TypeId, Types};
use crate::maple_tree::MapleTree;
use crate::rbtree::RbTree;
use crate::xarray::XArray;

/// The most elements of a list.
const MAX_LIST: usize = 1 << 20;

/// Why a value cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel's types are not known.
    #[error("the kernel's types are not known: {0}")]
    NoTypes(String),
    /// The kernel has no such type.
    #[error("the kernel has no type {0:?}")]
    NoType(String),
    /// A type has no such member.
    #[error("{ty} has no member {member:?}")]
    NoMember {
        /// The type.
        ty: String,
        /// The member.
        member: String,
    },
    /// The kernel does not say where something is.
    #[error("the kernel does not tell where {0} is")]
    NoSymbol(String),
    /// A value is of another kind than was asked for.
    #[error("{ty} is no {wanted}")]
    Not {
        /// Its type.
        ty: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A list leads back into itself, or does not end.
    #[error("the list at {0:#x} does not end")]
    Endless(u64),
    /// A tree leads back into itself, or to what cannot be a node of it.
    #[error("{what} at {at:#x} is damaged")]
    Damaged {
        /// What.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// Memory is not mapped, or absent in the dump.
    #[error(transparent)]
    Memory(#[from] TranslateError),
}

/// Something of a type at an address.
#[derive(Clone, Copy)]
pub struct Object<'k> {
    kernel: &'k Kernel<'k>,
    types: &'k Types,
    /// Its type.
    pub ty: TypeId,
    /// Where it is.
    pub address: u64,
    /// Of a bit field: the first bit and how many.
    bits: Option<(u32, u32)>,
}

impl std::fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}) {:#x}", self.types.c_name(self.ty), self.address)
    }
}

impl<'k> Object<'k> {
    /// Something of a type at an address. Nothing is read.
    pub fn new(kernel: &'k Kernel<'k>, types: &'k Types, ty: TypeId, address: u64) -> Self {
        Self {
            kernel,
            types,
            ty,
            address,
            bits: None,
        }
    }

    fn at(&self, ty: TypeId, address: u64) -> Self {
        Self::new(self.kernel, self.types, ty, address)
    }

    /// The same type at another address.
    pub fn moved(&self, address: u64) -> Self {
        self.at(self.ty, address)
    }

    /// The same type so many bytes further on: a CPU's own of what is per CPU.
    pub fn further(&self, bytes: u64) -> Self {
        self.at(self.ty, self.address.wrapping_add(bytes))
    }

    /// The kernel that it is of.
    pub fn kernel(&self) -> &'k Kernel<'k> {
        self.kernel
    }

    /// Bytes that it takes.
    pub fn size(&self) -> u64 {
        self.types.size(self.ty)
    }

    /// Whether its type has a member.
    pub fn has(&self, path: &str) -> bool {
        self.types.field(self.ty, path).is_some()
    }

    fn find(&self, path: &str) -> Result<Field, Error> {
        let found = self.types.field(self.ty, path);
        found.ok_or_else(|| Error::NoMember {
            ty: self.types.c_name(self.ty),
            member: path.to_owned(),
        })
    }

    /// The member at a path such as `se.cfs_rq`.
    ///
    /// # Errors
    /// [`Error::NoMember`].
    pub fn field(&self, path: &str) -> Result<Self, Error> {
        let field = self.find(path)?;
        let mut object = self.at(field.ty, self.address.wrapping_add(field.offset()));
        object.bits = field.bits.map(|bits| ((field.bit_offset % 8) as u32, bits));
        Ok(object)
    }

    /// The first of several members that the type has: kernels rename them.
    ///
    /// # Errors
    /// [`Error::NoMember`], of the last.
    pub fn any_field(&self, paths: &[&str]) -> Result<Self, Error> {
        let there = paths.iter().find(|path| self.has(path));
        let path = there.or(paths.last()).copied().unwrap_or_default();
        self.field(path)
    }

    /// What its bytes say as a number: sign-extended if its type is signed; an address if it is
    /// a pointer.
    ///
    /// # Errors
    /// [`Error::Not`] for structures and arrays, [`Error::Memory`].
    pub fn number(&self) -> Result<u64, Error> {
        let ty = self.types.get(self.types.stripped(self.ty));
        let (size, signed) = match ty.kind {
            Kind::Int { size, signed, .. } | Kind::Enum { size, signed } => (size, signed),
            Kind::Pointer(_) => (8, false),
            // What holds one number is read as that number: `atomic_t`, `kuid_t`.
            Kind::Struct { size } if self.types.members(&ty).count() == 1 && size <= 8 => {
                (size, false)
            }
            _ => {
                return Err(Error::Not {
                    ty: self.types.c_name(self.ty),
                    wanted: "number",
                });
            }
        };
        let Some((first, bits)) = self.bits else {
            let raw = self.kernel.read_number(self.address, size as usize)?;
            return Ok(extended(raw, size.saturating_mul(8), signed));
        };
        let bytes = first.saturating_add(bits).div_ceil(8);
        let raw = self.kernel.read_number(self.address, bytes as usize)?;
        let raw = raw.checked_shr(first).unwrap_or(0);
        Ok(extended(raw, bits, signed))
    }

    /// The same as a signed number.
    ///
    /// # Errors
    /// As [`number`](Self::number).
    pub fn signed(&self) -> Result<i64, Error> {
        self.number().map(u64::cast_signed)
    }

    /// The number of a member.
    ///
    /// # Errors
    /// As [`field`](Self::field) and [`number`](Self::number).
    pub fn get(&self, path: &str) -> Result<u64, Error> {
        self.field(path)?.number()
    }

    /// What a pointer points to, of the pointer's type; `None` for NULL.
    ///
    /// # Errors
    /// [`Error::Not`], [`Error::Memory`].
    pub fn pointee(&self) -> Result<Option<Self>, Error> {
        let Kind::Pointer(to) = self.types.get(self.types.stripped(self.ty)).kind else {
            return Err(Error::Not {
                ty: self.types.c_name(self.ty),
                wanted: "pointer",
            });
        };
        let address = self.number()?;
        Ok((address != 0).then(|| self.at(to, address)))
    }

    /// What the pointer in a member points to; `None` for NULL.
    ///
    /// # Errors
    /// As [`field`](Self::field) and [`pointee`](Self::pointee).
    pub fn follow(&self, path: &str) -> Result<Option<Self>, Error> {
        self.field(path)?.pointee()
    }

    /// The same bytes as another type.
    ///
    /// # Errors
    /// [`Error::NoType`].
    pub fn cast(&self, name: &str) -> Result<Self, Error> {
        let ty = self.types.find(name);
        let ty = ty.ok_or_else(|| Error::NoType(name.to_owned()))?;
        Ok(self.at(ty, self.address))
    }

    /// Element `index` of an array; of a pointer, of the array that it points to. Whether the
    /// array is as long is not checked.
    ///
    /// # Errors
    /// [`Error::Not`], [`Error::Memory`].
    pub fn index(&self, index: u64) -> Result<Self, Error> {
        let kind = self.types.get(self.types.stripped(self.ty)).kind;
        let (element, start) = match kind {
            Kind::Array { element, .. } => (element, self.address),
            Kind::Pointer(element) => (element, self.number()?),
            _ => {
                return Err(Error::Not {
                    ty: self.types.c_name(self.ty),
                    wanted: "array",
                });
            }
        };
        let distance = self.types.size(element).wrapping_mul(index);
        Ok(self.at(element, start.wrapping_add(distance)))
    }

    /// How many elements an array has; 0 for what is none.
    pub fn count(&self) -> u32 {
        match self.types.get(self.types.stripped(self.ty)).kind {
            Kind::Array { count, .. } => count,
            _ => 0,
        }
    }

    /// The text in an array of characters, or behind a pointer to some.
    ///
    /// # Errors
    /// [`Error::Not`], [`Error::Memory`].
    pub fn text(&self) -> Result<String, Error> {
        const MOST: usize = 4096;
        Ok(match self.count() {
            0 => self.kernel.read_text(self.number()?, MOST)?,
            count => {
                let most = MOST.min(count as usize);
                self.kernel.read_text(self.address, most)?
            }
        })
    }

    /// What it is embedded in, as the member at `path` of a type.
    ///
    /// # Errors
    /// [`Error::NoType`], [`Error::NoMember`].
    pub fn container(&self, ty: &str, path: &str) -> Result<Self, Error> {
        let container = self.cast(ty)?;
        let offset = container.find(path)?.offset();
        Ok(self.at(container.ty, self.address.wrapping_sub(offset)))
    }

    /// What is on the list of which this `list_head` is the head, each embedded by the member at
    /// `path` of a type. Ends with the first error.
    ///
    /// # Errors
    /// [`Error::NoType`], [`Error::NoMember`].
    pub fn list(&self, ty: &str, path: &str) -> Result<List<'k>, Error> {
        let offset = self.container(ty, path)?;
        Ok(List {
            element: self.cast(ty)?,
            distance: self.address.wrapping_sub(offset.address),
            head: self.address,
            next: Some(self.kernel.read_u64(self.address)),
            slow: self.address,
            step: 0,
            power: 1,
        })
    }

    /// What is in this `struct xarray` or radix tree.
    ///
    /// # Errors
    /// [`Error`] if it cannot be read, or is none.
    pub fn xarray(&self) -> Result<XArray<'k>, Error> {
        XArray::new(self)
    }

    /// What is in this `struct maple_tree`.
    ///
    /// # Errors
    /// [`Error`] if it cannot be read, or is none.
    pub fn maple_tree(&self) -> Result<MapleTree<'k>, Error> {
        MapleTree::new(self)
    }

    /// What is on the tree of which this `rb_root` is the root, each embedded by the member at
    /// `path` of a type.
    ///
    /// # Errors
    /// [`Error`] if it cannot be read, or is none.
    pub fn rb_tree(&self, ty: &str, path: &str) -> Result<RbTree<'k>, Error> {
        RbTree::new(self, ty, path)
    }
}

/// The lowest `bits` bits of a number, sign-extended if it has a sign.
fn extended(raw: u64, bits: u32, signed: bool) -> u64 {
    let Some(unused @ 1..) = 64u32.checked_sub(bits) else {
        return raw;
    };
    let high = raw.checked_shl(unused).unwrap_or(0);
    match signed {
        true => {
            let value = high.cast_signed().checked_shr(unused);
            value.unwrap_or(0).cast_unsigned()
        }
        false => high.checked_shr(unused).unwrap_or(0),
    }
}

/// Elements of a list, whose `next` pointer comes first in the link.
pub struct List<'k> {
    element: Object<'k>,
    distance: u64,
    head: u64,
    next: Option<Result<u64, TranslateError>>,
    /// A link that was passed; whoever comes back to it runs in circles (Brent).
    slow: u64,
    step: usize,
    power: usize,
}

impl<'k> Iterator for List<'k> {
    type Item = Result<Object<'k>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let link = match self.next.take()? {
            Ok(link) if link == self.head || link == 0 => return None,
            Ok(link) => link,
            Err(why) => return Some(Err(why.into())),
        };
        if link == self.slow || self.power > MAX_LIST {
            return Some(Err(Error::Endless(self.head)));
        }
        self.step = self.step.saturating_add(1);
        if self.step == self.power {
            self.slow = link;
            self.power = self.power.saturating_mul(2);
            self.step = 0;
        }
        self.next = Some(self.element.kernel.read_u64(link));
        let address = link.wrapping_sub(self.distance);
        Some(Ok(self.element.at(self.element.ty, address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::tests::Word::{Name, Number};
    use crate::btf::tests::Writer;
    use crate::fake::{Ram, VA, notes, with_types};

    /// A head at 0x100, and what is on its list: a number, then the link.
    fn listed(links: &[(u64, u64)]) -> Vec<Result<u64, Error>> {
        let mut types = Writer::new(0, 0);
        let int = types.add("int", 1 << 24, 4, &[Number(0x0100_0020)]);
        let pointer = types.add("", 2 << 24, 3, &[]);
        let head = [
            Name("next"),
            Number(pointer),
            Number(0),
            Name("prev"),
            Number(pointer),
            Number(64),
        ];
        let head = types.add("list_head", 4 << 24 | 2, 16, &head);
        let item = [
            Name("number"),
            Number(int),
            Number(0),
            Name("link"),
            Number(head),
            Number(64),
        ];
        types.add("item", 4 << 24 | 2, 24, &item);
        let mut ram = Ram::default();
        for (number, (at, next)) in (0u64..).zip(links) {
            ram.put_words(at - 8, &[number, VA + next]);
        }
        let options = with_types(&mut ram, 0x4_0000, &types, &[]);
        let notes = notes();
        let kernel = Kernel::open(&ram, &notes, options).unwrap();
        let head = kernel.object("struct list_head", VA + 0x100).unwrap();
        let items = head.list("struct item", "link").unwrap();
        items
            .map(|item| item.and_then(|item| item.get("number")))
            .collect()
    }

    #[test]
    fn lists_end_whatever_they_lead_to() {
        let good = [(0x100, 0x200), (0x200, 0x300), (0x300, 0x100)];
        assert_eq!(listed(&good), [Ok(1), Ok(2)]);
        assert_eq!(listed(&[(0x100, 0x100)]), []);
        let circle = listed(&[(0x100, 0x200), (0x200, 0x300), (0x300, 0x200)]);
        assert_eq!(circle.last(), Some(&Err(Error::Endless(VA + 0x100))));
        assert!(circle.len() < 10, "{circle:?}");
        let lost = listed(&[(0x100, 0x200), (0x200, 0x9000)]);
        assert_eq!(lost.first(), Some(&Ok(1)));
        assert!(
            matches!(lost.last(), Some(Err(Error::Memory(_)))),
            "{lost:?}"
        );
    }

    #[test]
    fn signs_are_extended_from_any_width() {
        for (raw, bits, signed, expected) in [
            (0xff, 8, true, u64::MAX),
            (0xff, 8, false, 0xff),
            (0x1f5, 4, false, 5),
            (0x1fd, 4, true, -3i64 as u64),
            (u64::MAX, 64, true, u64::MAX),
            (7, 0, false, 0),
        ] {
            assert_eq!(extended(raw, bits, signed), expected);
        }
    }
}
