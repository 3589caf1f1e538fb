//! The memory state worth capturing: processes, tmpfs, page cache, pipes and marker pages.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use kdraw_guest::pattern::{self, MARKERS, Marker, PAGE_SIZE};

use crate::{Result, number};

/// Processes that share the anonymous memory to fill.
const LARGE_HOLDERS: u64 = 6;
/// Processes of 1 MiB each, so that the dump has a process list worth reading.
const SMALL_HOLDERS: u64 = 14;

/// One page, aligned as the hardware sees it.
#[derive(Clone)]
#[repr(align(4096))]
pub struct Page(pub [u8; PAGE_SIZE]);

/// Allocates `mib` of pages and fills them.
fn filled(seed: u64, mib: u64) -> Vec<Page> {
    let count = mib << 20 >> 12;
    let mut pages = Vec::new();
    for index in 0..count {
        let mut page = Page([0; PAGE_SIZE]);
        pattern::fill(seed, index, &mut page.0);
        pages.push(page);
    }
    pages
}

/// Is one of the processes that hold memory: `hold seed=N mib=M`.
pub fn hold(arguments: &[String]) -> Result<()> {
    let pages = filled(number(arguments, "seed")?, number(arguments, "mib")?);
    println!("ready");
    let mut end = Vec::new();
    // The parent never writes and never closes: this sleeps until the panic.
    std::io::stdin()
        .read_to_end(&mut end)
        .map_err(|e| format!("stdin: {e}"))?;
    drop(pages);
    Ok(())
}

/// Starts the processes that hold `mib` of anonymous memory together, and waits until they do.
pub fn spawn_holders(mib: u64) -> Result<Vec<Child>> {
    let mut children = Vec::new();
    for seed in 0..LARGE_HOLDERS + SMALL_HOLDERS {
        let mib = if seed < LARGE_HOLDERS {
            mib / LARGE_HOLDERS
        } else {
            1
        };
        let child = Command::new("/proc/self/exe")
            .args(["hold".into(), format!("seed={seed}"), format!("mib={mib}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start a process: {e}"))?;
        children.push(child);
    }
    for child in &mut children {
        let stdout = child.stdout.as_mut().ok_or("a process has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(|e| format!("process: {e}"))?;
        if line.trim() != "ready" {
            return Err(format!(
                "process {} said {line:?} instead of ready",
                child.id()
            ));
        }
    }
    Ok(children)
}

/// Writes a file of `mib` into a tmpfs.
pub fn fill_tmpfs(folder: &str, mib: u64) -> Result<()> {
    let path = format!("{folder}/fill.bin");
    let mut file = File::create(&path).map_err(|e| format!("{path}: {e}"))?;
    let mut block = Vec::with_capacity(1 << 20);
    for number in 0..mib {
        block.clear();
        for index in 0..256 {
            let mut page = [0; PAGE_SIZE];
            pattern::fill(0x7_0000, number * 256 + index, &mut page);
            block.extend_from_slice(&page);
        }
        file.write_all(&block).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(())
}

/// Reads a file so that it lies in the page cache; returns its size in bytes.
pub fn read_cache(path: &str) -> Result<u64> {
    let mut file = File::open(path).map_err(|e| format!("{path}: {e}"))?;
    let mut block = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let count = file.read(&mut block).map_err(|e| format!("{path}: {e}"))?;
        if count == 0 {
            return Ok(total);
        }
        total += count as u64;
    }
}

/// Puts the pipe markers into pipe buffers, a page of the kernel each; returns the pipes.
///
/// A pipe holds 16 buffers of a page unless told otherwise (pipe(7)).
pub fn pipe_markers() -> Result<Vec<(OwnedFd, OwnedFd)>> {
    let mut pipes = Vec::new();
    for first in (0..MARKERS).step_by(16) {
        let (reader, writer) = rustix::pipe::pipe().map_err(|e| format!("pipe: {e}"))?;
        for index in first..first + 16 {
            let mut page = [0; PAGE_SIZE];
            pattern::marker(Marker::Pipe, index, &mut page);
            let written = rustix::io::write(&writer, &page).map_err(|e| format!("pipe: {e}"))?;
            if written != PAGE_SIZE {
                return Err(format!("a pipe took {written} of {PAGE_SIZE} bytes"));
            }
        }
        pipes.push((reader, writer));
    }
    Ok(pipes)
}

/// The locked marker pages.
pub struct Markers(Vec<Page>);

impl Markers {
    /// Allocates, writes and locks the marker pages.
    pub fn lock() -> Result<Self> {
        // Locked pages may still move, unless compaction is told to leave them (sysctl/vm.rst).
        let compact = "/proc/sys/vm/compact_unevictable_allowed";
        std::fs::write(compact, "0").map_err(|e| format!("{compact}: {e}"))?;
        let mut pages = vec![Page([0; PAGE_SIZE]); MARKERS as usize];
        for (index, page) in (0..).zip(&mut pages) {
            pattern::marker(Marker::Locked, index, &mut page.0);
        }
        rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT)
            .map_err(|e| format!("mlockall: {e}"))?;
        Ok(Self(pages))
    }

    /// Prints each page's physical address: `guest: marker INDEX ADDRESS`.
    pub fn print(&self) -> Result<()> {
        for (index, page) in self.0.iter().enumerate() {
            let frame = frame_of(page).map_err(|e| format!("marker {index}: {e}"))?;
            println!("guest: marker {index} {:#x}", frame * PAGE_SIZE as u64);
        }
        Ok(())
    }
}

/// Returns the page frame of a page of this process.
///
/// It is that of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst): an 8-byte entry
/// per page, bit 63 present, bits 0–54 the PFN.
pub fn frame_of(page: &Page) -> Result<u64> {
    let pagemap = File::open("/proc/self/pagemap").map_err(|e| format!("pagemap: {e}"))?;
    let address = page.0.as_ptr().addr() as u64;
    let mut entry = [0; 8];
    pagemap
        .read_exact_at(&mut entry, address / PAGE_SIZE as u64 * 8)
        .map_err(|e| format!("pagemap: {e}"))?;
    let entry = u64::from_le_bytes(entry);
    let frame = entry & ((1 << 55) - 1);
    if entry >> 63 == 0 || frame == 0 {
        return Err(format!("not in memory (pagemap {entry:#x})"));
    }
    Ok(frame)
}
