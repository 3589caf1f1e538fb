//! Deflate compression without a heap, for slow targets.
//!
//! One call makes one raw stream (RFC 1951), with no header around it: any inflate reads it. It is
//! a third smaller than an LZ4 block and twenty times the work (docs/design.md, "How pages are
//! packed").
//!
//! The matcher keeps chains of earlier places by the hash of four bytes, and looks one byte ahead
//! for a longer match before it takes one, as zlib's middle levels do. The literals and matches
//! are gathered; every 8192 of them make a block with Huffman codes of its own. There are no other
//! blocks: a chunk that does not shrink is stored raw.
//!
//! It is written here, and not a library's, because those in Rust keep their state on the heap
//! (`miniz_oxide` has no compressor without `alloc`). This one works in memory that it is given.

use kdraw_format::working_memory::DEFLATE;

use crate::lz4::{Unaligned, equal_bytes};

/// Bits of a hash.
const HASH_BITS: u32 = 13;
/// Bytes that can be copied from: a match is less than this far back.
const WINDOW: usize = 32 << 10;
/// Literals and matches in one block, at the most.
const TOKENS: usize = 8 << 10;
/// Bytes that a [`Deflater`] works in.
const MEMORY: usize = (2 << HASH_BITS) + 2 * WINDOW + 4 * TOKENS;
const _: () = assert!(MEMORY as u64 == DEFLATE);

/// The shortest match that is looked for.
const MIN_MATCH: usize = 4;
/// The longest that there can be.
const MAX_MATCH: usize = 258;
/// No match of this length or more is improved upon.
const LONG_ENOUGH: usize = 64;
/// How many earlier places are looked at.
const DEPTH: usize = 8;
/// Matches begin further from the end than this, so that words can be read.
const WORD: usize = 8;

/// Symbols of literals, the end of a block, and lengths.
const LITERALS: usize = 286;
/// Symbols of distances.
const DISTANCES: usize = 30;
/// Symbols of code lengths.
const LENGTHS: usize = 19;
/// The end of a block; symbols of lengths follow.
const END: usize = 256;
/// The longest codes, in bits: of literals and distances, and of code lengths.
const LONGEST: u8 = 15;
const LONGEST_OF_LENGTHS: u8 = 7;

/// The compressor. The same input gives the same stream, whatever it was used for before.
pub struct Deflater<'m> {
    /// Where four bytes with a hash were seen last: the low 16 bits of the position.
    heads: &'m mut [u16],
    /// Of each position in the window: where the same hash was seen before it.
    before: &'m mut [u16],
    tokens: Tokens<'m>,
}

/// What will be a block.
struct Tokens<'m> {
    /// Literals, or length << 16 | distance.
    list: &'m mut [u32],
    used: usize,
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
}

/// A copy of bytes from further back.
#[derive(Clone, Copy)]
struct Match {
    len: usize,
    distance: usize,
}

impl<'m> Deflater<'m> {
    /// Takes memory of any content; `None` if it has fewer than [`DEFLATE`] bytes.
    pub fn new(memory: &'m mut [u64]) -> Option<Self> {
        let memory: &mut [u8] = bytemuck::try_cast_slice_mut(memory).ok()?;
        let (heads, rest) = memory.split_at_mut_checked(2 << HASH_BITS)?;
        let (before, rest) = rest.split_at_mut_checked(2 * WINDOW)?;
        let list = rest.get_mut(..4 * TOKENS)?;
        Some(Self {
            heads: bytemuck::try_cast_slice_mut(heads).ok()?,
            before: bytemuck::try_cast_slice_mut(before).ok()?,
            tokens: Tokens {
                list: bytemuck::try_cast_slice_mut(list).ok()?,
                used: 0,
                literals: [0; LITERALS],
                distances: [0; DISTANCES],
            },
        })
    }

