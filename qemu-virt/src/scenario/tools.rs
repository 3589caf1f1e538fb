//! Opens a vmcore with the tools its readers use: drgn, crash and gdb.
//!
//! None of them was written here, so that they agree with kdraw is evidence. All three need the
//! kernel's debug information; the host's tools read arm64 dumps. crash is built here for that;
//! Debian's own arm64 build, which an emulated CPU runs, takes minutes and so opens one dump only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::evidence::{Found, convert};
use super::result::Outcome;
use super::{KernelChoice, Panic, Place, Scenario, inside, memory_use, panics, surroundings};
use crate::compare::Vmcore;
use crate::dist::Dist;
use crate::kernel_module;
use crate::material::{self, Suite};
use crate::run::{self, say};

/// The readers that a vmcore is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// None.
    None,
    /// drgn, crash and gdb, as programs of this machine.
    Native,
    /// Those, and Debian's arm64 build of crash.
    All,
}

/// Fewest tasks a booted guest has, with the processes of `kdraw-guest`.
const FEWEST_TASKS: usize = 60;

/// What crash is asked.
const CRASH_COMMANDS: &str = "set scroll off\nbt\nps\nforeach user files\nforeach user vm\n\
                              kmem -i\nlog\nquit\n";
/// What crash is asked of a dump that was cut.
const CRASH_TASKS: &str = "set scroll off\nbt\nps\nquit\n";

/// What drgn is asked: the tasks, and the stack of the task that panicked.
const DRGN_SCRIPT: &str = r#"
import sys, drgn
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import task_state_to_char
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info(sys.argv[2:])
tasks = list(for_each_task(prog))
for task in tasks:
    print("task", task.pid.value_(), task_state_to_char(task), task.comm.string_().decode())
crashed = prog.crashed_thread()
print("crashed", crashed.tid)
print(crashed.stack_trace())
"#;

/// What drgn is asked besides: the log, and how much memory is in use for what.
const DRGN_MEMORY: &str = r#"
from drgn.helpers.linux.mm import totalram_pages
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.printk import get_dmesg
print(get_dmesg(prog).decode(errors="replace"))
print("pages", int(totalram_pages(prog)))
for name in "vm_zone_stat", "vm_node_stat", "vm_numa_event":
    print(name, [item.counter.value_() for item in prog[name]])
for node in for_each_online_pgdat(prog):
    for zone in node.node_zones:
        print("free blocks", [area.nr_free.value_() for area in zone.free_area])
"#;

/// What gdb is asked of every dump.
const GDB_RELEASE: &str = "print(gdb.parse_and_eval('init_uts_ns.name.release').string())";
/// What gdb is asked besides: stacks, tasks, the log's text, and how much memory is in use for what.
const GDB_SCRIPT: &str = r#"
import gdb, re
gdb.execute("thread apply all bt")
init, link = gdb.parse_and_eval("init_task"), gdb.parse_and_eval("&((struct task_struct *)0)->tasks")
kind, task = init.type.pointer(), init.address
while True:
    print("task", int(task["pid"]), task["comm"].string(errors="replace"))
    task = gdb.Value(int(task["tasks"]["next"]) - int(link)).cast(kind)
    if task == init.address:
        break
log, length = (int(gdb.parse_and_eval(name)) for name in ("log_buf", "log_buf_len"))
text = bytes(gdb.selected_inferior().read_memory(log, length))
for line in re.findall(rb"[ -~]{8,}", text):
    print(line.decode())
for name in "_totalram_pages", "vm_zone_stat", "vm_node_stat":
    gdb.execute("print " + name)
"#;

