//! `kdraw estimate`, and what `load` makes of it, on synthetic kernels: /proc/kcore,
//! /proc/kpageflags and /proc/meminfo as files.

mod common;

use common::board::{Board, CACHE, FREE, KPF_BUDDY, USER, note};
use kdraw_tests::kernel::{IMAGE_LEN, RAM, RAM_LEN, SHAPES, VERSIONS};
use serde_json::Value;

/// Bytes of the classes that have any, by name.
fn classes(json: &Value) -> Vec<(&str, u64)> {
    let rows = json["classes"].as_array().unwrap().iter();
    rows.map(|row| (row["class"].as_str().unwrap(), row["bytes"].as_u64()))
        .filter_map(|(class, bytes)| Some((class, bytes?)).filter(|(_, bytes)| *bytes > 0))
        .collect()
}

#[test]
fn a_kernel_that_agrees_is_said_to() {
    for (number, version) in VERSIONS.iter().enumerate() {
        // As many shapes as versions: each is met once.
        let board = Board::new(number, number % SHAPES.len());
        let (code, json) = board.estimate(&[]);
        let name = version.name;
        assert_eq!((code, &json["proof"]["verdict"]), (0, &"agrees".into()));
        let mib = 1u64 << 20;
        let mut found = classes(&json);
        found.sort_unstable();
        let mut expected = vec![
            ("cache", CACHE * mib),
            ("free", FREE * mib),
            ("kernel", RAM_LEN - IMAGE_LEN - (CACHE + FREE + USER) * mib),
            ("reserved", IMAGE_LEN),
            ("user", USER * mib),
        ];
        expected.sort_unstable();
        assert_eq!(found, expected, "{name}");
        for row in json["classes"].as_array().unwrap() {
            assert_eq!(row["pages"], row["by_kernel"], "{name} {row}");
        }
        let kept = RAM_LEN - (CACHE + FREE + USER) * mib;
        assert_eq!(json["kept_bytes"], kept, "{name}");
        let dump = json["dump_bytes"].as_u64().unwrap();
        assert!(mib < dump && dump < 2 * mib, "{name}: mostly zeros, {dump}");
    }
}

#[test]
fn the_level_decides_what_is_kept_and_the_slot_whether_it_fits() {
    let board = Board::new(6, 0);
    let target = ["--target", "DEVICE"];
    let (code, json) = board.estimate(&[&target[..], &["--level", "kernel+user"]].concat());
    assert_eq!((code, &json["fits"]), (0, &true.into()));
    assert_eq!(
        json["kept_bytes"],
        RAM_LEN - ((CACHE + FREE) << 20),
        "{json}"
    );
    // A core of all pages as they are, 16 MiB, on a partition of 4 MiB.
    let (code, text) = board
        .system
        .kdraw(&["format", "--plain", "--force", "DEVICE"]);
    assert_eq!(code, 0, "{text}");
    let (code, json) = board.estimate(&target);
    assert_eq!(
        (code, &json["fits"], &json["level"]),
        (1, &false.into(), &0.into())
    );
    assert!(json["dump_bytes"].as_u64().unwrap() > RAM_LEN);
    let (code, text) = board.system.load();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("warning: a slot has"), "{text}");
}

