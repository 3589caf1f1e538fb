//! The partition that a dump is to go to, checked as the payload will check it again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kdraw_format::layout::{LayoutError, START_UNKNOWN, Superblock};
use kdraw_format::plan;

use crate::block::BlockDevice;
use crate::controller::{Controller, ControllerError};
use crate::error::Error;
use crate::load::options::DumpOptions;
use crate::partition::DumpPartition;
use crate::source::{Access, Source};
use crate::system::System;
use crate::text;

/// Why a partition cannot be the target.
#[derive(Debug, thiserror::Error)]
pub enum BadTarget {
    /// A file or something else that the payload cannot reach.
    #[error("{0} is no block device; the payload writes to a partition of a disk")]
    NotBlock(PathBuf),
    /// No superblock.
    #[error("{path} is not signed: {source}; sign it with `kdraw format {path}`")]
    Unsigned {
        /// The partition.
        path: PathBuf,
        /// What is wrong with its superblock.
        source: LayoutError,
    },
    /// The superblock was written for another place.
    #[error(
        "{path} was signed as {signed}, but lies at {found}; it was moved, resized or copied \
         since. Extract what is on it, then sign it again with `kdraw format`"
    )]
    Moved {
        /// The partition.
        path: PathBuf,
        /// Where the superblock says it is.
        signed: String,
        /// Where the kernel says it is.
        found: String,
    },
    /// A device that cannot be written.
    #[error(
        "{0} is read-only, so no dump could be written: see the card's switch, its write \
         protection, and `blockdev --getro {0}`"
    )]
    ReadOnly(PathBuf),
    /// Another partition than the one asked for.
    #[error("{path} has the id {found}, expected {expected}; it was signed anew or is another one")]
    Uuid {
        /// The partition.
        path: PathBuf,
        /// The superblock's UUID.
        found: String,
        /// The one asked for.
        expected: String,
    },
    /// No such terminal, or none that the device tree names.
    #[error(
        "there is no terminal {0} with a UART in the device tree; /sys/class/tty has their names, \
         as in serial:ttyAMA0"
    )]
    NoTerminal(String),
    /// A UART without a driver.
    #[error("the UART of {name} is {found}, which the payload cannot drive")]
    NoUart {
        /// The terminal.
        name: String,
        /// What its UART is compatible with.
        found: String,
    },
    /// A fallback that is none.
    #[error("--fallback takes serial:NAME, after a --target that is a partition")]
    Fallback,
    /// A path that does not fit the plan.
    #[error("the controller's device-tree path is longer than a plan can hold: {0}")]
    LongPath(String),
    /// No controller that the payload drives.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// It could not be read.
    #[error(transparent)]
    Other(#[from] Error),
}

/// A partition that is signed for the place where it lies.
#[derive(Debug)]
pub struct Signed {
    /// Its device.
    pub device: BlockDevice,
    /// The partition, open for reading.
    pub partition: DumpPartition,
}

impl Signed {
    /// Checks the partition at `path`.
    ///
    /// # Errors
    /// [`BadTarget::NotBlock`], [`BadTarget::Unsigned`], [`BadTarget::Moved`].
    pub fn inspect(system: &System, path: &Path) -> Result<Self, BadTarget> {
        let device =
            BlockDevice::of(system, path)?.ok_or_else(|| BadTarget::NotBlock(path.to_owned()))?;
        let mut source = Source::open(path, Access::Read)?;
        let superblock = source.superblock().map_err(|source| BadTarget::Unsigned {
            path: path.to_owned(),
            source,
        })?;
        check_place(path, &superblock, &device)?;
        let partition = DumpPartition { source, superblock };
        Ok(Self { device, partition })
    }
}

/// A partition that the payload can write to.
#[derive(Debug)]
pub struct Target {
    /// Its device.
    pub path: PathBuf,
    /// What the plan says about it.
    pub plan: plan::Target,
    /// The partition, open for reading.
    pub partition: DumpPartition,
    /// Its folder in sysfs.
    pub sysfs: PathBuf,
}

impl Target {
    /// Checks the partition at `path`.
    ///
    /// # Errors
    /// [`BadTarget`].
    pub fn inspect(system: &System, path: &Path) -> Result<Self, BadTarget> {
        let Signed { device, partition } = Signed::inspect(system, path)?;
        if device.is_read_only() {
            return Err(BadTarget::ReadOnly(path.to_owned()));
        }
        let controller = Controller::of(system, &device)?;
        let plan = plan::Target {
            controller: heapless_path(&controller.path)?,
            pci: controller.pci,
            namespace: controller.namespace,
            card: controller.card,
            partition_start: device.start,
            partition_len: device.len,
            uuid: partition.superblock.uuid,
            unchecked_table: device.partition.is_none(),
        };
        Ok(Self {
            path: path.to_owned(),
            plan,
            partition,
            sysfs: device.sysfs,
        })
    }

    /// Checks that it is the partition with this UUID, written as `kdraw format` prints it.
    ///
    /// # Errors
    /// [`BadTarget::Uuid`].
    pub fn expect_uuid(&self, expected: &str) -> Result<(), BadTarget> {
        let found = text::uuid(&self.plan.uuid);
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        Err(BadTarget::Uuid {
            path: self.path.clone(),
            found,
            expected: expected.to_owned(),
        })
    }
}

