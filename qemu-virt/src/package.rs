//! `cargo xtask package`: Debian packages and tarballs into `target/package`.
//!
//! cargo-deb makes the packages by `[package.metadata.deb]` of `host-loader/Cargo.toml`. It takes
//! what was built from where cargo would have left it, so that is laid out here: the static
//! program, man pages and completions.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Architecture, Object as _};

use crate::dist::{self, Dist};
use crate::run::{self, say};
use crate::{e2e, man, material, setup};

/// A kind of machine: as Debian calls it, and as Rust does.
type Machine = (&'static str, &'static str);

/// Boards.
const ARM64: Machine = ("arm64", "aarch64-unknown-linux-gnu");
/// Machines on which dumps are read.
const AMD64: Machine = ("amd64", "x86_64-unknown-linux-gnu");

/// What a package must have, besides a man page for each command.
const FILES: [&str; 11] = [
    "/etc/kdraw.conf",
    "/usr/bin/kdraw",
    "/usr/lib/systemd/system/kdraw-extract.service",
    "/usr/lib/systemd/system/kdraw.service",
    "/usr/lib/udev/rules.d/90-kdraw.rules",
    "/usr/share/bash-completion/completions/kdraw",
    "/usr/share/doc/kdraw/copyright",
    "/usr/share/fish/vendor_completions.d/kdraw.fish",
    "/usr/share/man/man1/kdraw-save.1.gz",
    "/usr/share/man/man1/kdraw.1.gz",
    "/usr/share/zsh/vendor-completions/_kdraw",
];

/// Options of `cargo xtask package`.
#[derive(clap::Args)]
pub struct Args {
    /// Use the programs in this folder (as `cargo xtask dist` leaves them) and build nothing.
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<()> {
    if args.dist.is_none() {
        setup::ensure_build()?;
    }
    let dist = e2e::programs(args.dist.as_deref())?;
    for (machine, program) in machines(&dist) {
        let stage = stage(machine, program)?;
        let shipper = dist::shipper(&dist, machine == ARM64)?;
        put_program(machine, &shipper, &stage.join("kdraw-ship"))?;
        for file in [
            deb(machine, "kdraw")?,
            deb(machine, "kdraw-ship")?,
            tarball(machine, &stage)?,
        ] {
            let length = std::fs::metadata(&file)?.len();
            say(format!("{length:>9} bytes  {}", file.display()));
        }
    }
    Ok(())
}

/// Returns what packages are made for, and their programs: boards, and this machine.
fn machines(dist: &Dist) -> Vec<(Machine, &Path)> {
    let mut machines = vec![(ARM64, &*dist.kdraw_aarch64)];
    if std::env::consts::ARCH == "x86_64" {
        machines.push((AMD64, &dist.kdraw));
    }
    machines
}

/// Makes the package for boards.
///
/// # Errors
///
/// When it cannot be made.
pub fn arm64(dist: &Dist) -> Result<PathBuf> {
    stage(ARM64, &dist.kdraw_aarch64)?;
    deb(ARM64, "kdraw")
}

fn folder() -> PathBuf {
    run::target_dir().join("package")
}

/// Lays out what cargo-deb packs, where it looks for it.
fn stage(machine: Machine, program: &Path) -> Result<PathBuf> {
    let stage = folder().join("stage").join(machine.1).join("release");
    run::remove_dir(&stage)?;
    run::create_dir(&stage)?;
    let copy = |from: &Path, to: &Path| {
        run::quiet(Command::new("cp").arg("-r").args([from, to])).context("cannot copy")
    };
    put_program(machine, program, &stage.join("kdraw"))?;
    let manual = man::write()?;
    for part in ["man1", "completions"] {
        copy(&manual.join(part), &stage.join(part))?;
    }
    // Without a time in it, the same package comes of the same files.
    let pages = run::entries(&stage.join("man1"))?;
    run::quiet(Command::new("gzip").arg("-9n").args(pages))?;
    Ok(stage)
}

/// Copies a program without its symbols.
fn put_program(machine: Machine, from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    let is_native = machine.1.starts_with(std::env::consts::ARCH);
    let strip = match is_native {
        true => "strip",
        // As .cargo/config.toml's linker.
        false => "aarch64-linux-gnu-strip",
    };
    run::quiet(Command::new(strip).arg(to))
}

/// Makes the Debian package `name` of what is laid out.
fn deb(machine: Machine, name: &str) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let deb = folder().join(format!("{name}_{version}_{}.deb", machine.0));
    run::quiet(
        Command::new(material::cargo_tool("cargo-deb", "dev")?)
            .args(["--no-build", "--target", machine.1, "--output"])
            .arg(&deb)
            .args(["--deb-revision", "", "--no-strip", "--package", name])
            .current_dir(run::workspace())
            .env("CARGO_TARGET_DIR", folder().join("stage")),
    )?;
    Ok(deb)
}

