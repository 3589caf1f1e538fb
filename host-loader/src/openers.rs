//! How other tools open a vmcore: crash, drgn and gdb, each with what it must be told of this
//! kernel.

use std::fmt::Write;

use kdraw_linux::layout::KernelLayout;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::debug_info::Identity;
use crate::extract::Wanted;
use crate::output::Format;

/// A tool that opens vmcores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Reader {
    /// The crash utility.
    Crash,
    /// The programmable debugger.
    Drgn,
    /// The GNU debugger; it reads ELF only.
    Gdb,
}

/// What the tools must be told of a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Openers {
    /// The kernel.
    pub kernel: Identity,
    /// What crash must be told.
    pub crash_option: Option<String>,
    /// KERNELOFFSET: how far KASLR moved the kernel.
    pub kernel_offset: u64,
}

impl Openers {
    /// Takes it from a dump's ELF notes; what they do not tell is left out.
    pub fn from_notes(notes: &[u8]) -> Self {
        let info = Vmcoreinfo::from_notes(notes);
        Self::from_info(&info.unwrap_or_else(|| Vmcoreinfo::new(&[])))
    }

    fn from_info(info: &Vmcoreinfo<'_>) -> Self {
        Self {
            kernel: Identity {
                release: info
                    .key("OSRELEASE")
                    .filter(is_plain)
                    .unwrap_or("unknown")
                    .to_owned(),
                build_id: info.build_id().map(str::to_owned),
            },
            crash_option: crash_option(info),
            kernel_offset: info.kernel_offset().unwrap_or(0),
        }
    }

    /// The words of a command that opens `vmcore`; the first is the program, unless another one is
    /// to be taken.
    pub fn command(
        &self,
        reader: Reader,
        program: Option<&str>,
        vmlinux: &str,
        vmcore: &str,
    ) -> Vec<String> {
        let mut words: Vec<String> = vec![program.unwrap_or(reader.program()).to_owned()];
        match reader {
            Reader::Crash => {
                let option = self
                    .crash_option
                    .iter()
                    .flat_map(|option| option.split(' '));
                words.extend(option.map(str::to_owned));
                words.extend([vmlinux.to_owned(), vmcore.to_owned()]);
            }
            Reader::Drgn => {
                words.extend(["-c", vmcore, "-s", vmlinux].map(str::to_owned));
            }
            Reader::Gdb => {
                let offset = self.kernel_offset;
                for step in [
                    "set architecture aarch64".to_owned(),
                    format!("symbol-file -o {offset:#x} {vmlinux}"),
                    format!("core-file {vmcore}"),
                ] {
                    words.extend(["-ex".to_owned(), step]);
                }
            }
        }
        words
    }

    /// open.txt: the commands that open a vmcore of that layout, to be pasted. Debian's place stands
    /// for where the kernel with its symbols is: that is on another machine, as a rule.
    pub fn text(&self, layout: Wanted) -> String {
        let vmcore = layout.file_name();
        let Identity { release, build_id } = &self.kernel;
        let build_id = build_id.as_deref().unwrap_or("unknown");
        let mut text = format!(
            "# How to open this dump, from a shell in this folder.\n\
             # Without debug symbols:\n\
             kdraw report {vmcore}\n\n\
             # With the kernel's debug symbols: release {release}, build-id {build_id}\n"
        );
        let _ = writeln!(
            text,
            "# Debian: apt install linux-image-{release}-dbg; Fedora: dnf debuginfo-install kernel;\n\
             # others: debuginfod-find debuginfo {build_id}, or the vmlinux of the build.\n\
             VMLINUX=/usr/lib/debug/boot/vmlinux-{release}"
        );
        let mut vmcore = vmcore;
        if layout.flattened {
            let _ = writeln!(text, "\nkdraw convert {vmcore} vmcore");
            vmcore = "vmcore";
        }
        for reader in [Reader::Crash, Reader::Drgn, Reader::Gdb] {
            let mut vmcore = vmcore;
            text.push('\n');
            if reader == Reader::Gdb && (layout.flattened || layout.format != Format::Elf) {
                let _ = writeln!(text, "kdraw convert --format elf {vmcore} vmcore.elf");
                vmcore = "vmcore.elf";
            }
            let words = self.command(reader, None, "$VMLINUX", vmcore);
            let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
            let _ = writeln!(text, "{}", words.join(" "));
        }
        text
    }
}

