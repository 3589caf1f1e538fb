//! LZ4 block compression without a heap.
//!
//! One call makes one *block*: sequences of literals and matches, no frame around them. Any LZ4
//! decoder reads it (`lz4_flex::block::decompress`, `LZ4_decompress_safe`).
//! Source: the block format (github.com/lz4/lz4, doc/lz4_Block_format.md).
//!
//! The matcher is greedy, with one table of positions by the hash of five bytes, and steps that
//! grow while nothing matches, as in the reference implementation's fast level. Unlike it, it
//! looks for matches at every fourth byte only, and then backwards: memory is made of aligned
//! words. That is two thirds of the work, for 5 % more bytes. Five bytes, since a word and the next
//! one's low byte find what differs in low bytes only, which is how arrays of small numbers and of
//! pointers look.
//!
//! It is written here, and not a library's, because bare-metal arm64 Rust compiles every load
//! that is not known to be aligned into byte loads (`strict-align`), and a matcher does little
//! else than such loads: they come through [`Unaligned`].

/// Loads and copies at any alignment.
///
/// [`Portable`] is correct everywhere; the payload has one of single instructions, which its
/// compiler would not emit for unaligned addresses.
pub trait Unaligned {
    /// Returns the little-endian number in the eight bytes from `at` on, if they are there.
    fn load(bytes: &[u8], at: usize) -> Option<u64>;

    /// Copies `from` to `to`.
    fn copy(from: &[u8; COPY], to: &mut [u8; COPY]);

    /// Returns `value`. Where cheap, it does so in a way that the compiler cannot see through:
    /// it would else keep several variables that grow in step.
    fn hide(value: usize) -> usize;
}

/// What the compiler makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Unaligned for Portable {
    fn load(bytes: &[u8], at: usize) -> Option<u64> {
        let word = bytes.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*word))
    }

    fn copy(from: &[u8; COPY], to: &mut [u8; COPY]) {
        *to = *from;
    }

    fn hide(value: usize) -> usize {
        value
    }
}

/// Bytes that are copied at once.
pub const COPY: usize = 32;
/// Bits of a hash.
const HASH_BITS: u32 = 13;
/// Bytes that are hashed.
const HASHED: u32 = 5;
/// Multiplier of the hash (2^64 over the golden ratio), shifted so that the other bytes of a
/// word fall out.
const HASH_FACTOR: u64 = 0x9e37_79b1_85eb_ca87 << (u64::BITS - 8 * HASHED);
/// Matches are looked for at multiples of this.
const GRID: usize = 4;
/// The step grows by [`GRID`] after so many positions without a match.
const PATIENCE: usize = 16;
/// The shortest match.
const MIN_MATCH: usize = 4;
/// The last bytes of a block are literals.
const LAST_LITERALS: usize = 5;
/// Matches begin further from the end than this. The format wants 12; with [`COPY`], the literals
/// before a match can always be copied at once.
const MATCH_LIMIT: usize = COPY;
/// What a length in a token's four bits cannot exceed: more follows in bytes of its own.
const TOKEN_MAX: usize = 15;

/// Where bytes with a hash were seen last: 16 KiB. Working memory only: it is cleared for every
/// block.
///
/// A position is kept in its low 16 bits, which is enough: a match is at most 65535 bytes back.
#[derive(Clone, Debug)]
pub struct Table([u16; 1 << HASH_BITS]);

impl Table {
    /// Makes a table.
    pub const fn new() -> Self {
        Self([0; 1 << HASH_BITS])
    }

