//! The end of a dump: index, trailer, and a plain core's checksums. Shortcuts and proofs;
//! a reader rebuilds everything but the proofs from the chunks alone.
//!
//! - Index data: checkpoints of 16 bytes, {sequence u64, stream offset u64}, evenly spaced.
//! - Trailer data: [`crate::records`] with the tags of [`tag`].
//! - CoreSums data: {piece length u64, core length u64}, then one XXH64 per piece. Frames that
//!   are zero in the core because they could not be read follow as the unreadable runs of a
//!   Pages chunk.

use crate::bytes::{Get, Put};
use crate::checksum::checksum;
use crate::chunk::Class;

/// The tags of the trailer's records.
pub mod tag {
    /// u64 × 4: frames stored, frames unreadable, ranges dropped, chunks before the trailer.
    pub const COUNTS: u16 = 1;
    /// Text: phases and the microseconds, since the payload's first instruction, at which
    /// each ended: `name=µs` lines.
    pub const PHASES: u16 = 2;
    /// Text: why the dump is not complete; absent if it is.
    pub const TRUNCATED: u16 = 3;
    /// u64 × 3 for each class that was found, see [`super::ClassCount`].
    pub const CLASSES: u16 = 4;
    /// Text: pages that were taken as kernel memory because something about them was
    /// implausible, and pages that were not read because they are broken or were given back:
    /// `reason=pages` lines; absent if there were none.
    pub const DOUBTS: u16 = 5;
    /// u64 × 2: CPUs that worked, CPUs that the machine has.
    pub const CPUS: u16 = 6;
    /// Text: what the target's device is and how it was run.
    pub const DEVICE: u16 = 7;
    /// u64 × 2: bytes written to the target before the trailer, and microseconds during which the
    /// device had something to do. It may have ended earlier than anybody looked.
    pub const WRITTEN: u16 = 8;
    /// Text: how many writes the device failed to do, and how; what they were to write was written
    /// again further on, if there was room. Absent if there were none.
    pub const FAILURES: u16 = 9;
}

/// Bytes of a [`ClassCount`].
pub const CLASS_COUNT: usize = 24;

/// What became of the frames of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCount {
    /// The class.
    pub class: Class,
    /// Frames of it in the evidence.
    pub found: u64,
    /// Frames of it in the dump: stored or told to be filled.
    pub kept: u64,
}

impl ClassCount {
    /// Writes {class u64, found u64, kept u64}.
    pub fn encode(&self) -> [u8; CLASS_COUNT] {
        let mut bytes = [0; CLASS_COUNT];
        let mut put = Put::new(&mut bytes);
        put.u64(self.class as u64).u64(self.found).u64(self.kept);
        put.finish();
        bytes
    }

    /// Reads the record's entries; those of unknown classes are passed over.
    pub fn decode_all(data: &[u8]) -> impl Iterator<Item = Self> {
        data.chunks_exact(CLASS_COUNT).filter_map(|bytes| {
            let mut get = Get::new(bytes);
            let class = usize::try_from(get.u64()).ok()?;
            Some(Self {
                class: *Class::ALL.get(class)?,
                found: get.u64(),
                kept: get.u64(),
            })
        })
    }
}

/// Why a core's checksum chunk cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("core checksums do not fit the core")]
pub struct BadCoreSums;

/// Checksums of a plain partition's ELF core, one per piece.
pub struct CoreSums<'a> {
    piece_len: u64,
    core_len: u64,
    sums: &'a [u8],
}

/// Bytes before the sums in a CoreSums chunk.
pub const CORE_SUMS_HEAD: usize = 16;

impl<'a> CoreSums<'a> {
    /// Writes the head of the chunk's data.
    pub fn head(piece_len: u64, core_len: u64) -> [u8; CORE_SUMS_HEAD] {
        let mut head = [0; CORE_SUMS_HEAD];
        Put::new(&mut head).u64(piece_len).u64(core_len).finish();
        head
    }

