//! Physical memory with a memory: frames that were read once are kept.
//!
//! A dump unpacks a page, or a chunk of pages, for every read; whoever follows pointers reads
//! eight bytes at a time.

use std::cell::RefCell;
use std::collections::HashMap;

use kdraw_format::addr::{FRAME_SIZE, PhysAddr};
use kdraw_linux::memory::{PhysMem, Unreadable};

/// The most frames that are kept: 64 MiB.
const MAX_FRAMES: usize = 16 << 10;
/// Reads this long go past the cache: nobody asks for such a piece twice.
const LONG: usize = 64 << 10;

/// A frame, or that it is absent.
type Frame = Option<Box<[u8]>>;

/// A dump's memory. Absent frames are absent, never zeros.
pub struct PageCache<'a> {
    memory: &'a dyn PhysMem,
    frames: RefCell<HashMap<u64, Frame>>,
}

impl<'a> PageCache<'a> {
    /// Reads through to `memory`.
    pub fn new(memory: &'a dyn PhysMem) -> Self {
        Self {
            memory,
            frames: RefCell::default(),
        }
    }

    fn fetch(&self, frame: u64) -> Frame {
        let mut bytes = vec![0; FRAME_SIZE as usize];
        let at = PhysAddr(frame.saturating_mul(FRAME_SIZE));
        let read = self.memory.read(at, &mut bytes);
        read.is_ok().then(|| bytes.into_boxed_slice())
    }
}

impl PhysMem for PageCache<'_> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        if into.len() >= LONG {
            return self.memory.read(at, into);
        }
        let mut frames = self.frames.borrow_mut();
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let here = Unreadable { at };
            if frames.len() >= MAX_FRAMES {
                frames.clear();
            }
            let number = at.0 / FRAME_SIZE;
            let frame = frames.entry(number).or_insert_with(|| self.fetch(number));
            let inside = (at.0 % FRAME_SIZE) as usize;
            let bytes = frame.as_ref().and_then(|frame| frame.get(inside..));
            let bytes = bytes.ok_or(here)?;
            let len = bytes.len().min(rest.len());
            let (now, later) = rest.split_at_mut_checked(len).ok_or(here)?;
            now.copy_from_slice(bytes.get(..len).ok_or(here)?);
            at = at.checked_add(len as u64).ok_or(here)?;
            rest = later;
        }
        Ok(())
    }
}

impl std::fmt::Debug for PageCache<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let frames = self.frames.borrow().len();
        f.debug_struct("PageCache")
            .field("frames", &frames)
            .finish()
    }
}