/// Makes a tarball of all that is laid out, for systems without dpkg.
fn tarball(machine: Machine, stage: &Path) -> Result<PathBuf> {
    let name = format!("kdraw-{}-{}", env!("CARGO_PKG_VERSION"), machine.0);
    let tarball = folder().join(format!("{name}.tar.gz"));
    let loader = run::workspace().join("host-loader");
    run::quiet(
        Command::new("tar")
            .args([
                "--create",
                "--gzip",
                "--owner=0",
                "--group=0",
                "--sort=name",
            ])
            .arg(format!("--transform=s,^,{name}/,"))
            .arg("--file")
            .arg(&tarball)
            .arg("-C")
            .arg(stage)
            .args(
                ["kdraw", "kdraw-ship", "man1", "completions"]
                    .iter()
                    .filter(|name| stage.join(name).exists()),
            )
            .arg("-C")
            .arg(loader)
            .args(["kdraw.conf", "packaging"])
            .arg("-C")
            .arg(run::workspace())
            .args(["LICENSE-APACHE", "LICENSE-MIT", "README.md", "CHANGELOG.md"]),
    )?;
    Ok(tarball)
}

/// Makes everything and checks it; returns a line about it.
///
/// # Errors
///
/// When something cannot be made, or is not as it should be.
pub fn check(dist: &Dist) -> Result<String> {
    let mut said = Vec::new();
    for (machine, program) in machines(dist) {
        let stage = stage(machine, program)?;
        let (deb, tarball) = (deb(machine, "kdraw")?, tarball(machine, &stage)?);
        check_deb(machine, &deb).with_context(|| deb.display().to_string())?;
        check_tarball(&tarball).with_context(|| tarball.display().to_string())?;
        for file in [deb, tarball] {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            said.push(format!("{name} {} KiB", file.metadata()?.len() >> 10));
        }
    }
    Ok(said.join(", "))
}

/// Checks what a package has, for root to own; which of it is configuration; what its scripts do.
fn check_deb(machine: Machine, deb: &Path) -> Result<()> {
    let told = |words: &[&str]| {
        run::output(
            Command::new("dpkg-deb")
                .arg(words[0])
                .arg(deb)
                .args(&words[1..]),
        )
    };
    let fields = told(&["-f", "Package", "Version", "Architecture", "Depends"])?;
    let wanted = format!(
        "Package: kdraw\nVersion: {}\nArchitecture: {}\nDepends: init-system-helpers\n",
        env!("CARGO_PKG_VERSION"),
        machine.0
    );
    ensure!(fields == wanted, "its control file has {fields:?}");
    let listed = told(&["-c"])?;
    let mut files = Vec::new();
    for line in listed.lines() {
        let row: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, .., name] = row.as_slice() else {
            bail!("dpkg-deb listed {line:?}");
        };
        let wanted = match () {
            () if name.ends_with('/') => "drwxr-xr-x",
            () if name.starts_with("./usr/bin/") => "-rwxr-xr-x",
            () => "-rw-r--r--",
        };
        ensure!(
            *mode == wanted && ["0/0", "root/root"].contains(owner),
            "{name} is {mode} of {owner}"
        );
        files.push(name.trim_start_matches('.'));
    }
    for file in FILES {
        ensure!(files.contains(&file), "it lacks {file}");
    }
    for page in run::entries(&folder().join("stage").join(machine.1).join("release/man1"))? {
        let page = page.file_name().unwrap_or_default().to_string_lossy();
        let page = format!("/usr/share/man/man1/{page}");
        ensure!(files.contains(&&*page), "it lacks {page}");
    }
    let conffiles = told(&["-I", "conffiles"])?;
    ensure!(
        conffiles.trim() == "/etc/kdraw.conf",
        "conffiles are {conffiles:?}"
    );
    for script in ["postinst", "prerm", "postrm"] {
        let text = told(&["-I", script])?;
        for unit in ["kdraw.service", "kdraw-extract.service"] {
            ensure!(text.contains(unit), "{script} does not know {unit}");
        }
    }
    let unpacked = folder().join("unpacked");
    run::remove_dir(&unpacked)?;
    run::quiet(Command::new("dpkg-deb").arg("-x").args([deb, &unpacked]))?;
    let program = std::fs::read(unpacked.join("usr/bin/kdraw"))?;
    run::remove_dir(&unpacked)?;
    let program = object::File::parse(&*program).context("kdraw is no ELF file")?;
    let architecture = match machine {
        ARM64 => Architecture::Aarch64,
        _ => Architecture::X86_64,
    };
    ensure!(
        program.architecture() == architecture,
        "kdraw is for {:?}",
        program.architecture()
    );
    ensure!(
        program.section_by_name(".interp").is_none(),
        "kdraw is not static"
    );
    Ok(())
}

/// Checks that a tarball has the program, and what runs it at boot.
fn check_tarball(tarball: &Path) -> Result<()> {
    let listed = run::output(Command::new("tar").arg("tf").arg(tarball))?;
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|name| Some(name.split_once('/')?.1))
        .collect();
    for name in [
        "kdraw",
        "kdraw.conf",
        "man1/kdraw.1.gz",
        "completions/kdraw.bash",
        "packaging/90-kdraw.rules",
        "packaging/kdraw-extract.service",
        "packaging/kdraw.init",
        "packaging/kdraw.openrc",
        "packaging/kdraw.service",
        "LICENSE-MIT",
    ] {
        ensure!(names.contains(&name), "it lacks {name}");
    }
    Ok(())
}
