//! The elfcorehdr: the crashed kernel's description of its own memory, and what may be read of it.
//!
//! An ELF64 core header without content. Its `PT_NOTE`s say where the CPUs' registers and
//! VMCOREINFO lie in old memory, its `PT_LOAD`s which physical ranges were RAM; `p_offset` is a
//! *physical address*. It comes from our loader, from kexec-tools or from the kernel itself, and
//! is hostile: kexec-tools on a kernel whose /proc/kallsyms lacks `_text` writes a `PT_LOAD` at
//! 0x2461a2000000 with a wrapped size, and reading that is an external abort.
//!
//! Limits: [`MAX_RANGES`] disjoint ranges; what does not fit is dropped and said so.
//!
//! Source: `fs/proc/vmcore.c` (which reads `p_offset`, not `p_paddr`), `kernel/crash_core.c`
//! (`crash_prepare_elf64_headers`), kexec-tools `kexec/crashdump-elf.c`.

use heapless::Vec;
use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::elf::{self, ehdr, phdr};

/// The most disjoint ranges that a [`MemoryMap`] holds.
pub const MAX_RANGES: usize = 128;
/// The most [`DroppedRange`]s that a [`MemoryMap`] remembers; it counts the others.
pub const MAX_DROPPED: usize = 16;
/// The most bytes that one `PT_NOTE` may claim: the largest VMCOREINFO note (a few 64 KiB pages)
/// with room to spare.
pub const MAX_NOTE_SEGMENT: u64 = 1 << 20;

/// Why bytes are not an elfcorehdr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfCoreHdrError {
    /// The file header is cut or is not that of a little-endian ELF64 core for arm64.
    #[error(
        "elfcorehdr: no little-endian ELF64 ET_CORE header for arm64 at its start; \
         load the capture kernel again"
    )]
    NotACore,
    /// The program headers have another size than ELF64's.
    #[error("elfcorehdr: program headers of {found} bytes, expected 56")]
    HeaderSize {
        /// What `e_phentsize` said.
        found: u16,
    },
    /// The program headers reach past the bytes given.
    #[error("elfcorehdr: {count} program headers at offset {at:#x} end beyond its {len} bytes")]
    Cut {
        /// `e_phoff`.
        at: u64,
        /// How many program headers it has.
        count: u32,
        /// How many bytes were given.
        len: usize,
    },
}

/// A checked view of an elfcorehdr; its segments are read when asked for.
#[derive(Clone, Copy, Debug)]
pub struct ElfCoreHdr<'a> {
    phdrs: &'a [u8],
}

/// What one program header claims: bytes of old memory, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The first byte.
    pub start: PhysAddr,
    /// How many bytes.
    pub len: u64,
}

impl<'a> ElfCoreHdr<'a> {
    /// Checks the file header and that all program headers lie inside `bytes`, which may be
    /// longer than the header.
    ///
    /// # Errors
    /// [`ElfCoreHdrError`] if it is not an arm64 ELF64 core header or is cut.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfCoreHdrError> {
        let header = Self::file_header(bytes).ok_or(ElfCoreHdrError::NotACore)?;
        if usize::from(header.phentsize) != elf::PHDR_LEN {
            return Err(ElfCoreHdrError::HeaderSize {
                found: header.phentsize,
            });
        }
        let table = || {
            let start = usize::try_from(header.phoff).ok()?;
            let len = usize::try_from(header.phnum)
                .ok()?
                .checked_mul(elf::PHDR_LEN)?;
            bytes.get(start..)?.get(..len)
        };
        match table() {
            Some(phdrs) => Ok(Self { phdrs }),
            None => Err(ElfCoreHdrError::Cut {
                at: header.phoff,
                count: header.phnum,
                len: bytes.len(),
            }),
        }
    }

    fn file_header(bytes: &[u8]) -> Option<FileHeader> {
        let right = bytes.starts_with(&elf::IDENT)
            && u16_at(bytes, ehdr::TYPE)? == elf::ET_CORE
            && u16_at(bytes, ehdr::MACHINE)? == elf::EM_AARCH64;
        if !right || bytes.len() < elf::EHDR_LEN {
            return None;
        }
        let mut phnum = u32::from(u16_at(bytes, ehdr::PHNUM)?);
        if phnum == u32::from(elf::PN_XNUM) {
            let section = usize::try_from(u64_at(bytes, ehdr::SHOFF)?).ok()?;
            phnum = u32_at(bytes, section.checked_add(elf::SH_INFO)?)?;
        }
        Some(FileHeader {
            phoff: u64_at(bytes, ehdr::PHOFF)?,
            phentsize: u16_at(bytes, ehdr::PHENTSIZE)?,
            phnum,
        })
    }

    fn claims(&self, kind: u32) -> impl Iterator<Item = Claim> + use<'a> {
        self.phdrs
            .chunks_exact(elf::PHDR_LEN)
            .filter_map(move |header| {
                if u32_at(header, phdr::TYPE)? != kind {
                    return None;
                }
                Some(Claim {
                    start: PhysAddr(u64_at(header, phdr::OFFSET)?),
                    len: u64_at(header, phdr::MEMSZ)?,
                })
            })
    }

    /// Where notes lie, in the header's order: one per CPU, then VMCOREINFO. Empty, wrapping and
    /// absurdly large ones (over [`MAX_NOTE_SEGMENT`]) are left out; the others may still lie
    /// anywhere.
    pub fn notes(&self) -> impl Iterator<Item = PhysRange> + use<'a> {
        self.claims(elf::PT_NOTE)
            .filter(|claim| (1..=MAX_NOTE_SEGMENT).contains(&claim.len))
            .filter_map(|claim| PhysRange::with_len(claim.start, claim.len))
    }

    /// What it claims to have been RAM, unchecked, in the header's order; [`MemoryMap::new`]
    /// makes sense of it.
    pub fn loads(&self) -> impl Iterator<Item = Claim> + use<'a> {
        self.claims(elf::PT_LOAD)
    }
}

