//! A kdump-compressed file, see [`crate::kdump`]: each page packed by itself, so that any page can
//! be read alone.
//!
//! The page size is the crashed kernel's; a page of 16 or 64 KiB is here only if all its frames
//! are known. Pages of zeros share the first page of the data, as makedumpfile does it.

use flate2::{Compress, Compression as Level, FlushCompress, Status};
use kdraw_format::addr::{FRAME_SIZE, Pfn};
use kdraw_linux::notes::{CORE_NAME, NT_PRSTATUS, NoteIter};

use super::sink::{Sink, is_zero};
use super::{Image, Progress, WriteError, Written};
use crate::frames::FrameSet;
use crate::kdump::{Header, INCOMPLETE, PAGE_DESC, PageDesc, VERSION, bitmap_len, flag};

/// Bytes of bitmaps and descriptors that are written at once.
const PIECE: usize = 1 << 20;
/// The level of zlib and zstd: the fastest, as makedumpfile has it for zlib.
const LEVEL: i32 = 1;

/// How pages are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// zlib: every build of every reader unpacks it
    #[default]
    Zlib,
    /// Zstandard: smaller and faster; optional in crash, makedumpfile and libkdumpfile
    Zstd,
    /// Snappy: the fastest; optional in crash, makedumpfile and libkdumpfile
    Snappy,
    /// Not packed
    None,
}

impl Compression {
    fn flag(self) -> u32 {
        match self {
            Self::Zlib => flag::ZLIB,
            Self::Zstd => flag::ZSTD,
            Self::Snappy => flag::SNAPPY,
            Self::None => flag::RAW,
        }
    }
}

/// Packs pages one by one.
enum Packer {
    Zlib(Box<Compress>),
    Zstd(zstd::bulk::Compressor<'static>),
    Snappy(Box<snap::raw::Encoder>),
    None,
}

impl Packer {
    fn new(compression: Compression) -> Self {
        match compression {
            Compression::Zlib => {
                Self::Zlib(Box::new(Compress::new(Level::new(LEVEL as u32), true)))
            }
            // Without memory for zstd pages stay as they are.
            Compression::Zstd => zstd::bulk::Compressor::new(LEVEL).map_or(Self::None, Self::Zstd),
            Compression::Snappy => Self::Snappy(Box::new(snap::raw::Encoder::new())),
            Compression::None => Self::None,
        }
    }

