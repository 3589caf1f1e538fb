//! The format's one checksum: XXH64 with seed 0.
//!
//! Chosen because it needs no instruction that some arm64 cores lack (CRC32 is optional in
//! Armv8.0), is fast in plain 64-bit registers, and is wide enough that a random error passes
//! once in 2^64. It guards against accidents, not against a forger.
//! Source: the xxHash specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
//!
//! It is written here, and not a library's, for one reason: bare-metal arm64 Rust compiles
//! every load that is not known to be aligned into eight byte loads (`strict-align`), and the
//! libraries read from byte slices. Chunks are aligned, and here the loads show it: a factor of
//! five. The tests hold it against the `twox-hash` crate.

const P1: u64 = 0x9e37_79b1_85eb_ca87;
const P2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const P3: u64 = 0x1656_67b1_9e37_79f9;
const P4: u64 = 0x85eb_ca77_c2b2_ae63;
const P5: u64 = 0x27d4_eb2f_1656_67c5;

/// Bytes that the four lanes take at once.
const STRIPE: usize = 32;

/// Sums `bytes`.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    sum.add(bytes);
    sum.finish()
}

/// A checksum over pieces, equal to [`checksum`] over their concatenation.
#[derive(Clone)]
pub struct Checksum {
    lanes: [u64; 4],
    /// What does not fill a stripe yet, and how much of it there is.
    rest: [u8; STRIPE],
    rest_len: usize,
    len: u64,
}

impl Default for Checksum {
    fn default() -> Self {
        let lanes = [P1.wrapping_add(P2), P2, 0, P1.wrapping_neg()];
        Self {
            lanes,
            rest: [0; STRIPE],
            rest_len: 0,
            len: 0,
        }
    }
}

const fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2))
        .rotate_left(31)
        .wrapping_mul(P1)
}

impl Checksum {
    /// Adds the next piece.
    pub fn add(&mut self, mut bytes: &[u8]) {
        self.len = self.len.wrapping_add(bytes.len() as u64);
        if self.rest_len > 0 {
            let room = self.rest.get_mut(self.rest_len..).unwrap_or_default();
            let (now, later) = bytes.split_at(room.len().min(bytes.len()));
            room.iter_mut()
                .zip(now)
                .for_each(|(place, byte)| *place = *byte);
            self.rest_len = self.rest_len.saturating_add(now.len());
            bytes = later;
            if self.rest_len < STRIPE {
                return;
            }
            self.stripe(&self.rest.clone());
            self.rest_len = 0;
        }
        let (stripes, rest) = bytes.as_chunks::<STRIPE>();
        match bytemuck::try_cast_slice::<[u8; STRIPE], [u64; 4]>(stripes) {
            Ok(aligned) => {
                let mut lanes = self.lanes;
                for words in aligned {
                    for (lane, word) in lanes.iter_mut().zip(words) {
                        *lane = round(*lane, u64::from_le(*word));
                    }
                }
                self.lanes = lanes;
            }
            Err(_) => stripes.iter().for_each(|stripe| self.stripe(stripe)),
        }
        self.rest
            .iter_mut()
            .zip(rest)
            .for_each(|(place, byte)| *place = *byte);
        self.rest_len = rest.len();
    }

    fn stripe(&mut self, stripe: &[u8; STRIPE]) {
        for (lane, word) in self.lanes.iter_mut().zip(stripe.as_chunks().0) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }

    /// The sum of all that was added.
    pub fn finish(&self) -> u64 {
        let [a, b, c, d] = self.lanes;
        let mut sum = if self.len >= STRIPE as u64 {
            let mixed = a
                .rotate_left(1)
                .wrapping_add(b.rotate_left(7))
                .wrapping_add(c.rotate_left(12))
                .wrapping_add(d.rotate_left(18));
            self.lanes.iter().fold(mixed, |sum, lane| {
                (sum ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4)
            })
        } else {
            P5
        };
        sum = sum.wrapping_add(self.len);
        let rest = self.rest.get(..self.rest_len).unwrap_or_default();
        let (words, rest) = rest.as_chunks::<8>();
        for word in words {
            sum ^= round(0, u64::from_le_bytes(*word));
            sum = sum.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        }
        let (halves, rest) = rest.as_chunks::<4>();
        for half in halves {
            sum ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
            sum = sum.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        }
        for byte in rest {
            sum ^= u64::from(*byte).wrapping_mul(P5);
            sum = sum.rotate_left(11).wrapping_mul(P1);
        }
        sum = (sum ^ (sum >> 33)).wrapping_mul(P2);
        sum = (sum ^ (sum >> 29)).wrapping_mul(P3);
        sum ^ (sum >> 32)
    }
}

/// Where a payload image holds the one word that is patched after it was hashed: the device
/// tree's physical address (u64).
pub const IMAGE_DTB_WORD: usize = 64;

/// Sums a payload image with the eight bytes at [`IMAGE_DTB_WORD`] taken as zero.
///
/// `image` is read through raw slices on purpose: in the payload it is the running image.
pub fn image_checksum(image: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    let word_end = IMAGE_DTB_WORD.saturating_add(8);
    sum.add(image.get(..IMAGE_DTB_WORD).unwrap_or(image));
    sum.add(&[0; 8]);
    sum.add(image.get(word_end..).unwrap_or_default());
    sum.finish()
}

/// Seals a block whose bytes 8..16 are its checksum over 16..: writes it.
pub(crate) fn seal_block(block: &mut [u8]) {
    let sum = checksum(block.get(16..).unwrap_or_default());
    if let Some(place) = block.get_mut(8..16) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Tells whether a block sealed by [`seal_block`] is whole and starts with `magic`.
pub(crate) fn block_is_whole(block: &[u8], magic: [u8; 8]) -> bool {
    block.get(..8) == Some(&magic[..])
        && block.get(8..16)
            == Some(&checksum(block.get(16..).unwrap_or_default()).to_le_bytes()[..])
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn equals_the_reference_at_every_length_alignment_and_split() {
        let bytes: Vec<u8> = (0..400u32).map(|i| ((i * i) >> 3) as u8).collect();
        for start in [0, 1, 8] {
            for len in 0..200 {
                let piece = &bytes[start..start + len];
                let expected = twox_hash::XxHash64::oneshot(0, piece);
                assert_eq!(checksum(piece), expected, "{len} bytes from {start}");
                let mut sum = Checksum::default();
                let (a, b) = piece.split_at(len / 3);
                sum.add(a);
                sum.add(b);
                assert_eq!(sum.finish(), expected, "{len} bytes in two pieces");
            }
        }
    }
}
