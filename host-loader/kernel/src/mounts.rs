//! Mounts of the first process's mount namespace.
//!
//! They are in a red-black tree (`mounts`, 6.8, 2eea9ce4310d), before on a list (`list`).
//!
//! Source: `fs/mount.h`, `include/linux/mount.h`.

use serde::Serialize;

use crate::Kernel;
use crate::object::{Error, Object};
use crate::path;

/// The most mounts; a namespace has 100,000 unless the limit was raised (`fs.mount-max`).
const MAX_MOUNTS: usize = 1 << 20;
/// `MNT_READONLY` of a mount, and `SB_RDONLY` of a superblock.
const MOUNT_READ_ONLY: u64 = 0x40;
const BLOCK_READ_ONLY: u64 = 1;

/// A mount.
#[derive(Clone, Debug, Serialize)]
pub struct Mount {
    /// Its `struct mount`.
    pub mount: u64,
    /// Its `struct super_block`.
    pub superblock: u64,
    /// The type of the file system, with its subtype: `ext4`, `fuse.sshfs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What was mounted: a device, or what mount(8) was told.
    pub device: String,
    /// Where.
    pub directory: String,
    /// Whether it is read-only.
    pub read_only: bool,
}

/// Reads the mounts of the first process; where they cannot be read there are errors.
///
/// # Errors
/// [`Error`] if the kernel does not tell where they are.
pub fn read<'k>(kernel: &'k Kernel<'k>) -> Result<Vec<Result<Mount, Error>>, Error> {
    let namespace = namespace(kernel)?;
    let found: Vec<_> = match namespace.has("list") {
        true => {
            let list = namespace.field("list")?.list("struct mount", "mnt_list")?;
            list.take(MAX_MOUNTS).collect()
        }
        false => {
            let tree = namespace.field("mounts")?;
            let tree = tree.rb_tree("struct mount", "mnt_node")?;
            tree.take(MAX_MOUNTS).collect()
        }
    };
    let own = |mount: Result<Object<'_>, Error>| mount.and_then(|mount| one(&mount)).transpose();
    Ok(found.into_iter().filter_map(own).collect())
}

/// The first process's `struct mnt_namespace`; if it has none any more, the kernel's own.
fn namespace<'k>(kernel: &'k Kernel<'k>) -> Result<Object<'k>, Error> {
    let tasks = kernel.all_tasks()?;
    let is_first = |task: &&Object<'_>| task.get("pid") == Ok(1);
    let tasks = tasks.iter().find(is_first).into_iter().chain(tasks.first());
    let mut namespaces =
        tasks.filter_map(|task| task.follow("nsproxy").ok()??.follow("mnt_ns").ok()?);
    let lost = || Error::NoSymbol("the mount namespace".into());
    namespaces.next().ok_or_else(lost)
}

/// Reads a mount. One without a superblock is none: the place where somebody who reads
/// /proc/mounts stopped on the list (5.8 to 6.8, 9f6c61f96f2d).
fn one(mount: &Object<'_>) -> Result<Option<Mount>, Error> {
    let lost = |what: &str| Error::NoSymbol(format!("a mount's {what}"));
    let visible = mount.field("mnt")?;
    let Some(block) = visible.follow("mnt_sb")? else {
        return Ok(None);
    };
    let root = visible.follow("mnt_root")?.ok_or_else(|| lost("root"))?;
    let ty = block.follow("s_type")?.ok_or_else(|| lost("type"))?;
    let text = |of: &Object<'_>, member: &str| -> Result<String, Error> {
        let text = of.field(member)?;
        match text.number()? {
            0 => Ok(String::new()),
            _ => text.text(),
        }
    };
    let mut kind = text(&ty, "name")?;
    let subtype = text(&block, "s_subtype")?;
    if !subtype.is_empty() {
        kind = format!("{kind}.{subtype}");
    }
    Ok(Some(Mount {
        mount: mount.address,
        superblock: block.address,
        kind,
        device: text(mount, "mnt_devname")?,
        directory: path::joined(root, Some(visible)),
        read_only: visible.get("mnt_flags")? & MOUNT_READ_ONLY != 0
            || block.get("s_flags")? & BLOCK_READ_ONLY != 0,
    }))
}
