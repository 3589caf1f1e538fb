//! Where a kernel with debug information lies, and whether it is the one that crashed.

use std::fs::File;
use std::path::{Path, PathBuf};

use object::read::{Object, ReadCache};

use crate::error::Error;
use crate::text;

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

/// What is known of the kernel that crashed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `uname -r`.
    pub release: String,
    /// The build-id in hexadecimal digits; kernels before 5.9 do not tell it.
    pub build_id: Option<String>,
}

impl Identity {
    /// The file of this kernel with its debug information, in the usual places below `root`.
    pub fn find(&self, root: &Path) -> Option<PathBuf> {
        let mut places = self.places().map(|place| root.join(place));
        places.find(|place| place.is_file() && self.is_of(place).unwrap_or(false))
    }

    /// The usual places, as paths without their first `/`.
    pub fn places(&self) -> impl Iterator<Item = String> {
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
    pub fn is_of(&self, path: &Path) -> Result<bool, Error> {
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