/// Opens a vmcore with every tool and checks what they print: gdb as ELF, the others as it is, and
/// the extracted one in every other format too.
pub fn check(
    scenario: &Scenario,
    dist: &Dist,
    place: &Place,
    found: &Found,
    readers: Readers,
    outcome: &mut Outcome,
) -> Result<()> {
    let (vmcore, suffix) = (found.path.as_path(), found.suffix);
    if readers == Readers::None {
        return Ok(());
    }
    let KernelChoice::Suite(suite) = scenario.kernel else {
        bail!("the foreign readers need a Debian kernel, for its debug information");
    };
    let vmlinux = material::debug_kernel(suite)?;
    let info = match vmcoreinfo(&found.elf) {
        Ok(info) => info,
        Err(error) => {
            outcome.check(&format!("tools{suffix}"), false, format!("{error:#}"));
            return Ok(());
        }
    };
    let symbols = Symbols {
        vmlinux,
        module: panics::installed(place),
        known_to_crash: suite != Suite::Sid,
    };
    let opener = Opener {
        panic: scenario.panic,
        place,
        symbols: &symbols,
        info: &info,
    };
    let named = |name: &str| format!("{name}{suffix}");
    let drgn = opener.drgn(vmcore, &named("drgn"));
    outcome.check_result(&named("drgn"), drgn);
    let native = opener.crash_native(vmcore, &named("crash"));
    outcome.check_result(&named("crash"), native);
    // drgn does not find out of the overflow stack of 6.x.
    if scenario.panic != Panic::StackOverflow {
        let inside = opener.inside(dist, vmcore, &named("inside"), &named("crash"));
        outcome.check_result(&named("inside"), inside);
    }
    if readers == Readers::All {
        say("opening the dump with Debian's arm64 crash (some minutes)");
        let started = Instant::now();
        let emulated =
            crash_arm64().and_then(|program| opener.crash(program, vmcore, &named("crash-arm64")));
        let took = started.elapsed().as_secs();
        let emulated = emulated.map(|seen| format!("{seen}; {took} s"));
        outcome.check_result(&named("crash-arm64"), emulated);
    }
    let gdb = gdb(&found.elf, &symbols.vmlinux, &info, GDB_RELEASE).and_then(|text| {
        std::fs::write(place.file(&named("gdb.txt")), &text)?;
        expect(&text, &[&outcome.release])?;
        Ok(format!("init_uts_ns.name.release is {:?}", outcome.release))
    });
    outcome.check_result(&named("gdb"), gdb);
    // A dump's format has nothing to do with how the kernel panicked.
    if found.path != found.elf && scenario.panic == Panic::Sysrq {
        for format in &OTHER_FORMATS {
            let result = opener.other_format(dist, format, found);
            outcome.check_result(&named(&format!("format-{}", format.name)), result);
        }
    }
    Ok(())
}

/// A format that is not the default one.
struct OtherFormat {
    name: &'static str,
    options: &'static [&'static str],
    /// Whether the crash that is built here can read it: it has zlib only.
    crash: bool,
}

impl OtherFormat {
    /// Returns the file that a flattened stream is to make.
    fn restored<'a>(&self, found: &'a Found) -> Option<&'a PathBuf> {
        match self.name {
            "flattened" => Some(&found.path),
            "flattened-elf" => Some(&found.elf),
            _ => None,
        }
    }
}

const OTHER_FORMATS: [OtherFormat; 5] = [
    OtherFormat {
        name: "zstd",
        options: &["--compress", "zstd"],
        crash: false,
    },
    OtherFormat {
        name: "snappy",
        options: &["--compress", "snappy"],
        crash: false,
    },
    OtherFormat {
        name: "none",
        options: &["--compress", "none"],
        crash: true,
    },
    OtherFormat {
        name: "flattened",
        options: &["--format", "flattened"],
        crash: true,
    },
    OtherFormat {
        name: "flattened-elf",
        options: &["--format", "flattened-elf"],
        crash: true,
    },
];

/// Where the readers find names and types.
struct Symbols {
    /// The kernel's.
    vmlinux: PathBuf,
    /// Those of our module, if the kernel has it.
    module: Option<PathBuf>,
    /// Whether crash knows such kernels: crash 9.0.2 stops at modules of 7.x, whose `struct module`
    /// has no `num_gpl_syms`, and at exceptions in the kernel, behind which it shows the program.
    known_to_crash: bool,
}

/// What it takes to open a vmcore of a scenario.
struct Opener<'a> {
    panic: Panic,
    place: &'a Place,
    symbols: &'a Symbols,
    info: &'a BTreeMap<String, String>,
}

