//! Arming: checks that a capture would work, builds the segments, and loads them.
//!
//! - [`options`]: what the user decides about a capture; [`arming`]: what comes of it.
//! - [`target`]: where the dump is to go, and whether the payload could get there.
//! - [`machine`]: what of the running system it needs, and what is missing.
//! - [`elfcorehdr`], [`device_tree`]: what the payload is told about the machine.
//! - [`segments`]: how all of it lies in the crash region.
//! - [`state`]: what was loaded, remembered until the next boot.

pub mod arming;
pub mod device_tree;
pub mod elfcorehdr;
pub mod machine;
pub mod options;
pub mod segments;
pub mod state;
pub mod target;
