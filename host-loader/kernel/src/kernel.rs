//! The way in: everything about one crashed kernel.

use std::cell::{Cell, OnceCell};

use kdraw_format::addr::KernelVirtAddr;
use kdraw_linux::layout::{KernelLayout, LayoutError};
use kdraw_linux::memory::PhysMem;
use kdraw_linux::translate::{TranslateError, VirtMem};
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::btf::{Btf, HEADER, Header, Types};
use crate::kallsyms::{self, KallsymsError};
use crate::modules::{self, Module};
use crate::object::{Error, Object};
use crate::page_cache::PageCache;
use crate::per_cpu::Areas;
use crate::read::{Piecewise, printable};
use crate::symbol_table::{Symbol, SymbolTable};
use crate::system_map;

/// Fewer types than any kernel has.
const FEWEST_TYPES: u32 = 1000;

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
    options: Options,
    symbols: OnceCell<(SymbolTable, Option<KallsymsError>)>,
    types: OnceCell<Result<Types, Error>>,
    modules: OnceCell<Result<Vec<Module>, Error>>,
    areas: OnceCell<Result<Areas, Error>>,
    pub(crate) nodes: OnceCell<Result<Vec<u64>, Error>>,
    pub(crate) init_task: OnceCell<Option<u64>>,
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
    /// Makes out the kernel in a dump's memory and notes. Everything else is read when it is
    /// first asked for, and once.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        memory: &'a dyn PhysMem,
        notes: &'a [u8],
        options: Options,
    ) -> Result<Self, OpenError> {
        let info = Vmcoreinfo::from_notes(notes).ok_or(OpenError::NoVmcoreinfo)?;
        let layout = KernelLayout::from_vmcoreinfo(&info)?;
        let virt = VirtMem::new(PageCache::new(memory), layout);
        Ok(Self {
            virt,
            notes,
            options,
            symbols: OnceCell::new(),
            types: OnceCell::new(),
            modules: OnceCell::new(),
            areas: OnceCell::new(),
            nodes: OnceCell::new(),
            init_task: OnceCell::new(),
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

    /// The symbols of the kernel itself; none if they are not known.
    pub fn symbols(&self) -> &SymbolTable {
        &self.read_symbols().0
    }

    /// Why there are no symbols, if there are none.
    pub fn symbols_trouble(&self) -> Option<KallsymsError> {
        self.read_symbols().1
    }

    fn read_symbols(&self) -> &(SymbolTable, Option<KallsymsError>) {
        self.symbols.get_or_init(|| {
            let info = self.vmcoreinfo();
            match (kallsyms::read(&self.virt, &info), &self.options.system_map) {
                (Ok(symbols), _) => (symbols, None),
                (Err(_), Some(text)) => {
                    let offset = info.kernel_offset().unwrap_or(0);
                    (system_map::read(text, offset), None)
                }
                (Err(why), None) => (SymbolTable::default(), Some(why)),
            }
        })
    }

    /// The address of a symbol. Kernels without `CONFIG_KALLSYMS_ALL` have those of functions
    /// only; of the others VMCOREINFO names a few.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let own = self.symbols().named(name).map(|found| found.address).next();
        own.or_else(|| self.vmcoreinfo().symbol(name).map(|found| found.0))
    }

    /// Where an address lies: in the image, or in a module.
    pub fn place(&self, address: u64) -> Option<Place<'_>> {
        let placed = |symbol: Symbol<'_>| address.wrapping_sub(symbol.address);
        let is_image = self
            .virt
            .layout()
            .image_pa(KernelVirtAddr(address))
            .is_some();
        if let Some(symbol) = self.symbols().at(address).filter(|_| is_image) {
            return Some(Place {
                symbol,
                offset: placed(symbol),
                module: None,
            });
        }
        let mut modules = self.modules().ok()?.iter();
        let module = modules.find(|module| module.contains(address))?;
        let symbol = module.symbols.at(address)?;
        Some(Place {
            symbol,
            offset: placed(symbol),
            module: Some(&module.name),
        })
    }

    /// All symbols of a name, those of modules behind the kernel's.
    pub fn symbols_named<'k>(&'k self, name: &'k str) -> impl Iterator<Item = Place<'k>> {
        let own = std::iter::once((None, self.symbols()));
        // They are read only for whoever wants more than the kernel's own.
        let modules = std::iter::once_with(|| self.modules().unwrap_or_default()).flatten();
        let modules = modules.map(|module| (Some(module.name.as_str()), &module.symbols));
        own.chain(modules).flat_map(move |(module, symbols)| {
            symbols.named(name).map(move |symbol| Place {
                symbol,
                offset: 0,
                module,
            })
        })
    }

    /// The kernel's types; those of modules too, once [`all_types`](Self::all_types) was called.
    ///
    /// # Errors
    /// [`Error::NoTypes`].
    pub fn types(&self) -> Result<&Types, Error> {
        let types = self.types.get_or_init(|| {
            let known = match self.symbol("__start_BTF") {
                Some(at) => self.btf_at(at),
                None => {
                    let damaged = Cell::new(None);
                    let found = self.search_image(4, |at, bytes| {
                        Header::decode(bytes).ok()?;
                        let known = self.btf_at(at).map_err(|why| damaged.set(Some(why)));
                        // A program's BTF is as good a blob, but no kernel's.
                        known.ok().filter(|btf| btf.end() > FEWEST_TYPES)
                    });
                    let none = "there is no BTF (CONFIG_DEBUG_INFO_BTF) in what the dump has of \
                                the kernel's image";
                    found.ok_or_else(|| damaged.take().unwrap_or_else(|| none.to_owned()))
                }
            };
            let btf = known.map_err(Error::NoTypes)?;
            Ok(Types::new(btf))
        });
        types.as_ref().map_err(Clone::clone)
    }

    /// vmlinux's BTF, or why it is not there, in words. All of it must be: a type's number is its
    /// place in the sequence.
    fn btf_at(&self, at: u64) -> Result<Btf, String> {
        let absent = |at: u64| format!("the dump lacks a page of the kernel's BTF, at {at:#x}");
        let mut header = [0; HEADER];
        self.read(at, &mut header).map_err(|_| absent(at))?;
        let header = Header::decode(&header).map_err(|why| why.to_string())?;
        let blob = Piecewise::new(&self.virt, KernelVirtAddr(at)).up_to(header.blob_len());
        if blob.len() < header.blob_len() {
            return Err(absent(at.wrapping_add(blob.len() as u64)));
        }
        Btf::vmlinux(blob).map_err(|why| why.to_string())
    }

    /// The kernel's and its modules' types.
    ///
    /// # Errors
    /// [`Error::NoTypes`].
    pub fn all_types(&self) -> Result<&Types, Error> {
        let types = self.types()?;
        types.set_modules(|| {
            let all = self.modules().unwrap_or_default();
            modules::types(self, all, types.vmlinux()).unwrap_or_default()
        });
        Ok(types)
    }

    /// Something of a type at an address.
    ///
    /// # Errors
    /// [`Error::NoTypes`], [`Error::NoType`].
    pub fn object<'k>(&'k self, ty: &str, address: u64) -> Result<Object<'k>, Error> {
        let types = self.types()?;
        let found = types.find(ty);
        let ty = found.ok_or_else(|| Error::NoType(ty.to_owned()))?;
        Ok(Object::new(self, types, ty, address))
    }

    /// The loaded modules.
    ///
    /// # Errors
    /// [`Error`] if their list cannot be found.
    pub fn modules(&self) -> Result<&[Module], Error> {
        let modules = self.modules.get_or_init(|| modules::read(self));
        modules.as_deref().map_err(Clone::clone)
    }

    pub(crate) fn areas(&self) -> Result<&Areas, Error> {
        let areas = self.areas.get_or_init(|| Areas::find(self));
        areas.as_ref().map_err(Clone::clone)
    }

    /// Looks at the image every `step` bytes, the part behind kallsyms first: that is where
    /// read-only data ends and data begins. `look` gets an address and 32 bytes, or fewer at
    /// the end of what is there.
    pub(crate) fn search_image<T>(
        &self,
        step: usize,
        look: impl Fn(u64, &[u8]) -> Option<T>,
    ) -> Option<T> {
        const WINDOW: usize = 32;
        let info = self.vmcoreinfo();
        let image = self.virt.image(&info)?;
        let offset = self.virt.layout().kimage_voffset;
        let (start, end) = (
            image.start.0.wrapping_add(offset),
            image.end.0.wrapping_add(offset),
        );
        let middle = info.symbol("kallsyms_token_index").map_or(start, |at| at.0);
        let middle = middle.clamp(start, end) & !0xfff;
        let mut bytes = vec![0; 4096usize.saturating_add(WINDOW)];
        for at in (middle..end).chain(start..middle).step_by(4096) {
            let mut there = bytes.as_mut_slice();
            if self.read(at, there).is_err() {
                there = there.get_mut(..4096)?;
                if self.read(at, there).is_err() {
                    continue;
                }
            }
            let there = &*there;
            for skip in (0..4096usize).step_by(step) {
                let end = skip.saturating_add(WINDOW).min(there.len());
                let window = there.get(skip..end).unwrap_or_default();
                if let Some(found) = look(at.wrapping_add(skip as u64), window) {
                    return Some(found);
                }
            }
        }
        None
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

    /// Reads text up to its zero byte or `most` bytes, made [`printable`]; as far as it is there.
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
        Ok(printable(&text))
    }
}
