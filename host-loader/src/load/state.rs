//! What `kdraw load` loaded, remembered in /run until the next boot: the kernel only says that
//! *some* crash image is loaded.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::live::outlook::Remembered;
use crate::load::target::Target;
use crate::system::System;

const FILE: &str = "/run/kdraw/loaded.json";

/// What was loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The boot in which it was loaded.
    pub boot_id: String,
    /// When, in seconds since 1970.
    pub at: u64,
    /// The target's device, or `serial:NAME`.
    pub target: PathBuf,
    /// The fallback, as `serial:NAME`.
    #[serde(default)]
    pub fallback: Option<String>,
    /// The target's UUID; empty for a serial line.
    pub uuid: String,
    /// The target's place on its disk.
    pub partition_start: u64,
    /// The target's length.
    pub partition_len: u64,
    /// XXH64 of the payload.
    pub payload_hash: String,
    /// XXH64 of the elfcorehdr, which is the map of the memory; empty if an older kdraw loaded it.
    #[serde(default)]
    pub elfcorehdr_hash: String,
    /// XXH64 of the device tree; empty if an older kdraw loaded it.
    #[serde(default)]
    pub device_tree_hash: String,
    /// The crash region's first byte.
    pub region_start: u64,
    /// The byte after its last.
    pub region_end: u64,
    /// Bytes that all segments take.
    pub total: u64,
    /// Names of the watchdogs that the plan has; empty if an older kdraw loaded it.
    #[serde(default)]
    pub watchdogs: Vec<String>,
    /// What a dump will be; unknown if an older kdraw loaded it.
    #[serde(default)]
    pub outlook: Option<Remembered>,
}

/// Why what is loaded would not capture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLoaded {
    /// Nothing.
    #[error("no crash image is loaded")]
    Nothing,
    /// Something that we know nothing about.
    #[error("a crash image is loaded, but not by this kdraw since boot (stock kexec?)")]
    NotOurs,
    /// Something that was made for another crash region.
    #[error("the crash region was resized after `kdraw load`")]
    Resized,
}

impl Loaded {
    /// Whether a crash image is loaded, whoever did it.
    pub fn is_anything(system: &System) -> bool {
        system.number("/sys/kernel/kexec_crash_loaded").unwrap_or(0) == 1
    }

    /// What is loaded now; `region` is the crash region, if it is known.
    ///
    /// # Errors
    /// [`NotLoaded`].
    pub fn now(system: &System, region: Option<(u64, u64)>) -> Result<Self, NotLoaded> {
        if !Self::is_anything(system) {
            return Err(NotLoaded::Nothing);
        }
        let found = Self::recall(system).ok_or(NotLoaded::NotOurs)?;
        if region.is_some_and(|region| region != (found.region_start, found.region_end)) {
            return Err(NotLoaded::Resized);
        }
        Ok(found)
    }

    /// Whether `target` is the partition that was loaded.
    pub fn is_for(&self, target: &Target) -> bool {
        let place = (target.plan.partition_start, target.plan.partition_len);
        place == (self.partition_start, self.partition_len)
            && target.expect_uuid(&self.uuid).is_ok()
    }

    /// What was loaded in this boot; `None` if nothing is known.
    pub fn recall(system: &System) -> Option<Self> {
        let bytes = system.bytes(FILE).ok()?;
        let found: Self = serde_json::from_slice(&bytes).ok()?;
        (found.boot_id == system.boot_id()).then_some(found)
    }

    /// Remembers it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remember(&self, system: &System) -> Result<(), Error> {
        let path = system.path(FILE);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        }
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        fs::write(&path, text).map_err(Error::io("write", path))
    }

    /// Forgets what was loaded.
    pub fn forget(system: &System) {
        // If it is not there, it is forgotten already.
        let _ = fs::remove_file(system.path(FILE));
    }
}
