//! `cargo xtask boards`: what the boards of Debian's arm64 kernel resolve to.
//!
//! Debian's kernel package brings the device tree of every arm64 board that mainline Linux knows.
//! [`kdraw_boards`] is asked about each what the payload asks on the board itself. A board
//! *resolves* when the payload finds there what a capture needs:
//!
//! - *storage*: a controller with a driver that is switched on and can hold a disk: not an SD host
//!   with a radio behind it;
//! - *console*: a UART with a driver, named by `stdout-path` or, where there is none, by the
//!   lowest serial alias;
//! - *reset*: PSCI 0.2 or later, or a watchdog with a driver.
//!
//! What has no driver is told by its compatible strings, with the boards that it keeps away. The
//! numbers in `boards/README.md` are written by `--readme` and checked by `cargo xtask test`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kdraw_boards::{
    Controller, Device, Error, Machine, console_kind, controller_kind, watchdog_kind,
};
use serde::Serialize;

use crate::material::{self, Suite};
use crate::run;

/// The suite whose kernel is looked at.
const SUITE: Suite = Suite::Trixie;

/// What encloses the numbers in `boards/README.md`.
const MARKS: [&str; 2] = [
    "<!-- cargo xtask boards --readme: begin -->\n",
    "<!-- cargo xtask boards --readme: end -->\n",
];

/// Options of `cargo xtask boards`.
#[derive(clap::Args)]
pub struct Args {
    /// Prints every board with what it resolves to.
    #[arg(long)]
    list: bool,
    /// Prints what has no driver, what would win most boards first.
    #[arg(long, conflicts_with = "list")]
    unresolved: bool,
    /// Prints all of it as JSON.
    #[arg(long, conflicts_with_all = ["list", "unresolved"])]
    json: bool,
    /// Writes the numbers into boards/README.md.
    #[arg(long)]
    readme: bool,
    /// Looks at the device trees below this folder instead of Debian's.
    #[arg(value_name = "DIR", conflicts_with = "readme")]
    folder: Option<PathBuf>,
}

/// What a board resolves to.
#[derive(Debug, Serialize)]
struct Board {
    /// The folder that Linux keeps it in: mostly the SoC's vendor.
    vendor: String,
    /// Its file's name without `.dtb`.
    name: String,
    model: Option<String>,
    /// The family in `boards/`, if it is one of ours.
    family: Option<&'static str>,
    resolves: bool,
    /// Compatible strings of the storage controllers that have a driver.
    storage: BTreeSet<String>,
    /// The compatible string of the console, if it has a driver.
    console: Option<String>,
    /// Compatible strings of the watchdogs that have a driver.
    watchdogs: BTreeSet<String>,
    /// How the board is reset.
    reset: Option<&'static str>,
    /// Storage controllers without a driver, all compatible strings of each.
    storage_without: Vec<Vec<String>>,
    /// The compatible strings of a console without a driver.
    console_without: Vec<String>,
    /// Devices that have a driver and make no sense, and why.
    faults: Vec<String>,
}

