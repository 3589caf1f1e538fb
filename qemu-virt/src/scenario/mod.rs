//! A scenario: one machine, one kernel, one way to panic; and the order in which it is played.
//!
//! boot → format → load → fill → panic → capture → reset → examine. [`boot`] plays the part in
//! the guest, [`evidence`] examines what it left, [`result`] records the checks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::board::Board;
use crate::disk::Disk;
use crate::disk_bus::DiskBus;
use crate::dist::Dist;
use crate::material::{self, Kernel, Suite};
use crate::qemu::{Line, Machine, Qemu};

pub mod again;
pub mod boot;
pub mod estimate;
pub mod evidence;
pub mod filter;
mod foreign;
pub mod init;
mod inside;
pub mod installed;
pub mod kdump;
pub mod matrix;
mod memory_use;
pub mod panics;
pub mod place;
pub mod refusals;
pub mod result;
pub mod second_boot;
pub mod serial;
pub mod stock_kexec;
mod surroundings;
pub mod tools;
pub mod unfinished;
pub mod watchdog;
pub mod worth;

use again::{Again, Armed};
use boot::Boot;
pub use panics::Panic;
pub use place::Place;
use result::Outcome;
use tools::{Foreign, Readers};

/// The device tree of a board, in the output folder.
const DEVICE_TREE: &str = "board.dtb";

/// Room on the dump partition beyond the size of RAM, in MiB.
const DUMP_SLACK_MIB: u64 = 64;

/// A kernel to boot: a suite's, or one that lies on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// The newest kernel of a Debian suite.
    Suite(Suite),
    /// The root of an unpacked kernel package.
    Root(PathBuf),
}

impl std::str::FromStr for KernelChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match <Suite as clap::ValueEnum>::from_str(text, true) {
            Ok(suite) => Self::Suite(suite),
            Err(_) => Self::Root(text.into()),
        })
    }
}

impl std::fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Suite(suite) => write!(f, "{}", format!("{suite:?}").to_lowercase()),
            Self::Root(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What puts the payload into the crash region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    /// `kdraw load`.
    Kdraw,
    /// kexec-tools' `kexec -p`, with the plan as initrd.
    Kexec,
    /// Nothing: the kernel panics without a capture kernel. Tests the harness itself.
    None,
}

/// Where the dump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    /// To the partition.
    Partition,
    /// To the partition, and over the serial console in every way that is tested.
    Serial,
    /// To the partition; then, with its disk gone, over the serial console, where nobody receives.
    SerialBriefly,
}

impl Destination {
    /// Whether the serial console is one.
    pub fn is_serial(self) -> bool {
        self != Self::Partition
    }
}