    /// Notes that `word` was seen at `at`; returns how far back it may have been seen before,
    /// 0 if nothing is known.
    #[inline(always)]
    fn replace(&mut self, word: u64, at: usize) -> u16 {
        let hash = word.wrapping_mul(HASH_FACTOR) >> (u64::BITS - HASH_BITS);
        match self.0.get_mut(hash as usize) {
            Some(entry) => {
                let distance = (at as u16).wrapping_sub(*entry);
                *entry = at as u16;
                distance
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
/// `None` when the block may not fit: up to 64 bytes of `output` can be left unused then. The
/// same input gives the same block, whatever the table was used for before.
#[inline(never)]
pub fn compress<M: Unaligned>(input: &[u8], output: &mut [u8], table: &mut Table) -> Option<usize> {
    table.0.fill(0);
    let room = output.len();
    let mut output = output;
    let mut anchor = 0;
    if let Some(stop) = input.len().checked_sub(MATCH_LIMIT) {
        // The empty table says that everything was seen at 0.
        let mut at = GRID;
        while let Some(found) = search::<M>(input, table, at, stop) {
            let literals = found.at.checked_sub(anchor)?;
            let back = same_before::<M>(input, found.earlier, found.at).min(literals);
            let length = match found.difference {
                0 => same_after::<M>(input, found.at, found.distance)?,
                difference => equal_bytes(difference),
            };
            let sequence = Sequence {
                literals: literals.wrapping_sub(back),
                distance: found.distance,
                more: length.wrapping_add(back).wrapping_sub(MIN_MATCH),
            };
            output = sequence.write::<M>(input.get(anchor..)?, output)?;
            anchor = found.at.wrapping_add(length);
            at = anchor.wrapping_add(GRID - 1) & !(GRID - 1);
        }
    }
    let rest = input.get(anchor..)?;
    let unused = write_literals::<M>(rest, rest.len(), 0, output)?;
    Some(room.wrapping_sub(unused.len()))
}

/// Four bytes or more that were seen before.
struct Found {
    at: usize,
    earlier: usize,
    /// From the one to the other; not 0.
    distance: u16,
    /// The eight bytes from there on, exclusive or.
    difference: u64,
}

/// Looks for a match from `at` on and before `stop`.
#[inline(always)]
fn search<M: Unaligned>(
    input: &[u8],
    table: &mut Table,
    mut at: usize,
    stop: usize,
) -> Option<Found> {
    let mut step = GRID;
    loop {
        let pause = at.wrapping_add(step.wrapping_mul(PATIENCE)).min(stop);
        while at < pause {
            let here = M::load(input, at)?;
            let distance = table.replace(here, at);
            let earlier = at.checked_sub(usize::from(distance))?;
            let there = M::load(input, earlier)?;
            if here as u32 == there as u32 && M::hide(usize::from(distance)) != 0 {
                return Some(Found {
                    at,
                    earlier,
                    distance,
                    difference: here ^ there,
                });
            }
            at = M::hide(at.wrapping_add(step));
        }
        if pause == stop {
            return None;
        }
        step = step.wrapping_add(GRID);
    }
}

/// Counts the low bytes that are 0 in the exclusive or of two words.
#[inline(always)]
pub(crate) fn equal_bytes(difference: u64) -> usize {
    (difference.trailing_zeros() >> 3) as usize
}

/// Counts the bytes, at most eight, that are the same before `earlier` and before `later`.
#[inline(always)]
fn same_before<M: Unaligned>(input: &[u8], earlier: usize, later: usize) -> usize {
    let before = |at: usize| M::load(input, at.checked_sub(8)?);
    match (before(earlier), before(later)) {
        (Some(left), Some(right)) => ((left ^ right).leading_zeros() >> 3) as usize,
        _ => 0,
    }
}

/// Counts the bytes from `later` on that are the same as `distance` before, up to where the last
/// literals begin; the first eight are known to be.
#[inline(always)]
fn same_after<M: Unaligned>(input: &[u8], later: usize, distance: u16) -> Option<usize> {
    let distance = usize::from(distance);
    let end = input.len().checked_sub(LAST_LITERALS)?;
    let last = end.checked_sub(16)?;
    let by_eight = input.get(8..)?;
    let mut at = later.wrapping_add(8);
    while at <= last {
        let earlier = at.checked_sub(distance)?;
        let low = M::load(input, earlier)? ^ M::load(input, at)?;
        if low != 0 {
            let end = at.wrapping_add(equal_bytes(low));
            return Some(end.wrapping_sub(later));
        }
        let high = M::load(by_eight, earlier)? ^ M::load(by_eight, at)?;
        if high != 0 {
            let end = at.wrapping_add(8).wrapping_add(equal_bytes(high));
            return Some(end.wrapping_sub(later));
        }
        at = M::hide(at.wrapping_add(16));
    }
    while at < end && input.get(at) == input.get(at.wrapping_sub(distance)) {
        at = at.wrapping_add(1);
    }
    Some(at.wrapping_sub(later))
}

/// Literals, and a copy of four and `more` bytes from `distance` back.
struct Sequence {
    literals: usize,
    distance: u16,
    more: usize,
}

impl Sequence {
    /// Writes itself, its literals from the start of `from`; returns the room behind it.
    #[inline(always)]
    fn write<'a, M: Unaligned>(&self, from: &[u8], output: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let [low, high] = self.distance.to_le_bytes();
        if self.literals < TOKEN_MAX
            && self.more < TOKEN_MAX + 255
            && let Some([token, place @ ..]) = output.first_chunk_mut::<{ COPY + 4 }>()
        {
            M::copy(from.first_chunk()?, place.first_chunk_mut()?);
            let [first, second, third, ..] = place.get_mut(self.literals..)? else {
                return None;
            };
            (*first, *second) = (low, high);
            let len = self.literals.wrapping_add(3);
            if self.more < TOKEN_MAX {
                *token = (self.literals << 4 | self.more) as u8;
                return output.get_mut(len..);
            }
            *token = (self.literals << 4 | TOKEN_MAX) as u8;
            *third = self.more.wrapping_sub(TOKEN_MAX) as u8;
            return output.get_mut(len.wrapping_add(1)..);
        }
        write_long::<M>(from, self.literals, self.distance, self.more, output)
    }
}

/// Writes a sequence of any size.
#[inline(never)]
fn write_long<'a, M: Unaligned>(
    from: &[u8],
    literals: usize,
    distance: u16,
    more: usize,
    output: &'a mut [u8],
) -> Option<&'a mut [u8]> {
    let output = write_literals::<M>(from, literals, more, output)?;
    let (place, output) = output.split_first_chunk_mut()?;
    *place = distance.to_le_bytes();
    write_length::<M>(more, output)
}

/// Writes a token and its literals, the first bytes of `from`; returns the room behind them.
#[inline(always)]
fn write_literals<'a, M: Unaligned>(
    from: &[u8],
    literals: usize,
    more: usize,
    output: &'a mut [u8],
) -> Option<&'a mut [u8]> {
    let (token, output) = output.split_first_mut()?;
    *token = (literals.min(TOKEN_MAX) << 4 | more.min(TOKEN_MAX)) as u8;
    let output = write_length::<M>(literals, output)?;
    // At once as much as possible, if there is room for all of the last piece on both sides.
    let round = literals.div_ceil(COPY).wrapping_mul(COPY);
    match (from.get(..round), output.get_mut(..round)) {
        (Some(from), Some(to)) => {
            let pieces = from.as_chunks().0.iter().zip(to.as_chunks_mut().0);
            pieces.for_each(|(from, to)| M::copy(from, to));
        }
        _ => output
            .get_mut(..literals)?
            .copy_from_slice(from.get(..literals)?),
    }
    output.get_mut(literals..)
}