#[test]
fn load_shows_the_table() {
    let board = Board::new(6, 0);
    let (code, text) = board.system.load();
    assert_eq!(code, 0, "{text}");
    for part in [
        "cache                 768        3.0  no          768",
        "proof        the kernel agrees: 4096 pages compared with /proc/kpageflags, 0 differ",
        "estimate     level 31 (kernel): about 1.0 MiB for 10.0 MiB of 16.0 MiB",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(!text.contains("warning"), "{text}");
}

#[test]
fn a_kernel_that_disagrees_gets_every_page() {
    let mut board = Board::new(2, 1);
    let (code, json) = board.estimate(&[]);
    assert_eq!((code, &json["level"]), (0, &31.into()));
    // What the filter takes for free the kernel uses: a few pages may have changed, more may not.
    let first = ((RAM + (10 << 20)) >> 12) as usize;
    for (pages, verdict, level) in [(16, "agrees", 31), (17, "disagrees", 0)] {
        board.flags[first..first + pages].fill(0);
        board.write_flags();
        let (code, json) = board.estimate(&[]);
        assert_eq!(
            (&json["proof"]["verdict"], &json["level"]),
            (&verdict.into(), &level.into()),
        );
        assert_eq!(code, i32::from(level == 0));
        assert_eq!(json["proof"]["mistaken"], Value::from(vec![pages; 3]));
    }
    let (code, text) = board.system.load();
    assert_eq!(code, 0, "{text}");
    for part in ["THE KERNEL DISAGREES", "the dump will have level 0 (all)"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    // The other way round nothing is lost.
    board.flags[first..first + 17].fill(KPF_BUDDY);
    let kernel = ((RAM + (5 << 20)) >> 12) as usize;
    board.flags[kernel..kernel + 100].fill(KPF_BUDDY);
    board.write_flags();
    let (code, json) = board.estimate(&[]);
    assert_eq!((code, &json["kept_needlessly"]), (0, &100.into()));
}

#[test]
fn without_the_kernels_view_its_totals_are_compared() {
    let board = Board::new(6, 3);
    board.remove("proc/kpageflags");
    let (code, json) = board.estimate(&[]);
    assert_eq!((code, &json["level"]), (1, &31.into()));
    assert_eq!(json["proof"]["verdict"], "not-possible");
    let detail = json["proof"]["detail"].as_str().unwrap();
    for part in ["CONFIG_PROC_PAGE_MONITOR", "totals are as in /proc/meminfo"] {
        assert!(detail.contains(part), "{detail}");
    }
    let (code, text) = board.system.load();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("The level stays 31 (kernel)"), "{text}");
    board.write_meminfo(FREE + 1, CACHE, USER);
    let (code, json) = board.estimate(&[]);
    assert_eq!((code, &json["level"]), (1, &0.into()));
    let detail = json["proof"]["detail"].as_str().unwrap();
    assert!(detail.contains("3.0 MiB by /proc/meminfo"), "{detail}");
}

#[test]
fn totals_do_not_outweigh_the_kernels_view() {
    let board = Board::new(6, 3);
    board.write_meminfo(FREE, CACHE, USER + 1);
    let (code, json) = board.estimate(&[]);
    assert_eq!((code, &json["level"]), (0, &31.into()));
    let (_, text) = board.system.kdraw(&["estimate"]);
    assert!(
        text.contains("warning: 1.0 MiB are user by the filter"),
        "{text}"
    );
}

#[test]
fn without_memory_there_is_no_estimate_and_load_goes_on() {
    type Break = fn(&Board);
    let table: [(&str, Break); 3] = [
        ("CONFIG_PROC_KCORE that is not locked down", |board| {
            board.remove("proc/kcore");
        }),
        ("expected the header of a 64-bit ELF core file", |board| {
            board.system.put("proc/kcore", [0; 64]);
        }),
        ("no VMCOREINFO", |board| board.write_kcore(false)),
    ];
    for (expected, break_it) in table {
        let board = Board::new(6, 0);
        break_it(&board);
        let (code, text) = board.system.kdraw(&["estimate"]);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains(expected), "{expected} is not in: {text}");
        let (code, text) = board.system.load();
        assert_eq!(code, 0, "{text}");
        for part in [expected, "The level stays 31 (kernel)"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}

#[test]
fn old_kernels_tell_vmcoreinfo_in_memory_only() {
    let mut board = Board::new(0, 0);
    let note = note(b"VMCOREINFO\0\0", &board.kernel.text);
    board.kernel.ram.put(RAM + (1 << 20), &note);
    board.write_kcore(false);
    let place = format!("{:#x} {:x}\n", RAM + (1 << 20), note.len());
    board.system.put("sys/kernel/vmcoreinfo", place);
    let (code, json) = board.estimate(&[]);
    assert_eq!((code, &json["proof"]["verdict"]), (0, &"agrees".into()));
}

#[test]
fn a_kernel_whose_pages_cannot_be_told_apart_is_kept_whole() {
    let mut board = Board::new(6, 0);
    let mut keys = board.kernel.keys();
    assert!(keys.remove("NUMBER(PG_lru)").is_some());
    board.kernel.text = kdraw_tests::kernel::text_of(&keys);
    board.write_kcore(true);
    let (code, json) = board.estimate(&[]);
    assert_eq!((code, &json["kept_bytes"]), (1, &RAM_LEN.into()));
    let detail = json["proof"]["detail"].as_str().unwrap();
    assert!(detail.contains("NUMBER(PG_lru)"), "{detail}");
}
