//! What must hold for the linked payload: its size, its symbols, and the pages of its segments.

use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{
    Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, SegmentFlags, elf,
};

use crate::image::Header;

/// Largest payload image, in bytes: with it, and drivers for the boards of ten families, a crash
/// region of 4 MiB is still enough.
pub const IMAGE_LIMIT: u64 = 320 << 10;
/// Most memory that all segments of a kexec load may take together, in bytes.
pub const SEGMENTS_LIMIT: u64 = 3 << 20;
/// Share of [`SEGMENTS_LIMIT`] for the segments besides the payload: plan, device tree (QEMU's
/// takes nearly all of it), elfcorehdr.
pub const SEGMENTS_ALLOWANCE: u64 = 1 << 20;
/// The payload is linked for pages of this size, in bytes.
const PAGE: u64 = 4096;

/// The payload's figures, when all checks hold.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// Length of the image file, in bytes.
    pub image: u64,
    /// Memory that the payload takes when it runs, with stacks and buffers, in bytes.
    pub memory: u64,
}

/// Checks the payload: the linked program and the flat Image made of it.
///
/// # Errors
///
/// When a check does not hold; the message names every one that does not.
pub fn payload(elf: &Path, image: &Path) -> Result<Payload> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let image = read(image)?;
    let program = read(elf)?;
    let header = Header::read(&image)?;
    let figures = Payload {
        image: u64::try_from(image.len())?,
        memory: header.image_size,
    };

    let mut faults = sizes(figures, header);
    let file = object::File::parse(&*program)
        .with_context(|| format!("{} is no ELF file", elf.display()))?;
    faults.extend(symbols(file.symbols().map(|symbol| {
        (
            symbol.name().unwrap_or("(no name)"),
            symbol.is_undefined() && symbol.index().0 != 0,
        )
    })));
    let mut segments = Vec::new();
    for segment in file.segments() {
        let SegmentFlags::Elf { p_flags, .. } = segment.flags() else {
            continue;
        };
        segments.push(Segment {
            start: segment.address(),
            end: segment.address().saturating_add(segment.size()),
            permissions: p_flags & (elf::PF_R | elf::PF_W | elf::PF_X),
        });
    }
    faults.extend(pages(segments));
    faults.extend(relocations(
        file.sections().filter_map(|section| section.name().ok()),
    ));
    if !faults.is_empty() {
        bail!(
            "the payload {} is not as it must be:\n  {}",
            elf.display(),
            faults.join("\n  ")
        );
    }
    Ok(figures)
}

/// Checks the lengths and the header's flags.
fn sizes(payload: Payload, header: Header) -> Vec<String> {
    let mut faults = Vec::new();
    if payload.image > IMAGE_LIMIT {
        faults.push(format!(
            "the image has {} bytes, at most {IMAGE_LIMIT}",
            payload.image
        ));
    }
    if payload.memory > SEGMENTS_LIMIT - SEGMENTS_ALLOWANCE {
        faults.push(format!(
            "the payload takes {} bytes of memory (image_size), at most {} and {} for the other \
             segments",
            payload.memory,
            SEGMENTS_LIMIT - SEGMENTS_ALLOWANCE,
            SEGMENTS_ALLOWANCE
        ));
    }
    if payload.memory < payload.image {
        faults.push(format!(
            "image_size {} is less than the image's {} bytes",
            payload.memory, payload.image
        ));
    }
    if header.flags & 0b111 != 0 {
        faults.push(format!(
            "flags {:#x} of the Image header: bit 0 (big-endian) and bits 1 and 2 (page size) must \
             be 0, since kexec refuses a page size that is not the running kernel's",
            header.flags
        ));
    }
    if header.text_offset != 0 {
        faults.push(format!("text_offset is {:#x}, not 0", header.text_offset));
    }
    faults
}

