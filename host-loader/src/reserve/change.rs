//! Makes proposed changes, all or none, and takes them back.
//!
//! Each file is written beside itself, synced and renamed, so that a cut leaves the old one or the
//! new one. All files and backups are written before the first is renamed: a full disk or one that
//! is mounted read-only is met while nothing has changed.
//!
//! A backup lies beside its file and is named `FILE.kdraw-was-HASH`, after the XXH64 of what the
//! change wrote; `FILE.kdraw-none-HASH`, empty, stands for a file that did not exist. So a change
//! is only ever taken back if nobody has edited or regenerated the file since: an extlinux.conf
//! from before a kernel's upgrade would not boot. Links are not used, as FAT has none.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use kdraw_format::checksum::checksum;

use super::proposal::Proposal;
use super::root;
use crate::error::Error;

const WAS: &str = ".kdraw-was-";
const NONE: &str = ".kdraw-none-";
const NEW: &str = ".kdraw-new";

/// What a file was before a change of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The file.
    pub file: PathBuf,
    /// Where its former self is.
    pub path: PathBuf,
    /// Whether there was one.
    pub existed: bool,
    /// The hash of what the change wrote, as in the backup's name.
    wrote: String,
}

/// Makes all changes.
///
/// # Errors
/// [`Error::Unwritten`]; then every file is as it was, and no backup is left.
pub fn make(proposals: &[Proposal]) -> Result<Vec<Backup>, Error> {
    let due = proposals.iter().filter(|proposal| proposal.changes());
    let staged: Vec<_> = due.map(|due| (Stage::new(due), due)).collect();
    let mut renamed = Vec::new();
    let made = staged
        .iter()
        .try_for_each(|(stage, proposal)| stage.write(proposal))
        .and_then(|()| {
            staged.iter().try_for_each(|(stage, proposal)| {
                let file = &stage.backup.file;
                fs::rename(&stage.new, file).map_err(Error::unwritten(file))?;
                renamed.push((stage, *proposal));
                Ok(())
            })
        });
    if let Err(error) = made {
        for (stage, proposal) in renamed {
            stage.put_back(proposal)?;
        }
        for (stage, _) in &staged {
            let _ = fs::remove_file(&stage.new);
            let _ = fs::remove_file(&stage.backup.path);
        }
        return Err(error);
    }
    for (stage, _) in &staged {
        sync_folder(&stage.backup.file)?;
        // What an earlier change of ours kept is in the new backup now.
        if let Some(earlier) = &stage.earlier {
            let _ = fs::remove_file(&earlier.path);
        }
    }
    Ok(staged.into_iter().map(|(stage, _)| stage.backup).collect())
}

/// The backups of a file, and whether what they were made for is still there.
pub fn backups(file: &Path) -> Result<Vec<(Backup, bool)>, Error> {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
        return Ok(Vec::new());
    };
    let now = root::read(file)?.map(|bytes| hash(&bytes));
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let mark = path.file_name()?.to_str()?.strip_prefix(name.to_str()?)?;
            let was = mark.strip_prefix(WAS);
            let wrote = was.or(mark.strip_prefix(NONE))?.to_owned();
            let backup = Backup {
                file: file.to_owned(),
                existed: was.is_some(),
                wrote,
                path,
            };
            let fits = now.as_ref() == Some(&backup.wrote);
            Some((backup, fits))
        })
        .collect();
    found.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    Ok(found)
}

impl Backup {
    /// Puts back what was, and takes the backup away.
    ///
    /// # Errors
    /// [`Error::Unwritten`]; then the file is as it was.
    pub fn restore(&self) -> Result<(), Error> {
        let to_fail = || Error::unwritten(&self.file);
        if self.existed {
            fs::rename(&self.path, &self.file).map_err(to_fail())?;
        } else {
            fs::remove_file(&self.file).map_err(to_fail())?;
            fs::remove_file(&self.path).map_err(to_fail())?;
        }
        sync_folder(&self.file)
    }

    /// What was in the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn bytes(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(root::read(&self.path)?.filter(|_| self.existed))
    }
}

/// A change that is written but not yet made.
struct Stage {
    new: PathBuf,
    backup: Backup,
    earlier: Option<Backup>,
}

impl Stage {
    fn new(proposal: &Proposal) -> Self {
        let file = proposal.real.clone();
        let earlier = backups(&file).unwrap_or_default();
        let earlier = earlier.into_iter().find(|(_, fits)| *fits);
        let earlier = earlier.map(|(backup, _)| backup);
        let existed = match &earlier {
            Some(earlier) => earlier.existed,
            None => proposal.before.is_some(),
        };
        let wrote = hash(&proposal.after);
        let mark = if existed { WAS } else { NONE };
        Self {
            new: beside(&file, NEW),
            backup: Backup {
                path: beside(&file, &format!("{mark}{wrote}")),
                existed,
                wrote,
                file,
            },
            earlier,
        }
    }

    fn write(&self, proposal: &Proposal) -> Result<(), Error> {
        let original = match &self.earlier {
            Some(earlier) => earlier.bytes()?,
            None => proposal.before.clone(),
        };
        let like = fs::metadata(&self.backup.file).ok();
        // A folder for fragments may be missing; an empty one does no harm later.
        if let (None, Some(folder)) = (&like, self.backup.file.parent()) {
            fs::create_dir_all(folder).map_err(Error::unwritten(&self.backup.file))?;
        }
        for (path, bytes) in [
            (&self.backup.path, original.as_deref().unwrap_or_default()),
            (&self.new, &proposal.after),
        ] {
            write_new(path, bytes, like.as_ref()).map_err(Error::unwritten(&self.backup.file))?;
        }
        Ok(())
    }

    /// Undoes the rename.
    fn put_back(&self, proposal: &Proposal) -> Result<(), Error> {
        let file = &self.backup.file;
        let undone = match &proposal.before {
            Some(before) => write_new(&self.new, before, fs::metadata(file).ok().as_ref())
                .and_then(|()| fs::rename(&self.new, file)),
            None => fs::remove_file(file),
        };
        undone.map_err(Error::io("put back", file))
    }
}

/// Writes a file that does not exist yet, or is left of an attempt that was cut short, to the disk.
fn write_new(path: &Path, bytes: &[u8], like: Option<&fs::Metadata>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = like.map_or(0o644, |like| like.permissions().mode() & 0o7777);
    let open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = open?;
    if let Some(like) = like {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
            // Only root may, and FAT has no owners.
            let _ = fchown(&file, Some(like.uid()), Some(like.gid()));
        }
        if made.permissions() != like.permissions() {
            file.set_permissions(like.permissions())?;
        }
    }
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(file: &Path) -> Result<(), Error> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let opened = File::open(folder).map_err(Error::io("open", folder))?;
    opened.sync_all().map_err(Error::io("sync", folder))
}

fn beside(file: &Path, mark: &str) -> PathBuf {
    let mut name: OsString = file.file_name().unwrap_or_default().to_owned();
    name.push(mark);
    file.with_file_name(name)
}

fn hash(bytes: &[u8]) -> String {
    format!("{:016x}", checksum(bytes))
}
