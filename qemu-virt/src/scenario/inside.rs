//! What kdraw says of a kernel by what the kernel carries itself, beside what drgn and crash say
//! of it with the distribution's debug information.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::dist::Dist;
use crate::run;

/// What drgn is asked: the modules, the frames of every task with their source lines, zones, slab
/// caches, mounts, network devices, interrupts, and how much memory was promised, of which crash
/// leaves out what the CPUs had not added yet.
pub const DRGN: &str = r#"
import os, sys, drgn
from drgn.helpers.linux import fs, irq, net, percpu, slab
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.pid import for_each_task
# A panic takes the other CPUs offline, with what they counted and kept.
percpu.for_each_online_cpu = slab.for_each_online_cpu = for_each_possible_cpu
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info(sys.argv[2:])
for module in list_for_each_entry("struct module", prog["modules"].address_of_(), "list"):
    print("module", module.value_(), module.name.string_().decode(), module.refcnt.counter.value_() - 1)
def frames(name, trace):
    lines = []
    for frame in trace:
        try:
            file, line, _ = frame.source()
            lines.append("%s:%d" % (os.path.basename(file), line))
        except LookupError:
            pass
        if frame.is_inline:
            continue
        try:
            symbol = frame.symbol()
            where = "%s+%#x" % (symbol.name, frame.pc - symbol.address)
        except LookupError:
            where = "?"
        print("frame", name, frame.pc, where, *lines)
        lines = []
frames("panicked", prog.crashed_thread().stack_trace())
for task in for_each_task(prog):
    frames(task.pid.value_(), prog.stack_trace(task))
print("committed", percpu.percpu_counter_sum(prog["vm_committed_as"].address_of_()))
for node in for_each_online_pgdat(prog):
    for zone in node.node_zones:
        if zone.present_pages:
            marks = [mark.value_() for mark in zone._watermark][:3]
            print("zone", zone.address_of_().value_(), zone.name.string_().decode(), zone.managed_pages.counter.value_(), *marks)
for cache in slab.for_each_slab_cache(prog):
    usage = slab.slab_cache_usage(cache)
    print("slab", cache.value_(), usage.num_slabs, usage.num_objs, usage.active_objs, cache.name.string_().decode())
for mount in fs.for_each_mount(prog):
    words = fs.mount_fstype(mount), fs.mount_src(mount), fs.mount_dst(mount)
    print("mount", mount.value_(), mount.mnt.mnt_sb.value_(), *(word.decode() for word in words))
for device in net.for_each_netdev(prog):
    addresses = net.netdev_ipv4_addrs(device) + net.netdev_ipv6_addrs(device)
    print("device", device.value_(), device.ifindex.value_(), net.netdev_name(device).decode(), device.mtu.value_(), *addresses)
for number, desc in irq.for_each_irq_desc(prog):
    names = b",".join(irq.irq_desc_action_names(desc)).decode()
    counts = [irq.irq_desc_kstat_cpu(desc, cpu) for cpu in for_each_possible_cpu(prog)]
    print("irq", number, desc.value_(), desc.irq_data.hwirq.value_(), *counts, names)
"#;

/// Frames by task.
type Stacks = BTreeMap<String, Vec<Frame>>;

/// A frame.
#[derive(Clone, Debug)]
struct Frame {
    pc: u64,
    /// Function and offset; of a module's that drgn has no symbols of, `?`.
    place: String,
    /// Source lines, what was inlined first.
    lines: Vec<String>,
}

/// Compares what kdraw says of a vmcore with what drgn printed, with crash's `ps`, `files` and
/// `vm`, and with the paths that the guest printed on its serial line. `debug` are the options that
/// name the files with debug symbols, which is where source lines are from.
pub fn same(
    dist: &Dist,
    vmcore: &Path,
    debug: &[&str],
    drgn: &str,
    crash: &str,
    serial: &str,
) -> Result<String> {
    let modules = modules(dist, vmcore, drgn)?;
    let stacks = stacks(dist, vmcore, debug, drgn)?;
    let tasks = tasks(dist, vmcore, crash)?;
    let spaces = spaces(dist, vmcore, crash)?;
    let paths = paths(dist, vmcore, serial)?;
    Ok(format!(
        "{modules} modules, {tasks}, {spaces}, {paths} paths as the kernel had them, {stacks}"
    ))
}

/// What a command prints as JSON. Its exit code 1 is a finding, not a failure.
pub fn asked(dist: &Dist, words: &[&str], vmcore: &Path, pids: &[u64]) -> Result<Value> {
    let mut command = Command::new(&dist.kdraw);
    command.args(words).arg("--json").arg(vmcore);
    let output = command.args(pids.iter().map(u64::to_string)).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).with_context(|| format!("{}: {errors}", run::shown(&command)))
}

