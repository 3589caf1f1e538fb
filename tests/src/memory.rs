//! A crashed kernel's memory: two ranges of reproducible frames, some of which fault.

use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};
use kdraw_linux::memory::{PhysMem, Unreadable};

/// Bytes in a frame.
pub const FRAME: usize = FRAME_SIZE as usize;
/// The RAM: first frame, frame after the last.
pub const RAM: [(u64, u64); 2] = [(0x40000, 0x40150), (0x40180, 0x401a0)];

/// A random number generator for tests, the same on every run (xorshift64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }
}

/// The frames that hold text, which shrinks; all of a chunk's.
const TEXT: core::ops::Range<u64> = 0x40040..0x400a0;

/// What a frame holds: mostly noise, some of them text, every seventh zeros.
pub fn frame(pfn: u64) -> Vec<u8> {
    if pfn.is_multiple_of(7) {
        return vec![0; FRAME];
    }
    if TEXT.contains(&pfn) {
        let text = (0..).flat_map(|line| format!("line {line} of frame {pfn:#x}\n").into_bytes());
        return text.take(FRAME).collect();
    }
    let mut random = Random(pfn.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..FRAME / 8)
        .flat_map(|_| random.draw().to_le_bytes())
        .collect()
}

/// All frames of [`RAM`].
pub fn frames() -> impl Iterator<Item = u64> {
    RAM.into_iter().flat_map(|(first, end)| first..end)
}

/// The ranges of [`RAM`] in bytes.
pub fn ranges() -> [PhysRange; 2] {
    RAM.map(|(first, end)| PhysRange {
        start: PhysAddr(first * FRAME_SIZE),
        end: PhysAddr(end * FRAME_SIZE),
    })
}

/// The memory; frames in `unreadable` fault.
#[derive(Clone, Debug, Default)]
pub struct FakeMemory {
    /// The frames that fault.
    pub unreadable: Vec<u64>,
}

impl PhysMem for FakeMemory {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = at.0;
        let mut rest = into;
        while !rest.is_empty() {
            let (pfn, skip) = (at / FRAME_SIZE, (at % FRAME_SIZE) as usize);
            let there = RAM.iter().any(|(first, end)| (*first..*end).contains(&pfn));
            if !there || self.unreadable.contains(&pfn) {
                return Err(Unreadable { at: PhysAddr(at) });
            }
            let (now, later) = rest.split_at_mut(rest.len().min(FRAME - skip));
            now.copy_from_slice(&frame(pfn)[skip..skip + now.len()]);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}
