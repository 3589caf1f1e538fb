//! The Rust targets of the payload and of the arm64 programs.
//!
//! rustup is asked first. Where its servers cannot be reached, the standard library is built from
//! Debian's package rust-src of exactly rustc's version and put into the sysroot, where stable
//! cargo finds it like rustup's own:
//!
//! - `cargo build -Zbuild-std` of an empty crate makes the rlibs. It is for nightly compilers;
//!   `RUSTC_BOOTSTRAP=1` makes this one accept it, for this one command only.
//! - `-Cembed-bitcode=yes`, since the payload's fat LTO needs the bitcode of `core`.
//! - `compiler-builtins-mem` gives the payload `memcpy` and the like, as rustup's build does.
//!
//! A stamp in the sysroot names the compiler, so that they are built once per rustc version.
//! `KDRAW_RUST_TARGETS` set to `rustup` or `debian` allows only that way, and replaces targets that
//! came the other way.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Package};
use crate::material;
use crate::run::{self, say};

/// A target and how its standard library is built.
struct Target {
    triple: &'static str,
    crates: &'static str,
    features: &'static str,
}

const TARGETS: [Target; 2] = [
    Target {
        triple: "aarch64-unknown-none",
        crates: "core,alloc,compiler_builtins",
        features: "compiler-builtins-mem",
    },
    Target {
        triple: "aarch64-unknown-linux-gnu",
        crates: "std,panic_abort,panic_unwind",
        features: "panic-unwind",
    },
];

/// Suites that may have rust-src of rustc's version, and of which guest material comes too.
const SUITES: [&str; 5] = [
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
];

/// The file that marks a target built here.
const STAMP: &str = "built-by-kdraw-setup";

/// Which ways of getting the targets are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Any,
    Rustup,
    Debian,
}

/// How a target is present in the sysroot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    /// Built here for this very compiler.
    Built,
    /// Built here for another compiler.
    Stale,
    /// Installed by rustup or in another way.
    Foreign,
}

/// Installs those targets that are missing or came the wrong way.
///
/// # Errors
///
/// When a target can be had neither way; the message names both reasons.
pub fn ensure() -> Result<()> {
    let way = match std::env::var("KDRAW_RUST_TARGETS").ok().as_deref() {
        None | Some("") => Way::Any,
        Some("rustup") => Way::Rustup,
        Some("debian") => Way::Debian,
        Some(other) => bail!("KDRAW_RUST_TARGETS is `{other}`; it must be `rustup` or `debian`"),
    };
    let rust = Rust::find()?;
    let done = |target: &Target| match rust.state(target) {
        State::Built => way != Way::Rustup,
        State::Foreign => way != Way::Debian,
        State::Missing | State::Stale => false,
    };
    if TARGETS.iter().all(done) {
        return Ok(());
    }
    let _lock = material::lock()?;
    for target in &TARGETS {
        // Another xtask may have done it while this one waited for the lock.
        if !done(target) {
            install(&rust, target, way)?;
        }
    }
    Ok(())
}

fn install(rust: &Rust, target: &Target, way: Way) -> Result<()> {
    rust.check_writable()?;
    // What was compiled against another `core` does not link with this one, and cargo, which goes
    // by the compiler's version, would not compile it again.
    run::remove_dir(&run::target_dir().join(target.triple))?;
    if way == Way::Debian {
        return rust.build(target);
    }
    match rust.add_by_rustup(target) {
        Err(error) if way == Way::Any => {
            say(format!("rustup cannot install {}", target.triple));
            rust.build(target).with_context(|| {
                format!(
                    "{} came neither from rustup ({error:#}) nor by building",
                    target.triple
                )
            })
        }
        done => done,
    }
}

/// The Rust toolchain of this workspace.
struct Rust {
    /// What `rustc -vV` prints.
    version: String,
    /// `<sysroot>/lib/rustlib`.
    rustlib: PathBuf,
}

