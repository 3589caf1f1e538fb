//! Reads a slot's stream chunk by chunk, over damage and past it.
//!
//! A whole chunk says where the next one begins. Where none begins, the walk looks at every
//! following block until it finds a whole header of this dump that says it stands there.

use crate::chunk::{ChunkError, ChunkHeader, Kind, MAX_CHUNK};
use crate::layout::{BLOCK, SlotPlace};
use crate::slot::SlotHeader;

/// A read that failed: past the end, or an I/O error there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read at byte {offset}")]
pub struct ReadFailed {
    /// Where, in bytes from the source's start.
    pub offset: u64,
}

/// Something that bytes can be read from: a partition, an image file, a disk.
pub trait ReadAt {
    /// Fills `into` from byte `offset` on.
    ///
    /// # Errors
    /// [`ReadFailed`] if not all of it could be read.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed>;
}

impl<R: ReadAt + ?Sized> ReadAt for &mut R {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        (**self).read_at(offset, into)
    }
}

/// One thing met on the way.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// A whole chunk.
    Chunk {
        /// Its header.
        header: ChunkHeader,
        /// All its bytes; [`ChunkHeader::runs`] reads them.
        chunk: &'b [u8],
        /// Its stored data.
        data: &'b [u8],
    },
    /// A part of the stream that is lost.
    Lost {
        /// Where it begins, in bytes of the stream.
        from: u64,
        /// Where the walk goes on.
        to: u64,
        /// What was found there.
        why: ChunkError,
        /// The chunk's header, if that at least is whole: its runs say which frames are
        /// lost, and `chunk` has it.
        header: Option<ChunkHeader>,
        /// The block with the header, if `header` is there.
        chunk: &'b [u8],
    },
}

/// A walk over one slot's stream.
pub struct Walk<R> {
    source: R,
    stream_start: u64,
    limit: u64,
    closed: bool,
    dump_id: [u8; 16],
    at: u64,
    trailer_seen: bool,
}

/// Bytes of buffer that [`Walk::step`] needs.
pub const WALK_BUFFER: usize = MAX_CHUNK;

impl<R: ReadAt> Walk<R> {
    /// Starts at the stream of `slot`, whose header is `header`, on the partition `source`.
    pub fn new(source: R, slot: &SlotPlace, header: &SlotHeader) -> Self {
        let closed = header.stream_len != 0 && header.stream_len <= slot.stream_len();
        Self {
            source,
            stream_start: slot.stream_start().0,
            limit: if closed {
                header.stream_len
            } else {
                slot.stream_len()
            },
            closed,
            dump_id: header.dump_id,
            at: 0,
            trailer_seen: false,
        }
    }

    /// How far the walk has come, in bytes of the stream.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Where the walk will end at the latest, in bytes of the stream.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether the trailer was met: the dump was ended in order.
    pub fn trailer_seen(&self) -> bool {
        self.trailer_seen
    }

