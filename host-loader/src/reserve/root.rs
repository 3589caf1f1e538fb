//! A system's files below a folder: `/` itself, or an image that is mounted somewhere.
//!
//! Links are followed as that system would follow them, so that an absolute one in an image never
//! leads out of it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;

/// As many links as Linux follows (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// More than any boot configuration or device tree has, in bytes.
const MAX_LEN: u64 = 4 << 20;

/// Where a system's files are.
#[derive(Clone, Debug)]
pub struct Root {
    folder: PathBuf,
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it really is, after all links.
    pub real: PathBuf,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Root {
    /// The system below `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where an absolute path of that system is on this one. The file itself need not exist.
    ///
    /// # Errors
    /// [`Error::Io`] if links lead in a circle.
    pub fn real(&self, path: &str) -> Result<PathBuf, Error> {
        let mut real = self.folder.clone();
        let mut depth = 0u32;
        let mut links = 0u32;
        let mut left = steps(Path::new(path));
        while let Some(step) = left.pop() {
            if step == ".." {
                if depth > 0 {
                    real.pop();
                }
                depth = depth.saturating_sub(1);
                continue;
            }
            let next = real.join(&step);
            let Ok(to) = fs::read_link(&next) else {
                real = next;
                depth = depth.saturating_add(1);
                continue;
            };
            links = links.saturating_add(1);
            if links > MAX_LINKS {
                let circle = io::Error::from_raw_os_error(libc::ELOOP);
                return Err(Error::io("follow", next)(circle));
            }
            if to.is_absolute() {
                real = self.folder.clone();
                depth = 0;
            }
            left.extend(steps(&to));
        }
        Ok(real)
    }

    /// Whether there is a file.
    pub fn has(&self, path: &str) -> bool {
        self.real(path).is_ok_and(|real| real.is_file())
    }

    /// Whether there is a folder.
    pub fn has_folder(&self, path: &str) -> bool {
        self.real(path).is_ok_and(|real| real.is_dir())
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Content`] if it is none to edit.
    pub fn read(&self, path: &str) -> Result<Option<Found>, Error> {
        let real = self.real(path)?;
        let bytes = read(&real)?;
        Ok(bytes.map(|bytes| Found { real, bytes }))
    }

    /// The files of a folder whose names end in `suffix`, in the order a shell lists them; none if
    /// there is no such folder.
    pub fn list(&self, folder: &str, suffix: &str) -> Vec<String> {
        let entries = self.real(folder).and_then(|real| {
            let entries = fs::read_dir(&real).map_err(Error::io("list", &real))?;
            Ok(entries.filter_map(Result::ok))
        });
        let names = entries.into_iter().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let hidden = name.starts_with('.');
            (name.ends_with(suffix) && !hidden).then(|| format!("{folder}/{name}"))
        });
        let mut paths: Vec<String> = names.collect();
        paths.sort();
        paths
    }
}

/// Reads a whole file; `None` if there is none.
pub fn read(real: &Path) -> Result<Option<Vec<u8>>, Error> {
    let metadata = match fs::metadata(real) {
        Ok(metadata) => metadata,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(Error::io("read", real)(error)),
            };
        }
    };
    if !metadata.is_file() || metadata.len() > MAX_LEN {
        return Err(Error::Content {
            path: real.to_owned(),
            found: format!("{} bytes, {:?}", metadata.len(), metadata.file_type()),
            expected: "a boot configuration: a regular file of at most 4 MiB",
        });
    }
    fs::read(real).map(Some).map_err(Error::io("read", real))
}

/// The steps of a path, the last first.
fn steps(path: &Path) -> Vec<OsString> {
    let steps = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let inside = |path: &str| folder.path().join(path);
        fs::create_dir_all(inside("boot/firmware")).unwrap();
        fs::write(inside("boot/firmware/cmdline.txt"), "ro").unwrap();
        symlink("firmware/cmdline.txt", inside("boot/relative")).unwrap();
        symlink("/boot/firmware", inside("boot/absolute")).unwrap();
        symlink("../../../../etc/passwd", inside("boot/outside")).unwrap();
        symlink("circle", inside("boot/circle")).unwrap();
        let target = inside("boot/firmware/cmdline.txt");
        assert_eq!(root.real("/boot/relative").unwrap(), target);
        assert_eq!(root.real("/boot/absolute/cmdline.txt").unwrap(), target);
        assert_eq!(root.real("/boot/outside").unwrap(), inside("etc/passwd"));
        assert!(root.real("/boot/circle").is_err());
        assert_eq!(root.read("/boot/relative").unwrap().unwrap().bytes, b"ro");
        assert!(root.read("/boot/none/file").unwrap().is_none());
        assert!(root.read("/boot").is_err());
        assert_eq!(
            root.list("/boot/firmware", ".txt"),
            ["/boot/firmware/cmdline.txt"]
        );
        assert!(root.list("/none", "").is_empty());
    }
}