struct FileHeader {
    phoff: u64,
    phentsize: u16,
    phnum: u32,
}

/// Why a range of the elfcorehdr is not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// It has no byte.
    #[error("is empty")]
    Empty,
    /// Its end wraps around the address space.
    #[error("wraps around the address space")]
    Wraps,
    /// It ends above the highest physical address that this machine can have.
    #[error("lies above this machine's physical addresses")]
    AbovePhysicalLimit,
    /// It is the part of a page at a range's ragged start or end.
    #[error("is only a part of a page")]
    Misaligned,
    /// There is no room for one more disjoint range.
    #[error("is one range too many")]
    TooMany,
}

/// A range that was claimed and will not be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedRange {
    /// What was claimed.
    pub claim: Claim,
    /// Why it is not captured.
    pub why: DropReason,
}

/// The physical memory to capture: sorted, disjoint, not adjacent, aligned to [`FRAME_SIZE`].
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    ranges: Vec<PhysRange, MAX_RANGES>,
    dropped: Vec<DroppedRange, MAX_DROPPED>,
    dropped_total: u32,
}

impl MemoryMap {
    /// Makes a map of claimed ranges: whatever wraps or ends above `limit` (exclusive) is
    /// dropped, overlapping and adjacent ranges become one (kexec-tools lists the kernel image
    /// twice), `exclude` (the crash region) is cut out, parts of pages at the ends are dropped.
    pub fn new(
        claims: impl IntoIterator<Item = Claim>,
        exclude: &[PhysRange],
        limit: PhysAddr,
    ) -> Self {
        let mut map = Self::default();
        for claim in claims {
            match check(claim, limit) {
                Ok(range) => map.add(range),
                Err(why) => map.drop_range(claim, why),
            }
        }
        for hole in exclude.iter().filter(|hole| !hole.is_empty()) {
            map.cut(hole);
        }
        map.align();
        map
    }

    /// The ranges to capture.
    pub fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }

    /// The first [`MAX_DROPPED`] ranges that were dropped.
    pub fn dropped(&self) -> &[DroppedRange] {
        &self.dropped
    }

    /// How many ranges were dropped, remembered or not.
    pub fn dropped_total(&self) -> u32 {
        self.dropped_total
    }

    /// Bytes in all ranges.
    pub fn total_bytes(&self) -> u64 {
        self.ranges
            .iter()
            .map(PhysRange::len)
            .fold(0, u64::saturating_add)
    }

    /// Whether one range holds the whole of `range`.
    pub fn contains(&self, range: &PhysRange) -> bool {
        self.ranges.iter().any(|own| own.contains(range))
    }

    fn drop_range(&mut self, claim: Claim, why: DropReason) {
        self.dropped_total = self.dropped_total.saturating_add(1);
        // Full: counted above, which is all that is promised.
        let _ = self.dropped.push(DroppedRange { claim, why });
    }

    /// Inserts in order, swallowing every range that it touches.
    fn add(&mut self, mut range: PhysRange) {
        self.ranges.retain(|own| {
            let apart = own.end < range.start || range.end < own.start;
            if !apart {
                range.start = range.start.min(own.start);
                range.end = range.end.max(own.end);
            }
            apart
        });
        let at = self.ranges.partition_point(|own| own.start < range.start);
        if self.ranges.insert(at, range).is_err() {
            self.drop_range(claim_of(range), DropReason::TooMany);
        }
    }

    fn cut(&mut self, hole: &PhysRange) {
        for range in core::mem::take(&mut self.ranges) {
            let below = PhysRange {
                start: range.start,
                end: range.end.min(hole.start),
            };
            let above = PhysRange {
                start: range.start.max(hole.end),
                end: range.end,
            };
            for part in [below, above] {
                if !part.is_empty() && self.ranges.push(part).is_err() {
                    self.drop_range(claim_of(part), DropReason::TooMany);
                }
            }
        }
    }

    fn align(&mut self) {
        for range in core::mem::take(&mut self.ranges) {
            let start = range
                .start
                .0
                .checked_next_multiple_of(FRAME_SIZE)
                .unwrap_or(range.end.0);
            let end = range.end.0 & !FRAME_SIZE.wrapping_sub(1);
            let inner = PhysRange {
                start: PhysAddr(start),
                end: PhysAddr(end),
            };
            if inner.is_empty() {
                self.drop_range(claim_of(range), DropReason::Misaligned);
                continue;
            }
            let head = PhysRange {
                start: range.start,
                end: inner.start,
            };
            let tail = PhysRange {
                start: inner.end,
                end: range.end,
            };
            for part in [head, tail].iter().filter(|part| !part.is_empty()) {
                self.drop_range(claim_of(*part), DropReason::Misaligned);
            }
            // Cannot fail: as many as were taken out.
            let _ = self.ranges.push(inner);
        }
    }
}

