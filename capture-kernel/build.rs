//! Hands the linker scripts to the payload's link.

fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{manifest}/../linker/capture.ld");
    println!("cargo:rerun-if-changed={script}");
    for argument in [
        &format!("-T{script}"),
        "-Tdefmt.x",
        "-zmax-page-size=4096",
        "--no-rosegment",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
