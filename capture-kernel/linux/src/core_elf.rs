//! The header of a vmcore: an ELF64 core that crash, drgn, gdb and libkdumpfile open.
//!
//! Order: file header, program headers, notes, zeros to a multiple of 4 KiB, then the captured
//! segments one after the other. Program headers: exactly one `PT_NOTE`, first (crash takes all
//! others for memory); one `PT_LOAD` per piece of the kernel image, at image addresses (gdb knows
//! no other way); one per segment of RAM, at linear-map addresses. Image pieces share the file
//! offsets of the RAM they lie in, so nothing is stored twice. `p_align` is 0: crash takes a core
//! for netdump's otherwise. `e_flags` bit 0 marks an incomplete dump (makedumpfile's
//! `DUMP_ELF_INCOMPLETE`).
//!
//! Source: gABI chapter 4 and 5; `fs/proc/vmcore.c`; crash `netdump.c`; drgn `core_dump.c`.

use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};

use crate::bytes::put;
use crate::elf::{self, EHDR_LEN, PHDR_LEN};
use crate::layout::KernelLayout;

/// The most program headers: more would need `PN_XNUM`.
const MAX_PHDRS: usize = 65_534;
/// `e_flags`: memory is missing that should be there.
const DUMP_ELF_INCOMPLETE: u32 = 1;

/// Why no vmcore header can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreElfError {
    /// There are more segments than ELF program headers.
    #[error("vmcore: {0} segments of memory, at most 65534 fit into an ELF core")]
    TooManySegments(usize),
    /// The file would be longer than 2^64 bytes.
    #[error("vmcore: the segments are longer than a file can be")]
    TooLong,
    /// The caller's buffer is too small.
    #[error("vmcore: a header of {needed} bytes does not fit into a buffer of {have}")]
    Buffer {
        /// [`CoreLayout::header_len`].
        needed: u64,
        /// The buffer's length.
        have: usize,
    },
    /// The notes given are not as long as announced.
    #[error("vmcore: {have} bytes of notes, {announced} were announced")]
    Notes {
        /// The length that the layout was made with.
        announced: usize,
        /// The length given.
        have: usize,
    },
}

/// Where everything lies in a vmcore.
#[derive(Clone, Copy, Debug)]
pub struct CoreLayout<'a> {
    segments: &'a [PhysRange],
    image: Option<PhysRange>,
    kernel: Option<KernelLayout>,
    notes_len: usize,
    phdrs: usize,
    header_len: u64,
    file_len: u64,
}

impl<'a> CoreLayout<'a> {
    /// Lays out a vmcore of `segments` (physical memory that is there, in file order), with
    /// `notes_len` bytes of notes. Without `kernel` there are no virtual addresses and no image.
    ///
    /// # Errors
    /// [`CoreElfError`] if the segments are too many or too long.
    pub fn new(
        segments: &'a [PhysRange],
        kernel: Option<KernelLayout>,
        image: Option<PhysRange>,
        notes_len: usize,
    ) -> Result<Self, CoreElfError> {
        let mut layout = Self {
            segments,
            image,
            kernel,
            notes_len,
            phdrs: 0,
            header_len: 0,
            file_len: 0,
        };
        let pieces = layout.image_pieces().count();
        layout.phdrs = segments.len().saturating_add(pieces).saturating_add(1);
        if layout.phdrs > MAX_PHDRS {
            return Err(CoreElfError::TooManySegments(segments.len()));
        }
        layout.lay_out().ok_or(CoreElfError::TooLong)?;
        Ok(layout)
    }

    fn lay_out(&mut self) -> Option<()> {
        let used = self.notes_offset().checked_add(self.notes_len)?;
        self.header_len = u64::try_from(used)
            .ok()?
            .checked_next_multiple_of(FRAME_SIZE)?;
        self.file_len = self
            .segments
            .iter()
            .try_fold(self.header_len, |sum, segment| {
                sum.checked_add(segment.len())
            })?;
        Some(())
    }

    /// Bytes before the first segment: all headers and notes, a multiple of [`FRAME_SIZE`].
    pub fn header_len(&self) -> u64 {
        self.header_len
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Where the notes start in the file.
    pub fn notes_offset(&self) -> usize {
        // At most 64 + 56 * 65534.
        EHDR_LEN.saturating_add(PHDR_LEN.saturating_mul(self.phdrs))
    }

    /// Every segment with its offset in the file, in order.
    pub fn segments(&self) -> impl Iterator<Item = (PhysRange, u64)> + use<'a> {
        self.segments.iter().scan(self.header_len, |next, segment| {
            let offset = *next;
            *next = next.saturating_add(segment.len());
            Some((*segment, offset))
        })
    }

