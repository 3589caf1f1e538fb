//! Device registers in memory: one access is one `ldr` or `str`.
//!
//! A volatile access in Rust may compile to any load or store instruction, also one with
//! write-back addressing or of a pair. A hypervisor that traps such an access to an emulated
//! device gets no syndrome for it and cannot emulate it (Arm ARM DDI 0487, ESR_ELx.ISV;
//! rust-lang/rust#131894). So on arm64 each access is one instruction in assembly, with plain
//! base addressing; elsewhere, where only tests run, it is a volatile access.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use crate::registers::{Registers, Width};

/// A mapped range of device registers, or of memory that a device shares.
#[derive(Debug)]
pub struct MmioRegion {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the region is owned by this value alone (contract of `MmioRegion::new`), and its
// mapping is the same on every CPU of the payload, so it may move to another CPU.
unsafe impl Send for MmioRegion {}

impl MmioRegion {
    /// Takes the mapped range of `len` bytes from `base`.
    ///
    /// # Safety
    /// As long as the value lives, all `len` bytes are mapped readable and writable at `base`,
    /// device registers as Device-nGnRnE (or shared memory as Normal, with the cacheability
    /// that the device expects), and nothing else in the program accesses them.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// Where the region begins.
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The address of an access of `width` bytes at `offset`, if it is aligned and inside.
    #[inline(always)]
    fn address(&self, offset: usize, width: Width) -> Option<NonNull<u8>> {
        let end = offset.checked_add(width.bytes())?;
        if end > self.len {
            return None;
        }
        // SAFETY: `offset` is less than `len`, and the region is one mapped range (contract of
        // `new`), so the sum stays inside it.
        let address = unsafe { self.base.add(offset) };
        address
            .addr()
            .get()
            .is_multiple_of(width.bytes())
            .then_some(address)
    }
}

impl Registers for MmioRegion {
    fn size(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn read(&self, offset: usize, width: Width) -> u64 {
        match self.address(offset, width) {
            // SAFETY: `address` has checked that all `width` bytes are inside the region and
            // aligned; the region is mapped readable (contract of `new`).
            Some(address) => unsafe { load(address, width) },
            None => u64::MAX,
        }
    }

    #[inline(always)]
    fn write(&self, offset: usize, width: Width, value: u64) {
        if let Some(address) = self.address(offset, width) {
            // SAFETY: `address` has checked that all `width` bytes are inside the region and
            // aligned; the region is mapped writable and ours alone (contract of `new`).
            unsafe { store(address, width, value) }
        }
    }
}

/// Loads `width` bytes with one instruction.
///
/// # Safety
/// `address` is aligned to `width` and mapped readable for it.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn load(address: NonNull<u8>, width: Width) -> u64 {
    macro_rules! load {
        ($instruction:literal) => {{
            let value: u64;
            // SAFETY: one load from an address that the caller vouches for. A write to a W
            // register clears the upper half of X (Arm ARM DDI 0487, C1.2.5). Not marked
            // `readonly`: a read of a device register may have effects.
            unsafe {
                core::arch::asm!(
                    $instruction,
                    value = out(reg) value,
                    address = in(reg) address.as_ptr(),
                    options(nostack, preserves_flags)
                )
            };
            value
        }};
    }
    match width {
        Width::W8 => load!("ldrb {value:w}, [{address}]"),
        Width::W16 => load!("ldrh {value:w}, [{address}]"),
        Width::W32 => load!("ldr {value:w}, [{address}]"),
        Width::W64 => load!("ldr {value}, [{address}]"),
    }
}

/// Stores the low `width` bytes of `value` with one instruction.
///
/// # Safety
/// `address` is aligned to `width` and mapped writable for it.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn store(address: NonNull<u8>, width: Width, value: u64) {
    macro_rules! store {
        ($instruction:literal) => {
            // SAFETY: one store to an address that the caller vouches for.
            unsafe {
                core::arch::asm!(
                    $instruction,
                    value = in(reg) value,
                    address = in(reg) address.as_ptr(),
                    options(nostack, preserves_flags)
                )
            }
        };
    }
    match width {
        Width::W8 => store!("strb {value:w}, [{address}]"),
        Width::W16 => store!("strh {value:w}, [{address}]"),
        Width::W32 => store!("str {value:w}, [{address}]"),
        Width::W64 => store!("str {value}, [{address}]"),
    }
}

/// Loads `width` bytes with a volatile access.
///
/// # Safety
/// `address` is aligned to `width` and mapped readable for it.
#[cfg(not(target_arch = "aarch64"))]
unsafe fn load(address: NonNull<u8>, width: Width) -> u64 {
    macro_rules! load {
        ($int:ty) => {
            // SAFETY: the caller vouches for the address and its alignment.
            u64::from(unsafe { address.cast::<$int>().read_volatile() })
        };
    }
    match width {
        Width::W8 => load!(u8),
        Width::W16 => load!(u16),
        Width::W32 => load!(u32),
        Width::W64 => load!(u64),
    }
}

/// Stores the low `width` bytes of `value` with a volatile access.
///
/// # Safety
/// `address` is aligned to `width` and mapped writable for it.
#[cfg(not(target_arch = "aarch64"))]
unsafe fn store(address: NonNull<u8>, width: Width, value: u64) {
    macro_rules! store {
        ($int:ty) => {
            // SAFETY: the caller vouches for the address and its alignment.
            unsafe { address.cast::<$int>().write_volatile(value as $int) }
        };
    }
    match width {
        Width::W8 => store!(u8),
        Width::W16 => store!(u16),
        Width::W32 => store!(u32),
        Width::W64 => store!(u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_stay_inside_and_aligned() {
        let mut memory = [0x0123_4567_89ab_cdef_u64, 0xfedc_ba98_7654_3210];
        // SAFETY: 12 bytes of an array that outlives the region and is not touched meanwhile.
        let region = unsafe { MmioRegion::new(NonNull::from(&mut memory).cast(), 12) };

        // (offset, width, value read); all ones where the access is refused.
        for (offset, width, expected) in [
            (0, Width::W8, 0xef),
            (2, Width::W16, 0x89ab),
            (4, Width::W32, 0x0123_4567),
            (0, Width::W64, 0x0123_4567_89ab_cdef),
            (11, Width::W8, 0x76),
            (12, Width::W8, u64::MAX),
            (1, Width::W16, u64::MAX),
            (2, Width::W32, u64::MAX),
            (8, Width::W64, u64::MAX),
            (usize::MAX, Width::W32, u64::MAX),
        ] {
            assert_eq!(
                region.read(offset, width),
                expected,
                "{width:?} at {offset}"
            );
        }

        region.write(3, Width::W8, 0xaa55);
        region.write(10, Width::W16, 0xffff_1122);
        region.write(12, Width::W32, 0); // outside
        region.write(6, Width::W32, 0); // misaligned
        assert_eq!(memory, [0x0123_4567_55ab_cdef, 0xfedc_ba98_1122_3210]);
    }
}
