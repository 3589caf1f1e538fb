//! What kdraw says of a kernel by what the kernel carries itself, beside what drgn and crash say
//! of it with the distribution's debug information.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::dist::Dist;
use crate::run;

/// What drgn is asked: the modules, and the frames of every task.
pub const DRGN: &str = r#"
import sys, drgn
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.pid import for_each_task
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
for module in list_for_each_entry("struct module", prog["modules"].address_of_(), "list"):
    print("module", module.value_(), module.name.string_().decode(), module.refcnt.counter.value_() - 1)
def frames(name, trace):
    for frame in trace:
        if frame.is_inline:
            continue
        try:
            symbol = frame.symbol()
            where = "%s+%#x" % (symbol.name, frame.pc - symbol.address)
        except LookupError:
            where = "?"
        print("frame", name, frame.pc, where)
frames("panicked", prog.crashed_thread().stack_trace())
for task in for_each_task(prog):
    frames(task.pid.value_(), prog.stack_trace(task))
"#;

/// Frames by task: address, and function and offset.
type Stacks = BTreeMap<String, Vec<(u64, String)>>;

/// Compares what kdraw says of a vmcore with what drgn printed, and with crash's `ps`.
pub fn same(dist: &Dist, vmcore: &Path, drgn: &str, crash: &str) -> Result<String> {
    let modules = modules(dist, vmcore, drgn)?;
    let stacks = stacks(dist, vmcore, drgn)?;
    let tasks = tasks(dist, vmcore, crash)?;
    Ok(format!("{modules} modules, {tasks}, {stacks}"))
}

/// What a command prints as JSON. Its exit code 1 is a finding, not a failure.
fn asked(dist: &Dist, words: &[&str], vmcore: &Path) -> Result<Vec<Value>> {
    let mut command = Command::new(&dist.kdraw);
    let output = command.args(words).arg("--json").arg(vmcore).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).with_context(|| format!("{}: {errors}", run::shown(&command)))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn modules(dist: &Dist, vmcore: &Path, drgn: &str) -> Result<usize> {
    let theirs: Vec<_> = drgn
        .lines()
        .filter(|line| line.starts_with("module "))
        .collect();
    let ours = asked(dist, &["mods"], vmcore)?;
    let ours: Vec<_> = ours
        .iter()
        .map(|found| {
            let (at, name) = (number(found, "module"), text(found, "name"));
            format!("module {at} {name} {}", found["references"])
        })
        .collect();
    ensure!(ours == theirs, "modules {ours:?}, drgn has {theirs:?}");
    ensure!(
        !ours.is_empty(),
        "no module, though a Debian kernel needs some to boot"
    );
    Ok(ours.len())
}

fn stacks(dist: &Dist, vmcore: &Path, drgn: &str) -> Result<String> {
    let mut theirs = Stacks::new();
    for line in drgn.lines() {
        let mut words = line.split(' ');
        if let (Some("frame"), Some(task), Some(pc), Some(place)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            let frame = (pc.parse()?, place.to_owned());
            theirs.entry(task.to_owned()).or_default().push(frame);
        }
    }
    let mut ours = Stacks::new();
    for task in asked(dist, &["bt", "--all"], vmcore)? {
        let frames = task["frames"].as_array().context("no frames")?;
        let frames = frames.iter().map(|frame| {
            let place = format!("{}+{:#x}", text(frame, "function"), number(frame, "offset"));
            (number(frame, "pc"), place)
        });
        let frames: Vec<_> = frames.collect();
        if task["panicked"] == true {
            ours.insert("panicked".to_owned(), frames.clone());
        }
        if number(&task, "pid") != 0 {
            ours.insert(number(&task, "pid").to_string(), frames);
        }
    }
    let (mut frames, mut more) = (0, 0);
    for (task, theirs) in &theirs {
        let own = ours
            .get(task)
            .with_context(|| format!("no stack of task {task}"))?;
        frames += theirs.len();
        if equal(own, theirs) {
            continue;
        }
        // drgn passes over the caller of an interrupted function that has no frame of its own,
        // where the debug information does not say so.
        let mut without = own.clone();
        without.remove(1.min(own.len().saturating_sub(1)));
        if !equal(&without, theirs) {
            bail!("task {task}: {own:x?}, drgn has {theirs:x?}");
        }
        more += 1;
    }
    let count = theirs.len();
    Ok(format!(
        "{frames} frames of {count} stacks, {more} of them with one more"
    ))
}

/// Whether frames are the same; drgn has no names of modules' functions.
fn equal(ours: &[(u64, String)], theirs: &[(u64, String)]) -> bool {
    let same = |((pc, place), (their_pc, their_place)): (&(u64, String), &(u64, String))| {
        pc == their_pc && (place == their_place || their_place == "?")
    };
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(same)
}

fn tasks(dist: &Dist, vmcore: &Path, crash: &str) -> Result<String> {
    let mut theirs: Vec<_> = crash.lines().filter_map(crash_task).collect();
    let ours = asked(dist, &["ps"], vmcore)?;
    let mut ours: Vec<_> = ours.iter().map(own_task).collect();
    theirs.sort_unstable();
    ours.sort_unstable();
    super::tools::same(&theirs.join("\n"), &ours.join("\n"))?;
    ensure!(!ours.is_empty(), "no task");
    Ok(format!("{} tasks as crash has them", ours.len()))
}

/// A line of crash's `ps`: PID, PPID, CPU, address, state, size, resident, name.
fn crash_task(line: &str) -> Option<String> {
    let words: Vec<_> = line.trim_start_matches('>').split_whitespace().collect();
    let [pid, ppid, cpu, task, state, _, size, resident, name @ ..] = &words[..] else {
        return None;
    };
    let is_task = pid.parse::<u32>().is_ok() && task.starts_with("ffff") && task.len() == 16;
    let name = name.join(" ");
    let name = name.trim_start_matches('[').trim_end_matches(']');
    is_task.then(|| format!("{pid} {ppid} {cpu} {task} {state} {size} {resident} {name}"))
}

fn own_task(task: &Value) -> String {
    let state = match text(task, "state").as_str() {
        "R" => "RU",
        "S" => "IN",
        "D" => "UN",
        "I" => "ID",
        "T" => "ST",
        "t" => "TR",
        "Z" => "ZO",
        "X" => "DE",
        "P" => "PA",
        _ => "??",
    };
    format!(
        "{} {} {} {:016x} {state} {} {} {}",
        task["pid"],
        task["ppid"],
        task["cpu"],
        number(task, "task"),
        number(task, "vsz"),
        number(task, "rss"),
        text(task, "comm").trim()
    )
}
