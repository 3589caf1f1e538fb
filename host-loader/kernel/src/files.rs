//! Open files of a task, its root and its working directory.
//!
//! `files->fdt` has a bitmap of the descriptors in use, and the `struct file` of each.
//!
//! Source: `include/linux/fdtable.h`, `include/linux/fs_struct.h`, `include/linux/fs.h`.

use crate::object::{Error, Object};
use crate::path;

/// The most descriptors of a task; the kernel's own limit is 2^20 unless it was raised
/// (`sysctl_nr_open`).
const MAX_DESCRIPTORS: u64 = 1 << 24;

/// What a task has open.
#[derive(Debug)]
pub struct Files {
    /// Its root directory; `None` if it has none any more.
    pub root: Option<String>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// Open files by descriptor; parts of the table that cannot be read are errors.
    pub open: Vec<Result<OpenFile, Error>>,
}

/// A descriptor.
#[derive(Debug)]
pub struct OpenFile {
    /// Its number.
    pub fd: u64,
    /// Its `struct file`.
    pub file: u64,
    /// What the file is; an error if that cannot be read.
    pub what: Result<What, Error>,
}

/// A file.
#[derive(Debug)]
pub struct What {
    /// Its `struct dentry`.
    pub dentry: u64,
    /// Its `struct inode`.
    pub inode: u64,
    /// `REG`, `DIR`, `CHR`, `BLK`, `FIFO`, `LNK`, `SOCK`; `-` for what has no type (eventfd).
    pub kind: &'static str,
    /// Its path, as /proc shows it.
    pub path: String,
}

impl Files {
    /// Reads those of a `struct task_struct`.
    ///
    /// # Errors
    /// [`Error`] if the task cannot be read; what else cannot is told in its place.
    pub fn read(task: &Object<'_>) -> Result<Self, Error> {
        // Both are gone from a task that has exited.
        let directories = task.follow("fs")?;
        let directory = |name: &str| {
            let path = directories.as_ref()?.field(name).ok()?;
            Some(path::text(&path))
        };
        let open = match task.follow("files")? {
            Some(files) => open(&files).unwrap_or_else(|why| vec![Err(why)]),
            None => Vec::new(),
        };
        Ok(Self {
            root: directory("root"),
            cwd: directory("pwd"),
            open,
        })
    }
}

fn open(files: &Object<'_>) -> Result<Vec<Result<OpenFile, Error>>, Error> {
    let mut open = Vec::new();
    let Some(table) = files.follow("fdt")? else {
        return Ok(open);
    };
    let count = table.get("max_fds")?.min(MAX_DESCRIPTORS);
    let (used, all) = (table.field("open_fds")?, table.field("fd")?);
    for word in 0..count.div_ceil(64) {
        let bits = match used.index(word)?.number() {
            Ok(bits) => bits,
            Err(why) => {
                open.push(Err(why));
                continue;
            }
        };
        for bit in
            (0..64u64).filter(|bit| bits.checked_shr(*bit as u32).is_some_and(|b| b & 1 == 1))
        {
            let fd = word.saturating_mul(64).saturating_add(bit);
            let file = all.index(fd).and_then(|slot| slot.pointee());
            match file {
                Ok(Some(file)) => open.push(Ok(OpenFile {
                    fd,
                    file: file.address,
                    what: What::read(&file),
                })),
                // Taken by an open() that is not done.
                Ok(None) => {}
                Err(why) => open.push(Err(why)),
            }
        }
    }
    Ok(open)
}

impl What {
    /// Reads a `struct file`.
    fn read(file: &Object<'_>) -> Result<Self, Error> {
        let inode = file.follow("f_inode")?;
        let mode = inode.map_or(Ok(0), |inode| inode.get("i_mode"))?;
        let path = file.field("f_path")?;
        Ok(Self {
            dentry: path.get("dentry")?,
            inode: inode.map_or(0, |inode| inode.address),
            kind: kind(mode),
            path: path::text(&path),
        })
    }
}

/// The type in a mode (`S_IFMT`).
fn kind(mode: u64) -> &'static str {
    match mode >> 12 & 0xf {
        0o01 => "FIFO",
        0o02 => "CHR",
        0o04 => "DIR",
        0o06 => "BLK",
        0o10 => "REG",
        0o12 => "LNK",
        0o14 => "SOCK",
        _ => "-",
    }
}
