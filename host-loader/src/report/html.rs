//! A report as one HTML page: nothing is fetched, nothing runs.
//!
//! Everything from the dump is escaped where it is put in; a content security policy forbids
//! whatever is not on the page. Pictures are SVG whose places are in per cent, so that they fit
//! any width and their texts stay legible.

use std::ops::Range;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::log::Log;
use super::text::{SILENCE_NS, uptime};
use super::{Blocked, Memory, Report, Taint};
use crate::inside::modules::Line;
use crate::inside::records::Record;
use crate::inside::stacks::{Regs, Traced};
use crate::scan::Trailer;
use crate::text;

const STYLE: &str = include_str!("style.css");
/// Allows the page's own style and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// What was kept is told in 4 KiB frames.
const FRAME: u64 = 4096;
/// Records before the crash that are shown without a click.
const BEFORE: usize = 12;
/// The most frames of a stack.
const FRAMES: usize = 60;
/// Colours of what is something, and of what is nobody's.
const COLOURS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c9"];
const VOID: [&str; 2] = ["c7", "c8"];

/// The whole page.
pub fn page(report: &Report) -> String {
    let known = |part| report.why_lacking(part).next().is_none();
    let body = html! {
        header {
            p.label { "kdraw report" }
            h1 { (report.sentence()) }
            dl.short {
                @for (name, value) in report.in_short() { (field(name, &value)) }
            }
        }
        @if !report.lacking.is_empty() { (lacking(report)) }
        section {
            h2 { "Stacks" }
            @for stack in &report.stacks { (stack_of(stack)) }
            @if report.stacks.is_empty() { (absent(report, "stacks")) }
        }
        @if let Some(blocked) = &report.blocked { (waiting(blocked)) }
        section {
            h2 { "Memory" }
            @match &report.memory {
                Some(memory) => (memory_use(memory)),
                None => (absent(report, "memory")),
            }
        }
        section {
            h2 { "Log" }
            @match &report.log {
                Some(log) => (log_end(log)),
                None => (absent(report, "log")),
            }
        }
        section {
            h2 { "Kernel and machine" }
            @let fields = report.identity.fields();
            @if fields.is_empty() { (absent(report, "identity")) }
            dl { @for (name, value) in &fields { (field(name, value)) } }
        }
        section {
            h2 { "Modules" }
            @if let Some(taint) = &report.taint { (taints(taint)) }
            @match &report.modules {
                Some(modules) => (module_list(modules)),
                None => (absent(report, "modules")),
            }
        }
        section {
            h2 { "Capture" }
            @if let Some(trailer) = &report.capture.trailer { (capture_pictures(trailer)) }
            // What the pictures say is not said twice.
            @let fields = report.capture.fields().into_iter();
            @let fields = fields.filter(|(name, _)| !["phases", "kept"].contains(name));
            dl { @for (name, value) in fields { (field(name, &value)) } }
            @if known("dump") && report.capture.by_kdraw { p.note { "Nothing of the dump is lost." } }
            @if !report.capture.payload_log.is_empty() {
                details {
                    summary { "What the capture logged" }
                    pre { (report.capture.payload_log.join("\n")) }
                }
            }
        }
        footer { "Made by kdraw " (report.kdraw) " from " (report.dump) }
    };
    document(report.sentence(), &body)
}

/// A page with a title.
pub fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

/// A name and what it stands for.
pub fn field(name: &str, value: &str) -> Markup {
    html! { dt { (name) } dd { (value) } }
}

fn lacking(report: &Report) -> Markup {
    html! {
        section.lacks {
            h2 { "This report lacks" }
            dl { @for lack in &report.lacking { (field(lack.part, &lack.why)) } }
        }
    }
}

/// That a part is not there, and why.
fn absent(report: &Report, part: &str) -> Markup {
    let kernel = report.why_lacking("kernel");
    let why: Vec<&str> = report.why_lacking(part).chain(kernel).collect();
    html! {
        p.note {
            "Not known"
            @if !why.is_empty() { ": " (why.join("; ")) }
            "."
        }
    }
}

