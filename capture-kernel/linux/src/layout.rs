//! Where an arm64 kernel puts itself: granule, address sizes, linear map and image.
//!
//! - *Linear map* (5.4 and later): `va = (pa - PHYS_OFFSET) | PAGE_OFFSET`, with
//!   `PAGE_OFFSET = -(1 << VA_BITS)` of the **configured** `VA_BITS`. All arithmetic wraps: KASLR
//!   moves `PHYS_OFFSET`, and a kernel built for 52 bits that runs with 48 lowers it by the
//!   distance of the two `PAGE_OFFSET`s (`arm64_memblock_init`), so that the one formula gives
//!   the addresses really used. Before 5.4 the halves were swapped; an image below the middle of
//!   the address space tells.
//! - *Image*: `pa = va - kimage_voffset`.
//!
//! Source: `arch/arm64/include/asm/memory.h`, `arch/arm64/mm/init.c`, commit 14c127c957c1
//! ("arm64: mm: Flip kernel VA space").

use kdraw_format::addr::{KernelVirtAddr, PhysAddr};

use crate::vmcoreinfo::Vmcoreinfo;

/// How far an image is taken to reach from `_stext`, at most. Debian's are 33–48 MiB; the image
/// shares a region of 128 MiB with modules on KASLR kernels.
pub const MAX_IMAGE: u64 = 256 << 20;

/// Why VMCOREINFO does not say how the kernel lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A key is absent or not a number.
    #[error("VMCOREINFO has no usable {0}; kernel addresses cannot be translated")]
    Missing(&'static str),
    /// An address size that arm64 does not have.
    #[error("VMCOREINFO says virtual addresses of {0} bits, expected 36 to 52")]
    VaBits(i64),
}

/// The kernel's place in virtual and physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLayout {
    /// 12, 14 or 16: log2 of the page size.
    pub page_shift: u32,
    /// `CONFIG_ARM64_VA_BITS`.
    pub va_bits: u32,
    /// The address size in use, from `TCR_EL1.T1SZ`.
    pub va_bits_actual: u32,
    /// The linear map's first address.
    pub page_offset: u64,
    /// The physical address that `page_offset` maps; a wrapped number.
    pub phys_offset: u64,
    /// Image virtual minus image physical address.
    pub kimage_voffset: u64,
    /// The root page table, an image address.
    pub swapper_pg_dir: KernelVirtAddr,
    /// The start of the image's text.
    pub stext: KernelVirtAddr,
}

impl KernelLayout {
    /// Reads the layout from VMCOREINFO.
    ///
    /// # Errors
    /// [`LayoutError`] if a key is missing or absurd.
    pub fn from_vmcoreinfo(info: &Vmcoreinfo) -> Result<Self, LayoutError> {
        let number = |name, key| info.number(name).ok_or(LayoutError::Missing(key));
        let symbol = |name, key| info.symbol(name).ok_or(LayoutError::Missing(key));
        let page_size = info.page_size().ok_or(LayoutError::Missing("PAGESIZE"))?;
        let va_bits = address_size(number("VA_BITS", "NUMBER(VA_BITS)")?)?;
        let va_bits_actual = match info.number("TCR_EL1_T1SZ") {
            Some(t1sz) => address_size(64i64.wrapping_sub(t1sz))?,
            None => va_bits,
        };
        let stext = symbol("_stext", "SYMBOL(_stext)")?;
        let middle = lowest_address(va_bits.saturating_sub(1));
        let page_offset = if stext.0 >= middle {
            lowest_address(va_bits)
        } else {
            middle
        };
        Ok(Self {
            page_shift: page_size.trailing_zeros(),
            va_bits,
            va_bits_actual,
            page_offset,
            phys_offset: number("PHYS_OFFSET", "NUMBER(PHYS_OFFSET)")?.cast_unsigned(),
            kimage_voffset: number("kimage_voffset", "NUMBER(kimage_voffset)")?.cast_unsigned(),
            swapper_pg_dir: symbol("swapper_pg_dir", "SYMBOL(swapper_pg_dir)")?,
            stext,
        })
    }

    /// Where the root page table is.
    pub fn root(&self) -> PhysAddr {
        PhysAddr(self.swapper_pg_dir.0.wrapping_sub(self.kimage_voffset))
    }

    /// The linear map's address of `pa`; `None` if the linear map does not reach there.
    pub fn linear_va(&self, pa: PhysAddr) -> Option<KernelVirtAddr> {
        let distance = pa.0.wrapping_sub(self.phys_offset);
        let reaches = distance < self.page_offset.wrapping_neg();
        reaches.then(|| KernelVirtAddr(self.page_offset.wrapping_add(distance)))
    }