/// Whether a release is one. It is a dead kernel's text, and becomes part of a path and of commands.
fn is_plain(release: &&str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "+-._~".contains(letter);
    release.starts_with(|first: char| first.is_ascii_digit()) && release.chars().all(plain)
}

/// As a shell takes it for one word; `$VMLINUX` is still replaced.
fn quoted(word: &str) -> String {
    match word.contains([' ', '$']) {
        true => format!("\"{word}\""),
        false => word.to_owned(),
    }
}

impl Reader {
    /// The program's usual name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Drgn => "drgn",
            // gdb alone may know this machine's instructions only.
            Self::Gdb => "gdb-multiarch",
        }
    }

    /// How to come by it.
    pub fn how_to_get(self) -> &'static str {
        match self {
            Self::Crash => {
                "install the package crash on an arm64 machine; elsewhere build it \
                 (`make target=ARM64`) and name it with --program"
            }
            Self::Drgn => "install it: the package python3-drgn, or `pip install drgn`",
            Self::Gdb => {
                "install the package gdb-multiarch, or name another gdb that knows aarch64 with \
                 --program"
            }
        }
    }
}

/// Kernels built for 52-bit addresses that run with 48 export a `PHYS_OFFSET` for the 52-bit
/// linear map; crash up to 9.0.2 takes it for the 48-bit one unless told the right number.
fn crash_option(info: &Vmcoreinfo<'_>) -> Option<String> {
    let kernel = KernelLayout::from_vmcoreinfo(info).ok()?;
    if kernel.va_bits == kernel.va_bits_actual {
        return None;
    }
    let actual_start = u64::MAX.checked_shl(kernel.va_bits_actual)?;
    let distance = actual_start.wrapping_sub(kernel.page_offset);
    let phys_offset = kernel.phys_offset.wrapping_add(distance);
    Some(format!("--machdep phys_offset={phys_offset:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::kdump::Compression;

    fn openers() -> Openers {
        Openers {
            kernel: Identity {
                release: "6.12.107".to_owned(),
                build_id: Some("0123456789abcdef".to_owned()),
            },
            crash_option: Some("--machdep phys_offset=0xf0000".to_owned()),
            kernel_offset: 0x1000,
        }
    }

    /// What is not a comment.
    fn commands(format: Format, flattened: bool) -> Vec<String> {
        let text = openers().text(Wanted { format, flattened });
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn what_is_pasted_into_a_shell() {
        assert_eq!(
            commands(Format::Kdump(Compression::Zlib), false),
            [
                "kdraw report vmcore",
                "VMLINUX=/usr/lib/debug/boot/vmlinux-6.12.107",
                "crash --machdep phys_offset=0xf0000 \"$VMLINUX\" vmcore",
                "drgn -c vmcore -s \"$VMLINUX\"",
                "kdraw convert --format elf vmcore vmcore.elf",
                "gdb-multiarch -ex \"set architecture aarch64\" \
                 -ex \"symbol-file -o 0x1000 $VMLINUX\" -ex \"core-file vmcore.elf\"",
            ]
        );
    }

    #[test]
    fn what_each_layout_needs_before() {
        let converted = |format, flattened| {
            let mut all = commands(format, flattened);
            all.retain(|line| line.contains("convert"));
            all
        };
        assert!(converted(Format::Elf, false).is_empty());
        assert_eq!(
            converted(Format::Elf, true),
            [
                "kdraw convert vmcore.flat vmcore",
                "kdraw convert --format elf vmcore vmcore.elf"
            ]
        );
    }

    #[test]
    fn a_release_that_a_shell_would_run() {
        for (release, expected) in [
            ("6.12.107+deb13-arm64", "6.12.107+deb13-arm64"),
            ("6.1$(reboot)", "unknown"),
            ("6.1\"; reboot", "unknown"),
            ("../../tmp/x", "unknown"),
            ("6/../../tmp/x", "unknown"),
        ] {
            let text = format!("OSRELEASE={release}\n");
            let openers = Openers::from_info(&Vmcoreinfo::new(text.as_bytes()));
            assert_eq!(openers.kernel.release, expected);
        }
    }
}
