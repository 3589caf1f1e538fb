//! What a frame's bytes tell before they are compressed.

/// Words that are compared before it is looked whether any differed.
const STRIDE: usize = 8;

/// Returns the byte that every byte of `frame` is, if there is such a byte.
///
/// A frame that begins at a multiple of eight is read in words, which is what a frame always
/// does; the first words decide for nearly all that are not filled.
pub fn filled_with(frame: &[u8]) -> Option<u8> {
    let byte = *frame.first()?;
    let word = u64::from_ne_bytes([byte; 8]);
    let same = match bytemuck::try_cast_slice::<u8, u64>(frame) {
        Ok(words) => {
            let (strides, rest) = words.as_chunks::<STRIDE>();
            strides
                .iter()
                .all(|stride| stride.iter().fold(0, |all, next| all | (next ^ word)) == 0)
                && rest.iter().all(|next| *next == word)
        }
        Err(_) => frame.iter().all(|next| *next == byte),
    };
    same.then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(8))]
    struct Frame([u8; 4096]);

    #[test]
    fn one_other_byte_anywhere_is_seen() {
        for byte in [0, 0x6b, 0xff] {
            let mut frame = Frame([byte; 4096]);
            assert_eq!(filled_with(&frame.0), Some(byte));
            for at in 0..4096 {
                frame.0[at] ^= 0x10;
                assert_eq!(filled_with(&frame.0), None, "{at}");
                frame.0[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn any_length_and_alignment_is_judged() {
        let frame = Frame([3; 4096]);
        assert_eq!(filled_with(&[]), None);
        for start in 0..9 {
            for len in [1, 7, 8, 64, 65, 200] {
                assert_eq!(filled_with(&frame.0[start..start + len]), Some(3));
            }
        }
        assert_eq!(filled_with(&[1, 2]), None);
    }
}
