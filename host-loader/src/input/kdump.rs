//! Reads kdump-compressed files: ours and makedumpfile's.

use flate2::{Decompress, FlushDecompress, Status};
use kdraw_format::addr::{FRAME_SIZE, Pfn, PhysAddr};
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::notes::{NoteWriter, VMCOREINFO_NAME};
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use super::lzo;
use crate::frames::FrameSet;
use crate::kdump::{HEADER, Header, PAGE_DESC, PageDesc, SIGNATURE, SUB_HEADER, flag};
use crate::source::SharedRead;

/// Bytes of bitmaps and descriptors that are read at once.
const PIECE: usize = 1 << 20;
/// The most bytes of notes.
const MAX_NOTES: u64 = 64 << 20;
/// The page after the last that arm64 can have: 52 bits of address.
const MAX_PAGES: u64 = 1 << 40;

/// Why a file cannot be read as kdump-compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KdumpError {
    /// A header cannot be read.
    #[error("its {0} is missing or cut")]
    Cut(&'static str),
    /// A field of a header makes no sense.
    #[error("its header says {field} {value:#x}, {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is there.
        value: u64,
        /// What should be.
        expected: &'static str,
    },
    /// It is one of several files.
    #[error("it is one part of a split dump; join the parts with `makedumpfile --reassemble`")]
    Split,
}

/// Consecutive pages that are in the file.
#[derive(Clone, Copy, Debug)]
struct Pages {
    first: u64,
    end: u64,
    /// The number of the first one's descriptor.
    desc: u64,
}

/// A kdump-compressed file.
pub struct KdumpFile<R> {
    source: R,
    header: Header,
    page_size: u64,
    pages: Vec<Pages>,
    exist: FrameSet,
    descs_at: u64,
    lost: u64,
    notes: Vec<u8>,
}

impl<R: SharedRead> KdumpFile<R> {
    /// Whether `source` begins as such a file does.
    pub fn looks_like(source: &R) -> bool {
        let mut signature = [0; 8];
        source.read_at(0, &mut signature).is_ok() && signature == *SIGNATURE
    }

    /// Reads headers, notes, bitmaps and descriptors. Pages whose descriptor or data is not there
    /// count as lost.
    ///
    /// # Errors
    /// [`KdumpError`].
    pub fn open(source: R) -> Result<Self, KdumpError> {
        let mut main = [0; HEADER];
        let cut = |what| move |_| KdumpError::Cut(what);
        source.read_at(0, &mut main).map_err(cut("header"))?;
        let header = Header::decode(&main).ok_or(KdumpError::Cut("header"))?;
        let header = checked(&source, header)?;
        let notes = notes(&source, &header)?;
        let block = u64::from(header.block_size);
        let bitmaps_at = block.saturating_mul(u64::from(header.sub_blocks).saturating_add(1));
        let bitmap_len = u64::from(header.bitmap_blocks / 2).saturating_mul(block);
        if bitmap_len.saturating_mul(8) < header.max_mapnr {
            return Err(KdumpError::Field {
                field: "max_mapnr",
                value: header.max_mapnr,
                expected: "more pages than its bitmaps have bits",
            });
        }
        let mut file = Self {
            source,
            page_size: block,
            pages: Vec::new(),
            exist: FrameSet::default(),
            descs_at: bitmaps_at.saturating_add(bitmap_len.saturating_mul(2)),
            lost: 0,
            notes,
            header,
        };
        let frames = file.frames_per_page();
        let mut exist = FrameSet::default();
        file.bits(bitmaps_at, &mut |first, end| {
            add_pages(&mut exist, first, end, frames);
        })?;
        exist.tidy();
        file.exist = exist;
        let mut pages = Vec::new();
        file.bits(bitmaps_at.saturating_add(bitmap_len), &mut |first, end| {
            pages.push((first, end));
        })?;
        file.check_descriptors(&pages);
        Ok(file)
    }

    fn frames_per_page(&self) -> u64 {
        (self.page_size / FRAME_SIZE).max(1)
    }

    /// Hands every run of set bits of the bitmap at `at` on; a run may come in parts.
    fn bits(&self, at: u64, found: &mut dyn FnMut(u64, u64)) -> Result<(), KdumpError> {
        let len = self.header.max_mapnr.div_ceil(8);
        let mut piece = vec![0; PIECE];
        let mut done = 0u64;
        while done < len {
            let size = len.saturating_sub(done).min(PIECE as u64) as usize;
            let bytes = piece.get_mut(..size).unwrap_or_default();
            self.source
                .read_at(at.saturating_add(done), bytes)
                .map_err(|_| KdumpError::Cut("bitmap"))?;
            let first = done.saturating_mul(8);
            runs(bytes, &mut |from, to| {
                let end = first.saturating_add(to).min(self.header.max_mapnr);
                found(first.saturating_add(from), end);
            });
            done = done.saturating_add(size as u64);
        }
        Ok(())
    }

