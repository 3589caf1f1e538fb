//! Register blocks as drivers see them, and typed registers for tock-registers.
//!
//! A [`Registers`] is a range that answers single accesses of 1 to 8 bytes: a device's
//! [`MmioRegion`](crate::mmio::MmioRegion) in the payload, a fake device in tests. A driver
//! declares its registers as [`Offset`] constants and reaches them with [`Registers::at`],
//! which gives a [`Register`] with tock-registers' `Readable` and `Writeable`.
//!
//! Accesses outside the range or not aligned to their width never reach the bus: a read gives
//! all ones, as from a bus that nobody answers on, and a write does nothing. So offsets that a
//! device made up do no harm, and drivers check lengths once, when they are made.
//!
//! All registers are little-endian.

use core::marker::PhantomData;

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::{RegisterLongName, UIntLike};

// Registers and ring fields are little-endian, and are read as native integers.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "kdraw's drivers need a little-endian CPU"
);

/// How many bytes one access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    W8,
    /// Two bytes.
    W16,
    /// Four bytes.
    W32,
    /// Eight bytes.
    W64,
}

impl Width {
    /// The width in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::W8 => 1,
            Self::W16 => 2,
            Self::W32 => 4,
            Self::W64 => 8,
        }
    }
}

/// A range of registers, accessed one at a time.
///
/// Not for sharing between CPUs without a lock.
pub trait Registers {
    /// The range's length in bytes.
    fn size(&self) -> usize;

    /// Reads `width` bytes at `offset`; all ones if out of range or misaligned.
    fn read(&self, offset: usize, width: Width) -> u64;

    /// Writes the low `width` bytes of `value` at `offset`; nothing if out of range or
    /// misaligned.
    fn write(&self, offset: usize, width: Width, value: u64);

    /// The register at `offset`.
    #[inline(always)]
    fn at<T: Word, L: RegisterLongName>(&self, offset: Offset<T, L>) -> Register<'_, Self, T, L> {
        Register {
            registers: self,
            offset,
        }
    }
}

/// An integer as wide as a register.
pub trait Word: UIntLike {
    /// How wide.
    const WIDTH: Width;

    /// Takes the low bytes of `value`.
    fn truncate(value: u64) -> Self;

    /// Extends with zeros.
    fn extend(self) -> u64;
}

macro_rules! word {
    ($($int:ty => $width:ident),*) => {
        $(impl Word for $int {
            const WIDTH: Width = Width::$width;

            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn extend(self) -> u64 {
                u64::from(self)
            }
        })*
    };
}

word!(u8 => W8, u16 => W16, u32 => W32, u64 => W64);

/// Where a register of width `T` with the fields `L` lies in its block.
#[derive(Debug)]
pub struct Offset<T, L = ()> {
    bytes: usize,
    layout: PhantomData<(T, L)>,
}

impl<T, L> Clone for Offset<T, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, L> Copy for Offset<T, L> {}

impl<T, L> Offset<T, L> {
    /// A register `bytes` after the block's start.
    pub const fn new(bytes: usize) -> Self {
        Self {
            bytes,
            layout: PhantomData,
        }
    }
}

/// One register of a block, for tock-registers' `Readable`, `Writeable` and `modify`.
#[derive(Debug)]
pub struct Register<'a, R: ?Sized, T, L = ()> {
    registers: &'a R,
    offset: Offset<T, L>,
}

impl<R: Registers + ?Sized, T: Word, L: RegisterLongName> Readable for Register<'_, R, T, L> {
    type T = T;
    type R = L;

    #[inline(always)]
    fn get(&self) -> T {
        T::truncate(self.registers.read(self.offset.bytes, T::WIDTH))
    }
}

impl<R: Registers + ?Sized, T: Word, L: RegisterLongName> Writeable for Register<'_, R, T, L> {
    type T = T;
    type R = L;

    #[inline(always)]
    fn set(&self, value: T) {
        self.registers
            .write(self.offset.bytes, T::WIDTH, value.extend());
    }
}
