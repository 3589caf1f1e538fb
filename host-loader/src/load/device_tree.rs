//! Rewrites the running system's flattened device tree for the payload: the same tree, without
//! the padding that firmware leaves in it, and with `/chosen` saying where the crash region, the
//! elfcorehdr and the plan are.
//!
//! Tokens are copied one by one; only properties of `/chosen` are dropped and added. The added
//! names go to the end of the strings block. Source: Devicetree Specification v0.4, chapter 5;
//! Linux `drivers/of/fdt.c` for what `/chosen` means.

use kdraw_format::addr::PhysRange;

use crate::error::Error;

const MAGIC: u32 = 0xd00d_feed;
const HEADER_LEN: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// The properties of `/chosen` that are ours to set.
const USABLE: &str = "linux,usable-memory-range";
const ELFCOREHDR: &str = "linux,elfcorehdr";
const INITRD_START: &str = "linux,initrd-start";
const INITRD_END: &str = "linux,initrd-end";

/// What `/chosen` is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The crash region.
    pub usable: PhysRange,
    /// The elfcorehdr.
    pub elfcorehdr: PhysRange,
    /// The plan.
    pub plan: PhysRange,
}

/// Rewrites the tree in `blob`.
///
/// # Errors
/// [`Error::DeviceTree`] if it is malformed.
pub fn rewrite(blob: &[u8], chosen: &Chosen) -> Result<Vec<u8>, Error> {
    let tree = Tree::parse(blob)?;
    let strings = {
        let mut strings = tree.strings.to_vec();
        for name in [USABLE, ELFCOREHDR, INITRD_START, INITRD_END] {
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        strings
    };
    let structure = tree.with_chosen(chosen)?;
    let structure_at = HEADER_LEN
        .saturating_add(tree.reservations.len())
        .next_multiple_of(8);
    let strings_at = structure_at.saturating_add(structure.len());
    let total = strings_at.saturating_add(strings.len()).next_multiple_of(8);
    let mut out = Vec::with_capacity(total);
    for word in [
        MAGIC as usize,
        total,
        structure_at,
        strings_at,
        HEADER_LEN,
        17, // version
        16, // oldest compatible version
        tree.boot_cpu as usize,
        strings.len(),
        structure.len(),
    ] {
        let word = u32::try_from(word).map_err(|_| Error::DeviceTree("larger than 4 GiB"))?;
        out.extend(word.to_be_bytes());
    }
    out.extend(tree.reservations);
    out.resize(structure_at, 0);
    out.extend(structure);
    out.extend(strings);
    out.resize(total, 0);
    Ok(out)
}

/// The blocks of a blob.
struct Tree<'a> {
    boot_cpu: u32,
    reservations: &'a [u8],
    structure: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Tree<'a> {
    fn parse(blob: &'a [u8]) -> Result<Self, Error> {
        let word = |index: usize| be32(blob, index.saturating_mul(4));
        if word(0) != Some(MAGIC) {
            return Err(Error::DeviceTree("does not begin with the magic d00dfeed"));
        }
        let block = |at: usize, len: usize| {
            let (at, len) = (word(at)? as usize, word(len)? as usize);
            blob.get(at..at.checked_add(len)?)
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
        Ok(Self {
            boot_cpu: word(7).unwrap_or(0),
            reservations: from.get(..reserved_len).unwrap_or_default(),
            structure: block(2, 9).ok_or(Error::DeviceTree("has no structure block"))?,
            strings: block(3, 8).ok_or(Error::DeviceTree("has no strings block"))?,
        })
    }

    /// The structure block with the new `/chosen`.
    fn with_chosen(&self, chosen: &Chosen) -> Result<Vec<u8>, Error> {
        const CUT: Error = Error::DeviceTree("ends inside its structure block");
        let mut out = Vec::with_capacity(self.structure.len().saturating_add(256));
        let mut cells = (2u32, 1u32);
        let (mut at, mut depth) = (0usize, 0u32);
        let (mut in_chosen, mut done) = (false, false);
        loop {
            let token = be32(self.structure, at).ok_or(CUT)?;
            let len = self.token_len(at, token).ok_or(CUT)?;
            let end = at.saturating_add(len);
            let bytes = self.structure.get(at..end).ok_or(CUT)?;
            match token {
                BEGIN_NODE => {
                    depth = depth.saturating_add(1);
                    out.extend(bytes);
                    let name = bytes.get(4..).unwrap_or_default();
                    if depth == 2 && !done && text(name) == b"chosen" {
                        (in_chosen, done) = (true, true);
                        self.put_chosen(&mut out, chosen, cells)?;
                    }
                }
                END_NODE => {
                    if depth == 1 && !done {
                        out.extend(BEGIN_NODE.to_be_bytes());
                        out.extend(b"chosen\0\0");
                        self.put_chosen(&mut out, chosen, cells)?;
                        out.extend(END_NODE.to_be_bytes());
                    }
                    in_chosen &= depth != 2;
                    depth = depth.checked_sub(1).ok_or(CUT)?;
                    out.extend(bytes);
                }
                PROP => {
                    let name = self.name_of(bytes);
                    let value = bytes.get(12..).and_then(|value| be32(value, 0));
                    match (depth, name, value) {
                        (1, b"#address-cells", Some(count)) => cells.0 = count,
                        (1, b"#size-cells", Some(count)) => cells.1 = count,
                        _ => {}
                    }
                    let ours = [USABLE, ELFCOREHDR, INITRD_START, INITRD_END];
                    let replaced = ours.iter().any(|own| own.as_bytes() == name);
                    if !(in_chosen && depth == 2 && replaced) {
                        out.extend(bytes);
                    }
                }
                END => {
                    out.extend(bytes);
                    return if depth == 0 { Ok(out) } else { Err(CUT) };
                }
                NOP => {}
                _ => return Err(Error::DeviceTree("has an unknown token")),
            }
            at = end;
        }
    }

    /// Bytes of the token at `at`, padding included.
    fn token_len(&self, at: usize, token: u32) -> Option<usize> {
        let len = match token {
            BEGIN_NODE => {
                let name = self.structure.get(at.checked_add(4)?..)?;
                let end = name.iter().position(|&byte| byte == 0)?;
                end.checked_add(5)?
            }
            PROP => {
                let value = be32(self.structure, at.checked_add(4)?)? as usize;
                value.checked_add(12)?
            }
            _ => 4,
        };
        len.checked_next_multiple_of(4)
    }

    /// The name of a property given as its token's bytes.
    fn name_of(&self, property: &[u8]) -> &'a [u8] {
        let name = be32(property, 8).and_then(|at| self.strings.get(at as usize..));
        text(name.unwrap_or_default())
    }

    fn put_chosen(
        &self,
        out: &mut Vec<u8>,
        chosen: &Chosen,
        cells: (u32, u32),
    ) -> Result<(), Error> {
        let range = |range: &PhysRange| {
            let start = cell_bytes(range.start.0, cells.0)?;
            Ok([start, cell_bytes(range.len(), cells.1)?].concat())
        };
        let number = |value: u64| value.to_be_bytes().to_vec();
        let mut name_at = self.strings.len();
        for (name, value) in [
            (USABLE, range(&chosen.usable)?),
            (ELFCOREHDR, range(&chosen.elfcorehdr)?),
            (INITRD_START, number(chosen.plan.start.0)),
            (INITRD_END, number(chosen.plan.end.0)),
        ] {
            for word in [PROP as usize, value.len(), name_at] {
                out.extend((word as u32).to_be_bytes());
            }
            out.extend(value);
            name_at = name_at.saturating_add(name.len()).saturating_add(1);
        }
        Ok(())
    }
}

