//! Unpacks what chunks hold.

use std::borrow::Cow;

use flate2::{Decompress, FlushDecompress, Status};
use kdraw_format::chunk::{ChunkHeader, Codec};
use lz4_flex::block::{DecompressError, decompress_into};

/// Why a chunk's data cannot be unpacked, though its checksum is right.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is no LZ4 block.
    #[error("LZ4 data that cannot be unpacked: {0}")]
    Lz4(DecompressError),
    /// It is no Deflate stream of the length that the header says.
    #[error("Deflate data that does not unpack to {0} bytes")]
    Deflate(usize),
    /// It is shorter than the header says.
    #[error("LZ4 data that unpacks to {found} bytes, expected {expected}")]
    Length {
        /// What came out.
        found: usize,
        /// What the header says.
        expected: usize,
    },
}

/// The data of a chunk, given as it is stored; [`ChunkHeader::raw_len`] bytes.
///
/// # Errors
/// [`UnpackError`].
pub fn unpack<'a>(header: &ChunkHeader, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, UnpackError> {
    match header.codec {
        Codec::Raw => Ok(Cow::Borrowed(stored)),
        Codec::Lz4 => {
            let expected = header.raw_len as usize;
            let mut raw = vec![0; expected];
            let found = decompress_into(stored, &mut raw).map_err(UnpackError::Lz4)?;
            match found == expected {
                true => Ok(Cow::Owned(raw)),
                false => Err(UnpackError::Length { found, expected }),
            }
        }
        Codec::Deflate => {
            let expected = header.raw_len as usize;
            let mut raw = vec![0; expected];
            let mut inflate = Decompress::new(false);
            match inflate.decompress(stored, &mut raw, FlushDecompress::Finish) {
                Ok(Status::StreamEnd) if inflate.total_out() == expected as u64 => {
                    Ok(Cow::Owned(raw))
                }
                _ => Err(UnpackError::Deflate(expected)),
            }
        }
    }
}