fn check_place(
    path: &Path,
    superblock: &Superblock,
    device: &BlockDevice,
) -> Result<(), BadTarget> {
    let signed = (superblock.partition_start, superblock.partition_len);
    let found = (device.start, device.len);
    // An image file knows no place; it may have been copied onto its partition.
    let placed = signed.0 == found.0 || signed.0 == START_UNKNOWN;
    if placed && signed.1 == found.1 {
        return Ok(());
    }
    let words = |(start, len): (u64, u64)| match start {
        START_UNKNOWN => format!("an image file of {len} bytes"),
        start => format!("{len} bytes from byte {start} of its disk"),
    };
    Err(BadTarget::Moved {
        path: path.to_owned(),
        signed: words(signed),
        found: words(found),
    })
}

/// A serial line that the payload can send a dump over.
#[derive(Clone, Debug)]
pub struct SerialLine {
    /// The terminal's name, as `ttyAMA0`.
    pub name: String,
    /// Its UART's path in the device tree.
    pub node: heapless::String<{ plan::MAX_PATH }>,
}

impl SerialLine {
    /// Finds the UART of the terminal `/dev/NAME`: the nearest device above it that has a node in
    /// the device tree.
    ///
    /// # Errors
    /// [`BadTarget::NoTerminal`], [`BadTarget::NoUart`] or [`BadTarget::LongPath`].
    pub fn inspect(system: &System, name: &str) -> Result<Self, BadTarget> {
        let no_terminal = || BadTarget::NoTerminal(name.to_owned());
        if name.is_empty() || name.contains('/') {
            return Err(no_terminal());
        }
        let terminal = system.path(format!("/sys/class/tty/{name}"));
        let device = terminal.join("device").canonicalize();
        let device = device.map_err(|_| no_terminal())?;
        let tree = system.path("/sys/firmware/devicetree/base");
        let tree = tree.canonicalize().unwrap_or(tree);
        let node = device
            .ancestors()
            .find_map(|folder| folder.join("of_node").canonicalize().ok())
            .ok_or_else(no_terminal)?;
        let below = node.strip_prefix(&tree).map_err(|_| no_terminal())?;
        let path = format!("/{}", below.display());
        let compatible = std::fs::read_to_string(node.join("compatible")).unwrap_or_default();
        let names = || compatible.split('\0').filter(|name| !name.is_empty());
        if names().all(|name| kdraw_boards::console_kind(name).is_none()) {
            return Err(BadTarget::NoUart {
                name: name.to_owned(),
                found: names().collect::<Vec<_>>().join(", "),
            });
        }
        Ok(Self {
            name: name.to_owned(),
            node: heapless_path(&path)?,
        })
    }
}

/// What `--target` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A partition's device.
    Partition(PathBuf),
    /// A terminal's name: `serial:NAME`.
    Serial(String),
}

impl From<&str> for Destination {
    fn from(text: &str) -> Self {
        match text.strip_prefix(SERIAL) {
            Some(name) => Self::Serial(name.into()),
            None => Self::Partition(text.into()),
        }
    }
}

impl Destination {
    /// The device, if it is a partition.
    pub fn partition(&self) -> Option<&Path> {
        match self {
            Self::Partition(path) => Some(path),
            Self::Serial(_) => None,
        }
    }

    /// Waits until there is such a device, at the most so many seconds: at boot some come late.
    pub fn wait(&self, system: &System, seconds: u32) {
        let path = match self {
            Self::Partition(path) => path.clone(),
            Self::Serial(name) => system.path(format!("/sys/class/tty/{name}")),
        };
        let (started, limit) = (Instant::now(), Duration::from_secs(seconds.into()));
        while !path.exists() && started.elapsed() < limit {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(path) => write!(f, "{}", path.display()),
            Self::Serial(name) => write!(f, "{SERIAL}{name}"),
        }
    }
}

/// How often it is looked whether a device is there.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a serial line's name begins with.
const SERIAL: &str = "serial:";

/// Where a dump is to go: to a partition, over a serial line, or to the one if not the other.
#[derive(Debug)]
pub struct Targets {
    /// The partition.
    pub partition: Option<Target>,
    /// The line.
    pub serial: Option<SerialLine>,
}

impl Targets {
    /// Checks what `--target` and `--fallback` name.
    ///
    /// # Errors
    /// [`BadTarget`].
    pub fn inspect(
        system: &System,
        target: &Destination,
        fallback: Option<&Destination>,
    ) -> Result<Self, BadTarget> {
        let line = |name: &str| SerialLine::inspect(system, name);
        match (target, fallback) {
            (Destination::Partition(path), None) => Ok(Self {
                partition: Some(Target::inspect(system, path)?),
                serial: None,
            }),
            (Destination::Partition(path), Some(Destination::Serial(name))) => Ok(Self {
                partition: Some(Target::inspect(system, path)?),
                serial: Some(line(name)?),
            }),
            (Destination::Serial(name), None) => Ok(Self {
                partition: None,
                serial: Some(line(name)?),
            }),
            _ => Err(BadTarget::Fallback),
        }
    }

    /// What a plan says of them: the partition, and the UART's path or nothing.
    pub fn planned(&self) -> (Option<plan::Target>, heapless::String<{ plan::MAX_PATH }>) {
        let node = self.serial.as_ref().map(|line| line.node.clone());
        let target = self.partition.as_ref().map(|found| found.plan.clone());
        (target, node.unwrap_or_default())
    }

    /// What of the options they can have.
    pub fn options(&self, options: DumpOptions) -> DumpOptions {
        match &self.partition {
            Some(target) => options.on(&target.partition.superblock),
            None => options,
        }
    }

    /// Whether the dump is to be a plain one.
    pub fn is_plain(&self) -> bool {
        let partition = self.partition.as_ref();
        partition.is_some_and(|target| target.partition.superblock.plain)
    }
}

fn heapless_path<const N: usize>(path: &str) -> Result<heapless::String<N>, BadTarget> {
    heapless::String::try_from(path).map_err(|_| BadTarget::LongPath(path.to_owned()))
}
