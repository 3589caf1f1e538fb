//! What the integration tests share: synthetic dumps and fake systems.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kdraw::commands::format;
use kdraw::partition::DumpPartition;
use kdraw::source::{Access, Source};
use kdraw::system::System;
use kdraw_format::addr::{PartOffset, Pfn, PhysAddr, PhysRange};
use kdraw_format::black_box::{BLACK_BOX_CHUNK, tag};
use kdraw_format::checksum::checksum;
use kdraw_format::chunk::{ChunkSpec, Codec, Content, Kind, MAX_CHUNK, Run, data_offset, seal};
use kdraw_format::layout::{DATA_START, START_UNKNOWN, SlotPlace, Superblock};
use kdraw_format::memory_map::{Fate, MapEntry};
use kdraw_format::records::RecordWriter;
use kdraw_format::slot::{Outcome, SlotHeader};
use kdraw_format::trailer::{self, CoreSums};

pub const FRAME: usize = 4096;
/// The synthetic machine's RAM: frames, in two ranges.
pub const RAM: [(u64, u64); 2] = [(0x40000, 0x40050), (0x40080, 0x400a0)];
/// Frames that read as unreadable.
pub const UNREADABLE: (u64, u64) = (0x40010, 0x40012);
/// Frames told to be zero.
pub const ZERO: (u64, u64) = (0x40090, 0x40094);
pub const CRASH_TIME: u64 = 1_795_225_170;
pub const REASON: &str = "Kernel panic - not syncing: sysrq triggered crash";
pub const LOG: &str = "[    0.000000] Booting\n[    9.000000] Kernel panic - not syncing\n";

/// A random number generator for tests, the same on every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What a frame holds; every seventh holds zeros.
pub fn frame(pfn: u64) -> Vec<u8> {
    if pfn.is_multiple_of(7) || (ZERO.0..ZERO.1).contains(&pfn) {
        return vec![0; FRAME];
    }
    let mut random = Random(pfn.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..FRAME).map(|_| random.below(256) as u8).collect()
}

pub fn is_unreadable(pfn: u64) -> bool {
    (UNREADABLE.0..UNREADABLE.1).contains(&pfn)
}

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

/// A chunk that was written: where its bytes are on the partition, and its stored frames.
pub struct Written {
    pub bytes: std::ops::Range<u64>,
    pub frames: Vec<u64>,
}

/// Writes a dump as the payload does.
pub struct DumpWriter {
    partition: DumpPartition,
    slot: SlotPlace,
    id: [u8; 16],
    at: u64,
    sequence: u64,
    pub written: Vec<Written>,
}

impl DumpWriter {
    pub fn new(path: &Path, slot: u32, id: u8) -> Self {
        let partition = open(path);
        let slot = partition.slot(slot).unwrap();
        Self {
            partition,
            slot,
            id: [id; 16],
            at: 0,
            sequence: 0,
            written: Vec::new(),
        }
    }

    pub fn chunk(&mut self, kind: Kind, runs: &[Run], data: &[u8]) {
        let mut buffer = vec![0; MAX_CHUNK];
        buffer[data_offset(runs.len())..][..data.len()].copy_from_slice(data);
        let spec = ChunkSpec {
            kind,
            codec: Codec::Raw,
            dump_id: self.id,
            sequence: self.sequence,
            stream_offset: self.at,
            runs,
            stored_len: data.len(),
            raw_len: data.len(),
        };
        let len = seal(&mut buffer, &spec).unwrap();
        let start = self.slot.stream_start().0 + self.at;
        self.partition
            .source
            .write_at(PartOffset(start), &buffer[..len])
            .unwrap();
        let stored = runs.iter().filter(|run| run.content == Content::Stored);
        self.written.push(Written {
            bytes: start..start + len as u64,
            frames: stored
                .flat_map(|run| run.first.0..run.first.0 + u64::from(run.frames))
                .collect(),
        });
        self.at += len as u64;
        self.sequence += 1;
    }

    /// Black box, memory map, notes, log.
    pub fn begin(&mut self) {
        let mut data = vec![0; BLACK_BOX_CHUNK - 256];
        let mut records = RecordWriter::new(&mut data);
        records.put(tag::REASON, &[REASON.as_bytes()]);
        records.put(tag::OS_RELEASE, &[b"6.1.0-test-arm64"]);
        records.put(tag::CRASH_TIME, &[&CRASH_TIME.to_le_bytes()]);
        records.put(tag::LOG_TAIL, &[LOG.as_bytes()]);
        let len = records.len();
        self.chunk(Kind::BlackBox, &[], &data[..len]);
        let map: Vec<u8> = RAM
            .iter()
            .flat_map(|(first, end)| {
                let range = PhysRange {
                    start: PhysAddr(first << 12),
                    end: PhysAddr(end << 12),
                };
                let fate = Fate::Memory;
                MapEntry { range, fate }.encode()
            })
            .collect();
        self.chunk(Kind::MemoryMap, &[], &map);
        self.chunk(Kind::Notes, &[], &notes());
        self.chunk(Kind::KernelLog, &[], LOG.as_bytes());
    }

