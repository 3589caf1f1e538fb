//! Captures the same memory again, at another dump level or into a smaller slot.
//!
//! A capture changes nothing but the crash region and the dump partition. So both are kept as
//! they were when the capture was armed, and after the first capture are put back beside the
//! crashed kernel's memory, with another plan; then a new machine's first CPU enters the payload
//! as the kernel entered it: MMU off, and the device tree's address in the image.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use kdraw_format::checksum::Checksum;
use kdraw_format::layout::Superblock;
use kdraw_format::plan::{PLAN_LEN, Plan};

use super::boot::Boot;
use super::evidence::{self, Extracted};
use super::refusals::segment_address;
use super::{Place, Scenario, watchdog};
use crate::compare::Vmcore;
use crate::disk::Disk;
use crate::dist::Dist;
use crate::material::Kernel;
use crate::qemu::{Machine, Qemu};

/// Bytes from the start of RAM that a machine without a kernel overwrites with its device tree
/// (hw/arm/virt.c).
const DEVICE_TREE: usize = 2 << 20;
/// What is read at a time.
const BLOCK: usize = 1 << 20;

/// What `kdraw load` and `kdraw format` left, before the kernel panicked.
pub struct Armed {
    crash_region: Range<u64>,
    /// The contents of the crash region.
    loaded: Vec<u8>,
    /// Where in it the plan lies.
    plan_at: usize,
    disk: Disk,
}

/// What another capture is to be.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The dump level.
    pub level: u8,
    /// The slot's size in MiB; `None` leaves the partition as it is.
    pub slot_mib: Option<u64>,
    /// It goes over the serial line that `kdraw load` was told.
    pub serial: Option<OverSerial>,
}

/// A capture that goes over a serial line.
#[derive(Clone, Copy, Debug)]
pub struct OverSerial {
    /// The seconds that it may take; 0: the payload's default.
    pub budget_s: u32,
    /// Whether the partition is the target, and the line the fallback.
    pub is_fallback: bool,
}

impl Wish {
    /// A dump of a level, with as much room as there was.
    pub fn level(level: u8) -> Self {
        Self {
            level,
            slot_mib: None,
            serial: None,
        }
    }
}

/// A dump of another capture.
pub struct Dump {
    /// The disk that it is on.
    pub disk: Disk,
    /// The payload's last words.
    pub said: String,
    /// What was extracted.
    pub extracted: Extracted,
}

/// Everything that other captures need.
pub struct Again<'a> {
    pub scenario: &'a Scenario,
    pub dist: &'a Dist,
    pub place: &'a Place,
    pub boot: &'a Boot,
    pub armed: &'a Armed,
}

impl Armed {
    /// Keeps the crash region and the disk of a machine that has just loaded the payload.
    pub fn keep(boot: &Boot, qemu: &Qemu, disk: &Disk, place: &Place) -> Result<Self> {
        let crash_region = boot.crash_region.clone();
        let plan_at = segment_address(boot, "plan")?;
        let plan_at = plan_at.checked_sub(crash_region.start);
        Ok(Self {
            loaded: qemu.memory(
                crash_region.start,
                (crash_region.end - crash_region.start) as usize,
            )?,
            plan_at: plan_at.context("the plan lies before the crash region")? as usize,
            disk: disk.copy_to(&place.file("armed.img"))?,
            crash_region,
        })
    }

    /// Returns the crash region and the disk for another capture.
    fn prepared(&self, wish: Wish, image: PathBuf) -> Result<(Vec<u8>, Disk)> {
        let mut loaded = self.loaded.clone();
        let mut disk = self.disk.copy_to(&image)?;
        let block = loaded[self.plan_at..]
            .first_chunk_mut::<PLAN_LEN>()
            .context("the crash region ends within the plan")?;
        let mut plan = Plan::decode(block)?;
        plan.level = wish.level;
        if let Some(mib) = wish.slot_mib {
            // The superblocks take a MiB before the slot and less than that behind it.
            let target = plan
                .target
                .as_mut()
                .context("the plan names no partition")?;
            let length = (mib + 2) << 20;
            let superblock =
                Superblock::new(target.uuid, target.partition_start, length, 1, false)?;
            ensure!(superblock.slot_len == mib << 20, "no slot of {mib} MiB");
            target.partition_len = length;
            disk.shrink_dump_partition(length)?;
            disk.sign(&superblock)?;
        }
        if let Some(serial) = wish.serial {
            ensure!(!plan.serial.is_empty(), "the plan names no serial line");
            plan.target.take_if(|_| !serial.is_fallback);
            plan.budget_s = serial.budget_s;
        }
        plan.encode(block);
        Ok((loaded, disk))
    }
}

