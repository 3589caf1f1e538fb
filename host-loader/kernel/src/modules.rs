//! Loaded modules: where they lie, who uses them, and their own symbols.
//!
//! `modules` heads the list of `struct module`. A kernel whose kallsyms has no data (Debian's
//! 6.1) does not tell where it is; then the image's data is searched for a `list_head` whose
//! `next` and `prev` are modules: each lies within reach of the image's branches, its
//! `mkobj.mod` points to itself, and the list leads back.
//!
//! A module's memory is `mem[]` (6.4, ac3b43283923) or `core_layout` and `init_layout`. Its
//! symbols are ELF's, behind `kallsyms`. Its BTF is gone from the module once it is loaded; the
//! kernel's copy hangs on the list `btf_modules`, which is searched for likewise: by an element
//! that points to a module, and to a `struct btf` of the module's name.
//!
//! Source: `include/linux/module.h`, `kernel/module/kallsyms.c`, `kernel/module/main.c`,
//! `kernel/bpf/btf.c` (`struct btf_module`).

use kdraw_format::addr::KernelVirtAddr;
use kdraw_linux::bytes::{u16_at, u32_at, u64_at};

use crate::Kernel;
use crate::btf::{Btf, MAX_BLOB};
use crate::object::{Error, Object};
use crate::read::Piecewise;
use crate::symbol_table::SymbolTable;

/// Bytes of an `Elf64_Sym`.
const ELF_SYMBOL: usize = 24;
/// The most symbols of a module, and the most bytes of their names.
const MAX_SYMBOLS: u64 = 1 << 20;
const MAX_STRINGS: usize = 32 << 20;
/// The longest name of a symbol.
const MAX_NAME: usize = 512;
/// The most modules.
const MAX_MODULES: usize = 4096;
/// References that a module holds to itself (`MODULE_REF_BASE`).
const REF_BASE: i64 = 1;

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    /// Its `struct module`.
    pub address: u64,
    /// Its name.
    pub name: String,
    /// Where it lies: first byte and bytes, its text first.
    pub regions: Vec<(u64, u64)>,
    /// `live`, `coming`, `going` or `unformed`.
    pub state: &'static str,
    /// How many references there are; `None` if it cannot be told.
    pub references: Option<i64>,
    /// The modules that use it.
    pub users: Vec<String>,
    /// Taint bits, as the kernel numbers them.
    pub taints: u64,
    /// Its functions; with `CONFIG_KALLSYMS_ALL` its variables, too.
    pub symbols: SymbolTable,
}

impl Module {
    /// Bytes of all its regions.
    pub fn size(&self) -> u64 {
        let sizes = self.regions.iter().map(|(_, len)| *len);
        sizes.fold(0, u64::saturating_add)
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: u64) -> bool {
        let mut regions = self.regions.iter();
        regions.any(|(start, len)| address.wrapping_sub(*start) < *len)
    }
}

/// Reads the types of the modules in `all` that have any, with their names.
///
/// # Errors
/// [`Error`] if the kernel does not tell where they are.
pub(crate) fn types(
    kernel: &Kernel<'_>,
    all: &[Module],
    base: &Btf,
) -> Result<Vec<(String, Btf)>, Error> {
    let template = kernel.object("struct btf_module", 0)?;
    let link = template.field("list")?.address;
    let owner = template.field("module")?.address;
    let btf = template.field("btf")?.address;
    let name = kernel.object("struct btf", 0)?.field("name")?.address;
    let names = |at: u64, module: &Module| {
        let btf = kernel.read_u64(at.wrapping_sub(link).wrapping_add(btf));
        let name = btf.and_then(|btf| kernel.read_text(btf.wrapping_add(name), 64));
        name.is_ok_and(|name| name == module.name)
    };
    let owner_of = |at: u64| {
        let module = kernel.read_u64(at.wrapping_sub(link).wrapping_add(owner));
        let module = module.ok().filter(|module| *module != 0)?;
        all.iter().find(|known| known.address == module)
    };
    let head = kernel.symbol("btf_modules").or_else(|| {
        kernel.search_image(8, |at, words| {
            let (next, previous) = (u64_at(words, 0)?, u64_at(words, 8)?);
            let fits = next >> 48 == 0xffff
                && next % 8 == 0
                && kernel.read_u64(next.wrapping_add(8)) == Ok(at)
                && kernel.read_u64(previous) == Ok(at)
                && owner_of(next).is_some_and(|module| names(next, module));
            fits.then_some(at)
        })
    });
    let head = head.ok_or_else(|| Error::NoSymbol("btf_modules".into()))?;
    let list = kernel.object("struct list_head", head)?;
    let list = list.list("struct btf_module", "list")?;
    let entries = list.take(MAX_MODULES).map_while(Result::ok);
    let types = entries.filter_map(|entry| {
        let owner = owner_of(entry.address.wrapping_add(link))?;
        let btf = entry.follow("btf").ok()??;
        let len = usize::try_from(btf.get("data_size").ok()?).ok()?;
        let at = KernelVirtAddr(btf.get("data").ok()?);
        let blob = Piecewise::new(kernel.virt(), at).up_to(len.min(MAX_BLOB));
        Some((owner.name.clone(), Btf::split(blob, base).ok()?))
    });
    Ok(types.collect())
}