impl Rust {
    fn find() -> Result<Self> {
        let rustc = |arg: &[&str]| {
            run::output(
                Command::new("rustc")
                    .args(arg)
                    .current_dir(run::workspace()),
            )
        };
        let sysroot = rustc(&["--print", "sysroot"])?;
        Ok(Self {
            version: rustc(&["-vV"])?,
            rustlib: Path::new(sysroot.trim()).join("lib/rustlib"),
        })
    }

    /// Returns the release number, as `1.95.0`.
    fn release(&self) -> Result<&str> {
        let release = self
            .version
            .lines()
            .find_map(|line| line.strip_prefix("release: "));
        release.context("`rustc -vV` prints no release")
    }

    fn state(&self, target: &Target) -> State {
        let dir = self.rustlib.join(target.triple);
        let has_core = run::entries(&dir.join("lib")).is_ok_and(|files| {
            files.iter().any(|file| {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("libcore-") && name.ends_with(".rlib")
            })
        });
        match (has_core, std::fs::read_to_string(dir.join(STAMP))) {
            (true, Ok(stamp)) if stamp == self.version => State::Built,
            (_, Ok(_)) => State::Stale,
            (true, Err(_)) => State::Foreign,
            (false, Err(_)) => State::Missing,
        }
    }

    fn check_writable(&self) -> Result<()> {
        let probe = self.rustlib.join(".kdraw-setup");
        std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)).with_context(|| {
            format!(
                "the Rust toolchain in {} cannot be written, so no target can be added to it; run \
                 `cargo xtask setup` once as the user that owns it, or install Rust for \
                 yourself with rustup",
                self.rustlib.display()
            )
        })
    }

    fn remove(&self, target: &Target) -> Result<()> {
        // rustup keeps a list of its own; a target built here is not in it.
        if self.state(target) == State::Foreign {
            say(format!(
                "removing the Rust target {} that rustup installed",
                target.triple
            ));
            run::succeeds(&mut rustup(["target", "remove", target.triple]));
        }
        run::remove_dir(&self.rustlib.join(target.triple))
    }

    fn add_by_rustup(&self, target: &Target) -> Result<()> {
        if self.state(target) != State::Missing {
            self.remove(target)?;
        }
        say(format!(
            "installing the Rust target {} with rustup",
            target.triple
        ));
        run::quiet(&mut rustup(["target", "add", target.triple]))?;
        if self.state(target) == State::Missing {
            bail!(
                "rustup says that it installed {}, but {} lacks it (the files were removed behind \
                 its back, or it serves another toolchain); reinstall the toolchain",
                target.triple,
                self.rustlib.display()
            );
        }
        Ok(())
    }

    /// Builds a target's standard library and puts it into the sysroot.
    fn build(&self, target: &Target) -> Result<()> {
        let source = self.rustlib.join("src/rust");
        // A link is what an interrupted run left behind, perhaps of another release.
        let _link = if !source.is_symlink() && source.join("library/Cargo.lock").exists() {
            None
        } else {
            Some(Link::new(&self.debian_source()?, source)?)
        };
        say(format!(
            "building the standard library of {} (about a minute)",
            target.triple
        ));
        let work = material::cache_dir().join("rust-targets");
        run::remove_dir(&work)?;
        run::create_dir(&work)?;
        let write = |name: &str, text: &str| {
            std::fs::write(work.join(name), text).with_context(|| format!("cannot write {name}"))
        };
        write(
            "Cargo.toml",
            "[package]\nname = \"empty\"\nedition = \"2024\"\n\n[lib]\npath = \"lib.rs\"\n\n\
             [workspace]\n\n[profile.release]\ndebug = \"line-tables-only\"\n",
        )?;
        write("lib.rs", "#![no_std]\n")?;
        run::quiet(
            Command::new("cargo")
                .args(["build", "--release", "--target", target.triple])
                .arg(format!("-Zbuild-std={}", target.crates))
                .arg(format!("-Zbuild-std-features={}", target.features))
                .current_dir(&work)
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTFLAGS", "-Cembed-bitcode=yes")
                .env("CARGO_TARGET_DIR", work.join("target"))
                .env_remove("CARGO_ENCODED_RUSTFLAGS"),
        )
        .with_context(|| format!("the standard library of {} does not build", target.triple))?;
        run::fill_dir(&self.rustlib.join(target.triple), |dir| {
            run::create_dir(&dir.join("lib"))?;
            let deps = work.join("target").join(target.triple).join("release/deps");
            for file in run::entries(&deps)? {
                let name = file.file_name().unwrap_or_default();
                let text = name.to_string_lossy();
                if text.ends_with(".rlib") && !text.starts_with("libempty") {
                    std::fs::copy(&file, dir.join("lib").join(name))
                        .with_context(|| format!("cannot copy {}", file.display()))?;
                }
            }
            std::fs::write(dir.join(STAMP), &self.version).context("cannot write the stamp")?;
            // Only now that the new one is complete.
            self.remove(target)
        })?;
        run::remove_dir(&work)
    }

    /// Finds Debian's rust-src of exactly this compiler's release and returns its source folder.
    fn debian_source(&self) -> Result<PathBuf> {
        let release = self.release()?;
        let root = material::cache_dir().join("rust-src").join(release);
        if !root.exists() {
            let (apt, package) = find_rust_src(release).with_context(|| {
                format!(
                    "let rustup's servers be reached, set KDRAW_DEBIAN_MIRROR to a mirror that has \
                     Rust's sources of release {release}, put them at {}, or switch to a release \
                     that Debian has with `rustup override set`",
                    self.rustlib.join("src/rust").display()
                )
            })?;
            run::fill_dir(&root, |part| apt.unpack(&[package], part))?;
        }
        let source = root.join("usr/src").join(format!("rustc-{release}"));
        if !source.join("library/Cargo.lock").exists() {
            bail!(
                "Debian's rust-src has no {}/library/Cargo.lock",
                source.display()
            );
        }
        Ok(source)
    }
}

