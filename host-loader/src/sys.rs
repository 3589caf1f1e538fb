//! What neither std nor rustix offers: kexec_load(2), and how SIGPIPE is taken.
#![allow(unsafe_code)]

use std::io;

/// The image is for a crash, not for a reboot (`include/uapi/linux/kexec.h`).
const KEXEC_ON_CRASH: libc::c_ulong = 1;
/// The ELF machine number of arm64, in the upper half.
const KEXEC_ARCH_AARCH64: libc::c_ulong = 183 << 16;

/// A piece of memory to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What it is, for people.
    pub name: &'static str,
    /// Its content; the kernel zeroes the rest of it.
    pub bytes: Vec<u8>,
    /// Its physical address, page-aligned.
    pub address: u64,
    /// Bytes of memory, a multiple of the page size.
    pub memory_len: u64,
}

/// `struct kexec_segment`.
#[repr(C)]
struct KexecSegment {
    buf: *const libc::c_void,
    bufsz: libc::size_t,
    mem: *const libc::c_void,
    memsz: libc::size_t,
}

/// Replaces the crash image by `segments`, to be entered at `entry`; no segments: unloads it.
///
/// # Errors
/// What the kernel says; see kexec_load(2).
pub fn kexec_load_crash(entry: u64, segments: &[Segment]) -> io::Result<()> {
    let raw: Vec<KexecSegment> = segments
        .iter()
        .map(|segment| KexecSegment {
            buf: segment.bytes.as_ptr().cast(),
            bufsz: segment.bytes.len(),
            mem: std::ptr::without_provenance(segment.address as usize),
            memsz: segment.memory_len as usize,
        })
        .collect();
    // SAFETY: `raw` has `raw.len()` entries in the layout of struct kexec_segment, and each
    // entry's `buf` and `bufsz` are those of a live Vec in `segments`; the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            entry as libc::c_ulong,
            raw.len() as libc::c_ulong,
            raw.as_ptr(),
            KEXEC_ON_CRASH | KEXEC_ARCH_AARCH64,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets SIGPIPE end the program, as it ends others: `kdraw info … | head` is no failure. Rust's
/// runtime ignores the signal, and printing would panic.
pub fn end_with_reader() {
    // SAFETY: the default disposition runs none of our code; it fails for no valid signal.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
