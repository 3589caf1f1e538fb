//! What debug information (DWARF) knows of the sources: of the kernel, and of its modules.
//!
//! A module is an object file, whose sections have no addresses yet. It is read from a copy in which
//! they lie far apart, so that no two functions share an address. What the crashed kernel calls a
//! function is looked up there by its name and size; another build's would hardly have both.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use addr2line::{FrameIter, Loader, gimli};
use anyhow::{Context, Result, bail};
use object::elf::SHF_ALLOC;
use object::read::elf::{ElfFile64, SectionHeader};
use object::read::{Object, ObjectSection, ObjectSymbol, ReadCache, SectionFlags, SymbolKind};
use object::{LittleEndian, elf};
use serde::Serialize;
use tempfile::NamedTempFile;

/// Where an instruction is from.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Source {
    /// The function, or the one that was inlined into it.
    pub function: Option<String>,
    /// The file, as the build named it.
    pub file: String,
    /// The line; 0 if the compiler made it up.
    pub line: u32,
}

/// What a kernel's debug information knows of its sources.
pub struct Sources {
    kernel: Loader,
    /// How far KASLR moved the kernel.
    offset: u64,
    /// The folder in which it was built, which is nothing to anybody else.
    built_in: String,
    /// Folders below which its modules with debug information are.
    folders: Vec<PathBuf>,
    /// Those that were asked for; nothing where there is no such file.
    modules: HashMap<String, Option<Module>>,
}

impl Sources {
    /// Opens the debug information of a kernel that KASLR moved by `offset` bytes; that of its
    /// modules is sought below `folders` when it is asked for.
    ///
    /// # Errors
    /// If the kernel's file has none.
    pub fn open(vmlinux: &Path, offset: u64, folders: Vec<PathBuf>) -> Result<Self> {
        let mut sources = Self {
            kernel: loader(vmlinux)?,
            offset,
            built_in: String::new(),
            folders,
            modules: HashMap::new(),
        };
        // Every kernel has it in this file.
        let known = sources
            .of_symbol(vmlinux, "start_kernel")
            .with_context(|| format!("{} has no debug information (DWARF)", vmlinux.display()))?;
        sources.built_in = known
            .strip_suffix("init/main.c")
            .unwrap_or_default()
            .to_owned();
        Ok(sources)
    }

    /// The file that a symbol of the kernel is from.
    fn of_symbol(&self, vmlinux: &Path, name: &str) -> Option<String> {
        let cache = ReadCache::new(File::open(vmlinux).ok()?);
        let object = object::File::parse(&cache).ok()?;
        let symbol = object.symbol_by_name(name)?;
        // The first instructions may be patched ones that the compiler tells nothing of.
        let inside = symbol.address().wrapping_add(16);
        let found = self.at(inside.wrapping_add(self.offset));
        found.last().map(|source| source.file.clone())
    }

    /// Where the kernel's instruction at an address is from: what was inlined first, the function
    /// itself last. Empty if that is not known.
    pub fn at(&self, address: u64) -> Vec<Source> {
        let frames = self.kernel.find_frames(address.wrapping_sub(self.offset));
        frames.map_or_else(|_| Vec::new(), |frames| sources(frames, &self.built_in))
    }

    /// The same of an instruction of a module, so many bytes behind the start of a function of
    /// `size` bytes.
    pub fn in_module(&mut self, name: &str, function: &str, size: u64, offset: u64) -> Vec<Source> {
        let folders = &self.folders;
        let module = self.modules.entry(name.to_owned());
        let module = module.or_insert_with(|| Module::find(folders, name));
        let found = module.as_ref().and_then(|module| {
            let address = module.function(function, size)?.wrapping_add(offset);
            let frames = module.loader.find_frames(address).ok()?;
            Some(sources(frames, &self.built_in))
        });
        found.unwrap_or_default()
    }

    /// The modules that were asked for and have no file with debug information, by their names.
    pub fn missing(&self) -> Vec<&str> {
        let missing = self.modules.iter().filter(|(_, file)| file.is_none());
        let mut missing: Vec<_> = missing.map(|(name, _)| name.as_str()).collect();
        missing.sort_unstable();
        missing
    }
}

fn loader(path: &Path) -> Result<Loader> {
    Loader::new(path).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))
}

/// Frames as sources, files without the folder in which the kernel was built.
fn sources<R: gimli::Reader>(mut frames: FrameIter<'_, R>, built_in: &str) -> Vec<Source> {
    /// The most functions that are inlined into each other.
    const DEEPEST: usize = 64;
    let mut found = Vec::new();
    while let (Ok(Some(frame)), true) = (frames.next(), found.len() < DEEPEST) {
        let file = frame.location.as_ref().and_then(|place| place.file);
        let Some(file) = file else { continue };
        let name = frame
            .function
            .as_ref()
            .and_then(|name| name.raw_name().ok());
        found.push(Source {
            function: name.map(|name| name.into_owned()),
            file: file.strip_prefix(built_in).unwrap_or(file).to_owned(),
            line: frame.location.and_then(|place| place.line).unwrap_or(0),
        });
    }
    found
}

