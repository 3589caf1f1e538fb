//! `kdraw reserve` on boot configurations as systems have them: done once, undone to the byte, and
//! nothing done where something is in the way.
//!
//! What the tool says of each is in `reserve/NAME.golden`; after a change that is meant,
//! `TRYCMD=overwrite cargo test -p kdraw --test reserve` writes it anew.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::kdraw;
use kdraw::reserve::crashkernel::{Taken, taken};
use tempfile::TempDir;

/// All files below a folder: path, bytes, mode.
type Tree = BTreeMap<PathBuf, (Vec<u8>, u32)>;

fn tree(folder: &Path) -> Tree {
    let mut found = Tree::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                found.insert(path.clone(), (fs::read(&path).unwrap(), mode));
            }
        }
    }
    found
}

/// The names of all layouts.
fn layouts() -> Vec<String> {
    let entries = fs::read_dir("tests/reserve").unwrap();
    let names = entries.filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".in").map(str::to_owned)
    });
    names.collect()
}

/// A copy of a layout.
fn layout(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = format!("tests/reserve/{name}.in");
    for (path, (bytes, _)) in tree(Path::new(&from)) {
        put(folder.path(), path.strip_prefix(&from).unwrap(), bytes);
    }
    folder
}

fn put(folder: &Path, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Runs `kdraw reserve --root FOLDER …`: exit code, and everything it printed.
fn reserve(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let root = folder.to_str().unwrap();
    told(kdraw(&[&["reserve", "--root", root], arguments].concat()))
}

fn told(output: std::process::Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

fn golden(name: &str, text: &str) {
    let path = format!("tests/reserve/{name}.golden");
    if std::env::var("TRYCMD").is_ok_and(|mode| mode == "overwrite") {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "{path} expects\n{expected}\nand it is\n{text}"
    );
}

/// Has a shell source what is shell, in the boot loaders' order, and Linux's rules judge the lines.
fn check_as_shell(folder: &Path) {
    let script = "cd \"$1\"; for file in etc/default/grub etc/default/grub.d/*.cfg etc/default/u-boot \
         usr/share/u-boot-menu/conf.d/*.conf etc/u-boot-menu/conf.d/*.conf \
         etc/default/flash-kernel; do test ! -e \"$file\" || . \"./$file\"; done; \
         echo \"$GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT\"; echo \"$U_BOOT_PARAMETERS\"; \
         echo \"$LINUX_KERNEL_CMDLINE_DEFAULTS x $LINUX_KERNEL_CMDLINE\"";
    let output = Command::new("bash")
        .args(["-c", script, "sh"])
        .arg(folder)
        .output();
    let lines = String::from_utf8(output.unwrap().stdout).unwrap();
    for line in lines
        .lines()
        .filter(|line| !["", " ", " x "].contains(line))
    {
        let Taken::Reserved(reservation) = taken(line, 4 << 30) else {
            panic!("{} gives {line}", folder.display());
        };
        assert_eq!(reservation.size, 8 << 20, "{line}");
    }
}

/// How often the files ask for 8 MiB; backups do not count.
fn crashkernels(tree: &Tree) -> usize {
    let is_backup = |path: &Path| path.to_string_lossy().contains(".kdraw-");
    let files = tree.iter().filter(|(path, _)| !is_backup(path));
    let texts = files.map(|(_, (bytes, _))| String::from_utf8_lossy(bytes));
    texts
        .map(|text| text.matches("crashkernel=8M").count())
        .sum()
}

#[test]
fn every_layout_is_changed_once_and_undone_to_the_byte() {
    assert!(layouts().len() > 10);
    for name in layouts() {
        let folder = layout(&name);
        let folder = folder.path();
        for path in tree(folder).keys() {
            fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
        }
        let before = tree(folder);
        let (code, text) = reserve(folder, &["--yes"]);
        assert_eq!(code, 0, "{name}: {text}");
        golden(&name, &text.replace(folder.to_str().unwrap(), "ROOT"));
        let once = tree(folder);
        assert!(crashkernels(&once) > 0, "{name}");
        check_as_shell(folder);
        for (path, (_, mode)) in &before {
            assert_eq!(once[path].1, *mode, "{}", path.display());
        }
        let (code, text) = reserve(folder, &["--yes"]);
        assert!(code == 0 && text.contains("Nothing to change"), "{text}");
        assert!(tree(folder) == once, "{name}: once is enough");
        let (code, text) = reserve(folder, &["--yes", "--size", "16M"]);
        assert_eq!(code, 0, "{name}: {text}");
        assert_eq!(
            crashkernels(&tree(folder)),
            0,
            "{name}: replaced everywhere"
        );
        let (code, text) = reserve(folder, &["--yes", "--undo"]);
        assert_eq!(code, 0, "{name}: {text}");
        assert!(
            tree(folder) == before,
            "{name}: every byte, and no file more"
        );
        let (code, text) = reserve(folder, &["--yes", "--undo"]);
        assert!(code == 0 && text.contains("Nothing to undo"), "{text}");
    }
}

#[test]
fn nothing_is_changed_without_a_yes() {
    let folder = layout("debian-grub");
    let before = tree(folder.path());
    let (code, text) = reserve(folder.path(), &[]);
    assert_eq!(code, 1, "{text}");
    for part in [
        "-GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=384M-:128M\"",
        "+GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=8M\"",
        "no terminal to ask on",
        "chroot",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (code, text) = reserve(folder.path(), &["--json"]);
    assert_eq!(code, 1);
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["crashkernel"], "8M");
    assert_eq!(told["done"], false);
    assert_eq!(told["boot_loaders"][0], "GRUB");
    assert!(
        told["afterwards"][0]["command"]
            .as_str()
            .unwrap()
            .ends_with(" update-grub")
    );
    assert!(
        told["files"][2]["diff"]
            .as_str()
            .unwrap()
            .contains("+GRUB_CMDLINE")
    );
    assert!(tree(folder.path()) == before);
    reserve(folder.path(), &["--yes"]);
    let changed = tree(folder.path());
    let (code, text) = reserve(folder.path(), &["--undo"]);
    assert!(code == 1 && text.contains("+GRUB_CMDLINE"), "{text}");
    assert!(tree(folder.path()) == changed);
}

#[test]
fn what_was_changed_since_is_left_alone_by_undo() {
    let folder = layout("debian-u-boot");
    let folder = folder.path();
    reserve(folder, &["--yes"]);
    let path = "boot/extlinux/extlinux.conf";
    put(folder, path, "label new\n\tappend ro crashkernel=8M\n");
    let (code, text) = reserve(folder, &["--yes", "--undo"]);
    assert!(code == 1 && text.contains("changed again"), "{text}");
    assert!(
        fs::read_to_string(folder.join(path))
            .unwrap()
            .contains("new")
    );
    let restored = fs::read(folder.join("etc/default/u-boot")).unwrap();
    let original = fs::read("tests/reserve/debian-u-boot.in/etc/default/u-boot").unwrap();
    assert!(restored == original);
    // A new change begins anew from what is there.
    put(folder, path, "label new\n\tappend ro\n");
    reserve(folder, &["--yes"]);
    reserve(folder, &["--yes", "--undo"]);
    let text = fs::read_to_string(folder.join(path)).unwrap();
    assert_eq!(text, "label new\n\tappend ro\n");
}

#[test]
fn what_is_missing_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let (code, text) = reserve(empty.path(), &["--yes"]);
    assert_eq!(code, 3);
    for part in [
        "extlinux.conf",
        "cmdline.txt",
        "/etc/default/grub",
        "mount the boot",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (code, text) = reserve(&empty.path().join("none"), &["--yes"]);
    assert!(code == 3 && text.contains("is no folder"), "{text}");
    let blob = empty.path().join("none.dtb");
    let (code, text) = told(kdraw(&["reserve", "--dtb", blob.to_str().unwrap()]));
    assert!(code == 3 && text.contains("none.dtb"), "{text}");
    for size in ["2M", "8X", "8M,high"] {
        let (code, text) = reserve(empty.path(), &["--size", size]);
        assert!(code == 2 && text.contains("--size"), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_left_to_people() {
    for (path, bytes, why) in [
        (
            "etc/default/grub",
            "GRUB_CMDLINE_LINUX_DEFAULT='a'\"b\"\n",
            "line 1: the value is not one",
        ),
        (
            "etc/default/flash-kernel",
            "\nLINUX_KERNEL_CMDLINE=\"$(cat x)\"\n",
            "line 2: the value",
        ),
        (
            "etc/default/flash-kernel",
            "LINUX_KERNEL_CMDLINE=\"quiet\n",
            "line 1: a quote is not closed",
        ),
        (
            "boot/cmdline.txt",
            "crashkernel=8M xcrashkernel=1M",
            "line 1: another crashkernel=",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), path, bytes);
        // An understandable one beside it is not changed either.
        put(
            folder.path(),
            "boot/extlinux/extlinux.conf",
            "label l\nappend ro\n",
        );
        let before = tree(folder.path());
        let (code, text) = reserve(folder.path(), &["--yes"]);
        assert!(
            code == 3 && text.contains(why) && text.contains(path),
            "{text}"
        );
        assert!(tree(folder.path()) == before, "{path}");
    }
}

#[test]
fn links_of_an_image_do_not_lead_out_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let host = tempfile::tempdir().unwrap();
    put(host.path(), "cmdline.txt", "of the host\n");
    let image = folder.path();
    let aim = host.path().join("cmdline.txt");
    // In the image that path leads nowhere, and then to a file of its own.
    fs::create_dir_all(image.join("boot")).unwrap();
    symlink(&aim, image.join("boot/cmdline.txt")).unwrap();
    assert_eq!(reserve(image, &["--yes"]).0, 3);
    put(image, aim.strip_prefix("/").unwrap(), "of the image\n");
    let (code, text) = reserve(image, &["--yes"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(fs::read_to_string(&aim).unwrap(), "of the host\n");
    let inside = image.join(aim.strip_prefix("/").unwrap());
    let changed = fs::read_to_string(&inside).unwrap();
    assert_eq!(changed, "of the image crashkernel=8M\n");
    assert!(image.join("boot/cmdline.txt").is_symlink());
    reserve(image, &["--yes", "--undo"]);
    assert_eq!(fs::read_to_string(&inside).unwrap(), "of the image\n");
}

/// Runs a program on a folder that it may not write to, or that has no room.
fn hindered(mut command: Command, folder: &Path, expected: &str) {
    let before = tree(folder);
    let root = folder.to_str().unwrap();
    command.arg(env!("CARGO_BIN_EXE_kdraw"));
    let output = command.args(["reserve", "--yes", "--root", root]).output();
    let (code, text) = told(output.unwrap());
    assert_eq!(code, 3, "{text}");
    assert!(
        text.contains(expected) && text.contains("nothing was changed"),
        "expected {expected:?}, got: {text}"
    );
    assert!(tree(folder) == before, "{expected}");
}

/// Whether the tests run as root, whom no folder is read-only to.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_folder_that_cannot_be_written_stays_as_it_is() {
    let folder = layout("debian-u-boot");
    // The first can be written, the second cannot.
    let second = folder.path().join("etc/default");
    for (path, mode) in [(folder.path(), 0o755), (&second, 0o555)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let first = folder.path().join("boot/extlinux");
    fs::set_permissions(&first, Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("env");
    if is_root() {
        command.uid(65534);
    }
    hindered(command, folder.path(), "Run kdraw as root");
    fs::set_permissions(&second, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_write_that_does_not_fit_leaves_everything() {
    let folder = layout("debian-u-boot");
    // 512 bytes or 1 KiB, by shell: less than extlinux.conf has.
    let mut command = Command::new("sh");
    let limited = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    command.args(["-c", limited, "sh"]);
    hindered(command, folder.path(), "File too large");
}

/// Whether mounts can be made, which are root's, in a name space of their own.
fn may_mount() -> bool {
    let mut may = Command::new("unshare");
    may.args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]);
    let may = may.output().is_ok_and(|output| output.status.success());
    if !may {
        eprintln!("no mounts here: not root");
    }
    may
}

/// On the running system, of which only a name space's own /etc and /boot can be reached.
#[test]
fn the_running_system_gets_its_command_run() {
    if !may_mount() || !Path::new("/proc/sys/kernel/arch").exists() {
        return;
    }
    for (end, code, expected) in [
        ("", 0, "update-grub was here"),
        (
            "; exit 7",
            3,
            "update-grub failed, and without it the change may not count",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "arch", "aarch64\n");
        put(
            folder.path(),
            "update-grub",
            format!("#!/bin/sh\necho update-grub was here{end}\n"),
        );
        let program = folder.path().join("update-grub");
        fs::set_permissions(program, Permissions::from_mode(0o755)).unwrap();
        let script = "set -e; mount -t tmpfs none /etc; mount -t tmpfs none /boot; \
             mount --bind \"$1\"/arch /proc/sys/kernel/arch; mkdir /etc/default; \
             echo GRUB_CMDLINE_LINUX_DEFAULT=quiet > /etc/default/grub; PATH=\"$1:$PATH\"; \
             \"$2\" reserve --yes --json > \"$1\"/told || code=$?; cat /etc/default/grub; \
             exit ${code:-0}";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]);
        command.arg(folder.path()).arg(env!("CARGO_BIN_EXE_kdraw"));
        let (found, text) = told(command.output().unwrap());
        assert!(found == code && text.contains(expected), "{found} {text}");
        assert!(text.contains("GRUB_CMDLINE_LINUX_DEFAULT=\"quiet crashkernel="));
        if code == 0 {
            let told = fs::read(folder.path().join("told")).unwrap();
            let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
            assert_eq!(told["afterwards"][0]["command"], "update-grub");
            assert_eq!(told["afterwards"][0]["ran"], true);
        }
    }
}

/// Makes and mounts a file system at "$1"/boot, of which "$2" is the image.
const FILE_SYSTEMS: [(&str, &str); 3] = [
    ("tmpfs", "mount -t tmpfs -o size=4m none \"$1\"/boot"),
    (
        "ext4",
        "truncate -s 4M \"$2\" && mkfs.ext4 -q -m 0 \"$2\" && mount -o loop \"$2\" \"$1\"/boot",
    ),
    (
        "vfat",
        "truncate -s 4M \"$2\" && mkfs.vfat \"$2\" >&2 && mount -o loop \"$2\" \"$1\"/boot",
    ),
];

/// Changed, undone, hindered by a full disk, hindered by a read-only one; all in one mount.
const ON_A_FILE_SYSTEM: &str = r#"
all() { (cd "$1"; find . -type f -exec sha256sum {} + | sort); }
set -e
mkdir "$1"/boot/extlinux
printf 'label l\nappend ro\n' > "$1"/boot/extlinux/extlinux.conf
before=$(all "$1")
"$3" reserve --yes --root "$1"
grep -q crashkernel=8M "$1"/boot/extlinux/extlinux.conf
"$3" reserve --yes --undo --root "$1"
test "$before" = "$(all "$1")"
# Full: what ext4 sets aside for writes on their way is free again when they are done, and it keeps
# blocks from large writes that it still gives to small ones.
for turn in 1 2 3; do cat /dev/zero >> "$1"/boot/filler 2> /dev/null || sync; done
mkdir "$1"/boot/small
for name in $(seq 2000); do echo x 2> /dev/null > "$1"/boot/small/$name || break; done
sync
before=$(all "$1")
if "$3" reserve --yes --root "$1"; then exit 9; else test $? = 3; fi
test "$before" = "$(all "$1")"
rm -r "$1"/boot/filler "$1"/boot/small
mount -o remount,ro "$1"/boot
before=$(all "$1")
if "$3" reserve --yes --root "$1"; then exit 9; else test $? = 3; fi
test "$before" = "$(all "$1")"
echo all is well
"#;

#[test]
fn full_and_read_only_file_systems_leave_everything() {
    if !may_mount() {
        return;
    }
    for (name, make) in FILE_SYSTEMS {
        let folder = tempfile::tempdir().unwrap();
        let system = folder.path().join("system");
        let image = folder.path().join("image");
        put(&system, "etc/default/u-boot", "U_BOOT_PARAMETERS=ro\n");
        fs::create_dir_all(system.join("boot")).unwrap();
        let run = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", script, "sh"]);
            command.args([&system, &image]);
            told(command.arg(env!("CARGO_BIN_EXE_kdraw")).output().unwrap())
        };
        let (code, text) = run(make);
        if code != 0 {
            eprintln!("SKIPPED on {name}, which cannot be made and mounted here: {text}");
            assert_ne!(name, "tmpfs");
            continue;
        }
        let (code, text) = run(&format!("{make} || exit 8; {ON_A_FILE_SYSTEM}"));
        assert_eq!(code, 0, "{name}: {text}");
        for part in ["Make room", "remount,rw", "all is well"] {
            assert!(text.contains(part), "{name}: {part} is not in {text}");
        }
    }
}

#[test]
fn device_trees_are_changed_and_undone_to_the_byte() {
    for (name, from) in [
        ("device-tree", "../boards/fixtures/raspberry-pi-4b.dtb"),
        ("overlay", "tests/reserve/overlay.dtbo"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        let original = fs::read(from).unwrap();
        fs::write(&blob, &original).unwrap();
        let run = |arguments: &[&str]| {
            let blob = blob.to_str().unwrap();
            told(kdraw(&[&["reserve", "--dtb", blob], arguments].concat()))
        };
        let (code, text) = run(&["--yes"]);
        assert_eq!(code, 0, "{text}");
        golden(name, &text.replace(folder.path().to_str().unwrap(), "ROOT"));
        let changed = fs::read(&blob).unwrap();
        let mut windows = changed.windows(14);
        assert!(windows.any(|window| window == b"crashkernel=8M"));
        let (code, text) = run(&["--yes"]);
        assert!(code == 0 && text.contains("Nothing to change"), "{text}");
        assert!(fs::read(&blob).unwrap() == changed);
        let (code, text) = run(&["--undo", "--yes"]);
        assert!(code == 0 && text.contains("-/chosen/bootargs = "), "{text}");
        assert!(fs::read(&blob).unwrap() == original);
        assert_eq!(tree(folder.path()).len(), 1);
        fs::write(&blob, "no blob").unwrap();
        let (code, text) = run(&["--yes"]);
        assert!(code == 3 && text.contains("d00dfeed"), "{text}");
    }
}
