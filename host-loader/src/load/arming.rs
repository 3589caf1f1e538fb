//! From what is wanted to what can be loaded: `load` does it, `plan` half of it, `check` and
//! `test` see what would come of it.

use kdraw_format::addr::PhysRange;
use kdraw_linux::classify::DumpLevel;

use crate::error::Error;
use crate::live::estimate::{Estimate, Request};
use crate::live::outlook::{Outlook, Slot};
use crate::load::elfcorehdr::{self, NotePlace};
use crate::load::options::{DumpOptions, Wish, cpus_at_work};
use crate::load::segments::Settings;
use crate::load::target::{BadTarget, Destination, Targets};
use crate::random;
use crate::system::System;
use crate::text;
use crate::watchdog::{self, Watchdog};

impl Wish {
    /// Checks where the dump is to go.
    ///
    /// # Errors
    /// [`BadTarget`].
    pub fn targets(&self, system: &System, target: &Destination) -> Result<Targets, BadTarget> {
        let mut targets = Targets::inspect(system, target, self.fallback.as_ref())?;
        if let Some(target) = &mut targets.partition {
            if let Some(uuid) = &self.uuid {
                target.expect_uuid(uuid)?;
            }
            if self.identify_card {
                target.plan.card = None;
            }
        }
        Ok(targets)
    }

    /// Which pages of what is wanted the targets can have.
    pub fn dump_on(&self, targets: Option<&Targets>) -> DumpOptions {
        targets.map_or(self.dump, |targets| targets.options(self.dump))
    }

    /// What a panic now would leave there.
    ///
    /// # Errors
    /// As [`Estimate::of`].
    pub fn outlook(
        &self,
        system: &System,
        evidence: &[PhysRange],
        notes: &[NotePlace],
        targets: Option<&Targets>,
    ) -> Result<Outlook, Error> {
        let options = self.dump_on(targets);
        let partition = targets.and_then(|targets| targets.partition.as_ref());
        let codec = match targets {
            Some(_) if partition.is_none() => options.compress.line_codec(),
            _ => options.compress.codec(),
        };
        let request = Request {
            options,
            codec,
            cpus: cpus_at_work(elfcorehdr::cpus(notes), options.cpus, codec),
            plain: targets.is_some_and(Targets::is_plain),
        };
        let estimate = Estimate::of(system, evidence, &request)?;
        Ok(Outlook::new(estimate, partition.map(Slot::of)))
    }

    /// What the plan says, with the pages of `level`.
    ///
    /// # Errors
    /// [`Error::Io`] if there are no random numbers.
    pub fn settings(
        &self,
        system: &System,
        targets: Option<&Targets>,
        level: DumpLevel,
        watchdogs: &[Watchdog],
    ) -> Result<Settings, Error> {
        let (target, serial) = targets.map_or_else(Default::default, Targets::planned);
        let dump = self.dump_on(targets);
        Ok(Settings {
            target,
            serial,
            seed: random::bytes()?,
            budget_s: self.budget_s,
            created: text::now(),
            hostname: system.hostname(),
            level,
            codec: dump.compress.codec(),
            line_codec: self.dump.compress.line_codec(),
            cpus: dump.cpus,
            watchdogs: watchdog::for_plan(watchdogs),
        })
    }
}
