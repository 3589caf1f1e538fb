//! What the scenarios need from Debian and PyPI: guest kernels, busybox, and foreign readers.
//!
//! Everything is downloaded on first use, checked by apt against Debian's signatures, and kept in
//! [`cache_dir`]:
//! ```text
//! apt/SUITE/            private apt roots (see setup::apt)
//! kernels/SUITE/        a guest kernel: Image, modules, and `version`
//! debug/SUITE-VERSION/  vmlinux with debug information
//! headers/SUITE-VERSION/  what a module of that kernel is built with (crate::kernel_module)
//! packages/SUITE/NAME/  an unpacked arm64 package
//! drgn/                 a Python virtual environment with drgn
//! crash/                crash for this machine that reads arm64 dumps
//! crash-arm64/          Debian's own arm64 crash, with the libraries it needs
//! makedumpfile-arm64/   Debian's newest arm64 makedumpfile, likewise
//! makedumpfile/         makedumpfile for this machine that reads arm64 dumps
//! system/trixie/        a Debian system with systemd, unpacked
//! cargo-deb/            makes Debian packages; cargo-deny/ likewise looks at licences
//! s3s-fs/               an S3-compatible store for this machine
//! servers/              SSH, FTP and WebDAV servers for this machine, in a root folder of their own
//! qemu/                 Debian's newest QEMU for this machine, where its own is older
//! ```
//! A folder appears under its final name only when it is complete. A lock lets several xtasks run
//! at once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::run::{self, say};
use crate::setup::apt::{self, Apt, Package};

/// "ARM\x64", the magic number at offset 56 of an arm64 Image (Linux, booting.rst).
const IMAGE_MAGIC: (usize, &[u8]) = (56, b"ARM\x64");

/// A Debian suite that guest material comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Debian 12, kernel 6.1.
    Bookworm,
    /// Debian 13, kernel 6.12.
    Trixie,
    /// Debian unstable, kernel 7.x.
    Sid,
}

impl Suite {
    /// Returns the suite's name in the archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// A guest kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The uncompressed arm64 Image, as QEMU's `-kernel` takes it.
    pub image: PathBuf,
    /// The folder `…/lib/modules/<release>`.
    pub modules: PathBuf,
    /// What `uname -r` prints in the guest.
    pub release: String,
}

impl Kernel {
    /// Returns the folder of the device trees that the kernel brings, by SoC vendor.
    pub fn device_trees(&self) -> PathBuf {
        let name = format!("usr/lib/linux-image-{}", self.release);
        self.image.with_file_name(name)
    }
}

/// Returns the kernel of a suite: the newest one of the day when it was first asked for.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded.
pub fn kernel(suite: Suite) -> Result<Kernel> {
    let dir = kernel_dir(suite);
    if !dir.exists() {
        let _lock = lock()?;
        if !dir.exists() {
            fetch_kernel(suite, &dir)?;
        }
    }
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|folder| run::entries(&dir.join(folder)).ok()?.into_iter().next())
        .with_context(|| format!("{} has no modules; remove the folder", dir.display()))?;
    let release = modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Kernel {
        image: dir.join("Image"),
        modules,
        release,
    })
}

/// Returns the Debian version of the kernel that [`kernel`] returns.
///
/// # Errors
///
/// When it was not written down.
pub fn kernel_version(suite: Suite) -> Result<String> {
    std::fs::read_to_string(kernel_dir(suite).join("version"))
        .context("the cached kernel lacks its version")
}

/// Replaces a cached kernel by the suite's newest one, if that is another.
///
/// # Errors
///
/// When the index or the kernel cannot be downloaded.
pub fn update_kernel(suite: Suite) -> Result<()> {
    let dir = kernel_dir(suite);
    let apt = Apt::new(suite.name())?;
    apt.update()?;
    let newest = apt.require("linux-image-arm64")?.version;
    if std::fs::read_to_string(dir.join("version")).is_ok_and(|cached| cached == newest) {
        return Ok(());
    }
    let _lock = lock()?;
    fetch_kernel(suite, &dir)
}

/// Returns a static arm64 busybox.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded.
pub fn busybox() -> Result<PathBuf> {
    let root = package(Suite::Bookworm, "busybox-static")?;
    let file = root.join("bin/busybox");
    ensure!(
        file.exists(),
        "{} does not exist; remove {}",
        file.display(),
        root.display()
    );
    Ok(file)
}

