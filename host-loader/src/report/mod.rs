//! What happened, on one page: everything that a dump tells of a crash, gathered once.
//!
//! [`Report`] is the data, which `--json` prints; [`text`] and [`html`] show it, [`compare`] lays
//! several beside each other. A part that a dump lacks is told in [`Report::lacking`], and never
//! keeps the others from being there: a dump may be cut anywhere, its kernel without types or
//! symbols, or it may have no kernel that can be made out at all.

pub mod capture;
pub mod compare;
pub mod html;
pub mod identity;
pub mod log;
pub mod text;

use std::path::Path;

use kdraw_kernel::diagnosis as kernel;
use kdraw_kernel::object::Error;
use kdraw_kernel::{Kernel, Options};
use kdraw_linux::memory::PhysMem;
use serde::Serialize;

use crate::dump::{Dump, slot_memory, slot_notes};
use crate::extract::dmesg;
use crate::inside::modules::Line;
use crate::inside::stacks::Traced;
use crate::inside::tracer;
use crate::partition::DumpPartition;
use crate::scan::Scan;
use capture::Capture;
use identity::Identity;
use log::Log;

/// How many of the biggest processes are told.
const BIGGEST: usize = 10;

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

impl Diagnosis {
    fn new(found: &kernel::Diagnosis) -> Self {
        let culprit = found.culprit.as_ref().map(|culprit| {
            let function = culprit.function.as_ref();
            let task = culprit.task.as_ref().or(found.scene.task.as_ref());
            Culprit {
                function: function.map(|function| function.name.clone()),
                at: function.map(in_words),
                module: function.and_then(|function| function.module.clone()),
                task: task.map(|task| task.comm.clone()),
                pid: task.map(|task| task.pid),
                why: culprit.why.clone(),
            }
        });
        Self {
            sentence: Some(found.sentence.clone()),
            kind: Some(found.kind.word().to_owned()),
            reason: found.reason.clone(),
            culprit,
            signature: Some(found.signature.hash.clone()),
            signature_of: found.signature.parts.clone(),
        }
    }
}

/// A function as the kernel prints it.
fn in_words(function: &kernel::Function) -> String {
    let module = function.module.as_ref().map(|name| format!(" [{name}]"));
    format!(
        "{}+{:#x}/{:#x}{}",
        function.name,
        function.offset,
        function.size,
        module.unwrap_or_default()
    )
}

impl Blocked {
    fn new(found: &kernel::Blocked) -> Self {
        let holder = found.holder.as_ref().map(|holder| {
            let is_in = holder
                .function
                .as_ref()
                .map(|function| format!(" in {}", function.name));
            let reader = if holder.is_reader { ", a reader" } else { "" };
            format!(
                "{}, state {}{}{reader}",
                holder.task,
                holder.state,
                is_in.unwrap_or_default()
            )
        });
        Self {
            pid: found.task.pid,
            comm: found.task.comm.clone(),
            seconds: found.seconds,
            wait: found.wait.in_words().to_owned(),
            function: found
                .function
                .as_ref()
                .map(|function| function.name.clone()),
            holder,
            stack: found.stack.iter().map(in_words).collect(),
        }
    }
}

impl Memory {
    fn of(kernel: &Kernel<'_>) -> Result<Self, Error> {
        let used = kernel.memory_use()?;
        let classes = used.classes().into_iter().map(|class| MemoryClass {
            name: class.name,
            bytes: class.bytes,
        });
        let page = kernel.vmcoreinfo().page_size().unwrap_or(4096);
        // A process's threads have its memory in common.
        let processes = kernel.tasks().unwrap_or_default().into_iter();
        let processes = processes.filter(|task| task.pid == task.tgid);
        let processes = processes.filter_map(|task| {
            let memory = task.memory?;
            Some(Process {
                pid: task.pid,
                resident: memory.resident.saturating_mul(page),
                mapped: memory.total.saturating_mul(page),
                comm: task.comm,
            })
        });
        let mut biggest: Vec<_> = processes.collect();
        biggest.sort_by_key(|process| std::cmp::Reverse(process.resident));
        biggest.truncate(BIGGEST);
        Ok(Self {
            total: used.total,
            classes: classes.collect(),
            biggest,
        })
    }
}

