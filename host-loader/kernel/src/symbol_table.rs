//! Named addresses, found by address and by name.

use std::cell::OnceCell;

/// The most bytes of names in one table.
pub const MAX_TEXT: usize = 64 << 20;
/// The most symbols of one address that are passed over in search of the next.
const MAX_ALIASES: usize = 64;

/// A symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub address: u64,
    /// Bytes up to the next symbol, or as its ELF symbol says; 0 if nothing tells.
    pub size: u64,
    /// The letter that `nm` gives it: `T` and `t` text, `D` and `d` data, `W` and `w` weak, …
    pub kind: char,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    /// Where its name begins and how long it is.
    name: u32,
    len: u16,
    kind: u8,
    /// As an ELF symbol tells it, or 0.
    size: u32,
}

/// Symbols, sorted by address; those of one address in the order in which they were added.
#[derive(Debug, Default)]
pub struct SymbolTable {
    entries: Vec<Entry>,
    text: String,
    /// Hash of the name and number of the entry.
    by_name: OnceCell<Vec<(u32, u32)>>,
}

impl SymbolTable {
    /// Adds a symbol; false if the table is full.
    pub fn push(&mut self, name: &str, address: u64, kind: char, size: u64) -> bool {
        let room = self.text.len().saturating_add(name.len()) <= MAX_TEXT;
        let (Ok(start), Ok(len), true) = (
            u32::try_from(self.text.len()),
            u16::try_from(name.len()),
            room,
        ) else {
            return false;
        };
        self.text.push_str(name);
        self.entries.push(Entry {
            address,
            name: start,
            len,
            kind: u8::try_from(kind).unwrap_or(b'?'),
            size: u32::try_from(size).unwrap_or(u32::MAX),
        });
        true
    }

    /// Sorts; to be called after the last [`push`](Self::push).
    pub fn finish(&mut self) {
        self.entries.sort_by_key(|entry| entry.address);
        self.entries.shrink_to_fit();
        self.by_name = OnceCell::new();
    }

    /// How many symbols there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All symbols, by address.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        (0..self.entries.len()).filter_map(|index| self.symbol(index))
    }

    /// The symbol that an address lies in: the first of those with the highest address that is
    /// not above it, as the kernel chooses.
    pub fn at(&self, address: u64) -> Option<Symbol<'_>> {
        let after = self
            .entries
            .partition_point(|entry| entry.address <= address);
        let start = self.entries.get(after.checked_sub(1)?)?.address;
        let first = self.entries.partition_point(|entry| entry.address < start);
        let symbol = self.symbol(first)?;
        let offset = address.wrapping_sub(start);
        // Nothing is known of what lies behind the last symbol, nor behind one that marks an end.
        let in_reach = match symbol.size {
            0 => offset == 0,
            size => offset < size,
        };
        (in_reach && (offset == 0 || !marks_end(symbol.name))).then_some(symbol)
    }

    /// The symbols of a name, by address.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Symbol<'a>> {
        let index = self.by_name.get_or_init(|| {
            let hashes = (0u32..).zip(&self.entries);
            let hashes = hashes.map(|(number, entry)| (hash(self.name(entry)), number));
            let mut hashes: Vec<_> = hashes.collect();
            hashes.sort_unstable();
            hashes
        });
        let wanted = hash(name);
        let from = index.partition_point(|(hash, _)| *hash < wanted);
        let equal = index.get(from..).unwrap_or_default().iter();
        equal
            .take_while(move |(hash, _)| *hash == wanted)
            .filter_map(|(_, number)| self.symbol(*number as usize))
            .filter(move |symbol| symbol.name == name)
    }

    fn name(&self, entry: &Entry) -> &str {
        let start = entry.name as usize;
        let end = start.saturating_add(entry.len.into());
        self.text.get(start..end).unwrap_or_default()
    }

    fn symbol(&self, index: usize) -> Option<Symbol<'_>> {
        let entry = self.entries.get(index)?;
        let next = self.entries.get(index..)?.iter().take(MAX_ALIASES);
        let next = next.map(|next| next.address);
        let next = next
            .skip_while(|next| *next == entry.address)
            .map(|next| next.wrapping_sub(entry.address))
            .next();
        Some(Symbol {
            name: self.name(entry),
            address: entry.address,
            size: match entry.size {
                0 => next.unwrap_or(0),
                size => next.unwrap_or(u64::MAX).min(size.into()),
            },
            kind: char::from(entry.kind),
        })
    }
}

/// Whether a symbol is the end of something and not the start of what follows.
fn marks_end(name: &str) -> bool {
    matches!(name, "_etext" | "_einittext" | "_edata" | "_end") || name.ends_with("_end")
}

/// FNV-1a: spreads names, no more.
pub(crate) fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_found_by_address_and_by_name() {
        let mut table = SymbolTable::default();
        for (name, address, kind, size) in [
            ("late", 0x3000, 't', 0),
            ("alias", 0x2000, 'T', 0),
            ("other", 0x2000, 'T', 0),
            ("_etext", 0x2800, 'T', 0),
            ("early", 0x1000, 't', 0x10),
            ("late", 0x1800, 't', 0),
        ] {
            assert!(table.push(name, address, kind, size));
        }
        table.finish();
        let at = |address| table.at(address).map(|found| found.name);
        assert_eq!(at(0xfff), None);
        assert_eq!(at(0x100f), Some("early"));
        assert_eq!(at(0x1010), None, "its size says that it ends there");
        assert_eq!(at(0x27ff), Some("alias"), "the first of one address");
        assert_eq!(at(0x2800), Some("_etext"));
        assert_eq!(at(0x2801), None, "behind an end is something else");
        assert_eq!((at(0x3000), at(0x3001)), (Some("late"), None));
        let late: Vec<u64> = table.named("late").map(|found| found.address).collect();
        assert_eq!(late, [0x1800, 0x3000]);
        assert_eq!(table.named("absent").count(), 0);
        assert_eq!(table.at(0x2000).map(|found| found.size), Some(0x800));
    }
}
