//! The walk that a device tree blob must survive before anything else reads it.
//!
//! The blob is hostile: a dying kernel may have scribbled on it. The `fdt` crate reads well-formed
//! trees well, but on malformed ones it panics, loops or silently stops early. This walk goes over
//! every byte that matters once, front to back, and refuses the blob at the first fault, with the
//! offset of the fault. Its rules are those of the Devicetree Specification v0.4, chapter 5, plus
//! limits that bound the work of every later lookup. The 1,599 device trees
//! of Debian's arm64 kernels 6.1 and 6.12 all pass.
//!
//! What the crate (0.2.0-alpha3) does with which input, and what keeps it away:
//!
//! | Input | The crate | Kept away by |
//! |---|---|---|
//! | block offset + length beyond 2^32 | overflow panic in `new_unaligned` | [`GuardError::Block`] |
//! | structure block shorter than 8 bytes | overflow panic in `parse_root` | [`GuardError::Truncated`] |
//! | structure block that does not end with FDT_END | `root()` fails | [`GuardError::AfterEnd`] |
//! | unknown or misplaced token among properties | the property iterator yields the same error for ever | [`GuardError::Token`] |
//! | block that ends inside a token, name or value | iteration ends early, without an error | [`GuardError::Truncated`] |
//! | property after a child node | the parent's iteration fails | [`GuardError::PropertyAfterNode`] |
//! | more than 15 levels below the root | iteration ends early, without an error | [`GuardError::TooDeep`] |
//! | name that is no UTF-8 | lookups fail | [`GuardError::NodeName`], [`GuardError::PropertyName`] |
//! | nameless node below the root | it looks like the root | [`GuardError::NodeName`] |
//! | very long names | every look at every property rescans them: quadratic | [`MAX_NAME`] |
//! | `#address-cells` and `#size-cells` both 0 | `Node::reg` divides by 0 | not called (`clippy.toml`) |
//! | only one of the two given | `Node::reg` ignores it | not called |
//! | empty `bootargs` | overflow panic in `Chosen::bootargs` | not called |
//! | node of the sought name elsewhere in the tree | `find_node`, and with it `chosen`, `aliases` and so on, takes it for the sought one | not called |

use thiserror::Error;

/// The largest blob accepted, in bytes. Linux's arm64 boot protocol sets this limit
/// (Documentation/arch/arm64/booting.rst, "Setup the device tree").
pub const MAX_SIZE: usize = 2 << 20;

/// The deepest nesting accepted below the root, in levels: the `fdt` crate keeps 16 ancestors.
pub const MAX_DEPTH: usize = 15;

/// The longest node or property name accepted, in bytes without the NUL. The specification says
/// 31; real trees go somewhat beyond.
pub const MAX_NAME: usize = 127;

/// The most cells accepted in `#address-cells` and `#size-cells`, as libfdt does.
pub const MAX_CELLS: u32 = 4;