    /// The parts of the image that are in a segment, with their offsets in the file.
    fn image_pieces(&self) -> impl Iterator<Item = (PhysRange, u64)> + use<'a> {
        let image = self.kernel.and(self.image).unwrap_or_default();
        self.segments()
            .filter(move |(segment, _)| !image.is_empty() && segment.overlaps(&image))
            .map(move |(segment, offset)| {
                let start = segment.start.max(image.start);
                let end = segment.end.min(image.end);
                let inside = start.0.saturating_sub(segment.start.0);
                (PhysRange { start, end }, offset.saturating_add(inside))
            })
    }

    /// Writes all headers, `notes` and the padding to the start of `out`; returns their length,
    /// which is [`header_len`](Self::header_len).
    ///
    /// # Errors
    /// [`CoreElfError`] if `out` is too small or `notes` has another length than announced.
    pub fn write_header(
        &self,
        notes: &[u8],
        incomplete: bool,
        out: &mut [u8],
    ) -> Result<usize, CoreElfError> {
        if notes.len() != self.notes_len {
            return Err(CoreElfError::Notes {
                announced: self.notes_len,
                have: notes.len(),
            });
        }
        let have = out.len();
        let needed = self.header_len;
        usize::try_from(needed)
            .ok()
            .and_then(|len| out.get_mut(..len))
            .and_then(|out| self.fill(notes, incomplete, out))
            .ok_or(CoreElfError::Buffer { needed, have })
    }

    fn fill(&self, notes: &[u8], incomplete: bool, out: &mut [u8]) -> Option<usize> {
        let mut at = 0;
        put(out, &mut at, &self.file_header(incomplete)?)?;
        let notes_offset = u64::try_from(self.notes_offset()).ok()?;
        let notes_len = u64::try_from(self.notes_len).ok()?;
        let note = ProgramHeader {
            kind: elf::PT_NOTE,
            flags: 0,
            offset: notes_offset,
            vaddr: 0,
            paddr: 0,
            len: notes_len,
        };
        put(out, &mut at, &note.bytes()?)?;
        for (piece, offset) in self.image_pieces() {
            let voffset = self.kernel?.kimage_voffset;
            put(
                out,
                &mut at,
                &load(piece, offset, piece.start.0.wrapping_add(voffset)).bytes()?,
            )?;
        }
        for (segment, offset) in self.segments() {
            put(
                out,
                &mut at,
                &load(segment, offset, self.linear_vaddr(segment.start)).bytes()?,
            )?;
        }
        put(out, &mut at, notes)?;
        out.get_mut(at..)?.fill(0);
        Some(out.len())
    }

    /// 0, which is no kernel address, where the linear map does not reach.
    fn linear_vaddr(&self, pa: PhysAddr) -> u64 {
        self.kernel
            .and_then(|kernel| kernel.linear_va(pa))
            .map_or(0, |va| va.0)
    }

    fn file_header(&self, incomplete: bool) -> Option<[u8; EHDR_LEN]> {
        let mut header = [0; EHDR_LEN];
        let out = &mut header[..];
        let mut at = 0;
        put(out, &mut at, &elf::IDENT)?;
        at = elf::ehdr::TYPE;
        put(out, &mut at, &elf::ET_CORE.to_le_bytes())?;
        put(out, &mut at, &elf::EM_AARCH64.to_le_bytes())?;
        put(out, &mut at, &1u32.to_le_bytes())?; // e_version
        at = elf::ehdr::PHOFF;
        put(out, &mut at, &u64::try_from(EHDR_LEN).ok()?.to_le_bytes())?;
        at = elf::ehdr::FLAGS;
        let flags = if incomplete { DUMP_ELF_INCOMPLETE } else { 0 };
        put(out, &mut at, &flags.to_le_bytes())?;
        put(out, &mut at, &u16::try_from(EHDR_LEN).ok()?.to_le_bytes())?;
        put(out, &mut at, &u16::try_from(PHDR_LEN).ok()?.to_le_bytes())?;
        put(out, &mut at, &u16::try_from(self.phdrs).ok()?.to_le_bytes())?;
        Some(header)
    }
}

struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    len: u64,
}

/// Readable, writable, executable: what the linear map and the image are together.
const RWX: u32 = 7;

fn load(range: PhysRange, offset: u64, vaddr: u64) -> ProgramHeader {
    let (paddr, len) = (range.start.0, range.len());
    ProgramHeader {
        kind: elf::PT_LOAD,
        flags: RWX,
        offset,
        vaddr,
        paddr,
        len,
    }
}