    /// Goes on by one step; `None` at the end. `buffer` has [`WALK_BUFFER`] bytes.
    pub fn step<'b>(&mut self, buffer: &'b mut [u8]) -> Option<Step<'b>> {
        if self.trailer_seen || self.at >= self.limit {
            return None;
        }
        let from = self.at;
        let header = match self.header_at(from, buffer) {
            Ok(header) => header,
            Err(why) => {
                let to = self.next_header(from.saturating_add(BLOCK as u64), buffer);
                self.at = to;
                // An open stream simply ends where nothing more is found: that part was
                // never written.
                if to >= self.limit && !self.closed {
                    return None;
                }
                return Some(Step::Lost {
                    from,
                    to,
                    why,
                    header: None,
                    chunk: &[],
                });
            }
        };
        let to = from.saturating_add(u64::from(header.chunk_len));
        self.at = to;
        let read = (to <= self.limit)
            .then(|| buffer.get_mut(BLOCK..header.chunk_len as usize))
            .flatten()
            .map(|rest| {
                let at = self
                    .stream_start
                    .saturating_add(from)
                    .saturating_add(BLOCK as u64);
                rest.is_empty() || self.source.read_at(at, rest).is_ok()
            });
        let buffer: &'b [u8] = buffer;
        let chunk = buffer.get(..header.chunk_len as usize).unwrap_or_default();
        let checked = match read {
            Some(true) => header.data(chunk),
            _ => Err(ChunkError::DataDamaged),
        };
        match checked {
            Ok(data) => {
                self.trailer_seen = header.kind == Kind::Trailer;
                Some(Step::Chunk {
                    header,
                    chunk,
                    data,
                })
            }
            Err(why) => {
                let chunk = buffer.get(..BLOCK).unwrap_or_default();
                Some(Step::Lost {
                    from,
                    to,
                    why,
                    header: Some(header),
                    chunk,
                })
            }
        }
    }

    /// Reads the header that should stand at `offset` into the buffer's first block.
    fn header_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<ChunkHeader, ChunkError> {
        let block = buffer.get_mut(..BLOCK).ok_or(ChunkError::TooLarge)?;
        self.source
            .read_at(self.stream_start.saturating_add(offset), block)
            .map_err(|_| ChunkError::NotAChunk)?;
        self.ours(offset, block)
    }

    /// Checks that `block` is a header of this dump that belongs at `offset`.
    fn ours(&self, offset: u64, block: &[u8]) -> Result<ChunkHeader, ChunkError> {
        let header = ChunkHeader::decode(block)?;
        if header.dump_id != self.dump_id {
            return Err(ChunkError::Stale);
        }
        if header.stream_offset != offset {
            return Err(ChunkError::Displaced);
        }
        Ok(header)
    }

    /// Finds the next header at or after `offset`; the limit if there is none.
    fn next_header(&mut self, mut offset: u64, buffer: &mut [u8]) -> u64 {
        while offset < self.limit {
            let len = (self.limit.saturating_sub(offset)).min(buffer.len() as u64);
            let len = (len as usize / BLOCK).saturating_mul(BLOCK);
            let at = self.stream_start.saturating_add(offset);
            let whole = len != 0
                && buffer
                    .get_mut(..len)
                    .is_some_and(|piece| self.source.read_at(at, piece).is_ok());
            // Where a long read fails, a bad block may be in it: go block by block.
            let len = if whole { len } else { BLOCK };
            for (index, block) in buffer.chunks_exact_mut(BLOCK).take(len / BLOCK).enumerate() {
                let here = offset.saturating_add((index as u64).saturating_mul(BLOCK as u64));
                let at = self.stream_start.saturating_add(here);
                let read = whole || self.source.read_at(at, block).is_ok();
                if read && ChunkHeader::looks_like(block) && self.ours(here, block).is_ok() {
                    return here;
                }
            }
            offset = offset.saturating_add(len as u64);
        }
        self.limit
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::chunk::{ChunkSpec, Codec, seal};
    use crate::layout::{DATA_START, Superblock};
    use crate::slot::Outcome;
    use std::vec;
    use std::vec::Vec;

    impl ReadAt for Vec<u8> {
        fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
            let from = offset as usize;
            let bytes = self
                .get(from..from + into.len())
                .ok_or(ReadFailed { offset })?;
            into.copy_from_slice(bytes);
            Ok(())
        }
    }

    /// A stream of `count` chunks of 8 KiB, the last a trailer, on a small partition.
    fn partition(count: u64, closed: bool) -> (Vec<u8>, SlotPlace, SlotHeader) {
        let mut disk = vec![0; 4 << 20];
        let superblock = Superblock::new([0; 16], 0, disk.len() as u64, 1, false).unwrap();
        let slot = superblock.slot(0).unwrap();
        let mut at = 0;
        for sequence in 0..count {
            let mut chunk = vec![sequence as u8; 8 << 10];
            let spec = ChunkSpec {
                kind: if sequence + 1 == count {
                    Kind::Trailer
                } else {
                    Kind::KernelLog
                },
                codec: Codec::Raw,
                dump_id: [1; 16],
                sequence,
                stream_offset: at,
                runs: &[],
                stored_len: 5000,
                raw_len: 5000,
            };
            let len = seal(&mut chunk, &spec).unwrap();
            let start = (slot.stream_start().0 + at) as usize;
            disk[start..start + len].copy_from_slice(&chunk[..len]);
            at += len as u64;
        }
        let header = SlotHeader {
            outcome: if closed {
                Outcome::Complete
            } else {
                Outcome::Writing
            },
            dump_id: [1; 16],
            stream_len: if closed { at } else { 0 },
            ..SlotHeader::default()
        };
        (disk, slot, header)
    }

    fn walk(
        disk: &mut Vec<u8>,
        slot: &SlotPlace,
        header: &SlotHeader,
    ) -> (Vec<u64>, Vec<(u64, u64)>, bool) {
        let mut walk = Walk::new(disk, slot, header);
        let mut buffer = vec![0; WALK_BUFFER];
        let (mut found, mut lost) = (Vec::new(), Vec::new());
        while let Some(step) = walk.step(&mut buffer) {
            match step {
                Step::Chunk { header, data, .. } => {
                    assert!(data.len() == 5000 && data.iter().all(|&b| b == header.sequence as u8));
                    found.push(header.sequence);
                }
                Step::Lost { from, to, .. } => lost.push((from, to)),
            }
        }
        (found, lost, walk.trailer_seen())
    }

    #[test]
    fn whole_stream_is_read_to_its_trailer() {
        for closed in [true, false] {
            let (mut disk, slot, header) = partition(9, closed);
            let all: Vec<u64> = (0..9).collect();
            assert_eq!(walk(&mut disk, &slot, &header), (all, vec![], true));
        }
    }

    #[test]
    fn damage_is_told_and_walked_over() {
        let base = (DATA_START + 2 * BLOCK as u64) as usize;
        // A header, a body, a header and its neighbour's body: each loses what it must.
        for (byte, len, gone, lost) in [
            (3 * 8192 + 20, 1, vec![3], vec![(3 * 8192, 4 * 8192)]),
            (3 * 8192 + 4096, 1, vec![3], vec![(3 * 8192, 4 * 8192)]),
            (3 * 8192, 8193, vec![3, 4], vec![(3 * 8192, 5 * 8192)]),
        ] {
            let (mut disk, slot, header) = partition(9, true);
            for at in &mut disk[base + byte..base + byte + len] {
                *at ^= 0x40;
            }
            let (found, told, trailer) = walk(&mut disk, &slot, &header);
            let expected: Vec<u64> = (0..9).filter(|s| !gone.contains(s)).collect();
            assert_eq!((found, told, trailer), (expected, lost, true));
        }
    }

    #[test]
    fn cut_stream_gives_its_prefix() {
        for closed in [true, false] {
            let (mut disk, slot, header) = partition(9, closed);
            disk.truncate((slot.stream_start().0 + 4 * 8192 + 100) as usize);
            let (found, lost, trailer) = walk(&mut disk, &slot, &header);
            assert_eq!(found, [0, 1, 2, 3]);
            assert!(!trailer);
            // Only a stream of known length can tell that its end is missing.
            assert_eq!(lost.len(), usize::from(closed));
        }
    }

    #[test]
    fn stale_and_displaced_chunks_are_not_ours() {
        let (mut disk, slot, mut header) = partition(9, false);
        let start = slot.stream_start().0 as usize;
        // Chunk 2 once more, in a block where none should begin.
        let copy = disk[start + 2 * 8192..start + 3 * 8192].to_vec();
        disk[start + 4 * 8192..start + 5 * 8192].copy_from_slice(&copy);
        let (found, lost, _) = walk(&mut disk, &slot, &header);
        assert_eq!(found, [0, 1, 2, 3, 5, 6, 7, 8]);
        assert_eq!(lost, [(4 * 8192, 5 * 8192)]);
        header.dump_id = [2; 16];
        assert_eq!(walk(&mut disk, &slot, &header).0, []);
    }
}
