//! What happened, on one page: everything that a dump tells of a crash, gathered once.
//!
//! [`Report`] is the data, which `--json` prints; [`text`] and [`html`] show it, [`compare`] lays
//! several beside each other. A part that a dump lacks is told in [`Report::lacking`], and never
//! keeps the others from being there: a dump may be cut anywhere, its kernel without types or
//! symbols, or it may have no kernel that can be made out at all.

pub mod capture;
pub mod identity;
pub mod log;
pub mod stacks;
pub mod text;

use std::path::Path;

use kdraw_kernel::{Kernel, Options};
use kdraw_linux::memory::PhysMem;
use serde::Serialize;

use crate::dump::Dump;
use crate::extract::dmesg;
use crate::inside::modules::Line;
use crate::inside::stacks::Traced;
use capture::Capture;
use identity::Identity;
use log::Log;

/// What a dump tells of a crash.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of kdraw that made it.
    pub kdraw: &'static str,
    /// The dump's name.
    pub dump: String,
    /// What the report lacks, and why.
    pub lacking: Vec<Lack>,
    /// What happened.
    pub diagnosis: Diagnosis,
    /// Which kernel, on what.
    pub identity: Identity,
    /// The stacks of what the CPUs ran, that of the task that panicked first.
    pub stacks: Vec<Traced>,
    /// The end of the log.
    pub log: Option<Log>,
    /// The modules; `None` if their list cannot be found.
    pub modules: Option<Vec<Line>>,
    /// What the capture did.
    pub capture: Capture,
}

/// Something that a report lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// The part of the report.
    pub part: &'static str,
    /// Why, in words.
    pub why: String,
}

/// What happened.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Diagnosis {
    /// In one sentence.
    pub sentence: Option<String>,
}

/// A dump in pieces, wherever they are from.
pub struct Pieces<'a> {
    /// The dump's name.
    pub name: String,
    /// The crashed kernel's memory; none if it cannot be read at all.
    pub memory: Option<&'a dyn PhysMem>,
    /// ELF notes.
    pub notes: &'a [u8],
    /// What is known beside the dump.
    pub options: Options,
    /// What the capture did.
    pub capture: Capture,
    /// The log as the capture saved it.
    pub saved_log: Option<dmesg::Log>,
}

impl Report {
    /// Gathers what a dump tells that was opened by a path.
    pub fn of(dump: &Dump, path: &Path, options: Options) -> Self {
        let mut capture = Capture::of(dump, path);
        let notes = dump.notes().unwrap_or_default();
        let memory = dump.memory();
        if let Err(why) = &memory {
            capture.losses.push(format!("{why:#}"));
        }
        let memory = memory.ok();
        let saved_log = match dump {
            Dump::Slot { scan, .. } => Some(dmesg::without_ring(scan, String::new())),
            Dump::Vmcore(_) => None,
        };
        Self::gather(Pieces {
            name: path.display().to_string(),
            memory: memory.as_deref(),
            notes: &notes,
            options,
            capture,
            saved_log,
        })
    }

    /// Gathers what a dump's pieces tell.
    pub fn gather(pieces: Pieces<'_>) -> Self {
        let capture = pieces.capture;
        let lacking = capture.losses.iter().map(|why| Lack {
            part: "dump",
            why: why.clone(),
        });
        let mut report = Self {
            kdraw: env!("CARGO_PKG_VERSION"),
            dump: pieces.name,
            lacking: lacking.collect(),
            diagnosis: Diagnosis::default(),
            identity: Identity::default(),
            stacks: Vec::new(),
            log: None,
            modules: None,
            capture,
        };
        match pieces.memory {
            Some(memory) => match Kernel::open(memory, pieces.notes, pieces.options) {
                Ok(kernel) => report.look_into(&kernel),
                Err(why) => report.lack("kernel", why),
            },
            None => report.lack("kernel", "the dump's memory cannot be read"),
        }
        if report.log.is_none() {
            report.log = pieces.saved_log.and_then(Log::saved);
        }
        if let Some(log) = report.log.as_ref().filter(|log| log.unreadable > 0) {
            let why = format!("{} records cannot be read", log.unreadable);
            report.lack("log", why);
        }
        if report.diagnosis.sentence.is_none() {
            // In the kernel's own words.
            let logged = report.log.as_ref().and_then(|log| log.reason.clone());
            let noted = report.capture.told.reason.as_ref();
            let noted = noted.map(|reason| reason.trim().to_owned());
            report.diagnosis.sentence = logged.or(noted);
        }
        report
            .identity
            .add_told(&report.capture, report.log.as_ref());
        report
    }

    /// Notes that something is not there.
    fn lack(&mut self, part: &'static str, why: impl ToString) {
        let why = why.to_string();
        self.lacking.push(Lack { part, why });
    }

    fn look_into(&mut self, kernel: &Kernel<'_>) {
        if let Some(why) = kernel.symbols_trouble() {
            self.lack("symbols", why);
        }
        match Log::of(kernel) {
            Ok(log) => self.log = Some(log),
            Err(why) => self.lack("log", why),
        }
        self.identity = Identity::of(kernel);
        let (stacks, troubles) = stacks::of(kernel);
        self.stacks = stacks;
        for why in troubles {
            self.lack("stacks", why);
        }
        match kernel.modules() {
            Ok(modules) => self.modules = Some(modules.iter().map(Line::new).collect()),
            Err(why) => self.lack("modules", why),
        }
    }

    /// Why a part is not there.
    pub fn why_lacking(&self, part: &str) -> impl Iterator<Item = &str> {
        let lacks = self.lacking.iter().filter(move |lack| lack.part == part);
        lacks.map(|lack| lack.why.as_str())
    }
}