    /// Looks at all descriptors; keeps the pages that have data.
    fn check_descriptors(&mut self, pages: &[(u64, u64)]) {
        let size = self.source.size();
        let mut desc = 0u64;
        for (first, end) in pages {
            let mut page = *first;
            while page < *end {
                let count = end.saturating_sub(page).min((PIECE / PAGE_DESC) as u64);
                let descs = self.descriptors(desc, count).unwrap_or_default();
                for index in 0..count {
                    let there = descs.get(index as usize).is_some_and(|desc| {
                        let data_end = desc.offset.checked_add(desc.size.into());
                        desc.offset != 0
                            && desc.size != 0
                            && u64::from(desc.size) <= self.page_size
                            && data_end.is_some_and(|end| end <= size)
                    });
                    let here = page.saturating_add(index);
                    match there {
                        true => self.add(here, desc.saturating_add(index)),
                        false => self.lost = self.lost.saturating_add(1),
                    }
                }
                page = page.saturating_add(count);
                desc = desc.saturating_add(count);
            }
        }
    }

    fn add(&mut self, page: u64, desc: u64) {
        let end = page.saturating_add(1);
        if let Some(last) = self.pages.last_mut()
            && last.end == page
            && desc.checked_sub(last.desc) == page.checked_sub(last.first)
        {
            last.end = end;
            return;
        }
        self.pages.push(Pages {
            first: page,
            end,
            desc,
        });
    }

    fn descriptors(&self, first: u64, count: u64) -> Option<Vec<PageDesc>> {
        let at = first.checked_mul(PAGE_DESC as u64)?;
        let mut bytes = vec![0; (count as usize).checked_mul(PAGE_DESC)?];
        self.source
            .read_at(self.descs_at.checked_add(at)?, &mut bytes)
            .ok()?;
        bytes
            .chunks_exact(PAGE_DESC)
            .map(PageDesc::decode)
            .collect()
    }

    /// Its headers.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its notes.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }

    /// The frames that existed.
    pub fn exist(&self) -> &FrameSet {
        &self.exist
    }

    /// The frames in it.
    pub fn known(&self) -> FrameSet {
        let mut known = FrameSet::default();
        for pages in &self.pages {
            add_pages(&mut known, pages.first, pages.end, self.frames_per_page());
        }
        known.tidy();
        known
    }

    /// Pages that should be in it and whose data is not.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Reads from `at` on as far as pages follow each other; returns how many bytes.
    fn read_pages(&self, at: PhysAddr, into: &mut [u8]) -> Option<usize> {
        let page = at.0.checked_div(self.page_size)?;
        let after = self.pages.partition_point(|pages| pages.first <= page);
        let pages = self.pages.get(..after)?.last()?;
        if page >= pages.end {
            return None;
        }
        let mut skip = at.0.checked_rem(self.page_size)? as usize;
        let wanted = skip
            .checked_add(into.len())?
            .div_ceil(self.page_size as usize) as u64;
        let count = pages.end.saturating_sub(page).min(wanted);
        let first = pages.desc.checked_add(page.checked_sub(pages.first)?)?;
        let mut unpacker = Unpacker::default();
        let mut done = 0usize;
        for desc in self.descriptors(first, count)? {
            let rest = into.get_mut(done..)?;
            let whole = unpacker.page(&self.source, &desc, self.page_size as usize)?;
            let bytes = whole.get(skip..)?;
            let len = bytes.len().min(rest.len());
            rest.get_mut(..len)?.copy_from_slice(bytes.get(..len)?);
            done = done.checked_add(len)?;
            skip = 0;
        }
        Some(done)
    }
}

impl<R: SharedRead> PhysMem for KdumpFile<R> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let here = Unreadable { at };
            let len = self.read_pages(at, rest).ok_or(here)?;
            (_, rest) = rest.split_at_mut_checked(len).ok_or(here)?;
            at = at.checked_add(len as u64).ok_or(here)?;
        }
        Ok(())
    }
}

