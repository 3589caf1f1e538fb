//! What a crashed kernel shows of itself, as data and in words: for more than one command.

pub mod memory;
pub mod modules;
pub mod records;
pub mod stacks;