/// Returns the vmlinux with debug information of exactly the kernel that [`kernel`] returns.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded, for one when the archive has moved on to a
/// newer kernel than the cached one.
pub fn debug_kernel(suite: Suite) -> Result<PathBuf> {
    let release = kernel(suite)?.release;
    let version = kernel_version(suite)?;
    let dir = cache_dir()
        .join("debug")
        .join(format!("{}-{version}", suite.name()));
    let vmlinux = dir.join("vmlinux");
    if vmlinux.exists() {
        return Ok(vmlinux);
    }
    let _lock = lock()?;
    if !vmlinux.exists() {
        let apt = Apt::new(suite.name())?;
        let gone = || {
            format!(
                "no debug information for the cached kernel {release} ({version}); if the archive \
                 has a newer kernel now, `cargo xtask setup --update` fetches that one"
            )
        };
        let mut package = apt
            .require(&format!("linux-image-{release}-dbg"))
            .with_context(gone)?;
        package.version.clone_from(&version);
        run::fill_dir(&dir, |dir| {
            let file = apt.download(&package, dir).with_context(gone)?;
            unpack_vmlinux(&file, &release, &dir.join("vmlinux"))?;
            std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
        })?;
    }
    Ok(vmlinux)
}

/// Returns the root of an unpacked arm64 package, without its dependencies.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded.
pub fn package(suite: Suite, name: &str) -> Result<PathBuf> {
    let root = cache_dir().join("packages").join(suite.name()).join(name);
    if root.exists() {
        return Ok(root);
    }
    let _lock = lock()?;
    if !root.exists() {
        let apt = Apt::new(suite.name())?;
        let package = apt.require(name)?;
        run::fill_dir(&root, |part| apt.unpack(&[package], part))?;
    }
    Ok(root)
}

/// Returns the Python interpreter of a virtual environment that has drgn.
///
/// # Errors
///
/// When it is not in the cache and PyPI cannot be reached or has no drgn for this Python.
pub fn drgn_python() -> Result<PathBuf> {
    let dir = cache_dir().join("drgn");
    let python = dir.join("bin/python3");
    let works = || run::succeeds(Command::new(&python).args(["-c", "import drgn"]));
    if works() {
        return Ok(python);
    }
    let _lock = lock()?;
    if !works() {
        say("installing drgn from PyPI into a virtual environment");
        // Built in place: the scripts of a virtual environment name its path.
        run::remove_dir(&dir)?;
        run::quiet(Command::new("python3").args(["-m", "venv"]).arg(&dir)).context(
            "Python cannot create a virtual environment; `cargo xtask setup --tools` installs \
             python3-venv",
        )?;
        run::quiet(Command::new(&python).args(["-m", "pip", "install", "--quiet", "drgn"]))
            .context("drgn cannot be installed from PyPI")?;
        ensure!(
            works(),
            "drgn was installed into {} but cannot be imported",
            dir.display()
        );
    }
    Ok(python)
}

/// Returns a crash built for this machine that reads arm64 dumps, from Debian's source package.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded or built.
pub fn crash_native() -> Result<PathBuf> {
    let dir = cache_dir().join("crash");
    let program = dir.join("crash");
    if program.exists() {
        return Ok(program);
    }
    let _lock = lock()?;
    if !program.exists() {
        run::fill_dir(&dir, |part| {
            let build = part.join("build");
            run::create_dir(&build)?;
            let source = build.join("source");
            Apt::new(Suite::Sid.name())?.source("crash", &source)?;
            say("building crash for arm64 dumps (some minutes)");
            let jobs = std::thread::available_parallelism().map_or(1, usize::from);
            run::quiet(
                Command::new("make")
                    .args(["target=ARM64", &format!("-j{jobs}")])
                    .current_dir(&source),
            )
            .context("crash does not build; `cargo xtask setup --tools` installs what it needs")?;
            run::quiet(Command::new("strip").arg(source.join("crash")))
                .context("the build of crash made no program")?;
            std::fs::rename(source.join("crash"), part.join("crash"))
                .context("the build of crash made no program")?;
            run::remove_dir(&build)
        })?;
    }
    Ok(program)
}

/// Returns the root of a folder with Debian's arm64 crash and its libraries, for qemu-user.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded.
pub fn crash_arm64() -> Result<PathBuf> {
    newest_with_libraries("crash")
}

/// Returns the root of a folder with Debian's newest arm64 makedumpfile and its libraries.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded.
pub fn makedumpfile_arm64() -> Result<PathBuf> {
    newest_with_libraries("makedumpfile")
}

