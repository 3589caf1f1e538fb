//! Memory of a kernel that never ran.

use std::collections::BTreeMap;

use kdraw_format::addr::{KernelVirtAddr, PhysAddr};
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::notes::{NoteWriter, VMCOREINFO_NAME};
use kdraw_linux::translate::VirtMem;

use crate::Options;
use crate::btf::tests::Writer;

/// The image's address that offset 0 of [`Ram`] has.
pub const VA: u64 = 0xffff_8000_8000_0000;
/// The physical one.
pub const PA: u64 = 0x4000_0000;

/// Sparse memory, by offset from the image's start: what was never put there is absent.
#[derive(Default)]
pub struct Ram {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Ram {
    pub fn put_words(&mut self, at: u64, words: &[u64]) {
        for (at, word) in (at..).step_by(8).zip(words) {
            self.put(at, &word.to_le_bytes());
        }
    }

    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let page = self.pages.entry(at / 4096).or_insert_with(|| vec![0; 4096]);
            page[(at % 4096) as usize] = *byte;
        }
    }
}

impl PhysMem for Ram {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        for (at, byte) in (at.0..).zip(into) {
            let offset = at.wrapping_sub(PA);
            let page = self.pages.get(&(offset / 4096));
            *byte = page.ok_or(Unreadable { at: PhysAddr(at) })?[(offset % 4096) as usize];
        }
        Ok(())
    }
}

/// Its virtual memory. There are no page tables: the image's formula finds it.
pub fn virt(ram: &Ram) -> VirtMem<&Ram> {
    let layout = KernelLayout {
        page_shift: 12,
        va_bits: 48,
        va_bits_actual: 48,
        page_offset: 0xffff_0000_0000_0000,
        phys_offset: 0,
        kimage_voffset: VA - PA,
        swapper_pg_dir: KernelVirtAddr(VA - 0x1000),
        stext: KernelVirtAddr(VA + 0x10000),
    };
    VirtMem::new(ram, layout)
}

/// Its notes: VMCOREINFO with what every kernel writes.
pub fn notes() -> Vec<u8> {
    let text = format!(
        "PAGESIZE=4096\nSYMBOL(swapper_pg_dir)={:x}\nSYMBOL(_stext)={:x}\nNUMBER(VA_BITS)=48\n\
         NUMBER(TCR_EL1_T1SZ)=0x10\nNUMBER(kimage_voffset)=0x{:x}\nNUMBER(PHYS_OFFSET)=0x0\n",
        VA - 0x1000,
        VA + 0x10000,
        VA - PA
    );
    let mut notes = vec![0; 4096];
    let mut writer = NoteWriter::new(&mut notes, 0);
    writer.push(VMCOREINFO_NAME, 0, text.as_bytes()).unwrap();
    let len = writer.len();
    notes.truncate(len);
    notes
}

/// Puts types at an offset, and names them as the kernel's.
pub fn with_types(ram: &mut Ram, at: u64, types: &Writer, symbols: &[(&str, u64)]) -> Options {
    ram.put(at, &types.blob());
    let types = [("__start_BTF", at)];
    let all = symbols.iter().chain(&types);
    let lines = all.map(|(name, at)| format!("{:x} D {name}\n", VA + at));
    Options {
        system_map: Some(lines.collect::<String>().into_bytes()),
    }
}
