//! kallsyms: the symbols that the kernel carries, by VMCOREINFO.
//!
//! - `kallsyms_names`: for each symbol a length and as many bytes, each the number of a token;
//!   a length above 127 has a second byte with its higher bits (since 6.1). The first letter of
//!   the tokens put together is the symbol's type, as `nm` writes it.
//! - `kallsyms_token_table`: 256 strings, each ended by a zero; `kallsyms_token_index`: where
//!   each begins, `u16`.
//! - addresses, in one of three forms, told apart by the keys: `kallsyms_addresses` as they are
//!   (`!CONFIG_KALLSYMS_BASE_RELATIVE`); `kallsyms_offsets`, unsigned 32 bits, from what
//!   `kallsyms_relative_base` holds; `kallsyms_offsets` alone (7.0, a081b5789255), signed 32
//!   bits, each from its own place.
//!
//! Kernels before 6.0 name none of them (5fd8fea935a1); a System.map stands in, see
//! [`crate::system_map`].
//!
//! Source: `scripts/kallsyms.c`, `kernel/kallsyms.c`, `kernel/kallsyms_internal.h`.

use kdraw_format::addr::KernelVirtAddr;
use kdraw_linux::bytes::{u16_at, u32_at, u64_at};
use kdraw_linux::memory::PhysMem;
use kdraw_linux::translate::{TranslateError, VirtMem};
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::read::Piecewise;
use crate::symbol_table::SymbolTable;

/// The most symbols that are read; 7.2 has 210,000.
const MAX_SYMBOLS: u32 = 4 << 20;
/// The longest name that is kept, with its type (`KSYM_NAME_LEN` is 512).
const MAX_NAME: usize = 1024;
const TOKENS: usize = 256;

