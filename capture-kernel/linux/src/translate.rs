//! Kernel virtual addresses to physical ones, by the crashed kernel's own page tables.
//!
//! The walk starts at `swapper_pg_dir` and follows drgn's rules, which hold for every granule:
//! - Address size: 4 and 16 KiB pages use what runs (`64 - T1SZ`): an LPA2 kernel on older
//!   hardware folds a level away. 64 KiB pages use the *configured* size: the table is laid out
//!   for 52 bits and `TTBR1` points into it when 48 are in use (c812026c54cf).
//! - Descriptor to physical address: bits 47 to the page shift; with 64 KiB pages bits 15–12
//!   are 51–48 as well; with 52-bit addresses on smaller pages (LPA2) bits 49–48 stand for
//!   themselves and bits 9–8 are 51–50 (352b0395b505).
//! - A block descriptor is accepted at every level above the last.
//!
//! At most five levels are read per address, so no table can make it loop. Where the walk fails
//! (a damaged table, a table that was not captured), the formulas of [`KernelLayout`] answer for
//! image and linear map.
//!
//! Source: Arm ARM D8.3 (VMSAv8-64 descriptors); drgn `arch_aarch64.c`; `arch/arm64/mm/mmu.c`.

use core::cell::Cell;

use kdraw_format::addr::{KernelVirtAddr, PhysAddr, PhysRange};

use crate::layout::{KernelLayout, MAX_IMAGE};
use crate::memory::{PhysMem, Unreadable};
use crate::vmcoreinfo::Vmcoreinfo;

/// Why a kernel address could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// The address lies below the kernel's half of the address space.
    #[error("{0} is no kernel address")]
    NotKernel(KernelVirtAddr),
    /// The page tables map nothing there.
    #[error("kernel address {va} is not mapped (nor are {span:#x} bytes around it)")]
    NotMapped {
        /// The address.
        va: KernelVirtAddr,
        /// The size of the page or block that the invalid descriptor stands for.
        span: u64,
    },
    /// A page table, or the memory behind the address, cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// Consecutive virtual addresses that one descriptor maps to consecutive physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first virtual address.
    pub va: KernelVirtAddr,
    /// The first physical address.
    pub pa: PhysAddr,
    /// Bytes: a page or a block.
    pub len: u64,
}

impl Mapping {
    /// The physical address of `va` and how many bytes follow it in this mapping.
    fn locate(&self, va: KernelVirtAddr) -> Option<(PhysAddr, u64)> {
        let inside =
            va.0.checked_sub(self.va.0)
                .filter(|inside| *inside < self.len)?;
        Some((
            PhysAddr(self.pa.0.wrapping_add(inside)),
            self.len.wrapping_sub(inside),
        ))
    }
}

/// The shape of the kernel's page tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    page_shift: u32,
    /// The address size that the root is laid out for.
    pub(crate) va_bits: u32,
    pub(crate) levels: u32,
}

impl Tables {
    pub(crate) fn of(layout: &KernelLayout) -> Self {
        let page_shift = layout.page_shift;
        let va_bits = if page_shift == 16 {
            layout.va_bits
        } else {
            layout.va_bits_actual
        };
        let levels = va_bits
            .saturating_sub(page_shift)
            .div_ceil(index_bits(page_shift).max(1));
        Self {
            page_shift,
            va_bits,
            levels,
        }
    }

    /// The lowest address that the tables can map.
    pub(crate) fn lowest_address(&self) -> u64 {
        u64::MAX.checked_shl(self.va_bits).unwrap_or(0)
    }

    /// log2 of what one descriptor of `level` stands for; level 1 holds pages.
    pub(crate) fn level_shift(&self, level: u32) -> u32 {
        let above = level.saturating_sub(1);
        self.page_shift
            .saturating_add(index_bits(self.page_shift).saturating_mul(above))
    }

    /// The physical address in a descriptor.
    pub(crate) fn address(&self, descriptor: u64) -> u64 {
        let page = size(self.page_shift).wrapping_sub(1);
        let low = descriptor & 0x0000_ffff_ffff_ffff & !page;
        match (self.page_shift, self.va_bits) {
            (16, _) => low | (descriptor & 0xf000) << 36,
            (_, 52) => low | descriptor & 0x0003_0000_0000_0000 | (descriptor & 0x300) << 42,
            _ => low,
        }
    }
}

