//! The kdump-compressed format, header version 6, for 64-bit little-endian kernels.
//!
//! Counted in blocks of the crashed kernel's page size: one block of main header; the sub header,
//! with the notes behind it; bitmap 1 (pages that exist); bitmap 2 (pages that are here); then,
//! without gaps, one [`PageDesc`] for each page of bitmap 2, in order, and the pages' data. Bit n
//! of byte n / 8 is page n, counted from physical address 0: memory that lies high has long
//! bitmaps, which are holes in a sparse file.
//!
//! | main | size | field | sub | size | field |
//! |--|--|--|--|--|--|
//! | 0 | 8 | `KDUMP   ` | 0 | 8 | phys_base |
//! | 8 | 4 | header_version | 8 | 4 | dump_level |
//! | 12 | 6 × 65 | utsname | 12 | 4 | split |
//! | 408 | 8, 8 | timestamp: s, µs | 16, 24 | 8, 8 | start_pfn, end_pfn |
//! | 424 | 4 | status | 32, 40 | 8, 8 | offset_vmcoreinfo, size_vmcoreinfo |
//! | 428 | 4 | block_size | 48, 56 | 8, 8 | offset_note, size_note |
//! | 432 | 4 | sub_hdr_size, blocks | 64, 72 | 8, 8 | offset_eraseinfo, size_eraseinfo |
//! | 436 | 4 | bitmap_blocks, of both | 80, 88 | 8, 8 | start_pfn_64, end_pfn_64 |
//! | 440 | 4 | max_mapnr | 96 | 8 | max_mapnr_64 |
//! | 444… | 4 each | total_ram_blocks, device_blocks, written_blocks, current_cpu, nr_cpus | | | |
//!
//! Source: makedumpfile `IMPLEMENTATION` and `diskdump_mod.h`; crash `diskdump.h`; libkdumpfile
//! `diskdump.c`.

/// How a file begins.
pub const SIGNATURE: &[u8; 8] = b"KDUMP   ";
/// The version that is written.
pub const VERSION: u32 = 6;
/// Bytes of the main header.
pub const HEADER: usize = 464;
/// Bytes of the sub header.
pub const SUB_HEADER: usize = 104;
/// Bytes of a [`PageDesc`].
pub const PAGE_DESC: usize = 24;
/// Bytes of a string of `utsname`.
pub const UTS_FIELD: usize = 65;
/// Status: the dump is incomplete.
pub const INCOMPLETE: u32 = 8;

/// How a page is packed: `flags` of its descriptor, and a bit of the header's `status`.
pub mod flag {
    /// As it is.
    pub const RAW: u32 = 0;
    /// zlib.
    pub const ZLIB: u32 = 1;
    /// LZO1X.
    pub const LZO: u32 = 2;
    /// Snappy, a raw block.
    pub const SNAPPY: u32 = 4;
    /// Zstandard, one frame.
    pub const ZSTD: u32 = 0x20;
}

/// Both headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `header_version`.
    pub version: u32,
    /// System, node, release, version, machine, domain.
    pub uname: [String; 6],
    /// When it crashed, in seconds since 1970.
    pub crash_time: u64,
    /// [`flag`]s and [`INCOMPLETE`].
    pub status: u32,
    /// Bytes of a block: the page size.
    pub block_size: u32,
    /// Blocks of the sub header and the notes.
    pub sub_blocks: u32,
    /// Blocks of both bitmaps.
    pub bitmap_blocks: u32,
    /// The page after the last.
    pub max_mapnr: u64,
    /// How many CPUs have notes.
    pub nr_cpus: u32,
    /// The physical address at which the linear map begins.
    pub phys_base: u64,
    /// makedumpfile's dump level.
    pub level: u32,
    /// Whether it is one of several files.
    pub split: bool,
    /// Where the text of VMCOREINFO is, and its length.
    pub vmcoreinfo: (u64, u64),
    /// Where the notes are, and their length.
    pub notes: (u64, u64),
}

/// Where a page's data is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageDesc {
    /// Its first byte in the file; 0 if it is lost.
    pub offset: u64,
    /// Its bytes.
    pub size: u32,
    /// One of [`flag`].
    pub flags: u32,
}

impl Header {
    /// Where the notes begin if there is nothing between the sub header and them.
    pub fn notes_at(block_size: u32) -> u64 {
        u64::from(block_size).saturating_add(SUB_HEADER as u64)
    }