/// Writes what a token could not hold of a length; returns the room behind it.
#[inline(always)]
fn write_length<M: Unaligned>(length: usize, mut output: &mut [u8]) -> Option<&mut [u8]> {
    if let Some(mut rest) = length.checked_sub(TOKEN_MAX) {
        while rest >= 255 {
            let (byte, behind) = output.split_first_mut()?;
            *byte = 255;
            output = behind;
            // Hidden, or it becomes a call of memset.
            rest = M::hide(rest.wrapping_sub(255));
        }
        let (byte, behind) = output.split_first_mut()?;
        *byte = rest as u8;
        output = behind;
    }
    Some(output)
}

#[cfg(test)]
pub(crate) mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// What `compress` makes in `room` bytes, with bytes behind them that must not change.
    pub(crate) fn made_in(
        room: usize,
        compress: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<Vec<u8>> {
        let mut output = vec![0xa5; room + 64];
        let len = compress(&mut output[..room]);
        assert!(output[room..].iter().all(|&byte| byte == 0xa5));
        let len = len?;
        assert!(len <= room);
        output.truncate(len);
        Some(output)
    }

    fn compressed(input: &[u8], room: usize, table: &mut Table) -> Option<Vec<u8>> {
        made_in(room, |output| compress::<Portable>(input, output, table))
    }

    /// The most that a block can take: every byte a literal, and what is not used of the output.
    fn bound(len: usize) -> usize {
        len + len / 255 + 1 + 64
    }

    fn round_trip(input: &[u8], table: &mut Table) -> usize {
        let block = compressed(input, bound(input.len()), table).expect("it fits");
        let mut output = vec![0; input.len()];
        let len = lz4_flex::block::decompress_into(&block, &mut output).expect("a block");
        assert_eq!((len, &output[..]), (input.len(), input));
        block.len()
    }

    /// Numbers from nowhere: xorshift64.
    pub(crate) fn noise(len: usize) -> Vec<u8> {
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
    pub(crate) fn records(len: usize) -> Vec<u8> {
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

    /// Pieces, each of them repeated, and all of it twice.
    pub(crate) fn repeated() -> impl Strategy<Value = Vec<u8>> {
        let piece = (prop::collection::vec(any::<u8>(), 0..40), 1usize..400);
        prop::collection::vec(piece, 0..60).prop_map(|pieces| {
            let mut bytes = Vec::new();
            for (piece, times) in &pieces {
                for _ in 0..times.div_ceil(piece.len().max(1)) {
                    bytes.extend_from_slice(piece);
                }
            }
            bytes.extend_from_within(..);
            bytes
        })
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
        assert!(compressed(&input, need + 64, &mut table).is_some());
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
            input in repeated(),
            room in 0usize..20_000,
        ) {
            let mut table = Table::new();
            round_trip(&input, &mut table);
            compressed(&input, room, &mut table);
        }
    }
}
