//! What the guest program and the harness must agree on: the contents of known pages, and where
//! the guest leaves what its kernel says of each page.
//!
//! The guest writes these pages into its memory before it panics, the harness looks for them in
//! the dump afterwards. Nothing here touches the system.

#![forbid(unsafe_code)]

pub mod page_flags;
pub mod pattern;