/// What a command prints of the whole kernel.
pub fn rows(dist: &Dist, words: &[&str], vmcore: &Path) -> Result<Vec<Value>> {
    Ok(serde_json::from_value(asked(dist, words, vmcore, &[])?)?)
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
    let ours = rows(dist, &["mods"], vmcore)?;
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

fn stacks(dist: &Dist, vmcore: &Path, debug: &[&str], drgn: &str) -> Result<String> {
    let mut theirs = Stacks::new();
    for line in drgn.lines() {
        let mut words = line.split(' ');
        if let (Some("frame"), Some(task), Some(pc), Some(place)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            theirs.entry(task.to_owned()).or_default().push(Frame {
                pc: pc.parse()?,
                place: place.to_owned(),
                lines: words.map(str::to_owned).collect(),
            });
        }
    }
    let mut ours = Stacks::new();
    for task in rows(dist, &[&["bt", "--all"], debug].concat(), vmcore)? {
        let frames = task["frames"].as_array().context("no frames")?;
        let frames: Vec<_> = frames.iter().map(own_frame).collect();
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

fn own_frame(frame: &Value) -> Frame {
    let line = |source: &Value| {
        let file = text(source, "file");
        let name = file.rsplit('/').next().unwrap_or_default();
        format!("{name}:{}", source["line"])
    };
    let lines = frame["sources"].as_array().into_iter().flatten();
    Frame {
        pc: number(frame, "pc"),
        place: format!("{}+{:#x}", text(frame, "function"), number(frame, "offset")),
        lines: lines.map(line).collect(),
    }
}

/// Whether frames are the same; drgn has no names of most modules' functions.
fn equal(ours: &[Frame], theirs: &[Frame]) -> bool {
    let same = |(own, their): (&Frame, &Frame)| {
        let place = own.place == their.place || their.place == "?";
        own.pc == their.pc && place && own.lines == their.lines
    };
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(same)
}

fn tasks(dist: &Dist, vmcore: &Path, crash: &str) -> Result<String> {
    let mut theirs: Vec<_> = crash.lines().filter_map(crash_task).collect();
    let ours = rows(dist, &["ps"], vmcore)?;
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
    let is_task = pid.parse::<u32>().is_ok()
        && ppid.parse::<u32>().is_ok()
        && task.starts_with("ffff")
        && task.len() == 16;
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

/// Fewest processes a booted guest has.
const FEWEST_PROCESSES: usize = 5;

/// Compares the open files and mappings of each process.
fn spaces(dist: &Dist, vmcore: &Path, crash: &str) -> Result<String> {
    let (mut files, mut mappings) = (BTreeMap::<u64, Vec<File>>::new(), BTreeMap::new());
    let mut pid = 0;
    for line in crash.lines() {
        if let Some(header) = line.strip_prefix("PID: ") {
            let number = header.split_whitespace().next();
            pid = number.and_then(|pid| pid.parse().ok()).unwrap_or_default();
        } else if let Some(file) = crash_file(line) {
            files.entry(pid).or_default().push(file);
        } else if let Some(mapping) = crash_mapping(line) {
            let all: &mut Vec<String> = mappings.entry(pid).or_default();
            all.push(mapping);
        }
    }
    ensure!(
        files.len() >= FEWEST_PROCESSES && mappings.len() >= FEWEST_PROCESSES,
        "crash has files of {} processes, mappings of {}",
        files.len(),
        mappings.len()
    );
    for (pid, theirs) in &files {
        let ours = asked(dist, &["files"], vmcore, &[*pid])?;
        let ours = ours[0]["files"].as_array().context("no files")?;
        let ours: Vec<_> = ours.iter().map(own_file).collect();
        let mut pairs = ours.iter().zip(theirs);
        let wrong = pairs.find(|(own, their)| !own.is_same(their));
        ensure!(wrong.is_none(), "a file of {pid}, and crash's: {wrong:?}");
        let (own, their) = (ours.len(), theirs.len());
        ensure!(own == their, "{own} files of {pid}, crash has {their}");
    }
    for (pid, theirs) in &mappings {
        let ours = asked(dist, &["vm"], vmcore, &[*pid])?;
        let mut rows = vec![own_space(&ours)];
        let ours = ours["mappings"].as_array().context("no mappings")?;
        rows.extend(ours.iter().map(own_mapping));
        super::tools::same(&theirs.join("\n"), &rows.join("\n"))
            .with_context(|| format!("mappings of {pid}"))?;
    }
    let file_count: usize = files.values().map(Vec::len).sum();
    // Each process has a line for all its mappings.
    let mapping_count: usize = mappings.values().map(|lines| lines.len() - 1).sum();
    Ok(format!(
        "{file_count} files of {} processes and {mapping_count} mappings as crash has them",
        files.len()
    ))
}

/// Compares the paths of open files with those that the kernel told the guest; returns how many.
fn paths(dist: &Dist, vmcore: &Path, serial: &str) -> Result<usize> {
    let mut open = BTreeMap::<u64, Vec<(u64, &str)>>::new();
    let lines = serial.lines().map(str::trim_end);
    for (_, line) in lines.filter_map(|line| line.split_once("guest: open ")) {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().context("a line of open files is cut");
        let (pid, fd) = (word()?.parse()?, word()?.parse()?);
        open.entry(pid).or_default().push((fd, word()?));
    }
    ensure!(!open.is_empty(), "the guest told of no open file");
    for (pid, files) in &open {
        let ours = asked(dist, &["files"], vmcore, &[*pid])?;
        let ours = ours[0]["files"].as_array().context("no files")?;
        for (fd, path) in files {
            let own = ours.iter().find(|own| number(own, "fd") == *fd);
            let own = own.with_context(|| format!("no descriptor {fd} of {pid}"))?;
            ensure!(own["path"] == *path, "{} instead of {path}", own["path"]);
        }
    }
    Ok(open.values().map(Vec::len).sum())
}

fn is_address(word: &str) -> bool {
    word.len() == 16 && word.starts_with("ffff") && u64::from_str_radix(word, 16).is_ok()
}

/// A descriptor.
#[derive(Debug)]
struct File {
    /// Its number, file, dentry, inode, type.
    words: String,
    path: String,
}

impl File {
    /// Whether it is what crash has. crash has other names for what is in no directory; of those
    /// the guest told the kernel's.
    fn is_same(&self, their: &Self) -> bool {
        let is_made_up = self.path.contains(":[") || self.path.starts_with("/memfd:");
        let path = self.path.trim_end_matches(" (deleted)");
        self.words == their.words && (is_made_up || path == their.path)
    }
}

/// A line of crash's `files`.
fn crash_file(line: &str) -> Option<File> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [fd, file, dentry, inode, kind, path @ ..] = &words[..] else {
        return None;
    };
    let is_file =
        fd.parse::<u64>().is_ok() && [file, dentry, inode].iter().all(|at| is_address(at));
    is_file.then(|| File {
        words: format!("{fd} {file} {dentry} {inode} {kind}"),
        path: path.join(" "),
    })
}

fn own_file(file: &Value) -> File {
    let kind = match text(file, "type").as_str() {
        "-" => "UNKN".to_owned(),
        kind => kind.to_owned(),
    };
    let at = |key: &str| number(file, key);
    let (fd, file_at, dentry, inode) = (at("fd"), at("file"), at("dentry"), at("inode"));
    File {
        words: format!("{fd} {file_at:016x} {dentry:016x} {inode:016x} {kind}"),
        path: text(file, "path"),
    }
}

/// A line of crash's `vm`: area, start, end, flags, file; or mm, page tables, RSS, total.
fn crash_mapping(line: &str) -> Option<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [at, words @ ..] = &words[..] else {
        return None;
    };
    let numbers = words.get(..3)?;
    let is_kib = |word: &str| {
        word.strip_suffix('k')
            .is_some_and(|n| n.parse::<u64>().is_ok())
    };
    let is_number = |word: &&str| u64::from_str_radix(word, 16).is_ok() || is_kib(word);
    let fits = is_address(at) && numbers.iter().all(is_number);
    let path = words.get(3..).unwrap_or_default().join(" ");
    fits.then(|| format!("{at} {} {path}", numbers.join(" ")))
}

fn own_space(space: &Value) -> String {
    let at = |key: &str| number(space, key);
    let (mm, pgd) = (at("mm"), at("pgd"));
    format!("{mm:016x} {pgd:016x} {}k {}k ", at("rss"), at("total"))
}

fn own_mapping(mapping: &Value) -> String {
    let name = text(mapping, "name");
    // crash names files only.
    let name = if name.starts_with('[') {
        ""
    } else {
        name.as_str()
    };
    let at = |key: &str| number(mapping, key);
    let (vma, start, end, flags) = (at("vma"), at("start"), at("end"), at("flags"));
    format!("{vma:016x} {start:x} {end:x} {flags:x} {name}")
}