    /// The physical address behind a linear-map address, by formula; `None` for others.
    pub fn linear_pa(&self, va: KernelVirtAddr) -> Option<PhysAddr> {
        // The linear map fills the half that the image is not in.
        let half = lowest_address(self.va_bits_actual.saturating_sub(1));
        let old_halves = self.page_offset == lowest_address(self.va_bits.saturating_sub(1));
        let inside = if old_halves {
            va.0 >= half
        } else {
            va.0 >= self.page_offset && va.0 < half
        };
        inside.then(|| {
            PhysAddr(
                va.0.wrapping_sub(self.page_offset)
                    .wrapping_add(self.phys_offset),
            )
        })
    }

    /// The physical address behind an image address, by formula; `None` for others.
    pub fn image_pa(&self, va: KernelVirtAddr) -> Option<PhysAddr> {
        // `_text` lies up to 64 KiB before `_stext`, 2 MiB on old kernels.
        let distance = va.0.wrapping_sub(self.stext.0.wrapping_sub(2 << 20));
        (distance < MAX_IMAGE).then(|| PhysAddr(va.0.wrapping_sub(self.kimage_voffset)))
    }
}

/// The lowest kernel address with `bits` bits: -(1 << bits).
fn lowest_address(bits: u32) -> u64 {
    u64::MAX.checked_shl(bits).unwrap_or(0)
}

fn address_size(bits: i64) -> Result<u32, LayoutError> {
    match u32::try_from(bits) {
        Ok(size @ 36..=52) => Ok(size),
        _ => Err(LayoutError::VaBits(bits)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::format;
    use std::string::String;

    use super::*;

    /// VMCOREINFO of the keys that matter here.
    pub(crate) fn text(va_bits: u32, actual: u32, phys_offset: u64, stext: u64) -> String {
        format!(
            "PAGESIZE=4096\nSYMBOL(swapper_pg_dir)={:x}\nSYMBOL(_stext)={stext:x}\n\
             NUMBER(VA_BITS)={va_bits}\nNUMBER(TCR_EL1_T1SZ)=0x{:x}\n\
             NUMBER(kimage_voffset)=0xffff800040000000\nNUMBER(PHYS_OFFSET)=0x{phys_offset:x}\n",
            stext + 0x10_0000,
            64 - actual,
        )
    }

    #[test]
    fn linear_addresses_follow_the_configured_size_with_wrapping_offsets() {
        // (configured, actual, PHYS_OFFSET, _stext, pa, va)
        for (va_bits, actual, phys_offset, stext, pa, va) in [
            (
                48,
                48,
                0x4000_0000,
                0xffff_8000_8001_0000,
                0x4000_1000,
                0xffff_0000_0000_1000,
            ),
            // KASLR: "negative".
            (
                48,
                48,
                0xffff_c0ae_8000_0000,
                0xffff_8000_8001_0000,
                0x4000_0000,
                0xffff_3f51_c000_0000,
            ),
            // Built for 52 bits, running with 48 (QEMU virt, cortex-a72, trixie).
            (
                52,
                48,
                0xfff1_0000_4000_0000,
                0xffff_8000_8001_0000,
                0x4000_0000,
                0xffff_0000_0000_0000,
            ),
            (
                52,
                52,
                0x4000_0000,
                0xffff_8000_8001_0000,
                0x4000_0000,
                0xfff0_0000_0000_0000,
            ),
            (
                39,
                39,
                0x8000_0000,
                0xffff_ffc0_0801_0000,
                0x8000_0000,
                0xffff_ff80_0000_0000,
            ),
            // Before 5.4: image in the lower half.
            (
                48,
                48,
                0x4000_0000,
                0xffff_0000_1008_0000,
                0x4000_1000,
                0xffff_8000_0000_1000,
            ),
        ] {
            let text = text(va_bits, actual, phys_offset, stext);
            let layout = KernelLayout::from_vmcoreinfo(&Vmcoreinfo::new(text.as_bytes())).unwrap();
            let (pa, va) = (PhysAddr(pa), KernelVirtAddr(va));
            assert_eq!(layout.linear_va(pa), Some(va), "{text}");
            assert_eq!(layout.linear_pa(va), Some(pa), "{text}");
            assert_eq!(layout.linear_pa(layout.stext), None, "{text}");
            assert_eq!(
                layout.image_pa(layout.stext),
                Some(PhysAddr(stext.wrapping_sub(layout.kimage_voffset)))
            );
            assert_eq!(layout.image_pa(va), None, "{text}");
        }
    }

    #[test]
    fn missing_and_absurd_keys_are_named() {
        let good = text(48, 48, 0, 0xffff_8000_8001_0000);
        for (from, to, error) in [
            (
                "PAGESIZE=4096",
                "PAGESIZE=8192",
                LayoutError::Missing("PAGESIZE"),
            ),
            ("VA_BITS)=48", "VA_BITS)=64", LayoutError::VaBits(64)),
            ("T1SZ)=0x10", "T1SZ)=0x40", LayoutError::VaBits(0)),
            ("(_stext)", "(_s)", LayoutError::Missing("SYMBOL(_stext)")),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            let found = KernelLayout::from_vmcoreinfo(&Vmcoreinfo::new(bad.as_bytes()));
            assert_eq!(found, Err(error));
        }
    }
}
