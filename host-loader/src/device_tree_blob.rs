//! A flattened device tree as a stream of tokens, for those who copy it with changes.
//!
//! Source: Devicetree Specification v0.4, chapter 5. All numbers are big-endian; tokens, names and
//! values are padded to 4 bytes.

use crate::error::Error;

/// The magic of a blob.
pub const MAGIC: u32 = 0xd00d_feed;
/// Bytes of its header.
pub const HEADER_LEN: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
const CUT: Error = Error::DeviceTree("ends inside its structure block");

/// The blocks of a blob.
#[derive(Clone, Copy, Debug)]
pub struct Blob<'a> {
    /// The physical CPU that boots.
    pub boot_cpu: u32,
    /// Memory reservations, the empty one at their end included.
    pub reservations: &'a [u8],
    /// The tree.
    pub structure: &'a [u8],
    /// The names of properties.
    pub strings: &'a [u8],
    /// Bytes that its header counts behind all blocks: room for a boot loader to add to it.
    pub slack: usize,
}

/// One token, with all bytes that belong to it.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind<'a>,
    /// Its bytes, padding included.
    pub bytes: &'a [u8],
    /// How many nodes it is in; the root's own begin and end are in none.
    pub depth: usize,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A node begins: its name.
    Begin(&'a [u8]),
    /// A node ends.
    End,
    /// A property of the node that it is in.
    Property {
        /// Its name.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// Nothing.
    Nop,
    /// The tree ends.
    Last,
}

impl<'a> Blob<'a> {
    /// Finds the blocks.
    ///
    /// # Errors
    /// [`Error::DeviceTree`] if it is no blob of version 17.
    pub fn parse(blob: &'a [u8]) -> Result<Self, Error> {
        let word = |index: usize| be32(blob, index.saturating_mul(4));
        if word(0) != Some(MAGIC) {
            return Err(Error::DeviceTree("does not begin with the magic d00dfeed"));
        }
        let mut used = HEADER_LEN;
        let mut block = |at: usize, len: usize| {
            let (at, len) = (word(at)? as usize, word(len)? as usize);
            let end = at.checked_add(len)?;
            used = used.max(end);
            blob.get(at..end)
        };
        if word(5).is_none_or(|version| version < 17) {
            return Err(Error::DeviceTree("is of a version before 17"));
        }
        let from = word(4)
            .and_then(|at| blob.get(at as usize..))
            .ok_or(Error::DeviceTree("has no memory reservation block"))?;
        let entries = from
            .chunks_exact(16)
            .position(|entry| entry.iter().all(|&byte| byte == 0))
            .ok_or(Error::DeviceTree("has an endless memory reservation block"))?;
        let reserved_len = entries.saturating_add(1).saturating_mul(16);
        let structure = block(2, 9).ok_or(Error::DeviceTree("has no structure block"))?;
        let strings = block(3, 8).ok_or(Error::DeviceTree("has no strings block"))?;
        let total = word(1).unwrap_or(0) as usize;
        Ok(Self {
            boot_cpu: word(7).unwrap_or(0),
            reservations: from.get(..reserved_len).unwrap_or_default(),
            structure,
            strings,
            slack: total.min(blob.len()).saturating_sub(used),
        })
    }

    /// All tokens in their order, up to the end of the tree or the first that is malformed.
    pub fn tokens(&self) -> impl Iterator<Item = Result<Token<'a>, Error>> {
        let blob = *self;
        let (mut at, mut depth, mut done) = (0usize, 0usize, false);
        std::iter::from_fn(move || {
            if done {
                return None;
            }
            let token = blob.token(at, &mut depth);
            done = !matches!(token, Ok(token) if token.kind != Kind::Last);
            at = at.saturating_add(token.as_ref().map_or(0, |token| token.bytes.len()));
            Some(token)
        })
    }

    fn token(&self, at: usize, depth: &mut usize) -> Result<Token<'a>, Error> {
        let rest = self.structure.get(at..).unwrap_or_default();
        let number = be32(rest, 0).ok_or(CUT)?;
        let body = rest.get(4..).unwrap_or_default();
        let mut here = *depth;
        let (kind, len) = match number {
            BEGIN_NODE => {
                *depth = depth.saturating_add(1);
                let name = text(body);
                (Kind::Begin(name), name.len().saturating_add(5))
            }
            END_NODE => {
                *depth = depth.checked_sub(1).ok_or(CUT)?;
                here = *depth;
                (Kind::End, 4)
            }
            PROP => {
                let len = be32(body, 0).ok_or(CUT)? as usize;
                let name_at = be32(body, 4).ok_or(CUT)? as usize;
                let name = text(self.strings.get(name_at..).unwrap_or_default());
                let value = body.get(8..).and_then(|value| value.get(..len));
                let value = value.ok_or(CUT)?;
                (Kind::Property { name, value }, len.saturating_add(12))
            }
            NOP => (Kind::Nop, 4),
            END if here == 0 => (Kind::Last, 4),
            END => return Err(CUT),
            _ => return Err(Error::DeviceTree("has an unknown token")),
        };
        let padded = len.checked_next_multiple_of(4);
        let bytes = padded.and_then(|len| rest.get(..len)).ok_or(CUT)?;
        Ok(Token {
            kind,
            bytes,
            depth: here,
        })
    }

    /// Where the strings block has `name`; it is put at the end of `added` if it does not.
    pub fn name_at(&self, name: &str, added: &mut Vec<u8>) -> usize {
        let wanted = [name.as_bytes(), b"\0"].concat();
        let found = |strings: &[u8]| {
            let mut windows = strings.windows(wanted.len());
            windows.position(|window| window == wanted)
        };
        if let Some(at) = found(self.strings) {
            return at;
        }
        let at = found(added).unwrap_or_else(|| {
            let at = added.len();
            added.extend(&wanted);
            at
        });
        self.strings.len().saturating_add(at)
    }

    /// Puts a blob together that has another tree, more names and `slack` bytes of room.
    ///
    /// # Errors
    /// [`Error::DeviceTree`] if it would be larger than 4 GiB.
    pub fn with(&self, structure: &[u8], added: &[u8], slack: usize) -> Result<Vec<u8>, Error> {
        let structure_at = HEADER_LEN
            .saturating_add(self.reservations.len())
            .next_multiple_of(8);
        let strings_at = structure_at.saturating_add(structure.len());
        let strings_len = self.strings.len().saturating_add(added.len());
        let total = strings_at
            .saturating_add(strings_len)
            .saturating_add(slack)
            .next_multiple_of(8);
        let mut out = Vec::with_capacity(total);
        for word in [
            MAGIC as usize,
            total,
            structure_at,
            strings_at,
            HEADER_LEN,
            17, // version
            16, // oldest compatible version
            self.boot_cpu as usize,
            strings_len,
            structure.len(),
        ] {
            let word = u32::try_from(word).map_err(|_| Error::DeviceTree("larger than 4 GiB"))?;
            out.extend(word.to_be_bytes());
        }
        out.extend(self.reservations);
        out.resize(structure_at, 0);
        out.extend(structure);
        out.extend(self.strings);
        out.extend(added);
        out.resize(total, 0);
        Ok(out)
    }
}

/// The bytes of an empty node.
pub fn begin_node(name: &str) -> Vec<u8> {
    let mut out = BEGIN_NODE.to_be_bytes().to_vec();
    out.extend(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// The bytes of a node's end.
pub fn end_node() -> [u8; 4] {
    END_NODE.to_be_bytes()
}

/// The bytes of a property whose name stands at `name_at` in the strings block.
pub fn property(name_at: usize, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len().saturating_add(16));
    for word in [PROP as usize, value.len(), name_at] {
        out.extend((word as u32).to_be_bytes());
    }
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// The bytes before the first NUL.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The 32-bit number at `at`.
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}
