//! The folder of saved dumps: as many as are wanted of the newest, above a floor of free room.
//!
//! A saved dump is a folder as [`crate::extract`] makes it, `TIME-ID` with a metadata.json of that
//! id. Nothing else is ever removed, so a dump that was renamed is kept for good. What is removed
//! loses its name first: half a dump never looks like one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;
use crate::extract::{PARTIAL, partial_name, sync_folder};
use crate::shipped;
use crate::system::System;
use crate::text;

/// Digits of a dump's id in its folder's name.
const ID_DIGITS: usize = 8;

/// The folder.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Where it is.
    pub folder: PathBuf,
    /// How many dumps are kept; 0 for all.
    pub keep: u32,
    /// Bytes that stay free on its file system.
    pub floor: u64,
    /// Where dumps are shipped to; those that are not there are not removed. Empty: nowhere.
    pub ship: String,
    /// Whether their vmcores are not.
    pub reports_only: bool,
}

/// A dump in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Saved {
    /// When it was saved, in seconds since 1970. When it crashed says less: a board without a
    /// clock of its own crashes in 1970.
    at: u64,
    /// Its folder.
    pub folder: PathBuf,
}

/// What metadata.json tells of a dump.
#[derive(Deserialize)]
struct Told {
    dump_id: String,
    extracted: u64,
    vmcore: String,
    vmcore_bytes: u64,
}

impl Told {
    fn of(folder: &Path) -> Option<Self> {
        let text = fs::read(folder.join("metadata.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

impl Archive {
    /// Makes the folder, and removes what a save that was cut off has left in it. That dump is
    /// still on its partition.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(self, system: &System) -> Result<Self, Error> {
        fs::create_dir_all(&self.folder).map_err(Error::io("make", &self.folder))?;
        for name in self.names()? {
            let Some((_, process)) = name.split_once(PARTIAL) else {
                continue;
            };
            // A process of another boot may have had any number, also ours.
            let is_at_work = |number: u32| {
                let name = system.text(format!("/proc/{number}/comm"));
                number != std::process::id() && name.is_ok_and(|name| name == "kdraw")
            };
            let number = process.parse();
            if name.starts_with('.') && number.is_ok_and(|number| !is_at_work(number)) {
                let path = self.folder.join(name);
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(self)
    }

    /// The dumps in it, the one saved first first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn dumps(&self) -> Result<Vec<Saved>, Error> {
        let saved = |name: String| {
            let folder = self.folder.join(&name);
            let told = Told::of(&folder)?;
            let (_, id) = name.rsplit_once('-')?;
            let is_it = id.len() == ID_DIGITS && told.dump_id.starts_with(id);
            is_it.then_some(Saved {
                at: told.extracted,
                folder,
            })
        };
        let mut dumps: Vec<Saved> = self.names()?.into_iter().filter_map(saved).collect();
        dumps.sort();
        Ok(dumps)
    }

    /// Whether `folder` holds the whole dump `id`: a save that was cut off after it, before the
    /// slot was marked, leaves it so.
    ///
    /// # Errors
    /// [`Error::Io`] if that cannot be made durable.
    pub fn holds(&self, folder: &Path, id: &[u8; 16]) -> Result<bool, Error> {
        let Some(told) = Told::of(folder) else {
            return Ok(false);
        };
        let len = fs::metadata(folder.join(&told.vmcore)).map(|file| file.len());
        if told.dump_id != text::hex(id) || len.ok() != Some(told.vmcore_bytes) {
            return Ok(false);
        }
        sync_folder(&self.folder)?;
        Ok(true)
    }

    /// Removes the oldest dumps but `new` ones, so that with `need` bytes more the floor stays
    /// free; none if that would not be enough. Returns what was removed, or how much is lacking.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn make_room(
        &self,
        need: u64,
        new: &[PathBuf],
    ) -> Result<Result<Vec<PathBuf>, u64>, Error> {
        let lacking = need
            .saturating_add(self.floor)
            .saturating_sub(free(&self.folder)?);
        let mut dumps = Vec::new();
        for dump in self.dumps()? {
            if !new.contains(&dump.folder) && !self.waits(&dump.folder) {
                dumps.push((size(&dump.folder)?, dump.folder));
            }
        }
        let leaving = first_of(dumps, lacking);
        for folder in leaving.iter().flatten() {
            self.remove(folder)?;
        }
        Ok(leaving)
    }

    /// Removes the oldest dumps, but `new` ones, of which there are more than are kept. Returns
    /// what was removed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn rotate(&self, new: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
        let dumps = self.dumps()?;
        let surplus = match self.keep {
            0 => 0,
            keep => dumps.len().saturating_sub(keep as usize),
        };
        let oldest = dumps.into_iter().take(surplus).map(|dump| dump.folder);
        let leaving: Vec<PathBuf> = oldest
            .filter(|folder| !new.contains(folder) && !self.waits(folder))
            .collect();
        for folder in &leaving {
            self.remove(folder)?;
        }
        Ok(leaving)
    }

    /// Whether a dump is still to be shipped.
    fn waits(&self, folder: &Path) -> bool {
        let files = shipped::files(folder, self.reports_only);
        !self.ship.is_empty()
            && files.is_ok_and(|files| !shipped::is_shipped(folder, &self.ship, &files))
    }

    fn remove(&self, folder: &Path) -> Result<(), Error> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let leaving = self.folder.join(partial_name(&name));
        fs::rename(folder, &leaving).map_err(Error::io("remove", folder))?;
        fs::remove_dir_all(&leaving).map_err(Error::io("remove", &leaving))
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let entries = fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        let names: Vec<Option<String>> = names
            .collect::<io::Result<_>>()
            .map_err(Error::io("list", &self.folder))?;
        Ok(names.into_iter().flatten().collect())
    }
}

/// The first folders, whose sizes are told, that are `lacking` together; or what is lacking still.
fn first_of(dumps: Vec<(u64, PathBuf)>, mut lacking: u64) -> Result<Vec<PathBuf>, u64> {
    let mut first = Vec::new();
    for (size, folder) in dumps {
        if lacking == 0 {
            break;
        }
        lacking = lacking.saturating_sub(size);
        first.push(folder);
    }
    match lacking {
        0 => Ok(first),
        lacking => Err(lacking),
    }
}

/// Bytes that are free on a folder's file system.
///
/// # Errors
/// [`Error::Io`].
fn free(folder: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|why| Error::io("look for room in", folder)(why.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that a dump takes on the disk; a vmcore may have holes.
fn size(folder: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::MetadataExt;
    /// What st_blocks counts in (stat(2)).
    const BLOCK: u64 = 512;
    let mut total = 0_u64;
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let blocks = entry.and_then(|entry| Ok(entry.metadata()?.blocks()));
        let blocks = blocks.map_err(Error::io("list", folder))?;
        total = total.saturating_add(blocks.saturating_mul(BLOCK));
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_only_if_that_makes_room() {
        let dumps = || vec![(10, "a".into()), (5, "b".into()), (1, "c".into())];
        for (lacking, expected) in [
            (0, Ok(0)),
            (1, Ok(1)),
            (10, Ok(1)),
            (11, Ok(2)),
            (16, Ok(3)),
            (17, Err(1)),
            (u64::MAX, Err(u64::MAX - 16)),
        ] {
            let found = first_of(dumps(), lacking).map(|first| first.len());
            assert_eq!(found, expected, "{lacking}");
        }
    }
}