/// What one end-to-end run looks like.
#[derive(Clone, Debug, clap::Args, Serialize)]
pub struct Scenario {
    /// Name in reports and of the output folder.
    #[arg(long, default_value = "e2e")]
    pub name: String,
    /// bookworm, trixie, sid, or the root of an unpacked kernel package.
    #[arg(long, default_value = "bookworm")]
    #[serde(serialize_with = "as_text")]
    pub kernel: KernelChoice,
    /// RAM in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub mem: u64,
    /// CPUs.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub smp: u32,
    /// The crash region, as on the kernel's command line.
    #[arg(long, default_value = "8M", value_name = "SIZE")]
    pub crashkernel: String,
    /// QEMU's CPU model: cortex-a72 (EL1 or EL2), max (EL2 with VHE), …
    #[arg(long, default_value = "cortex-a72")]
    pub cpu: String,
    /// The machine. A board has its own card for a disk, and its own CPUs.
    #[arg(long = "machine", value_enum, default_value = "virt")]
    #[serde(serialize_with = "as_debug", rename = "machine")]
    pub board: Board,
    /// Further options of QEMU's `virt` machine, for example `virtualization=on,gic-version=3`.
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub virt: Vec<String>,
    /// How the disk is attached.
    #[arg(long, value_enum, default_value = "virtio-mmio")]
    #[serde(serialize_with = "as_debug")]
    pub disk: DiskBus,
    /// On an SD card, have the payload identify it from scratch instead of taking it over.
    #[arg(long)]
    pub identify_card: bool,
    /// Memory that the guest fills before it panics, in MiB.
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    pub fill: u64,
    /// How the kernel panics.
    #[arg(long, value_enum, default_value = "sysrq")]
    pub panic: Panic,
    /// The CPU on which it panics.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub panic_cpu: u32,
    /// Format the dump partition for a literally raw vmcore.
    #[arg(long)]
    pub plain: bool,
    /// What loads the payload.
    #[arg(long, value_enum, default_value = "kdraw")]
    pub loader: Loader,
    /// Capture the same memory again at every level, cut, and into small slots; with the foreign
    /// readers, also compare what is left out with makedumpfile, drgn and the kernel's own flags.
    #[arg(long)]
    pub again: bool,
    /// Where the dump goes: with `serial`, the memory that was dumped onto the partition is sent
    /// over the console too, in every way that the line and the receiver may behave.
    #[arg(long, value_enum, default_value = "partition")]
    pub target: Destination,
    /// Boot once more after the reset, and extract the dump inside the guest.
    #[arg(long)]
    pub recover: bool,
    /// Add a watchdog, which resets the machine when it is not petted for 10 s.
    #[arg(long)]
    pub watchdog: bool,
    /// Ask `kdraw estimate` just before the panic, and compare with what the payload writes.
    #[arg(long)]
    pub estimate: bool,
    /// Have QEMU and makedumpfile dump the same panic too, and compare what kdraw says of their
    /// dumps with what it says of its own, which is to be complete (`--level 0`).
    #[arg(long)]
    pub foreign: bool,
    #[command(flatten)]
    pub dump: DumpOptions,
}

impl Scenario {
    /// Returns the plainest run: a `virt` machine with two CPUs, 1 GiB and a virtio disk, which is
    /// not filled, panics by sysrq on CPU 0, and is captured onto its partition.
    pub fn new(name: &str, kernel: Suite) -> Self {
        Self {
            name: name.into(),
            kernel: KernelChoice::Suite(kernel),
            mem: 1024,
            smp: 2,
            crashkernel: "8M".into(),
            cpu: "cortex-a72".into(),
            board: Board::Virt,
            virt: Vec::new(),
            disk: DiskBus::VirtioMmio,
            identify_card: false,
            fill: 0,
            panic: Panic::Sysrq,
            panic_cpu: 0,
            plain: false,
            loader: Loader::Kdraw,
            target: Destination::Partition,
            again: false,
            recover: false,
            watchdog: false,
            estimate: false,
            foreign: false,
            dump: DumpOptions::default(),
        }
    }
}

/// What the dump is to be, as `kdraw load` is told; the defaults are that tool's.
#[derive(Clone, Copy, Debug, clap::Args, Serialize)]
pub struct DumpOptions {
    /// The dump level, makedumpfile's bits; a plain partition always gets every page.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u8).range(0..=31))]
    pub level: u8,
    /// How pages are packed, if not as the tool decides.
    #[arg(long, value_enum)]
    pub compress: Option<Compress>,
    /// CPUs that may work on the dump; 0 for all.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub cpus: u16,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            level: 31,
            compress: None,
            cpus: 0,
        }
    }
}

impl std::fmt::Display for DumpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--level {} --cpus {}", self.level, self.cpus)?;
        match self.compress {
            Some(Compress::Lz4) => f.write_str(" --compress lz4"),
            Some(Compress::Deflate) => f.write_str(" --compress deflate"),
            Some(Compress::None) => f.write_str(" --compress none"),
            None => Ok(()),
        }
    }
}

/// What pages are packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compress {
    /// LZ4.
    Lz4,
    /// Deflate.
    Deflate,
    /// Nothing.
    None,
}

