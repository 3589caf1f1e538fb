//! Fuzz targets: what reads foreign bytes, fed with any bytes.
//!
//! A target ends, does not panic, and keeps its promises, whatever it is fed. `cargo xtask fuzz`
//! feeds it with libFuzzer's inputs, by the program in `main.rs`; `tests/corpus.rs` with the
//! seeds in `corpus/`, a folder per target. An input that was found to break a target becomes a
//! seed when the target is mended.

mod btf;
mod classifier;
mod device_tree;
mod dump;
mod elfcorehdr;
mod kallsyms;
mod serial_link;
mod vmcoreinfo;

use kdraw_format::addr::PhysAddr;
use kdraw_linux::memory::{PhysMem, Unreadable};

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 9] = [
    ("classifier", classifier::classifier),
    ("vmcoreinfo", vmcoreinfo::vmcoreinfo),
    ("device_tree", device_tree::device_tree),
    ("dump", dump::dump),
    ("elfcorehdr", elfcorehdr::elfcorehdr),
    ("serial_receiver", serial_link::receiver),
    ("serial_sender", serial_link::sender),
    ("kallsyms", kallsyms::kallsyms),
    ("btf", btf::btf),
];

/// Memory that has the input everywhere, over and over.
struct Echo<'a>(&'a [u8]);

impl PhysMem for Echo<'_> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        if self.0.is_empty() {
            return Err(Unreadable { at });
        }
        let start = (at.0 % self.0.len() as u64) as usize;
        for (into, from) in into.iter_mut().zip(self.0.iter().cycle().skip(start)) {
            *into = *from;
        }
        Ok(())
    }
}

/// Takes numbers from the input, zeros after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.0.split_at(self.0.len().min(N));
        self.0 = later;
        let mut bytes = [0; N];
        bytes[..now.len()].copy_from_slice(now);
        bytes
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: u64) -> u64 {
        u64::from(u16::from_le_bytes(self.bytes())) % limit
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}
