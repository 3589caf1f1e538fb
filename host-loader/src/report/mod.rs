//! What happened, on one page: everything that a dump tells of a crash, gathered once.
//!
//! [`Report`] is the data, which `--json` prints; [`text`] and [`html`] show it, [`compare`] lays
//! several beside each other. A part that a dump lacks is told in [`Report::lacking`], and never
//! keeps the others from being there: a dump may be cut anywhere, its kernel without types or
//! symbols, or it may have no kernel that can be made out at all.

pub mod capture;
pub mod html;
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
    /// Tasks that wait, the longest first; `None` if the tasks cannot be read.
    pub blocked: Option<Vec<Blocked>>,
    /// What memory was used for; `None` if that cannot be told.
    pub memory: Option<Memory>,
    /// The end of the log.
    pub log: Option<Log>,
    /// Taints; `None` if nothing tells.
    pub taint: Option<Vec<Taint>>,
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
    /// What kind of end it was, in a word or two.
    pub kind: Option<String>,
    /// The kernel's own words.
    pub reason: Option<String>,
    /// Who did it.
    pub culprit: Option<Culprit>,
    /// What is the same in every crash of this cause: sixteen hexadecimal digits.
    pub signature: Option<String>,
    /// What the signature is made of besides the kind.
    pub signature_of: Vec<String>,
}

/// Who did it, as far as that can be told.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Culprit {
    /// The function.
    pub function: Option<String>,
    /// Where in it: `function+0x4/0x20`.
    pub at: Option<String>,
    /// The module that it is in.
    pub module: Option<String>,
    /// The task's name.
    pub task: Option<String>,
    /// Its number.
    pub pid: Option<i32>,
    /// Why it is believed.
    pub why: String,
}

/// A task that waits and that no signal wakes (state D).
#[derive(Clone, Debug, Serialize)]
pub struct Blocked {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Since how many seconds.
    pub seconds: Option<f64>,
    /// What it waits for, in words.
    pub wait: String,
    /// The function that waits.
    pub function: Option<String>,
    /// Who has what it waits for, in words.
    pub holder: Option<String>,
    /// Its stack, newest frame first.
    pub stack: Vec<String>,
}

/// Why the kernel's word counts less.
#[derive(Clone, Debug, Serialize)]
pub struct Taint {
    /// The letter that the kernel prints.
    pub letter: char,
    /// What it means.
    pub meaning: &'static str,
    /// The loaded modules that carry it.
    pub modules: Vec<String>,
}

/// What memory was used for.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Bytes in all.
    pub total: u64,
    /// Classes, which together are all of it.
    pub classes: Vec<MemoryClass>,
    /// The processes that had most of it.
    pub biggest: Vec<Process>,
}

/// Memory of one class.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryClass {
    /// What it was used for.
    pub name: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// A process and its memory.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Bytes in RAM.
    pub resident: u64,
    /// Bytes mapped.
    pub mapped: u64,
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
            blocked: None,
            memory: None,
            log: None,
            taint: None,
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inside::records::Record;
    use crate::inside::stacks;

    /// What is known of a dump of which nothing can be read.
    pub fn empty() -> Report {
        let capture = Capture {
            losses: vec!["it has no VMCOREINFO".to_owned()],
            ..Capture::default()
        };
        Report::gather(Pieces {
            name: "dump".to_owned(),
            memory: None,
            notes: &[],
            options: Options::default(),
            capture,
            saved_log: None,
        })
    }

    /// A report in which every text of the dead kernel's is `text`.
    pub fn report(text: &str) -> Report {
        let own = || text.to_owned();
        let frame = stacks::Line {
            pc: 0xffff_8000_0801_0000,
            function: Some(own()),
            offset: Some(4),
            size: Some(8),
            module: Some(own()),
            interrupted: true,
            exception: Some(own()),
            registers: Some(stacks::Regs {
                pc: 1,
                sp: 2,
                pstate: 5,
                x: vec![0; 31],
            }),
        };
        let stack = Traced {
            pid: 1,
            comm: own(),
            cpu: 0,
            state: 'R',
            task: 0,
            running: true,
            panicked: true,
            frames: vec![frame],
            end: "absent",
            user: None,
        };
        let record = |time_ns| Record {
            time_ns,
            level: "err",
            facility: "kern".to_owned(),
            caller: None,
            text: own(),
        };
        let log = Log {
            records: vec![record(1_000_000_000), record(9_000_000_000)],
            crash: Some(1),
            silence_ns: Some(8_000_000_000),
            ..Log::empty("ring buffer")
        };
        let module = Line {
            name: own(),
            module: 0,
            base: 0,
            size: 4096,
            references: None,
            users: Vec::new(),
            state: "live",
            taints: "O".to_owned(),
            symbols: 0,
        };
        Report {
            diagnosis: Diagnosis {
                sentence: Some(own()),
                ..Diagnosis::default()
            },
            identity: Identity {
                command_line: Some(own()),
                ..Identity::default()
            },
            stacks: vec![stack],
            log: Some(log),
            modules: Some(vec![module]),
            lacking: Vec::new(),
            ..empty()
        }
    }

    #[test]
    fn a_dump_of_nothing_says_so() {
        let report = empty();
        let parts: Vec<_> = report.lacking.iter().map(|lack| lack.part).collect();
        assert_eq!(parts, ["dump", "kernel"]);
        let page = text::page(&report);
        assert!(page.contains("dump         it has no VMCOREINFO"), "{page}");
        assert!(
            page.contains("kernel       the dump's memory cannot be read"),
            "{page}"
        );
    }

    #[test]
    fn the_text_tells_silence_and_stacks() {
        let page = text::page(&report("words"));
        assert!(page.contains("~~ 8.000 s of silence ~~"), "{page}");
        assert!(
            page.contains("0! ffff800008010000  words+0x4/0x8 [words]"),
            "{page}"
        );
        assert!(
            page.contains("the stack's rest is not in the dump"),
            "{page}"
        );
        assert!(page.contains("words (O)"), "{page}");
    }
}
