//! What can go wrong in the tool's library, each with what, where, and what to do.

use std::io;
use std::path::PathBuf;

use kdraw_format::layout::LayoutError;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused to read, write or list something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted: "open", "read", …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel does not tell what only some kernels tell.
    #[error("cannot {action} {path}: {error}; it takes {needs}")]
    NotTold {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
        /// The rights, and how the kernel must have been built.
        needs: &'static str,
    },
    /// A file of /proc or /sys does not hold what it should.
    #[error("{path} holds {found:?}, expected {expected}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is in it, cut to a readable length.
        found: String,
        /// What should be in it.
        expected: &'static str,
    },
    /// Not a partition, file or disk with a kdraw partition.
    #[error(
        "{path} is not a kdraw partition and has none in a partition table: {source}; \
             sign one with `kdraw format`"
    )]
    Unsigned {
        /// What was looked at.
        path: PathBuf,
        /// What is wrong with its superblock.
        source: LayoutError,
    },
    /// The configuration is no TOML, or a value is none of its key's.
    #[error("{path}: {why}")]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
    /// A key that the configuration does not have.
    #[error(
        "{path}: there is no key `{key}`; did you mean `{nearest}`? The example file kdraw.conf \
         explains every key"
    )]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The one that looks most like it.
        nearest: String,
    },
    /// A disk with several kdraw partitions.
    #[error(
        "{path} has several kdraw partitions: numbers {numbers:?}; name one of them \
             (its device, or `--partition N`)"
    )]
    SeveralSigned {
        /// The disk.
        path: PathBuf,
        /// The partitions' numbers.
        numbers: Vec<u32>,
    },
    /// A partition number that the disk does not have, or that is not signed.
    #[error("{path} has no kdraw partition of number {number}; it has {signed:?}")]
    NoSuchPartition {
        /// The disk.
        path: PathBuf,
        /// The number asked for.
        number: u32,
        /// The numbers that are signed.
        signed: Vec<u32>,
    },
    /// A slot number that the partition does not have.
    #[error("there is no slot {asked}: the partition has {slots}, counted from 0")]
    NoSuchSlot {
        /// The number asked for.
        asked: u32,
        /// How many there are.
        slots: u32,
    },
    /// Bytes are not an arm64 Image that the tool can load.
    #[error("payload {origin}: {why}")]
    Payload {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// The device tree blob cannot be rewritten.
    #[error("device tree: {0}")]
    DeviceTree(&'static str),
    /// The crash region leaves the payload too little to work in.
    #[error(
        "the crash region of {region} bytes is too small: beside its segments the payload works \
         in {need} bytes at least, and {room} are left; boot with crashkernel={advice}M"
    )]
    SmallRegion {
        /// The region's length.
        region: u64,
        /// What the segments leave of it.
        room: u64,
        /// What the payload needs.
        need: u64,
        /// A `crashkernel=` that does, in MiB.
        advice: u64,
    },
    /// No boot loader's configuration that the tool knows.
    #[error(
        "{root} has no boot configuration that kdraw knows (it looked for {looked}); mount the boot \
         partition, name an image's folder with --root or a device tree with --dtb, or add \
         crashkernel=8M to the kernel's command line by hand"
    )]
    NoBootLoader {
        /// Where it looked.
        root: PathBuf,
        /// For which files.
        looked: String,
    },
    /// A kernel command line that cannot be changed safely.
    #[error(
        "{path}{}: {why}; nothing was changed: edit it by hand, and run kdraw again",
        at_line(*.line)
    )]
    CommandLine {
        /// Where it is.
        path: PathBuf,
        /// In which line, from 1; 0 if the file has none.
        line: usize,
        /// What is in the way.
        why: &'static str,
    },
    /// A boot configuration could not be replaced; it is as it was.
    #[error("cannot write {path}: {error}; nothing was changed{}", advice(.error))]
    Unwritten {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The segments do not fit the crash region or the limits.
    #[error("{what} of {need} bytes, room for {room}: {hint}")]
    NoRoom {
        /// What is too large.
        what: &'static str,
        /// Its length.
        need: u64,
        /// What there is.
        room: u64,
        /// What to do.
        hint: &'static str,
    },
}

impl Error {
    /// Wraps an I/O error with what was attempted on what.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Wraps the error of a file's replacement.
    pub fn unwritten(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Unwritten { path, error }
    }

    /// Wraps an I/O error with what was attempted on what, and what it takes.
    pub fn not_told(
        action: &'static str,
        path: impl Into<PathBuf>,
        needs: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::NotTold {
            action,
            path,
            error,
            needs,
        }
    }
}

fn at_line(line: usize) -> String {
    match line {
        0 => String::new(),
        line => format!(", line {line}"),
    }
}

/// What to do about a file that cannot be written.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            ". The file system is mounted read-only: `mount -o remount,rw` makes it writable"
        }
        io::ErrorKind::PermissionDenied => ". Run kdraw as root",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". Make room: the new file and a backup lie beside the old one"
        }
        _ => "",
    }
}