fn stack_of(stack: &Traced) -> Markup {
    let what = match (stack.panicked, stack.running) {
        (true, _) => "panicked",
        (_, true) => "running",
        _ => "",
    };
    let head = html! {
        strong { (stack.comm) }
        span { "PID " (stack.pid) }
        span { "CPU " (stack.cpu) }
        @if stack.panicked { span.bad { (what) } } @else { span { (what) } }
    };
    // What an idle CPU did is worth a click, not a look.
    let is_open = stack.panicked || stack.pid != 0;
    let left_out = stack.left_out(FRAMES);
    html! {
        details.stack open[is_open] {
            summary { (head) }
            ol start="0" {
                @for (number, line) in stack.frames.iter().enumerate() {
                    @if left_out.contains(&number) {
                        @if number == left_out.start { li.gap { "… " (left_out.len()) " frames …" } }
                    } @else { li.hit[line.interrupted] value=(number) title=(format!("{:#018x}", line.pc)) {
                        code { (line.function_in_words()) }
                        @if let Some(exception) = &line.exception { p { (exception) } }
                        @if let Some(regs) = &line.registers { (registers(regs)) }
                    } }
                }
            }
            @if let Some(end) = stack.end_in_words() { p.end { (end) } }
            @if let Some(user) = &stack.user { (registers(user)) }
        }
    }
}

fn registers(regs: &Regs) -> Markup {
    html! {
        details.registers {
            summary { "registers" }
            div {
                @for (name, value) in regs.named() {
                    span { b { (name) } " " (format!("{value:016x}")) }
                }
            }
        }
    }
}

fn waiting(blocked: &[Blocked]) -> Markup {
    html! {
        section {
            h2 { "Tasks that wait" }
            @if blocked.is_empty() { p.note { "None is in state D." } }
            @for task in blocked {
                details.stack {
                    summary {
                        strong { (task.comm) }
                        span { "PID " (task.pid) }
                        @if let Some(seconds) = task.seconds { span { (format!("{seconds:.1} s")) } }
                        span { (task.in_words()) }
                    }
                    ol start="0" { @for line in &task.stack { li { code { (line) } } } }
                }
            }
        }
    }
}

/// A part of a bar.
struct Part {
    name: String,
    /// Of the whole.
    share: f64,
    /// How much that is, in words.
    words: String,
    /// Whether it is nobody's: free memory, pages left out.
    is_void: bool,
}

/// A bar of parts, and what they are.
fn bar(parts: &[Part]) -> Markup {
    let (mut used, mut void) = (COLOURS.iter().cycle(), VOID.iter().cycle());
    let colours = parts.iter().map(|part| match part.is_void {
        true => void.next(),
        false => used.next(),
    });
    let colours: Vec<&str> = colours.flatten().copied().collect();
    let mut end = 0.0;
    let places = parts.iter().map(|part| {
        let start = end;
        end += part.share * 100.0;
        percent(start)
    });
    let places: Vec<String> = places.collect();
    html! {
        svg.bar width="100%" height="28" role="img" aria-label="parts of the whole" {
            @for ((part, colour), place) in parts.iter().zip(&colours).zip(&places) {
                rect.(colour) x=(place) y="0" width=(percent(part.share * 100.0)) height="28" {
                    title { (part.name) ": " (part.words) }
                }
            }
        }
        ul.legend {
            @for (part, colour) in parts.iter().zip(&colours) {
                li { i.(colour) {} (part.name) " " b { (part.words) } }
            }
        }
    }
}

fn percent(value: f64) -> String {
    format!("{value:.3}%")
}

fn share(part: u64, all: u64) -> f64 {
    match all {
        0 => 0.0,
        all => part as f64 / all as f64,
    }
}