const MAGIC: u32 = 0xd00d_feed;
const HEADER_LEN: usize = 40;
/// The version that brought `size_dt_struct`, and the newest there is.
const VERSION: u32 = 17;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// What is wrong with a blob, and at which byte offset from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GuardError {
    /// There is no header's worth of bytes.
    #[error("device tree: {found} bytes are too few for a header of {HEADER_LEN}")]
    NoHeader {
        /// How many there are.
        found: usize,
    },
    /// It does not start like a device tree.
    #[error("device tree: starts with {found:#010x} instead of the magic {MAGIC:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// The header's total size is absurd or larger than the memory at hand.
    #[error("device tree: total size {found} is not within {HEADER_LEN}..={limit}")]
    TotalSize {
        /// What the header says, in bytes.
        found: u32,
        /// What is possible, in bytes.
        limit: usize,
    },
    /// A layout version that this walk does not know.
    #[error("device tree: version {version}, compatible with {last_compatible}; 17 is needed")]
    Version {
        /// The header's version.
        version: u32,
        /// The oldest version it claims to be compatible with.
        last_compatible: u32,
    },
    /// A block lies outside the blob or at a crooked offset.
    #[error("device tree: the {block} block, {len} bytes at {offset:#x}, is misaligned or outside")]
    Block {
        /// Which block.
        block: &'static str,
        /// Where the header says it starts.
        offset: u32,
        /// How long the header says it is, in bytes.
        len: u32,
    },
    /// The list of memory reservations runs out of the blob.
    #[error("device tree: the memory reservations from {offset:#x} have no end")]
    Reservations {
        /// Where the list starts.
        offset: usize,
    },
    /// The structure block ends too early.
    #[error("device tree: the structure block ends inside what starts at {offset:#x}")]
    Truncated {
        /// Where the unfinished thing starts.
        offset: usize,
    },
    /// A token is unknown or out of place.
    #[error("device tree: token {found:#x} at {offset:#x} is unknown or out of place")]
    Token {
        /// Where it stands.
        offset: usize,
        /// Its value.
        found: u32,
    },
    /// A node's name is empty, too long or has a character that no name may have.
    #[error("device tree: the node at {offset:#x} has a malformed name")]
    NodeName {
        /// Where the name starts.
        offset: usize,
    },
    /// A property's name lies outside the strings block or is malformed.
    #[error("device tree: the property at {offset:#x} has a malformed name")]
    PropertyName {
        /// Where the property's token stands.
        offset: usize,
    },
    /// A property stands behind a child node.
    #[error("device tree: the property at {offset:#x} follows a child node")]
    PropertyAfterNode {
        /// Where the property's token stands.
        offset: usize,
    },
    /// A `#address-cells` or `#size-cells` that is no small number.
    #[error("device tree: the cell count at {offset:#x} is not a u32 of at most {MAX_CELLS}")]
    CellCount {
        /// Where the property's token stands.
        offset: usize,
    },
    /// Nodes are nested too deeply.
    #[error("device tree: the node at {offset:#x} is more than {MAX_DEPTH} levels deep")]
    TooDeep {
        /// Where the node's token stands.
        offset: usize,
    },
    /// The end token is not the last thing in the structure block.
    #[error("device tree: the structure block goes on after its end at {offset:#x}")]
    AfterEnd {
        /// Where the end token stands.
        offset: usize,
    },
}

/// What the walk counted; whoever reads the tree later must find the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Nodes, the root included.
    pub nodes: usize,
    /// Properties of all nodes.
    pub properties: usize,
}

/// A blob that passed. The only way to get one is [`check`].
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    blob: &'a [u8],
    census: Census,
}

impl<'a> Checked<'a> {
    /// The blob, cut to its total size.
    pub fn blob(self) -> &'a [u8] {
        self.blob
    }

    /// What the walk counted.
    pub fn census(self) -> Census {
        self.census
    }
}

/// Reads how long a blob is from its first 8 bytes, so that the caller can take the whole.
///
/// # Errors
/// [`GuardError::Magic`], or [`GuardError::TotalSize`] if it is not between a header's length
/// and [`MAX_SIZE`].
pub fn total_size(start: &[u8; 8]) -> Result<usize, GuardError> {
    let [m0, m1, m2, m3, s0, s1, s2, s3] = *start;
    let magic = u32::from_be_bytes([m0, m1, m2, m3]);
    if magic != MAGIC {
        return Err(GuardError::Magic { found: magic });
    }
    let found = u32::from_be_bytes([s0, s1, s2, s3]);
    match usize::try_from(found) {
        Ok(size) if (HEADER_LEN..=MAX_SIZE).contains(&size) => Ok(size),
        _ => Err(GuardError::TotalSize {
            found,
            limit: MAX_SIZE,
        }),
    }
}