impl ProgramHeader {
    fn bytes(&self) -> Option<[u8; PHDR_LEN]> {
        let mut header = [0; PHDR_LEN];
        let mut at = 0;
        for half in [self.kind, self.flags] {
            put(&mut header, &mut at, &half.to_le_bytes())?;
        }
        // p_filesz and p_memsz are equal; p_align stays 0.
        for word in [self.offset, self.vaddr, self.paddr, self.len, self.len] {
            put(&mut header, &mut at, &word.to_le_bytes())?;
        }
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::bytes::{u16_at, u32_at, u64_at};
    use crate::elfcorehdr::{Claim, ElfCoreHdr};
    use crate::layout::tests::text;
    use crate::vmcoreinfo::Vmcoreinfo;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange {
            start: PhysAddr(start),
            end: PhysAddr(end),
        }
    }

    fn kernel() -> KernelLayout {
        let text: String = text(52, 48, 0xfff1_0000_4000_0000, 0xffff_8000_8021_0000);
        KernelLayout::from_vmcoreinfo(&Vmcoreinfo::new(text.as_bytes())).unwrap()
    }

    /// (type, offset, vaddr, paddr, filesz, memsz, align) of every program header.
    fn phdrs(header: &[u8]) -> Vec<(u32, [u64; 6])> {
        let count = usize::from(u16_at(header, 56).unwrap());
        (0..count)
            .map(|n| {
                let at = 64 + 56 * n;
                let word = |k: usize| u64_at(header, at + k).unwrap();
                (
                    u32_at(header, at).unwrap(),
                    [8, 16, 24, 32, 40, 48].map(word),
                )
            })
            .collect()
    }

    #[test]
    fn the_header_has_one_note_then_the_image_then_ram() {
        // A hole in the middle of the image.
        let segments = [
            range(0x4000_0000, 0x4040_0000),
            range(0x4040_1000, 0x6000_0000),
        ];
        let image = range(0x4021_0000, 0x4080_0000);
        let notes = [7u8; 500];
        let layout = CoreLayout::new(&segments, Some(kernel()), Some(image), notes.len()).unwrap();
        assert_eq!(layout.header_len(), 4096);
        assert_eq!(layout.file_len(), 4096 + 0x1fff_f000);
        let mut out = vec![0xff; 5000];
        assert_eq!(layout.write_header(&notes, true, &mut out), Ok(4096));
        assert_eq!(u32_at(&out, 48), Some(1), "incomplete");
        let load = |offset, va, range: PhysRange| {
            (1, [offset, va, range.start.0, range.len(), range.len(), 0])
        };
        let notes_at = 64 + 5 * 56;
        assert_eq!(
            phdrs(&out),
            [
                (4, [notes_at as u64, 0, 0, 500, 500, 0]),
                load(
                    0x1000 + 0x21_0000,
                    0xffff_8000_8021_0000,
                    range(0x4021_0000, 0x4040_0000)
                ),
                load(
                    0x1000 + 0x40_0000,
                    0xffff_8000_8040_1000,
                    range(0x4040_1000, 0x4080_0000)
                ),
                load(0x1000, 0xffff_0000_0000_0000, segments[0]),
                load(0x40_1000, 0xffff_0000_0040_1000, segments[1]),
            ]
        );
        assert_eq!(&out[notes_at..notes_at + 500], &notes);
        assert!(out[notes_at + 500..4096].iter().all(|byte| *byte == 0));
        assert_eq!(out[4096], 0xff, "nothing behind the header is touched");
        // Our own reader takes it for a core.
        let read = ElfCoreHdr::parse(&out).unwrap();
        assert_eq!(
            read.loads().next(),
            Some(Claim {
                start: PhysAddr(0x21_1000),
                len: 0x1f_0000
            })
        );
    }

    #[test]
    fn without_a_layout_physical_addresses_remain() {
        let segments = [range(0x4000_0000, 0x4000_1000)];
        let layout = CoreLayout::new(&segments, None, Some(segments[0]), 0).unwrap();
        let mut out = vec![0; 4096];
        layout.write_header(&[], false, &mut out).unwrap();
        assert_eq!(u32_at(&out, 48), Some(0));
        assert_eq!(
            phdrs(&out)[1],
            (1, [0x1000, 0, 0x4000_0000, 0x1000, 0x1000, 0])
        );
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let segments = vec![range(0, 0x1000); 65_534];
        assert_eq!(
            CoreLayout::new(&segments, None, None, 0).err(),
            Some(CoreElfError::TooManySegments(65_534))
        );
        let endless = [range(0, u64::MAX), range(0, u64::MAX)];
        assert_eq!(
            CoreLayout::new(&endless, None, None, 0).err(),
            Some(CoreElfError::TooLong)
        );
        let layout = CoreLayout::new(&segments[..1], None, None, 4).unwrap();
        let mut out = [0; 4095];
        assert_eq!(
            layout.write_header(&[0; 4], false, &mut out),
            Err(CoreElfError::Buffer {
                needed: 4096,
                have: 4095
            })
        );
        assert_eq!(
            layout.write_header(&[], false, &mut [0; 4096]),
            Err(CoreElfError::Notes {
                announced: 4,
                have: 0
            })
        );
    }
}
