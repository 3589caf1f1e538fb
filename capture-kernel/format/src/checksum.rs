//! The format's one checksum: XXH64 with seed 0.
//!
//! Chosen because it needs no instruction that some arm64 cores lack (CRC32 is optional in
//! Armv8.0), is fast in plain 64-bit registers, and is wide enough that a random error passes
//! once in 2^64. It guards against accidents, not against a forger.
//! Source: the xxHash specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md).

use core::hash::Hasher as _;

/// Sums `bytes`.
pub fn checksum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(0, bytes)
}

/// A checksum over pieces, equal to [`checksum`] over their concatenation.
#[derive(Clone)]
pub struct Checksum(twox_hash::XxHash64);

impl Default for Checksum {
    fn default() -> Self {
        Self(twox_hash::XxHash64::with_seed(0))
    }
}

impl Checksum {
    /// Adds the next piece.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The sum of all that was added.
    pub fn finish(&self) -> u64 {
        self.0.finish()
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