fn check(claim: Claim, limit: PhysAddr) -> Result<PhysRange, DropReason> {
    if claim.len == 0 {
        return Err(DropReason::Empty);
    }
    let range = PhysRange::with_len(claim.start, claim.len).ok_or(DropReason::Wraps)?;
    if range.end > limit {
        return Err(DropReason::AbovePhysicalLimit);
    }
    Ok(range)
}

fn claim_of(range: PhysRange) -> Claim {
    Claim {
        start: range.start,
        len: range.len(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// An elfcorehdr with the given (type, offset, length).
    pub(crate) fn header(segments: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut bytes = [0u8; elf::EHDR_LEN].to_vec();
        bytes[..7].copy_from_slice(&elf::IDENT);
        bytes[16..18].copy_from_slice(&elf::ET_CORE.to_le_bytes());
        bytes[18..20].copy_from_slice(&elf::EM_AARCH64.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for (kind, offset, len) in segments {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(0u32.to_le_bytes());
            bytes.extend(offset.to_le_bytes()); // p_offset
            bytes.extend(0u64.to_le_bytes()); // p_vaddr
            bytes.extend(offset.to_le_bytes()); // p_paddr
            bytes.extend(len.to_le_bytes()); // p_filesz
            bytes.extend(len.to_le_bytes()); // p_memsz
            bytes.extend(0u64.to_le_bytes()); // p_align
        }
        bytes
    }

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange {
            start: PhysAddr(start),
            end: PhysAddr(end),
        }
    }

    fn claim(start: u64, len: u64) -> Claim {
        Claim {
            start: PhysAddr(start),
            len,
        }
    }

    #[test]
    fn notes_and_loads_are_told_apart() {
        let bytes = header(&[
            (elf::PT_NOTE, 0x7f00_0000, 0x1a8),
            (elf::PT_NOTE, 0, 0),
            (elf::PT_NOTE, u64::MAX - 8, 0x1a8),
            (elf::PT_NOTE, 0x1000, u64::MAX),
            (elf::PT_LOAD, 0x4000_0000, 0x1000),
            (0x6474_e551, 1, 1),
        ]);
        let header = ElfCoreHdr::parse(&bytes).unwrap();
        assert_eq!(
            header.notes().collect::<Vec<_>>(),
            [range(0x7f00_0000, 0x7f00_01a8)]
        );
        assert_eq!(
            header.loads().collect::<Vec<_>>(),
            [claim(0x4000_0000, 0x1000)]
        );
    }

    #[test]
    fn pn_xnum_takes_the_count_from_section_zero() {
        let mut bytes = header(&[
            (elf::PT_LOAD, 0x1000, 0x1000),
            (elf::PT_LOAD, 0x3000, 0x1000),
        ]);
        let section = bytes.len();
        bytes.extend([0; 64]);
        bytes[40..48].copy_from_slice(&u64::try_from(section).unwrap().to_le_bytes());
        bytes[56..58].copy_from_slice(&elf::PN_XNUM.to_le_bytes());
        bytes[section + elf::SH_INFO..][..4].copy_from_slice(&2u32.to_le_bytes());
        assert_eq!(ElfCoreHdr::parse(&bytes).unwrap().loads().count(), 2);
        bytes[section + elf::SH_INFO..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            ElfCoreHdr::parse(&bytes),
            Err(ElfCoreHdrError::Cut { .. })
        ));
    }

    #[test]
    fn what_is_no_arm64_core_is_refused() {
        let good = header(&[(elf::PT_LOAD, 0, 0x1000)]);
        for (at, value) in [(0, 0), (4, 1), (5, 2), (16, 2), (18, 62)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(
                ElfCoreHdr::parse(&bad).err(),
                Some(ElfCoreHdrError::NotACore),
                "{at}"
            );
        }
        let mut bad = good.clone();
        bad[54] = 32;
        assert!(matches!(
            ElfCoreHdr::parse(&bad),
            Err(ElfCoreHdrError::HeaderSize { found: 32 })
        ));
        assert!(matches!(
            ElfCoreHdr::parse(&good[..good.len() - 1]),
            Err(ElfCoreHdrError::Cut { count: 1, .. })
        ));
    }

    #[test]
    fn the_map_keeps_what_is_sane_and_says_what_is_not() {
        use DropReason::*;
        let crash_region = range(0x6ac0_0000, 0x7ac0_0000);
        let limit = PhysAddr(1 << 40);
        // (claims, ranges kept, reasons)
        let table: &[(&[Claim], &[PhysRange], &[DropReason])] = &[
            (
                // Debian 6.1 under kexec-tools: an absurd kernel image first.
                &[
                    claim(0x2461_a200_0000, 0xffff_db9e_5e00_1000),
                    claim(0x4000_0000, 0x2ac0_0000),
                    claim(0x7ac0_0000, 0x0540_0000),
                    claim(0x2461_a200_0000, 0x200_0000),
                ],
                &[
                    range(0x4000_0000, 0x6ac0_0000),
                    range(0x7ac0_0000, 0x8000_0000),
                ],
                &[Wraps, AbovePhysicalLimit],
            ),
            (
                // Unsorted, the image inside RAM, RAM over the crash region.
                &[
                    claim(0x8000_0000, 0x1000),
                    claim(0x4020_0000, 0x1234),
                    claim(0x4000_0000, 0x4000_0000),
                ],
                &[
                    range(0x4000_0000, 0x6ac0_0000),
                    range(0x7ac0_0000, 0x8000_1000),
                ],
                &[],
            ),
            (
                &[claim(0x1000, u64::MAX), claim(0x1000, 0)],
                &[],
                &[Wraps, Empty],
            ),
            (
                &[claim(0x1800, 0x2000)],
                &[range(0x2000, 0x3000)],
                &[Misaligned, Misaligned],
            ),
            (&[claim(0x1800, 0x400)], &[], &[Misaligned]),
            (&[claim(0x6ad0_0000, 0x1000)], &[], &[]),
            // A later range joins two earlier ones.
            (
                &[
                    claim(0x1000, 0x1000),
                    claim(0x3000, 0x1000),
                    claim(0x2000, 0x1000),
                ],
                &[range(0x1000, 0x4000)],
                &[],
            ),
        ];
        for (claims, kept, reasons) in table {
            let map = MemoryMap::new(claims.iter().copied(), &[crash_region], limit);
            assert_eq!(map.ranges(), *kept, "{claims:x?}");
            let why: Vec<_> = map.dropped().iter().map(|dropped| dropped.why).collect();
            assert_eq!(why, *reasons, "{claims:x?}");
        }
    }

    #[test]
    fn too_many_ranges_are_counted() {
        let claims = (0..200u64).map(|n| claim(n * 0x2000, 0x1000));
        let map = MemoryMap::new(claims, &[], PhysAddr(1 << 40));
        assert_eq!(map.ranges().len(), MAX_RANGES);
        assert_eq!(map.dropped_total(), 72);
        assert_eq!(map.dropped().len(), MAX_DROPPED);
        assert_eq!(map.dropped()[0].why, DropReason::TooMany);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..512),
            disguise in any::<bool>(),
        ) {
            if disguise && bytes.len() >= 64 {
                bytes[..64].copy_from_slice(&header(&[(0, 0, 0); 5])[..64]);
            }
            if let Ok(header) = ElfCoreHdr::parse(&bytes) {
                let _ = header.notes().count();
                let _ = MemoryMap::new(header.loads(), &[], PhysAddr(1 << 48));
            }
        }

        #[test]
        fn a_map_is_sorted_disjoint_aligned_and_free_of_the_hole(
            claims in proptest::collection::vec((0u64..0x40_0000, 0u64..0x10_0000), 0..300),
            hole in (0u64..0x40_0000, 0u64..0x10_0000),
        ) {
            let hole = range(hole.0, hole.0 + hole.1);
            let map = MemoryMap::new(claims.iter().map(|c| claim(c.0, c.1)), &[hole], PhysAddr(0x50_0000));
            for pair in map.ranges().windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            for own in map.ranges() {
                prop_assert!(!own.is_empty() && own.start.0 % FRAME_SIZE == 0 && own.end.0 % FRAME_SIZE == 0);
                prop_assert!(hole.is_empty() || !own.overlaps(&hole));
            }
        }
    }
}
