//! Real dumps, and what the commands that look at them print: the transcripts in `dumps/`.
//!
//! A dump of a whole machine is too large to be kept; these are cut. After a change that is meant,
//! `TRYCMD=overwrite cargo test -p kdraw --test transcripts` writes the transcripts anew.

use std::fs;
use std::process::Command;

#[test]
fn commands_print_what_they_owe_over_real_dumps() {
    trycmd::TestCases::new().case("tests/dumps/*.trycmd");
}

#[test]
fn a_dump_without_a_page_still_gives_log_and_notes() {
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_kdraw"))
        .args(["extract", "--keep", "--slot", "0", "-o"])
        .arg(folder.path())
        .arg("tests/dumps/bookworm-cut.in/dump.img")
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let dump = folder.path().join("20261121T025327Z-224b2d0e");
    let log = fs::read_to_string(dump.join("dmesg.txt")).unwrap();
    assert!(log.contains("Linux version 6.1.0-56-arm64") && log.ends_with("Bye!\n"));
    let core = fs::read(dump.join("vmcore")).unwrap();
    assert!(core.windows(9).any(|found| found == b"OSRELEASE"));
}
