//! /proc/kcore: the running kernel's memory, as an ELF core file.
//!
//! Each range of RAM has a program header with its linear-map address in `p_vaddr` and its
//! physical one in `p_paddr`; the kernel image has one more; vmalloc and others have all ones for
//! a physical address. A note holds VMCOREINFO (since 4.19, 23c85094fe18). Reading needs
//! CAP_SYS_RAWIO and a kernel that is not locked down. Source: `fs/proc/kcore.c`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_linux::elf::{EHDR_LEN, PHDR_LEN};
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::error::Error;
use crate::load::elfcorehdr;
use crate::system::System;

const FILE: &str = "/proc/kcore";
const NEEDS: &str = "root, and a kernel with CONFIG_PROC_KCORE that is not locked down";
const IDENT: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `p_paddr` of what has no physical address.
const NOWHERE: u64 = u64::MAX;
/// The notes hold a `task_struct`, some KiB, and VMCOREINFO, up to a page.
const MAX_NOTES: u64 = 1 << 20;

/// The running kernel's physical memory and VMCOREINFO.
#[derive(Debug)]
pub struct Kcore {
    file: File,
    /// By virtual address.
    segments: Vec<Segment>,
    notes: Vec<u8>,
}

/// RAM, and where it is in the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    range: PhysRange,
    virt: u64,
    offset: u64,
}

impl Kcore {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::NotTold`] if the kernel has no such file or lets nobody read it, [`Error::Content`] if
    /// it is no core file or has no VMCOREINFO.
    pub fn open(system: &System) -> Result<Self, Error> {
        let path = system.path(FILE);
        let file = File::open(&path).map_err(Error::not_told("open", &path, NEEDS))?;
        let mut this = Self {
            file,
            segments: Vec::new(),
            notes: Vec::new(),
        };
        this.read_headers(&path)?;
        if this.vmcoreinfo().is_none() {
            this.notes = this.note_in_memory(system).unwrap_or_default();
        }
        if this.vmcoreinfo().is_none() {
            return Err(Error::Content {
                path,
                found: "no VMCOREINFO".to_owned(),
                expected: "a note with it, or its place in /sys/kernel/vmcoreinfo",
            });
        }
        Ok(this)
    }

    /// What the kernel says about itself; never `None` once opened.
    pub fn vmcoreinfo(&self) -> Option<Vmcoreinfo<'_>> {
        Vmcoreinfo::from_notes(&self.notes)
    }

    fn read_headers(&mut self, path: &PathBuf) -> Result<(), Error> {
        let mut header = [0; EHDR_LEN];
        let io = || Error::not_told("read", path, NEEDS);
        self.file.read_exact_at(&mut header, 0).map_err(io())?;
        let (at, size) = (word(&header, 32), half(&header, 54));
        if !header.starts_with(&IDENT) || usize::from(size) != PHDR_LEN {
            return Err(Error::Content {
                path: path.clone(),
                found: format!("{:02x?}", header.get(..16).unwrap_or_default()),
                expected: "the header of a 64-bit ELF core file",
            });
        }
        let mut headers = vec![0; PHDR_LEN.saturating_mul(half(&header, 56).into())];
        self.file.read_exact_at(&mut headers, at).map_err(io())?;
        for header in headers.chunks_exact(PHDR_LEN) {
            let kind = u32::from_le_bytes(array(header, 0));
            let (offset, len) = (word(header, 8), word(header, 32));
            let (virt, phys) = (word(header, 16), word(header, 24));
            if kind == PT_NOTE {
                self.notes = vec![0; usize::try_from(len.min(MAX_NOTES)).unwrap_or(0)];
                self.file
                    .read_exact_at(&mut self.notes, offset)
                    .map_err(io())?;
            } else if kind == PT_LOAD
                && phys != NOWHERE
                && let Some(range) = PhysRange::with_len(PhysAddr(phys), len)
            {
                self.segments.push(Segment {
                    range,
                    virt,
                    offset,
                });
            }
        }
        // The image is in RAM's segments too; the linear map, which lies below it, comes first.
        self.segments.sort_by_key(|segment| segment.virt);
        Ok(())
    }

    /// VMCOREINFO's note, where /sys/kernel/vmcoreinfo says that it is.
    fn note_in_memory(&self, system: &System) -> Option<Vec<u8>> {
        let (address, len) = elfcorehdr::notes(system).ok()?.pop()?;
        let mut note = vec![0; usize::try_from(len.min(MAX_NOTES)).ok()?];
        self.read(PhysAddr(address), &mut note).ok()?;
        Some(note)
    }

    fn read_piece(&self, at: PhysAddr, into: &mut [u8]) -> io::Result<usize> {
        let segment = self
            .segments
            .iter()
            .find(|segment| (segment.range.start..segment.range.end).contains(&at));
        let segment = segment.ok_or(io::ErrorKind::NotFound)?;
        let inside = at.0.saturating_sub(segment.range.start.0);
        let room = segment.range.len().saturating_sub(inside);
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(into.len());
        let into = into.get_mut(..len).unwrap_or_default();
        self.file
            .read_exact_at(into, segment.offset.saturating_add(inside))?;
        Ok(len)
    }
}

impl PhysMem for Kcore {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut done = 0usize;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let here = PhysAddr(at.0.saturating_add(done as u64));
            match self.read_piece(here, rest) {
                Ok(len) if len > 0 => done = done.saturating_add(len),
                _ => return Err(Unreadable { at }),
            }
        }
        Ok(())
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}