    /// Compresses `input` into `output`; returns the stream's length, or `None` when it may not
    /// fit: three bytes of `output` can be left unused then.
    #[inline(never)]
    pub fn compress<M: Unaligned>(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        self.heads.fill(0);
        self.tokens.clear();
        let mut bits = Bits::new(output);
        let stop = input.len().saturating_sub(WORD);
        // The match at the byte before `at`, if one was found there and not taken yet.
        let mut held: Option<Match> = None;
        let mut at = 0;
        while at < stop {
            let least = held.map_or(MIN_MATCH - 1, |held| held.len);
            let found = match least < LONG_ENOUGH {
                true => self.search::<M>(input, at, least),
                false => None,
            };
            self.insert::<M>(input, at)?;
            let next = at.wrapping_add(1);
            match (held, found) {
                (Some(taken), None) => {
                    self.tokens.copy(taken, &mut bits)?;
                    let end = at.wrapping_sub(1).wrapping_add(taken.len);
                    for passed in next..end.min(stop) {
                        self.insert::<M>(input, passed)?;
                    }
                    (at, held) = (end, None);
                }
                (Some(_), Some(_)) => {
                    let literal = *input.get(at.wrapping_sub(1))?;
                    self.tokens.literal(literal, &mut bits)?;
                    (at, held) = (next, found);
                }
                (None, Some(_)) => (at, held) = (next, found),
                (None, None) => {
                    self.tokens.literal(*input.get(at)?, &mut bits)?;
                    at = next;
                }
            }
        }
        if held.is_some() {
            at = at.wrapping_sub(1);
        }
        for literal in input.get(at..)? {
            self.tokens.literal(*literal, &mut bits)?;
        }
        self.tokens.end_block(true, &mut bits)?;
        bits.finish()
    }

    /// Notes that the bytes at `at` were seen.
    #[inline(always)]
    fn insert<M: Unaligned>(&mut self, input: &[u8], at: usize) -> Option<()> {
        let head = self.heads.get_mut(hash(M::load(input, at)?))?;
        *self.before.get_mut(at % WINDOW)? = *head;
        *head = at as u16;
        Some(())
    }

    /// Looks for a match at `at` of more than `least` bytes.
    #[inline(always)]
    fn search<M: Unaligned>(&self, input: &[u8], at: usize, least: usize) -> Option<Match> {
        let here = M::load(input, at)?;
        let mut place = *self.heads.get(hash(here))?;
        let (mut best, mut distance) = (None, 0);
        let mut longest = least;
        let mut beyond = input.get(at.wrapping_add(longest));
        for _ in 0..DEPTH {
            // The empty table says that everything was seen at 0. Places beyond the window have
            // been overwritten by later ones: there the chain would turn back.
            let further = usize::from((at as u16).wrapping_sub(place));
            if further <= distance || further >= WINDOW {
                break;
            }
            distance = further;
            let Some(earlier) = at.checked_sub(distance) else {
                break;
            };
            if input.get(earlier.wrapping_add(longest)) == beyond {
                let len = same::<M>(input, earlier, at, here);
                if len > longest {
                    best = Some(Match { len, distance });
                    longest = len;
                    if len >= LONG_ENOUGH {
                        break;
                    }
                    beyond = input.get(at.wrapping_add(longest));
                }
            }
            place = *self.before.get(earlier % WINDOW)?;
        }
        best
    }
}

#[inline(always)]
fn hash(word: u64) -> usize {
    ((word as u32).wrapping_mul(0x9e37_79b1) >> (u32::BITS - HASH_BITS)) as usize
}

/// Counts the bytes, at most [`MAX_MATCH`], that are the same from `earlier` and from `later` on,
/// where the word `here` is. In the last word of `input` there may be more.
#[inline(always)]
fn same<M: Unaligned>(input: &[u8], earlier: usize, later: usize, here: u64) -> usize {
    let mut len = 0usize;
    let mut word = Some(here);
    while len < MAX_MATCH {
        let (Some(left), Some(right)) = (M::load(input, earlier.wrapping_add(len)), word) else {
            return len;
        };
        if left != right {
            return len.wrapping_add(equal_bytes(left ^ right)).min(MAX_MATCH);
        }
        len = len.wrapping_add(WORD);
        word = M::load(input, later.wrapping_add(len));
    }
    MAX_MATCH
}

/// Finds the symbol of a length or distance from the smallest on, and how many of its low bits
/// follow: each power of two has 1 << `fine` symbols.
fn symbol(value: usize, fine: u32) -> (usize, u32) {
    let bits = (value | 1).ilog2().saturating_sub(fine);
    let symbol = ((bits as usize) << fine).wrapping_add(value >> bits);
    (symbol, bits)
}