    /// All pages, eight frames to a chunk.
    pub fn pages(&mut self) {
        for (first, end) in RAM {
            for first in (first..end).step_by(8) {
                let mut runs: Vec<Run> = Vec::new();
                let mut data = Vec::new();
                for pfn in first..(first + 8).min(end) {
                    let content = if is_unreadable(pfn) {
                        Content::Unreadable
                    } else if (ZERO.0..ZERO.1).contains(&pfn) {
                        Content::Zero
                    } else {
                        data.extend(frame(pfn));
                        Content::Stored
                    };
                    match runs.last_mut() {
                        Some(last) if last.content == content => last.frames += 1,
                        _ => runs.push(Run {
                            first: Pfn(pfn),
                            frames: 1,
                            content,
                            ..Run::default()
                        }),
                    }
                }
                self.chunk(Kind::Pages, &runs, &data);
            }
        }
    }

    /// Trailer and header.
    pub fn end(mut self, plain_len: u64) -> Vec<Written> {
        let frames = self
            .written
            .iter()
            .map(|chunk| chunk.frames.len())
            .sum::<usize>() as u64;
        let unreadable = UNREADABLE.1 - UNREADABLE.0;
        let mut data = vec![0; 1024];
        let mut records = RecordWriter::new(&mut data);
        let counts = [frames, unreadable, 0, self.sequence].map(u64::to_le_bytes);
        records.put(trailer::tag::COUNTS, &counts.each_ref().map(|c| &c[..]));
        records.put(trailer::tag::PHASES, &[b"check=12\npages=345\n"]);
        let len = records.len();
        self.chunk(Kind::Trailer, &[], &data[..len]);
        let header = SlotHeader {
            outcome: Outcome::Complete,
            index: self.slot.index,
            generation: 3,
            dump_id: self.id,
            stream_len: self.at,
            chunks: self.sequence,
            frames,
            unreadable,
            elapsed_us: 345,
            plain_len,
            ..SlotHeader::default()
        };
        self.partition.write_header(&self.slot, &header).unwrap();
        self.written
    }
}

/// A whole dump in a slot.
pub fn dump(path: &Path, slot: u32, id: u8) -> Vec<Written> {
    let mut writer = DumpWriter::new(path, slot, id);
    writer.begin();
    writer.pages();
    writer.end(0)
}

/// A plain partition with a core of all of RAM, which is returned.
pub fn plain_dump(path: &Path) -> Vec<u8> {
    let segments = RAM.map(|(first, end)| PhysRange {
        start: PhysAddr(first << 12),
        end: PhysAddr(end << 12),
    });
    let notes = notes();
    let layout =
        kdraw_linux::core_elf::CoreLayout::new(&segments, None, None, notes.len()).unwrap();
    let mut core = vec![0; layout.header_len() as usize];
    layout.write_header(&notes, false, &mut core).unwrap();
    for (first, end) in RAM {
        core.extend((first..end).flat_map(frame));
    }
    let piece = 64 << 10;
    let mut sums = CoreSums::head(piece as u64, core.len() as u64).to_vec();
    for piece in core.chunks(piece) {
        sums.extend(checksum(piece).to_le_bytes());
    }
    let mut writer = DumpWriter::new(path, 0, 9);
    writer.begin();
    writer
        .partition
        .source
        .write_at(PartOffset(DATA_START), &core)
        .unwrap();
    writer.chunk(Kind::CoreSums, &[], &sums);
    writer.end(core.len() as u64);
    core
}

/// One note: VMCOREINFO with too little in it to find the ring buffer.
fn notes() -> Vec<u8> {
    let text = b"OSRELEASE=6.1.0-test-arm64\nPAGESIZE=4096\nCRASHTIME=1795225170\n";
    let mut notes = Vec::new();
    for word in [11, text.len() as u32, 0] {
        notes.extend(word.to_le_bytes());
    }
    notes.extend(b"VMCOREINFO\0\0");
    notes.extend(text);
    notes.resize(notes.len().next_multiple_of(4), 0);
    notes
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

    pub fn load(&self) -> (i32, String) {
        self.kdraw(&["load", "--target", "DEVICE", "--payload", "PAYLOAD"])
    }
}
