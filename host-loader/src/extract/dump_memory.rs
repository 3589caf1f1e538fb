//! The dead kernel's memory, read from where the dump has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kdraw_format::addr::{FRAME_SIZE, PhysAddr};
use kdraw_format::chunk::ChunkHeader;
use kdraw_linux::memory::{PhysMem, Unreadable};

use crate::frame_index::{Place, StoredChunk};
use crate::partition::DumpPartition;
use crate::scan::Scan;
use crate::source::{SharedRead, Source};
use crate::unpack::unpack;

/// How many unpacked chunks are kept: 64 MiB of them at most. Whoever reads memory in the order
/// of frames needs one or a few of each class at a time.
const KEPT: usize = 128;

/// A chunk's raw data, or nothing if it cannot be had any more.
type Raw = Arc<OnceLock<Option<Vec<u8>>>>;

/// Physical memory over a scanned slot. Several threads may read at once.
pub struct DumpMemory<'a> {
    source: &'a Source,
    scan: &'a Scan,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    chunks: HashMap<u32, (u64, Raw)>,
    clock: u64,
}

impl<'a> DumpMemory<'a> {
    /// The memory in the dump that was scanned.
    pub fn new(partition: &'a DumpPartition, scan: &'a Scan) -> Self {
        Self {
            source: &partition.source,
            scan,
            cache: Mutex::default(),
        }
    }

    /// Reads bytes from where they lie together; returns how many.
    fn read_together(&self, at: PhysAddr, into: &mut [u8]) -> Option<usize> {
        let extent = self.scan.index.find(at.pfn())?;
        let skip = at.0 % FRAME_SIZE;
        let there = u64::from(extent.frames)
            .checked_mul(FRAME_SIZE)?
            .checked_sub(skip)?;
        let len = there.min(into.len() as u64) as usize;
        let into = into.get_mut(..len)?;
        match extent.place {
            Place::Filled(byte) => into.fill(byte),
            Place::Stored { chunk, frame } => {
                let raw = self.raw(chunk);
                let raw = raw.get_or_init(|| self.read_chunk(chunk)).as_deref()?;
                let from = u64::from(frame)
                    .checked_mul(FRAME_SIZE)?
                    .checked_add(skip)? as usize;
                into.copy_from_slice(raw.get(from..from.checked_add(len)?)?);
            }
        }
        Some(len)
    }

    /// The place of a chunk's raw data in the cache.
    fn raw(&self, number: u32) -> Raw {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.clock = cache.clock.wrapping_add(1);
        let now = cache.clock;
        if let Some((used, raw)) = cache.chunks.get_mut(&number) {
            *used = now;
            return raw.clone();
        }
        if cache.chunks.len() >= KEPT {
            let oldest = cache.chunks.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                cache.chunks.remove(&oldest);
            }
        }
        let raw = Raw::default();
        cache.chunks.insert(number, (now, raw.clone()));
        raw
    }

    /// Reads a chunk that was whole when it was scanned.
    fn read_chunk(&self, number: u32) -> Option<Vec<u8>> {
        let StoredChunk { at, len, .. } = *self.scan.index.chunk(number)?;
        let mut chunk = vec![0; len as usize];
        self.source.read_at(at.0, &mut chunk).ok()?;
        let header = ChunkHeader::decode(&chunk).ok()?;
        let stored = header.data(&chunk).ok()?;
        unpack(&header, stored).ok().map(Into::into)
    }
}

impl PhysMem for DumpMemory<'_> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let here = Unreadable { at };
            let len = self.read_together(at, rest).ok_or(here)?;
            (_, rest) = rest.split_at_mut_checked(len).ok_or(here)?;
            at = at.checked_add(len as u64).ok_or(here)?;
        }
        Ok(())
    }
}
