//! Every format that a vmcore can have says the same of the same memory.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{extracted_as, formatted, open};
use kdraw::extract::stream;
use kdraw::input::{InputError, Vmcore};
use kdraw::output::kdump::Compression;
use kdraw::output::sink::{Flattened, SparseFile};
use kdraw::output::{Format, write};
use kdraw_format::addr::{FRAME_SIZE, PhysAddr};
use kdraw_linux::memory::PhysMem;
use kdraw_tests::capture::{CRASH_TIME, Capture, RELEASE, notes};
use kdraw_tests::memory::{FRAME, FakeMemory, frame, frames};

const LEN: u64 = 4 << 20;
/// Frames that fault: the first, one inside, and the last.
const UNREADABLE: [u64; 3] = [0x40000, 0x40077, 0x4019f];

/// Every format with pages of its own.
const FORMATS: [(&str, Format); 5] = [
    ("zlib", Format::Kdump(Compression::Zlib)),
    ("zstd", Format::Kdump(Compression::Zstd)),
    ("snappy", Format::Kdump(Compression::Snappy)),
    ("none", Format::Kdump(Compression::None)),
    ("elf", Format::Elf),
];

/// An image of a partition with one dump.
fn image(folder: &Path, plain: bool) -> PathBuf {
    let path = folder.join(if plain { "plain.img" } else { "dump.img" });
    formatted(&path, LEN, plain);
    let capture = Capture {
        memory: FakeMemory {
            unreadable: UNREADABLE.into(),
        },
        ..Capture::new(1)
    };
    capture.into_file(&path).unwrap();
    path
}

/// Checks every frame, the notes and the names.
fn check(path: &Path, what: &str) {
    let vmcore = Vmcore::open(path).unwrap();
    assert!(vmcore.problems.is_empty(), "{what}: {:?}", vmcore.problems);
    assert!(vmcore.is_incomplete(), "{what}: frames were unreadable");
    let there: Vec<u64> = frames().filter(|pfn| !UNREADABLE.contains(pfn)).collect();
    let known = vmcore.known().ranges();
    let known: Vec<u64> = known.iter().flat_map(|(first, end)| *first..*end).collect();
    assert_eq!(known, there, "{what}");
    let mut found = vec![0; FRAME];
    for pfn in frames() {
        let read = vmcore.read(PhysAddr(pfn * FRAME_SIZE), &mut found);
        match UNREADABLE.contains(&pfn) {
            true => assert!(read.is_err(), "{what}: frame {pfn:#x} from nowhere"),
            false => assert!(
                read.is_ok() && found == frame(pfn),
                "{what}: frame {pfn:#x} differs"
            ),
        }
    }
    assert_eq!(vmcore.notes()[..notes().len()], notes(), "{what}");
    let image = vmcore.image();
    assert_eq!(image.uname[2], RELEASE, "{what}");
    assert_eq!(image.crash_time, CRASH_TIME, "{what}");
}

#[test]
fn every_format_has_the_same_memory_and_can_become_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = image(folder, false);
    for (name, format) in FORMATS {
        let done = extracted_as(&mut open(&path), &folder.join(name), format).unwrap();
        let vmcore = done.folder.join("vmcore");
        check(&vmcore, name);

        // The same as a stream.
        let slot = open(&path).slot(0).unwrap();
        let mut flat = Vec::new();
        let streamed = stream(
            &mut open(&path),
            &slot,
            format,
            &mut flat,
            "x".into(),
            &mut |_, _, _| {},
        );
        // Nothing is lost by it; the log, of which a stream has none, cannot be found here.
        let mut losses = done.metadata.losses;
        losses.retain(|loss| !loss.starts_with("dmesg.txt"));
        assert_eq!(streamed.unwrap(), losses);
        let flat_path = folder.join(format!("{name}.flat"));
        fs::write(&flat_path, flat).unwrap();
        check(&flat_path, &format!("{name}, flattened"));

        for (other, other_format) in FORMATS {
            for from in [&vmcore, &flat_path] {
                let what = format!("{name} to {other}");
                let path = folder.join("converted");
                let file = fs::File::create(&path).unwrap();
                let vmcore = Vmcore::open(from).unwrap();
                let mut sink = SparseFile::new(&file, &path);
                let none = &mut |_, _, _| {};
                write(&vmcore.image(), other_format, &mut sink, none).unwrap();
                check(&path, &what);
            }
        }
    }
}

#[test]
fn a_plain_partitions_core_becomes_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), true);
    for (name, format) in &FORMATS[..4] {
        let out = folder.path().join(name);
        let done = extracted_as(&mut open(&path), &out, *format).unwrap();
        check(&done.folder.join("vmcore"), name);
    }
}

#[test]
fn raw_memory_lies_at_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), false);
    let done = extracted_as(&mut open(&path), &folder.path().join("out"), Format::Raw).unwrap();
    let raw = fs::read(done.folder.join("memory.raw")).unwrap();
    assert_eq!(raw.len(), 0x1a0 * FRAME);
    for (index, found) in raw.chunks(FRAME).enumerate() {
        let pfn = 0x40000 + index as u64;
        let there = frames().any(|known| known == pfn) && !UNREADABLE.contains(&pfn);
        let expected = if there { frame(pfn) } else { vec![0; FRAME] };
        assert!(found == expected, "frame {pfn:#x}");
    }
}

