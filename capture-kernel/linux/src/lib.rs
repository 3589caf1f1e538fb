#![no_std]
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
//! What a crashed arm64 Linux looks like in physical memory.
//!
//! Used by the capture kernel, which reads live evidence, and by the host tool, which reads
//! dumps; both through [`memory::PhysMem`]. Everything read is an allegation of a dead kernel:
//! lengths are checked, loops are bounded, nothing panics. What a kernel has is decided by the
//! keys of VMCOREINFO, never by its version. No heap, no devices, no dump format here.
//!
//! From the outside in: [`elfcorehdr`] says where memory, notes and VMCOREINFO are; [`notes`]
//! and [`vmcoreinfo`] read them; [`layout`] and [`translate`] turn kernel addresses into
//! physical ones; [`printk`], [`panic_reason`] and [`uname`] read what a human wants to know
//! first; [`classify`] tells what each page is, [`kernel_map`] what the kernel maps;
//! [`core_elf`] writes the header of the vmcore that other tools open.

#[cfg(test)]
extern crate std;

pub mod bytes;
pub mod classify;
pub mod core_elf;
mod dump_level;
pub mod elf;
pub mod elfcorehdr;
pub mod kernel_map;
pub mod layout;
mod memmap;
pub mod memory;
pub mod notes;
mod page_keys;
pub mod panic_reason;
pub mod printk;
mod struct_page;
pub mod translate;
pub mod uname;
pub mod vmcoreinfo;