impl Opener<'_> {
    /// Opens a vmcore with drgn; `name` is that of the file for what it printed.
    fn drgn(&self, vmcore: &Path, name: &str) -> Result<String> {
        let text = drgn(vmcore, self.symbols, DRGN_SCRIPT)?;
        std::fs::write(self.place.file(&format!("{name}.txt")), &text)?;
        let tasks = text.lines().filter(|line| line.starts_with("task "));
        let tasks = tasks.count();
        let stack = text.split_once("\ncrashed ");
        expect_frames(stack.map_or("", |(_, stack)| stack), self.panic)?;
        if tasks < FEWEST_TASKS {
            bail!("{tasks} tasks, fewer than {FEWEST_TASKS}");
        }
        Ok(format!("{tasks} tasks, the panicking CPU's stack"))
    }

    /// Opens a vmcore with crash, as [`Opener::drgn`] does.
    fn crash(&self, program: Command, vmcore: &Path, name: &str) -> Result<String> {
        let text = crash(program, vmcore, self.symbols, self.info, CRASH_COMMANDS)?;
        std::fs::write(self.place.file(&format!("{name}.txt")), &text)?;
        let in_kernel = matches!(self.panic, Panic::Null | Panic::IrqOff);
        let is_easy = self.symbols.module.is_none() && !in_kernel;
        if is_easy || self.symbols.known_to_crash {
            let stack = text.split_once("PID: ");
            let stack = stack.and_then(|(_, rest)| rest.split_once(" PPID "));
            expect_frames(stack.map_or("", |(stack, _)| stack), self.panic)?;
        }
        expect(&text, &["Starting crashdump kernel", "TOTAL MEM"])?;
        let tasks = text.lines().filter(|line| is_task(line)).count();
        if tasks < FEWEST_TASKS {
            bail!("{tasks} tasks, fewer than {FEWEST_TASKS}");
        }
        let same = same_log(&text, &vmcore.with_file_name("dmesg.txt"), self.place)?;
        Ok(format!("bt, ps ({tasks} tasks), kmem -i; {same}"))
    }

    /// Compares what kdraw finds in a vmcore with what drgn and crash do; `crash` is the name of
    /// the file with what crash printed.
    fn inside(&self, dist: &Dist, vmcore: &Path, name: &str, crash: &str) -> Result<String> {
        let theirs = drgn(vmcore, self.symbols, inside::DRGN)?;
        std::fs::write(self.place.file(&format!("{name}.txt")), &theirs)?;
        let crash = std::fs::read_to_string(self.place.file(&format!("{crash}.txt")))?;
        let serial = std::fs::read(self.place.file("serial.log"))?;
        let serial = String::from_utf8_lossy(&serial);
        let vmlinux = self.symbols.vmlinux.to_string_lossy();
        let modules = self.place.out.to_string_lossy();
        let debug = ["--vmlinux", &vmlinux, "--modules", &modules];
        let same = inside::same(dist, vmcore, &debug, &theirs, &crash, &serial)?;
        let program = Command::new(material::crash_native()?);
        let commands = memory_use::CRASH_SLABS;
        let slabs = self::crash(program, vmcore, self.symbols, self.info, commands)?;
        let memory = memory_use::same(dist, vmcore, &theirs, &crash, &slabs)?;
        let around = surroundings::same(dist, vmcore, &theirs)?;
        Ok(format!("{same}, {memory}, {around}"))
    }

    fn crash_native(&self, vmcore: &Path, name: &str) -> Result<String> {
        self.crash(Command::new(material::crash_native()?), vmcore, name)
    }

    /// Converts a vmcore to another format, opens it, and converts that to ELF, which is to be
    /// the same as the first one's.
    fn other_format(&self, dist: &Dist, format: &OtherFormat, found: &Found) -> Result<String> {
        let other = self.place.file(&format!("vmcore.{}", format.name));
        let back = self.place.file("vmcore.back");
        let name = |reader: &str| format!("{reader}-{}", format.name);
        convert(dist, format.options, &found.path, &other)?;
        let mut readers = format!("drgn: {}; ", self.drgn(&other, &name("drgn"))?);
        if format.crash {
            let seen = self.crash_native(&other, &name("crash"))?;
            readers += &format!("crash: {seen}; ");
        }
        if let Some(same) = format.restored(found) {
            restore(&other, &back)?;
            run::quiet(Command::new("cmp").args([&back, same]))?;
            std::fs::remove_file(&back)?;
            readers += "makedumpfile -R: the same file; ";
        }
        convert(dist, &["--format", "elf"], &other, &back)?;
        run::quiet(Command::new("cmp").args([&back, &found.elf]))?;
        let size = std::fs::metadata(&other)?.len();
        for file in [&other, &back] {
            std::fs::remove_file(file)?;
        }
        Ok(format!("{readers}{size} bytes, the same as ELF"))
    }
}