/// The symbol of a match's length, and how many of the low bits of `len - 3` follow.
fn length_symbol(len: usize) -> (usize, u32) {
    match len {
        MAX_MATCH => (LITERALS - 1, 0),
        _ => {
            let (symbol, bits) = symbol(len.wrapping_sub(3), 2);
            (symbol.wrapping_add(END + 1), bits)
        }
    }
}

/// The symbol of a distance, and how many of the low bits of `distance - 1` follow.
fn distance_symbol(distance: usize) -> (usize, u32) {
    symbol(distance.wrapping_sub(1), 1)
}

impl Tokens<'_> {
    fn clear(&mut self) {
        self.used = 0;
        self.literals.fill(0);
        self.distances.fill(0);
    }

    fn literal(&mut self, byte: u8, bits: &mut Bits<'_>) -> Option<()> {
        count(self.literals.get_mut(usize::from(byte)))?;
        self.push(u32::from(byte), bits)
    }

    fn copy(&mut self, Match { len, distance }: Match, bits: &mut Bits<'_>) -> Option<()> {
        count(self.literals.get_mut(length_symbol(len).0))?;
        count(self.distances.get_mut(distance_symbol(distance).0))?;
        self.push((len << 16 | distance) as u32, bits)
    }

    fn push(&mut self, token: u32, bits: &mut Bits<'_>) -> Option<()> {
        *self.list.get_mut(self.used)? = token;
        self.used = self.used.wrapping_add(1);
        match self.used < self.list.len() {
            true => Some(()),
            false => self.end_block(false, bits),
        }
    }

    /// Writes what there is as a block with codes of its own.
    fn end_block(&mut self, last: bool, bits: &mut Bits<'_>) -> Option<()> {
        count(self.literals.get_mut(END))?;
        let literals = Code::new(&mut self.literals, LONGEST)?;
        let distances = Code::new(&mut self.distances, LONGEST)?;
        bits.put(u64::from(last), 1)?;
        // Codes of its own; all symbols are told.
        bits.put(2, 2)?;
        bits.put(const { LITERALS as u64 - 257 }, 5)?;
        bits.put(const { DISTANCES as u64 - 1 }, 5)?;
        put_lengths(&literals.lens, &distances.lens, bits)?;
        for token in self.list.get(..self.used)? {
            let (len, low) = ((token >> 16) as usize, (token & 0xffff) as usize);
            if len == 0 {
                literals.put(low, bits)?;
                continue;
            }
            let (symbol, more) = length_symbol(len);
            literals.put(symbol, bits)?;
            bits.put_low(len.wrapping_sub(3), more)?;
            let (symbol, more) = distance_symbol(low);
            distances.put(symbol, bits)?;
            bits.put_low(low.wrapping_sub(1), more)?;
        }
        literals.put(END, bits)?;
        self.clear();
        Some(())
    }
}

fn count(place: Option<&mut u32>) -> Option<()> {
    let place = place?;
    *place = place.wrapping_add(1);
    Some(())
}

/// Writes the lengths of both codes, in codes of their own; runs of the same length are told by
/// how long they are.
fn put_lengths(literals: &[u8], distances: &[u8], bits: &mut Bits<'_>) -> Option<()> {
    /// In which order the lengths of this code's codes are.
    const ORDER: [usize; LENGTHS] = [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ];
    // Symbol, what follows it, in how many bits.
    let mut told: heapless::Vec<(u8, u8, u32), { LITERALS + DISTANCES }> = heapless::Vec::new();
    let mut counts = [0; LENGTHS];
    let mut lens = literals.iter().chain(distances).copied().peekable();
    while let Some(len) = lens.next() {
        let most = if len == 0 { 138 } else { 7 };
        let mut run = 1u8;
        while run < most && lens.next_if_eq(&len).is_some() {
            run = run.wrapping_add(1);
        }
        // A length that is not 0 is told once before it is repeated.
        let repeated = if len == 0 { run } else { run.wrapping_sub(1) };
        let repeat = match (len, repeated) {
            (0, 11..) => Some((18, repeated.wrapping_sub(11), 7)),
            (0, 3..) => Some((17, repeated.wrapping_sub(3), 3)),
            (_, 3..) => Some((16, repeated.wrapping_sub(3), 2)),
            _ => None,
        };
        let plain = match repeat {
            Some(_) => run.wrapping_sub(repeated),
            None => run,
        };
        for one in core::iter::repeat_n((len, 0, 0), plain.into()).chain(repeat) {
            count(counts.get_mut(usize::from(one.0)))?;
            told.push(one).ok()?;
        }
    }
    let code = Code::new(&mut counts, LONGEST_OF_LENGTHS)?;
    bits.put(const { LENGTHS as u64 - 4 }, 4)?;
    for symbol in ORDER {
        bits.put(u64::from(*code.lens.get(symbol)?), 3)?;
    }
    for (symbol, more, len) in told {
        code.put(symbol.into(), bits)?;
        bits.put(more.into(), len)?;
    }
    Some(())
}

