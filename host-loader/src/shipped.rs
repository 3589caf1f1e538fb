//! What of a dump's folder has been copied where: the file `.shipped` in it.
//!
//! JSON: a list of shipments. One is noted only after what lies at the other end has been read back
//! and found equal, so a dump that has none for a place is still to be shipped there.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::extract::sync_folder;

/// The file's name.
const FILE: &str = ".shipped";

/// A dump's files, as they arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    /// Where they are; no password is in it.
    pub url: String,
    /// When the last one was found equal, in seconds since 1970.
    pub at: u64,
    /// The files.
    pub files: Vec<Shipped>,
}

/// A file that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipped {
    /// Its name in the dump's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of what lies at the other end, in hexadecimal digits.
    pub sha256: String,
}

/// What metadata.json tells of a dump.
#[derive(Deserialize)]
struct Told {
    vmcore: String,
}

/// The folders of dumps in `directory`, in the order of their names, which begin with the time.
///
/// # Errors
/// [`Error::Io`].
pub fn dumps_in(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut dumps = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let path = entry.map_err(Error::io("list", directory))?.path();
        // One that is being made, or removed.
        let hidden = is_hidden(&path);
        if !hidden && path.join("metadata.json").is_file() {
            dumps.push(path);
        }
    }
    dumps.sort();
    Ok(dumps)
}

/// The files of a dump and their lengths, the small ones first: all of them, or only the reports,
/// which are all but the vmcore. An empty file says nothing and is left out.
///
/// # Errors
/// [`Error::Io`], and [`Error::Content`] if the metadata does not say what the vmcore is.
pub fn files(folder: &Path, reports_only: bool) -> Result<Vec<(String, u64)>, Error> {
    let told = folder.join("metadata.json");
    let text = fs::read(&told).map_err(Error::io("read", &told))?;
    let vmcore = serde_json::from_slice::<Told>(&text).map_err(|why| Error::Content {
        path: told,
        found: why.to_string(),
        expected: "what `kdraw extract` writes",
    })?;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let path = entry.path();
        let data = path.metadata().map_err(Error::io("look at", &path))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let kept = reports_only && name == vmcore.vmcore;
        if data.is_file() && data.len() > 0 && !is_hidden(&path) && !kept {
            files.push((name, data.len()));
        }
    }
    files.sort_by(|one, other| (one.1, &one.0).cmp(&(other.1, &other.0)));
    Ok(files)
}

/// Whether all of these `files` have arrived at `url`.
pub fn is_shipped(folder: &Path, url: &str, files: &[(String, u64)]) -> bool {
    let there = |shipment: &Shipment| {
        let has = |(name, bytes): &(String, u64)| {
            let same = |there: &Shipped| there.name == *name && there.bytes == *bytes;
            shipment.files.iter().any(same)
        };
        shipment.url == url && files.iter().all(has)
    };
    shipments(folder).iter().any(there)
}

/// Notes a shipment, in place of an earlier one to the same place.
///
/// # Errors
/// [`Error::Io`].
pub fn note(folder: &Path, shipment: Shipment) -> Result<(), Error> {
    let mut all = shipments(folder);
    all.retain(|earlier| earlier.url != shipment.url);
    all.push(shipment);
    let text = serde_json::to_vec_pretty(&all).unwrap_or_default();
    let (path, part) = (folder.join(FILE), folder.join(format!("{FILE}.part")));
    File::create(&part)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&part, &path))
        .map_err(Error::io("write", &path))?;
    sync_folder(folder)
}

/// What has been noted. What cannot be read counts as not shipped: that costs time, no dump.
fn shipments(folder: &Path) -> Vec<Shipment> {
    let text = fs::read(folder.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_none_or(|name| name.to_string_lossy().starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let put = |name, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("metadata.json", r#"{"vmcore": "vmcore", "other": 1}"#);
        put("vmcore", &"v".repeat(100));
        put("dmesg.txt", "");
        put(".hidden", "h");
        folder
    }

    #[test]
    fn a_dump_is_its_files_that_have_bytes() {
        let dump = dump();
        let names = |reports| {
            let found = files(dump.path(), reports).unwrap();
            found.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["metadata.json", "vmcore"]);
        assert_eq!(names(true), ["metadata.json"]);
        fs::write(dump.path().join("metadata.json"), "{}").unwrap();
        assert!(files(dump.path(), false).is_err());
    }

    #[test]
    fn what_arrived_is_known_by_place_name_and_length() {
        let dump = dump();
        let wanted = files(dump.path(), false).unwrap();
        let shipment = |url: &str, names: &[&str]| Shipment {
            url: url.into(),
            at: 1,
            files: wanted
                .iter()
                .filter(|(name, _)| names.contains(&name.as_str()))
                .map(|(name, bytes)| Shipped {
                    name: name.clone(),
                    bytes: *bytes,
                    sha256: String::new(),
                })
                .collect(),
        };
        let is = |url, wanted: &[(String, u64)]| is_shipped(dump.path(), url, wanted);
        assert!(!is("a", &wanted));
        note(dump.path(), shipment("a", &["metadata.json"])).unwrap();
        assert!(!is("a", &wanted));
        assert!(is("a", &files(dump.path(), true).unwrap()));
        note(dump.path(), shipment("a", &["metadata.json", "vmcore"])).unwrap();
        note(dump.path(), shipment("b", &["vmcore"])).unwrap();
        assert!(is("a", &wanted) && !is("b", &wanted) && !is("c", &wanted));
        assert_eq!(shipments(dump.path()).len(), 2);
        // Another vmcore than the one that was shipped.
        fs::write(dump.path().join("vmcore"), "v").unwrap();
        assert!(!is("a", &files(dump.path(), false).unwrap()));
        fs::write(dump.path().join(FILE), "[{").unwrap();
        assert!(!is("b", &wanted));
    }

    #[test]
    fn dumps_are_folders_with_metadata() {
        let all = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".c", "d"] {
            fs::create_dir(all.path().join(name)).unwrap();
        }
        for name in ["b", "a", ".c"] {
            fs::write(all.path().join(name).join("metadata.json"), "{}").unwrap();
        }
        let found = dumps_in(all.path()).unwrap();
        assert_eq!(found, [all.path().join("a"), all.path().join("b")]);
    }
}