fn as_text<S: serde::Serializer>(
    value: &KernelChoice,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_debug<T: std::fmt::Debug, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&format!("{value:?}"))
}

impl Scenario {
    /// Sets what the machine leaves no choice of.
    pub fn fit_machine(&mut self) {
        self.disk = self.board.disk().unwrap_or(self.disk);
        self.mem = self.board.mem().unwrap_or(self.mem);
        self.smp = self.board.cpus().unwrap_or(self.smp);
    }

    /// Returns the command line of the kernel.
    pub fn command_line(&self) -> String {
        let mut line = format!(
            "console={} rdinit=/init panic=1 oops=panic loglevel=6",
            self.board.console()
        );
        if !self.crashkernel.is_empty() {
            line += " crashkernel=";
            line += &self.crashkernel;
        }
        line
    }

    /// Returns the kernel, from the cache or from the path the user gave.
    pub fn kernel(&self) -> Result<Kernel> {
        match &self.kernel {
            KernelChoice::Suite(suite) => material::kernel(*suite),
            KernelChoice::Root(root) => kernel_in(root),
        }
    }
}

/// Returns a machine for this scenario.
pub fn machine<'a>(
    scenario: &'a Scenario,
    kernel: &'a Kernel,
    place: &'a Place,
    disk: &'a Disk,
    initramfs: &'a Path,
    command_line: &'a str,
) -> Machine<'a> {
    Machine {
        mem_mib: scenario.mem,
        smp: scenario.smp,
        cpu: &scenario.cpu,
        board: scenario.board,
        options: &scenario.virt,
        device_tree: scenario
            .board
            .needs_device_tree()
            .then(|| place.file(DEVICE_TREE)),
        bus: scenario.disk,
        newest: false,
        watchdog: scenario.watchdog,
        disk: Some(&disk.path),
        bad_byte: None,
        kernel: &kernel.image,
        initramfs,
        command_line,
        ram: place.ram(),
        entry: None,
        serial: None,
        sockets: place.sockets(),
        count: false,
    }
}

/// Plays a scenario and examines what it left, with foreign readers too; `result.json` tells the
/// outcome, and if it is played `aloud`, each check is printed as it is made.
pub fn play(
    scenario: &Scenario,
    dist: &Dist,
    place: &Place,
    readers: Readers,
    aloud: bool,
) -> Result<Outcome> {
    let kernel = scenario.kernel()?;
    let disk = Disk::create(
        &place.file("dump.img"),
        scenario.disk,
        scenario.mem + DUMP_SLACK_MIB,
        scenario.fill / 4,
        match scenario.recover {
            true => second_boot::room(scenario.mem),
            false => 0,
        },
    )?;
    if scenario.board.needs_device_tree() {
        let tree = place.file(DEVICE_TREE);
        scenario.board.write_device_tree(&kernel, &tree)?;
    }
    let initramfs = place.file("initramfs");
    let mut image = init::image(&init::crash_script(scenario), scenario.disk, dist, &kernel)?;
    panics::install(scenario, place, &mut image)?;
    image.write(&initramfs)?;
    let command_line = scenario.command_line();
    let machine = machine(scenario, &kernel, place, &disk, &initramfs, &command_line);
    let mut outcome = Outcome::new(scenario, &kernel);
    outcome.aloud = aloud;
    let mut armed = None;
    let mut watch = |line: &Line, boot: &Boot, qemu: &mut Qemu| {
        let wanted = scenario.again || scenario.target.is_serial();
        if wanted && line.text == "guest: step load 0" {
            armed = Some(Armed::keep(boot, qemu, &disk, place)?);
        }
        if scenario.foreign && line.text.starts_with(boot::PAYLOAD) {
            foreign::dump(qemu, place)?;
        }
        Ok(())
    };
    let boot = boot::run(&machine, &place.console(), budget(scenario), &mut watch)?;
    boot.check(scenario, &mut outcome);
    evidence::check_disk(&disk, &mut outcome)?;
    // The dump as the payload left it: whoever extracts it marks it.
    let second = match scenario.recover {
        true => Some(disk.copy_to(&place.file("second.img"))?),
        false => None,
    };
    if scenario.loader != Loader::None {
        for vmcore in evidence::check_dump(
            scenario,
            dist,
            place,
            &disk.path,
            &disk,
            &boot,
            &mut outcome,
        )? {
            tools::check(scenario, dist, place, &vmcore, readers, &mut outcome)?;
        }
    }
    if let Some(second) = second {
        second_boot::play(
            scenario,
            dist,
            &kernel,
            place,
            &second,
            &mut |_| {},
            &mut outcome,
        )?;
        let ours = place.file("vmcore.elf");
        let same = second_boot::same_in_guest(&second, dist, &place.file("from-guest"), &ours);
        outcome.check_result("same-in-guest", same);
        std::fs::remove_file(&second.path)?;
    }
    if scenario.foreign
        && let Err(error) = foreign::check(scenario, dist, place, &mut outcome)
    {
        outcome.check("foreign", false, format!("{error:#}"));
    }
    if scenario.estimate {
        estimate::check(dist, &disk.path, &boot, &mut outcome);
    }
    if let Some(armed) = &armed {
        let again = Again {
            scenario,
            dist,
            place,
            boot: &boot,
            armed,
        };
        if scenario.target.is_serial() {
            serial::check(&again, &place.file("vmcore.elf"), &mut outcome)?;
        }
        if scenario.again
            && let Err(error) = capture_again(&again, &disk, readers, &mut outcome)
        {
            outcome.check("again", false, format!("{error:#}"));
        }
    }
    disk.forget_copy()?;
    std::fs::remove_file(&initramfs)?;
    outcome.write(&place.file("result.json"))?;
    Ok(outcome)
}