/// A prefix code: of each symbol its length in bits (0: it does not occur), and its bits, the
/// first one lowest.
struct Code<const N: usize> {
    lens: [u8; N],
    bits: [u16; N],
}

/// A symbol, or two nodes together, on the way to a code.
struct Node {
    count: u32,
    symbol: u16,
    parent: u16,
    depth: u8,
}

impl Node {
    fn of(count: u32, symbol: u16) -> Self {
        Self {
            count,
            symbol,
            parent: 0,
            depth: 0,
        }
    }
}

impl<const N: usize> Code<N> {
    /// Makes the code for symbols that occur so often: Huffman's, none longer than `longest` bits.
    fn new(counts: &mut [u32; N], longest: u8) -> Option<Self> {
        let (mut lens, mut bits) = ([0; N], [0; N]);
        make_code(counts, longest, &mut lens, &mut bits)?;
        Some(Self { lens, bits })
    }

    #[inline(always)]
    fn put(&self, symbol: usize, bits: &mut Bits<'_>) -> Option<()> {
        let len = u32::from(*self.lens.get(symbol)?);
        bits.put(u64::from(*self.bits.get(symbol)?), len)
    }
}

/// Makes a [`Code`], of any number of symbols.
#[inline(never)]
fn make_code(counts: &mut [u32], longest: u8, lens: &mut [u8], bits: &mut [u16]) -> Option<()> {
    // A code of one symbol is not complete, and not every inflate takes it.
    for count in counts.iter_mut().take(2) {
        *count = (*count).max(1);
    }
    (0..u32::BITS).find_map(|_| {
        let made = make_lengths(counts, longest, lens);
        // For the next try: halved, rare symbols are less so, and in the end all are alike.
        for count in &mut *counts {
            *count = count.div_ceil(2);
        }
        made
    })?;
    let mut next = 0u16;
    for len in 1..=longest {
        for (bits, _) in bits.iter_mut().zip(&*lens).filter(|(_, of)| **of == len) {
            *bits = next.reverse_bits() >> (u16::BITS as u8).wrapping_sub(len);
            next = next.wrapping_add(1);
        }
        next <<= 1;
    }
    Some(())
}

/// Huffman's code lengths of at least two symbols; `None` if one is longer than `longest`.
#[inline(never)]
fn make_lengths(counts: &[u32], longest: u8, lens: &mut [u8]) -> Option<()> {
    let mut nodes: heapless::Vec<Node, { 2 * LITERALS }> = heapless::Vec::new();
    for (symbol, &count) in (0..).zip(counts).filter(|(_, count)| **count > 0) {
        let at = nodes.partition_point(|node| node.count <= count);
        nodes.insert(at, Node::of(count, symbol)).ok()?;
    }
    // What is made of two is no lighter than what was made before it. So the lightest of all is
    // the first symbol that is left, or the first such node.
    let leaves = nodes.len();
    let (mut leaf, mut made) = (0, leaves);
    for parent in leaves..leaves.wrapping_mul(2).wrapping_sub(1) {
        let mut sum = 0u32;
        for _ in 0..2 {
            let symbol = nodes.get(leaf).filter(|_| leaf < leaves);
            let next = match (symbol, nodes.get(made)) {
                (Some(symbol), Some(node)) if node.count < symbol.count => &mut made,
                (Some(_), _) => &mut leaf,
                (None, _) => &mut made,
            };
            let node = nodes.get_mut(*next)?;
            node.parent = parent as u16;
            sum = sum.wrapping_add(node.count);
            *next = next.wrapping_add(1);
        }
        nodes.push(Node::of(sum, 0)).ok()?;
    }
    for at in (0..nodes.len().wrapping_sub(1)).rev() {
        let parent = nodes.get(at)?.parent;
        let depth = nodes.get(usize::from(parent))?.depth.saturating_add(1);
        let node = nodes.get_mut(at)?;
        node.depth = depth;
        if at < leaves {
            *lens.get_mut(usize::from(node.symbol))? = depth;
            if depth > longest {
                return None;
            }
        }
    }
    Some(())
}

