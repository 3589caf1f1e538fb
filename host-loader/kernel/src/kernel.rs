//! The way in: everything about one crashed kernel.

use kdraw_format::addr::KernelVirtAddr;
use kdraw_linux::layout::{KernelLayout, LayoutError};
use kdraw_linux::memory::PhysMem;
use kdraw_linux::translate::{TranslateError, VirtMem};
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::kallsyms::{self, KallsymsError};
use crate::page_cache::PageCache;
use crate::symbol_table::{Symbol, SymbolTable};
use crate::system_map;

/// Why a kernel cannot be made out at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No VMCOREINFO.
    #[error("the dump has no VMCOREINFO, which says where the kernel lies")]
    NoVmcoreinfo,
    /// VMCOREINFO lacks what every kernel writes.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// What is known beside the dump.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The text of the kernel's System.map; used if the kernel does not name its own symbols.
    pub system_map: Option<Vec<u8>>,
}

/// The crashed kernel.
pub struct Kernel<'a> {
    virt: VirtMem<PageCache<'a>>,
    notes: &'a [u8],
    symbols: SymbolTable,
    symbols_trouble: Option<KallsymsError>,
}

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The symbol.
    pub symbol: Symbol<'a>,
    /// Bytes from the symbol's start.
    pub offset: u64,
    /// The module that it is in, if any.
    pub module: Option<&'a str>,
}

impl<'a> Kernel<'a> {
    /// Makes out the kernel in a dump's memory and notes, and reads its symbols.
    ///
    /// # Errors
    /// [`OpenError`]. That there are no symbols is none; see
    /// [`symbols_trouble`](Self::symbols_trouble).
    pub fn open(
        memory: &'a dyn PhysMem,
        notes: &'a [u8],
        options: &Options,
    ) -> Result<Self, OpenError> {
        let info = Vmcoreinfo::from_notes(notes).ok_or(OpenError::NoVmcoreinfo)?;
        let layout = KernelLayout::from_vmcoreinfo(&info)?;
        let virt = VirtMem::new(PageCache::new(memory), layout);
        let read = kallsyms::read(&virt, &info);
        let (symbols, symbols_trouble) = match (read, &options.system_map) {
            (Ok(symbols), _) => (symbols, None),
            (Err(_), Some(text)) => {
                let offset = info.kernel_offset().unwrap_or(0);
                (system_map::read(text, offset), None)
            }
            (Err(why), None) => (SymbolTable::default(), Some(why)),
        };
        Ok(Self {
            virt,
            notes,
            symbols,
            symbols_trouble,
        })
    }

    /// The ELF notes.
    pub fn notes(&self) -> &'a [u8] {
        self.notes
    }

    /// VMCOREINFO.
    pub fn vmcoreinfo(&self) -> Vmcoreinfo<'a> {
        Vmcoreinfo::from_notes(self.notes).unwrap_or_else(|| Vmcoreinfo::new(&[]))
    }

    /// Its virtual memory.
    pub fn virt(&self) -> &VirtMem<PageCache<'a>> {
        &self.virt
    }

    /// The symbols of the kernel itself.
    pub fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }

    /// Why there are no symbols, if there are none.
    pub fn symbols_trouble(&self) -> Option<KallsymsError> {
        self.symbols_trouble
    }

    /// The address of a symbol. Kernels without `CONFIG_KALLSYMS_ALL` have those of functions
    /// only; of the others VMCOREINFO names a few.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let own = self.symbols.named(name).map(|found| found.address).next();
        own.or_else(|| self.vmcoreinfo().symbol(name).map(|found| found.0))
    }

    /// Where an address lies.
    pub fn place(&self, address: u64) -> Option<Place<'_>> {
        let symbol = self.symbols.at(address)?;
        Some(Place {
            symbol,
            offset: address.wrapping_sub(symbol.address),
            module: None,
        })
    }

    /// All symbols of a name.
    pub fn symbols_named<'k>(&'k self, name: &'k str) -> impl Iterator<Item = Place<'k>> {
        self.symbols.named(name).map(|symbol| Place {
            symbol,
            offset: 0,
            module: None,
        })
    }

    /// Fills `into` from a virtual address on.
    ///
    /// # Errors
    /// [`TranslateError`] at the first byte that is not mapped, or absent in the dump.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), TranslateError> {
        self.virt.read(KernelVirtAddr(at), into)
    }

    /// Reads a pointer or another `u64`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_u64(&self, at: u64) -> Result<u64, TranslateError> {
        self.virt.read_u64(KernelVirtAddr(at))
    }

    /// Reads a little-endian number of 1 to 8 bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_number(&self, at: u64, size: usize) -> Result<u64, TranslateError> {
        let mut number = [0; 8];
        let into = number.get_mut(..size.min(8)).unwrap_or_default();
        self.read(at, into)?;
        Ok(u64::from_le_bytes(number))
    }

    /// Reads text up to its zero byte or `most` bytes; as far as it is there.
    ///
    /// # Errors
    /// As [`read`](Self::read), if not even the first byte is there.
    pub fn read_text(&self, at: u64, most: usize) -> Result<String, TranslateError> {
        let mut text = Vec::new();
        let mut at = at;
        while text.len() < most {
            // To the end of a page, behind which there may be none.
            let room = 4096u64.saturating_sub(at % 4096);
            let left = most.saturating_sub(text.len()) as u64;
            let mut piece = vec![0; room.min(left).min(256) as usize];
            match self.read(at, &mut piece) {
                Err(why) if text.is_empty() => return Err(why),
                Err(_) => break,
                Ok(()) => {}
            }
            let end = piece.iter().position(|byte| *byte == 0);
            text.extend_from_slice(piece.get(..end.unwrap_or(piece.len())).unwrap_or_default());
            if end.is_some() {
                break;
            }
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
