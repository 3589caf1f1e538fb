//! `cargo xtask demo`: the main job, narrated.
//!
//! A Debian kernel panics, the payload captures its memory onto partition 4, the machine resets
//! and boots again, and `kdraw` in the guest extracts the dump onto a file system. What a user
//! could not do, the demo does on this machine: it compares the dump with the guest's memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::disk::Disk;
use crate::dist::{self, Dist};
use crate::qemu::Line;
use crate::scenario::boot::Boot;
use crate::scenario::result::Outcome;
use crate::scenario::{self, Place, Scenario, boot, evidence, init, second_boot};
use crate::{material, recording, run, setup};

/// What Red Hat's documentation has kdump reserve on an arm64 machine of 1 to 4 GB, in MiB
/// (RHEL 10, "Memory requirements for kdump").
const KDUMP_MIB: u64 = 256;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel that panics.
    #[arg(long, value_enum, default_value = "bookworm")]
    kernel: material::Suite,
    /// RAM of the guest in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    mem: u64,
    /// Also draws the run into this file, an SVG that moves.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "mem"])]
    record: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<()> {
    if let Some(file) = &args.record {
        return recording::record(&["demo"], file);
    }
    let scenario = scenario(args);
    heading(1, "Build the tool and the payload");
    setup::ensure()?;
    let dist = dist::build()?;
    tell(format!(
        "{:>10}  the payload, a bare-metal arm64 program",
        size_of(&dist.capture_img)?
    ));
    tell(format!(
        "{:>10}  kdraw for the board: one static file, payload inside",
        size_of(&dist.kdraw_aarch64)?
    ));

    let place = Place::new(&run::target_dir().join("demo"), args.mem, false)?;
    let kernel = scenario.kernel()?;
    let disk = Disk::create(
        &place.file("dump.img"),
        scenario.disk,
        args.mem + 64,
        scenario.fill / 4,
        second_boot::room(args.mem),
    )?;

    heading(
        2,
        &format!(
            "Boot Linux {} with crashkernel={}",
            kernel.release, scenario.crashkernel
        ),
    );
    tell(format!(
        "{} MiB RAM, {} CPUs, a disk with five partitions; partition 4 is for dumps",
        args.mem, scenario.smp
    ));
    let initramfs = place.file("initramfs");
    init::image(
        &init::crash_script(&scenario),
        scenario.disk,
        &dist,
        &kernel,
    )?
    .write(&initramfs)?;
    let command_line = scenario.command_line();
    let machine = scenario::machine(&scenario, &kernel, &place, &disk, &initramfs, &command_line);
    let mut narrator = Narrator::default();
    let first = boot::run(
        &machine,
        &place.console(),
        scenario::budget(&scenario),
        &mut |line, _, _| {
            narrator.first_boot(line);
            Ok(())
        },
    )?;
    let mut outcome = Outcome::new(&scenario, &kernel);
    first.check(&scenario, &mut outcome);
    evidence::check_disk(&disk, &mut outcome)?;
    if !outcome.passed() {
        outcome.print();
        bail!(
            "the capture failed; the console is in {}",
            place.console().display()
        );
    }
    tell("the machine is reset".to_owned());

    heading(6, "The same machine boots again and extracts the dump");
    // The dump as it is now, for the comparison: the guest will mark it as extracted.
    let before = place.file("captured.img");
    run::quiet(
        Command::new("cp")
            .arg("--sparse=always")
            .args([&disk.path, &before]),
    )?;
    second_boot::play(
        &scenario,
        &dist,
        &kernel,
        &place,
        &disk,
        &mut |line| narrator.second_boot(line),
        &mut outcome,
    )?;

    heading(
        7,
        "On this machine: the dump against the memory of the guest",
    );
    let [found] = &*evidence::check_dump(
        &scenario,
        &dist,
        &place,
        &before,
        &disk,
        &first,
        &mut outcome,
    )?
    else {
        outcome.print();
        bail!("the dump does not extract");
    };
    let same = second_boot::same_in_guest(&disk, &dist, &place.file("from-guest"), &found.elf);
    outcome.check_result("same-in-guest", same);
    std::fs::remove_file(&before)?;
    outcome.print();
    outcome.write(&place.file("result.json"))?;
    summary(&scenario, &dist, &place, &first, &outcome)?;
    if !outcome.passed() {
        bail!("the demo failed");
    }
    Ok(())
}

