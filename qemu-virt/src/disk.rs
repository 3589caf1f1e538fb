//! The guest's disk: a GPT image with file systems around the dump partition.
//!
//! Nothing outside the dump partition may change by a capture. Therefore the other partitions
//! hold known contents, and [`Disk::difference`] compares them, and every byte between them,
//! with a copy made before the first boot.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use kdraw_format::layout::{
    BLOCK as BLOCK_LEN, JOURNAL_RECORD, JOURNAL_RECORDS, JOURNAL_START, Superblock,
};
use kdraw_guest::pattern::{self, PAGE_SIZE, Random};

use crate::disk_bus::DiskBus;
use crate::run;

const MIB: u64 = 1 << 20;
/// What is compared at a time; borders of parts and of the journal are multiples of it.
const BLOCK: u64 = 64 << 10;

/// Number of the dump partition.
pub const DUMP: usize = 4;

/// A stretch of the disk, in bytes.
#[derive(Clone, Debug)]
pub struct Part {
    /// What lies there: a partition, or what is between partitions.
    pub name: &'static str,
    /// Offset of the first byte.
    pub start: u64,
    /// Length.
    pub length: u64,
}

/// A disk image and the copy it is compared with.
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    before: PathBuf,
    size: u64,
    partitions: Vec<Part>,
}

impl Disk {
    /// Makes an image for a disk that is attached by `bus`, with a dump partition of `dump_mib` and,
    /// on the file system behind it, a file `cache.bin` of `cache_mib` and `spare_mib` of free room.
    pub fn create(
        path: &Path,
        bus: DiskBus,
        dump_mib: u64,
        cache_mib: u64,
        spare_mib: u64,
    ) -> Result<Self> {
        let contents = path.with_extension("contents");
        write_contents(&contents, 5, cache_mib)?;
        let last_mib = 48 + cache_mib + spare_mib;
        let disk = Self::with_last(path, bus, dump_mib, last_mib, &contents)?;
        fs::remove_dir_all(&contents)?;
        Ok(disk)
    }

    /// As [`Self::create`], with a file system of `last_mib` behind the dump partition that holds
    /// what `last` does.
    pub fn with_last(
        path: &Path,
        bus: DiskBus,
        dump_mib: u64,
        last_mib: u64,
        last: &Path,
    ) -> Result<Self> {
        let folder = path.parent().context("the image has no folder")?;
        let mut partitions = Vec::new();
        let mut start = MIB;
        for (name, mib) in [
            // Too small to be signed.
            ("p1 (empty)", 1),
            ("p2 (random)", 4),
            ("p3 (ext4)", 32),
            ("p4 (dump)", dump_mib),
            ("p5 (ext4)", last_mib),
        ] {
            partitions.push(Part {
                name,
                start,
                length: mib * MIB,
            });
            start += mib * MIB;
        }
        let disk = Self {
            path: path.to_path_buf(),
            before: folder.join("before.img"),
            // The backup GPT lies in the last 33 sectors.
            size: bus.image_size(start + MIB),
            partitions,
        };
        let _ = fs::remove_file(&disk.path);
        let file = File::create_new(path).with_context(|| path.display().to_string())?;
        file.set_len(disk.size)?;
        disk.partition(&disk.partitions)?;
        let mut noise = vec![0; 4 * MIB as usize];
        let mut random = Random::new(2);
        for word in noise.as_chunks_mut().0 {
            *word = random.next().to_le_bytes();
        }
        file.write_all_at(&noise, disk.partitions[1].start)?;
        let contents = folder.join("contents");
        write_contents(&contents, 3, 1)?;
        disk.make_file_system(3, &contents)?;
        fs::remove_dir_all(&contents)?;
        disk.make_file_system(5, last)?;
        drop(file);
        disk.keep_copy()?;
        Ok(disk)
    }

    /// Copies the image as it is now, for [`Self::difference`].
    pub fn keep_copy(&self) -> Result<()> {
        run::quiet(
            Command::new("cp")
                .arg("--sparse=always")
                .args([&self.path, &self.before]),
        )
    }

    /// Copies the image as it is now, to be changed apart from this one.
    pub fn copy_to(&self, path: &Path) -> Result<Self> {
        let _ = fs::remove_file(path);
        run::quiet(
            Command::new("cp")
                .arg("--sparse=always")
                .arg(&self.path)
                .arg(path),
        )?;
        Ok(Self {
            path: path.to_path_buf(),
            before: self.before.clone(),
            size: self.size,
            partitions: self.partitions.clone(),
        })
    }

    /// Makes the dump partition shorter; what lies behind it stays where it is.
    pub fn shrink_dump_partition(&mut self, length: u64) -> Result<()> {
        self.partitions[DUMP - 1].length = length;
        self.partition(&self.partitions)
    }

    /// Writes both copies of a superblock.
    pub fn sign(&self, superblock: &Superblock) -> Result<()> {
        let mut block = [0; BLOCK_LEN];
        superblock.encode(&mut block);
        for at in self.superblocks() {
            self.write_dump(at, &block)?;
        }
        Ok(())
    }