/// Bits on their way into bytes, the first one lowest.
struct Bits<'o> {
    room: &'o mut [u8],
    before: usize,
    held: u64,
    /// How many are held: fewer than 32.
    len: u32,
}

impl<'o> Bits<'o> {
    fn new(room: &'o mut [u8]) -> Self {
        Self {
            before: room.len(),
            room,
            held: 0,
            len: 0,
        }
    }

    /// Writes the low `len` bits, at most 32; there must be no others in `bits`.
    #[inline(always)]
    fn put(&mut self, bits: u64, len: u32) -> Option<()> {
        self.held |= bits << self.len;
        self.len = self.len.wrapping_add(len);
        if self.len >= u32::BITS {
            let room = core::mem::take(&mut self.room);
            let (place, rest) = room.split_first_chunk_mut()?;
            *place = (self.held as u32).to_le_bytes();
            self.room = rest;
            self.held >>= u32::BITS;
            self.len = self.len.wrapping_sub(u32::BITS);
        }
        Some(())
    }

    /// Writes the low `len` bits of `value`.
    #[inline(always)]
    fn put_low(&mut self, value: usize, len: u32) -> Option<()> {
        self.put(value as u64 & (1u64 << len).wrapping_sub(1), len)
    }

    /// Writes what is held; returns how many bytes there are.
    fn finish(self) -> Option<usize> {
        let len = self.len.div_ceil(u8::BITS) as usize;
        let last = self.held.to_le_bytes();
        self.room.get_mut(..len)?.copy_from_slice(last.get(..len)?);
        let left = self.room.len().wrapping_sub(len);
        Some(self.before.wrapping_sub(left))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::lz4::Portable;
    use crate::lz4::tests::{made_in, noise, records, repeated};
    use flate2::{Decompress, FlushDecompress, Status};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn memory() -> Vec<u64> {
        vec![0; MEMORY / 8]
    }

    fn deflater(memory: &mut [u64]) -> Deflater<'_> {
        Deflater::new(memory).expect("enough memory")
    }

    fn compressed(input: &[u8], room: usize, deflater: &mut Deflater<'_>) -> Option<Vec<u8>> {
        made_in(room, |output| deflater.compress::<Portable>(input, output))
    }

    /// The most that a stream can take: every literal has 15 bits, and each block its codes.
    fn bound(len: usize) -> usize {
        2 * len + (len / TOKENS + 1) * 300
    }

    fn round_trip(input: &[u8], deflater: &mut Deflater<'_>) -> usize {
        let stream = compressed(input, bound(input.len()), deflater).expect("it fits");
        let mut inflate = Decompress::new(false);
        let mut output = vec![0; input.len() + 1];
        let status = inflate.decompress(&stream, &mut output, FlushDecompress::Finish);
        assert_eq!(status.expect("a stream"), Status::StreamEnd);
        assert_eq!(inflate.total_in(), stream.len() as u64);
        assert_eq!(inflate.total_out(), input.len() as u64);
        assert!(output[..input.len()] == *input);
        stream.len()
    }

    #[test]
    fn every_short_length_comes_back() {
        let mut memory = memory();
        let mut deflater = deflater(&mut memory);
        for len in 0..100 {
            round_trip(&vec![7; len], &mut deflater);
            round_trip(&noise(len), &mut deflater);
            round_trip(&records(len), &mut deflater);
            round_trip(&[&noise(len)[..], &noise(len)].concat(), &mut deflater);
        }
    }

