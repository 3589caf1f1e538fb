//! The kernel log: from the ring buffer in the dumped memory; where that fails, as the payload
//! wrote it; where that is lost too, the black box's end of it.

use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::PhysMem;
use kdraw_linux::printk::PrintkLog;
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::black_box::text;
use crate::core_file::CoreFile;
use crate::partition::DumpPartition;
use crate::plain_core::{CoreWindow, core_len};
use crate::scan::Scan;

/// A log and where it is from.
#[derive(Debug)]
pub struct Log {
    /// The text.
    pub text: Vec<u8>,
    /// `ring buffer`, `kernel log chunks`, `black box` or `none`.
    pub origin: &'static str,
    /// Records of the ring buffer that could not be read.
    pub unreadable: u64,
    /// Why the ring buffer could not be used.
    pub trouble: Option<String>,
}

/// The log of a dump, given its memory and notes.
pub fn of(memory: impl PhysMem, notes: &[u8], scan: &Scan) -> Log {
    match from_ring(memory, notes) {
        Ok((text, unreadable)) if !text.is_empty() => Log {
            text,
            origin: "ring buffer",
            unreadable,
            trouble: None,
        },
        Ok(_) => without_ring(scan, "the ring buffer is empty".to_owned()),
        Err(trouble) => without_ring(scan, trouble),
    }
}

/// The log of a plain partition's core.
pub fn of_plain(partition: &DumpPartition, scan: &Scan) -> Log {
    match CoreFile::open(CoreWindow::new(partition, core_len(scan))) {
        Ok(core) => {
            let notes = match scan.notes.is_empty() {
                true => core.notes(),
                false => scan.notes.clone(),
            };
            of(core, &notes, scan)
        }
        Err(why) => without_ring(scan, why.to_string()),
    }
}

fn from_ring(memory: impl PhysMem, notes: &[u8]) -> Result<(Vec<u8>, u64), String> {
    let info = Vmcoreinfo::from_notes(notes).ok_or("the dump has no VMCOREINFO")?;
    let layout = KernelLayout::from_vmcoreinfo(&info).map_err(|why| why.to_string())?;
    let virt = VirtMem::new(memory, layout);
    let log = PrintkLog::open(&virt, &info).map_err(|why| why.to_string())?;
    let mut text = Vec::new();
    let summary = log.write(&mut |piece| text.extend_from_slice(piece));
    Ok((text, summary.unreadable))
}

/// The log without its buffer, which cannot be used: as the payload wrote it.
pub fn without_ring(scan: &Scan, trouble: String) -> Log {
    let tail = scan.black_box.as_ref().map(|found| &found.log_tail);
    let (text, origin) = match tail {
        _ if !scan.kernel_log.is_empty() => {
            (text(&scan.kernel_log).into_bytes(), "kernel log chunks")
        }
        Some(tail) if !tail.is_empty() => (tail.clone().into_bytes(), "black box"),
        _ => (Vec::new(), "none"),
    };
    Log {
        text,
        origin,
        unreadable: 0,
        trouble: Some(trouble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_chunks_does_not_steer_the_terminal() {
        let mut scan = Scan::default();
        scan.kernel_log = b"[1.0] a\tb\n\x1b[2J\0\xffc\n".to_vec();
        let log = without_ring(&scan, "lost".to_owned());
        let text = String::from_utf8(log.text).unwrap();
        assert_eq!(text, "[1.0] a\tb\n\u{fffd}[2J\u{fffd}c\n");
        assert_eq!(log.origin, "kernel log chunks");
    }
}