/// Walks a blob from its header to its end token.
///
/// Bytes of `blob` beyond the header's total size are ignored. The work is linear in the total
/// size, which [`MAX_SIZE`] bounds.
///
/// # Errors
/// The first fault found, see [`GuardError`].
pub fn check(blob: &[u8]) -> Result<Checked<'_>, GuardError> {
    let no_header = GuardError::NoHeader { found: blob.len() };
    let (header, _) = blob.split_first_chunk::<HEADER_LEN>().ok_or(no_header)?;
    let (start, _) = header.split_first_chunk::<8>().ok_or(no_header)?;
    let size = total_size(start)?;
    let limit = blob.len();
    let blob = blob.get(..size).ok_or(GuardError::TotalSize {
        found: u32::try_from(size).unwrap_or(u32::MAX),
        limit,
    })?;

    // Specification 5.2: ten big-endian words.
    let field = |index: usize| be32(header, index.saturating_mul(4)).unwrap_or(0);
    let (version, last_compatible) = (field(5), field(6));
    if version < VERSION || last_compatible > VERSION {
        return Err(GuardError::Version {
            version,
            last_compatible,
        });
    }
    let reservations = block(blob, "memory reservation", field(4), 0, 8)?;
    let structure = block(blob, "structure", field(2), field(9), 4)?;
    let strings = block(blob, "strings", field(3), field(8), 1)?;

    check_reservations(blob, reservations.start)?;
    let walk = Walk {
        structure: Block {
            bytes: blob.get(..structure.end).unwrap_or_default(),
            at: structure.start,
        },
        strings: blob.get(strings.start..strings.end).unwrap_or_default(),
        census: Census::default(),
    };
    Ok(Checked {
        blob,
        census: walk.run()?,
    })
}

/// Checks that a block lies behind the header and inside the blob, at a multiple of `align`
/// (specification 5.6).
fn block(
    blob: &[u8],
    block: &'static str,
    offset: u32,
    len: u32,
    align: usize,
) -> Result<core::ops::Range<usize>, GuardError> {
    let fault = GuardError::Block { block, offset, len };
    let start = usize::try_from(offset).map_err(|_| fault)?;
    let len = usize::try_from(len).map_err(|_| fault)?;
    let end = start.checked_add(len).ok_or(fault)?;
    let aligned = start.is_multiple_of(align) && len.is_multiple_of(align);
    if start < HEADER_LEN || end > blob.len() || !aligned {
        return Err(fault);
    }
    Ok(start..end)
}

/// Checks that the pairs (address, size) end with a pair of zeros (specification 5.3).
fn check_reservations(blob: &[u8], offset: usize) -> Result<(), GuardError> {
    let list = blob.get(offset..).unwrap_or_default();
    match list
        .chunks_exact(16)
        .any(|pair| pair.iter().all(|byte| *byte == 0))
    {
        true => Ok(()),
        false => Err(GuardError::Reservations { offset }),
    }
}

/// The unread part of the structure block.
struct Block<'a> {
    /// The blob, cut at the block's end, so that offsets are the blob's.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Block<'a> {
    /// Takes one word.
    fn word(&mut self) -> Result<u32, GuardError> {
        let word = be32(self.bytes, self.at).ok_or(GuardError::Truncated { offset: self.at })?;
        self.at = self.at.saturating_add(4);
        Ok(word)
    }

    /// Takes `len` bytes and the padding that follows them up to the next word.
    fn padded(&mut self, len: usize) -> Result<&'a [u8], GuardError> {
        let fault = GuardError::Truncated { offset: self.at };
        let end = self.at.checked_add(len).ok_or(fault)?;
        let value = self.bytes.get(self.at..end).ok_or(fault)?;
        // The block starts and ends on a word, so the padding is inside.
        self.at = end.checked_next_multiple_of(4).ok_or(fault)?;
        Ok(value)
    }

    /// Takes the next token that is not a NOP.
    fn token(&mut self) -> Result<(usize, u32), GuardError> {
        loop {
            let offset = self.at;
            match self.word()? {
                NOP => {}
                token => return Ok((offset, token)),
            }
        }
    }
}