/// Address bits that one level of tables resolves: a table is a page of 8-byte descriptors.
fn index_bits(page_shift: u32) -> u32 {
    page_shift.saturating_sub(3)
}

fn size(shift: u32) -> u64 {
    1u64.checked_shl(shift).unwrap_or(0)
}

/// How many mappings [`VirtMem`] remembers.
const REMEMBERED: usize = 8;
/// The widest hole inside the kernel image: the freed init section, with room to spare.
const MAX_IMAGE_HOLE: u64 = 32 << 20;

/// The crashed kernel's virtual memory.
///
/// Remembers the last few mappings, so that reading a buffer piece by piece does not walk the
/// page tables for each piece.
#[derive(Debug)]
pub struct VirtMem<M> {
    memory: M,
    layout: KernelLayout,
    recent: [Cell<Option<Mapping>>; REMEMBERED],
    oldest: Cell<usize>,
}

impl<M: PhysMem> VirtMem<M> {
    /// Views `memory` through the page tables of `layout`.
    pub fn new(memory: M, layout: KernelLayout) -> Self {
        Self {
            memory,
            layout,
            recent: Default::default(),
            oldest: Cell::new(0),
        }
    }

    /// Where the kernel lies.
    pub fn layout(&self) -> &KernelLayout {
        &self.layout
    }

    /// The memory behind it.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Walks the page tables, and nothing else.
    ///
    /// # Errors
    /// [`TranslateError`] if the address is not mapped or a table cannot be read.
    pub fn walk(&self, va: KernelVirtAddr) -> Result<Mapping, TranslateError> {
        let tables = Tables::of(&self.layout);
        if va.0 < tables.lowest_address() {
            return Err(TranslateError::NotKernel(va));
        }
        let mut table = self.layout.root().0;
        let mut width = tables.va_bits;
        for level in (1..=tables.levels).rev() {
            let shift = tables.level_shift(level);
            // The root's index is what is left of the address.
            let index = (va.0 & size(width).wrapping_sub(1))
                .checked_shr(shift)
                .unwrap_or(0);
            let mut descriptor = [0; 8];
            let at = PhysAddr(table.wrapping_add(index.wrapping_mul(8)));
            self.memory.read(at, &mut descriptor)?;
            let descriptor = u64::from_le_bytes(descriptor);
            table = tables.address(descriptor);
            let offset = size(shift).wrapping_sub(1);
            match (descriptor & 3, level) {
                (3, 2..) => width = shift,
                (3, 1) | (1, 2..) => {
                    return Ok(Mapping {
                        va: KernelVirtAddr(va.0 & !offset),
                        pa: PhysAddr(table & !offset),
                        len: size(shift),
                    });
                }
                _ => {
                    return Err(TranslateError::NotMapped {
                        va,
                        span: size(shift),
                    });
                }
            }
        }
        Err(TranslateError::NotKernel(va))
    }

    /// The physical address of `va` and how many bytes from there on are contiguous: by the page
    /// tables or, where they fail, by the formulas for image and linear map.
    ///
    /// # Errors
    /// [`TranslateError`] of the walk, if no formula covers the address either.
    pub fn translate(&self, va: KernelVirtAddr) -> Result<(PhysAddr, u64), TranslateError> {
        let known = self
            .recent
            .iter()
            .filter_map(Cell::get)
            .find_map(|known| known.locate(va));
        if let Some(found) = known {
            return Ok(found);
        }
        let mapping = match self.walk(va) {
            Ok(mapping) => mapping,
            Err(error) => self.by_formula(va).ok_or(error)?,
        };
        let oldest = self.oldest.get();
        if let Some(slot) = self.recent.get(oldest) {
            slot.set(Some(mapping));
        }
        self.oldest.set(oldest.wrapping_add(1) % REMEMBERED);
        mapping.locate(va).ok_or(TranslateError::NotKernel(va))
    }

    /// The page of `va` by the layout's formulas.
    fn by_formula(&self, va: KernelVirtAddr) -> Option<Mapping> {
        let len = size(self.layout.page_shift);
        let va = KernelVirtAddr(va.0 & !len.wrapping_sub(1));
        let pa = self
            .layout
            .image_pa(va)
            .or_else(|| self.layout.linear_pa(va))?;
        Some(Mapping { va, pa, len })
    }

