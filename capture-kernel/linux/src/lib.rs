#![no_std]
#![forbid(unsafe_code)]
//! What a crashed arm64 Linux looks like in physical memory.

pub mod memory;
