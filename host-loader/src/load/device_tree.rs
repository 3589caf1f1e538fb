//! Rewrites the running system's flattened device tree for the payload: the same tree, without
//! the padding that firmware leaves in it, and with `/chosen` saying where the crash region, the
//! elfcorehdr and the plan are.
//!
//! Tokens are copied one by one; only properties of `/chosen` are dropped and added. Source: Linux
//! `drivers/of/fdt.c` for what `/chosen` means.

use kdraw_format::addr::PhysRange;

use crate::device_tree_blob::{Blob, Kind, be32, begin_node, end_node, property};
use crate::error::Error;

/// The properties of `/chosen` that are ours to set.
const USABLE: &str = "linux,usable-memory-range";
const ELFCOREHDR: &str = "linux,elfcorehdr";
const INITRD_START: &str = "linux,initrd-start";
const INITRD_END: &str = "linux,initrd-end";
const OURS: [&str; 4] = [USABLE, ELFCOREHDR, INITRD_START, INITRD_END];

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
    let blob = Blob::parse(blob)?;
    let mut names = Vec::new();
    let mut out = Vec::with_capacity(blob.structure.len().saturating_add(256));
    let mut cells = (2u32, 1u32);
    let (mut in_chosen, mut done) = (false, false);
    for token in blob.tokens() {
        let token = token?;
        match token.kind {
            Kind::Begin(b"chosen") if token.depth == 1 && !done => {
                (in_chosen, done) = (true, true);
                out.extend(token.bytes);
                out.extend(properties(&blob, &mut names, chosen, cells)?);
                continue;
            }
            Kind::End if token.depth == 0 && !done => {
                out.extend(begin_node("chosen"));
                out.extend(properties(&blob, &mut names, chosen, cells)?);
                out.extend(end_node());
            }
            Kind::End if token.depth == 1 => in_chosen = false,
            Kind::Property { name, value } => {
                match (token.depth, name, be32(value, 0)) {
                    (1, b"#address-cells", Some(count)) => cells.0 = count,
                    (1, b"#size-cells", Some(count)) => cells.1 = count,
                    _ => {}
                }
                let ours = OURS.iter().any(|own| own.as_bytes() == name);
                if in_chosen && token.depth == 2 && ours {
                    continue;
                }
            }
            Kind::Nop => continue,
            _ => {}
        }
        out.extend(token.bytes);
    }
    blob.with(&out, &names, 0)
}

/// What `/chosen` gets.
fn properties(
    blob: &Blob,
    names: &mut Vec<u8>,
    chosen: &Chosen,
    cells: (u32, u32),
) -> Result<Vec<u8>, Error> {
    let range = |range: &PhysRange| {
        let start = cell_bytes(range.start.0, cells.0)?;
        Ok([start, cell_bytes(range.len(), cells.1)?].concat())
    };
    let number = |value: u64| value.to_be_bytes().to_vec();
    let mut out = Vec::new();
    for (name, value) in [
        (USABLE, range(&chosen.usable)?),
        (ELFCOREHDR, range(&chosen.elfcorehdr)?),
        (INITRD_START, number(chosen.plan.start.0)),
        (INITRD_END, number(chosen.plan.end.0)),
    ] {
        out.extend(property(blob.name_at(name, names), &value));
    }
    Ok(out)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_tree_blob::{HEADER_LEN, MAGIC};
    use kdraw_boards::machine::Machine;
    use kdraw_format::addr::PhysAddr;

    const BEGIN_NODE: u32 = 1;
    const END_NODE: u32 = 2;
    const PROP: u32 = 3;
    const NOP: u32 = 4;
    const END: u32 = 9;

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