/// Finds a suite that has rust-src of a release.
fn find_rust_src(release: &str) -> Result<(Apt, Package)> {
    let mut seen = Vec::new();
    for suite in SUITES {
        let apt = Apt::new(suite)?;
        match apt.versions("rust-src") {
            Ok(versions) => {
                for package in versions {
                    if is_release(&package.version, release) {
                        return Ok((apt, package));
                    }
                    seen.push(format!("{suite} has {}", package.version));
                }
            }
            Err(error) => seen.push(format!("{suite}: {}", error.root_cause())),
        }
    }
    bail!(
        "no Debian suite has rust-src of rustc's release {release}:\n  {}",
        seen.join("\n  ")
    )
}

/// Tells whether a Debian version is of an upstream release and not of its release candidates.
fn is_release(version: &str, release: &str) -> bool {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream
        .strip_prefix(release)
        .is_some_and(|rest| rest.starts_with(['+', '-']))
}

fn rustup<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new("rustup");
    // In the workspace's folder rustup chooses the toolchain of rust-toolchain.toml.
    command.args(args).current_dir(run::workspace());
    command
}

/// A symbolic link that exists while the standard library is built.
struct Link(PathBuf);

impl Link {
    fn new(to: &Path, from: PathBuf) -> Result<Self> {
        if let Some(parent) = from.parent() {
            run::create_dir(parent)?;
        }
        if from.is_symlink() {
            let _ = std::fs::remove_file(&from);
        }
        std::os::unix::fs::symlink(to, &from)
            .with_context(|| format!("cannot link {} to {}", from.display(), to.display()))?;
        Ok(Self(from))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::is_release;

    #[test]
    fn a_debian_version_is_of_a_release_only_exactly() {
        for (version, is) in [
            ("1.95.0+dfsg1-1~bpo13+1", true),
            ("1:1.95.0-2", true),
            ("1.95.0~beta.3+dfsg1-1", false),
            ("1.95.01-1", false),
            ("1.94.0+dfsg1-1", false),
            ("1.95.0", false),
        ] {
            assert_eq!(is_release(version, "1.95.0"), is, "{version}");
        }
    }
}