impl Again<'_> {
    /// Captures again, extracts the dump, and checks that every page in it is the memory's.
    pub fn capture(&self, name: &str, wish: Wish) -> Result<Dump> {
        let image = self.place.file(&format!("{name}.img"));
        let (start, loaded, disk) = self.prepared(wish, image)?;
        let kernel = self.scenario.kernel()?;
        let machine = self.machine(&kernel, &disk);
        let before = self.evidence_checksum()?;
        let log = self.place.file(&format!("{name}.log"));
        let mut qemu = Qemu::start(&machine, &log, super::budget(self.scenario))?;
        self.begin(&qemu, &start, &loaded)?;
        let mut said = String::new();
        while let Some(line) = qemu.next_line()? {
            if line.text.starts_with("kdraw: ") {
                said = line.text;
            }
        }
        qemu.end()?;
        ensure!(said.contains("dump complete"), "the payload said {said:?}");
        if self.evidence_checksum()? != before {
            bail!("the crashed kernel's memory is not what it was");
        }
        let folder = self.place.file(&format!("{name}.extracted"));
        let extracted = evidence::extract_what_is_there(self.dist, &disk.path, &folder)?;
        Ok(Dump {
            disk,
            said,
            extracted,
        })
    }

    /// Returns the start of RAM, the crash region and the disk for another capture.
    pub fn prepared(&self, wish: Wish, image: PathBuf) -> Result<(Vec<u8>, Vec<u8>, Disk)> {
        let (loaded, disk) = self.armed.prepared(wish, image)?;
        let mut start = vec![0; DEVICE_TREE];
        File::open(self.place.ram())?.read_exact_at(&mut start, 0)?;
        Ok((start, loaded, disk))
    }

    /// Returns the machine of another capture.
    pub fn machine<'m>(&'m self, kernel: &'m Kernel, disk: &'m Disk) -> Machine<'m> {
        Machine {
            entry: Some(self.armed.crash_region.start),
            ..super::machine(self.scenario, kernel, self.place, disk, &kernel.image, "")
        }
    }

    /// Begins another capture.
    pub fn begin(&self, qemu: &Qemu, start: &[u8], loaded: &[u8]) -> Result<()> {
        let contents = [
            (self.boot.ram_base, start),
            (self.armed.crash_region.start, loaded),
        ];
        qemu.begin(&contents, || {
            if !self.scenario.watchdog {
                return Ok(());
            }
            let plan = Plan::decode(&loaded[self.armed.plan_at..])?;
            let pci = plan.watchdogs.first().and_then(|watchdog| watchdog.pci);
            watchdog::start(qemu, pci.context("the plan names no watchdog on PCI")?)
        })
    }

    /// Checks that every page of a vmcore is the memory's.
    pub fn compare(&self, vmcore: &Vmcore) -> Result<String> {
        let compared = vmcore.compare(self.place.ram(), self.boot)?;
        let told = format!(
            "{} pages compared, {} differ",
            compared.pages, compared.mismatches
        );
        ensure!(
            compared.pages > 0 && compared.mismatches == 0 && compared.outside.is_empty(),
            "{told} {:x?}, outside RAM {:x?}",
            compared.first,
            compared.outside
        );
        Ok(told)
    }

    /// Removes what a capture left.
    pub fn forget(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.place.file(&format!("{name}.img")))?;
        crate::run::remove_dir(&self.place.file(&format!("{name}.extracted")))
    }

    /// Returns the checksum of the memory outside the crash region.
    fn evidence_checksum(&self) -> Result<u64> {
        let ram = File::open(self.place.ram())?;
        let ram_base = self.boot.ram_base;
        let end = ram_base + ram.metadata()?.len();
        let mut sum = Checksum::default();
        let mut block = vec![0; BLOCK];
        for at in (ram_base..end).step_by(BLOCK) {
            if !self.armed.crash_region.contains(&at) {
                ram.read_exact_at(&mut block, at - ram_base)?;
                sum.add(&block);
            }
        }
        Ok(sum.finish())
    }
}
