//! The guest's root file system: an initramfs made of busybox, our programs and kernel modules.
//!
//! The format is cpio "newc", uncompressed, as described in the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst. Writing it here needs no root
//! rights for the device nodes and no `cpio`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

/// File types of st_mode.
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// An initramfs being written.
#[derive(Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    inode: u32,
}

impl Initramfs {
    /// Starts an archive with the folders and nodes that `/init` needs from its first moment.
    pub fn new() -> Self {
        let mut archive = Self::default();
        for folder in [
            "bin", "dev", "fill", "lib", "mnt", "modules", "proc", "run", "sys", "tmp",
        ] {
            archive.folder(folder);
        }
        // The kernel opens /dev/console before /init could mount devtmpfs.
        archive.entry("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), &[]);
        archive
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds an executable file.
    pub fn program(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, REGULAR | 0o755, (0, 0), contents);
    }

    /// Adds an executable file that lies on this machine.
    pub fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        self.program(name, &read(from)?);
        Ok(())
    }

    /// Adds the named modules and what they depend on as `modules/NN-name.ko`, numbered in an
    /// order in which they load. A name without a file is taken to be built in.
    pub fn modules(&mut self, folder: &Path, names: &[&str]) -> Result<()> {
        let mut tree = ModuleTree::read(folder)?;
        for name in names {
            tree.load(name)?;
        }
        for (number, (name, contents)) in tree.loaded.iter().enumerate() {
            self.program(&format!("modules/{number:02}-{name}.ko"), contents);
        }
        Ok(())
    }

    /// Ends the archive and writes it to a file.
    pub fn write(mut self, path: &Path) -> Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        std::fs::write(path, &self.bytes).with_context(|| path.display().to_string())
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // mtime
            contents.len() as u32,
            0, // device of the archive
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // checksum, unused in newc
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The modules of one kernel. Dependencies come from the modules themselves (`depends=` in
/// `.modinfo`), because an unpacked package has no modules.dep.
struct ModuleTree {
    files: HashMap<String, PathBuf>,
    loaded: Vec<(String, Vec<u8>)>,
}

impl ModuleTree {
    fn read(folder: &Path) -> Result<Self> {
        let mut files = HashMap::new();
        let mut folders = vec![folder.join("kernel")];
        while let Some(folder) = folders.pop() {
            for path in run::entries(&folder)? {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                    continue;
                };
                if path.is_dir() {
                    folders.push(path);
                } else if let Some((name, _)) = name.split_once(".ko") {
                    files.insert(name.replace('-', "_"), path);
                }
            }
        }
        if files.is_empty() {
            bail!("{} holds no kernel modules", folder.display());
        }
        Ok(Self {
            files,
            loaded: Vec::new(),
        })
    }

    fn load(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        if self.loaded.iter().any(|(loaded, _)| *loaded == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(&name) else {
            return Ok(());
        };
        let contents = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => unpacked("xz", path)?,
            Some("zst") => unpacked("zstd", path)?,
            _ => read(path)?,
        };
        for needed in depends(&contents) {
            self.load(&needed)?;
        }
        self.loaded.push((name, contents));
        Ok(())
    }
}

/// Returns the names in a module's `depends=` line.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let line = module[at + KEY.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or(&[]);
    let line = String::from_utf8_lossy(line);
    line.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn unpacked(program: &str, path: &Path) -> Result<Vec<u8>> {
    let output = Command::new(program).arg("-dcq").arg(path).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_come_from_modinfo() {
        for (module, expected) in [
            (
                &b"x\0name=ext4\0depends=mbcache,jbd2\0y"[..],
                &["mbcache", "jbd2"][..],
            ),
            (b"\0depends=\0", &[]),
            (b"\0softdepends=a\0", &[]),
            (b"", &[]),
        ] {
            assert_eq!(depends(module), expected);
        }
    }
}
