//! Where a kernel with debug information lies, and whether it is the one that crashed.
//! [`sources`] reads it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::read::{Object, ReadCache};

use crate::error::Error;
use crate::system::System;
use crate::text;

pub mod sources;

/// Where the debug information is.
#[derive(clap::Args)]
pub struct DebugArgs {
    /// The kernel with debug symbols; without it the usual places are searched by build-id.
    #[arg(long, value_name = "FILE")]
    pub vmlinux: Option<PathBuf>,
}

impl DebugArgs {
    /// The file: the one that was named, if it is this kernel, or one in the usual places.
    ///
    /// # Errors
    /// If there is none, or it is another kernel's.
    pub fn locate(&self, kernel: &Identity, system: &System) -> Result<PathBuf> {
        let build_id = kernel.build_id.as_deref().unwrap_or("(unknown)");
        let Some(given) = &self.vmlinux else {
            return kernel.find(&system.path("/")).with_context(|| {
                let places: Vec<_> = kernel.places().collect();
                format!(
                    "the debug symbols of {}, build-id {build_id}, are in none of /{}; install \
                     them (Debian: linux-image-{}-dbg), or name the file with --vmlinux",
                    kernel.release,
                    places.join(", /"),
                    kernel.release,
                )
            });
        };
        if !kernel.is_of(given)? {
            bail!(
                "{} is another kernel: its build-id is not {build_id}, that of the kernel that \
                 crashed",
                given.display()
            );
        }
        Ok(given.clone())
    }
}

/// Where distributions put it; `RELEASE` and `BUILD/ID` stand for the kernel's.
///
/// Source: Debian's and Ubuntu's, Fedora's and Arch's packages; `debuginfo` of elfutils.
const PLACES: [&str; 7] = [
    "usr/lib/debug/.build-id/BUILD/ID.debug",
    "usr/lib/debug/boot/vmlinux-RELEASE",
    "usr/lib/debug/lib/modules/RELEASE/vmlinux",
    "usr/lib/debug/usr/lib/modules/RELEASE/vmlinux",
    "usr/lib/modules/RELEASE/build/vmlinux",
    "lib/modules/RELEASE/build/vmlinux",
    "boot/vmlinux-RELEASE",
];

/// Where distributions put modules with it, and where those are that were built on this machine.
const MODULE_PLACES: [&str; 4] = [
    "usr/lib/debug/lib/modules/RELEASE",
    "usr/lib/debug/usr/lib/modules/RELEASE",
    "usr/lib/modules/RELEASE",
    "lib/modules/RELEASE",
];

/// What is known of the kernel that crashed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `uname -r`.
    pub release: String,
    /// The build-id in hexadecimal digits; kernels before 5.9 do not tell it.
    pub build_id: Option<String>,
}

impl Identity {
    /// The folders below `root` that its modules with debug symbols may be in.
    pub fn module_folders(&self, root: &Path) -> Vec<PathBuf> {
        let places = MODULE_PLACES.iter();
        let places = places.map(|place| place.replace("RELEASE", &self.release));
        places.map(|place| root.join(place)).collect()
    }

    /// The file of this kernel with its debug information, in the usual places below `root`.
    fn find(&self, root: &Path) -> Option<PathBuf> {
        let mut places = self.places().map(|place| root.join(place));
        places.find(|place| place.is_file() && self.is_of(place).unwrap_or(false))
    }

    /// The usual places, as paths without their first `/`.
    fn places(&self) -> impl Iterator<Item = String> {
        let split = self
            .build_id
            .as_deref()
            .and_then(|id| id.split_at_checked(2));
        PLACES.iter().filter_map(move |place| {
            let place = place.replace("RELEASE", &self.release);
            if !place.contains("BUILD/ID") {
                return Some(place);
            }
            split.map(|(first, rest)| place.replace("BUILD/ID", &format!("{first}/{rest}")))
        })
    }

    /// Whether a file is this kernel, by its build-id. One without is believed by its name.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened, [`Error::Content`] if it is no ELF file.
    fn is_of(&self, path: &Path) -> Result<bool, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let cache = ReadCache::new(file);
        let object = object::File::parse(&cache).map_err(|why| Error::Content {
            path: path.to_owned(),
            found: why.to_string(),
            expected: "a kernel as ELF file (vmlinux)",
        })?;
        let own = object.build_id().ok().flatten().map(text::hex);
        Ok(match (&self.build_id, own) {
            (Some(wanted), Some(own)) => *wanted == own,
            _ => true,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    pub const ID: [u8; 20] = [0xab; 20];

    /// An ELF file with nothing but a build-id.
    pub fn vmlinux(id: [u8; 20]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        // ET_EXEC for arm64; one program header behind this header.
        file.extend([2, 0, 183, 0, 1, 0, 0, 0]);
        file.extend([0, 64, 0].map(u64::to_le_bytes).concat());
        file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
        // PT_NOTE: 36 bytes behind it.
        file.extend([4, 0, 0, 0, 4, 0, 0, 0]);
        file.extend([120, 0, 0, 36, 36, 4].map(u64::to_le_bytes).concat());
        file.extend([4, 20, 3].map(u32::to_le_bytes).concat());
        file.extend(b"GNU\0");
        file.extend(id);
        file
    }

    fn kernel() -> Identity {
        Identity {
            release: "6.12.0".to_owned(),
            build_id: Some("ab".repeat(20)),
        }
    }

    fn given(vmlinux: &Path) -> DebugArgs {
        DebugArgs {
            vmlinux: Some(vmlinux.to_owned()),
        }
    }

    #[test]
    fn only_the_kernel_that_crashed_is_found() {
        let root = tempfile::tempdir().unwrap();
        let place = |place: &str, id| {
            let path = root.path().join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vmlinux(id)).unwrap();
            path
        };
        assert_eq!(kernel().find(root.path()), None);
        place("usr/lib/debug/boot/vmlinux-6.12.0", [0xcd; 20]);
        place("boot/vmlinux-6.12.1", ID);
        assert_eq!(kernel().find(root.path()), None);
        let plain = place("boot/vmlinux-6.12.0", ID);
        assert_eq!(kernel().find(root.path()), Some(plain));
        let by_id = format!("usr/lib/debug/.build-id/ab/{}.debug", "ab".repeat(19));
        let by_id = place(&by_id, ID);
        assert_eq!(kernel().find(root.path()), Some(by_id));
    }

    #[test]
    fn what_is_named_must_be_that_kernel() {
        let root = tempfile::tempdir().unwrap();
        let system = System::new(root.path());
        let path = root.path().join("vmlinux");
        let locate = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let found = given(&path).locate(&kernel(), &system);
            found.map_err(|why| why.to_string())
        };
        assert_eq!(locate(&vmlinux(ID)), Ok(path.clone()));
        for (bytes, told) in [
            (vmlinux([0xcd; 20]), "is another kernel"),
            (b"#!/bin/sh".to_vec(), "expected a kernel as ELF file"),
        ] {
            let why = locate(&bytes).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
        let none = DebugArgs { vmlinux: None };
        let why = none.locate(&kernel(), &system).unwrap_err().to_string();
        assert!(why.contains("/boot/vmlinux-6.12.0; install them"), "{why}");
    }
}
