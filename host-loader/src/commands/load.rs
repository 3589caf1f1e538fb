//! `kdraw load`: arms the capture.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kdraw_format::addr::PhysRange;
use kdraw_format::plan::Card;
use kdraw_linux::classify::DumpLevel;

use crate::exit::Verdict;
use crate::live::estimate::{self, Proof};
use crate::live::outlook::{self, Outlook, Remembered};
use crate::load::elfcorehdr;
use crate::load::machine::Machine;
use crate::load::options::CaptureArgs;
use crate::load::segments::{Loadable, MAX_TOTAL};
use crate::load::state::Loaded;
use crate::load::target::{Destination, Target};
use crate::payload::Payload;
use crate::sd_card;
use crate::sys;
use crate::system::System;
use crate::text;
use crate::watchdog;

/// Arm the capture: from now on a panic writes a dump to the target.
///
/// Checks first that it can work, and says why not. Needs root and a kernel booted with
/// crashkernel=8M. Lasts until the next boot; load again after memory was hot-plugged.
///
/// Proves the filter on the running kernel, as `kdraw estimate` does. If the kernel disagrees, the
/// dump will have level 0, which is every page. If it cannot be asked (no /proc/kcore or
/// /proc/kpageflags, a kernel that is locked down), the level stays: the payload itself tries the
/// filter on the dead kernel's own image, and dumps what it cannot tell apart.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw load                                # what /etc/kdraw.conf says
  kdraw load --target /dev/mmcblk0p4
  kdraw load --target /dev/mmcblk0p4 --fallback serial:ttyAMA0
  kdraw load --target serial:ttyAMA0")]
pub struct Args {
    #[command(flatten)]
    capture: CaptureArgs,
    /// Checks and builds everything, but loads nothing.
    #[arg(long)]
    dry_run: bool,
    /// Waits so many seconds for the target's device, if it is not there yet.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
}

/// Runs the command.
///
/// # Errors
/// Whatever would keep a capture from working.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    let (destination, wish) = args.capture.wish(system)?;
    destination.wait(system, args.wait);
    let machine = Machine::inspect(system).context("cannot load")?;
    let mut targets = wish.targets(system, &destination).context("cannot load")?;
    let payload = Payload::get(args.capture.payload.as_deref())?;
    let notes = elfcorehdr::notes(system)?;
    let wanted = wish.dump_on(Some(&targets)).level;
    let outlook = wish.outlook(system, &machine.evidence, &notes, Some(&targets));
    let proof = match &outlook {
        Ok(outlook) => outlook.estimate.proof.clone(),
        Err(why) => Proof::not_possible(why),
    };
    let level = proof.level(wanted);
    let watchdogs = watchdog::all(system);
    let settings = wish.settings(system, Some(&targets), level, &watchdogs)?;
    let loadable = Loadable::build(&machine, &payload, &notes, settings)?;
    print(&loadable, machine.crash_region);
    print_outlook(outlook.as_ref().ok(), &proof, wanted);
    warn_if_small(&loadable, machine.crash_region);
    if let Some(target) = &mut targets.partition {
        warn_if_full(target);
    }
    watchdog::print(&watchdogs);
    if args.dry_run {
        println!("Nothing was loaded (dry run).");
        return Ok(Verdict::Good);
    }
    let disk = targets.partition.iter();
    for control in disk.flat_map(|target| sd_card::keep_awake(&target.sysfs)) {
        println!(
            "warning: the card or its controller may be suspended when the kernel panics: \
             {} could not be set to \"on\"",
            control.display()
        );
    }
    // A load that fails leaves no crash image behind; what was loaded before is gone then.
    Loaded::forget(system);
    if system.is_running() {
        sys::kexec_load_crash(loadable.entry(), &loadable.segments)
            .map_err(|error| anyhow::anyhow!("{error}; {}", advice(&error)))
            .context("the kernel refused the crash image")?;
        if !Loaded::is_anything(system) {
            bail!("the kernel took the crash image, yet /sys/kernel/kexec_crash_loaded is not 1");
        }
    }
    let target = loadable.plan.target.as_ref();
    let partition = target.map_or((0, 0), |target| {
        (target.partition_start, target.partition_len)
    });
    Loaded {
        boot_id: system.boot_id(),
        at: text::now(),
        target: match &destination {
            Destination::Partition(path) => std::path::absolute(path)?,
            Destination::Serial(_) => PathBuf::from(destination.to_string()),
        },
        fallback: wish.fallback.as_ref().map(Destination::to_string),
        uuid: target.map_or_else(String::new, |target| text::uuid(&target.uuid)),
        partition_start: partition.0,
        partition_len: partition.1,
        payload_hash: text::hash(payload.hash()),
        elfcorehdr_hash: text::hash(loadable.plan.elfcorehdr.checksum),
        device_tree_hash: text::hash(loadable.plan.device_tree.checksum),
        region_start: machine.crash_region.start.0,
        region_end: machine.crash_region.end.0,
        total: loadable.total(),
        watchdogs: watchdog::recorded(&watchdogs),
        outlook: Some(Remembered {
            level: level.bits(),
            dump_bytes: outlook.ok().map(|outlook| outlook.estimate.dump_bytes),
            proof,
        }),
    }
    .remember(system)?;
    println!("Armed: a panic now writes a dump to {destination}.");
    Ok(Verdict::Good)
}

