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
//! The dump format and the plan: what the payload writes and the tool reads, byte by byte.
//!
//! This crate is only the format. It knows no hardware and has no unsafe code; whoever uses
//! it brings the bytes. Everything is little-endian. Every structure is checksummed with
//! XXH64 ([`checksum`]). All lengths and offsets are in bytes unless a field says otherwise.
//!
//! - [`layout`]: the partition: superblock ×2, journal, slots.
//! - [`slot`]: a slot's header ×2: state, counters, epitaph.
//! - [`chunk`]: what a slot's stream is made of; [`black_box`], [`memory_map`] and
//!   [`trailer`] say what is in the chunks that are not pages.
//! - [`walk`]: reads a stream chunk by chunk, over damage and past it.
//! - [`plan`]: what `kdraw load` leaves for the payload.
//! - [`partition_table`]: finds partitions in a GPT or MBR.
//! - [`working_memory`]: how much of the crash region the payload works in.
//!
//! # A dump
//!
//! The stream of a slot is, in this order: black box, memory map, notes, kernel log, pages,
//! payload log, index, trailer. Written strictly forward; each chunk is whole by itself; a
//! reader needs nothing that comes after a chunk to use it. So any prefix is a dump.
//!
//! # Order of worth
//!
//! Pages come in the order of their [`chunk::Class`], so that a dump that ends early has what a
//! debugger needs first: page tables and the kernel's data ([`chunk::Class::KernelCore`]) to find
//! anything at all, then tasks and their stacks ([`chunk::Class::KernelData`]) for `ps` and `bt`.
//! Inside a class they come by address, in the passes that `kdraw-pipeline`'s `worth` describes.
//! Several CPUs make chunks: one may stand behind a few of less worth. What the dump level does
//! not keep, or the slot has no room for, is missing from the end of that order
//! ([`slot::SlotHeader::left_out`]).
//!
//! On a plain partition the pages are an ELF core outside the stream, written before the chunks
//! that follow them; the stream has the core's checksums in their stead.

pub mod addr;
pub mod black_box;
mod bytes;
pub mod checksum;
pub mod chunk;
pub mod layout;
pub mod memory_map;
pub mod partition_table;
pub mod plan;
pub mod records;
pub mod slot;
pub mod trailer;
pub mod walk;
pub mod working_memory;
