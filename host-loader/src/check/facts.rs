//! What the requirements are judged by, looked up once.

use std::path::Path;

use kdraw_format::addr::PhysRange;

use crate::config::{Config, ConfigArgs};
use crate::error::Error;
use crate::iomem::IoMem;
use crate::live::outlook::Outlook;
use crate::load::elfcorehdr;
use crate::load::machine::{self, Machine, NotReady};
use crate::load::options::Wish;
use crate::load::segments::Loadable;
use crate::load::state::{Loaded, NotLoaded};
use crate::load::target::{BadTarget, Destination, Targets};
use crate::payload::Payload;
use crate::system::System;
use crate::watchdog::{self, Watchdog};

/// Whose target is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The configuration's, or else what was loaded.
    Configured,
    /// What was loaded.
    Loaded,
}

/// The facts.
pub struct Facts<'a> {
    /// The system that is looked at.
    pub system: &'a System,
    /// It is a system's files only: nothing runs there.
    pub is_image: bool,
    /// The configuration; all defaults if it cannot be read.
    pub config: Config,
    /// Why it cannot be read.
    pub config_error: Option<Error>,
    /// What is to be captured, and where to.
    pub wish: Wish,
    /// What is loaded.
    pub loaded: Result<Loaded, NotLoaded>,
    /// The crash region.
    pub crash_region: Result<PhysRange, NotReady>,
    /// The device tree's blob.
    pub device_tree: Result<Vec<u8>, NotReady>,
    /// The payload.
    pub payload: Result<Payload, Error>,
    /// The board's watchdogs.
    pub watchdogs: Vec<Watchdog>,
    /// What the target's name leads to; `None` if there is no name.
    pub targets: Option<Result<Targets, BadTarget>>,
    /// The target's slots that a dump could go to.
    pub free_slots: Option<u32>,
    /// What would be loaded now; `None` if something that it is made of is missing.
    pub loadable: Option<Result<Loadable, Error>>,
    /// What a panic now would leave.
    pub outlook: Result<Outlook, Error>,
}

impl<'a> Facts<'a> {
    /// Looks everything up.
    pub fn new(
        system: &'a System,
        config: &ConfigArgs,
        whose: Whose,
        target: Option<&str>,
        payload: Option<&Path>,
    ) -> Self {
        let config = config.read(system);
        let (config, config_error) = match config {
            Ok(config) => (config, None),
            Err(why) => (Config::default(), Some(why)),
        };
        let crash_region = machine::memory(system).map(|(region, _)| region);
        let region = crash_region.as_ref().ok();
        let loaded = Loaded::now(system, region.map(|region| (region.start.0, region.end.0)));
        let mut wish = Wish::configured(&config);
        if let Some(target) = target {
            wish.take_target(target);
        } else if let Ok(loaded) = &loaded
            && (whose == Whose::Loaded || wish.target.is_none())
        {
            wish.take_target(&loaded.target.to_string_lossy());
            wish.fallback = loaded.fallback.as_deref().map(Destination::from);
        }
        let mut targets = wish.target.as_ref().map(|to| wish.targets(system, to));
        let free_slots = targets
            .as_mut()
            .and_then(|found| found.as_mut().ok()?.partition.as_mut())
            .map(|target| target.partition.free_slots());
        let device_tree = machine::device_tree(system);
        let payload = Payload::get(payload);
        let watchdogs = watchdog::all(system);
        let notes = elfcorehdr::notes(system);
        let evidence = system.text("/proc/iomem").unwrap_or_default();
        let evidence = IoMem::parse(&evidence).evidence();
        let known = targets.as_ref().and_then(|found| found.as_ref().ok());
        let outlook = wish.outlook(
            system,
            &evidence,
            notes.as_deref().unwrap_or_default(),
            known,
        );
        let loadable = match (&crash_region, &device_tree, &payload) {
            (Ok(crash_region), Ok(device_tree), Ok(payload)) => {
                let machine = Machine {
                    crash_region: *crash_region,
                    evidence,
                    device_tree: device_tree.clone(),
                };
                let level = wish.dump_on(known).level;
                Some(notes.and_then(|notes| {
                    let settings = wish.settings(system, known, level, &watchdogs)?;
                    Loadable::build(&machine, payload, &notes, settings)
                }))
            }
            _ => None,
        };
        Self {
            system,
            is_image: !system.exists("/proc/sys/kernel"),
            config,
            config_error,
            wish,
            loaded,
            crash_region,
            device_tree,
            payload,
            watchdogs,
            free_slots,
            targets,
            loadable,
            outlook,
        }
    }
}
