//! A dump becomes a folder: the vmcore, `dmesg.txt`, `open.txt`, `metadata.json`, and what
//! [`crate::report`] makes of it: `report.html`, `report.json`. Without these two it is extracted
//! all the same.
//!
//! The order is: scan (every checksum is checked), lay out, write into a temporary folder, flush,
//! rename, flush the parent; only then may the slot be marked. Nothing that exists is touched.
//! What is damaged is left out and told. Memory holds keys and passwords: folder and files are their
//! owner's alone, whatever the umask.

pub mod dmesg;
pub mod dump_memory;
pub mod metadata;
pub mod vmcore;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kdraw_format::layout::SlotPlace;
use kdraw_kernel::Options;

use crate::error::Error;
use crate::openers::Openers;
use crate::output::sink::{Flattened, SparseFile};
use crate::output::{Format, Progress, WriteError};
use crate::partition::DumpPartition;
use crate::report::capture::Capture;
use crate::report::{Report, html};
use crate::scan::Scan;
use crate::text;
use dump_memory::DumpMemory;
use metadata::Metadata;

/// Why a dump could not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The result's folder is there already.
    #[error("{0} exists already; it is left alone. Move it away, or choose another -o")]
    Exists(PathBuf),
    /// No chunk is whole.
    #[error("slot {0} has nothing that can be recovered; `kdraw verify` shows the damage")]
    Nothing(u32),
    /// The vmcore cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// I/O.
    #[error(transparent)]
    Other(#[from] Error),
}

/// How a dump is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The vmcore's layout.
    pub format: Format,
    /// Whether it is written as makedumpfile's flattened stream.
    pub flattened: bool,
}

impl Wanted {
    /// The name of the file in the dump's folder.
    pub fn file_name(self) -> &'static str {
        match (self.flattened, self.format) {
            (true, _) => "vmcore.flat",
            (false, Format::Raw) => "memory.raw",
            (false, Format::Kdump(_) | Format::Elf) => "vmcore",
        }
    }
}

/// What came out.
#[derive(Debug)]
pub struct Extracted {
    /// The folder.
    pub folder: PathBuf,
    /// What is in metadata.json.
    pub metadata: Metadata,
    /// What happened, in one sentence; or why there is no report.
    pub report: Result<String, String>,
}

/// Extracts the dump in `slot` into a folder below `into`, which is made.
///
/// # Errors
/// [`ExtractError`]; nothing is left behind then.
pub fn extract(
    partition: &mut DumpPartition,
    slot: &SlotPlace,
    into: &Path,
    wanted: Wanted,
    progress: Progress<'_>,
) -> Result<Extracted, ExtractError> {
    let scan = Scan::of(partition, slot, &mut |at, total| {
        progress("checking", at, total);
    });
    let when = scan
        .crash_time()
        .map_or_else(|| "unknown-time".to_owned(), text::stamp);
    let id: String = text::hex(&scan.header.dump_id).chars().take(8).collect();
    let name = format!("{when}-{id}");
    fs::create_dir_all(into).map_err(Error::io("make", into))?;
    let folder = into.join(&name);
    if folder.symlink_metadata().is_ok() {
        return Err(ExtractError::Exists(folder));
    }
    let partial = Partial::new(into.join(partial_name(&name)))?;
    let vmcore_path = partial.path.join(wanted.file_name());
    let file = create(&vmcore_path)?;
    let core = if wanted.flattened {
        let out = BufWriter::with_capacity(1 << 20, &file);
        let mut sink = Flattened::new(out, vmcore_path.clone());
        vmcore::write(partition, &scan, wanted, &mut sink, progress)?
    } else {
        let mut sink = SparseFile::new(&file, &vmcore_path);
        vmcore::write(partition, &scan, wanted, &mut sink, progress)?
    };
    let log = if partition.superblock.plain {
        dmesg::of_plain(partition, &scan)
    } else {
        dmesg::of(DumpMemory::new(partition, &scan), &scan.notes, &scan)
    };
    file.sync_all().map_err(Error::io("flush", &vmcore_path))?;
    write_new(&partial.path.join("dmesg.txt"), &log.text)?;
    if wanted.format != Format::Raw {
        let openers = Openers::from_notes(&scan.notes);
        write_new(
            &partial.path.join("open.txt"),
            openers.text(wanted).as_bytes(),
        )?;
    }
    let metadata = Metadata::new(partition, &scan, wanted, &core, &log);
    let json = serde_json::to_vec_pretty(&metadata).unwrap_or_default();
    write_new(&partial.path.join("metadata.json"), &json)?;
    let report = write_report(&partial.path, partition, &scan, &metadata, &name);
    sync_folder(&partial.path)?;
    partial.publish(&folder)?;
    sync_folder(into)?;
    // `into` itself may be new.
    let absolute = std::path::absolute(into).map_err(Error::io("locate", into))?;
    if let Some(parent) = absolute.parent() {
        sync_folder(parent)?;
    }
    Ok(Extracted {
        folder,
        metadata,
        report,
    })
}