/// Reads all modules; those that can be reached if the list is damaged.
///
/// # Errors
/// [`Error`] if the list cannot be found, or the kernel's types are not known.
pub fn read(kernel: &Kernel<'_>) -> Result<Vec<Module>, Error> {
    let head = match kernel.symbol("modules") {
        Some(head) => head,
        None => search(kernel)?.ok_or_else(|| Error::NoSymbol("the list of modules".into()))?,
    };
    let head = kernel.object("struct list_head", head)?;
    let list = head.list("struct module", "list")?;
    let modules = list.take(MAX_MODULES).map_while(Result::ok);
    Ok(modules
        .filter_map(|module| one(kernel, &module).ok())
        .collect())
}

fn one(kernel: &Kernel<'_>, module: &Object<'_>) -> Result<Module, Error> {
    let state = match module.get("state")? {
        0 => "live",
        1 => "coming",
        2 => "going",
        _ => "unformed",
    };
    let references = module.field("refcnt").and_then(|count| count.signed());
    let address = |field: &str| module.get(field).unwrap_or(0);
    Ok(Module {
        address: module.address,
        name: module.field("name")?.text()?,
        regions: regions(module)?,
        state,
        references: references
            .ok()
            .map(|count| i64::from(count as i32).saturating_sub(REF_BASE)),
        users: users(module).unwrap_or_default(),
        taints: address("taints"),
        symbols: symbols(kernel, module).unwrap_or_default(),
    })
}

fn regions(module: &Object<'_>) -> Result<Vec<(u64, u64)>, Error> {
    let mut parts = Vec::new();
    if let Ok(memory) = module.field("mem") {
        for index in 0..memory.count().min(16) {
            parts.push(memory.index(index.into())?);
        }
    } else {
        parts.push(module.field("core_layout")?);
        parts.push(module.field("init_layout")?);
    }
    let regions = parts
        .iter()
        .map(|part| Ok((part.get("base")?, part.get("size")?)));
    let mut regions: Vec<_> = regions.collect::<Result<_, Error>>()?;
    regions.retain(|(base, size)| *base != 0 && *size != 0);
    Ok(regions)
}

fn users(module: &Object<'_>) -> Result<Vec<String>, Error> {
    let list = module.field("source_list")?;
    let list = list.list("struct module_use", "source_list")?;
    let users = list.take(MAX_MODULES).map_while(Result::ok);
    let names =
        users.filter_map(|user| user.follow("source").ok()??.field("name").ok()?.text().ok());
    Ok(names.collect())
}

/// A module's symbols: those of its own sections, without the marks that compilers leave.
fn symbols(kernel: &Kernel<'_>, module: &Object<'_>) -> Result<SymbolTable, Error> {
    let mut table = SymbolTable::default();
    let Some(own) = module.follow("kallsyms")? else {
        return Ok(table);
    };
    let count = own.get("num_symtab")?.min(MAX_SYMBOLS) as usize;
    let bytes = |field: &str, len| -> Result<Vec<u8>, Error> {
        let at = KernelVirtAddr(own.get(field)?);
        Ok(Piecewise::new(kernel.virt(), at).up_to(len))
    };
    let entries = bytes("symtab", count.saturating_mul(ELF_SYMBOL))?;
    let kinds = match own.has("typetab") {
        true => bytes("typetab", count)?,
        false => Vec::new(),
    };
    let names = entries
        .chunks_exact(ELF_SYMBOL)
        .filter_map(|entry| u32_at(entry, 0));
    let strings = names.max().unwrap_or(0) as usize;
    let strings = bytes("strtab", strings.saturating_add(MAX_NAME).min(MAX_STRINGS))?;
    for (number, entry) in entries.chunks_exact(ELF_SYMBOL).enumerate() {
        let (Some(name), Some(section), Some(value), Some(size)) = (
            u32_at(entry, 0),
            u16_at(entry, 6),
            u64_at(entry, 8),
            u64_at(entry, 16),
        ) else {
            continue;
        };
        let name = strings.get(name as usize..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        // Undefined ones are another's; `$x` and `.L…` mark places.
        if section == 0 || name.is_empty() || name.starts_with(['$', '.']) {
            continue;
        }
        let kind = kinds.get(number).map_or('t', |kind| char::from(*kind));
        if !table.push(&name, value, kind, size) {
            break;
        }
    }
    table.finish();
    Ok(table)
}

/// Searches the image's data for the head of the list.
fn search(kernel: &Kernel<'_>) -> Result<Option<u64>, Error> {
    // With KASLR anywhere in 2 or 4 GiB around the image, so that VMCOREINFO's MODULES_VADDR
    // says nothing (`module_init_limits`, `arch/arm64/kernel/module.c`).
    let image = kernel.virt().layout().stext.0;
    let near = |at: u64| at.abs_diff(image) < 4 << 30;
    let template = kernel.object("struct module", 0)?;
    let link = template.field("list")?.address;
    let own = template.field("mkobj.mod")?.address;
    let is_module = |at: u64| {
        let module = at.wrapping_sub(link);
        near(at) && kernel.read_u64(module.wrapping_add(own)) == Ok(module)
    };
    Ok(kernel.search_image(8, |at, words| {
        let (next, previous) = (u64_at(words, 0)?, u64_at(words, 8)?);
        let fits = near(next)
            && is_module(next)
            && is_module(previous)
            && kernel.read_u64(next.wrapping_add(8)) == Ok(at)
            && kernel.read_u64(previous) == Ok(at);
        fits.then_some(at)
    }))
}