/// Returns a makedumpfile built for this machine that reads arm64 dumps, from Debian's source
/// package.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded or built.
pub fn makedumpfile_native() -> Result<PathBuf> {
    let dir = cache_dir().join("makedumpfile");
    let program = dir.join("makedumpfile");
    if program.exists() {
        return Ok(program);
    }
    let _lock = lock()?;
    if !program.exists() {
        run::fill_dir(&dir, |part| {
            let source = part.join("build");
            Apt::new(Suite::Sid.name())?.source("makedumpfile", &source)?;
            say("building makedumpfile for arm64 dumps");
            // The makefile undefines __x86_64__, by which the C library's headers go too: here
            // makedumpfile alone does not see it.
            let mut files = Vec::new();
            for folder in [source.clone(), source.join("arch")] {
                files.extend(run::entries(&folder)?.into_iter().filter(|file| {
                    file.extension()
                        .is_some_and(|extension| extension == "c" || extension == "h")
                }));
            }
            run::quiet(
                Command::new("sed")
                    .args(["-i", "s/__x86_64__/__built_for_x86_64__/g"])
                    .args(files),
            )?;
            let make = ["TARGET=aarch64", "CROSS=", "LINKTYPE=dynamic", "USELZO=on"];
            run::quiet(
                Command::new("make")
                    .args(make)
                    .args(["USEZSTD=on", "makedumpfile"])
                    .current_dir(&source),
            )
            .context("makedumpfile does not build; `cargo xtask setup --tools` may help")?;
            std::fs::rename(source.join("makedumpfile"), part.join("makedumpfile"))
                .context("the build of makedumpfile made no program")?;
            run::remove_dir(&source)
        })?;
    }
    Ok(program)
}

/// Returns the root of a folder with sid's arm64 build of a package and its libraries.
fn newest_with_libraries(name: &str) -> Result<PathBuf> {
    let root = cache_dir().join(format!("{name}-arm64"));
    if root.exists() {
        return Ok(root);
    }
    let _lock = lock()?;
    if !root.exists() {
        let apt = Apt::new(Suite::Sid.name())?;
        run::fill_dir(&root, |part| unpack_with_libraries(&apt, name, part))?;
    }
    Ok(root)
}

/// The program of QEMU that runs arm64 machines.
pub const QEMU: &str = "qemu-system-aarch64";

/// Returns a QEMU with every device and machine that scenarios use: this machine's own if it has
/// them, else Debian's newest, which runs with libraries of its own.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded, or does not run.
pub fn newest_qemu() -> Result<PathBuf> {
    let own = Path::new(QEMU);
    if is_new(own) {
        return Ok(own.to_owned());
    }
    let root = cache_dir().join("qemu");
    let program = root.join(QEMU);
    if program.exists() {
        return Ok(program);
    }
    let _lock = lock()?;
    if !program.exists() {
        let apt = Apt::of_host(Suite::Sid.name())?;
        run::fill_dir(&root, |part| {
            unpack_with_libraries(&apt, "qemu-system-arm", part)?;
            let script = write_starter(
                part,
                QEMU,
                &format!("\"$root/usr/bin/{QEMU}\" -L \"$root/usr/share/qemu\""),
            )?;
            ensure!(
                is_new(&script),
                "Debian's newest QEMU does not run on this machine, or has no eMMC; install \
                 QEMU 11 or later in another way"
            );
            Ok(())
        })?;
    }
    Ok(program)
}

/// Tells whether a QEMU is new enough, by what came last: eMMC as a device that can be plugged in.
/// The newest of the machines, imx8mp-evk, came before.
fn is_new(qemu: &Path) -> bool {
    // A list of all devices would load the modules of the machine's own QEMU into another.
    run::output(Command::new(qemu).args(["-device", "emmc,help"]))
        .is_ok_and(|told| told.starts_with("emmc options"))
}

/// Writes a script that runs a program with the C library and the others unpacked in `root`.
/// `name` is the script's path in there, and `command` what it starts, a shell's words with `$root`.
///
/// # Errors
///
/// When there is no C library in `root`, or the script cannot be written.
pub fn write_starter(root: &Path, name: &str, command: &str) -> Result<PathBuf> {
    let is_loader = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("ld-linux-")
    };
    let loader = run::entries(&root.join("usr/lib"))?
        .iter()
        .filter(|folder| folder.is_dir())
        .find_map(|folder| run::entries(folder).ok()?.into_iter().find(is_loader))
        .with_context(|| format!("{} holds no dynamic loader", root.display()))?;
    let loader = loader.strip_prefix(root)?;
    let libraries = loader.parent().unwrap_or(loader);
    let script = root.join(name);
    let up = "/..".repeat(name.matches('/').count());
    let text = format!(
        "#!/bin/sh\nroot=$(dirname \"$0\"){up}\nexec \"$root/{}\" --library-path \"$root/{}\" \\\n    \
         {command} \"$@\"\n",
        loader.display(),
        libraries.display()
    );
    std::fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
    run::quiet(Command::new("chmod").arg("+x").arg(&script))?;
    Ok(script)
}

