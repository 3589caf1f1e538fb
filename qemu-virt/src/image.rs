//! Turns the linked payload into a flat arm64 Image, and reads an Image's header.
//!
//! The loadable segments are laid out by physical address from the lowest one on, as a loader
//! would place them; what follows the last byte that the file holds (`.bss`, stacks) is left away:
//! `image_size` in the header reserves the memory for it. The header is the first 64 bytes of the
//! text (Linux, Documentation/arch/arm64/booting.rst).

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;
use object::elf::{EM_AARCH64, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// "ARM\x64".
const MAGIC: &[u8] = b"ARM\x64";

/// No payload is larger than this; a larger image means segments that lie far apart.
const LARGEST: u64 = 16 << 20;

/// The header of an arm64 Image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Distance of the image from a 2 MiB boundary, in bytes.
    pub text_offset: u64,
    /// Memory that the image needs from its first byte on, in bytes.
    pub image_size: u64,
    /// Bit 0: big-endian; bits 1 and 2: page size; bit 3: anywhere in memory.
    pub flags: u64,
}

impl Header {
    /// Reads the header of an Image.
    ///
    /// # Errors
    ///
    /// When the bytes are no arm64 Image.
    pub fn read(image: &[u8]) -> Result<Self> {
        let magic = image
            .get(56..60)
            .context("an arm64 Image has 64 bytes at least")?;
        ensure!(
            magic == MAGIC,
            "no arm64 Image: {magic:02x?} at offset 56, not \"ARM\\x64\""
        );
        let number = |offset: usize| {
            let bytes = image.get(offset..).and_then(<[u8]>::first_chunk).copied();
            bytes
                .map(u64::from_le_bytes)
                .context("the Image's header is cut")
        };
        Ok(Self {
            text_offset: number(8)?,
            image_size: number(16)?,
            flags: number(24)?,
        })
    }
}

/// Flattens an arm64 ELF program.
///
/// # Errors
///
/// When it is no arm64 ELF program, its segments overlap or lie too far apart, or the result does
/// not start with an Image header.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<Endianness>::parse(elf).context("the payload is no ELF file")?;
    let endian = header.endian().context("the payload is no ELF file")?;
    ensure!(
        header.e_machine(endian) == EM_AARCH64 && endian == Endianness::Little,
        "the payload is no little-endian arm64 program"
    );
    let mut segments: Vec<(u64, &[u8])> = Vec::new();
    for segment in header
        .program_headers(endian, elf)
        .context("bad program headers")?
    {
        let Ok(bytes) = segment.data(endian, elf) else {
            bail!("a segment is cut")
        };
        if segment.p_type(endian) == PT_LOAD && !bytes.is_empty() {
            segments.push((segment.p_paddr(endian), bytes));
        }
    }
    segments.sort_by_key(|(address, _)| *address);
    let base = segments
        .first()
        .context("the payload has no loadable segment")?
        .0;
    let mut image = Vec::new();
    for (address, bytes) in segments {
        let offset = address - base;
        ensure!(
            offset <= LARGEST,
            "the segment at {address:#x} lies far from the one at {base:#x}"
        );
        let offset = usize::try_from(offset)?;
        ensure!(
            offset >= image.len(),
            "the segment at {address:#x} overlaps the one before it"
        );
        image.resize(offset, 0);
        image.extend_from_slice(bytes);
    }
    Header::read(&image)?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF program with these segments: (address, bytes).
    fn elf(machine: u16, segments: &[(u64, &[u8])]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16..20].copy_from_slice(&[2, 0, machine.to_le_bytes()[0], machine.to_le_bytes()[1]]);
        elf[20] = 1;
        elf[32] = 64; // e_phoff
        elf[52] = 64; // e_ehsize
        elf[54] = 56; // e_phentsize
        elf[56] = segments.len() as u8;
        let mut offset = 64 + 56 * segments.len() as u64;
        for (address, bytes) in segments {
            let length = bytes.len() as u64;
            elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
            // Offset, virtual and physical address, length in the file and in memory, alignment.
            for number in [offset, 0xffff_0000, *address, length, length + 0x1000, 1] {
                elf.extend(number.to_le_bytes());
            }
            offset += length;
        }
        for (_, bytes) in segments {
            elf.extend(*bytes);
        }
        elf
    }

    fn head() -> Vec<u8> {
        let mut head = vec![0; 64];
        head[16] = 0x80; // image_size
        head[24] = 8; // flags
        head[56..60].copy_from_slice(MAGIC);
        head
    }

    #[test]
    fn lays_segments_out_by_physical_address() {
        let image = flatten(&elf(183, &[(0x1_0060, b"data"), (0x1_0000, &head())])).unwrap();
        assert_eq!(image.len(), 0x64);
        assert_eq!(image[0x40..0x60], [0; 0x20]);
        assert_eq!(&image[0x60..], b"data");
        let want = Header {
            text_offset: 0,
            image_size: 0x80,
            flags: 8,
        };
        assert_eq!(Header::read(&image).unwrap(), want);
    }

    #[test]
    fn refuses_what_is_no_payload() {
        let good = elf(183, &[(0x1_0000, &head())]);
        assert!(flatten(&good).is_ok());
        for (bad, why) in [
            (elf(62, &[(0x1_0000, &head())]), "little-endian arm64"),
            (elf(183, &[(0x1_0000, &[0; 64])]), "no arm64 Image"),
            (
                elf(183, &[(0x1_0000, &head()), (0x1_0020, b"x")]),
                "overlaps",
            ),
            (
                elf(183, &[(0x1_0000, &head()), (0x8000_0000, b"x")]),
                "far from",
            ),
            (elf(183, &[]), "no loadable segment"),
            (good[..good.len() - 1].to_vec(), "cut"),
            (b"\x7fELF".to_vec(), "no ELF"),
        ] {
            let error = flatten(&bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error} does not say {why}");
        }
    }
}
