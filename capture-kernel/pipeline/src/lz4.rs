//! LZ4 block compression without a heap.
//!
//! One call makes one *block*: sequences of literals and matches, no frame around them. Any LZ4
//! decoder reads it (`lz4_flex::block::decompress`, `LZ4_decompress_safe`). The matcher is the
//! greedy one of the reference implementation's fast level: one table of positions by the hash of
//! five bytes, and longer steps the longer nothing matched.
//! Source: the block format (github.com/lz4/lz4, doc/lz4_Block_format.md).
//!
//! It is written here, and not a library's, because bare-metal arm64 Rust compiles every load
//! that is not known to be aligned into byte loads (`strict-align`), and a matcher does little
//! else than such loads: they come through [`Unaligned`].

/// Loads and copies at any alignment.
///
/// [`Portable`] is correct everywhere; the payload has one of single instructions, which its
/// compiler would not emit for unaligned addresses.
pub trait Unaligned {
    /// Returns the little-endian number in `bytes`.
    fn load(bytes: &[u8; 8]) -> u64;

    /// Copies `from` to `to`.
    fn copy(from: &[u8; 32], to: &mut [u8; 32]);
}

/// What the compiler makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Unaligned for Portable {
    fn load(bytes: &[u8; 8]) -> u64 {
        u64::from_le_bytes(*bytes)
    }

    fn copy(from: &[u8; 32], to: &mut [u8; 32]) {
        *to = *from;
    }
}

/// Bits of a hash.
const HASH_BITS: u32 = 13;
/// Multiplier of the hash of five bytes (the reference implementation's), shifted so that the
/// other three fall out.
const HASH_FACTOR: u64 = 889_523_592_379 << 24;
/// The shortest match.
const MIN_MATCH: usize = 4;
/// The last bytes of a block are literals.
const LAST_LITERALS: usize = 5;
/// The last match begins at least this far from the end.
const MATCH_LIMIT: usize = 12;
/// The step is one more for every 2^SKIP positions without a match.
const SKIP: u32 = 6;
/// What a length in a token's four bits cannot exceed: more follows in bytes of its own.
const TOKEN_MAX: usize = 15;

/// Where bytes with a hash were seen last. Working memory only: it is cleared for every block.
///
/// A position is kept in its low 16 bits, which is enough: a match is at most 65535 bytes back.
#[derive(Clone, Debug)]
pub struct Table([u16; 1 << HASH_BITS]);

impl Table {
    /// Makes a table.
    pub const fn new() -> Self {
        Self([0; 1 << HASH_BITS])
    }

