//! A report for a terminal.

use std::fmt::Write;

use super::capture::Capture;
use super::identity::Identity;
use super::log::Log;
use super::{Blocked, Culprit, Memory, Report};
use crate::inside::modules::Line;
use crate::summary;
use crate::text;

/// The last records of the log that are shown before the crash, and of the crash itself.
const BEFORE: usize = 10;
const CRASH: usize = 24;
/// The most frames of a stack, and the most waiting tasks.
const FRAMES: usize = 40;
const WAITING: usize = 20;
/// Silence that is worth a line.
pub const SILENCE_NS: u64 = 1_000_000_000;

/// The whole report.
pub fn page(report: &Report) -> String {
    let mut page = Page::default();
    page.line("", report.sentence());
    for (name, value) in report.in_short() {
        page.field(name, &value);
    }
    if !report.lacking.is_empty() {
        page.heading("This report lacks");
        for lack in &report.lacking {
            page.field(lack.part, &lack.why);
        }
    }
    page.heading("Kernel and machine");
    for (name, value) in report.identity.fields() {
        page.field(name, &value);
    }
    if !report.stacks.is_empty() {
        page.heading("Stacks");
        let stacks = report
            .stacks
            .iter()
            .map(|stack| stack.in_words(false, FRAMES));
        page.text.push_str(&stacks.collect::<Vec<_>>().join("\n"));
    }
    if let Some(blocked) = report
        .blocked
        .as_ref()
        .filter(|blocked| !blocked.is_empty())
    {
        page.heading("Tasks that wait");
        for task in blocked.iter().take(WAITING) {
            let seconds = task
                .seconds
                .map_or("?".to_owned(), |seconds| format!("{seconds:.1}"));
            let line = format!(
                "{seconds:>9} s  PID {}  {}  {}",
                task.pid,
                task.comm,
                task.in_words()
            );
            page.line("  ", &line);
        }
        if let Some(more @ 1..) = blocked.len().checked_sub(WAITING) {
            page.line("  ", &format!("… and {more} more: `kdraw ps --state D`"));
        }
    }
    if let Some(memory) = &report.memory {
        page.memory(memory);
    }
    if let Some(log) = &report.log {
        page.log(log);
    }
    if let Some(taint) = report.taint.as_ref().filter(|taint| !taint.is_empty()) {
        page.heading("Taint");
        for taint in taint {
            let modules = taint.modules.join(", ");
            let by = if modules.is_empty() { "" } else { ": " };
            page.line(
                "  ",
                &format!("{} {}{by}{modules}", taint.letter, taint.meaning),
            );
        }
    }
    if let Some(modules) = &report.modules {
        page.heading("Modules");
        page.wrapped(
            &modules
                .iter()
                .map(Line::name_and_taints)
                .collect::<Vec<_>>(),
        );
    }
    page.heading("Capture");
    for (name, value) in report.capture.fields() {
        page.field(name, &value);
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, indent: &str, text: &str) {
        let _ = writeln!(self.text, "{indent}{text}");
    }

    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.text, "\n{text}\n{}", "-".repeat(text.len()));
    }

    fn field(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.text, "  {name:<12} {value}");
    }

    /// Words in lines of a terminal's width.
    fn wrapped(&mut self, words: &[String]) {
        let mut line = String::new();
        for word in words {
            if !line.is_empty() && line.len().saturating_add(word.len()) > 76 {
                self.line("  ", line.trim_end());
                line.clear();
            }
            let _ = write!(line, "{word}  ");
        }
        self.line("  ", line.trim_end());
    }

    fn memory(&mut self, memory: &Memory) {
        const WIDTH: u64 = 40;
        self.heading("Memory");
        for class in memory.classes.iter().filter(|class| class.bytes > 0) {
            let cells = class.bytes.saturating_mul(WIDTH).checked_div(memory.total);
            let bar = "#".repeat(cells.unwrap_or(0).min(WIDTH) as usize);
            self.line(
                "  ",
                &format!("{:<20} {:>10}  {bar}", class.name, text::size(class.bytes)),
            );
        }
        for process in &memory.biggest {
            let size = text::size(process.resident);
            self.line(
                "  ",
                &format!("{size:>10} in RAM: PID {} {}", process.pid, process.comm),
            );
        }
    }

    fn log(&mut self, log: &Log) {
        let crash = log.crash.unwrap_or(log.records.len());
        let first = crash.saturating_sub(BEFORE);
        let shown = crash.saturating_sub(first).saturating_add(CRASH);
        let end = first.saturating_add(shown).min(log.records.len());
        let more = log.records.len().saturating_sub(end);
        self.heading(&format!("Log, from the {}", log.origin));
        let mut before = None;
        for record in log.records.iter().skip(first).take(shown) {
            let silence = before.map_or(0, |before| record.time_ns.saturating_sub(before));
            if silence >= SILENCE_NS {
                self.line(
                    "",
                    &format!("  ~~ {} of silence ~~", text::duration(silence / 1000)),
                );
            }
            before = Some(record.time_ns);
            self.line("  ", &record.in_line());
        }
        if more > 0 {
            self.line(
                "  ",
                &format!("… and {more} more: `kdraw log` has all {}", log.total),
            );
        }
    }
}

