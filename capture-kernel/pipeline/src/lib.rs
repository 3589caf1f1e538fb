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
//! Selects pages, packs them, seals them into chunks and writes those.
//!
//! The pipeline knows traits, not devices: [`ports`] says what it needs of a machine.
//! [`partition`] is the one way to the target, and [`serial`] makes one of a serial line; [`dump`] writes one dump into a slot of it;
//! [`plain`] writes the raw core of a plain partition beside it. [`task`] is the making of one
//! chunk of pages, with [`lz4`], [`deflate`] and [`frames`]; [`assembly`] is the first CPU's loop around it,
//! and [`crew`] how it and the others hand tasks to each other.

pub mod assembly;
pub mod crew;
pub mod deflate;
pub mod dump;
pub mod fit;
pub mod frames;
pub mod lz4;
pub mod marks;
pub mod partition;
pub mod plain;
pub mod ports;
pub mod serial;
pub mod task;
pub mod worth;