impl Board {
    /// Asks about a device tree.
    fn of(path: &Path) -> Result<Self> {
        let blob = std::fs::read(path)?;
        let machine = Machine::from_dtb(&blob)?;
        let mut faults = Vec::new();
        let mut storage = BTreeSet::new();
        let mut storage_without = Vec::new();
        let mut watchdogs = BTreeSet::new();
        for device in machine.devices()?.filter(Device::is_enabled) {
            match device.controller() {
                _ if device.is_sdio_only() => {}
                Ok(controller) if is_driven(&controller) => {
                    storage.extend(first_known(&device, |name| controller_kind(name).is_some()))
                }
                Ok(_) => {}
                Err(Error::NoDriver) if is_storage(&device) => storage_without.push(names(&device)),
                Err(Error::NoDriver) => {}
                Err(error) => faults.push(format!("{}: {error}", shown(&device))),
            }
            match device.watchdog() {
                Ok(_) => {
                    watchdogs.extend(first_known(&device, |name| watchdog_kind(name).is_some()))
                }
                Err(Error::NoDriver) => {}
                Err(error) => faults.push(format!("{}: {error}", shown(&device))),
            }
        }
        let mut console = None;
        let mut console_without = Vec::new();
        if let Some(device) = machine.stdout() {
            match device.uart() {
                Ok(_) => console = first_known(&device, |name| console_kind(name).is_some()),
                Err(Error::NoDriver) => console_without = names(&device),
                Err(error) => faults.push(format!("{}: {error}", shown(&device))),
            }
        }
        let reset = match machine.psci() {
            Ok(psci) => psci.system_reset.map(|_| "PSCI"),
            Err(Error::NoPsci) => None,
            Err(error) => {
                faults.push(error.to_string());
                None
            }
        };
        let reset = reset.or((!watchdogs.is_empty()).then_some("watchdog"));
        let part = |path: Option<&Path>| {
            let name = path.and_then(Path::file_stem).unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        Ok(Self {
            vendor: part(path.parent()),
            name: part(Some(path)),
            model: machine.model().map(String::from),
            family: machine.family().map(|family| family.name),
            resolves: !storage.is_empty() && console.is_some() && reset.is_some(),
            storage,
            console,
            watchdogs,
            reset,
            storage_without,
            console_without,
            faults,
        })
    }

    /// What it lacks.
    fn lacks(&self) -> Vec<&'static str> {
        let parts = [
            ("storage", self.storage.is_empty()),
            ("console", self.console.is_none()),
            ("reset", self.reset.is_none()),
        ];
        let lacking = parts.into_iter().filter(|(_, lacks)| *lacks);
        lacking.map(|(part, _)| part).collect()
    }
}

/// Whether the payload drives a controller that has a driver: virtio and what is on PCI only if
/// their DMA sees the CPU's caches.
fn is_driven(controller: &Controller) -> bool {
    match controller {
        Controller::VirtioMmio { dma_coherent, .. } => *dma_coherent,
        Controller::PciHost(host) => host.dma_coherent,
        Controller::Sd(_) => true,
    }
}

/// Whether a device without a driver looks like a storage controller: by its generic name
/// (Devicetree Specification 2.2.2), and what drivers call themselves.
fn is_storage(device: &Device<'_>) -> bool {
    let (name, address) = device.name();
    let names = [
        "mmc",
        "sdhc",
        "sdhci",
        "nvme",
        "pcie",
        "sata",
        "ufs",
        "ufshc",
        "virtio_mmio",
    ];
    let numbered = name.trim_end_matches(|digit: char| digit.is_ascii_digit());
    address.is_some()
        && names
            .iter()
            .any(|known| numbered == *known || numbered.ends_with("mmc"))
}

fn names(device: &Device<'_>) -> Vec<String> {
    device.compatible().map(String::from).collect()
}

fn first_known(device: &Device<'_>, is_known: impl Fn(&str) -> bool) -> Option<String> {
    device
        .compatible()
        .find(|name| is_known(name))
        .map(String::from)
}

fn shown(device: &Device<'_>) -> String {
    match device.name() {
        (name, Some(address)) => format!("{name}@{address}"),
        (name, None) => name.into(),
    }
}

/// All boards of a folder.
#[derive(Debug, Serialize)]
struct Survey {
    /// The kernel's release, or the folder.
    release: String,
    boards: Vec<Board>,
}

impl Survey {
    fn of(release: String, folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(folder, &mut files)?;
        ensure!(
            !files.is_empty(),
            "{} has no device trees",
            folder.display()
        );
        let board = |path: &PathBuf| Board::of(path).with_context(|| path.display().to_string());
        let boards = files.iter().map(board).collect::<Result<_>>()?;
        Ok(Self { release, boards })
    }

    /// Looks at Debian's.
    fn debian() -> Result<Self> {
        let kernel = material::kernel(SUITE)?;
        Self::of(kernel.release.clone(), &kernel.device_trees())
    }

    fn resolved(&self) -> usize {
        self.boards.iter().filter(|board| board.resolves).count()
    }