/// Checks that every reader gives the same answers about `complete`, a dump of all pages, and
/// about `filtered`, one of the same memory.
pub fn check_same(
    scenario: &Scenario,
    place: &Place,
    complete: &Path,
    filtered: &Path,
    outcome: &mut Outcome,
) -> Result<()> {
    let answers = |vmcore: &Path| Foreign::new(scenario, vmcore, vmcore)?.answers();
    let (all, some) = (answers(complete)?, answers(filtered)?);
    for ((reader, all), (_, some)) in all.into_iter().zip(some) {
        let same = all.and_then(|all| {
            let some = some?;
            std::fs::write(place.file(&format!("{reader}-complete.txt")), &all)?;
            std::fs::write(place.file(&format!("{reader}-filtered.txt")), &some)?;
            let same = same(&all, &some)?;
            let tasks = all
                .lines()
                .filter(|line| line.starts_with("task ") || is_task(line));
            let tasks = tasks.count();
            if tasks < FEWEST_TASKS {
                bail!("{tasks} tasks, fewer than {FEWEST_TASKS}");
            }
            expect(&all, &["sysrq triggered crash"])?;
            Ok(format!("bt, {tasks} tasks, log, memory in use: {same}"))
        });
        outcome.check_result(&format!("same-{reader}"), same);
    }
    Ok(())
}

/// Compares two answers.
pub fn same(expected: &str, found: &str) -> Result<String> {
    let mut lines = expected.lines().zip(found.lines());
    if let Some((expected, found)) = lines.find(|(expected, found)| expected != found) {
        bail!("{found:?} instead of {expected:?}");
    }
    let (expected, found) = (expected.lines().count(), found.lines().count());
    if expected != found {
        bail!("{found} lines instead of {expected}");
    }
    Ok(format!("{expected} lines are the same"))
}