    /// Returns the offsets of both superblocks on the dump partition.
    pub fn superblocks(&self) -> [u64; 2] {
        [0, Superblock::second_copy(self.part(DUMP).length).0]
    }

    /// Moves the dump partition: the table then has it 1 MiB further on and shorter by that.
    pub fn move_dump_partition(&self) -> Result<()> {
        let mut moved = self.partitions.clone();
        let dump = &mut moved[DUMP - 1];
        (dump.start, dump.length) = (dump.start + MIB, dump.length - MIB);
        self.partition(&moved)
    }

    /// Returns a partition by its number, from 1.
    pub fn part(&self, number: usize) -> &Part {
        &self.partitions[number - 1]
    }

    /// Writes a partition table.
    fn partition(&self, partitions: &[Part]) -> Result<()> {
        let mut script = String::from("label: gpt\n");
        for part in partitions {
            script += &format!(
                "start={}, size={}, type=linux\n",
                part.start / 512,
                part.length / 512
            );
        }
        let sfdisk =
            run::find_program("sfdisk").context("there is no sfdisk; `cargo xtask setup`")?;
        let mut child = Command::new(sfdisk)
            .args(["--quiet", "--wipe-partitions", "never"])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start sfdisk")?;
        child
            .stdin
            .take()
            .context("sfdisk has no stdin")?
            .write_all(script.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let messages = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("sfdisk failed ({}):\n{messages}", output.status);
        }
        Ok(())
    }

    fn make_file_system(&self, number: usize, contents: &Path) -> Result<()> {
        let part = self.part(number);
        let mkfs =
            run::find_program("mkfs.ext4").context("there is no mkfs.ext4; `cargo xtask setup`")?;
        run::quiet(
            Command::new(mkfs)
                .args(["-q", "-F", "-L", &format!("p{number}")])
                .args(["-E", &format!("offset={}", part.start), "-d"])
                .arg(contents)
                .arg(&self.path)
                .arg(format!("{}k", part.length / 1024)),
        )
    }

    /// Compares the disk with the copy except for a range; names the first difference.
    pub fn difference(&self, except: &Range<u64>) -> Result<Option<String>> {
        let (now, before) = (File::open(&self.path)?, File::open(&self.before)?);
        if now.metadata()?.len() != self.size {
            bail!(
                "{} has {} bytes, not {}",
                self.path.display(),
                now.metadata()?.len(),
                self.size
            );
        }
        let (mut left, mut right) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
        for at in (0..self.size).step_by(BLOCK as usize) {
            if except.contains(&at) {
                continue;
            }
            now.read_exact_at(&mut left, at)?;
            before.read_exact_at(&mut right, at)?;
            if left != right {
                let same = left
                    .iter()
                    .zip(&right)
                    .take_while(|(left, right)| left == right);
                let byte = same.count();
                let at = at + byte as u64;
                let part = self
                    .partitions
                    .iter()
                    .find(|p| (p.start..p.start + p.length).contains(&at));
                let part = part.map_or("between partitions", |part| part.name);
                return Ok(Some(format!("byte {at:#x} differs, {part}")));
            }
        }
        Ok(None)
    }

    /// Returns where the dump partition lies.
    pub fn dump_range(&self) -> Range<u64> {
        let dump = self.part(DUMP);
        dump.start..dump.start + dump.length
    }

    /// Returns where the journal of the dump partition lies.
    pub fn journal_range(&self) -> Range<u64> {
        let start = self.part(DUMP).start + JOURNAL_START;
        start..start + JOURNAL_RECORDS * JOURNAL_RECORD
    }

    /// Returns where the last partition ends.
    pub fn partitions_end(&self) -> u64 {
        let ends = self.partitions.iter().map(|part| part.start + part.length);
        ends.max().unwrap_or(0)
    }

    /// Returns the bytes outside the dump partition.
    pub fn size_outside(&self) -> u64 {
        self.size - self.part(DUMP).length
    }

    /// Reads a piece of the dump partition.
    pub fn read_dump(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        Ok(File::open(&self.path)?.read_exact_at(bytes, self.part(DUMP).start + offset)?)
    }

    /// Overwrites a piece of the dump partition.
    pub fn write_dump(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let part = self.part(DUMP);
        if offset + bytes.len() as u64 > part.length {
            bail!("offset {offset:#x} is outside the dump partition");
        }
        let file = OpenOptions::new().write(true).open(&self.path)?;
        Ok(file.write_all_at(bytes, part.start + offset)?)
    }

    /// Removes the copy.
    pub fn forget_copy(&self) -> Result<()> {
        Ok(fs::remove_file(&self.before)?)
    }
}

/// Fills a folder with the files of a file system.
fn write_contents(folder: &Path, number: usize, cache_mib: u64) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(
        folder.join("README"),
        format!("file system of partition {number}\n"),
    )?;
    let mut bytes = Vec::new();
    for index in 0..cache_mib * MIB / PAGE_SIZE as u64 {
        let mut page = [0; PAGE_SIZE];
        pattern::fill(number as u64, index, &mut page);
        bytes.extend_from_slice(&page);
    }
    Ok(fs::write(folder.join("cache.bin"), bytes)?)
}