    /// The numbers, as they stand in the README.
    fn table(&self) -> String {
        let mut vendors: BTreeMap<&str, [usize; 5]> = BTreeMap::new();
        for board in &self.boards {
            let counts = [
                true,
                board.resolves,
                !board.storage.is_empty(),
                board.console.is_some(),
                board.reset.is_some(),
            ];
            for name in [board.vendor.as_str(), "**all**"] {
                let sums = vendors.entry(name).or_default();
                for (sum, counts) in sums.iter_mut().zip(counts) {
                    *sum += usize::from(counts);
                }
            }
        }
        let mut text = format!(
            "{}\n\n| SoCs of | Boards | Resolve | Storage | Console | Reset |\n|---|---|---|---|---|---|\n",
            self.sentence()
        );
        // Most boards first; that is the sum.
        let mut rows: Vec<_> = vendors.into_iter().collect();
        rows.sort_by_key(|(name, counts)| (std::cmp::Reverse(counts[0]), *name));
        for (name, [boards, resolve, storage, console, reset]) in rows {
            let _ = writeln!(
                text,
                "| {name} | {boards} | {resolve} | {storage} | {console} | {reset} |"
            );
        }
        text
    }

    fn sentence(&self) -> String {
        format!(
            "Of the {} device trees in Debian's arm64 kernel {}, **{}** resolve.",
            self.boards.len(),
            self.release,
            self.resolved()
        )
    }

    /// Prints every board.
    fn list(&self) {
        let list = |names: &BTreeSet<String>| match names.is_empty() {
            true => "-".to_owned(),
            false => names.iter().cloned().collect::<Vec<_>>().join(" "),
        };
        for board in &self.boards {
            println!(
                "{} {}/{}: storage {}; console {}; watchdog {}; reset {}",
                if board.resolves { "yes" } else { "no " },
                board.vendor,
                board.name,
                list(&board.storage),
                board.console.as_deref().unwrap_or("-"),
                list(&board.watchdogs),
                board.reset.unwrap_or("-"),
            );
            for fault in &board.faults {
                println!("    {fault}");
            }
        }
    }

    /// Prints what has no driver: how many boards each compatible string would win by itself, and
    /// on how many it stands.
    fn unresolved(&self) {
        let mut candidates: BTreeMap<(&str, &str), [usize; 2]> = BTreeMap::new();
        let mut nothing: BTreeMap<String, usize> = BTreeMap::new();
        for board in self.boards.iter().filter(|board| !board.resolves) {
            let lacks = board.lacks();
            let storage = board
                .storage_without
                .iter()
                .flatten()
                .map(|name| ("storage", name));
            let console = board.console_without.iter().map(|name| ("console", name));
            let names: BTreeSet<(&str, &str)> = storage
                .chain(console)
                .map(|(part, name)| (part, name.as_str()))
                .filter(|(part, _)| lacks.contains(part))
                .collect();
            for (part, name) in &names {
                let [wins, on] = candidates.entry((part, name)).or_default();
                *wins += usize::from(lacks == [*part]);
                *on += 1;
            }
            for part in lacks {
                if names.iter().all(|(of, _)| *of != part) {
                    *nothing
                        .entry(format!("{part}, {}", board.vendor))
                        .or_default() += 1;
                }
            }
        }
        let mut candidates: Vec<_> = candidates.into_iter().collect();
        candidates.sort_by_key(|(name, counts)| (counts.map(std::cmp::Reverse), *name));
        println!("wins   on  lacks    compatible");
        for ((part, name), [wins, on]) in candidates {
            println!("{wins:4} {on:4}  {part:8} {name}");
        }
        println!("\nboards that have no such device at all, or none that the tree names:");
        for (part, boards) in nothing {
            println!("{boards:4}  {part}");
        }
    }

    fn print(&self) {
        print!("{}", self.table());
        let faults = self.boards.iter().flat_map(|board| {
            let name = format!("{}/{}", board.vendor, board.name);
            board
                .faults
                .iter()
                .map(move |fault| format!("{name}: {fault}"))
        });
        for fault in faults {
            println!("{fault}");
        }
    }
}