    /// Reads a chunk's data.
    ///
    /// # Errors
    /// [`BadCoreSums`] if the number of sums is not what the lengths ask for.
    pub fn decode(data: &'a [u8]) -> Result<Self, BadCoreSums> {
        let mut get = Get::new(data);
        let (piece_len, core_len) = (get.u64(), get.u64());
        let sums = data.get(CORE_SUMS_HEAD..).unwrap_or_default();
        let pieces = core_len
            .checked_add(piece_len.saturating_sub(1))
            .and_then(|sum| sum.checked_div(piece_len))
            .ok_or(BadCoreSums)?;
        if !get.finish() || pieces.checked_mul(8) != Some(sums.len() as u64) {
            return Err(BadCoreSums);
        }
        Ok(Self {
            piece_len,
            core_len,
            sums,
        })
    }

    /// Bytes in a piece; the last may be shorter.
    pub fn piece_len(&self) -> u64 {
        self.piece_len
    }

    /// Bytes in the core.
    pub fn core_len(&self) -> u64 {
        self.core_len
    }

    /// Whether piece `index` of the core has these bytes.
    pub fn matches(&self, index: usize, piece: &[u8]) -> bool {
        let sum = self.sums.chunks_exact(8).nth(index);
        sum == Some(&checksum(piece).to_le_bytes()[..])
    }
}

/// Checkpoints for the index: keeps at most `N`, evenly spaced, however long the dump gets.
pub struct Checkpoints<const N: usize> {
    kept: heapless::Vec<(u64, u64), N>,
    stride: u64,
}

impl<const N: usize> Default for Checkpoints<N> {
    fn default() -> Self {
        Self {
            kept: heapless::Vec::new(),
            stride: 1,
        }
    }
}

impl<const N: usize> Checkpoints<N> {
    /// Notes that chunk `sequence` stands at `stream_offset`.
    pub fn note(&mut self, sequence: u64, stream_offset: u64) {
        if sequence.checked_rem(self.stride) != Some(0) {
            return;
        }
        if self.kept.is_full() {
            // Every second one goes; from now on half as many come.
            self.stride = self.stride.saturating_mul(2);
            let stride = self.stride;
            self.kept
                .retain(|(sequence, _)| sequence.checked_rem(stride) == Some(0));
            if sequence.checked_rem(self.stride) != Some(0) {
                return;
            }
        }
        // Full only if N is 0 or 1: then there is nothing worth indexing.
        let _ = self.kept.push((sequence, stream_offset));
    }

    /// Writes the index chunk's data; returns its length.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let mut len = 0usize;
        for ((sequence, offset), place) in self.kept.iter().zip(out.chunks_exact_mut(16)) {
            Put::new(place).u64(*sequence).u64(*offset).finish();
            len = len.saturating_add(16);
        }
        len
    }
}

/// The checkpoints in an index chunk's data: (sequence, stream offset).
pub fn checkpoints(data: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    data.chunks_exact(16).map(|bytes| {
        let mut get = Get::new(bytes);
        (get.u64(), get.u64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_stay_even_and_few() {
        let mut kept = Checkpoints::<8>::default();
        for sequence in 0..1000 {
            kept.note(sequence, sequence * 10);
        }
        let mut out = [0; 128];
        let len = kept.encode(&mut out);
        let mut last = None;
        for (sequence, offset) in checkpoints(&out[..len]) {
            assert_eq!(offset, sequence * 10);
            assert_eq!(sequence, last.map_or(0, |last: u64| last + 128));
            last = Some(sequence);
        }
        assert_eq!(last, Some(896));
    }

    #[test]
    fn class_counts_round_trip_and_unknown_classes_are_passed_over() {
        let count = ClassCount {
            class: Class::Cache,
            found: 7,
            kept: 5,
        };
        let mut data = [0; 2 * CLASS_COUNT];
        data[..CLASS_COUNT].copy_from_slice(&count.encode());
        data[CLASS_COUNT] = 200;
        assert!(ClassCount::decode_all(&data).eq([count]));
    }

    #[test]
    fn core_sums_tell_a_changed_piece() {
        let mut data = [0; 32];
        data[..16].copy_from_slice(&CoreSums::head(4, 7));
        data[16..24].copy_from_slice(&checksum(b"abcd").to_le_bytes());
        data[24..].copy_from_slice(&checksum(b"efg").to_le_bytes());
        let sums = CoreSums::decode(&data).unwrap();
        assert!(sums.matches(0, b"abcd") && sums.matches(1, b"efg"));
        assert!(!sums.matches(1, b"efh") && !sums.matches(2, b""));
        assert!(CoreSums::decode(&data[..24]).is_err());
        assert!(CoreSums::decode(&[0; 16]).is_err());
    }
}
