//! Puts the payload into the tool: the files that KDRAW_PAYLOAD (the Image) and KDRAW_PAYLOAD_ELF
//! (with the symbols that decode its log) name; `cargo xtask dist` sets both. Without them the
//! tool has no payload inside and says so.

use std::path::Path;
use std::{env, fs};

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    println!("cargo::rustc-check-cfg=cfg(kdraw_payload)");
    let mut embedded = true;
    for (variable, name) in [
        ("KDRAW_PAYLOAD", "capture.img"),
        ("KDRAW_PAYLOAD_ELF", "capture.elf"),
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
        let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) else {
            embedded = false;
            continue;
        };
        let path = Path::new(&path);
        println!("cargo::rerun-if-changed={}", path.display());
        let to = Path::new(&out).join(name);
        if let Err(error) = fs::copy(path, to) {
            panic!("{variable}: cannot copy {}: {error}", path.display());
        }
    }
    if embedded {
        println!("cargo::rustc-cfg=kdraw_payload");
    }
}