/// Collects the device trees below a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in run::entries(folder)? {
        if entry.is_dir() {
            collect(&entry, files)?;
        } else if entry
            .extension()
            .is_some_and(|extension| extension == "dtb")
        {
            files.push(entry);
        }
    }
    Ok(())
}

fn readme() -> PathBuf {
    run::workspace().join("boards/README.md")
}

/// Cuts the README into what is before the numbers, the numbers, and what follows them.
fn cut(text: &str) -> Result<[&str; 3]> {
    let [begin, end] = MARKS;
    let cut = text.split_once(begin).and_then(|(before, rest)| {
        let (numbers, after) = rest.split_once(end)?;
        Some([before, numbers, after])
    });
    cut.with_context(|| format!("{} lacks the marks {MARKS:?}", readme().display()))
}

/// Checks the numbers in the README: those of this very kernel must be the same, those of another
/// one no larger.
fn check_readme(survey: &Survey, text: &str) -> Result<()> {
    let [_, numbers, _] = cut(text)?;
    let hint = "`cargo xtask boards --readme` writes what is true";
    if numbers.contains(&survey.release) {
        ensure!(
            numbers == survey.table(),
            "boards/README.md does not have the numbers of kernel {}; {hint}",
            survey.release
        );
        return Ok(());
    }
    let published = numbers
        .split("**")
        .nth(1)
        .and_then(|number| number.parse().ok());
    let published: usize =
        published.with_context(|| format!("boards/README.md has no count; {hint}"))?;
    if survey.resolved() < published {
        bail!(
            "boards/README.md says that {published} boards resolve: {}; {hint}",
            survey.sentence()
        );
    }
    Ok(())
}

/// The test of `cargo xtask test`: every device tree can be read, and the README tells the truth.
pub fn test() -> Result<String> {
    let survey = Survey::debian()?;
    check_readme(&survey, &std::fs::read_to_string(readme())?)?;
    Ok(survey.sentence())
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<()> {
    let survey = match &args.folder {
        Some(folder) => Survey::of(folder.display().to_string(), folder)?,
        None => Survey::debian()?,
    };
    if args.readme {
        let text = std::fs::read_to_string(readme())?;
        let [before, _, after] = cut(&text)?;
        let [begin, end] = MARKS;
        let text = [before, begin, &survey.table(), end, after].concat();
        std::fs::write(readme(), text).with_context(|| readme().display().to_string())?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&survey)?);
    } else if args.list {
        survey.list();
    } else if args.unresolved {
        survey.unresolved();
    } else {
        survey.print();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A survey of this many boards that resolve, made of QEMU's tree, and of one that does not.
    fn survey(release: &str, resolving: usize) -> Survey {
        let fixtures = run::workspace().join("boards/fixtures");
        let board = |name: &str| Board::of(&fixtures.join(name)).unwrap();
        let resolves = (0..resolving).map(|_| board("qemu-gicv2.dtb"));
        Survey {
            release: release.into(),
            boards: resolves.chain([board("raspberry-pi-3b.dtb")]).collect(),
        }
    }

    #[test]
    fn a_readme_tells_the_truth() {
        let readme = |survey: &Survey| {
            let [begin, end] = MARKS;
            ["# boards\n", begin, &survey.table(), end, "more\n"].concat()
        };
        let text = readme(&survey("6.12.1", 2));
        assert!(
            text.contains("**2** resolve") && text.contains("| fixtures | 3 | 2 | 2 | 3 | 3 |")
        );
        // The same kernel has the same numbers, another one no fewer.
        for (release, resolving, is_true) in [
            ("6.12.1", 2, true),
            ("6.12.1", 3, false),
            ("6.12.1", 1, false),
            ("6.12.2", 2, true),
            ("6.12.2", 3, true),
            ("6.12.2", 1, false),
        ] {
            let result = check_readme(&survey(release, resolving), &text);
            assert_eq!(result.is_ok(), is_true, "{release} {resolving}");
        }
        let without = text.replace(MARKS[1], "");
        assert!(check_readme(&survey("6.12.1", 2), &without).is_err());
    }
}
