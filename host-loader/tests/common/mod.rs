//! What the integration tests share: dumps in image files and fake systems.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod board;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kdraw::commands::format;
use kdraw::partition::DumpPartition;
use kdraw::source::{Access, Source};
use kdraw::system::System;
use kdraw_format::layout::{START_UNKNOWN, Superblock};
use kdraw_tests::capture::Capture;

/// A freshly formatted image file.
pub fn formatted(path: &Path, len: u64, slots: u32, plain: bool) -> Superblock {
    fs::write(path, []).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
    let superblock = Superblock::new([0x5a; 16], START_UNKNOWN, len, slots, plain).unwrap();
    let source = Source::open(path, Access::Overwrite).unwrap();
    format::write(source, &superblock).unwrap();
    superblock
}

pub fn open(path: &Path) -> DumpPartition {
    DumpPartition::open(&System::new("/"), path, None, Access::Mark).unwrap()
}

/// Writes a dump, as the payload does, into the first free slot of an image file.
pub fn dump(path: &Path, id: u8) {
    Capture::new(id).into_file(path).unwrap();
}

/// Runs the tool.
pub fn kdraw<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kdraw"))
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

/// A /proc, /sys and /dev of an arm64 machine on which everything is ready.
pub struct FakeSystem {
    pub root: tempfile::TempDir,
}

impl FakeSystem {
    pub const PARTITION_LEN: u64 = 4 << 20;
    pub const PARTITION_START: u64 = 512 << 20;

    pub fn new() -> Self {
        let system = Self {
            root: tempfile::tempdir().unwrap(),
        };
        for (path, text) in [
            ("proc/sys/kernel/arch", "aarch64\n"),
            ("proc/sys/kernel/hostname", "board\n"),
            ("proc/sys/kernel/random/boot_id", "boot-1\n"),
            ("proc/sys/kernel/kexec_load_disabled", "0\n"),
            ("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
            (
                "proc/self/mountinfo",
                "1 0 254:2 / / rw - ext4 /dev/vda2 rw\n",
            ),
            ("proc/cmdline", "root=/dev/vda2 crashkernel=8M\n"),
            (
                "proc/iomem",
                "40000000-7fffffff : System RAM\n  7f000000-7f7fffff : Crash kernel\n",
            ),
            ("sys/kernel/kexec_crash_loaded", "0\n"),
            ("sys/kernel/vmcoreinfo", "0x41234000 1024\n"),
            ("sys/devices/system/cpu/cpu0/crash_notes", "41001000\n"),
            ("sys/devices/system/cpu/cpu0/crash_notes_size", "424\n"),
            (
                "sys/firmware/devicetree/base/virtio_mmio@a003e00/compatible",
                "virtio,mmio\0",
            ),
        ] {
            system.put(path, text);
        }
        let tree = include_bytes!("../../../boards/fixtures/qemu-gicv2.dtb");
        system.put("sys/firmware/fdt", tree);
        let disk = "sys/devices/platform/a003e00.virtio_mmio/virtio0/block/vda";
        for (file, text) in [
            ("dev", "254:0\n"),
            ("size", "4194304\n"),
            ("vda4/partition", "4\n"),
            ("vda4/start", "1048576\n"),
            ("vda4/size", "8192\n"),
            ("vda4/dev", "254:4\n"),
        ] {
            system.put(&format!("{disk}/{file}"), text);
        }
        let link = |to: &str, from: &str| {
            let from = system.path(from);
            fs::create_dir_all(from.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(system.path(to), from).unwrap();
        };
        link(
            "sys/firmware/devicetree/base/virtio_mmio@a003e00",
            "sys/devices/platform/a003e00.virtio_mmio/of_node",
        );
        link(&format!("{disk}/vda4"), "sys/class/block/vda4");
        link(disk, "sys/class/block/vda");
        system.put("dev/vda", "");
        system.put("dev/vda4", "");
        fs::write(system.device(), vec![0; Self::PARTITION_LEN as usize]).unwrap();
        let mut image = vec![0; 8192];
        image[56..60].copy_from_slice(b"ARM\x64");
        image[16..24].copy_from_slice(&(128u64 << 10).to_le_bytes());
        system.put("payload.img", &image);
        system
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn device(&self) -> PathBuf {
        self.path("dev/vda4")
    }

    /// Runs the tool on this system: exit code, and everything it printed.
    pub fn kdraw(&self, arguments: &[&str]) -> (i32, String) {
        let root = self.root.path().to_str().unwrap();
        let device = self.device();
        let payload = self.path("payload.img");
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|argument| match *argument {
                "DEVICE" => device.to_str().unwrap(),
                "PAYLOAD" => payload.to_str().unwrap(),
                other => other,
            })
            .chain(["--sysroot", root])
            .collect();
        let output = kdraw(&arguments);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        (output.status.code().unwrap(), text)
    }

    /// Runs the tool on this system with some input, and with programs of its `bin` first.
    pub fn kdraw_asked(&self, arguments: &[&str], input: &str) -> (i32, String) {
        let path = std::env::var("PATH").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_kdraw"))
            .args(arguments)
            .args(["--sysroot", self.root.path().to_str().unwrap()])
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end without having read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(text).unwrap(),
        )
    }

    pub fn load(&self) -> (i32, String) {
        self.kdraw(&["load", "--target", "DEVICE", "--payload", "PAYLOAD"])
    }
}