/// Why there are no symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KallsymsError {
    /// A kernel before 6.0, or one without `CONFIG_KALLSYMS`.
    #[error(
        "VMCOREINFO has no SYMBOL({0}): the kernel is older than 6.0 or has no kallsyms; give \
         its System.map with --system-map"
    )]
    Missing(&'static str),
    /// A table cannot be read.
    #[error("kallsyms cannot be read: {0}")]
    Unreadable(#[from] TranslateError),
    /// A table's content makes no sense.
    #[error("kallsyms makes no sense: {what} {found:#x}")]
    Absurd {
        /// Which number.
        what: &'static str,
        /// What stands there.
        found: u64,
    },
}

/// How addresses are stored.
enum Addresses {
    /// 64 bits each.
    Absolute,
    /// Unsigned 32 bits from a base.
    Relative(u64),
    /// Signed 32 bits from the place of the first, plus four for each that follows.
    Place(u64),
}

impl Addresses {
    fn width(&self) -> usize {
        match self {
            Self::Absolute => 8,
            Self::Relative(_) | Self::Place(_) => 4,
        }
    }

    fn get(&self, table: &[u8], index: usize) -> Option<u64> {
        let at = index.checked_mul(self.width())?;
        Some(match self {
            Self::Absolute => u64_at(table, at)?,
            Self::Relative(base) => base.wrapping_add(u32_at(table, at)?.into()),
            Self::Place(start) => {
                let offset = i64::from(u32_at(table, at)?.cast_signed());
                start
                    .wrapping_add(at as u64)
                    .wrapping_add(offset.cast_unsigned())
            }
        })
    }
}

/// Tokens by their numbers, each a part of names; what is absent is empty.
type Tokens = Vec<Vec<u8>>;

/// Reads the kernel's symbols; those whose part of a table is absent are left out.
///
/// # Errors
/// [`KallsymsError`].
pub fn read<M: PhysMem>(
    virt: &VirtMem<M>,
    info: &Vmcoreinfo<'_>,
) -> Result<SymbolTable, KallsymsError> {
    let symbol = |name: &'static str| info.symbol(name).ok_or(KallsymsError::Missing(name));
    let names = symbol("kallsyms_names")?;
    let count = virt.read_u32(symbol("kallsyms_num_syms")?)?;
    if count > MAX_SYMBOLS {
        return Err(KallsymsError::Absurd {
            what: "number of symbols",
            found: count.into(),
        });
    }
    let tokens = tokens(
        virt,
        symbol("kallsyms_token_table")?,
        symbol("kallsyms_token_index")?,
    )?;
    let (form, at) = match info.symbol("kallsyms_addresses") {
        Some(at) => (Addresses::Absolute, at),
        None => {
            let at = symbol("kallsyms_offsets")?;
            match info.symbol("kallsyms_relative_base") {
                Some(base) => (Addresses::Relative(virt.read_u64(base)?), at),
                None => (Addresses::Place(at.0), at),
            }
        }
    };
    let len = (count as usize).saturating_mul(form.width());
    let addresses = Piecewise::new(virt, at).up_to(len);
    let mut names = Piecewise::new(virt, names);
    let mut table = SymbolTable::default();
    let mut name = Vec::with_capacity(MAX_NAME);
    for index in 0..count as usize {
        let next = next_name(&mut names, &tokens, &mut name);
        let (Some(()), Some(address)) = (next, form.get(&addresses, index)) else {
            break;
        };
        let Some((kind, name)) = name.split_first() else {
            continue;
        };
        let name = String::from_utf8_lossy(name);
        if !table.push(&name, address, char::from(*kind), 0) {
            break;
        }
    }
    table.finish();
    Ok(table)
}

fn tokens<M: PhysMem>(
    virt: &VirtMem<M>,
    table: KernelVirtAddr,
    index: KernelVirtAddr,
) -> Result<Tokens, KallsymsError> {
    let mut bytes = [0; TOKENS * 2];
    virt.read(index, &mut bytes)?;
    let starts: Vec<u16> = (0..TOKENS)
        .filter_map(|token| u16_at(&bytes, token.saturating_mul(2)))
        .collect();
    // The last token ends somewhere behind where the last begins.
    let last = starts.iter().copied().max().unwrap_or(0);
    let table = Piecewise::new(virt, table).up_to(usize::from(last).saturating_add(MAX_NAME));
    let token = |start: &u16| {
        let rest = table.get(usize::from(*start)..).unwrap_or_default();
        let bytes = rest.iter().take(MAX_NAME).copied();
        bytes.take_while(|byte| *byte != 0).collect()
    };
    Ok(starts.iter().map(token).collect())
}

/// Reads the next symbol's type and name; `None` where the table ends, is absent or makes no sense.
fn next_name<M: PhysMem>(
    names: &mut Piecewise<'_, M>,
    tokens: &[Vec<u8>],
    name: &mut Vec<u8>,
) -> Option<()> {
    name.clear();
    let mut len = usize::from(names.byte()?);
    if len & 0x80 != 0 {
        len = len & 0x7f | usize::from(names.byte()?) << 7;
    }
    // Each token is a letter at least.
    if len > MAX_NAME {
        return None;
    }
    for _ in 0..len {
        let token = tokens.get(usize::from(names.byte()?))?;
        if name.len().saturating_add(token.len()) <= MAX_NAME {
            name.extend_from_slice(token);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::fake::{Ram, VA, virt};

    const TEXT: [(&str, u64); 4] = [
        ("t_first", 0x100),
        ("Tsecond", 0x180),
        ("Wthird.isra.0", 0x180),
        ("d\u{1}odd", 0x9000),
    ];

    /// The tables, laid out in memory as the kernel's linker does; their VMCOREINFO.
    fn kallsyms(ram: &mut Ram, form: &str) -> String {
        let (mut info, mut at) = (String::new(), 0x1000u64);
        let mut put = |name: &str, bytes: &[u8], info: &mut String| {
            let here = VA + at;
            ram.put(at, bytes);
            let _ = writeln!(info, "SYMBOL(kallsyms_{name})={here:x}");
            at += (bytes.len() as u64).next_multiple_of(8) + 8;
            here
        };
        // Every letter is a token of its own; token 1 is "ir".
        let (mut tokens, mut index) = (Vec::new(), Vec::new());
        for byte in 0..=255u8 {
            index.extend((tokens.len() as u16).to_le_bytes());
            match byte {
                0 => {}
                1 => tokens.extend(b"ir"),
                2 => tokens.push(1),
                byte => tokens.push(byte),
            }
            tokens.push(0);
        }
        let mut names = Vec::new();
        for (name, _) in TEXT {
            let mut packed = name.replace('\u{1}', "\u{2}").replace("ir", "\u{1}");
            // The last name is long.
            if name.starts_with('d') {
                packed.push_str(&"x".repeat(200));
            }
            match packed.len() {
                len @ ..128 => names.push(len as u8),
                len => names.extend([0x80 | len as u8 & 0x7f, (len >> 7) as u8]),
            }
            names.extend(packed.as_bytes());
        }
        put("names", &names, &mut info);
        put("num_syms", &(TEXT.len() as u32).to_le_bytes(), &mut info);
        put("token_table", &tokens, &mut info);
        put("token_index", &index, &mut info);
        let base = VA - 0x40;
        let bytes = |of: &dyn Fn(usize, u64) -> Vec<u8>| -> Vec<u8> {
            let each = TEXT.iter().enumerate();
            each.flat_map(|(n, (_, at))| of(n, VA + at)).collect()
        };
        match form {
            "addresses" => {
                put(
                    "addresses",
                    &bytes(&|_, at| at.to_le_bytes().to_vec()),
                    &mut info,
                );
            }
            "relative" => {
                put("relative_base", &base.to_le_bytes(), &mut info);
                let offsets = bytes(&|_, at| ((at - base) as u32).to_le_bytes().to_vec());
                put("offsets", &offsets, &mut info);
            }
            _ => {
                let here = put("offsets", &[0; 16], &mut info);
                let offsets = bytes(&|n, at| {
                    let place = here + 4 * n as u64;
                    (at.wrapping_sub(place) as u32).to_le_bytes().to_vec()
                });
                ram.put(here - VA, &offsets);
            }
        }
        info
    }

    #[test]
    fn every_form_of_addresses_is_read() {
        for form in ["addresses", "relative", "place"] {
            let mut ram = Ram::default();
            let info = kallsyms(&mut ram, form);
            let table = read(&virt(&ram), &Vmcoreinfo::new(info.as_bytes())).unwrap();
            let found: Vec<_> = table
                .iter()
                .map(|found| (found.kind, found.name.to_owned(), found.address))
                .collect();
            let expected: Vec<_> = TEXT
                .iter()
                .map(|(name, at)| {
                    let long = name.starts_with('d');
                    let tail = if long { "x".repeat(200) } else { String::new() };
                    let (kind, name) = name.split_at(1);
                    (
                        kind.chars().next().unwrap(),
                        format!("{name}{tail}"),
                        VA + at,
                    )
                })
                .collect();
            assert_eq!(found, expected, "{form}");
        }
    }

    #[test]
    fn what_is_absent_is_left_out_and_nonsense_is_told() {
        let mut ram = Ram::default();
        let info = kallsyms(&mut ram, "relative");
        let missing = info.replace("kallsyms_names", "k");
        let read = |ram: &Ram, info: &str| {
            read(&virt(ram), &Vmcoreinfo::new(info.as_bytes())).map(|table| table.len())
        };
        assert_eq!(
            read(&ram, &missing),
            Err(KallsymsError::Missing("kallsyms_names"))
        );
        let far = info.replace("kallsyms_offsets)=ffff8", "kallsyms_offsets)=ffff9");
        assert_eq!(read(&ram, &far), Ok(0), "no address, no symbol");
        let line = info.lines().find(|line| line.contains("num_syms")).unwrap();
        let at = u64::from_str_radix(line.split('=').nth(1).unwrap(), 16).unwrap();
        ram.put(at - VA, &u32::MAX.to_le_bytes());
        assert!(matches!(
            read(&ram, &info),
            Err(KallsymsError::Absurd { .. })
        ));
        ram.put(at - VA, &1_000_000u32.to_le_bytes());
        assert!(
            read(&ram, &info).unwrap() < 10_000,
            "it ends with the memory"
        );
        // The second name, behind a length and six tokens.
        ram.put(0x1007, &[0xff; 2]);
        assert_eq!(read(&ram, &info), Ok(1), "no name is so long");
    }
}
