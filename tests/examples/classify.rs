//! Classifies the pages of an ELF vmcore over and over, for `cargo xtask bench`.
//!
//! ```text
//! classify VMCORE PASSES
//! ```
//!
//! Prints how many pages there are and the seconds that each pass took. The whole file is held in
//! memory, as the payload has it; the difference of two runs with different numbers of passes,
//! under callgrind, is what a pass executes.

use std::time::Instant;

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_linux::classify::Classifier;
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

/// PT_LOAD and PT_NOTE (elf(5)).
const LOAD: u64 = 1;
const NOTE: u64 = 4;

/// An ELF vmcore in memory, and what of physical memory it has: where, and from which byte on.
struct Vmcore {
    bytes: Vec<u8>,
    loads: Vec<(PhysRange, usize)>,
}

impl PhysMem for Vmcore {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let end = at.0 + into.len() as u64;
        let load = self
            .loads
            .iter()
            .find(|(range, _)| range.start <= at && end <= range.end.0);
        let (range, offset) = load.ok_or(Unreadable { at })?;
        let from = offset + (at.0 - range.start.0) as usize;
        into.copy_from_slice(&self.bytes[from..from + into.len()]);
        Ok(())
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the vmcore");
    let passes: u32 = arguments
        .next()
        .and_then(|n| n.parse().ok())
        .expect("passes");
    let bytes = std::fs::read(&path).expect("the vmcore can be read");
    let number = |at: usize, len: usize| {
        let mut word = [0; 8];
        word[..len].copy_from_slice(&bytes[at..at + len]);
        u64::from_le_bytes(word)
    };
    let mut notes = Vec::new();
    let mut loads: Vec<(PhysRange, usize)> = Vec::new();
    for index in 0..number(56, 2) as usize {
        let header = number(32, 8) as usize + index * 56;
        let (offset, start) = (number(header + 8, 8), number(header + 24, 8));
        let length = number(header + 32, 8);
        let range = PhysRange {
            start: PhysAddr(start),
            end: PhysAddr(start + length),
        };
        match number(header, 4) {
            NOTE => notes = bytes[offset as usize..(offset + length) as usize].to_vec(),
            LOAD => loads.push((range, offset as usize)),
            _ => {}
        }
    }
    // The kernel's image is there a second time, as a load of its own.
    let inside = |(inner, _): &(PhysRange, usize)| {
        loads.iter().any(|(outer, _)| {
            outer != inner && outer.start <= inner.start && inner.end <= outer.end
        })
    };
    let pieces: Vec<_> = loads.iter().filter(|load| !inside(load)).cloned().collect();
    let vmcore = Vmcore {
        bytes,
        loads: pieces,
    };
    let info = Vmcoreinfo::from_notes(&notes).expect("VMCOREINFO");
    let layout = KernelLayout::from_vmcoreinfo(&info).expect("the kernel's layout");
    let virt = VirtMem::new(&vmcore, layout);
    let classifier = Classifier::new(&virt, &info).expect("a kernel that can be classified");
    for pass in 0..passes {
        let started = Instant::now();
        let mut frames = 0;
        for (range, _) in &vmcore.loads {
            for span in classifier.spans(&virt, *range) {
                frames += std::hint::black_box(span).frames;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("pass {pass}: {frames} pages, {seconds:.6} s");
    }
}
