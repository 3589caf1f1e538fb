//! `extract` and the files it makes: found by itself, complete, never over others, and the slot
//! is marked only then.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use common::{kdraw, open};
use kdraw_tests::capture::{LOG, REASON};

fn arguments<'a>(parts: &[&'a str]) -> Vec<&'a str> {
    parts.to_vec()
}

#[test]
fn a_dump_is_extracted_once_and_the_slot_is_free_then() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("p.img");
    let out = folder.path().join("out");
    common::formatted(&image, 8 << 20, 2, false);
    common::dump(&image, 7);
    let (image_name, out_name) = (image.to_str().unwrap(), out.to_str().unwrap());
    let run = |parts: &[&str]| {
        let output = kdraw(&arguments(parts));
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };

    let (code, text) = run(&["list", image_name]);
    assert_eq!(code, 0);
    assert!(
        text.contains(REASON) && text.contains("6.1.0-test-arm64"),
        "{text}"
    );
    assert_eq!(run(&["verify", image_name]).0, 0);

    // Kept: the slot stays as it is.
    let before = fs::read(&image).unwrap();
    let (code, text) = run(&["extract", "--keep", image_name, "-o", out_name]);
    // The ring buffer cannot be found in this dump; that counts as a loss.
    assert_eq!(code, 1, "{text}");
    assert!(before == fs::read(&image).unwrap());
    let dump = out.join("20261121T013930Z-07070707");
    let files =
        || ["vmcore", "dmesg.txt", "metadata.json"].map(|name| fs::read(dump.join(name)).unwrap());
    let first = files();
    assert_eq!(first[1], LOG.as_bytes());
    let metadata: serde_json::Value = serde_json::from_slice(&first[2]).unwrap();
    assert_eq!(metadata["missing_frames"], 0);
    assert_eq!(metadata["black_box"]["reason"], REASON);
    // Of memory without a kernel there is a report, too.
    let page = fs::read_to_string(dump.join("report.html")).unwrap();
    assert!(page.contains("This report lacks"), "{page}");
    let report = fs::read(dump.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["capture"]["by_kdraw"], true);
    assert_eq!(report["identity"]["release"], "6.1.0-test-arm64");

    // Again: the folder is there, nothing is touched, nothing is marked, nothing is left over.
    let (code, text) = run(&["extract", image_name, "-o", out_name]);
    assert_eq!(code, 3);
    assert!(text.contains("exists already"), "{text}");
    assert!(first == files());
    assert!(before == fs::read(&image).unwrap());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);

    let other = folder.path().join("other");
    assert_eq!(
        run(&["extract", image_name, "-o", other.to_str().unwrap()]).0,
        1
    );
    let mut partition = open(&image);
    let slot = partition.slot(0).unwrap();
    let [a, b] = partition.header_copies(&slot);
    assert_eq!(a, b);
    assert!(
        a.as_ref()
            .is_some_and(|header| header.is_free() && header.generation == 4)
    );
    // Nothing is waiting any more; by its number it can be had again.
    let (code, text) = run(&["extract", image_name, "-o", other.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(text.contains("no dump"), "{text}");
    let third = folder.path().join("third");
    let third = third.to_str().unwrap();
    assert_eq!(
        run(&["extract", "--slot", "0", image_name, "-o", third]).0,
        1
    );
    assert_eq!(
        run(&["extract", "--slot", "2", image_name, "-o", third]).0,
        3
    );
    assert_eq!(
        run(&["extract", "--slot", "1", image_name, "-o", third]).0,
        3
    );
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_holds_memory_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("p.img");
    common::formatted(&image, 8 << 20, 2, false);
    common::dump(&image, 7);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    kdraw(&["extract", &path("p.img"), "-o", &path("out")]);
    let dump = folder.path().join("out/20261121T013930Z-07070707");
    let vmcore = dump.join("vmcore").to_str().unwrap().to_owned();
    let done = kdraw(&["convert", "--format", "elf", &vmcore, &path("elf")]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!((mode(&dump), mode(path("elf"))), (0o700, 0o600));
    let files = fs::read_dir(&dump).unwrap();
    let modes: Vec<u32> = files.map(|file| mode(file.unwrap().path())).collect();
    assert!(
        modes.len() > 2 && modes.iter().all(|mode| *mode == 0o600),
        "{modes:?}"
    );
}

#[test]
fn the_signed_partition_of_a_disk_is_found_and_two_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("p.img");
    common::formatted(&part, 4 << 20, 1, false);
    common::dump(&part, 3);
    let part = fs::read(part).unwrap();
    let disk = folder.path().join("disk.img");
    let build = |copies: &[usize]| {
        let mut bytes = vec![0; 16 << 20];
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (index, start) in [(0usize, 2048usize), (1, 12288), (2, 22528)] {
            let at = 446 + index * 16;
            bytes[at + 4] = 0x83;
            bytes[at + 8..at + 12].copy_from_slice(&(start as u32).to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&8192u32.to_le_bytes());
            if copies.contains(&index) {
                bytes[start * 512..][..part.len()].copy_from_slice(&part);
            }
        }
        fs::write(&disk, bytes).unwrap();
        let output = kdraw(&["list", disk.to_str().unwrap()]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (code, text) = build(&[1]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(REASON), "{text}");
    let (code, text) = build(&[]);
    assert_eq!(code, 3);
    assert!(text.contains("kdraw format"), "{text}");
    let (code, text) = build(&[0, 2]);
    assert_eq!(code, 3);
    assert!(text.contains("[1, 3]"), "{text}");
    let output = kdraw(&["verify", "--partition", "3", disk.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("p.img");
    common::formatted(&image, 64 << 20, 1, false);
    common::dump(&image, 1);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_kdraw"))
        .arg("list")
        .arg(&image)
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(done.status.signal(), Some(libc::SIGPIPE), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
}
