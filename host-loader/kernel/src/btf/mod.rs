//! BTF: the types that the kernel carries (`CONFIG_DEBUG_INFO_BTF`).
//!
//! One blob holds a header, types and strings. A type is 12 bytes (name, kind with a count, size
//! or another type) and what its kind adds; its number is its place in the sequence, from 1 on,
//! and 0 is `void`. A module's blob is *split*: it counts on from where vmlinux's ends, both
//! types and strings. The blob is read once, and kept as it is; what is added is where each
//! type begins, and an index of names, built when the first name is asked for.
//!
//! [`Types`] is all blobs together; [`TypeId`] says which.
//!
//! Source: `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`.

mod names;
mod types;

use kdraw_linux::bytes::{array_at, u16_at, u32_at};

pub use types::{Field, Kind, Member, Type, TypeId, Types};

/// The first bytes of a blob, little-endian.
pub const MAGIC: u16 = 0xeb9f;
/// Bytes of the header that every version has.
pub const HEADER: usize = 24;
/// The longest blob that is read; 7.2's has 6.5 MB.
pub const MAX_BLOB: usize = 128 << 20;
/// The longest header; 24 bytes up to 7.0.
const MAX_HEADER: u32 = 256;

/// Why a blob is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or of another byte order or version.
    #[error("no BTF header")]
    NoHeader,
    /// Parts lie outside the blob.
    #[error("BTF of {len} bytes whose header says {told}")]
    Length {
        /// What there is.
        len: usize,
        /// What there should be.
        told: usize,
    },
}

/// The parts of a blob, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    types: (usize, usize),
    strings: (usize, usize),
}

impl Header {
    /// Reads the first [`HEADER`] bytes of a blob.
    ///
    /// # Errors
    /// [`BtfError::NoHeader`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BtfError> {
        Self::parts(bytes).ok_or(BtfError::NoHeader)
    }

    fn parts(bytes: &[u8]) -> Option<Self> {
        let [version, _flags] = array_at(bytes, 2)?;
        let header_len = u32_at(bytes, 4)?;
        let known = u16_at(bytes, 0)? == MAGIC
            && version == 1
            && (HEADER as u32..=MAX_HEADER).contains(&header_len);
        let part = |at| -> Option<(usize, usize)> {
            let (from, len) = (u32_at(bytes, at)?, u32_at(bytes, at.checked_add(4)?)?);
            let from = (header_len as usize).checked_add(from as usize)?;
            let end = from.checked_add(len as usize)?;
            (end <= MAX_BLOB).then_some((from, end))
        };
        let header = Self {
            types: part(8)?,
            strings: part(16)?,
        };
        // Types are multiples of four bytes; strings begin with the empty one.
        let sane = header.types.1 > header.types.0 && header.strings.1 > header.strings.0;
        (known && sane).then_some(header)
    }

    /// Bytes of the blob.
    pub fn blob_len(&self) -> usize {
        self.types.1.max(self.strings.1)
    }
}

/// One blob.
#[derive(Debug)]
pub struct Btf {
    blob: Vec<u8>,
    header: Header,
    /// Where each type begins in the blob.
    offsets: Vec<u32>,
    /// The number of the first of them.
    first: u32,
    /// The first byte of its strings, as they are counted.
    first_string: u32,
    names: names::Names,
}