/// A number in the root's cells of 32 bits.
fn cell_bytes(value: u64, cells: u32) -> Result<Vec<u8>, Error> {
    match (cells, u32::try_from(value)) {
        (1, Ok(small)) => Ok(small.to_be_bytes().to_vec()),
        (2, _) => Ok(value.to_be_bytes().to_vec()),
        (1, Err(_)) => Err(Error::DeviceTree(
            "has a root of one address cell, and the crash region lies above 4 GiB",
        )),
        _ => Err(Error::DeviceTree("has a root of neither one nor two cells")),
    }
}

/// The bytes before the first NUL.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kdraw_boards::machine::Machine;
    use kdraw_format::addr::PhysAddr;

    fn range(start: u64, len: u64) -> PhysRange {
        PhysRange::with_len(PhysAddr(start), len).unwrap()
    }

    const CHOSEN: Chosen = Chosen {
        usable: PhysRange {
            start: PhysAddr(0x6000_0000),
            end: PhysAddr(0x6080_0000),
        },
        elfcorehdr: PhysRange {
            start: PhysAddr(0x6007_0000),
            end: PhysAddr(0x6007_0200),
        },
        plan: PhysRange {
            start: PhysAddr(0x6004_0000),
            end: PhysAddr(0x6004_1000),
        },
    };

    /// A blob padded as firmware does, with or without an older `/chosen`.
    fn blob(cells: u32, with_chosen: bool) -> Vec<u8> {
        let strings = b"#address-cells\0#size-cells\0model\0linux,initrd-start\0bootargs\0";
        let mut body = Vec::new();
        let begin = |body: &mut Vec<u8>, name: &str| {
            body.extend(BEGIN_NODE.to_be_bytes());
            body.extend(name.as_bytes());
            body.push(0);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        let prop = |body: &mut Vec<u8>, name: &str, value: &[u8]| {
            let at = strings
                .windows(name.len())
                .position(|w| w == name.as_bytes());
            body.extend(PROP.to_be_bytes());
            body.extend((value.len() as u32).to_be_bytes());
            body.extend((at.unwrap() as u32).to_be_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        begin(&mut body, "");
        prop(&mut body, "#address-cells", &cells.to_be_bytes());
        prop(&mut body, "#size-cells", &cells.to_be_bytes());
        prop(&mut body, "model", b"board\0");
        if with_chosen {
            begin(&mut body, "chosen");
            prop(&mut body, "bootargs", b"quiet\0");
            body.extend(NOP.to_be_bytes());
            prop(&mut body, "linux,initrd-start", &1u32.to_be_bytes());
            body.extend(END_NODE.to_be_bytes());
        }
        body.extend(END_NODE.to_be_bytes());
        body.extend(END.to_be_bytes());
        let (structure_at, strings_at) = (HEADER_LEN + 32, HEADER_LEN + 32 + body.len());
        let mut out = Vec::new();
        for word in [
            MAGIC as usize,
            1 << 20,
            structure_at,
            strings_at,
            HEADER_LEN,
            17,
            16,
            3,
            strings.len(),
            body.len(),
        ] {
            out.extend((word as u32).to_be_bytes());
        }
        out.extend([0x11; 16]);
        out.extend([0; 16]);
        out.extend(body);
        out.extend(strings);
        out.resize(1 << 20, 0);
        out
    }

    #[test]
    fn the_payload_reads_what_was_written() {
        for (cells, with_chosen) in [(2, true), (1, true), (2, false)] {
            let out = rewrite(&blob(cells, with_chosen), &CHOSEN).unwrap();
            assert!(out.len() < 1024, "padding is gone");
            let machine = Machine::from_dtb(&out).unwrap();
            assert_eq!(machine.crash_region(), Ok(CHOSEN.usable));
            assert_eq!(machine.elfcorehdr(), Ok(CHOSEN.elfcorehdr));
            assert_eq!(machine.initrd(), Ok(Some(CHOSEN.plan)));
            assert_eq!(machine.model(), Some("board"));
            let bootargs = out.windows(6).any(|window| window == b"quiet\0");
            assert_eq!(bootargs, with_chosen);
            assert_eq!(out[HEADER_LEN..][..16], [0x11; 16], "reservations stay");
            // Again: nothing grows but the strings.
            let again = rewrite(&out, &CHOSEN).unwrap();
            assert_eq!(
                Machine::from_dtb(&again).unwrap().initrd(),
                machine.initrd()
            );
        }
    }

    #[test]
    fn what_cannot_be_said_or_read_is_refused() {
        let high = Chosen {
            usable: range(1 << 32, 1 << 20),
            ..CHOSEN
        };
        assert!(rewrite(&blob(1, true), &high).is_err());
        assert!(rewrite(&blob(2, true), &high).is_ok());
        assert!(rewrite(&blob(3, true), &CHOSEN).is_err());
        let good = blob(2, true);
        assert!(rewrite(&good[..30], &CHOSEN).is_err());
        for (at, value) in [(0, 0), (11, 0xff), (20, 1), (23, 16)] {
            let mut bad = good.clone();
            bad[at] = value;
            // The version's low byte alone may still be fine; nothing may panic.
            let _ = rewrite(&bad, &CHOSEN);
        }
        for at in (0..500).step_by(3) {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = rewrite(&bad, &CHOSEN);
        }
    }
}