fn memory_use(memory: &Memory) -> Markup {
    let parts = memory.classes.iter().filter(|class| class.bytes > 0);
    let parts = parts.map(|class| Part {
        name: class.name.to_owned(),
        share: share(class.bytes, memory.total),
        words: text::size(class.bytes),
        is_void: class.name.starts_with("free"),
    });
    let parts: Vec<_> = parts.collect();
    let most = memory.biggest.iter().map(|process| process.resident).max();
    html! {
        (bar(&parts))
        p.note { (text::size(memory.total)) " in all." }
        @if !memory.biggest.is_empty() {
            table.processes {
                thead { tr { th { "process" } th.n { "PID" } th.n { "in RAM" } th {} } }
                tbody {
                    @for process in &memory.biggest {
                        tr {
                            td { (process.comm) }
                            td.n { (process.pid) }
                            td.n { (text::size(process.resident)) }
                            td.wide {
                                svg width="100%" height="10" aria-hidden="true" {
                                    rect.c0 height="10"
                                        width=(percent(share(process.resident, most.unwrap_or(0)) * 100.0)) {}
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn log_end(log: &Log) -> Markup {
    let times = log.records.iter().map(|record| record.time_ns);
    let times: Vec<u64> = times.collect();
    let shown_from = log.crash.unwrap_or(log.records.len());
    let earlier = shown_from.saturating_sub(BEFORE);
    html! {
        (timeline(log, &times))
        p.note {
            "The last " (log.records.len()) " of " (log.total) " records, from the " (log.origin) "."
            @if let Some(silence) = log.silence_ns {
                " Before the crash nothing was logged for "
                strong { (text::duration(silence / 1000)) } "."
            }
        }
        @if earlier > 0 {
            details {
                summary { (earlier) " earlier records" }
                div.log tabindex="0" { (records(log, &times, 0..earlier)) }
            }
        }
        div.log tabindex="0" { (records(log, &times, earlier..log.records.len())) }
    }
}

/// Records, with the silence between them and the mark of the crash.
fn records(log: &Log, times: &[u64], shown: Range<usize>) -> Markup {
    let first = shown.start;
    let records = log.records.get(shown).unwrap_or_default();
    html! {
        @for (record, number) in records.iter().zip(first..) {
            @let before = number.checked_sub(1).and_then(|number| times.get(number));
            @let silence = before.map_or(0, |before| record.time_ns.saturating_sub(*before));
            @if silence >= SILENCE_NS {
                p.silence { (text::duration(silence / 1000)) " of silence" }
            }
            @if log.crash == Some(number) { p.crash { "the crash" } }
            p.(severity(record)) {
                span { (record.seconds()) }
                " " (record.text)
            }
        }
    }
}

/// How bad a record is: `e`, `w`, `i` or `d`.
fn severity(record: &Record) -> &'static str {
    match record.level {
        "emerg" | "alert" | "crit" | "err" => "e",
        "warn" => "w",
        "debug" => "d",
        _ => "i",
    }
}

/// The records over time; the silence before the crash is a band of its own.
fn timeline(log: &Log, times: &[u64]) -> Markup {
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else {
        return html! {};
    };
    let span = last.saturating_sub(*first);
    if span == 0 {
        return html! {};
    }
    // The records at both ends are not cut in half.
    let place = |time: u64| percent(1.0 + 98.0 * share(time.saturating_sub(*first), span));
    let width = |time: u64| percent(98.0 * share(time, span));
    let crash = log.crash.and_then(|number| times.get(number));
    let silence = crash.zip(log.silence_ns);
    html! {
        svg.timeline width="100%" height="74" role="img" aria-label="records of the log over time" {
            @if let Some((crash, silence)) = silence.filter(|(_, silence)| *silence >= SILENCE_NS) {
                rect.silent x=(place(crash.saturating_sub(silence))) y="4" width=(width(silence)) height="44" {
                    title { (text::duration(silence / 1000)) " of silence" }
                }
            }
            line.axis x1="0" x2="100%" y1="48.5" y2="48.5" {}
            @for time in ticks(*first, *last) {
                line.axis x1=(place(time)) x2=(place(time)) y1="48" y2="53" {}
                text x=(place(time)) y="68" text-anchor="middle" { (uptime(time)) }
            }
            @for record in &log.records {
                @let class = severity(record);
                @let top = match class { "e" => "12", "w" => "22", "i" => "32", _ => "38" };
                line.(class) x1=(place(record.time_ns)) x2=(place(record.time_ns)) y1=(top) y2="48" {}
            }
            @if let Some(crash) = crash {
                line.crash x1=(place(*crash)) x2=(place(*crash)) y1="2" y2="48" { title { "the crash" } }
            }
        }
        p.key { i.e {} "errors" i.w {} "warnings" i.i {} "the rest" i.silent {} "silence before the crash" }
    }
}

/// Round times between two, not near the ends, and few enough to be read on a telephone.
fn ticks(first: u64, last: u64) -> Vec<u64> {
    const MOST: u64 = 4;
    let span = last.saturating_sub(first);
    let steps = (0..20u32).flat_map(|power| {
        let power = 10u64.checked_pow(power).unwrap_or(u64::MAX);
        [1, 2, 5].map(|digit| power.saturating_mul(digit))
    });
    // Finer than is told makes no sense.
    let mut steps = steps.filter(|step| *step >= 100_000_000);
    let Some(step) = steps.find(|step| span.checked_div(*step).unwrap_or(0) <= MOST) else {
        return Vec::new();
    };
    let margin = span / 12;
    let mut tick = first.saturating_add(margin).next_multiple_of(step);
    let mut ticks = Vec::new();
    while tick <= last.saturating_sub(margin) && ticks.len() <= MOST as usize {
        ticks.push(tick);
        tick = tick.saturating_add(step);
    }
    ticks
}

fn taints(taints: &[Taint]) -> Markup {
    html! {
        @if taints.is_empty() { p.note { "The kernel is not tainted." } }
        ul.taints {
            @for taint in taints {
                li {
                    b { (taint.letter) } " " (taint.meaning)
                    @if !taint.modules.is_empty() { ": " (taint.modules.join(", ")) }
                }
            }
        }
    }
}

fn module_list(modules: &[Line]) -> Markup {
    html! {
        @if modules.is_empty() { p.note { "None was loaded." } }
        ul.modules {
            @for module in modules {
                li.tainted[!module.taints.is_empty()] {
                    (module.name_and_taints()) " " span { (text::size(module.size)) }
                }
            }
        }
    }
}

/// Where the time went, and what of memory was kept.
fn capture_pictures(trailer: &Trailer) -> Markup {
    let all = trailer.phases.last().map_or(0, |(_, at)| *at);
    let mut before = 0;
    let phases = trailer.phases.iter().map(|(name, at)| {
        let took = at.saturating_sub(before);
        before = *at;
        Part {
            name: name.clone(),
            share: share(took, all),
            words: text::duration(took),
            is_void: false,
        }
    });
    let phases: Vec<_> = phases.collect();
    let found = trailer.classes.iter().map(|class| class.found);
    let found = found.fold(0, u64::saturating_add);
    let classes = trailer.classes.iter().filter(|class| class.found > 0);
    let classes = classes.map(|class| {
        let words = match class.kept {
            0 => format!("{} left out", text::size(class.found.saturating_mul(FRAME))),
            _ => text::size(class.kept.saturating_mul(FRAME)),
        };
        Part {
            name: class.class.to_string(),
            share: share(class.found, found),
            words,
            is_void: class.kept == 0,
        }
    });
    let classes: Vec<_> = classes.collect();
    html! {
        @if all > 0 { h3 { "Where the time went" } (bar(&phases)) }
        @if found > 0 { h3 { "What was kept of memory" } (bar(&classes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    /// Panics unless each element is closed by itself, in order. Returns the names of all.
    fn elements(page: &str) -> Vec<String> {
        const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
        let (mut open, mut all) = (Vec::new(), Vec::new());
        let mut rest = page;
        while let Some((_, tag)) = rest.split_once('<') {
            let (tag, behind) = tag.split_once('>').expect("an element that ends");
            rest = behind;
            let name = tag.split(' ').next().unwrap_or_default();
            match name.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop().as_deref(), Some(closed)),
                None if VOID.contains(&name) => {}
                None => {
                    open.push(name.to_owned());
                    all.push(name.to_owned());
                }
            }
        }
        assert!(open.is_empty(), "{open:?}");
        all
    }

    #[test]
    fn a_page_is_well_formed_and_runs_nothing_of_the_dump() {
        let evil = "<script>alert(1)</script>\" onload=\"x";
        let page = page(&report(evil));
        let names = elements(&page);
        assert!(!names.contains(&"script".to_owned()));
        assert!(names.contains(&"svg".to_owned()), "{names:?}");
        // In the task's name, the log, the modules, the command line, the sentence.
        assert!(page.matches("&lt;script&gt;").count() >= 5);
        assert!(!page.contains("onload=\"x"));
        assert!(page.contains(POLICY) && !page.contains("http:") && !page.contains("https:"));
        // The style stands in the page as it is.
        assert!(!STYLE.contains('<') && !STYLE.contains("url("));
    }

    #[test]
    fn a_page_of_nothing_says_what_it_lacks() {
        let page = page(&crate::report::tests::empty());
        elements(&page);
        assert!(page.contains("This report lacks"));
        assert!(
            page.contains("Not known: the dump's memory cannot be read."),
            "{page}"
        );
        assert!(page.contains("does not tell why"));
    }

    #[test]
    fn ticks_are_round_and_few() {
        const SECOND: u64 = 1_000_000_000;
        for (first, last, expected) in [
            (0, 10 * SECOND, vec![5 * SECOND]),
            (0, 16 * SECOND, vec![5 * SECOND, 10 * SECOND]),
            (100 * SECOND, 103 * SECOND, vec![101 * SECOND, 102 * SECOND]),
            (0, 1000, vec![]),
        ] {
            assert_eq!(ticks(first, last), expected, "{first} {last}");
        }
        assert!(ticks(0, u64::MAX).len() < 8);
    }
}
