//! Open files of every kind: the harness looks for them in the dump.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;

use crate::Result;

/// Opens them, one of them in `folder`, and prints the path that the kernel has for each:
/// `guest: open PID FD PATH`.
pub fn open(folder: &str) -> Result<Vec<OwnedFd>> {
    let deleted = format!("{folder}/deleted");
    let mut files: Vec<OwnedFd> = Vec::new();
    files.push(
        File::create(&deleted)
            .map_err(|e| format!("{deleted}: {e}"))?
            .into(),
    );
    std::fs::remove_file(&deleted).map_err(|e| format!("{deleted}: {e}"))?;
    for path in [folder, "/proc/self/ns/net", "/proc/self/maps", "/dev/null"] {
        files.push(File::open(path).map_err(|e| format!("{path}: {e}"))?.into());
    }
    let (one, other) = UnixStream::pair().map_err(|e| format!("socketpair: {e}"))?;
    files.extend([one.into(), other.into()]);
    files.push(
        UdpSocket::bind("0.0.0.0:0")
            .map_err(|e| format!("socket: {e}"))?
            .into(),
    );
    let event = rustix::event::eventfd(0, EventfdFlags::empty());
    files.push(event.map_err(|e| format!("eventfd: {e}"))?);
    let memory = rustix::fs::memfd_create("memory", MemfdFlags::empty());
    files.push(memory.map_err(|e| format!("memfd_create: {e}"))?);
    for file in &files {
        let (pid, fd) = (std::process::id(), file.as_raw_fd());
        let link = format!("/proc/self/fd/{fd}");
        let path = std::fs::read_link(&link).map_err(|e| format!("{link}: {e}"))?;
        println!("guest: open {pid} {fd} {}", path.display());
    }
    Ok(files)
}