fn scenario(args: &Args) -> Scenario {
    Scenario {
        mem: args.mem,
        fill: args.mem / 2,
        panic_cpu: 1,
        ..Scenario::new("demo", args.kernel)
    }
}

/// Shows the part of the console that tells the story.
#[derive(Default)]
struct Narrator {
    chapter: u32,
    panic_lines: u32,
}

impl Narrator {
    fn first_boot(&mut self, line: &Line) {
        let text = line.text.as_str();
        match text.strip_prefix("guest: ") {
            Some(told) if told.starts_with("ready") => {
                self.chapter(3, "Sign partition 4, load the payload")
            }
            Some(told) if told.starts_with("step load") => {
                self.chapter(4, "Fill memory, then panic the kernel");
            }
            Some(told) if told.starts_with("filled") || told.starts_with("panic") => {
                tell(told.to_owned())
            }
            Some(_) => {}
            // What `kdraw status --json` prints is for programs.
            None if self.chapter == 3 && !text.starts_with(['{', ' ', '}']) => quote(line),
            None if text.contains("Kernel panic") || (1..6).contains(&self.panic_lines) => {
                self.panic_lines += 1;
                quote(line);
            }
            None if text.starts_with("kdraw: ") => {
                self.chapter(5, "The payload captures the memory");
                quote(line);
            }
            None => {}
        }
    }

    fn second_boot(&mut self, line: &Line) {
        match line.text.strip_prefix("guest: ") {
            Some(told) if told.starts_with("ready") => self.chapter = 6,
            Some(_) => {}
            None if self.chapter == 6 && !line.text.starts_with('[') => quote(line),
            None => {}
        }
    }

    fn chapter(&mut self, number: u32, title: &str) {
        if self.chapter != number {
            self.chapter = number;
            heading(number, title);
        }
    }
}

fn heading(number: u32, title: &str) {
    println!("\n== {number}. {title}");
}

fn tell(text: String) {
    println!("   {text}");
}

fn quote(line: &Line) {
    println!("   {:8.3} s | {}", line.at.as_secs_f64(), line.text);
}

fn size_of(path: &Path) -> Result<String> {
    let bytes = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    Ok(format!("{} KiB", bytes >> 10))
}

/// Says what was achieved, and where it lies.
fn summary(
    scenario: &Scenario,
    dist: &Dist,
    place: &Place,
    first: &Boot,
    outcome: &Outcome,
) -> Result<()> {
    let time = |name: &str| outcome.times_ms.get(name).copied().unwrap_or_default() / 1000.0;
    let size = |name: &str| outcome.sizes.get(name).copied().unwrap_or_default();
    let reason = first.panic_line().map(Line::message).unwrap_or_default();
    println!("\n== Summary");
    let rows = [
        ("reason", reason.to_owned()),
        (
            "kernel",
            format!(
                "{}, {} MiB RAM, {} CPUs",
                outcome.release, scenario.mem, scenario.smp
            ),
        ),
        (
            "times",
            format!(
                "{:.3} s from the panic to the payload, {:.2} s to the reset",
                time("panic_to_payload"),
                time("panic_to_reset")
            ),
        ),
        (
            "dump",
            format!(
                "{} MiB of memory, every page equal to the guest's RAM ({} pages)",
                size("pages_compared") >> 8,
                size("pages_compared")
            ),
        ),
        (
            "reserved",
            format!(
                "{} MiB (kdump: {KDUMP_MIB} MiB)",
                size("crash_region") >> 20
            ),
        ),
        ("payload", size_of(&dist.capture_img)?),
        ("vmcore", place.file("vmcore").display().to_string()),
        (
            "kernel log",
            evidence::find_file(&place.file("extracted"), "dmesg.txt")?
                .display()
                .to_string(),
        ),
        ("disk image", place.file("dump.img").display().to_string()),
        ("console", place.console().display().to_string()),
    ];
    for (name, value) in rows {
        println!("   {name:<11} {value}");
    }
    Ok(())
}