#[test]
fn damaged_vmcores_are_refused_or_lose_what_they_lack() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), false);
    let damaged = folder.path().join("damaged");
    for (name, format) in FORMATS {
        let done = extracted_as(&mut open(&path), &folder.path().join(name), format).unwrap();
        let whole = fs::read(done.folder.join("vmcore")).unwrap();
        // Cut anywhere: what is known can be read and is right.
        for cut in (0..whole.len()).step_by(whole.len() / 40) {
            fs::write(&damaged, &whole[..cut]).unwrap();
            let Ok(vmcore) = Vmcore::open(&damaged) else {
                continue;
            };
            assert!(vmcore.is_incomplete(), "{name} cut at {cut:#x}");
            let mut found = vec![0; FRAME];
            for pfn in frames() {
                let there = vmcore.known().overlapping(pfn, pfn + 1).next().is_some();
                let read = vmcore.read(PhysAddr(pfn * FRAME_SIZE), &mut found);
                assert_eq!(read.is_ok(), there, "{name} cut at {cut:#x}");
                if there && cut > 64 << 10 {
                    assert!(found == frame(pfn), "{name} cut at {cut:#x}: {pfn:#x}");
                }
            }
        }
        // Any byte of the headers changed: refused or read, never a panic.
        for byte in (0..500).chain(4096..4250) {
            let mut bytes = whole.clone();
            bytes[byte] ^= 0xff;
            fs::write(&damaged, &bytes).unwrap();
            if let Ok(vmcore) = Vmcore::open(&damaged) {
                let mut found = vec![0; FRAME];
                let _ = vmcore.read(PhysAddr(0x40001 * FRAME_SIZE), &mut found);
                vmcore.image();
            }
        }
    }
    fs::write(&damaged, [7; 9000]).unwrap();
    let refused = Vmcore::open(&damaged).err().unwrap();
    assert!(matches!(refused, InputError::Unknown(_)), "{refused}");
}

/// Memory that lies high: the bitmaps are long, the file is not.
#[test]
fn memory_at_a_high_address_makes_a_sparse_file() {
    use std::os::unix::fs::MetadataExt;

    struct High;
    const BASE: u64 = 0x4001_0000_0000;
    impl PhysMem for High {
        fn read(
            &self,
            at: PhysAddr,
            into: &mut [u8],
        ) -> Result<(), kdraw_linux::memory::Unreadable> {
            for (at, byte) in (at.0..).zip(into) {
                *byte = (at / FRAME_SIZE % 251) as u8;
            }
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut known = kdraw::frames::FrameSet::default();
    let first = BASE / FRAME_SIZE;
    // Pages of 64 KiB: the first frames of page 1 are missing, so all of it is.
    known.add(kdraw_format::addr::Pfn(first), 16);
    known.add(kdraw_format::addr::Pfn(first + 20), 60);
    known.tidy();
    let mut notes = notes();
    let old = b"PAGESIZE=4096\nC";
    let at = notes.windows(old.len()).position(|text| text == old);
    let at = at.unwrap();
    notes[at..at + old.len()].copy_from_slice(b"PAGESIZE=65536\n");
    let mut image = kdraw::output::Image {
        memory: &High,
        ram: known.clone(),
        known,
        notes,
        incomplete: false,
        level: 31,
        uname: Default::default(),
        crash_time: 5,
    };
    image.find_uname();
    let path = folder.path().join("high");
    let file = fs::File::create(&path).unwrap();
    let mut sink = SparseFile::new(&file, &path);
    let format = Format::Kdump(Compression::Zlib);
    let written = write(&image, format, &mut sink, &mut |_, _, _| {}).unwrap();
    assert_eq!((written.frames, written.partial), (16 + 48, 12));
    let metadata = file.metadata().unwrap();
    // A bit per page of 64 KiB in each of two bitmaps.
    assert_eq!(metadata.len(), written.bytes);
    assert!(written.bytes > 2 * (BASE >> 16) / 8, "{written:?}");
    assert!(metadata.blocks() * 512 < 1 << 20, "{metadata:?}");
    let vmcore = Vmcore::open(&path).unwrap();
    assert!(!vmcore.is_incomplete());
    assert_eq!(
        vmcore.known().ranges(),
        [(first, first + 16), (first + 32, first + 80)]
    );
    assert_eq!(vmcore.image().level, 31);
    let mut found = vec![0; 3 * FRAME];
    vmcore
        .read(PhysAddr(BASE + 37 * FRAME_SIZE - 5), &mut found)
        .unwrap();
    let mut expected = vec![0; 3 * FRAME];
    High.read(PhysAddr(BASE + 37 * FRAME_SIZE - 5), &mut expected)
        .unwrap();
    assert!(found == expected);
    // A stream has its holes written out: never with bitmaps of gigabytes, but here.
    let mut flat = Vec::new();
    let mut sink = Flattened::new(&mut flat, "x".into());
    write(&image, Format::Elf, &mut sink, &mut |_, _, _| {}).unwrap();
    fs::write(&path, flat).unwrap();
    assert_eq!(Vmcore::open(&path).unwrap().known().count(), 76);
}