/// Reads the sub header and checks what the rest relies on.
fn checked(source: &impl SharedRead, mut header: Header) -> Result<Header, KdumpError> {
    let field = |field, value: u64, expected| {
        Err(KdumpError::Field {
            field,
            value,
            expected,
        })
    };
    let block = header.block_size;
    if ![4096, 16384, 65536].contains(&block) {
        return field("block_size", block.into(), "expected 4096, 16384 or 65536");
    }
    let mut sub = [0; SUB_HEADER];
    source
        .read_at(block.into(), &mut sub)
        .map_err(|_| KdumpError::Cut("sub header"))?;
    header
        .decode_sub(&sub)
        .ok_or(KdumpError::Cut("sub header"))?;
    if header.split {
        return Err(KdumpError::Split);
    }
    if header.max_mapnr > MAX_PAGES {
        return field("max_mapnr", header.max_mapnr, "expected 2^40 at most");
    }
    Ok(header)
}

/// The notes; makes one of VMCOREINFO if it is not among them.
fn notes(source: &impl SharedRead, header: &Header) -> Result<Vec<u8>, KdumpError> {
    let read = |(at, len): (u64, u64), what| {
        if len > MAX_NOTES {
            return Err(KdumpError::Field {
                field: what,
                value: len,
                expected: "too long",
            });
        }
        let mut bytes = vec![0; len as usize];
        let read = source.read_at(at, &mut bytes);
        read.map(|()| bytes).map_err(|_| KdumpError::Cut(what))
    };
    let mut notes = read(header.notes, "notes")?;
    if Vmcoreinfo::from_notes(&notes).is_none() && header.vmcoreinfo.1 > 0 {
        let text = read(header.vmcoreinfo, "VMCOREINFO")?;
        let before = notes.len();
        notes.resize(before.saturating_add(text.len()).saturating_add(64), 0);
        let mut writer = NoteWriter::new(&mut notes, before);
        let _ = writer.push(VMCOREINFO_NAME, 0, &text); // there is room
        let len = writer.len();
        notes.truncate(len);
    }
    Ok(notes)
}

fn add_pages(set: &mut FrameSet, first: u64, end: u64, frames: u64) {
    let count = end.saturating_sub(first).saturating_mul(frames);
    set.add(Pfn(first.saturating_mul(frames)), count);
}

/// Hands every run of set bits on.
fn runs(bytes: &[u8], found: &mut dyn FnMut(u64, u64)) {
    let mut begun = None;
    let mut bit = 0u64;
    let mut change = |set: bool, at: u64| match (set, begun) {
        (true, None) => begun = Some(at),
        (false, Some(from)) => {
            found(from, at);
            begun = None;
        }
        _ => {}
    };
    for byte in bytes {
        match byte {
            0 => change(false, bit),
            0xff => change(true, bit),
            _ => {
                for index in 0..8u64 {
                    change(byte >> index & 1 == 1, bit.saturating_add(index));
                }
            }
        }
        bit = bit.saturating_add(8);
    }
    change(false, bit);
}

/// Unpacks pages; what it needs for that is made once.
#[derive(Default)]
struct Unpacker {
    stored: Vec<u8>,
    page: Vec<u8>,
    zlib: Option<Decompress>,
}

impl Unpacker {
    fn page(
        &mut self,
        source: &impl SharedRead,
        desc: &PageDesc,
        page_size: usize,
    ) -> Option<&[u8]> {
        let size = desc.size as usize;
        if size > page_size {
            return None;
        }
        self.stored.resize(size, 0);
        self.page.resize(page_size, 0);
        source.read_at(desc.offset, &mut self.stored).ok()?;
        let (from, to) = (self.stored.as_slice(), self.page.as_mut_slice());
        match desc.flags {
            flag::RAW => {
                (size == page_size).then(|| to.copy_from_slice(from))?;
            }
            flag::ZLIB => {
                let zlib = self.zlib.get_or_insert_with(|| Decompress::new(true));
                zlib.reset(true);
                let status = zlib.decompress(from, to, FlushDecompress::Finish).ok()?;
                let whole = status == Status::StreamEnd && zlib.total_out() == page_size as u64;
                whole.then_some(())?;
            }
            flag::LZO => lzo::unpack(from, to).ok()?,
            flag::SNAPPY => {
                let len = snap::raw::Decoder::new().decompress(from, to).ok()?;
                (len == page_size).then_some(())?;
            }
            flag::ZSTD => {
                let len = zstd::bulk::decompress_to_buffer(from, to).ok()?;
                (len == page_size).then_some(())?;
            }
            _ => return None,
        }
        Some(&self.page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_are_found_over_bytes() {
        let mut found = Vec::new();
        runs(&[0b1000_0110, 0xff, 0b1, 0, 0x80], &mut |from, to| {
            found.push((from, to));
        });
        assert_eq!(found, [(1, 3), (7, 17), (39, 40)]);
    }
}