    /// The headers' bytes, up to the notes.
    pub fn encode(&self) -> Vec<u8> {
        let narrow = u32::try_from(self.max_mapnr).unwrap_or(u32::MAX);
        let mut out = SIGNATURE.to_vec();
        out.extend(self.version.to_le_bytes());
        for field in &self.uname {
            let end = out.len().saturating_add(UTS_FIELD);
            let text = field.as_bytes();
            let len = text.len().min(UTS_FIELD.saturating_sub(1));
            out.extend(text.get(..len).unwrap_or_default());
            out.resize(end, 0);
        }
        out.resize(408, 0);
        out.extend(self.crash_time.to_le_bytes());
        out.extend([0; 8]);
        for word in [
            self.status,
            self.block_size,
            self.sub_blocks,
            self.bitmap_blocks,
            narrow,
            0, // total_ram_blocks
            0, // device_blocks
            0, // written_blocks
            0, // current_cpu
            self.nr_cpus,
        ] {
            out.extend(word.to_le_bytes());
        }
        out.resize(self.block_size as usize, 0);
        out.extend(self.phys_base.to_le_bytes());
        out.extend(self.level.to_le_bytes());
        out.extend(u32::from(self.split).to_le_bytes());
        for word in [
            0, // start_pfn
            0, // end_pfn
            self.vmcoreinfo.0,
            self.vmcoreinfo.1,
            self.notes.0,
            self.notes.1,
            0, // offset_eraseinfo
            0, // size_eraseinfo
            0, // start_pfn_64
            0, // end_pfn_64
            self.max_mapnr,
        ] {
            out.extend(word.to_le_bytes());
        }
        out
    }

    /// Reads the main header, of [`HEADER`] bytes; `None` if it is none.
    pub fn decode(main: &[u8]) -> Option<Self> {
        if !main.starts_with(SIGNATURE) || main.len() < HEADER {
            return None;
        }
        let uname = [0usize, 1, 2, 3, 4, 5].map(|index| {
            let at = index.saturating_mul(UTS_FIELD).saturating_add(12);
            let field = main.get(at..at.saturating_add(UTS_FIELD));
            let text = field.unwrap_or_default().split(|byte| *byte == 0).next();
            String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
        });
        Some(Self {
            version: word(main, 8)?,
            uname,
            crash_time: long(main, 408)?,
            status: word(main, 424)?,
            block_size: word(main, 428)?,
            sub_blocks: word(main, 432)?,
            bitmap_blocks: word(main, 436)?,
            max_mapnr: word(main, 440)?.into(),
            nr_cpus: word(main, 460)?,
            ..Self::default()
        })
    }

    /// Adds what the sub header, of [`SUB_HEADER`] bytes, says; older versions say less.
    pub fn decode_sub(&mut self, sub: &[u8]) -> Option<()> {
        self.phys_base = long(sub, 0)?;
        if self.version >= 1 {
            self.level = word(sub, 8)?;
        }
        if self.version >= 2 {
            self.split = word(sub, 12)? != 0;
        }
        if self.version >= 3 {
            self.vmcoreinfo = (long(sub, 32)?, long(sub, 40)?);
        }
        if self.version >= 4 {
            self.notes = (long(sub, 48)?, long(sub, 56)?);
        }
        if self.version >= 6 {
            self.max_mapnr = long(sub, 96)?;
        }
        Some(())
    }
}

impl PageDesc {
    /// Its bytes; the last field, `page_flags`, is 0.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.offset.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        out.extend([0; 8]);
    }

    /// Reads one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            offset: long(bytes, 0)?,
            size: word(bytes, 8)?,
            flags: word(bytes, 12)?,
        })
    }
}

/// Bytes of one bitmap for pages up to `max_mapnr`, in whole blocks.
pub fn bitmap_len(max_mapnr: u64, block_size: u32) -> u64 {
    max_mapnr
        .div_ceil(8)
        .next_multiple_of(u64::from(block_size).max(1))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    field.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_lie_where_the_format_says() {
        let header = Header {
            version: VERSION,
            uname: ["Linux", "n", "6.1.0", "#1", "aarch64", ""].map(str::to_owned),
            crash_time: 1_795_225_170,
            status: flag::ZLIB | INCOMPLETE,
            block_size: 4096,
            sub_blocks: 2,
            bitmap_blocks: 64,
            max_mapnr: 0x4_0012_0000,
            nr_cpus: 4,
            phys_base: 0x4001_0000_0000,
            level: 31,
            split: false,
            vmcoreinfo: (4096 + 104 + 24, 3000),
            notes: (4096 + 104, 4000),
        };
        let bytes = header.encode();
        assert_eq!(bytes.len() as u64, Header::notes_at(4096));
        assert_eq!(bytes[12 + 4 * 65..][..8], *b"aarch64\0");
        assert_eq!(bytes[440..444], [0xff; 4], "max_mapnr has 32 bits");
        assert_eq!(bytes[460], 4);
        assert_eq!(bytes[4096 + 48..][..2], [0x68, 0x10], "offset_note");
        let mut found = Header::decode(&bytes).unwrap();
        found.decode_sub(&bytes[4096..]).unwrap();
        assert_eq!(found, header);
        assert_eq!(Header::decode(&bytes[1..]), None);
        assert_eq!(Header::decode(&bytes[..HEADER - 1]), None);
    }
}
