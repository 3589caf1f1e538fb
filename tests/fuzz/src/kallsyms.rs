//! kallsyms of any bytes.

use kdraw_format::addr::{KernelVirtAddr, PhysAddr};
use kdraw_kernel::kallsyms;
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::Input;

/// Where the image begins.
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

/// The input's first bytes say where the tables are and which there are, the rest is the memory.
pub(crate) fn kallsyms(data: &[u8]) {
    let mut input = Input(data);
    let forms: [&[&str]; 3] = [&["addresses"], &["offsets", "relative_base"], &["offsets"]];
    let form = forms[input.below(3) as usize];
    let mut info = String::new();
    let tables = ["names", "num_syms", "token_table", "token_index"];
    for name in tables.iter().chain(form) {
        let at = VA + input.below(4096);
        info.push_str(&format!("SYMBOL(kallsyms_{name})={at:x}\n"));
    }
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
    let virt = VirtMem::new(Image(input.0), layout);
    let Ok(table) = kallsyms::read(&virt, &Vmcoreinfo::new(info.as_bytes())) else {
        return;
    };
    let mut before = 0;
    for symbol in table.iter() {
        assert!(symbol.address >= before, "not sorted");
        before = symbol.address;
        if let Some(found) = table.at(symbol.address) {
            assert_eq!(found.address, symbol.address);
        }
        assert!(table.named(symbol.name).any(|found| found == symbol));
    }
}
