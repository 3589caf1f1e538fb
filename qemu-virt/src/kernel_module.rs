//! Our kernel module (`guest/panics`), built for a distribution's kernel as its users build theirs:
//! with its header packages and the build programs that go with them (Linux,
//! Documentation/kbuild/modules.rst).
//!
//! The compiler is this machine's, not the one of the kernel. The build programs and pahole run
//! with Debian's newest stable C library, which this machine's own may be older than. The module
//! gets BTF on top of the kernel's, as the distribution's modules have; it is not signed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::material::{self, Suite};
use crate::run::{self, say};
use crate::setup::apt::Apt;

/// The module's name.
pub const NAME: &str = "kdraw_panics";

/// Where its source lies in the workspace.
const SOURCE: &str = "qemu-virt/guest/panics";
/// The suite whose C library and pahole are used for every kernel.
const PROGRAMS: Suite = Suite::Trixie;
const CROSS: &str = "aarch64-linux-gnu-";

/// What the kernel was configured for and this machine's compiler or the build cannot do: the
/// compiler's `-fmin-function-alignment` (GCC 14), and BTF, which needs the kernel's vmlinux.
const WITHOUT: [&str; 2] = [
    "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=",
    "CONFIG_DEBUG_INFO_BTF_MODULES=",
];

/// The first bytes of a kernel's BTF: magic, version 1, flags 0, header of 24 bytes
/// (Documentation/bpf/btf.rst, `struct btf_header`).
const BTF_HEADER: [u8; 8] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
/// Less is a module's: the kernel's own types take megabytes.
const FEWEST_BTF: usize = 1 << 20;

/// A built module.
pub struct Module {
    /// With debug information, for those who read a dump.
    pub debug: PathBuf,
    /// Without, as it is loaded.
    pub stripped: PathBuf,
}

/// Builds the module for a suite's kernel.
///
/// # Errors
///
/// When the headers cannot be downloaded or the module does not build.
pub fn build(suite: Suite) -> Result<Module> {
    let root = headers(suite)?;
    let kernel = material::kernel(suite)?;
    let _lock = material::lock()?;
    let folder = run::target_dir().join("panics").join(&kernel.release);
    run::create_dir(&folder)?;
    for name in ["Kbuild", &format!("{NAME}.c")] {
        let (from, to) = (run::workspace().join(SOURCE).join(name), folder.join(name));
        // A file that is as it was keeps its time, so that `make` has nothing to do.
        if std::fs::read(&from)? != std::fs::read(&to).unwrap_or_default() {
            std::fs::copy(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    run::quiet(
        Command::new("make")
            .arg("-C")
            .arg(root.join(format!("usr/src/linux-headers-{}", kernel.release)))
            .arg(format!("M={}", folder.display()))
            .args(["ARCH=arm64", &format!("CROSS_COMPILE={CROSS}")])
            .arg(format!("CC={CROSS}gcc"))
            .args(WITHOUT)
            .arg("modules"),
    )
    .with_context(|| format!("the module {NAME} does not build for {}", kernel.release))?;
    let (debug, stripped) = (folder.join("debug.ko"), folder.join("stripped.ko"));
    std::fs::copy(folder.join(format!("{NAME}.ko")), &debug)?;
    let types = folder.join("vmlinux.btf");
    std::fs::write(&types, kernel_types(&kernel.image)?)?;
    run::quiet(
        Command::new(root.join("pahole"))
            .args(["-J", "--btf_gen_floats", "--btf_base"])
            .args([&types, &debug])
            .env("LLVM_OBJCOPY", format!("{CROSS}objcopy")),
    )?;
    run::quiet(
        Command::new(format!("{CROSS}strip"))
            .args(["--strip-debug", "-o"])
            .args([&stripped, &debug]),
    )?;
    Ok(Module { debug, stripped })
}

/// Returns a folder with the headers of a suite's kernel and the programs that a build needs.
fn headers(suite: Suite) -> Result<PathBuf> {
    let release = material::kernel(suite)?.release;
    let version = material::kernel_version(suite)?;
    let dir = material::cache_dir()
        .join("headers")
        .join(format!("{}-{version}", suite.name()));
    if dir.exists() {
        return Ok(dir);
    }
    let _lock = material::lock()?;
    if dir.exists() {
        return Ok(dir);
    }
    let (target, host) = (Apt::new(suite.name())?, Apt::of_host(suite.name())?);
    let versioned = |apt: &Apt, name: &str| {
        let mut package = apt.require(name)?;
        package.version.clone_from(&version);
        anyhow::Ok(package)
    };
    let own = versioned(&target, &format!("linux-headers-{release}"))?;
    let names = |prefix: &str| -> Result<String> {
        let mut words = own.depends.split([',', ' ']);
        let name = words.find(|word| word.starts_with(prefix));
        let name = name.with_context(|| format!("{} needs no {prefix}", own.name))?;
        Ok(name.to_owned())
    };
    let common = versioned(&target, &names("linux-headers-")?)?;
    let programs = versioned(&host, &names("linux-kbuild-")?)?;
    let kbuild = format!("usr/lib/{}", programs.name);
    run::fill_dir(&dir, |root| {
        target.unpack(&[own, common], root)?;
        host.unpack(&[programs], root)?;
        material::unpack_with_libraries(&Apt::of_host(PROGRAMS.name())?, "pahole", root)?;
        material::write_starter(root, "pahole", "\"$root/usr/bin/pahole\"")?;
        for (program, real) in [
            ("scripts/basic/fixdep", "scripts/basic/fixdep.real"),
            // What Debian's modpost starts for a target of this kind, as its name says.
            ("scripts/mod/modpost", "scripts/mod/modpost.real-lsb-64"),
        ] {
            let program = format!("{kbuild}/{program}");
            let real = format!("{kbuild}/{real}");
            if !root.join(&real).exists() {
                std::fs::rename(root.join(&program), root.join(&real))?;
            }
            material::write_starter(root, &program, &format!("\"$root/{real}\""))?;
        }
        // The packages' Makefile names the folder in which they would be installed.
        let makefile = root.join(format!("usr/src/linux-headers-{release}/Makefile"));
        let text = std::fs::read_to_string(&makefile)?;
        std::fs::write(&makefile, text.replace("/usr/src/", "../"))?;
        say(format!("headers of {release} are unpacked"));
        Ok(())
    })?;
    Ok(dir)
}

/// Finds a kernel's BTF in its image.
fn kernel_types(image: &Path) -> Result<Vec<u8>> {
    let image = std::fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let starts = image.windows(BTF_HEADER.len()).enumerate();
    let starts = starts.filter(|(_, bytes)| *bytes == BTF_HEADER);
    for (start, _) in starts {
        let field = |number: usize| {
            let at = start + BTF_HEADER.len() + 4 * number;
            let bytes = image.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
        };
        // Offset and length of the types, then of the strings; the offsets count from the header.
        let (Some(types), Some(types_len), Some(strings), Some(strings_len)) =
            (field(0), field(1), field(2), field(3))
        else {
            break;
        };
        let end = (types + types_len).max(strings + strings_len) + 24;
        if end >= FEWEST_BTF
            && let Some(found) = image.get(start..start + end)
        {
            return Ok(found.to_vec());
        }
    }
    bail!("the kernel's image holds no BTF")
}