impl Taint {
    fn new(found: kernel::Taint) -> Self {
        Self {
            letter: found.letter,
            meaning: found.meaning,
            modules: found.modules,
        }
    }
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
        let name = path.display().to_string();
        match dump {
            Dump::Slot { partition, scan } => Self::of_slot(
                partition,
                scan,
                Capture::of_slot(partition, scan),
                name,
                options,
            ),
            Dump::Vmcore(vmcore) => Self::gather(Pieces {
                name,
                memory: Some(vmcore.as_ref()),
                notes: vmcore.notes(),
                options,
                capture: Capture::of_vmcore(vmcore, path),
                saved_log: None,
            }),
        }
    }

    /// Gathers what a scanned slot tells.
    pub fn of_slot(
        partition: &DumpPartition,
        scan: &Scan,
        mut capture: Capture,
        name: String,
        options: Options,
    ) -> Self {
        let memory = slot_memory(partition, scan);
        if let Err(why) = &memory {
            capture.losses.push(why.to_string());
        }
        let memory = memory.ok();
        Self::gather(Pieces {
            name,
            memory: memory.as_deref(),
            notes: &slot_notes(partition, scan).unwrap_or_default(),
            options,
            capture,
            saved_log: Some(dmesg::without_ring(scan, String::new())),
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
        let saved = pieces.saved_log.filter(|saved| !saved.text.is_empty());
        let text = saved
            .as_ref()
            .map(|saved| String::from_utf8_lossy(&saved.text));
        let kernel = match pieces.memory {
            Some(memory) => {
                Kernel::open(memory, pieces.notes, pieces.options).map_err(|why| why.to_string())
            }
            None => Err("the dump's memory cannot be read".to_owned()),
        };
        match (kernel, &text) {
            (Ok(kernel), text) => report.look_into(&kernel, text.as_deref()),
            (Err(why), text) => {
                report.lack("kernel", why);
                let found = text.as_ref().map(|text| kernel::Diagnosis::of_log(text));
                report.diagnosis = found.as_ref().map(Diagnosis::new).unwrap_or_default();
            }
        }
        if let Some(saved) = saved.filter(|_| report.log.is_none()) {
            report.log = Log::saved(&saved);
        }
        if let Some(log) = report.log.as_ref().filter(|log| log.unreadable > 0) {
            let why = format!("{} records cannot be read", log.unreadable);
            report.lack("log", why);
        }
        let kind = report.diagnosis.kind.as_deref();
        if kind.is_none_or(|kind| kind == "unknown") {
            // In the kernel's own words.
            let logged = report.log.as_ref().and_then(|log| log.reason.clone());
            let noted = report.capture.told.reason.as_ref();
            let noted = noted.map(|reason| reason.trim().to_owned());
            let words = logged.or(noted);
            report.diagnosis.sentence = words.or(report.diagnosis.sentence);
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

    /// Takes in what the kernel tells; `saved` is its log where the kernel's own is lost.
    fn look_into(&mut self, kernel: &Kernel<'_>, saved: Option<&str>) {
        if let Some(why) = kernel.symbols_trouble() {
            self.lack("symbols", why);
        }
        match Log::of(kernel) {
            Ok(log) => self.log = Some(log),
            Err(why) => self.lack("log", why),
        }
        self.identity = Identity::of(kernel);
        let (stacks, troubles) = tracer::of_cpus(kernel);
        self.stacks = stacks;
        for why in troubles {
            self.lack("stacks", why);
        }
        if !self.stacks.is_empty() && self.stacks.iter().all(|stack| !stack.panicked) {
            self.lack("stacks", "which CPU panicked is not known");
        }
        let lines = match (&self.log, saved) {
            (None, Some(saved)) => kdraw_kernel::log::lines(saved),
            _ => kernel.newest_log(),
        };
        let found = kernel::Diagnosis::with_log(kernel, lines);
        self.diagnosis = Diagnosis::new(&found);
        self.blocked = found
            .blocked
            .as_ref()
            .map(|blocked| blocked.iter().map(Blocked::new).collect());
        if self.blocked.is_none() {
            self.lack("tasks", "the tasks cannot be read");
        }
        self.taint = found
            .taint
            .map(|taint| taint.into_iter().map(Taint::new).collect());
        match Memory::of(kernel) {
            Ok(memory) => self.memory = Some(memory),
            Err(why) => self.lack("memory", why),
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
            sources: Vec::new(),
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
