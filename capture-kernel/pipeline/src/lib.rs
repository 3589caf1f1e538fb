#![no_std]
#![forbid(unsafe_code)]
//! Select, compress, seal and write a dump.

pub mod ports;
