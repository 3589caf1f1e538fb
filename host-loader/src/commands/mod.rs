//! The commands, one per file.

pub mod bt;
pub mod check;
pub mod convert;
mod dump_args;
pub mod estimate;
pub mod extract;
pub mod format;
pub mod info;
pub mod layout;
pub mod list;
pub mod load;
pub mod log;
pub mod mods;
pub mod payload;
pub mod plan;
pub mod ps;
pub mod read;
pub mod receive;
pub mod reserve;
pub mod save;
pub mod ship;
pub mod status;
pub mod sym;
pub mod test;
pub mod unload;
pub mod verify;
mod vmcore_args;