/// Unpacks a package and its libraries on top of each other.
///
/// # Errors
///
/// When the suite lacks one of them, or it cannot be downloaded.
pub fn unpack_with_libraries(apt: &Apt, name: &str, root: &Path) -> Result<()> {
    apt.unpack(&with_libraries(apt, name)?, root)?;
    // A program's interpreter lies in /lib, which base-files makes a link.
    let lib = root.join("lib");
    if !lib.exists() {
        std::os::unix::fs::symlink("usr/lib", &lib).context("cannot link lib")?;
    }
    Ok(())
}

/// Finds a package and the libraries that it depends on, however indirectly.
///
/// # Errors
///
/// When the suite lacks one of them.
pub fn with_libraries(apt: &Apt, name: &str) -> Result<Vec<Package>> {
    let mut packages = vec![apt.require(name)?];
    let mut looked_at = 0;
    while let Some(new) = packages.get(looked_at..).filter(|new| !new.is_empty()) {
        let mut wanted: Vec<String> = Vec::new();
        for name in new
            .iter()
            .flat_map(|package| apt::names(&package.depends).unwrap_or_default())
        {
            let known = packages.iter().any(|package| package.name == name);
            // zlib1g is one too.
            if name.contains("lib") && !known && wanted.iter().all(|wanted| wanted != name) {
                wanted.push(name.to_owned());
            }
        }
        looked_at = packages.len();
        packages.extend(apt.require_all(&wanted)?);
    }
    Ok(packages)
}

/// Returns a subcommand of cargo's: the one in `PATH`, or one that is built into the cache, with a
/// profile: `release`, or `dev`, which builds faster.
///
/// # Errors
///
/// When it cannot be built.
pub fn cargo_tool(name: &str, profile: &str) -> Result<PathBuf> {
    if let Some(program) = run::find_program(name) {
        return Ok(program);
    }
    let root = cache_dir().join(name);
    let program = root.join("bin").join(name);
    if !program.exists() {
        let _lock = lock()?;
        say(format!("building {name} (some minutes)"));
        run::quiet(
            Command::new("cargo")
                .args(["install", "--locked", "--profile", profile, "--root"])
                .arg(&root)
                .arg(name)
                .current_dir(run::workspace())
                .env("CARGO_TARGET_DIR", root.join("target")),
        )
        .with_context(|| format!("{name} cannot be installed; `cargo install {name}` shows why"))?;
        run::remove_dir(&root.join("target"))?;
    }
    Ok(program)
}

/// What a small Debian system with systemd is made of, besides what that depends on.
const SYSTEM: [&str; 20] = [
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "dbus",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "hostname",
    "init-system-helpers",
    "kmod",
    "libc-bin",
    "mount",
    "perl-base",
    "sed",
    "systemd-sysv",
    "udev",
    "util-linux",
];

/// Returns the root folder of a Debian 13 for arm64 that boots with systemd. It is unpacked, and
/// dpkg in it knows its packages; their scripts have not run, and what those would have made of
/// accounts is there.
///
/// # Errors
///
/// When it is not in the cache and cannot be downloaded.
pub fn debian_system() -> Result<PathBuf> {
    let root = cache_dir().join("system").join(Suite::Trixie.name());
    // One of an older list of packages lacks some.
    let has = |name: &&str| root.join(format!("var/lib/dpkg/info/{name}.list")).exists();
    if SYSTEM.iter().all(has) {
        return Ok(root);
    }
    let _lock = lock()?;
    if !SYSTEM.iter().all(has) {
        let apt = Apt::new(Suite::Trixie.name())?;
        let packages = apt.with_dependencies(&SYSTEM)?;
        run::fill_dir(&root, |part| {
            apt.install(&packages, part)?;
            for name in ["passwd", "group"] {
                let from = part.join(format!("usr/share/base-passwd/{name}.master"));
                std::fs::copy(&from, part.join("etc").join(name))
                    .with_context(|| format!("cannot copy {}", from.display()))?;
            }
            // Empty: it is made at the first boot, which asks no questions then (machine-id(5)).
            std::fs::write(part.join("etc/machine-id"), "").context("cannot write machine-id")
        })?;
    }
    Ok(root)
}