/// Returns what crash printed without what it says of itself before its first answer, such as
/// that names of page flags, which only `kmem` shows, are not in a dump that was cut.
fn without_complaints(text: &str) -> String {
    let lines = text.lines().skip_while(|line| !line.starts_with("PID:"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// What a reader printed, or why it could not.
pub type Answer = (&'static str, Result<String>);

/// A vmcore and what its readers have to know.
pub struct Foreign {
    vmcore: PathBuf,
    symbols: Symbols,
    /// VMCOREINFO.
    info: BTreeMap<String, String>,
}

impl Foreign {
    /// Finds the debug information for a vmcore of a Debian kernel.
    /// `elf` is the vmcore as ELF, or any other of the same kernel and boot.
    pub fn new(scenario: &Scenario, vmcore: &Path, elf: &Path) -> Result<Self> {
        let KernelChoice::Suite(suite) = scenario.kernel else {
            bail!("the foreign readers need a Debian kernel, for its debug information");
        };
        Ok(Self {
            vmcore: vmcore.to_path_buf(),
            symbols: Symbols {
                vmlinux: material::debug_kernel(suite)?,
                module: None,
                known_to_crash: false,
            },
            info: vmcoreinfo(elf)?,
        })
    }

    /// Returns the tasks and the stack of the one that panicked.
    pub fn tasks(&self) -> [Answer; 2] {
        let crash = material::crash_native().map(Command::new);
        [
            ("drgn", drgn(&self.vmcore, &self.symbols, DRGN_SCRIPT)),
            (
                "crash",
                crash
                    .and_then(|program| self.crash(program, CRASH_TASKS))
                    .map(|text| without_complaints(&text)),
            ),
        ]
    }

    /// Returns stacks, tasks, log, and how much memory is in use for what.
    pub fn answers(&self) -> Result<[Answer; 3]> {
        let program = Command::new(material::crash_native()?);
        let all = format!("{DRGN_SCRIPT}{DRGN_MEMORY}");
        Ok([
            ("drgn", drgn(&self.vmcore, &self.symbols, &all)),
            ("crash", self.crash(program, CRASH_COMMANDS)),
            (
                "gdb",
                gdb(&self.vmcore, &self.symbols.vmlinux, &self.info, GDB_SCRIPT),
            ),
        ])
    }

    fn crash(&self, program: Command, commands: &str) -> Result<String> {
        crash(program, &self.vmcore, &self.symbols, &self.info, commands)
    }
}

/// Checks that the functions of the panic are on a stack, in the order in which it is told.
fn expect_frames(stack: &str, panic: Panic) -> Result<()> {
    // `#3 [ffff8000804d3880] die at …`, `#1  panics_set (…)`, `#19 el0t_64_sync+0x190/0x194 (…)`.
    let words = stack.split_whitespace();
    let mut names = words.map(|word| word.split(['+', '.']).next().unwrap_or_default());
    for function in panic.way().frames {
        if !names.any(|name| name == *function) {
            bail!("the stack lacks {function}, or has it too early:\n{stack}");
        }
    }
    Ok(())
}

fn expect(text: &str, words: &[&str]) -> Result<()> {
    match words.iter().find(|word| !text.contains(**word)) {
        Some(word) => bail!("the output lacks {word:?}"),
        None => Ok(()),
    }
}

fn drgn(vmcore: &Path, symbols: &Symbols, script: &str) -> Result<String> {
    let python = material::drgn_python()?;
    run::output(
        Command::new(python)
            .args(["-c", script])
            .args([vmcore, &symbols.vmlinux])
            .args(&symbols.module),
    )
}

/// Runs crash. On kernels built for 52-bit addresses it has to be told the physical offset for
/// the 48 bits that the CPU has, which lies 0x000f000000000000 away from VMCOREINFO's. Modules are
/// left out unless ours is one of them.
fn crash(
    mut command: Command,
    vmcore: &Path,
    symbols: &Symbols,
    info: &BTreeMap<String, String>,
    commands: &str,
) -> Result<String> {
    let script = std::env::temp_dir().join(format!("kdraw-crash-{}", std::process::id()));
    let first = match &symbols.module {
        Some(file) if symbols.known_to_crash => {
            format!("mod -s {} {}\n", kernel_module::NAME, file.display())
        }
        _ => {
            command.arg("--no_modules");
            String::new()
        }
    };
    std::fs::write(&script, first + commands)?;
    command.args(["-s", "-i"]).arg(&script);
    if info.get("NUMBER(VA_BITS)").map(String::as_str) == Some("52") {
        let offset = hexadecimal(info.get("NUMBER(PHYS_OFFSET)").context("no PHYS_OFFSET")?)?;
        let offset = offset.wrapping_add(0x000f_0000_0000_0000);
        command.args(["--machdep", &format!("phys_offset={offset:#x}")]);
    }
    let output = run::output(command.args([symbols.vmlinux.as_path(), vmcore]));
    std::fs::remove_file(&script)?;
    output
}

/// Makes the file of a flattened stream with makedumpfile.
fn restore(stream: &Path, file: &Path) -> Result<()> {
    let stream = std::fs::File::open(stream)?;
    let mut command = makedumpfile()?;
    let output = command.arg("-R").arg(file).stdin(stream).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed:\n{errors}", run::shown(&command));
    }
    Ok(())
}

/// Returns the command that starts Debian's arm64 crash with qemu-user.
fn crash_arm64() -> Result<Command> {
    let root = material::crash_arm64()?;
    Ok(emulated(&root, &root.join("usr/bin/crash")))
}

/// makedumpfile: built for this machine, or, if its source cannot be had, Debian's arm64 program.
pub fn makedumpfile() -> Result<Command> {
    static NATIVE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let native = NATIVE.get_or_init(|| {
        let built = material::makedumpfile_native();
        built.inspect_err(|why| say(format!("{why:#}"))).ok()
    });
    native
        .as_ref()
        .map_or_else(makedumpfile_arm64, |program| Ok(Command::new(program)))
}

/// Debian's arm64 makedumpfile, with qemu-user.
pub fn makedumpfile_arm64() -> Result<Command> {
    let root = material::makedumpfile_arm64()?;
    Ok(emulated(&root, &root.join("usr/bin/makedumpfile")))
}

/// Returns the command that starts an arm64 program, whose libraries are in `root`, with qemu-user.
fn emulated(root: &Path, program: &Path) -> Command {
    let mut command = Command::new("qemu-aarch64-static");
    command.arg("-L").arg(root).arg(program);
    command
}

/// Runs a Python script in gdb.
fn gdb(
    vmcore: &Path,
    vmlinux: &Path,
    info: &BTreeMap<String, String>,
    script: &str,
) -> Result<String> {
    let offset = hexadecimal(info.get("KERNELOFFSET").context("no KERNELOFFSET")?)?;
    let file = std::env::temp_dir().join(format!("kdraw-gdb-{}.py", std::process::id()));
    std::fs::write(&file, script)?;
    let mut command = Command::new("gdb-multiarch");
    command.args(["-nx", "-batch", "-ex", "set architecture aarch64"]);
    for step in [
        format!("symbol-file -o {offset:#x} {}", vmlinux.display()),
        format!("core-file {}", vmcore.display()),
        format!("source {}", file.display()),
    ] {
        command.args(["-ex", &step]);
    }
    let output = run::output(command.stderr(Stdio::null()));
    std::fs::remove_file(&file)?;
    output
}

/// Tells whether a line of crash's `ps` is a task: `>` or a space, then PID, PPID, CPU.
fn is_task(line: &str) -> bool {
    let mut words = line.trim_start_matches('>').split_whitespace();
    let numbers = words
        .by_ref()
        .take(3)
        .filter(|word| word.parse::<u32>().is_ok())
        .count();
    numbers == 3 && words.next().is_some_and(|word| word.starts_with("ffff"))
}

/// Compares crash's `log` with the extracted dmesg.txt, line by line.
fn same_log(crash: &str, dmesg: &Path, place: &Place) -> Result<String> {
    let dmesg = if dmesg.exists() {
        dmesg.to_path_buf()
    } else {
        super::evidence::find_file(&place.file("extracted"), "dmesg.txt")?
    };
    let dmesg = std::fs::read_to_string(dmesg)?;
    let ours: Vec<&str> = dmesg.lines().map(str::trim_end).collect();
    let first = ours.first().context("dmesg.txt is empty")?;
    let theirs: Vec<&str> = crash
        .lines()
        .map(str::trim_end)
        .skip_while(|line| line != first)
        .collect();
    if theirs.is_empty() {
        bail!("crash's log has no line {first:?}");
    }
    for (number, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        if ours != theirs {
            bail!(
                "line {} of dmesg.txt is {ours:?}, crash's log has {theirs:?}",
                number + 1
            );
        }
    }
    if theirs.len() < ours.len() {
        bail!(
            "crash's log has {} lines, dmesg.txt {}",
            theirs.len(),
            ours.len()
        );
    }
    Ok(format!("log equals dmesg.txt ({} lines)", ours.len()))
}

/// Returns the `KEY=VALUE` lines of a vmcore's VMCOREINFO.
fn vmcoreinfo(vmcore: &Path) -> Result<BTreeMap<String, String>> {
    let notes = Vmcore::open(vmcore)?.notes()?;
    let note = notes.into_iter().find(|(name, _, _)| name == "VMCOREINFO");
    let (_, _, text) = note.context("the vmcore has no VMCOREINFO note")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

fn hexadecimal(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .with_context(|| format!("{text:?} is not a hexadecimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_names_in_order() {
        for (stack, expected) in [
            (
                "#8 [ffff8000804d39e0] panics_bug at ffffc570 [kdraw_panics]\n#9 param_attr_store",
                true,
            ),
            (
                "#0  panics_bug+0x18/0x20 (file.c:3:1)\n#1  param_attr_store.isra.0 (file.c:9:2)",
                true,
            ),
            (
                "#1  param_attr_store (file.c:9:2)\n#0  panics_bug (file.c:3:1)",
                false,
            ),
            (
                "#0  panics_bug (file.c:3:1)\n#1  param_attr_store_all (file.c:9:2)",
                false,
            ),
        ] {
            assert_eq!(
                expect_frames(stack, Panic::Bug).is_ok(),
                expected,
                "{stack}"
            );
        }
    }

    #[test]
    fn tasks_of_crash_ps() {
        for (line, expected) in [
            (
                ">      0      0   0  ffffa0c0a5c9d040  RU   0.0        0        0  [swapper/0]",
                true,
            ),
            (
                "     109      1   1  ffff0000c5a2e180  IN   0.1     2024     1204  kdraw-guest",
                true,
            ),
            (
                "      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM",
                false,
            ),
            (
                "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]",
                false,
            ),
        ] {
            assert_eq!(is_task(line), expected, "{line}");
        }
    }
}