    /// Notes that `word` was seen at `at`; returns how far back it was seen before, modulo 2^16.
    #[inline(always)]
    fn replace(&mut self, word: u64, at: usize) -> usize {
        let hash = word.wrapping_mul(HASH_FACTOR) >> (u64::BITS - HASH_BITS);
        match self.0.get_mut(hash as usize) {
            Some(entry) => {
                let distance = (at as u16).wrapping_sub(*entry);
                *entry = at as u16;
                usize::from(distance)
            }
            None => 0,
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// Compresses `input` into `output` as one LZ4 block; returns its length.
///
/// `None` when the block may not fit: up to 32 bytes of `output` can be left unused then. The
/// same input gives the same block, whatever the table was used for before.
pub fn compress<M: Unaligned>(input: &[u8], output: &mut [u8], table: &mut Table) -> Option<usize> {
    table.0.fill(0);
    let mut block = Block { output, len: 0 };
    let mut anchor = 0;
    // The table says that everything was seen at 0, so the first position to look at is 1.
    let mut at = 1;
    while let Some((found, distance)) = search::<M>(input, table, at) {
        let earlier = found.wrapping_sub(distance);
        let room = found.wrapping_sub(anchor).min(earlier);
        let back = same_before(input, earlier, found, room);
        let start = found.wrapping_sub(back);
        let end = found.wrapping_add(same_after::<M>(input, earlier, found));
        block.sequence::<M>(input, anchor, start, distance, end.wrapping_sub(start))?;
        anchor = end;
        at = end;
        if let Some(word) = word::<M>(input, at.wrapping_sub(2)) {
            table.replace(word, at.wrapping_sub(2));
        }
    }
    block.last_literals::<M>(input, anchor)?;
    Some(block.len)
}

/// Loads eight bytes.
#[inline(always)]
fn word<M: Unaligned>(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(M::load)
}

/// Looks for a match from `at` on; returns where it begins and how far back its like is.
#[inline(always)]
fn search<M: Unaligned>(input: &[u8], table: &mut Table, mut at: usize) -> Option<(usize, usize)> {
    let last = input.len().checked_sub(MATCH_LIMIT)?;
    let mut steps = 1usize << SKIP;
    while at <= last {
        let here = word::<M>(input, at)?;
        let distance = table.replace(here, at);
        // What is remembered of an older block or from 65536 bytes ago is not within reach.
        let earlier = at.wrapping_sub(distance);
        if let Some(there) = word::<M>(input, earlier)
            && here as u32 == there as u32
            && distance != 0
        {
            return Some((at, distance));
        }
        at = at.wrapping_add(steps >> SKIP);
        steps = steps.wrapping_add(1);
    }
    None
}

/// Counts the bytes, at most `most`, that are the same before `earlier` and before `later`.
#[inline(always)]
fn same_before(input: &[u8], earlier: usize, later: usize, most: usize) -> usize {
    let mut same = 0;
    while same < most {
        let next = same.wrapping_add(1);
        if input.get(earlier.wrapping_sub(next)) != input.get(later.wrapping_sub(next)) {
            break;
        }
        same = next;
    }
    same
}

/// Counts the bytes that are the same from `earlier` on and from `later` on, up to where the last
/// literals begin.
#[inline(always)]
fn same_after<M: Unaligned>(input: &[u8], earlier: usize, later: usize) -> usize {
    let end = input.len().saturating_sub(LAST_LITERALS);
    let right = input.get(later..end).unwrap_or_default();
    let left = input.get(earlier..).unwrap_or_default();
    let (right_words, right_rest) = right.as_chunks::<8>();
    let mut same = 0usize;
    for (left, right) in left.as_chunks::<8>().0.iter().zip(right_words) {
        let difference = M::load(left) ^ M::load(right);
        if difference != 0 {
            return same.wrapping_add((difference.trailing_zeros() >> 3) as usize);
        }
        same = same.wrapping_add(8);
    }
    let left_rest = left.get(same..).unwrap_or_default();
    let equal = left_rest.iter().zip(right_rest).take_while(|(l, r)| l == r);
    same.wrapping_add(equal.count())
}

/// A block being written.
struct Block<'a> {
    output: &'a mut [u8],
    len: usize,
}

impl Block<'_> {
    /// Writes the literals from `anchor` to `start` and a match of `length` bytes.
    #[inline(always)]
    fn sequence<M: Unaligned>(
        &mut self,
        input: &[u8],
        anchor: usize,
        start: usize,
        distance: usize,
        length: usize,
    ) -> Option<()> {
        let more = length.wrapping_sub(MIN_MATCH);
        self.literals::<M>(input, anchor, start, more.min(TOKEN_MAX))?;
        let [low, high] = (distance as u16).to_le_bytes();
        self.byte(low)?;
        self.byte(high)?;
        self.length(more)
    }

    /// Writes what comes after the last match.
    fn last_literals<M: Unaligned>(&mut self, input: &[u8], anchor: usize) -> Option<()> {
        self.literals::<M>(input, anchor, input.len(), 0)
    }

    #[inline(always)]
    fn literals<M: Unaligned>(
        &mut self,
        input: &[u8],
        anchor: usize,
        start: usize,
        low: usize,
    ) -> Option<()> {
        let from = input.get(anchor..start)?;
        self.byte(((from.len().min(TOKEN_MAX) << 4) | low) as u8)?;
        self.length(from.len())?;
        let mut copied = 0usize;
        while copied < from.len() {
            let source = input.get(anchor.wrapping_add(copied)..)?;
            let place = self.output.get_mut(self.len.wrapping_add(copied)..)?;
            let (Some(from), Some(to)) = (source.first_chunk(), place.first_chunk_mut()) else {
                let rest = from.get(copied..)?;
                place.get_mut(..rest.len())?.copy_from_slice(rest);
                break;
            };
            M::copy(from, to);
            copied = copied.wrapping_add(32);
        }
        self.len = self.len.wrapping_add(from.len());
        Some(())
    }

    /// Writes what a token could not hold of a length.
    #[inline(always)]
    fn length(&mut self, length: usize) -> Option<()> {
        if let Some(mut rest) = length.checked_sub(TOKEN_MAX) {
            while rest >= 255 {
                self.byte(255)?;
                rest = rest.wrapping_sub(255);
            }
            self.byte(rest as u8)?;
        }
        Some(())
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) -> Option<()> {
        *self.output.get_mut(self.len)? = byte;
        self.len = self.len.wrapping_add(1);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// Compresses into `room` bytes, with bytes behind them that must not change.
    fn compressed(input: &[u8], room: usize, table: &mut Table) -> Option<Vec<u8>> {
        let mut output = vec![0xa5; room + 64];
        let len = compress::<Portable>(input, &mut output[..room], table);
        assert!(output[room..].iter().all(|&byte| byte == 0xa5));
        let len = len?;
        assert!(len <= room);
        output.truncate(len);
        Some(output)
    }

    /// The most that a block can take: every byte a literal, and what is not used of the output.
    fn bound(len: usize) -> usize {
        len + len / 255 + 1 + 32
    }

    fn round_trip(input: &[u8], table: &mut Table) -> usize {
        let block = compressed(input, bound(input.len()), table).expect("it fits");
        let mut output = vec![0; input.len()];
        let len = lz4_flex::block::decompress_into(&block, &mut output).expect("a block");
        assert_eq!((len, &output[..]), (input.len(), input));
        block.len()
    }

    /// Numbers from nowhere: xorshift64.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x1234_5678_9abc_def1u64;
        core::iter::from_fn(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some((state >> 24) as u8)
        })
        .take(len)
        .collect()
    }

