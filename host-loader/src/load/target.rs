//! The partition that a dump is to go to, checked as the payload will check it again.

use std::path::{Path, PathBuf};

use kdraw_format::layout::{LayoutError, START_UNKNOWN, Superblock};
use kdraw_format::plan;

use crate::block::BlockDevice;
use crate::controller::{Controller, ControllerError};
use crate::error::Error;
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
        let device =
            BlockDevice::of(system, path)?.ok_or_else(|| BadTarget::NotBlock(path.to_owned()))?;
        let mut source = Source::open(path, Access::Read)?;
        let superblock = source.superblock().map_err(|source| BadTarget::Unsigned {
            path: path.to_owned(),
            source,
        })?;
        check_place(path, &superblock, &device)?;
        let controller = Controller::of(system, &device)?;
        let plan = plan::Target {
            controller: heapless_path(&controller.path)?,
            pci: controller.pci,
            namespace: controller.namespace,
            card: controller.card,
            partition_start: device.start,
            partition_len: device.len,
            uuid: superblock.uuid,
            unchecked_table: device.partition.is_none(),
        };
        Ok(Self {
            path: path.to_owned(),
            plan,
            partition: DumpPartition { source, superblock },
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

fn heapless_path<const N: usize>(path: &str) -> Result<heapless::String<N>, BadTarget> {
    heapless::String::try_from(path).map_err(|_| BadTarget::LongPath(path.to_owned()))
}
