//! Tests across crates, and the fakes that they share.
//!
//! In `tests/tests/` lies what no crate can test by itself: dumps that the payload's pipeline
//! writes onto a fake disk, whole and damaged, read back by the tool. What one crate can see is
//! tested in that crate; what needs a kernel is a scenario of `cargo xtask test`.
//!
//! The fakes are a library, so that the tests of single crates use the same ones: [`disk`] is a
//! block device and a clock, [`memory`] a crashed kernel's memory, [`kernel`] one with
//! page tables and struct pages, [`capture`] plays the payload's
//! main sequence between them.

pub mod capture;
pub mod disk;
pub mod kernel;
pub mod memory;