    /// Records of 64 bytes as the kernel has them: a pointer, two small numbers, a name, zeros.
    fn records(len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in 0u64.. {
            bytes.extend_from_slice(&(0xffff_8000_0000_0000 | (number * 2654435761)).to_le_bytes());
            bytes.extend_from_slice(&(number % 7).to_le_bytes());
            bytes.extend_from_slice(&(number * number % 1000).to_le_bytes());
            bytes.extend_from_slice(b"kworker/u4:2-events_unbo");
            bytes.extend_from_slice(&[0; 16]);
            if bytes.len() >= len {
                break;
            }
        }
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn every_short_length_comes_back() {
        let mut table = Table::new();
        for len in 0..100 {
            round_trip(&vec![7; len], &mut table);
            round_trip(&noise(len), &mut table);
            round_trip(&records(len), &mut table);
            let two: Vec<u8> = [&noise(len)[..], &noise(len)[..]].concat();
            round_trip(&two, &mut table);
        }
    }

    #[test]
    fn pages_come_back_smaller() {
        let mut table = Table::new();
        let len = 256 << 10;
        assert!(round_trip(&vec![0; len], &mut table) < 1100);
        assert!(round_trip(&records(len), &mut table) < len * 2 / 5);
        // The like of each byte is 48 KiB back, and nowhere else.
        let far: Vec<u8> = noise(48 << 10).into_iter().cycle().take(len).collect();
        assert!(round_trip(&far, &mut table) < 60 << 10);
        // What is 64 KiB back is out of reach.
        let too_far: Vec<u8> = noise(64 << 10).into_iter().cycle().take(len).collect();
        assert!(round_trip(&too_far, &mut table) >= len);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut table = Table::new();
        assert_eq!(compressed(&noise(4096), 4096, &mut table), None);
        assert_eq!(compressed(&[], 0, &mut table), None);
        let input = records(8192);
        let need = compressed(&input, bound(input.len()), &mut table)
            .expect("it fits")
            .len();
        for room in 0..need {
            assert_eq!(compressed(&input, room, &mut table), None, "{room}");
        }
        assert!(compressed(&input, need + 32, &mut table).is_some());
    }

    #[test]
    fn a_used_table_changes_nothing() {
        let mut table = Table::new();
        let input = records(70_000);
        let first = compressed(&input, 100_000, &mut table);
        compressed(&noise(200_000), 300_000, &mut table);
        assert_eq!(compressed(&input, 100_000, &mut table), first);
    }

    proptest! {
        #[test]
        fn anything_comes_back(
            pieces in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..40), 1usize..400),
                0..60,
            ),
            room in 0usize..20_000,
        ) {
            // Each piece is repeated, and all of it comes twice.
            let mut input = Vec::new();
            for (piece, times) in &pieces {
                for _ in 0..times.div_ceil(piece.len().max(1)) {
                    input.extend_from_slice(piece);
                }
            }
            input.extend_from_within(..);
            let mut table = Table::new();
            round_trip(&input, &mut table);
            compressed(&input, room, &mut table);
        }
    }
}