struct Walk<'a> {
    structure: Block<'a>,
    strings: &'a [u8],
    census: Census,
}

impl Walk<'_> {
    /// Walks the structure block (specification 5.4.2): one root, everything closed, then the end.
    fn run(mut self) -> Result<Census, GuardError> {
        match self.structure.token()? {
            (_, BEGIN_NODE) => self.root_name()?,
            (offset, found) => return Err(GuardError::Token { offset, found }),
        }
        let mut depth = 0_usize;
        // Whether the open node has no child yet, so that a property may come.
        let mut properties_allowed = true;
        loop {
            let (offset, token) = self.structure.token()?;
            match token {
                PROP if properties_allowed => self.property(offset)?,
                PROP => return Err(GuardError::PropertyAfterNode { offset }),
                BEGIN_NODE if depth == MAX_DEPTH => return Err(GuardError::TooDeep { offset }),
                BEGIN_NODE => {
                    self.node_name()?;
                    depth = depth.saturating_add(1);
                    properties_allowed = true;
                }
                END_NODE => {
                    properties_allowed = false;
                    match depth.checked_sub(1) {
                        Some(parent) => depth = parent,
                        None => break,
                    }
                }
                found => return Err(GuardError::Token { offset, found }),
            }
        }
        match self.structure.token()? {
            (_, END) if self.structure.at == self.structure.bytes.len() => Ok(self.census),
            (offset, END) => Err(GuardError::AfterEnd { offset }),
            (offset, found) => Err(GuardError::Token { offset, found }),
        }
    }

    /// Takes the root's name: empty, or (against the specification) any name, as Firecracker
    /// writes it and libfdt ignores it.
    fn root_name(&mut self) -> Result<(), GuardError> {
        match self.structure.bytes.get(self.structure.at) {
            Some(0) => {
                self.census.nodes = 1;
                self.structure.padded(1).map(|_| ())
            }
            _ => self.node_name(),
        }
    }

    /// Takes a node's name (specification 2.2.1): visible ASCII without a slash.
    fn node_name(&mut self) -> Result<(), GuardError> {
        let offset = self.structure.at;
        self.census.nodes = self.census.nodes.saturating_add(1);
        match name(self.structure.bytes, offset) {
            Some(name) if !name.contains(&b'/') => self
                .structure
                .padded(name.len().saturating_add(1))
                .map(|_| ()),
            _ => Err(GuardError::NodeName { offset }),
        }
    }

    /// Takes a property: length, name offset, value.
    fn property(&mut self, offset: usize) -> Result<(), GuardError> {
        self.census.properties = self.census.properties.saturating_add(1);
        let len = self.structure.word()?;
        let name_offset = self.structure.word()?;
        let len = usize::try_from(len).map_err(|_| GuardError::Truncated { offset })?;
        let value = self.structure.padded(len)?;
        let name = usize::try_from(name_offset)
            .ok()
            .and_then(|at| name(self.strings, at));
        match name.ok_or(GuardError::PropertyName { offset })? {
            b"#address-cells" | b"#size-cells" => match <[u8; 4]>::try_from(value) {
                Ok(count) if u32::from_be_bytes(count) <= MAX_CELLS => Ok(()),
                _ => Err(GuardError::CellCount { offset }),
            },
            _ => Ok(()),
        }
    }
}

/// The NUL-terminated name at `at`: 1 to [`MAX_NAME`] visible ASCII characters.
fn name(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let end = rest
        .iter()
        .take(MAX_NAME.saturating_add(1))
        .position(|byte| *byte == 0)?;
    let name = rest.get(..end)?;
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

/// The big-endian word at `at`.
fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|word| u32::from_be_bytes(*word))
}
