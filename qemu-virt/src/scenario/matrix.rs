//! The scenarios of `cargo xtask test`, as a table.
