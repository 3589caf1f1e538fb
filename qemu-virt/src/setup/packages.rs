//! The Debian packages that the host needs, installed with apt-get.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{self, say};

/// A reason for needing packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Building kdraw and running guests.
    Base,
    /// Opening dumps with foreign tools, and building crash.
    Tools,
}

/// A needed package, known to be there by a file of it: a program in `PATH`, or an absolute path.
///
/// Looking for the file instead of asking dpkg is quick and accepts a tool that came another way.
type Need = (&'static str, &'static str);

const BASE: &[Need] = &[
    ("gcc", "cc"),
    ("libc6-dev", "/usr/include/stdio.h"),
    ("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc"),
    ("libc6-dev-arm64-cross", "/usr/aarch64-linux-gnu/lib/libc.a"),
    ("qemu-system-arm", "qemu-system-aarch64"),
    ("device-tree-compiler", "dtc"),
    ("cpio", "cpio"),
    ("gzip", "gzip"),
    ("xz-utils", "xz"),
    ("zstd", "zstd"),
    ("fdisk", "sfdisk"),
    ("e2fsprogs", "mke2fs"),
    // What the kernel module is built with, besides the compilers.
    ("make", "make"),
];

const TOOLS: &[Need] = &[
    ("gdb-multiarch", "gdb-multiarch"),
    ("qemu-user-static", "qemu-aarch64-static"),
    ("python3", "python3"),
    ("python3-venv", "/usr/share/doc/python3-venv"),
    // What crash and the gdb inside it are built with.
    ("dpkg-dev", "dpkg-source"),
    ("g++", "c++"),
    ("patch", "patch"),
    ("wget", "wget"),
    ("bison", "bison"),
    ("flex", "flex"),
    ("m4", "m4"),
    ("texinfo", "makeinfo"),
    ("libncurses-dev", "/usr/include/ncurses.h"),
    ("zlib1g-dev", "/usr/include/zlib.h"),
    ("libgmp-dev", "/usr/share/doc/libgmp-dev"),
    ("libmpfr-dev", "/usr/include/mpfr.h"),
    // What makedumpfile is built with.
    ("libdw-dev", "/usr/include/dwarf.h"),
    ("libelf-dev", "/usr/include/libelf.h"),
    ("liblzo2-dev", "/usr/include/lzo/lzo1x.h"),
    ("libzstd-dev", "/usr/include/zstd.h"),
    ("libbz2-dev", "/usr/include/bzlib.h"),
    ("liblzma-dev", "/usr/include/lzma.h"),
    // What instructions of programs of this machine are counted with.
    ("valgrind", "valgrind"),
];

/// Installs those packages of a group that are missing.
///
/// # Errors
///
/// When a package is missing and cannot be installed; the message has the command to type.
pub fn ensure(group: Group) -> Result<()> {
    let needs = match group {
        Group::Base => BASE,
        Group::Tools => TOOLS,
    };
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", missing.join(" "));
    if run::find_program("apt-get").is_none() {
        bail!(
            "this machine lacks {} and has no apt-get; install what holds them in another way \
             (the names are Debian's)",
            missing.join(", ")
        );
    }
    let root = run::output(Command::new("id").arg("-u"))?.trim() == "0";
    if !root && run::find_program("sudo").is_none() {
        bail!("packages are missing and there is no sudo; as root, type: {by_hand}");
    }
    let apt_get = |args: &[&str]| {
        let mut words = if root { vec![] } else { vec!["sudo"] };
        words.extend([
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-y",
        ]);
        words.extend(args);
        run::command(words)
    };
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(&missing);
    say(format!("installing Debian packages: {}", missing.join(" ")));
    if run::quiet(&mut apt_get(&install)).is_err() {
        say("updating the host's package index");
        run::quiet(&mut apt_get(&["update"]))
            .and_then(|()| run::quiet(&mut apt_get(&install)))
            .with_context(|| format!("packages are missing; as root, type: {by_hand}"))?;
    }
    let still = self::missing(needs);
    if !still.is_empty() {
        bail!(
            "apt-get installed {} but their files are not there",
            still.join(", ")
        );
    }
    Ok(())
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    needs
        .iter()
        .filter(|(_, file)| {
            if file.starts_with('/') {
                !Path::new(file).exists()
            } else {
                run::find_program(file).is_none()
            }
        })
        .map(|(package, _)| *package)
        .collect()
}