fn print(loadable: &Loadable, region: PhysRange) {
    for segment in &loadable.segments {
        println!(
            "{:<12} {:#x}-{:#x}  {} in {}",
            segment.name,
            segment.address,
            segment.address.saturating_add(segment.memory_len),
            text::size(segment.bytes.len() as u64),
            text::size(segment.memory_len)
        );
    }
    println!(
        "segments take {} (limit {}) of the crash region {}-{} ({})",
        text::size(loadable.total()),
        text::size(MAX_TOTAL),
        region.start,
        region.end,
        text::size(region.len())
    );
    if !loadable.plan.serial.is_empty() {
        let role = match loadable.plan.target {
            Some(_) => "fallback",
            None => "target",
        };
        println!(
            "{role:<12} the serial line of {}, taken with `kdraw receive`",
            loadable.plan.serial
        );
    }
    let Some(target) = &loadable.plan.target else {
        return;
    };
    let pci = target.pci.map_or_else(String::new, |pci| {
        format!(" PCI {:02x}:{:02x}.{}", pci.bus, pci.device, pci.function)
    });
    if let Some(card) = target.card {
        println!(
            "card         {}, to be used as Linux leaves it",
            match card {
                Card::Sd(rca) => format!("SD, address {rca:#06x}"),
                Card::Mmc(rca) => format!("eMMC, address {rca:#06x}"),
            }
        );
    }
    println!(
        "target       {}{pci}, {} from byte {}, id {}",
        target.controller,
        text::size(target.partition_len),
        target.partition_start,
        text::uuid(&target.uuid)
    );
    if target.unchecked_table {
        println!("target       is a whole disk: no partition table tells the payload its bounds");
    }
}

fn print_outlook(outlook: Option<&Outlook>, proof: &Proof, wanted: DumpLevel) {
    if let Some(outlook) = outlook {
        outlook.print();
    } else {
        println!("proof        {}", outlook::proof(proof));
    }
    let level = proof.level(wanted);
    if level != wanted {
        println!(
            "warning: the filter is wrong about this kernel: level {wanted} would lose pages, so \
             the dump will have level {level}. Please report this with the output of \
             `kdraw estimate --json`"
        );
    } else if proof.verdict == estimate::Verdict::NotPossible && level != DumpLevel::ALL_PAGES {
        println!(
            "warning: nobody could be asked whether the filter is right about this kernel. The \
             level stays {level}: the payload tries the filter on the kernel's own image, and \
             keeps every page if that fails; --level all does not depend on it"
        );
    }
}

fn warn_if_small(loadable: &Loadable, region: PhysRange) {
    let work = &loadable.work;
    if work.cpus_that_fit < work.cpus_wanted {
        println!(
            "warning: the payload has {} to work in, enough for {} of {} CPUs; for all of them \
             boot with crashkernel={}M",
            text::size(work.room),
            work.cpus_that_fit,
            work.cpus,
            work.advice(region, work.need.wanted)
        );
    }
}

fn warn_if_full(target: &mut Target) {
    let partition = &mut target.partition;
    if partition.free_slots() == 0 && !partition.superblock.overwrite {
        println!(
            "warning: every slot holds a dump that nobody has extracted; a panic would only \
             leave a black box in the journal. Run `kdraw extract {}`",
            target.path.display()
        );
    }
}

/// What to do about an error of kexec_load(2).
fn advice(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "run as root; a kernel locked down by Secure Boot refuses it too",
        Some(libc::ENOSYS) => "this kernel was built without CONFIG_KEXEC",
        Some(libc::EBUSY) => "another kexec is at work; try again",
        Some(libc::ENOMEM) => "the crash region is too small; boot with crashkernel=8M",
        Some(libc::EADDRNOTAVAIL) => "the segments lie outside the crash region; report this",
        _ => "see dmesg",
    }
}
