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
//! - [`btf`]: its types. [`object`]: members by name, pointers, lists, of those types.
//! - [`maple_tree`], [`rbtree`], [`xarray`]: the kernel's trees.
//! - [`modules`]: loaded modules, with symbols and types of their own.
//! - [`per_cpu`]: each CPU's own variables. [`task`]: all tasks.
//! - [`lost_vmcoreinfo`]: VMCOREINFO where a dump's notes lack it.
//! - [`files`], [`vm`]: what a task has open and mapped, by [`path`].
//! - [`irq`], [`mounts`], [`net`]: interrupts, mounts, network devices.
//! - [`stack`]: who called whom. [`exception`]: syndromes and addresses in words.
//! - [`log`]: its newest lines. [`diagnosis`]: what happened, in a sentence, and who did it.
//! - [`zones`]: nodes, zones and their counters. [`memory_use`]: what memory was used for.
//! - [`slab`]: slab caches. [`huge_pages`], [`overcommit`]: hugetlb, swap and promises.
//!
//! Without `CONFIG_KALLSYMS_ALL` (Debian's 6.1) kallsyms has functions only. What is searched
//! for in the image instead, and by what marks, the rooms say: BTF in [`Kernel::types`],
//! `init_task` in [`task`], the list of modules in [`modules`], per-CPU variables in [`per_cpu`],
//! nodes in [`zones`], slab caches in [`slab`], huge pages in [`huge_pages`], and what only
//! functions lead to in [`overcommit`].
//!
//! Everything read is an allegation of a dead kernel: lengths are checked, loops end, nothing
//! panics. What a kernel has is decided by its symbols, types and VMCOREINFO, never by its
//! version. What physical memory looks like without symbols and types is [`kdraw_linux`]'s.

pub mod btf;
mod crash_notes;
pub mod diagnosis;
pub mod exception;
#[cfg(test)]
mod fake;
pub mod files;
pub mod huge_pages;
pub mod irq;
pub mod kallsyms;
mod kernel;
pub mod log;
pub mod lost_vmcoreinfo;
pub mod maple_tree;
pub mod memory_use;
pub mod modules;
pub mod mounts;
pub mod net;
pub mod object;
mod operands;
pub mod overcommit;
pub mod page_cache;
pub mod path;
pub mod per_cpu;
pub mod rbtree;
pub mod read;
pub mod slab;
pub mod stack;
pub mod symbol_table;
pub mod system_map;
pub mod task;
pub mod vm;
pub mod xarray;
pub mod zones;

pub use kernel::{Kernel, OpenError, Options, Place};
