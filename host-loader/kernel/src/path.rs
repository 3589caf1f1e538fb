//! Paths: the names of directory entries, joined over mounts, as /proc shows them.
//!
//! A `struct path` is a mount and a directory entry. Names are joined upwards: from the entry to
//! its parent, and from a mount's root to the entry that the mount covers. Pipes, sockets and the
//! like have no place in any directory; the file system makes up their names (`d_dname`).
//!
//! Source: `fs/d_path.c` (`prepend_path`, `d_path`), `fs/pipe.c`, `net/socket.c`,
//! `fs/anon_inodes.c`, `fs/nsfs.c`, `fs/pidfs.c`, `drivers/dma-buf/dma-buf.c`.

use crate::object::{Error, Object};

/// The most directories and mounts on the way to the root.
const MAX_STEPS: usize = 4096;
/// The longest name (`NAME_MAX`); names that a file system makes up may be longer.
const MAX_NAME: u64 = 4096;
/// Stands for the part of a path that is absent in the dump.
pub const ABSENT: &str = "\u{2026}";

/// The text of a `struct path`. What cannot be read of it is [`ABSENT`].
pub fn text(path: &Object<'_>) -> String {
    read(path).unwrap_or_else(|_| ABSENT.to_owned())
}

fn read(path: &Object<'_>) -> Result<String, Error> {
    let entry = path.follow("dentry")?;
    let entry = entry.ok_or_else(|| Error::NoSymbol("a path's entry".into()))?;
    if let Some(name) = made_up(path, &entry)? {
        return Ok(name);
    }
    let mount = path.follow("mnt")?;
    let mut text = joined(entry, mount);
    if !is_root(&entry)? && entry.get("d_hash.pprev")? == 0 {
        text.push_str(" (deleted)");
    }
    Ok(text)
}

/// Whether an entry has no parent.
fn is_root(entry: &Object<'_>) -> Result<bool, Error> {
    Ok(entry.get("d_parent")? == entry.address)
}

/// The names from the root to an entry in a mount (`struct vfsmount`).
pub(crate) fn joined<'k>(mut entry: Object<'k>, mut mount: Option<Object<'k>>) -> String {
    let mut names = Vec::new();
    for _ in 0..MAX_STEPS {
        match step(&entry, mount.as_ref()) {
            Ok(Step::Root) => return format!("/{}", reversed(&names)),
            Ok(Step::Up(name, parent)) => {
                names.push(name);
                entry = parent;
            }
            Ok(Step::Over(covered, below)) => {
                entry = covered;
                mount = Some(below);
            }
            Err(_) => break,
        }
    }
    format!("{ABSENT}/{}", reversed(&names))
}

fn reversed(names: &[String]) -> String {
    let names: Vec<&str> = names.iter().rev().map(String::as_str).collect();
    names.join("/")
}

/// One step towards the root.
enum Step<'k> {
    /// There is none.
    Root,
    /// From a name to its directory.
    Up(String, Object<'k>),
    /// From a mount's root to the entry that it covers, and that entry's mount.
    Over(Object<'k>, Object<'k>),
}

fn step<'k>(entry: &Object<'k>, vfsmount: Option<&Object<'k>>) -> Result<Step<'k>, Error> {
    if let Some(vfsmount) = vfsmount
        && vfsmount.get("mnt_root")? == entry.address
    {
        let mount = vfsmount.container("struct mount", "mnt")?;
        return match (mount.follow("mnt_parent")?, mount.follow("mnt_mountpoint")?) {
            (Some(parent), Some(covered)) if parent.address != mount.address => {
                Ok(Step::Over(covered, parent.field("mnt")?))
            }
            _ => Ok(Step::Root),
        };
    }
    match entry.follow("d_parent")? {
        Some(parent) if parent.address != entry.address => Ok(Step::Up(name(entry)?, parent)),
        _ => Ok(Step::Root),
    }
}

/// An entry's name.
fn name(entry: &Object<'_>) -> Result<String, Error> {
    let name = entry.field("d_name")?;
    let len = name.get("len")?.min(MAX_NAME);
    Ok(entry.kernel().read_text(name.get("name")?, len as usize)?)
}

/// The name that the file system makes up, if that is what it does (`d_path`).
fn made_up(path: &Object<'_>, entry: &Object<'_>) -> Result<Option<String>, Error> {
    let operations = entry.follow("d_op")?;
    let makes_up = match operations {
        Some(operations) => operations.get("d_dname")? != 0,
        None => false,
    };
    if !makes_up {
        return Ok(None);
    }
    // The root of a mount that anyone can see has its place.
    let is_mounted = match path.follow("mnt")? {
        Some(mount) => mount.get("mnt_root")? == entry.address,
        None => false,
    };
    if is_mounted && is_root(entry)? {
        return Ok(None);
    }
    let number = || -> Result<u64, Error> {
        let inode = entry.follow("d_inode")?;
        inode.map_or(Ok(0), |inode| inode.get("i_ino"))
    };
    Ok(Some(match file_system(entry)?.as_str() {
        "pipefs" => format!("pipe:[{}]", number()?),
        "sockfs" => format!("socket:[{}]", number()?),
        "anon_inodefs" => format!("anon_inode:{}", name(entry)?),
        "pidfs" => "anon_inode:[pidfd]".to_owned(),
        "nsfs" => format!("{}:[{}]", namespace(entry)?, number()?),
        "dmabuf" => format!("/dmabuf:{}", buffer(entry)?),
        // `simple_dname`: memfd and other memory that is no file in a directory.
        _ => format!("/{} (deleted)", name(entry)?),
    }))
}

/// The type of the file system that an entry is in.
fn file_system(entry: &Object<'_>) -> Result<String, Error> {
    let block = entry.follow("d_sb")?;
    let block = block.ok_or_else(|| Error::NoSymbol("an entry's superblock".into()))?;
    let ty = block.follow("s_type")?;
    let ty = ty.ok_or_else(|| Error::NoSymbol("a superblock's type".into()))?;
    ty.field("name")?.text()
}

/// What kind of namespace an entry of nsfs stands for.
fn namespace(entry: &Object<'_>) -> Result<String, Error> {
    let kernel = entry.kernel();
    let inode = entry.follow("d_inode")?;
    let own = inode.map_or(Ok(0), |inode| inode.get("i_private"))?;
    let own = kernel.object("struct ns_common", own)?;
    let operations = own.follow("ops")?;
    let operations = operations.ok_or_else(|| Error::NoSymbol("a namespace's kind".into()))?;
    operations.field("name")?.text()
}

/// The name that somebody gave a DMA buffer; empty if nobody did.
fn buffer(entry: &Object<'_>) -> Result<String, Error> {
    let buffer = entry.get("d_fsdata")?;
    let name = entry
        .kernel()
        .object("struct dma_buf", buffer)?
        .field("name")?;
    match name.number()? {
        0 => Ok(String::new()),
        _ => name.text(),
    }
}
