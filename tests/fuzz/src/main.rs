#![no_main]
//! The fuzzer: libFuzzer around the target that `KDRAW_FUZZ_TARGET` names.
//!
//! `cargo xtask fuzz` builds it, with the compiler's options that tell libFuzzer which code an
//! input reached, and runs it. Its `main` and its arguments are libFuzzer's.

use std::sync::OnceLock;

use kdraw_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<Target> = OnceLock::new();

fn named() -> Target {
    let name = std::env::var("KDRAW_FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no target is called `{name}`"));
    *target
}

fuzz_target!(|data: &[u8]| TARGET.get_or_init(named)(data));
