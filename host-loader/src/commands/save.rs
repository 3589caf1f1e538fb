//! `kdraw save`: what becomes of dumps at boot.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use kdraw_format::layout::SlotPlace;
use serde::Serialize;

use super::{extract as shown, ship};
use crate::archive::Archive;
use crate::config::{Config, ConfigArgs};
use crate::exit::Verdict;
use crate::extract::{ExtractError, Wanted, extract};
use crate::load::options::Wish;
use crate::load::target::Destination;
use crate::output::Format;
use crate::output::kdump::Compression;
use crate::partition::DumpPartition;
use crate::progress;
use crate::source::Access;
use crate::system::System;
use crate::text;

/// Save every dump that was not saved yet, as /etc/kdraw.conf says: at boot, by itself.
///
/// Takes dumps from the target, as `kdraw extract` does, into a folder each in [save] directory.
/// Of the dumps there, so many of the newest are kept (keep), and so much room is left free
/// (min_free_mib): older ones are removed for that, but only if it makes enough room. A folder
/// that was renamed is left alone. A dump that finds no room stays on its partition, and no panic
/// overwrites it.
///
/// A slot is marked as free once the dump's files are durable. Then each program in [save] hooks
/// is run once, in the order of their names, with the dump's folder as its argument.
///
/// At last, if the configuration has `ship`, dumps that have not been copied there are, those of
/// earlier boots too, as by `kdraw ship`. Until then they are not removed. Whether that works does
/// not change the exit code.
///
/// Exit code 1 if something of a dump is lost, one cannot be saved, or a hook fails.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw save")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Waits so many seconds for the target's device, if it is not there yet.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
    /// Prints what was done as JSON.
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Folders of dumps that were saved.
    saved: Vec<PathBuf>,
    /// Folders of dumps that were removed.
    removed: Vec<PathBuf>,
    /// What is not as it should be, in words.
    trouble: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// If the target, the folder of dumps, or that of hooks cannot be read.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let config = args.config.read(system)?;
    let saved = save_all(args, &config, system);
    // Whatever became of that: dumps of earlier boots may wait.
    match ship::waiting(&config, &args.config, system) {
        Ok(Some(status)) if !status.success() => {
            eprintln!("kdraw: not shipped ({status}); the next boot tries again, or `kdraw ship`");
        }
        Ok(_) => {}
        Err(why) => eprintln!("kdraw: not shipped: {why:#}"),
    }
    saved
}

fn save_all(args: &Args, config: &Config, system: &System) -> Result<Verdict> {
    let target = match Wish::configured(config).target {
        Some(target) => target,
        None => return nothing(args, "no target in the configuration"),
    };
    let Destination::Partition(device) = &target else {
        return nothing(
            args,
            "the target is a serial line: `kdraw receive` has its dumps",
        );
    };
    target.wait(system, args.wait);
    let mut partition = DumpPartition::open(system, device, None, Access::Mark)?;
    let waiting = partition.waiting();
    if waiting.is_empty() {
        return nothing(args, "no dump that was not saved before");
    }
    let archive = Archive {
        folder: system.path(&config.save.directory),
        keep: config.save.keep,
        floor: config.save.min_free_mib.saturating_mul(1 << 20),
        ship: config.ship.clone(),
        reports_only: config.shipping.reports_only,
    };
    let archive = archive.open(system)?;
    let hooks = hooks(&system.path(&config.save.hooks), config)?;
    let mut report = Report::default();
    for slot in &waiting {
        // Whatever is wrong with one, the others are saved.
        if let Err(why) = save(args, &mut partition, slot, &archive, &hooks, &mut report) {
            let trouble = format!("slot {} was not saved: {why:#}", slot.index);
            report.trouble.push(trouble);
        }
    }
    report.removed.extend(archive.rotate(&report.saved)?);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for folder in &report.removed {
            println!("{} removed, for newer ones", folder.display());
        }
        for trouble in &report.trouble {
            eprintln!("kdraw: {trouble}");
        }
    }
    Ok(Verdict::from_good(report.trouble.is_empty()))
}

fn nothing(args: &Args, why: &str) -> Result<Verdict> {
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&Report::default())?),
        false => println!("Nothing to save: {why}."),
    }
    Ok(Verdict::Good)
}

/// Saves the dump of a slot, marks the slot, runs the hooks.
fn save(
    args: &Args,
    partition: &mut DumpPartition,
    slot: &SlotPlace,
    archive: &Archive,
    hooks: &[PathBuf],
    report: &mut Report,
) -> Result<()> {
    let header = partition.header(slot);
    // A vmcore packs pages about as well as the payload did. If it does not, what is written of it
    // vanishes again, and the dump stays where it is.
    let need = header.stream_len.max(header.plain_len);
    match archive.make_room(need, &report.saved)? {
        Ok(removed) => report.removed.extend(removed),
        Err(lacking) => {
            report.trouble.push(format!(
                "slot {} was not saved: {} has no room for {}, {} are lacking; the dump stays on \
                 the partition",
                slot.index,
                archive.folder.display(),
                text::size(need),
                text::size(lacking)
            ));
            return Ok(());
        }
    }
    let wanted = Wanted {
        format: Format::Kdump(Compression::default()),
        flattened: false,
    };
    let bar = progress::bar();
    let mut show = |what, at, total| progress::show(&bar, what, at, total);
    let done = extract(partition, slot, &archive.folder, wanted, &mut show);
    bar.finish_and_clear();
    let folder = match done {
        Ok(done) => {
            if !args.json {
                shown::print(&done);
            }
            let lost = done.metadata.losses.iter();
            let name = done.folder.display();
            report
                .trouble
                .extend(lost.map(|loss| format!("{name}: lost: {loss}")));
            done.folder
        }
        // The save before this one was cut off before it could mark the slot.
        Err(ExtractError::Exists(folder)) if archive.holds(&folder, &header.dump_id)? => folder,
        Err(why) => return Err(why.into()),
    };
    partition.mark_extracted(slot)?;
    for hook in hooks {
        let status = Command::new(hook)
            .arg(&folder)
            .stdout(std::io::stderr())
            .status();
        let trouble = match status {
            Ok(status) if status.success() => continue,
            Ok(status) => status.to_string(),
            Err(why) => why.to_string(),
        };
        report.trouble.push(format!(
            "{} {}: {trouble}",
            hook.display(),
            folder.display()
        ));
    }
    report.saved.push(folder);
    Ok(())
}

/// The programs in the folder of hooks, in order; none if there is no such folder. What package
/// managers and editors leave beside a file is none.
fn hooks(folder: &Path, config: &Config) -> Result<Vec<PathBuf>> {
    if config.save.hooks.as_os_str().is_empty() || !folder.exists() {
        return Ok(Vec::new());
    }
    let mut hooks = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("cannot list {}", folder.display()))?
    {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_left_over = name.starts_with('.') || name.ends_with('~') || name.contains(".dpkg-");
        let is_program = entry
            .path()
            .metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if is_program && !is_left_over {
            hooks.push(entry.path());
        }
    }
    hooks.sort();
    Ok(hooks)
}