    #[test]
    fn pages_come_back_smaller() {
        let mut memory = memory();
        let mut deflater = deflater(&mut memory);
        let len = 256 << 10;
        assert!(round_trip(&vec![0; len], &mut deflater) < 500);
        assert!(round_trip(&records(len), &mut deflater) < len / 5);
        // The like of each byte is 24 KiB back, and nowhere else.
        let far: Vec<u8> = noise(24 << 10).into_iter().cycle().take(len).collect();
        assert!(round_trip(&far, &mut deflater) < 30 << 10);
        // What is 32 KiB back is out of reach.
        let too_far: Vec<u8> = noise(32 << 10).into_iter().cycle().take(len).collect();
        assert!(round_trip(&too_far, &mut deflater) >= len);
    }

    #[test]
    fn every_length_and_distance_has_its_symbol() {
        let mut memory = memory();
        let mut deflater = deflater(&mut memory);
        for len in 1..=2 * MAX_MATCH {
            for gap in [0, 1, 5, 100, 1000, 30_000] {
                let all = noise(len + gap);
                let (noise, fresh) = all.split_at(len);
                let input = [noise, fresh, noise].concat();
                round_trip(&input, &mut deflater);
            }
        }
    }

    #[test]
    fn codes_that_would_be_too_long_are_made_shorter() {
        // Each symbol is as frequent as all before it together: Huffman's code has one more bit
        // for each.
        let mut memory = memory();
        let mut deflater = deflater(&mut memory);
        let mut counts = [0; LITERALS];
        let (mut count, mut next) = (1, 1);
        for place in counts.iter_mut().take(24) {
            *place = count;
            (count, next) = (next, count + next);
        }
        assert_eq!(make_lengths(&counts, LONGEST, &mut [0; LITERALS]), None);
        let lens = Code::new(&mut counts, LONGEST).expect("a code").lens;
        let used = lens.iter().filter(|len| **len > 0);
        assert_eq!(used.clone().count(), 24);
        // Complete, so that every inflate takes it.
        let share: u32 = used.map(|len| 1 << (LONGEST - len)).sum();
        assert_eq!(share, 1 << LONGEST);
        // The same in a stream: a byte of each in the first block.
        let (mut count, mut next, mut input) = (1usize, 1, Vec::new());
        for byte in 0..16u8 {
            input.extend(core::iter::repeat_n(byte, count));
            (count, next) = (next, count + next);
        }
        round_trip(&input, &mut deflater);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut memory = memory();
        let mut deflater = deflater(&mut memory);
        assert_eq!(compressed(&noise(4096), 4096, &mut deflater), None);
        assert_eq!(compressed(&[], 0, &mut deflater), None);
        let input = records(8192);
        let need = compressed(&input, bound(input.len()), &mut deflater)
            .expect("it fits")
            .len();
        for room in 0..need {
            assert_eq!(compressed(&input, room, &mut deflater), None, "{room}");
        }
        assert!(compressed(&input, need + 3, &mut deflater).is_some());
    }

    #[test]
    fn used_memory_changes_nothing() {
        let mut memory = memory();
        let mut deflater = deflater(&mut memory);
        let input = records(70_000);
        let first = compressed(&input, 100_000, &mut deflater);
        compressed(&noise(200_000), 300_000, &mut deflater);
        // Cut off in the middle of a block.
        compressed(&noise(20_000), 9_000, &mut deflater);
        assert_eq!(compressed(&input, 100_000, &mut deflater), first);
        memory.fill(u64::MAX);
        let mut deflater = self::deflater(&mut memory);
        assert_eq!(compressed(&input, 100_000, &mut deflater), first);
    }

    #[test]
    fn less_memory_is_refused() {
        let mut memory = memory();
        assert!(Deflater::new(&mut memory[1..]).is_none());
        assert!(Deflater::new(&mut memory).is_some());
    }

    proptest! {
        #[test]
        fn anything_comes_back(
            input in repeated(),
            room in 0usize..20_000,
        ) {
            let mut memory = memory();
            let mut deflater = deflater(&mut memory);
            round_trip(&input, &mut deflater);
            compressed(&input, room, &mut deflater);
        }
    }
}
