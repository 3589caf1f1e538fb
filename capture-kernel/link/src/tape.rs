//! Records: the writes of which the tape consists.
//!
//! A record is one granule that tells it, then its bytes, filled up to a whole granule:
//!
//! | at | size | field |
//! |--|--|--|
//! | 0 | 4 | where: block of 4096 bytes in the image |
//! | 4 | 4 | length in bytes, of which the last may be zeros that are not sent |
//! | 8 | 4 | bytes that are sent |
//! | 12 | 1 | 1 write, 2 flush: all before it is to be made durable |
//! | 13 | 1 | reserved, 0 |
//! | 14 | 2 | the CRC-32C of bytes 0 to 13, its low half |

use crate::GRANULE;
use crate::crc::crc32c;

/// Bytes in a block of the image.
pub const BLOCK: u64 = 4096;
/// The most bytes of one write.
pub const MAX_LEN: u32 = 512 << 10;

const WRITE: u8 = 1;
const FLUSH: u8 = 2;

/// A record's first granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Bytes for the image.
    Write {
        /// Where: block of [`BLOCK`] bytes.
        block: u32,
        /// How many, at most [`MAX_LEN`].
        len: u32,
        /// How many of them are sent; the others are zeros.
        sent: u32,
    },
    /// All before it is to be made durable.
    Flush,
}

impl Record {
    /// The record that writes `bytes`; `None` if they are too many.
    pub fn write(block: u32, bytes: &[u8]) -> Option<Self> {
        let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let len = u32::try_from(bytes.len()).ok()?;
        let sent = len.saturating_sub(u32::try_from(zeros).ok()?);
        (len <= MAX_LEN).then_some(Self::Write { block, len, sent })
    }

    /// Bytes that follow the first granule.
    pub fn sent(&self) -> u32 {
        match self {
            Self::Write { sent, .. } => *sent,
            Self::Flush => 0,
        }
    }

    /// Granules of the whole record.
    pub fn granules(&self) -> u32 {
        self.sent().div_ceil(GRANULE as u32).saturating_add(1)
    }

    /// Writes the first granule.
    pub fn encode(&self) -> [u8; GRANULE] {
        let (block, len, sent, kind) = match *self {
            Self::Write { block, len, sent } => (block, len, sent, WRITE),
            Self::Flush => (0, 0, 0, FLUSH),
        };
        let words = [block, len, sent, u32::from(kind)];
        let mut granule = [0; GRANULE];
        for (place, word) in granule.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        let [head @ .., low, high] = &mut granule;
        [*low, *high, ..] = crc32c(0, head).to_le_bytes();
        granule
    }

    /// Reads it; `None` if no record begins like this.
    pub fn decode(granule: &[u8; GRANULE]) -> Option<Self> {
        let [head @ .., low, high] = granule;
        let [right_low, right_high, ..] = crc32c(0, head).to_le_bytes();
        let word = |at: usize| {
            let bytes = granule.as_chunks::<4>().0.get(at)?;
            Some(u32::from_le_bytes(*bytes))
        };
        let (block, len, sent) = (word(0)?, word(1)?, word(2)?);
        let sound = (*low, *high) == (right_low, right_high) && sent <= len && len <= MAX_LEN;
        match *granule.get(12)? {
            _ if !sound => None,
            WRITE => Some(Self::Write { block, len, sent }),
            FLUSH => Some(Self::Flush),
            _ => None,
        }
    }
}

/// What a granule of the tape is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'g> {
    /// The first of a record.
    Record(Record),
    /// Bytes of the record that was begun.
    Bytes(&'g [u8]),
}

/// Reads the tape granule by granule, from a record's first on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    left: u32,
}

impl Reader {
    /// Says what the next granule is; `None` if it is nothing.
    pub fn take<'g>(&mut self, granule: &'g [u8; GRANULE]) -> Option<Step<'g>> {
        if self.left == 0 {
            let record = Record::decode(granule)?;
            self.left = record.sent();
            return Some(Step::Record(record));
        }
        let bytes = granule.get(..self.left as usize).unwrap_or(granule);
        self.left = self.left.saturating_sub(bytes.len() as u32);
        Some(Step::Bytes(bytes))
    }

    /// Whether the record that was begun is whole.
    pub fn is_between(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;

    use super::*;

    #[test]
    fn records_round_trip_and_damage_shows() {
        let mut bytes = vec![0; 4096];
        bytes[17] = 1;
        let write = Record::write(9, &bytes).unwrap();
        assert_eq!((write.sent(), write.granules()), (18, 3));
        assert_eq!(Record::write(9, &[0; 4096]).unwrap().granules(), 1);
        assert_eq!(Record::write(9, &vec![0; (512 << 10) + 1]), None);
        for record in [write, Record::Flush] {
            let granule = record.encode();
            assert_eq!(Record::decode(&granule), Some(record));
            for bit in 0..128 {
                let mut bad = granule;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::decode(&bad), None, "bit {bit}");
            }
        }
        let absurd = Record::Write {
            block: 0,
            len: 5,
            sent: 6,
        };
        assert_eq!(Record::decode(&absurd.encode()), None);
    }
}