/// Returns the cache folder: `KDRAW_CACHE`, or `.cache` in the workspace.
///
/// It lies outside `target`, so that `cargo clean` keeps it.
pub fn cache_dir() -> PathBuf {
    match std::env::var_os("KDRAW_CACHE") {
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| dir.into()),
        None => run::workspace().join(".cache"),
    }
}

/// Keeps other xtasks from changing the cache until the returned file is dropped.
///
/// # Errors
///
/// When the cache folder cannot be written.
pub fn lock() -> Result<File> {
    let dir = cache_dir();
    run::create_dir(&dir)?;
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        say(format!(
            "waiting for another xtask that works in {}",
            dir.display()
        ));
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

fn kernel_dir(suite: Suite) -> PathBuf {
    cache_dir().join("kernels").join(suite.name())
}

/// Downloads a suite's newest kernel into `dir`.
fn fetch_kernel(suite: Suite, dir: &Path) -> Result<()> {
    let apt = Apt::new(suite.name())?;
    let meta = apt.require("linux-image-arm64")?;
    let release = apt::names(&meta.depends)?
        .into_iter()
        .find_map(|name| name.strip_prefix("linux-image-"))
        .with_context(|| {
            format!(
                "linux-image-arm64 names no kernel in its dependencies: {}",
                meta.depends
            )
        })?;
    // From 7.0 on Debian keeps the Image and the modules in packages of their own.
    let mut packages = Vec::new();
    for part in ["image", "binary", "modules"] {
        packages.extend(apt.newest(&format!("linux-{part}-{release}"))?);
    }
    run::fill_dir(dir, |root| {
        apt.unpack(&packages, root)?;
        let image = ["usr/lib/modules/RELEASE/vmlinuz", "boot/vmlinuz-RELEASE"]
            .iter()
            .map(|name| root.join(name.replace("RELEASE", release)))
            .find(|file| file.exists())
            .with_context(|| format!("the packages of {release} hold no vmlinuz"))?;
        plain_image(&image, &root.join("Image"))?;
        std::fs::write(root.join("version"), &meta.version)
            .context("cannot write the kernel's version")
    })
}

/// Moves a kernel image to `to`, decompressed if it was gzip.
fn plain_image(from: &Path, to: &Path) -> Result<()> {
    let read = || std::fs::read(from).with_context(|| format!("cannot read {}", from.display()));
    if read()?.starts_with(&[0x1f, 0x8b]) {
        let plain = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        let mut unzip = Command::new("gzip");
        let status = unzip
            .arg("-dc")
            .arg(from)
            .stdout(Stdio::from(plain))
            .status()?;
        ensure!(
            status.success(),
            "`{}` failed ({status})",
            run::shown(&unzip)
        );
    } else {
        std::fs::rename(from, to)
            .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    let image = std::fs::read(to).with_context(|| format!("cannot read {}", to.display()))?;
    let (offset, magic) = IMAGE_MAGIC;
    if image
        .get(offset..)
        .is_none_or(|rest| !rest.starts_with(magic))
    {
        bail!(
            "the kernel {} is no arm64 Image (no magic at byte {offset})",
            to.display()
        );
    }
    Ok(())
}

/// Takes only the kernel out of a -dbg package: its modules are several times larger.
fn unpack_vmlinux(deb: &Path, release: &str, to: &Path) -> Result<()> {
    say("unpacking vmlinux");
    // From 7.0 on the first name is a link to the second one, which unpacks to nothing.
    for name in [
        format!("./usr/lib/debug/boot/vmlinux-{release}"),
        format!("./usr/lib/debug/lib/modules/{release}/vmlinux"),
    ] {
        unpack_file(deb, &name, to)?;
        if std::fs::metadata(to).is_ok_and(|file| file.len() != 0) {
            return Ok(());
        }
    }
    bail!("{} has no vmlinux where it was looked for", deb.display())
}

/// Unpacks a single file of a package; leaves an empty one when the package does not have it.
fn unpack_file(deb: &Path, name: &str, to: &Path) -> Result<()> {
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        // It complains when tar stops reading early.
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let pipe = reader.stdout.take().context("dpkg-deb has no output")?;
    let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    // The command is dropped at once: it holds the pipe open, on which dpkg-deb would wait.
    Command::new("tar")
        .args(["-xO", "--occurrence=1", name])
        .stdin(Stdio::from(pipe))
        .stdout(Stdio::from(file))
        .stderr(Stdio::null())
        .status()
        .context("cannot start tar")?;
    let _ = reader.wait();
    Ok(())
}