/// Checks symbols, given as name and whether it is undefined: no heap, nothing left to link.
fn symbols<'a>(symbols: impl Iterator<Item = (&'a str, bool)>) -> Vec<String> {
    const HEAP: [&str; 6] = [
        "__rust_alloc",
        "__rust_dealloc",
        "__rust_realloc",
        "__rust_no_alloc",
        "__rdl_",
        "__rg_",
    ];
    let mut faults = Vec::new();
    for (name, undefined) in symbols {
        if HEAP.iter().any(|heap| name.contains(heap)) || matches!(name, "malloc" | "free") {
            faults.push(format!(
                "{name} belongs to a heap, and the payload has none"
            ));
        }
        if undefined {
            faults.push(format!("{name} is undefined"));
        }
    }
    faults
}

/// A part of the program that is loaded and mapped with these permissions (`PF_*`).
struct Segment {
    start: u64,
    end: u64,
    permissions: elf::ProgramFlags,
}

/// Checks that no page holds two segments, whose permissions differ, and that none is both
/// writable and executable.
fn pages(mut segments: Vec<Segment>) -> Vec<String> {
    let both = elf::PF_W | elf::PF_X;
    segments.sort_by_key(|segment| segment.start);
    let mut faults = Vec::new();
    for pair in segments.windows(2) {
        let [first, second] = pair else { continue };
        if first.end.div_ceil(PAGE) * PAGE > second.start {
            faults.push(format!(
                "the segments that end at {:#x} and start at {:#x} share a page",
                first.end, second.start
            ));
        }
    }
    for segment in &segments {
        if segment.permissions & both == both {
            faults.push(format!(
                "the segment at {:#x} is writable and executable",
                segment.start
            ));
        }
    }
    faults
}

/// Checks sections, given by name: the payload runs where it was loaded without anyone patching it.
fn relocations<'a>(sections: impl Iterator<Item = &'a str>) -> Vec<String> {
    sections
        .filter(|name| name.starts_with(".rel") || *name == ".dynamic")
        .map(|name| format!("{name} holds relocations, which nobody applies"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_flags_have_limits() {
        let fault = |image, memory, text_offset, flags| {
            let header = Header {
                text_offset,
                image_size: memory,
                flags,
            };
            sizes(Payload { image, memory }, header).len()
        };
        assert_eq!(fault(IMAGE_LIMIT, 2 << 20, 0, 0x8), 0);
        assert_eq!(fault(IMAGE_LIMIT + 1, 2 << 20, 0, 0x8), 1);
        assert_eq!(fault(IMAGE_LIMIT, (2 << 20) + 1, 0, 0x8), 1);
        assert_eq!(fault(4097, 4096, 0, 0x8), 1);
        assert_eq!(fault(4096, 4096, 0, 0xa), 1);
        assert_eq!(fault(4096, 4096, 0x80000, 0x8), 1);
    }

    #[test]
    fn a_heap_or_an_undefined_symbol_is_found() {
        for (symbol, faults) in [
            (("kdraw_main", false), 0),
            (("_RNvCs1_7___rustc12___rust_alloc", false), 1),
            (("_RNvNtCs1_12kdraw_drivers3dma5alloc", false), 0),
            (("memcpy", true), 1),
        ] {
            assert_eq!(symbols([symbol].into_iter()).len(), faults, "{symbol:?}");
        }
    }

    #[test]
    fn a_page_has_one_permission() {
        let segment = |start, end, permissions| Segment {
            start,
            end,
            permissions,
        };
        let (read, text) = (elf::PF_R, elf::PF_R | elf::PF_X);
        for (second, faults) in [
            (segment(0x12000, 0x12001, read | elf::PF_W), 0),
            (segment(0x11ff0, 0x12001, read | elf::PF_W), 1),
            (segment(0x12000, 0x12001, text | elf::PF_W), 1),
        ] {
            let start = second.start;
            let found = pages(vec![second, segment(0x10000, 0x11001, text)]);
            assert_eq!(found.len(), faults, "{start:#x}: {found:?}");
        }
    }

    #[test]
    fn relocations_are_found() {
        assert!(relocations([".text", ".rodata", ".symtab"].into_iter()).is_empty());
        assert_eq!(relocations([".rela.dyn", ".dynamic"].into_iter()).len(), 2);
    }
}
