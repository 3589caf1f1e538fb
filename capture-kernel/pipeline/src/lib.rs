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
//! Seals a dump and writes it. Selection and compression will have their place here.
//!
//! The pipeline knows traits, not devices: [`ports`] says what it needs of a machine.
//! [`partition`] is the one way to the target; [`dump`] writes one dump into a slot of it;
//! [`plain`] writes the raw core of a plain partition beside it. [`crew`] is how the first CPU and
//! the others hand tasks to each other.

pub mod crew;
pub mod dump;
pub mod frames;
pub mod lz4;
pub mod partition;
pub mod plain;
pub mod ports;
