#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
//! A crashed arm64 Linux, by the symbols and types that it carries itself: no debug package.
//!
//! [`Kernel`] is the way in: physical memory and notes of a dump, as one kernel. The rooms:
//!
//! - [`page_cache`] and [`read`]: memory, absent where it was not captured.
//! - [`kallsyms`], [`system_map`]: the kernel's symbols, into a [`symbol_table`].
//!
//! Everything read is an allegation of a dead kernel: lengths are checked, loops end, nothing
//! panics. What a kernel has is decided by its symbols, types and VMCOREINFO, never by its
//! version. What physical memory looks like without symbols and types is [`kdraw_linux`]'s.

#[cfg(test)]
mod fake;
pub mod kallsyms;
mod kernel;
pub mod page_cache;
pub mod read;
pub mod symbol_table;
pub mod system_map;

pub use kernel::{Kernel, OpenError, Options, Place};
