//! `cargo xtask dist`: builds the tools and the payload into `target/dist`.
//!
//! First the payload, then the tools that carry it: `KDRAW_PAYLOAD` and `KDRAW_PAYLOAD_ELF` tell
//! the tool's build script where the Image and its symbols lie.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::checks;
use crate::run::{self, say};
use crate::{image, setup};

/// The payload's target.
const PAYLOAD_TARGET: &str = "aarch64-unknown-none";
/// The target of the programs that run under an arm64 Linux, static.
const LINUX_TARGET: &str = "aarch64-unknown-linux-gnu";

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub struct Args {}

/// What `target/dist` holds.
#[derive(Clone, Debug)]
pub struct Dist {
    /// The tool for this machine: static, with the payload inside.
    pub kdraw: PathBuf,
    /// The tool for arm64: static, with the payload inside.
    pub kdraw_aarch64: PathBuf,
    /// The payload as an arm64 Image.
    pub capture_img: PathBuf,
    /// The payload with symbols.
    pub capture_elf: PathBuf,
    /// The guest's memory-filling program: static arm64.
    pub guest: PathBuf,
}

/// Runs the subcommand.
///
/// # Errors
///
/// As [`build`].
pub fn main(_args: &Args) -> Result<()> {
    setup::ensure_build()?;
    let dist = build()?;
    for file in [
        &dist.kdraw,
        &dist.kdraw_aarch64,
        &dist.capture_img,
        &dist.capture_elf,
    ] {
        let length = std::fs::metadata(file)?.len();
        say(format!("{:>9} bytes  {}", length, file.display()));
    }
    Ok(())
}

/// Builds everything in [`Dist`] and checks the payload.
///
/// # Errors
///
/// When something does not build, or the payload does not pass its checks.
pub fn build() -> Result<Dist> {
    let dir = run::target_dir().join("dist");
    run::create_dir(&dir)?;
    let capture_elf = dir.join("capture.elf");
    let capture_img = dir.join("capture.img");

    say("building the payload");
    run::quiet(&mut cargo(
        &["-p", "kdraw-capture", "--profile", "payload"],
        PAYLOAD_TARGET,
    ))?;
    let program = built(PAYLOAD_TARGET, "payload", "kdraw-capture");
    let program =
        std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    write_if_different(&capture_img, &image::flatten(&program)?)?;
    write_if_different(&capture_elf, &program)?;
    let payload = checks::payload(&capture_elf, &capture_img)?;
    say(format!(
        "payload: {} KiB image (limit {}), {} KiB of memory (limit {})",
        payload.image.div_ceil(1024),
        checks::IMAGE_LIMIT / 1024,
        payload.memory.div_ceil(1024),
        (checks::SEGMENTS_LIMIT - checks::SEGMENTS_ALLOWANCE) / 1024
    ));

    let tool = |target: &str, name: &str| -> Result<PathBuf> {
        let mut build = static_release("kdraw", target);
        build
            .env("KDRAW_PAYLOAD", &capture_img)
            .env("KDRAW_PAYLOAD_ELF", &capture_elf);
        run::quiet(&mut build)?;
        install(&built(target, "release", "kdraw"), &dir.join(name))
    };
    say("building kdraw for this machine");
    let kdraw = tool(&this_machine(), "kdraw")?;
    say("building kdraw for arm64");
    let kdraw_aarch64 = tool(LINUX_TARGET, "kdraw-aarch64")?;
    say("building the guest's program");
    run::quiet(&mut cargo(
        &["-p", "kdraw-guest", "--release"],
        LINUX_TARGET,
    ))?;
    let guest = install(
        &built(LINUX_TARGET, "release", "kdraw-guest"),
        &dir.join("guest"),
    )?;
    Ok(Dist {
        kdraw,
        kdraw_aarch64,
        capture_img,
        capture_elf,
        guest,
    })
}

/// Returns the program that ships dumps, for this machine or for `boards`, which lies beside the
/// others. It takes minutes to build, and few need it, so it is built only when it is asked for.
///
/// # Errors
///
/// When it does not build, or is not among the programs that were built elsewhere.
pub fn shipper(dist: &Dist, boards: bool) -> Result<PathBuf> {
    let (target, name) = match boards {
        true => (LINUX_TARGET.to_owned(), "kdraw-ship-aarch64"),
        false => (this_machine(), "kdraw-ship"),
    };
    let program = dist.kdraw.with_file_name(name);
    if dist.kdraw.parent() == Some(&run::target_dir().join("dist")) {
        say(format!("building {name} (some minutes)"));
        run::quiet(&mut static_release("kdraw-ship", &target))?;
        return install(&built(&target, "release", "kdraw-ship"), &program);
    }
    ensure!(program.exists(), "{} is not there", program.display());
    Ok(program)
}

/// This machine as Rust calls it.
fn this_machine() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Starts the build of a package's program of the same name, static.
fn static_release(package: &str, target: &str) -> Command {
    let mut build = cargo(&["-p", package, "--bin", package, "--release"], target);
    // For boards .cargo/config.toml has it. For this machine that would be for its tests too.
    if target != LINUX_TARGET {
        let variable = target.to_uppercase().replace('-', "_");
        let variable = format!("CARGO_TARGET_{variable}_RUSTFLAGS");
        build.env(variable, "-Ctarget-feature=+crt-static");
    }
    build
}

/// Starts a `cargo build` of this workspace.
fn cargo(args: &[&str], target: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(["build", "--quiet"])
        .args(args)
        .args(["--target", target])
        .current_dir(run::workspace());
    command
}

/// Returns where cargo puts a program.
fn built(target: &str, profile: &str, name: &str) -> PathBuf {
    run::target_dir().join(target).join(profile).join(name)
}

/// Copies a program, executable bit included.
fn install(from: &Path, to: &Path) -> Result<PathBuf> {
    // A program that runs cannot be overwritten, but it can be replaced.
    let part = to.with_extension("part");
    std::fs::copy(from, &part)
        .and_then(|_| std::fs::rename(&part, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(to.to_path_buf())
}

/// Writes a file unless it holds that already: what is built from it depends on its time.
fn write_if_different(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
