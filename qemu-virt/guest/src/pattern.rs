//! Page contents that can be made again from two numbers.
//!
//! *Marker* pages are pseudo-random from the first byte to the last, each different from all
//! others: a dump that has them at the right physical address has read the right memory.
//! *Fill* pages look like what real memory holds, in six kinds from zero to random, so that
//! compression and filtering meet a fair mixture.

/// Bytes in a page of the guest.
pub const PAGE_SIZE: usize = 4096;

/// Marker pages of each kind.
pub const MARKERS: u32 = 256;

/// Where a marker page lives in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// Locked anonymous memory of a process; its physical address is printed on the console.
    Locked,
    /// A buffer of a pipe: a page of the kernel, at an address that user space cannot learn.
    Pipe,
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): one 64-bit state, any seed is good.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the sequence of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number of the sequence.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Writes the contents of marker page `index` of a kind.
pub fn marker(kind: Marker, index: u32, page: &mut [u8; PAGE_SIZE]) {
    let kind = match kind {
        Marker::Locked => 0x6b64_7261_0001,
        Marker::Pipe => 0x6b64_7261_0002,
    };
    let mut random = Random::new((kind << 16) ^ u64::from(index));
    for word in page.as_chunks_mut().0 {
        *word = random.next().to_le_bytes();
    }
}

/// Writes fill page `index` of a block of memory with a `seed`; the kind follows the index.
pub fn fill(seed: u64, index: u64, page: &mut [u8; PAGE_SIZE]) {
    let mut random = Random::new(seed ^ index.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let words = page.as_chunks_mut().0;
    match index % 6 {
        0 => page.fill(0),
        1 => {
            const TEXT: &[u8] =
                b"The quick brown fox logs one line of text per request, in order. ";
            let start = (random.next() % TEXT.len() as u64) as usize;
            for (byte, text) in page.iter_mut().zip(TEXT.iter().cycle().skip(start)) {
                *byte = *text;
            }
        }
        // Every eighth word a kernel pointer, as in slab pages.
        2 => {
            for (at, word) in words.iter_mut().enumerate() {
                let pointer = 0xffff_0000_0000_0000 | (random.next() & 0x3fff_ffc0);
                *word = (if at % 8 == 0 { pointer } else { 0 }).to_le_bytes();
            }
        }
        3 => {
            for word in words {
                *word = (random.next() % 1000).to_le_bytes();
            }
        }
        4 => {
            for word in words {
                *word = random.next().to_le_bytes();
            }
        }
        _ => {
            for (at, word) in words.iter_mut().enumerate() {
                *word = (if at < 256 { random.next() } else { 0 }).to_le_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_differ_from_each_other() {
        let mut seen = std::collections::HashSet::new();
        for kind in [Marker::Locked, Marker::Pipe] {
            for index in 0..MARKERS {
                let mut page = [0; PAGE_SIZE];
                marker(kind, index, &mut page);
                let head: [u8; 8] = *page.first_chunk().unwrap();
                assert!(seen.insert(head), "{kind:?} {index} repeats another page");
            }
        }
    }
}
