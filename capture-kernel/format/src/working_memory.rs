//! How much of the crash region the payload needs beside its segments.
//!
//! The payload has no heap: it carves its working memory from the crash region once, at start.
//! The tool reckons with the same figures when it loads, so that a region that is too small is
//! refused while there is time to reserve a larger one. What is missing above the least costs
//! speed, not pages: fewer CPUs work.

use crate::addr::FRAME_SIZE;

/// Bytes of pages that one chunk holds before compression.
pub const CHUNK_RAW: u64 = 256 << 10;
/// Bytes of a buffer for a finished chunk: its pages if nothing compresses, its header and runs.
pub const CHUNK_STORED: u64 = 264 << 10;
/// Bytes of a compressor's tables.
pub const CODEC_TABLES: u64 = 32 << 10;
/// Bytes of a worker's stack.
pub const WORKER_STACK: u64 = 32 << 10;
/// Bytes of a worker's stack for exceptions.
pub const WORKER_FAULT_STACK: u64 = 8 << 10;
/// The most CPUs that work beside the first one. More would wait for the device.
pub const MAX_WORKERS: usize = 15;

/// Finished chunks that each CPU has: one being filled, one being written.
const STORED_EACH: u64 = 2;
/// What a CPU compresses with, in bytes.
const COMPRESSING: u64 = CHUNK_RAW + CODEC_TABLES + STORED_EACH * CHUNK_STORED;
/// What each worker needs, in bytes: two unmapped frames guard its stacks.
pub const WORKER: u64 = COMPRESSING + WORKER_STACK + WORKER_FAULT_STACK + 2 * FRAME_SIZE;

/// Bytes of working memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Without this much nothing is captured as it should be.
    pub least: u64,
    /// With this much all CPUs work.
    pub wanted: u64,
}

/// Computes what a machine with `cpus` CPUs and `ram` bytes of memory needs: the least is one bit
/// for each frame and what one CPU compresses with.
pub const fn memory_needed(cpus: u64, ram: u64) -> MemoryNeed {
    let bitmap = ram.div_ceil(FRAME_SIZE).div_ceil(8);
    let least = bitmap
        .next_multiple_of(FRAME_SIZE)
        .saturating_add(COMPRESSING);
    MemoryNeed {
        least,
        wanted: least.saturating_add(workers_wanted(cpus).saturating_mul(WORKER)),
    }
}

/// How many of `cpus` CPUs work beside the first one, if `room` bytes are there to work in.
pub const fn workers_that_fit(cpus: u64, ram: u64, room: u64) -> u64 {
    let fit = room.saturating_sub(memory_needed(1, ram).least) / WORKER;
    let wanted = workers_wanted(cpus);
    if fit < wanted { fit } else { wanted }
}

const fn workers_wanted(cpus: u64) -> u64 {
    let others = cpus.saturating_sub(1);
    if others < MAX_WORKERS as u64 {
        others
    } else {
        MAX_WORKERS as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// What the segments leave of a region: payload, plan, elfcorehdr, and QEMU's device tree.
    fn room(region: u64) -> u64 {
        region - 9 * MIB / 4
    }

    #[test]
    fn eight_mebibytes_do_for_64_gibibytes_and_64_cpus() {
        assert!(memory_needed(64, 64 * GIB).least <= room(8 * MIB));
        assert_eq!(workers_that_fit(64, 64 * GIB, room(8 * MIB)), 3);
        assert_eq!(workers_that_fit(4, 4 * GIB, room(8 * MIB)), 3);
    }

    #[test]
    fn four_mebibytes_do_for_16_gibibytes_on_one_cpu() {
        assert!(memory_needed(64, 16 * GIB).least <= room(4 * MIB));
        assert!(memory_needed(64, 64 * GIB).least > room(4 * MIB));
    }

    #[test]
    fn each_cpu_adds_the_same_until_they_are_too_many() {
        let wanted = |cpus| memory_needed(cpus, GIB).wanted;
        assert_eq!(wanted(1), memory_needed(1, GIB).least);
        assert_eq!(wanted(3) - wanted(2), WORKER);
        assert_eq!(wanted(1 + MAX_WORKERS as u64), wanted(1000));
        for cpus in [1, 2, 16] {
            let fit = workers_that_fit(1000, GIB, wanted(cpus));
            assert_eq!(fit, cpus - 1);
            assert_eq!(
                workers_that_fit(1000, GIB, wanted(cpus) - 1),
                fit.saturating_sub(1)
            );
        }
        assert_eq!(
            memory_needed(u64::MAX, u64::MAX).least,
            memory_needed(1, u64::MAX).least
        );
    }
}