impl Btf {
    /// Takes vmlinux's blob; what lies behind a type of an unknown kind is passed over.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn vmlinux(blob: Vec<u8>) -> Result<Self, BtfError> {
        // Number 0 is void.
        Self::new(blob, 1, 0)
    }

    /// Takes a module's blob, which builds on `base`.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn split(blob: Vec<u8>, base: &Self) -> Result<Self, BtfError> {
        let (from, to) = base.header.strings;
        let strings = u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX);
        Self::new(blob, base.end(), strings)
    }

    fn new(blob: Vec<u8>, first: u32, first_string: u32) -> Result<Self, BtfError> {
        let header = Header::decode(&blob)?;
        let (len, told) = (blob.len(), header.blob_len());
        if len < told {
            return Err(BtfError::Length { len, told });
        }
        let (mut at, end) = header.types;
        let mut offsets = Vec::new();
        while at < end {
            let Some(size) = types::encoded_len(&blob, at) else {
                break;
            };
            let next = at.saturating_add(size);
            let (Ok(offset), true) = (u32::try_from(at), next <= end) else {
                break;
            };
            offsets.push(offset);
            at = next;
        }
        Ok(Self {
            blob,
            header,
            offsets,
            first,
            first_string,
            names: names::Names::default(),
        })
    }

    /// The number after its last type's.
    pub fn end(&self) -> u32 {
        let count = u32::try_from(self.offsets.len()).unwrap_or(u32::MAX);
        self.first.saturating_add(count)
    }

    /// Where a type begins in the blob.
    fn offset(&self, number: u32) -> Option<usize> {
        let index = number.checked_sub(self.first)?;
        self.offsets.get(index as usize).map(|at| *at as usize)
    }

    /// A string by its number; `None` if it is the base's, or nowhere.
    fn string(&self, number: u32) -> Option<&str> {
        let (from, to) = self.header.strings;
        let start = number.checked_sub(self.first_string)? as usize;
        let rest = self.blob.get(from..to)?.get(start..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(rest.get(..end)?).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes blobs.
    #[derive(Default)]
    pub(crate) struct Writer {
        pub types: Vec<u8>,
        pub strings: Vec<u8>,
        pub first_string: u32,
        pub count: u32,
    }

    impl Writer {
        pub(crate) fn new(first_string: u32, count: u32) -> Self {
            Self {
                strings: vec![0],
                first_string,
                count,
                ..Self::default()
            }
        }

        fn string(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = self.first_string + self.strings.len() as u32;
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            at
        }

        /// Adds a type; `rest` are its words, of which those given as text become names.
        pub(crate) fn add(&mut self, name: &str, info: u32, size: u32, rest: &[Word]) -> u32 {
            let name = self.string(name);
            let rest: Vec<u32> = rest
                .iter()
                .map(|word| match word {
                    Word::Number(number) => *number,
                    Word::Name(name) => self.string(name),
                })
                .collect();
            for word in [name, info, size].into_iter().chain(rest) {
                self.types.extend(word.to_le_bytes());
            }
            self.count += 1;
            self.count
        }

        /// Adds a whole number without a sign.
        pub(crate) fn number(&mut self, name: &str, size: u32) -> u32 {
            self.add(name, 1 << 24, size, &[Word::Number(size * 8)])
        }

        /// Adds an array.
        pub(crate) fn array(&mut self, element: u32, count: u32) -> u32 {
            let words = [element, element, count].map(Word::Number);
            self.add("", 3 << 24, 0, &words)
        }

        /// Adds a structure; its members by name, type and first bit.
        pub(crate) fn structure(
            &mut self,
            name: &str,
            size: u32,
            members: &[(&'static str, u32, u32)],
        ) -> u32 {
            let words = members.iter().flat_map(|(name, ty, bit)| {
                [Word::Name(name), Word::Number(*ty), Word::Number(*bit)]
            });
            let words: Vec<_> = words.collect();
            self.add(name, 4 << 24 | members.len() as u32, size, &words)
        }

        /// Adds a signed number of so many bytes.
        pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
            let bits = Word::Number(0x0100_0000 | (size * 8));
            self.add(name, 1 << 24, size, &[bits])
        }

        /// Adds a pointer.
        pub(crate) fn pointer(&mut self, to: u32) -> u32 {
            self.add("", 2 << 24, to, &[])
        }

        /// Adds an enumeration of names with the numbers from 0 on.
        pub(crate) fn enumeration(&mut self, name: &str, values: &[&'static str]) -> u32 {
            let words = (0..).zip(values);
            let words = words.flat_map(|(value, name)| [Word::Name(name), Word::Number(value)]);
            let words: Vec<_> = words.collect();
            self.add(name, 6 << 24 | values.len() as u32, 4, &words)
        }

        pub(crate) fn blob(&self) -> Vec<u8> {
            let mut blob = vec![0x9f, 0xeb, 1, 0];
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            for word in [24, 0, types, types, strings] {
                blob.extend(word.to_le_bytes());
            }
            blob.extend(&self.types);
            blob.extend(&self.strings);
            blob
        }
    }

    pub(crate) enum Word {
        Number(u32),
        Name(&'static str),
    }

    #[test]
    fn headers_that_are_none_are_refused() {
        let mut writer = Writer::new(0, 0);
        writer.add("int", 1 << 24, 4, &[Word::Number(0x0100_0020)]);
        let good = writer.blob();
        assert_eq!(Header::decode(&good).unwrap().blob_len(), good.len());
        for (at, byte) in [(0, 0), (2, 2), (4, 0), (5, 9), (11, 0xff), (12, 0)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Header::decode(&bad), Err(BtfError::NoHeader), "byte {at}");
        }
        let cut = good[..good.len() - 1].to_vec();
        assert!(matches!(Btf::vmlinux(cut), Err(BtfError::Length { .. })));
        assert_eq!(Btf::vmlinux(good).unwrap().end(), 2);
    }

    proptest! {
        #[test]
        fn any_types_are_walked_to_their_end(types in prop::collection::vec(any::<u8>(), 1..400)) {
            let mut writer = Writer::new(0, 0);
            writer.types = types;
            writer.strings.extend(b"task_struct\0comm\0");
            let types = Types::new(Btf::vmlinux(writer.blob()).unwrap());
            for id in types.all() {
                let _ = (types.size(id), types.c_name(id), types.field(id, "comm"));
            }
            let _ = types.named_struct("task_struct");
        }
    }
}
