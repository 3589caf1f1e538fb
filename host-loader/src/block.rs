//! A block device as sysfs describes it: where a partition lies, and who uses it.
//!
//! Source: Documentation/ABI/stable/sysfs-block; sizes and starts are in sectors of 512 bytes
//! whatever the device's block size.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::system::System;

/// A block device that sysfs knows.
#[derive(Clone, Debug)]
pub struct BlockDevice {
    /// The kernel's name, such as `vda4`.
    pub name: String,
    /// Its folder in sysfs, below /sys/devices.
    pub sysfs: PathBuf,
    /// Its number on its disk if it is a partition.
    pub partition: Option<u64>,
    /// Its first byte on its disk.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its device number, `major:minor`.
    pub numbers: String,
}

impl BlockDevice {
    /// Looks `path` up in sysfs; `None` if it is a regular file.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Content`] if it does not exist or sysfs does not know it.
    pub fn of(system: &System, path: &Path) -> Result<Option<Self>, Error> {
        let metadata = fs::metadata(path).map_err(Error::io("open", path))?;
        if metadata.file_type().is_block_device() {
            let (major, minor) = (
                rustix::fs::major(metadata.rdev()),
                rustix::fs::minor(metadata.rdev()),
            );
            return Self::at(system, format!("/sys/dev/block/{major}:{minor}")).map(Some);
        }
        // A test's system has plain files for its devices.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let class = format!("/sys/class/block/{name}");
        if !system.is_running() && system.exists(&class) {
            return Self::at(system, class).map(Some);
        }
        Ok(None)
    }

    fn at(system: &System, link: String) -> Result<Self, Error> {
        let number = |file: &str| system.number(&format!("{link}/{file}"));
        let path = system.path(&link);
        let sysfs = fs::canonicalize(&path).map_err(Error::io("follow", path))?;
        let name = sysfs.file_name().unwrap_or_default().to_string_lossy();
        let is_partition = sysfs.join("partition").exists();
        let bytes = |sectors: u64| sectors.saturating_mul(512);
        Ok(Self {
            name: name.into_owned(),
            partition: if is_partition {
                Some(number("partition")?)
            } else {
                None
            },
            start: if is_partition {
                bytes(number("start")?)
            } else {
                0
            },
            len: bytes(number("size")?),
            numbers: system.text(format!("{link}/dev"))?,
            sysfs,
        })
    }

    /// The device of the disk that it is, or is a partition of.
    pub fn disk_path(&self) -> PathBuf {
        let disk = match self.partition {
            Some(_) => self.sysfs.parent().unwrap_or(&self.sysfs),
            None => &self.sysfs,
        };
        Path::new("/dev").join(disk.file_name().unwrap_or_default())
    }

    /// The partitions of this disk: number and kernel name.
    pub fn partitions(&self) -> Vec<(u64, String)> {
        let mut found: Vec<_> = entries(&self.sysfs)
            .filter_map(|child| {
                let number = fs::read_to_string(child.join("partition")).ok()?;
                let name = child.file_name()?.to_string_lossy().into_owned();
                Some((number.trim().parse().ok()?, name))
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// Whether Linux only reads it: a card's switch, a namespace's protection, `blockdev --setro`.
    pub fn is_read_only(&self) -> bool {
        fs::read_to_string(self.sysfs.join("ro")).is_ok_and(|ro| ro.trim() == "1")
    }

    /// Who uses the device now: mount points, swap, and devices stacked on it.
    ///
    /// # Errors
    /// [`Error::Io`] if the list of mounts cannot be read.
    pub fn users(&self, system: &System) -> Result<Vec<String>, Error> {
        let mut users = Vec::new();
        // Fields: id, parent, major:minor, root, mount point, …; see proc_pid_mountinfo(5).
        for line in system.text("/proc/self/mountinfo")?.lines() {
            let mut fields = line.split(' ').skip(2);
            if fields.next() == Some(&self.numbers) {
                users.push(format!("mounted at {}", fields.nth(1).unwrap_or("?")));
            }
        }
        for line in system.text("/proc/swaps").unwrap_or_default().lines() {
            let device = line.split_whitespace().next().unwrap_or_default();
            let same = Path::new(device).file_name() == Some(self.name.as_ref());
            if device.starts_with('/') && same {
                users.push("in use as swap".to_owned());
            }
        }
        for holder in entries(&self.sysfs.join("holders")) {
            let name = holder.file_name().unwrap_or_default().to_string_lossy();
            users.push(format!("part of {name}"));
        }
        Ok(users)
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
}