/// A module's file with its debug information.
struct Module {
    loader: Loader,
    functions: Vec<Function>,
}

/// A function of a module.
struct Function {
    name: String,
    /// Bytes.
    size: u64,
    /// Where it lies in the copy.
    address: u64,
}

impl Module {
    /// The first file of a module with debug information below some folders.
    fn find(folders: &[PathBuf], name: &str) -> Option<Self> {
        let mut files = folders.iter().flat_map(|folder| files(folder, name));
        files.find_map(|file| Self::open(&file).ok())
    }

    fn open(path: &Path) -> Result<Self> {
        let mut bytes = fs::read(path)?;
        let functions = lay_out(&mut bytes)?;
        let mut copy = NamedTempFile::new()?;
        copy.write_all(&bytes)?;
        Ok(Self {
            loader: loader(copy.path())?,
            functions,
        })
    }

    /// Where a function is, if there is one of that name and size, and not two.
    fn function(&self, name: &str, size: u64) -> Option<u64> {
        let own = |function: &&Function| function.name == name && function.size == size;
        let mut found = self.functions.iter().filter(own);
        match (found.next(), found.next()) {
            (Some(function), None) => Some(function.address),
            _ => None,
        }
    }
}

/// Files of a module below a folder: `NAME.ko`, and `NAME.ko.debug` where only debug information
/// is kept. A name's `-` are `_` once it is loaded.
fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // Links are not followed: `build` and `source` lead to whole kernel trees.
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let file = entry.file_name();
            let file = file.to_string_lossy();
            let file = file.strip_suffix(".debug").unwrap_or(&file);
            if is_folder {
                folders.push(entry.path());
            } else if file.strip_suffix(".ko").map(|own| own.replace('-', "_")) == Some(name.into())
            {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Gives each section of a module that is loaded an address of its own, by moving the symbols in
/// it, and returns its functions.
///
/// # Errors
/// If it is no such file, or has no debug information.
fn lay_out(bytes: &mut [u8]) -> Result<Vec<Function>> {
    /// From one section to the next: more bytes than any has.
    const SECTION: u64 = 1 << 32;
    /// Where `st_value` is in an `Elf64_Sym`.
    const VALUE: u64 = 8;
    let (mut functions, mut moved) = (Vec::new(), Vec::new());
    let file = ElfFile64::<LittleEndian>::parse(&*bytes)?;
    if file.section_by_name(".debug_info").is_none() {
        bail!("no debug information (DWARF)");
    }
    let table = file
        .elf_section_table()
        .section(file.elf_symbol_table().section())?;
    let table = table.sh_offset(LittleEndian);
    for symbol in file.symbols() {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let SectionFlags::Elf { sh_flags, .. } = file.section_by_index(index)?.flags() else {
            continue;
        };
        if sh_flags & SHF_ALLOC == elf::SectionFlags(0) {
            continue;
        }
        let section = (index.0 as u64).saturating_mul(SECTION);
        let address = section.saturating_add(symbol.address());
        let entry =
            (symbol.index().0 as u64).saturating_mul(size_of::<elf::Sym64<LittleEndian>>() as u64);
        moved.push((table.saturating_add(entry).saturating_add(VALUE), address));
        if symbol.kind() == SymbolKind::Text {
            functions.push(Function {
                name: symbol.name().unwrap_or_default().to_owned(),
                size: symbol.size(),
                address,
            });
        }
    }
    for (at, address) in moved {
        let at = usize::try_from(at)?;
        let value = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
        *value.context("a symbol lies outside of the file")? = address.to_le_bytes();
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debug_info::tests::{ID, vmlinux};

    #[test]
    fn a_kernel_without_debug_information() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        fs::write(&path, vmlinux(ID)).unwrap();
        let why = Sources::open(&path, 0, Vec::new())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(why.contains("has no debug information"), "{why}");
    }

    #[test]
    fn a_modules_files() {
        let root = tempfile::tempdir().unwrap();
        for name in ["kernel/fs/a-b.ko", "updates/a_b.ko.debug", "a_b.o", "b.ko"] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"\x7fELF").unwrap();
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("build")).unwrap();
        let mut found = files(root.path(), "a_b");
        found.sort();
        let expected = ["kernel/fs/a-b.ko", "updates/a_b.ko.debug"];
        assert_eq!(found, expected.map(|name| root.path().join(name)));
        // None of them is an object file.
        assert!(Module::find(&[root.path().to_owned()], "a_b").is_none());
    }
}