impl Report {
    /// What happened, in one sentence.
    pub fn sentence(&self) -> &str {
        let told = self.diagnosis.sentence.as_deref();
        told.unwrap_or("The dump does not tell why the kernel crashed")
    }

    /// What else is to be known at first sight, by names.
    pub fn in_short(&self) -> Vec<(&'static str, String)> {
        let found = &self.diagnosis;
        let mut fields = Vec::new();
        let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
        let culprit = found.culprit.as_ref();
        add("culprit", culprit.map(Culprit::in_words));
        add(
            "because",
            culprit
                .map(|culprit| culprit.why.clone())
                .filter(|why| !why.is_empty()),
        );
        add("kind", found.kind.clone());
        add("logged as", found.reason.clone());
        add("signature", found.signature.clone());
        add("when", self.identity.crashed.clone());
        add("kernel", self.identity.release.clone());
        add("board", self.identity.model.clone());
        add("dump", Some(self.dump.clone()));
        fields
    }
}

impl Culprit {
    /// Who it is, in words.
    pub fn in_words(&self) -> String {
        let task = self.task.as_ref().map(|task| match self.pid {
            Some(pid) => format!("{task} (PID {pid})"),
            None => task.clone(),
        });
        match (&self.at, task) {
            (Some(at), Some(task)) => format!("{at}, in {task}"),
            (Some(only), None) => only.clone(),
            (None, task) => task.unwrap_or_else(|| "nobody in particular".to_owned()),
        }
    }
}

impl Blocked {
    /// What it waits for, in words.
    pub fn in_words(&self) -> String {
        let mut words = format!("waits for {}", self.wait);
        for (before, more) in [
            (" in ", &self.function),
            (", which is had by ", &self.holder),
        ] {
            if let Some(more) = more {
                words.push_str(before);
                words.push_str(more);
            }
        }
        words
    }
}

impl Identity {
    /// What is known, by names.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
        add("board", self.model.clone());
        let compatible = (!self.compatible.is_empty()).then(|| self.compatible.join(", "));
        add("compatible", compatible);
        add("host", self.hostname.clone());
        add("kernel", self.release.clone());
        add("version", self.version.clone());
        add("build id", self.build_id.clone());
        let kinds = self.cpus.iter().map(|kind| match &kind.name {
            Some(name) => format!("{} × {name}", kind.count),
            None => kind.count.to_string(),
        });
        let kinds: Vec<String> = kinds.collect();
        add("CPUs", (!kinds.is_empty()).then(|| kinds.join(", ")));
        add("memory", self.memory_bytes.map(text::size));
        add("crashed", self.crashed.clone());
        add("uptime", self.uptime_ns.map(uptime));
        add("boot id", self.boot_id.clone());
        add("command line", self.command_line.clone());
        fields
    }
}

/// Nanoseconds since boot as `3 d 04:05:06`, or as `16.7 s` if there is no minute in them.
pub fn uptime(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let tenth = nanoseconds / 100_000_000 % 10;
    let clock = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    );
    match seconds / 86_400 {
        _ if seconds < 60 => format!("{seconds}.{tenth} s"),
        0 => clock,
        days => format!("{days} d {clock}"),
    }
}

impl Capture {
    /// What is known, by names.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
        let by = match self.by_kdraw {
            true => "by kdraw",
            false => "by whom is not told: kdraw's metadata.json is not beside it",
        };
        add("made", Some(by.to_owned()));
        add("format", Some(self.format.clone()));
        add("outcome", self.outcome.clone());
        add("level", self.level.map(summary::level));
        let bytes = |frames: u64| text::size(frames.saturating_mul(4096));
        let holds = match self.memory_frames {
            0 => bytes(self.frames),
            all => format!("{} of {}", bytes(self.frames), bytes(all)),
        };
        add("holds", Some(holds));
        let listed = |list: &[String]| (!list.is_empty()).then(|| list.join(", "));
        add("no room for", listed(&self.left_out));
        add("took", self.elapsed_us.map(text::duration));
        if let Some(trailer) = &self.trailer {
            let mut before = 0;
            let phases = trailer.phases.iter().map(|(name, at)| {
                let took = at.saturating_sub(before);
                before = *at;
                format!("{name} {}", text::duration(took))
            });
            let phases: Vec<String> = phases.collect();
            add("phases", listed(&phases));
            let classes = trailer.classes.iter().map(|class| {
                let (kept, found) = (bytes(class.kept), bytes(class.found));
                match class.kept {
                    0 => format!("{}: none of {found}", class.class),
                    _ if class.kept == class.found => format!("{}: all {found}", class.class),
                    _ => format!("{}: {kept} of {found}", class.class),
                }
            });
            let classes: Vec<String> = classes.collect();
            add("kept", listed(&classes));
            let doubts = trailer.doubts.iter();
            let doubts: Vec<String> = doubts
                .map(|(why, frames)| format!("{why}: {frames} frames"))
                .collect();
            add("in doubt", listed(&doubts));
            let text = |text: &String| (!text.is_empty()).then(|| text.clone());
            add("written to", text(&trailer.device));
            add("failures", text(&trailer.failures));
        }
        add("kdraw", self.payload.clone());
        fields
    }
}
