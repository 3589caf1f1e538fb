//! The payload: the one inside this program or one given as a file, and its log's decoder.
//!
//! An arm64 Image (Documentation/arch/arm64/booting.rst): `image_size` (u64) at offset 16, the
//! magic `ARM\x64` at 56. The u64 at 64 is ours: the device tree's physical address.

use std::path::Path;

use defmt_decoder::{DecodeError, Table};
use kdraw_format::checksum::{IMAGE_DTB_WORD, image_checksum};

use crate::error::Error;
use crate::text;

const IMAGE_SIZE_AT: usize = 16;
const MAGIC_AT: usize = 56;
const MAGIC: &[u8] = b"ARM\x64";
/// The longest image that makes sense, in bytes.
const MAX_IMAGE: u64 = 3 << 20;

/// Bytes with the alignment that an ELF reader expects; `include_bytes!` gives none.
#[cfg(kdraw_payload)]
#[repr(C, align(16))]
struct Aligned<B: ?Sized>(B);

#[cfg(kdraw_payload)]
static ELF: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/capture.elf")));
#[cfg(kdraw_payload)]
const EMBEDDED: Option<(&[u8], &[u8])> = Some((
    include_bytes!(concat!(env!("OUT_DIR"), "/capture.img")),
    &ELF.0,
));
#[cfg(not(kdraw_payload))]
const EMBEDDED: Option<(&[u8], &[u8])> = None;

/// A payload image that can be loaded.
#[derive(Clone, Debug)]
pub struct Payload {
    image: Vec<u8>,
    memory_len: u64,
}

impl Payload {
    /// The payload in a file, or the one inside this program.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Payload`] if there is none or it is no Image.
    pub fn get(file: Option<&Path>) -> Result<Self, Error> {
        match (file, EMBEDDED) {
            (Some(path), _) => {
                let image = std::fs::read(path).map_err(Error::io("read", path))?;
                Self::new(image, &path.display().to_string())
            }
            (None, Some((image, _))) => Self::new(image.to_vec(), "inside this program"),
            (None, None) => Err(Error::Payload {
                origin: "inside this program".to_owned(),
                why: "there is none; give one with --payload FILE, or use the kdraw that \
                      `cargo xtask dist` builds"
                    .to_owned(),
            }),
        }
    }

    /// Checks the header of an image.
    fn new(image: Vec<u8>, origin: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::Payload {
            origin: origin.to_owned(),
            why,
        };
        if image.get(MAGIC_AT..MAGIC_AT.saturating_add(4)) != Some(MAGIC) {
            return Err(bad(
                "is no arm64 Image (no ARM\\x64 at offset 56)".to_owned()
            ));
        }
        let memory_len = word(&image, IMAGE_SIZE_AT).unwrap_or(0);
        let file_len = image.len() as u64;
        if memory_len < file_len || memory_len > MAX_IMAGE || word(&image, IMAGE_DTB_WORD).is_none()
        {
            return Err(bad(format!(
                "its header asks for {memory_len} bytes of memory, the file has {file_len}; \
                 expected at least that and at most {MAX_IMAGE}"
            )));
        }
        Ok(Self { image, memory_len })
    }

    /// The image file's bytes.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Bytes of memory that it needs, from its first on.
    pub fn memory_len(&self) -> u64 {
        self.memory_len
    }

    /// The checksum that the plan and every dump name it by.
    pub fn hash(&self) -> u64 {
        image_checksum(&self.image)
    }

    /// The image with the device tree's physical address filled in.
    pub fn with_device_tree_at(&self, address: u64) -> Vec<u8> {
        let mut image = self.image.clone();
        let end = IMAGE_DTB_WORD.saturating_add(8);
        if let Some(place) = image.get_mut(IMAGE_DTB_WORD..end) {
            place.copy_from_slice(&address.to_le_bytes());
        }
        image
    }
}

fn word(image: &[u8], at: usize) -> Option<u64> {
    let bytes = image.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The version and hash of the payload inside; `None` if there is none.
pub fn embedded_version() -> Option<String> {
    let (image, _) = EMBEDDED?;
    Some(format!(
        "{} ({}, XXH64 {:016x})",
        env!("CARGO_PKG_VERSION"),
        text::size(image.len() as u64),
        image_checksum(image)
    ))
}

/// What `--version` says.
pub fn long_version() -> &'static str {
    use std::sync::OnceLock;
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let payload = embedded_version().unwrap_or_else(|| "none inside".to_owned());
        format!("{}\npayload: {payload}", env!("CARGO_PKG_VERSION"))
    })
}

/// Decodes a payload's log. `hash` is that of the payload that wrote it: the log can only be
/// read with the very same payload's symbols.
pub fn decode_log(log: &[u8], hash: Option<u64>) -> Vec<String> {
    if log.is_empty() {
        return Vec::new();
    }
    let cannot = |why: &str| vec![format!("({} of log: {why})", text::size(log.len() as u64))];
    let Some((image, elf)) = EMBEDDED else {
        return cannot("this kdraw has no payload inside to decode it with");
    };
    if hash.is_some_and(|hash| hash != image_checksum(image)) {
        return cannot("written by another version of the payload; use the kdraw that loaded it");
    }
    let Ok(Some(table)) = Table::parse(elf) else {
        return cannot("the payload inside has no defmt table");
    };
    let mut decoder = table.new_stream_decoder();
    decoder.received(log);
    let mut lines = Vec::new();
    // Every turn consumes a frame; the bound is only for a decoder that would not.
    for _ in 0..log.len() {
        match decoder.decode() {
            Ok(frame) => lines.push(crate::black_box::text(
                frame.display(false).to_string().as_bytes(),
            )),
            Err(DecodeError::UnexpectedEof) => break,
            Err(DecodeError::Malformed) => {
                lines.push("(damaged frame)".to_owned());
                if !table.encoding().can_recover() {
                    break;
                }
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_with_room_for_themselves_are_taken() {
        let mut image = vec![0; 4096];
        image[56..60].copy_from_slice(MAGIC);
        image[16..24].copy_from_slice(&8192u64.to_le_bytes());
        let payload = Payload::new(image.clone(), "x").unwrap();
        assert_eq!(payload.memory_len(), 8192);
        let patched = payload.with_device_tree_at(0x1234);
        assert_eq!(patched[64..72], 0x1234u64.to_le_bytes());
        assert_eq!(image_checksum(&patched), payload.hash());
        for size in [0, 4095, 64 << 20] {
            image[16..24].copy_from_slice(&u64::to_le_bytes(size));
            assert!(Payload::new(image.clone(), "x").is_err());
        }
        assert!(Payload::new(vec![0; 4096], "x").is_err());
        assert!(Payload::new(vec![0; 10], "x").is_err());
    }
}
