//! `kdraw status`: would a panic now be captured?

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::exit::Verdict;
use crate::live::outlook;
use crate::load::machine::{Machine, NotReady, memory};
use crate::load::state::Loaded;
use crate::load::target::{Destination, SerialLine, Target};
use crate::payload;
use crate::summary;
use crate::system::System;
use crate::text;
use crate::watchdog::{self, Watchdog};

/// Say whether a panic now would be captured, and if not, why.
///
/// Exit code 0 only if it would.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw status || echo 'not armed' >&2")]
pub struct Args {
    /// The target, if other than the loaded one.
    #[arg(long, value_name = "DEVICE")]
    target: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Everything that bears on the question.
#[derive(Debug, Serialize)]
struct Status {
    armed: bool,
    problems: Vec<String>,
    warnings: Vec<String>,
    crash_region: Option<(u64, u64)>,
    crash_image_loaded: bool,
    loaded: Option<Loaded>,
    target: Option<PathBuf>,
    slots: Option<u32>,
    free_slots: Option<u32>,
    overwrite: Option<bool>,
    watchdogs: Vec<Watchdog>,
    payload: Option<String>,
    kernel: String,
    version: &'static str,
}

/// Runs the command.
///
/// # Errors
/// None but a failure to print.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let status = Status::of(system, args.target.as_deref());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        status.print();
    }
    Ok(Verdict::from_good(status.armed))
}

impl Status {
    fn of(system: &System, asked: Option<&Path>) -> Self {
        let mut problems = Vec::new();
        let is_loaded = Loaded::is_anything(system);
        let region = match Machine::inspect(system).map(|machine| machine.crash_region) {
            // What was loaded before the door was shut stays loaded.
            Err(NotReady::Disabled { .. }) if is_loaded => memory(system).map(|(region, _)| region),
            other => other,
        };
        let region = match region {
            Ok(region) => Some((region.start.0, region.end.0)),
            Err(why) => {
                problems.push(why.to_string());
                None
            }
        };
        let loaded = Loaded::recall(system).filter(|_| is_loaded);
        if let Err(why) = Loaded::now(system, region) {
            problems.push(format!("{why}; run `kdraw load`"));
        }
        let path = asked
            .map(Path::to_owned)
            .or_else(|| loaded.as_ref().map(|loaded| loaded.target.clone()));
        let watchdogs = watchdog::all(system);
        let warnings = loaded.as_ref().map_or_else(Vec::new, |loaded| {
            let warnings = watchdogs
                .iter()
                .filter_map(|dog| dog.warning(&loaded.watchdogs));
            warnings.collect()
        });
        let mut status = Self {
            armed: false,
            problems,
            warnings,
            crash_region: region,
            crash_image_loaded: is_loaded,
            loaded,
            target: path.clone(),
            slots: None,
            free_slots: None,
            overwrite: None,
            watchdogs,
            payload: payload::embedded_version(),
            kernel: system.kernel_release(),
            version: env!("CARGO_PKG_VERSION"),
        };
        if let Some(path) = path {
            status.look_at_target(system, &path);
        }
        status.armed = status.problems.is_empty();
        status
    }

    fn look_at_target(&mut self, system: &System, path: &Path) {
        let fallback = self.loaded.as_ref();
        let fallback = fallback.and_then(|loaded| loaded.fallback.as_deref());
        for name in [path.to_str(), fallback].into_iter().flatten() {
            if let Destination::Serial(name) = name.into()
                && let Err(why) = SerialLine::inspect(system, &name)
            {
                self.problems.push(why.to_string());
            }
        }
        if let Some(Destination::Serial(_)) = path.to_str().map(Destination::from) {
            return;
        }
        let mut target = match Target::inspect(system, path) {
            Ok(target) => target,
            Err(why) => return self.problems.push(why.to_string()),
        };
        if let Some(loaded) = &self.loaded
            && !loaded.is_for(&target)
        {
            self.problems.push(format!(
                "{} is not the partition that was loaded (id {}); load again",
                path.display(),
                loaded.uuid
            ));
        }
        let partition = &mut target.partition;
        let free = partition.free_slots();
        if free == 0 && !partition.superblock.overwrite {
            self.problems.push(format!(
                "every slot holds a dump that nobody has extracted; run `kdraw extract {}`",
                path.display()
            ));
        }
        self.slots = Some(partition.superblock.slots);
        self.free_slots = Some(free);
        self.overwrite = Some(partition.superblock.overwrite);
    }

    fn print(&self) {
        let region = match self.crash_region {
            Some((start, end)) => format!(
                "{start:#x}-{end:#x} ({})",
                text::size(end.saturating_sub(start))
            ),
            None => "unknown".to_owned(),
        };
        let yes_no = |yes| if yes { "yes" } else { "no" };
        println!("crash region  {region}");
        println!("image loaded  {}", yes_no(self.crash_image_loaded));
        if let Some(loaded) = &self.loaded {
            println!(
                "loaded        {}, {} of memory, payload XXH64 {}",
                text::time(loaded.at),
                text::size(loaded.total),
                loaded.payload_hash
            );
            if let Some(found) = &loaded.outlook {
                let bytes = found.dump_bytes.map_or_else(String::new, |bytes| {
                    format!(", about {} when it was loaded", text::size(bytes))
                });
                println!("level         {}{bytes}", summary::level(found.level));
                println!("proof         {}", outlook::proof(&found.proof));
            }
        }
        if let Some(target) = &self.target {
            let slots = match (self.slots, self.free_slots) {
                (Some(slots), Some(free)) => format!(", {free} of {slots} slots free"),
                _ => String::new(),
            };
            println!("target        {}{slots}", target.display());
        }
        println!(
            "payload       {}",
            self.payload.as_deref().unwrap_or("none inside this kdraw")
        );
        println!("kernel        {}", self.kernel);
        for dog in &self.watchdogs {
            println!("watchdog      {}", dog.line());
        }
        for warning in &self.warnings {
            println!("warning       {warning}");
        }
        for problem in &self.problems {
            println!("problem       {problem}");
        }
        println!(
            "{}",
            if self.armed {
                "Armed: a panic now would be captured."
            } else {
                "NOT armed: a panic now would not be captured."
            }
        );
    }
}