/// Captures the same memory again in other ways, and compares the dumps with each other and with
/// what others would keep.
fn capture_again(
    again: &Again<'_>,
    disk: &Disk,
    readers: Readers,
    outcome: &mut Outcome,
) -> Result<()> {
    let (scenario, place) = (again.scenario, again.place);
    let vmcore = place.file("vmcore.elf");
    let dumps = filter::capture_levels(again, &vmcore, outcome)?;
    worth::check_slots(again, outcome)?;
    if readers == Readers::None {
        return worth::check_cuts(again, disk, None, outcome);
    }
    let size = unfinished::header(disk)?.stream_len;
    let makedumpfile = || match readers {
        Readers::All => tools::makedumpfile_arm64(),
        _ => tools::makedumpfile(),
    };
    filter::check(scenario, place, &dumps, &makedumpfile, size, outcome)?;
    tools::check_same(scenario, place, &dumps.complete, &vmcore, outcome)?;
    let foreign = Foreign::new(scenario, &place.file("vmcore"), &vmcore)?;
    worth::check_cuts(again, disk, Some(&foreign), outcome)
}

/// Returns how long the guest may run; emulated CPUs differ much in speed.
pub fn budget(scenario: &Scenario) -> Duration {
    Duration::from_secs(300 + scenario.mem / 4)
}

/// Finds the kernel in an unpacked package.
fn kernel_in(root: &Path) -> Result<Kernel> {
    let folders = [root.join("lib/modules"), root.join("usr/lib/modules")];
    let folder = folders.iter().find(|folder| folder.is_dir());
    let folder = folder.with_context(|| format!("{} has no lib/modules", root.display()))?;
    let modules = crate::run::entries(folder)?;
    let [modules] = modules.as_slice() else {
        bail!("{} must hold the modules of one kernel", folder.display());
    };
    let release = modules
        .file_name()
        .and_then(|name| name.to_str())
        .context("odd kernel release")?;
    let images = [
        root.join(format!("boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ];
    let image = images.iter().find(|image| image.is_file());
    let image = image.with_context(|| format!("{} has no vmlinuz", root.display()))?;
    Ok(Kernel {
        image: image.clone(),
        modules: modules.clone(),
        release: release.to_owned(),
    })
}