    /// Packs a page to the start of `out`; its length, or nothing if it does not shrink.
    fn pack(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = match self {
            Self::Zlib(zlib) => {
                zlib.reset();
                let room = out.get_mut(..page.len())?;
                let status = zlib.compress(page, room, FlushCompress::Finish).ok()?;
                (status == Status::StreamEnd).then(|| zlib.total_out() as usize)?
            }
            Self::Zstd(zstd) => zstd.compress_to_buffer(page, out).ok()?,
            Self::Snappy(snappy) => snappy.compress(page, out).ok()?,
            Self::None => return None,
        };
        (len < page.len()).then_some(len)
    }
}

/// The pages of a batch, packed.
struct Packed {
    data: Vec<u8>,
    /// Bytes and flags of each; no bytes if it is zero.
    pages: Vec<(u32, u32)>,
}

fn pack(packer: &mut Packer, bytes: &[u8], page_size: usize, flag_packed: u32) -> Packed {
    // Snappy wants room for the worst case.
    let mut out = vec![0; snap::raw::max_compress_len(page_size)];
    let mut packed = Packed {
        data: Vec::with_capacity(bytes.len() / 2),
        pages: Vec::new(),
    };
    for page in bytes.chunks(page_size) {
        if is_zero(page) {
            packed.pages.push((0, flag::RAW));
            continue;
        }
        let small = packer
            .pack(page, &mut out)
            .and_then(|len| out.get(..len))
            .map(|small| (small, flag_packed));
        let (stored, flags) = small.unwrap_or((page, flag::RAW));
        packed.data.extend_from_slice(stored);
        packed.pages.push((stored.len() as u32, flags));
    }
    packed
}

/// Writes it.
///
/// # Errors
/// [`WriteError`].
pub fn write(
    image: &Image<'_>,
    compression: Compression,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<Written, WriteError> {
    let page_size = image.vmcoreinfo().and_then(|info| info.page_size());
    let page_size = page_size.unwrap_or(FRAME_SIZE) as u32; // 64 KiB at most
    let frames_per_page = (u64::from(page_size) / FRAME_SIZE).max(1);
    let pages = image.known.pages(frames_per_page, false);
    let exist = image.ram.pages(frames_per_page, true).with(&pages);
    let max_mapnr = exist.ranges().last().map_or(0, |(_, end)| *end);
    let block = u64::from(page_size);
    let bitmap = bitmap_len(max_mapnr, page_size);
    let notes_at = Header::notes_at(page_size);
    let notes_len = image.notes.len() as u64;
    let bitmaps_at = notes_at.saturating_add(notes_len).next_multiple_of(block);
    let descs_at = bitmaps_at.saturating_add(bitmap.saturating_mul(2));
    let descs_len = pages.count().saturating_mul(PAGE_DESC as u64);
    let zero_at = descs_at.saturating_add(descs_len);

    let header = header(image, compression, page_size, max_mapnr);
    let mut head = header.encode();
    head.extend(&image.notes);
    head.resize(bitmaps_at as usize, 0);
    sink.put(0, &head)?;
    put_bitmap(sink, bitmaps_at, bitmap, &exist)?;
    put_bitmap(sink, bitmaps_at.saturating_add(bitmap), bitmap, &pages)?;
    sink.put(zero_at, &vec![0; page_size as usize])?;

    let mut data_at = zero_at.saturating_add(block);
    let mut descs = Descs {
        at: descs_at,
        bytes: Vec::new(),
    };
    let mut whole = FrameSet::default();
    for (first, end) in pages.ranges() {
        let first = first.saturating_mul(frames_per_page);
        let end = end.saturating_mul(frames_per_page);
        whole.add(Pfn(first), end.saturating_sub(first));
    }
    whole.tidy();
    image.for_batches(
        &whole,
        || Packer::new(compression),
        |packer, bytes| pack(packer, &bytes, page_size as usize, compression.flag()),
        |_, packed| {
            sink.put(data_at, &packed.data)?;
            for (size, flags) in packed.pages {
                let offset = if size == 0 { zero_at } else { data_at };
                PageDesc {
                    offset,
                    size: if size == 0 { page_size } else { size },
                    flags,
                }
                .encode(&mut descs.bytes);
                data_at = data_at.saturating_add(size.into());
            }
            descs.put(sink, PIECE)
        },
        progress,
    )?;
    descs.put(sink, 1)?;
    sink.end(data_at)?;
    Ok(Written {
        bytes: data_at,
        frames: whole.count(),
        invented: 0,
        partial: image.known.count().saturating_sub(whole.count()),
    })
}

/// Descriptors that wait to be written.
struct Descs {
    at: u64,
    bytes: Vec<u8>,
}

impl Descs {
    /// Writes them if they have `least` bytes.
    fn put(&mut self, sink: &mut dyn Sink, least: usize) -> Result<(), WriteError> {
        if self.bytes.len() >= least {
            sink.put(self.at, &self.bytes)?;
            self.at = self.at.saturating_add(self.bytes.len() as u64);
            self.bytes.clear();
        }
        Ok(())
    }
}

fn header(image: &Image<'_>, compression: Compression, page_size: u32, max_mapnr: u64) -> Header {
    let notes_at = Header::notes_at(page_size);
    let notes_len = image.notes.len() as u64;
    let info = image.vmcoreinfo();
    // Offset and length are of the text inside the notes.
    let text = info.map(|info| info.text()).unwrap_or_default();
    let inside = (!text.is_empty())
        .then(|| {
            image
                .notes
                .windows(text.len())
                .position(|here| here == text)
        })
        .flatten();
    let vmcoreinfo = inside.map_or((0, 0), |at| {
        (notes_at.saturating_add(at as u64), text.len() as u64)
    });
    let cpus = NoteIter::new(&image.notes)
        .filter(|note| note.name == CORE_NAME && note.kind == NT_PRSTATUS)
        .count();
    let block = u64::from(page_size);
    let sub_len = (crate::kdump::SUB_HEADER as u64).saturating_add(notes_len);
    let bitmap_blocks = bitmap_len(max_mapnr, page_size)
        .saturating_mul(2)
        .checked_div(block);
    let [system, node, release, version, machine] = image.uname.clone();
    let phys_base = info.and_then(|info| info.number("PHYS_OFFSET"));
    Header {
        version: VERSION,
        uname: [system, node, release, version, machine, String::new()],
        crash_time: image.crash_time,
        status: compression.flag() | if image.incomplete { INCOMPLETE } else { 0 },
        block_size: page_size,
        sub_blocks: u32::try_from(sub_len.div_ceil(block)).unwrap_or(u32::MAX),
        bitmap_blocks: bitmap_blocks
            .and_then(|blocks| u32::try_from(blocks).ok())
            .unwrap_or(u32::MAX),
        max_mapnr,
        // crash takes no dump of no CPU.
        nr_cpus: u32::try_from(cpus).unwrap_or(u32::MAX).max(1),
        phys_base: phys_base.unwrap_or(0).cast_unsigned(),
        level: image.level.into(),
        split: false,
        vmcoreinfo,
        notes: (notes_at, notes_len),
    }
}

/// Writes one bitmap of `len` bytes; pieces of zeros are left out where they read as such.
fn put_bitmap(sink: &mut dyn Sink, at: u64, len: u64, pages: &FrameSet) -> Result<(), WriteError> {
    let mut piece = vec![0u8; PIECE];
    let mut done = 0u64;
    while done < len {
        let size = len.saturating_sub(done).min(PIECE as u64);
        let bits = piece.get_mut(..size as usize).unwrap_or_default();
        bits.fill(0);
        let first = done.saturating_mul(8);
        let end = first.saturating_add(size.saturating_mul(8));
        for (from, to) in pages.overlapping(first, end) {
            let (from, to) = (from.saturating_sub(first), to.saturating_sub(first));
            set_bits(bits, from as usize, to as usize);
        }
        sink.put_sparse(at.saturating_add(done), bits)?;
        done = done.saturating_add(size);
    }
    Ok(())
}

/// Sets the bits from `from` up to `to`.
fn set_bits(bits: &mut [u8], from: usize, to: usize) {
    let mut at = from;
    while at < to {
        let Some(byte) = bits.get_mut(at / 8) else {
            return;
        };
        let next = (at / 8).saturating_add(1).saturating_mul(8).min(to);
        let (low, high) = (at % 8, next.saturating_sub(at));
        let ones = 0xffu8.checked_shr(8u32.saturating_sub(high as u32));
        *byte |= ones.unwrap_or(0).checked_shl(low as u32).unwrap_or(0);
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_from_and_to() {
        for (from, to) in [(0, 0), (0, 1), (3, 7), (7, 9), (0, 24), (5, 20), (8, 16)] {
            let mut bits = [0; 3];
            set_bits(&mut bits, from, to);
            for bit in 0..24 {
                let set = bits[bit / 8] >> (bit % 8) & 1 == 1;
                assert_eq!(set, (from..to).contains(&bit), "{from}..{to}, bit {bit}");
            }
        }
    }
}
