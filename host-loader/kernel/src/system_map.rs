//! System.map: the symbols that a build leaves beside the kernel, for kernels that do not name
//! their kallsyms (before 6.0).
//!
//! Lines of address, type and name, as linked; KASLR moved all of them by VMCOREINFO's
//! `KERNELOFFSET`.
//!
//! Source: `scripts/mksysmap`, nm(1).

use crate::symbol_table::SymbolTable;

/// Reads the text of a System.map. Lines that are none are passed over.
pub fn read(text: &[u8], kernel_offset: u64) -> SymbolTable {
    let mut table = SymbolTable::default();
    for line in text.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let address = u64::from_str_radix(address, 16);
        let (Ok(address), Some(kind)) = (address, kind.chars().next()) else {
            continue;
        };
        // Absolute symbols are numbers: KASLR does not move them.
        let address = match kind {
            'A' | 'a' => address,
            _ => address.wrapping_add(kernel_offset),
        };
        if !table.push(name, address, kind, 0) {
            break;
        }
    }
    table.finish();
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_moved() {
        let text = b"ffff800008000000 T _text\nnonsense\nffff800008010000 t do_it\n\
            0000000000001000 A _kernel_size_le\n12 T\n";
        let table = read(text, 0x20_0000);
        let found: Vec<_> = table
            .iter()
            .map(|found| (found.name.to_owned(), found.address, found.kind))
            .collect();
        let found: Vec<_> = found
            .iter()
            .map(|(name, address, kind)| (name.as_str(), *address, *kind))
            .collect();
        assert_eq!(
            found,
            [
                ("_kernel_size_le", 0x1000, 'A'),
                ("_text", 0xffff_8000_0820_0000, 'T'),
                ("do_it", 0xffff_8000_0821_0000, 't'),
            ]
        );
    }
}
