//! A fake system with a synthetic kernel: /proc/kcore, /proc/kpageflags and /proc/meminfo as files.

use std::fs;
use std::os::unix::fs::FileExt;

use kdraw_tests::kernel::{IMAGE_LEN, KERNEL, Kernel, Page, RAM, RAM_LEN, SHAPES, VERSIONS};
use serde_json::Value;

use super::FakeSystem;

const KPF_LRU: u64 = 1 << 5;
pub const KPF_BUDDY: u64 = 1 << 10;
const KPF_ANON: u64 = 1 << 12;
const KPF_RESERVED: u64 = 1 << 32;

/// Where the parts of the file lie.
const NOTES: u64 = 0x1000;
const MEMORY: u64 = 0x10000;

/// MiB of each kind of page, behind the image and what the kernel keeps there.
pub const FREE: u64 = 2;
pub const CACHE: u64 = 3;
pub const USER: u64 = 1;

/// A machine that runs a kernel, signed and ready.
pub struct Board {
    pub system: FakeSystem,
    pub kernel: Kernel,
    pub flags: Vec<u64>,
}

impl Board {
    /// A kernel of the version and the shape of these numbers.
    pub fn new(version: usize, shape: usize) -> Self {
        let mut kernel = Kernel::new(VERSIONS[version], SHAPES[shape]);
        let per_mib = (1 << 20) / kernel.page_size();
        let mut flags = vec![0; (RAM / kernel.page_size() + kernel.pages()) as usize];
        let first = RAM / kernel.page_size();
        let mut mark = |pages: std::ops::Range<u64>, word| {
            for page in pages {
                flags[(first + page) as usize] = word;
            }
        };
        mark(0..IMAGE_LEN / kernel.page_size(), KPF_RESERVED);
        let mut at = 10 * per_mib;
        // As a page of 64 KiB is one, blocks are of one page.
        for page in at..at + FREE * per_mib {
            kernel.free(page, 0);
        }
        mark(at..at + FREE * per_mib, KPF_BUDDY);
        at += FREE * per_mib;
        let lru = kernel.flag("lru");
        for (mib, mapping, word) in [(CACHE, 0, KPF_LRU), (USER, 1, KPF_LRU | KPF_ANON)] {
            for page in at..at + mib * per_mib {
                let flags = lru | 1 << 62;
                let mapping = 0xffff_0000_0123_4500 | mapping;
                let page_is = Page {
                    flags,
                    mapping,
                    ..KERNEL
                };
                kernel.put(page, page_is);
            }
            mark(at..at + mib * per_mib, word);
            at += mib * per_mib;
        }
        let board = Self {
            system: FakeSystem::new(),
            kernel,
            flags,
        };
        board.system.put(
            "proc/iomem",
            "40000000-40ffffff : System RAM\n7f000000-7f7fffff : System RAM\n  \
             7f000000-7f7fffff : Crash kernel\n",
        );
        let (code, text) = board.system.kdraw(&["format", "DEVICE"]);
        assert_eq!(code, 0, "{text}");
        board.write_kcore(true);
        board.write_flags();
        board.write_meminfo(FREE, CACHE, USER);
        board
    }

    pub fn write_flags(&self) {
        let words = self.flags.iter().flat_map(|word| word.to_le_bytes());
        self.system
            .put("proc/kpageflags", words.collect::<Vec<_>>());
    }

    pub fn write_meminfo(&self, free: u64, cache: u64, user: u64) {
        let [free, cache, user] = [free, cache, user].map(|mib| mib << 10);
        self.system.put(
            "proc/meminfo",
            format!("MemFree: {free} kB\nCached: {cache} kB\nAnonPages: {user} kB\n"),
        );
    }

    /// The running kernel's memory, with VMCOREINFO in a note or, as before 4.19, without.
    pub fn write_kcore(&self, with_info: bool) {
        let name = if with_info {
            b"VMCOREINFO\0\0"
        } else {
            b"SOMETHING\0\0\0"
        };
        let note = note(name, &self.kernel.text);
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(64, 0);
        for (at, value) in [(32, 64u64), (54, 56), (56, 3)] {
            head[at..at + 2].copy_from_slice(&value.to_le_bytes()[..2]);
        }
        let nowhere = u64::MAX;
        for (kind, offset, virt, phys, len) in [
            (4u32, NOTES, 0, 0, note.len() as u64),
            (1, 0x7000_0000, 0xffff_8000_0000_0000, nowhere, 1 << 40),
            (1, MEMORY, 0xffff_0000_0000_0000, RAM, RAM_LEN),
        ] {
            head.extend(kind.to_le_bytes());
            head.extend([0; 4]);
            for word in [offset, virt, phys, len, len, 0] {
                head.extend(word.to_le_bytes());
            }
        }
        self.system.put("proc/kcore", &head);
        let path = self.system.path("proc/kcore");
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&note, NOTES).unwrap();
        file.set_len(MEMORY + RAM_LEN).unwrap();
        for page in self.kernel.ram.pages() {
            let mut bytes = [0; 4096];
            let memory: &dyn kdraw_linux::memory::PhysMem = &self.kernel.ram;
            let at = kdraw_format::addr::PhysAddr(page);
            memory.read(at, &mut bytes).unwrap();
            file.write_all_at(&bytes, MEMORY + page - RAM).unwrap();
        }
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.system.path(path)).unwrap();
    }

    pub fn estimate(&self, options: &[&str]) -> (i32, Value) {
        let (code, text) = self
            .system
            .kdraw(&[&["estimate", "--json"], options].concat());
        let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        (code, json)
    }
}

pub fn note(name: &[u8; 12], text: &str) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [11, text.len() as u32, 0] {
        note.extend(word.to_le_bytes());
    }
    note.extend(name);
    note.extend(text.as_bytes());
    note.resize(note.len().next_multiple_of(4), 0);
    note
}
