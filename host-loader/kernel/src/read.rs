//! Reads what a dead kernel left: tables of which nobody knows where they end, and text.

use kdraw_format::addr::{FRAME_SIZE, KernelVirtAddr};
use kdraw_linux::memory::PhysMem;
use kdraw_linux::translate::VirtMem;

/// Bytes from an address on, read a frame at a time as far as there are any.
pub struct Piecewise<'v, M> {
    virt: &'v VirtMem<M>,
    next: u64,
    piece: Vec<u8>,
    at: usize,
}

impl<'v, M: PhysMem> Piecewise<'v, M> {
    /// Starts at an address.
    pub fn new(virt: &'v VirtMem<M>, start: KernelVirtAddr) -> Self {
        Self {
            virt,
            next: start.0,
            piece: Vec::new(),
            at: 0,
        }
    }

    /// The next byte; `None` where memory is absent.
    pub fn byte(&mut self) -> Option<u8> {
        if self.at >= self.piece.len() {
            self.refill()?;
        }
        let byte = self.piece.get(self.at).copied();
        self.at = self.at.saturating_add(1);
        byte
    }

    /// The next `len` bytes, or fewer if memory is absent.
    pub fn up_to(mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len && self.refill().is_some() {
            bytes.extend_from_slice(&self.piece);
        }
        bytes.truncate(len);
        bytes
    }

    fn refill(&mut self) -> Option<()> {
        let len = FRAME_SIZE.saturating_sub(self.next % FRAME_SIZE);
        let mut piece = std::mem::take(&mut self.piece);
        piece.resize(len as usize, 0);
        self.virt.read(KernelVirtAddr(self.next), &mut piece).ok()?;
        self.next = self.next.checked_add(len)?;
        self.piece = piece;
        self.at = 0;
        Some(())
    }
}

/// Text of a dead kernel. A task may have named itself anything: what would steer a terminal, or is
/// not UTF-8, is replaced.
pub fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_steers_no_terminal() {
        assert_eq!(
            printable(b"a\x1b[2Jb\xff\n"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}"
        );
        assert_eq!(printable("kworker/0:1-é".as_bytes()), "kworker/0:1-é");
    }
}
