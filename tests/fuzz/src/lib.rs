//! Fuzz targets: what reads foreign bytes, fed with any bytes.
//!
//! A target ends, does not panic, and keeps its promises, whatever it is fed. `cargo xtask fuzz`
//! feeds it with libFuzzer's inputs, by the program in `main.rs`; `tests/corpus.rs` with the
//! seeds in `corpus/`, a folder per target. An input that was found to break a target becomes a
//! seed when the target is mended.

mod btf;
mod classifier;
mod device_tree;
mod diagnosis;
mod dump;
mod elfcorehdr;
mod kallsyms;
mod printk;
mod serial_link;
mod vmcore;
mod vmcoreinfo;

use kdraw_format::addr::{KernelVirtAddr, PhysAddr};
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::translate::VirtMem;

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 14] = [
    ("classifier", classifier::classifier),
    ("vmcoreinfo", vmcoreinfo::vmcoreinfo),
    ("device_tree", device_tree::device_tree),
    ("dump", dump::dump),
    ("elfcorehdr", elfcorehdr::elfcorehdr),
    ("serial_receiver", serial_link::receiver),
    ("serial_sender", serial_link::sender),
    ("kallsyms", kallsyms::kallsyms),
    ("btf", btf::btf),
    ("printk", printk::printk),
    ("diagnosis", diagnosis::diagnosis),
    ("elf_core", vmcore::elf_core),
    ("kdump_file", vmcore::kdump_file),
    ("flattened", vmcore::flattened),
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

/// Where a kernel's image begins.
const VA: u64 = 0xffff_8000_8000_0000;
const PA: u64 = 0x4000_0000;

/// Memory that ends with the input.
struct Image<'a>(&'a [u8]);

impl PhysMem for Image<'_> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        // In whole pages, as dumps have them: zeros behind the input's last byte.
        let start = at.0.checked_sub(PA).ok_or(Unreadable { at })? as usize;
        let end = start.checked_add(into.len()).ok_or(Unreadable { at })?;
        if end > self.0.len().next_multiple_of(4096) {
            return Err(Unreadable { at });
        }
        let rest = self.0.get(start..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into.fill(0);
        into[..len].copy_from_slice(&rest[..len]);
        Ok(())
    }
}

/// The memory of a kernel whose image is the input.
fn image(data: &[u8]) -> VirtMem<Image<'_>> {
    let layout = KernelLayout {
        page_shift: 12,
        va_bits: 48,
        va_bits_actual: 48,
        page_offset: 0xffff_0000_0000_0000,
        phys_offset: 0,
        kimage_voffset: VA - PA,
        swapper_pg_dir: KernelVirtAddr(VA - 0x1000),
        stext: KernelVirtAddr(VA + 0x1_0000),
    };
    VirtMem::new(Image(data), layout)
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