/// Writes the report in both forms; returns its sentence. No trouble with it, not even a fault of
/// its own, costs the dump.
fn write_report(
    folder: &Path,
    partition: &DumpPartition,
    scan: &Scan,
    metadata: &Metadata,
    name: &str,
) -> Result<String, String> {
    let make = || {
        let mut capture = Capture::of_slot(partition, scan);
        capture.losses.clone_from(&metadata.losses);
        let name = name.to_owned();
        let report = Report::of_slot(partition, scan, capture, name, Options::default());
        let json = serde_json::to_vec_pretty(&report).unwrap_or_default();
        (report.sentence().to_owned(), html::page(&report), json)
    };
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(make));
    let (sentence, page, json) = made.map_err(|_| "it failed; this is a bug".to_owned())?;
    for (file, bytes) in [("report.html", page.as_bytes()), ("report.json", &json)] {
        let path = folder.join(file);
        write_new(&path, bytes).map_err(|why| {
            // Half a report is none.
            let _ = fs::remove_file(&path);
            why.to_string()
        })?;
    }
    Ok(sentence)
}

/// Writes the vmcore of the dump in `slot` to `out` as a flattened stream; nothing else comes of
/// it. `name` is for messages. Returns what is lost, in words.
///
/// # Errors
/// [`ExtractError`].
pub fn stream(
    partition: &mut DumpPartition,
    slot: &SlotPlace,
    format: Format,
    out: impl Write,
    name: PathBuf,
    progress: Progress<'_>,
) -> Result<Vec<String>, ExtractError> {
    let scan = Scan::of(partition, slot, &mut |at, total| {
        progress("checking", at, total);
    });
    let wanted = Wanted {
        format,
        flattened: true,
    };
    let mut sink = Flattened::new(out, name);
    let core = vmcore::write(partition, &scan, wanted, &mut sink, progress)?;
    Ok(metadata::losses(&scan, &core))
}

/// What a folder that is not whole yet, or not any more, is called.
pub fn partial_name(name: &str) -> String {
    format!(".{name}{PARTIAL}{}", std::process::id())
}

/// What stands between the name and the number of the process that is at work.
pub const PARTIAL: &str = ".partial-";

/// A folder that disappears again unless it is published.
struct Partial {
    path: PathBuf,
    published: bool,
}

impl Partial {
    fn new(path: PathBuf) -> Result<Self, Error> {
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(Error::io("make", &path))?;
        Ok(Self {
            path,
            published: false,
        })
    }

    /// Gives it its name, unless something has that name.
    fn publish(mut self, folder: &Path) -> Result<(), ExtractError> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let renamed = renameat_with(CWD, &self.path, CWD, folder, RenameFlags::NOREPLACE);
        let renamed = match renamed {
            Err(rustix::io::Errno::EXIST) => {
                return Err(ExtractError::Exists(folder.to_owned()));
            }
            // A file system that knows no such flag. rename(2) replaces nothing but an empty
            // folder.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::rename(&self.path, folder)
            }
            other => other.map_err(Into::into),
        };
        renamed.map_err(Error::io("rename to", folder))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that brought us here is the one to tell.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("make", path))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = create(path)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", path))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_folder(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("flush", path))
}
