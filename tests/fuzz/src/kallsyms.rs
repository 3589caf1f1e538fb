//! kallsyms of any bytes.

use kdraw_kernel::kallsyms;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::{Input, VA, image};

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
    let virt = image(input.0);
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