    /// Fills `into` from `va`, across pages.
    ///
    /// # Errors
    /// [`TranslateError`] at the first byte that cannot be read; `into` may hold a part.
    pub fn read(&self, va: KernelVirtAddr, into: &mut [u8]) -> Result<(), TranslateError> {
        let mut va = va;
        let mut rest = into;
        while !rest.is_empty() {
            let (pa, contiguous) = self.translate(va)?;
            let len = usize::try_from(contiguous)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let Some((now, later)) = rest.split_at_mut_checked(len) else {
                break;
            };
            self.memory.read(pa, now)?;
            va = KernelVirtAddr(va.0.wrapping_add(u64::try_from(len).unwrap_or(0)));
            rest = later;
        }
        Ok(())
    }

    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_u64(&self, va: KernelVirtAddr) -> Result<u64, TranslateError> {
        let mut bytes = [0; 8];
        self.read(va, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_u32(&self, va: KernelVirtAddr) -> Result<u32, TranslateError> {
        let mut bytes = [0; 4];
        self.read(va, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Finds the physical memory of the kernel image, from the page of `_stext` to the last page
    /// that the page tables map at the image's distance ([`KernelLayout::image_pa`]). VMCOREINFO
    /// knows no end of the image. Holes are jumped: the init section, freed after boot. If the
    /// tables cannot be walked, the image ends with the last symbol in VMCOREINFO.
    pub fn image(&self, info: &Vmcoreinfo) -> Option<PhysRange> {
        let page = size(self.layout.page_shift);
        let start = self.layout.stext.0 & !page.wrapping_sub(1);
        let mut end = start;
        let mut at = start;
        while at.wrapping_sub(end) <= MAX_IMAGE_HOLE && at.wrapping_sub(start) < MAX_IMAGE {
            let span = match self.walk(KernelVirtAddr(at)) {
                Ok(mapping) => {
                    let next = mapping.va.0.wrapping_add(mapping.len);
                    if mapping.va.0.wrapping_sub(mapping.pa.0) == self.layout.kimage_voffset {
                        end = next;
                    }
                    mapping.len
                }
                Err(TranslateError::NotMapped { span, .. }) => span,
                Err(_) => page,
            };
            at = (at & !span.wrapping_sub(1)).wrapping_add(span);
            if at < start {
                break; // Past the top of the address space.
            }
        }
        if end == start {
            let symbols = info
                .symbols()
                .filter(|va| self.layout.image_pa(*va).is_some());
            let last = symbols.map(|va| va.0).max()?;
            end = (last & !page.wrapping_sub(1)).wrapping_add(page);
        }
        let pa = |va| PhysAddr(u64::wrapping_sub(va, self.layout.kimage_voffset));
        let image = PhysRange {
            start: pa(start),
            end: pa(end),
        };
        (!image.is_empty()).then_some(image)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::format;

    use super::*;
    use crate::memory::tests::Ram;

    /// A layout with the root table at physical 0x10_0000.
    pub(crate) fn layout(page_shift: u32, va_bits: u32, actual: u32) -> KernelLayout {
        let kimage_voffset = 0xffff_8000_4000_0000;
        KernelLayout {
            page_shift,
            va_bits,
            va_bits_actual: actual,
            page_offset: u64::MAX << va_bits,
            phys_offset: 0x4000_0000,
            kimage_voffset,
            swapper_pg_dir: KernelVirtAddr(0x10_0000 + kimage_voffset),
            stext: KernelVirtAddr(0xffff_8000_8001_0000),
        }
    }

    fn walk(ram: &Ram, layout: KernelLayout, va: u64) -> Result<Mapping, TranslateError> {
        VirtMem::new(ram, layout).walk(KernelVirtAddr(va))
    }

    /// Writes the descriptors (table, index, value).
    fn tables(descriptors: &[(u64, u64, u64)]) -> Ram {
        let mut ram = Ram::default();
        for (table, index, value) in descriptors {
            ram.put(*table, &[0; 4096]);
            ram.put_u64(table + 8 * index, *value);
        }
        ram
    }

    #[test]
    fn every_granule_and_address_size_is_walked() {
        const ROOT: u64 = 0x10_0000;
        // (page shift, configured, actual, descriptors, va, pa, mapping length)
        type Case = (u32, u32, u32, &'static [(u64, u64, u64)], u64, u64, u64);
        let table: &[Case] = &[
            // 4 KiB, 39 bits: three levels.
            (
                12,
                39,
                39,
                &[
                    (ROOT, 511, 0x20_0003),
                    (0x20_0000, 0, 0x30_0003),
                    (0x30_0000, 1, 0x0060_0000_5555_5f03),
                ],
                0xffff_ffff_c000_1abc,
                0x5555_5000,
                4096,
            ),
            // 4 KiB, 48 bits: four levels; and a 2 MiB and a 1 GiB block.
            (
                12,
                48,
                48,
                &[
                    (ROOT, 256, 0x20_0003),
                    (0x20_0000, 2, 0x30_0003),
                    (0x30_0000, 0, 0x40_0003),
                    (0x40_0000, 16, 0x4001_0703),
                ],
                0xffff_8000_8001_0008,
                0x4001_0000,
                4096,
            ),
            (
                12,
                48,
                48,
                &[
                    (ROOT, 256, 0x20_0003),
                    (0x20_0000, 2, 0x30_0003),
                    (0x30_0000, 1, 0x4020_0701),
                ],
                0xffff_8000_8030_0008,
                0x4020_0000,
                2 << 20,
            ),
            (
                12,
                48,
                48,
                &[(ROOT, 0, 0x20_0003), (0x20_0000, 1, 0x8000_0701)],
                0xffff_0000_4000_1000,
                0x8000_0000,
                1 << 30,
            ),
            // Built for 52 bits, running with 48: still four levels, no LPA2 descriptors.
            (
                12,
                52,
                48,
                &[(ROOT, 0, 0x20_0003), (0x20_0000, 1, 0x8000_0701)],
                0xffff_0000_4000_1000,
                0x8000_0000,
                1 << 30,
            ),
            // LPA2: five levels, bits 51-50 in descriptor bits 9-8 and 49-48 in place.
            (
                12,
                52,
                52,
                &[
                    (ROOT, 0, 0x20_0003),
                    (0x20_0000, 0, 0x30_0003),
                    (0x30_0000, 1, 0x0002_0000_8000_0101),
                ],
                0xfff0_0000_4000_1000,
                0x0006_0000_8000_0000,
                1 << 30,
            ),
            // 16 KiB, 47 bits: three levels; the root resolves 11 bits.
            (
                14,
                47,
                47,
                &[
                    (ROOT, 1, 0x20_0003),
                    (0x20_0000, 0, 0x30_0003),
                    (0x30_0000, 2, 0x4000_8003),
                ],
                0xffff_8010_0000_8004,
                0x4000_8000,
                16384,
            ),
            // 16 KiB, 48 bits: four levels, a root of two descriptors.
            (
                14,
                48,
                48,
                &[
                    (ROOT, 1, 0x20_0003),
                    (0x20_0000, 0, 0x30_0003),
                    (0x30_0000, 0, 0x4000_0001),
                ],
                0xffff_8000_0000_0000,
                0x4000_0000,
                32 << 20,
            ),
            // 64 KiB, 42 bits: two levels.
            (
                16,
                42,
                42,
                &[(ROOT, 0, 0x20_0003), (0x20_0000, 1, 0x4001_0003)],
                0xffff_fc00_0001_0000,
                0x4001_0000,
                65536,
            ),
            // 64 KiB for 52 bits running with 48: the table is indexed with 52; bits 51-48 of
            // the address in descriptor bits 15-12.
            (
                16,
                52,
                48,
                &[
                    (ROOT, 960, 0x20_0003),
                    (0x20_0000, 0, 0x30_0003),
                    (0x30_0000, 0, 0x4001_3003),
                ],
                0xffff_0000_0000_0010,
                0x0003_0000_4001_0000,
                65536,
            ),
        ];
        for (page_shift, va_bits, actual, descriptors, va, pa, len) in table {
            let layout = layout(*page_shift, *va_bits, *actual);
            let mut ram = tables(descriptors);
            let context = format!("{page_shift} {va_bits}/{actual} {va:#x}");
            let found = walk(&ram, layout, *va).expect(&context);
            assert_eq!(
                (found.va.0, found.pa.0, found.len),
                (va & !(len - 1), *pa, *len),
                "{context}"
            );
            // The invalid twin of each: the last descriptor cleared of its valid bit.
            let (table, index, value) = descriptors.last().unwrap();
            ram.put_u64(table + 8 * index, value & !1);
            let span = *len;
            assert_eq!(
                walk(&ram, layout, *va),
                Err(TranslateError::NotMapped {
                    va: KernelVirtAddr(*va),
                    span
                }),
                "{context}"
            );
        }
    }

    #[test]
    fn hostile_tables_end_in_an_error_or_an_address() {
        let layout = layout(12, 48, 48);
        let va = 0xffff_8000_8001_0000;
        // Every descriptor points to the root: ends after four levels.
        let mut looping = Ram::default();
        for index in 0..512 {
            looping.put_u64(0x10_0000 + 8 * index, 0x10_0003);
        }
        assert_eq!(walk(&looping, layout, va).unwrap().pa, PhysAddr(0x10_0000));
        // A table outside of memory.
        let outside = tables(&[(0x10_0000, 256, 0x0000_7777_0000_0003)]);
        assert_eq!(
            walk(&outside, layout, va),
            Err(TranslateError::Unreadable(Unreadable {
                at: PhysAddr(0x7777_0000_0010)
            }))
        );
        // "Block" where only pages can stand, and a user address.
        let block = tables(&[
            (0x10_0000, 256, 0x20_0003),
            (0x20_0000, 2, 0x30_0003),
            (0x30_0000, 0, 0x40_0003),
            (0x40_0000, 16, 0x4001_0701),
        ]);
        assert!(matches!(
            walk(&block, layout, va),
            Err(TranslateError::NotMapped { span: 4096, .. })
        ));
        assert!(matches!(
            walk(&block, layout, 0x40_0000),
            Err(TranslateError::NotKernel(_))
        ));
    }

    #[test]
    fn reading_crosses_pages_and_falls_back_to_formulas() {
        let layout = layout(12, 48, 48);
        // Two virtual pages whose physical ones are apart and in reverse order.
        let mut ram = tables(&[
            (0x10_0000, 256, 0x20_0003),
            (0x20_0000, 0, 0x30_0003),
            (0x30_0000, 0, 0x40_0003),
        ]);
        ram.put_u64(0x40_0000, 0x50_1003);
        ram.put_u64(0x40_0008, 0x50_0003);
        ram.put(0x50_1ffc, b"cros");
        ram.put(0x50_0000, b"sing");
        // The image, whose page the tables do not map, and the linear map, likewise.
        ram.put(0x4001_0000, b"imageXYZ");
        ram.put(0x4123_0000, b"linearXY");
        let virt = VirtMem::new(&ram, layout);
        for (va, text) in [
            (0xffff_8000_0000_0ffc, b"crossing"),
            (0xffff_8000_8001_0000, b"imageXYZ"),
            (0xffff_0000_0123_0000, b"linearXY"),
        ] {
            let mut found = [0; 8];
            virt.read(KernelVirtAddr(va), &mut found).unwrap();
            assert_eq!(&found, text);
        }
        let hole = KernelVirtAddr(0xffff_8000_0000_1ffc);
        assert!(matches!(
            virt.read(hole, &mut [0; 8]),
            Err(TranslateError::NotMapped { .. })
        ));
        assert!(
            virt.read(KernelVirtAddr(u64::MAX - 3), &mut [0; 8])
                .is_err()
        );
    }

    #[test]
    fn the_image_ends_at_the_last_page_at_its_distance() {
        let layout = layout(12, 48, 48);
        let mut ram = tables(&[(0x10_0000, 256, 0x20_0003), (0x20_0000, 2, 0x30_0003)]);
        ram.put_u64(0x30_0000, 0x40_0003);
        // Text: pages from _stext (0x10) on; a freed init section at 2 MiB; data as a block at
        // 4 MiB; then something else that happens to follow.
        for page in 16..512 {
            ram.put_u64(0x40_0000 + 8 * page, 0x4000_0003 + 4096 * page);
        }
        ram.put_u64(0x30_0010, 0x4040_0001);
        ram.put_u64(0x30_0018, 0x7000_0001);
        let info =
            Vmcoreinfo::new(b"SYMBOL(prb)=ffff800080123456\nSYMBOL(vmemmap)=fffffdffffe00000\n");
        let range = |start, end| {
            Some(PhysRange {
                start: PhysAddr(start),
                end: PhysAddr(end),
            })
        };
        assert_eq!(
            VirtMem::new(&ram, layout).image(&info),
            range(0x4001_0000, 0x4060_0000)
        );
        // Without page tables: the last symbol of the image.
        let nothing = Ram::default();
        assert_eq!(
            VirtMem::new(&nothing, layout).image(&info),
            range(0x4001_0000, 0x4012_4000)
        );
        assert_eq!(
            VirtMem::new(&nothing, layout).image(&Vmcoreinfo::new(b"")),
            None
        );
    }
}
