//! Vmcores of any bytes.

use kdraw::core_file::CoreFile;
use kdraw::frames::FrameSet;
use kdraw::input::flattened::FlattenedFile;
use kdraw::input::kdump::KdumpFile;
use kdraw::kdump::{HEADER, SIGNATURE};
use kdraw::output::sink::{FLAT_HEADER, FLAT_SIGNATURE, FLAT_TYPE_VERSION};
use kdraw::source::SharedRead;
use kdraw_format::addr::PhysAddr;
use kdraw_format::walk::ReadFailed;
use kdraw_linux::memory::PhysMem;

use crate::Input;

/// The longest kdump-compressed file.
const MAX_SIZE: u64 = 64 << 20;
/// How many ranges of frames are read.
const RANGES: usize = 16;

/// A file with pieces of the input, and zeros between them.
struct Sparse<'a> {
    pieces: Vec<(u64, &'a [u8])>,
    size: u64,
}

impl SharedRead for Sparse<'_> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(ReadFailed { offset });
        }
        into.fill(0);
        for (start, bytes) in &self.pieces {
            let skip = offset.saturating_sub(*start) as usize;
            let from = bytes.get(skip..).unwrap_or_default();
            let to = into.get_mut(start.saturating_sub(offset) as usize..);
            for (to, from) in to.unwrap_or_default().iter_mut().zip(from) {
                *to = *from;
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl<'a> Sparse<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self {
            pieces: vec![(0, bytes)],
            size: bytes.len() as u64,
        }
    }
}

fn read(memory: &impl PhysMem, known: &FrameSet) {
    let mut bytes = [0; 5000];
    for (first, end) in known.ranges().iter().take(RANGES) {
        for frame in [*first, first / 2 + end / 2, end - 1, *end] {
            let at = PhysAddr(frame.saturating_mul(4096));
            let _ = memory.read(at, &mut bytes[..4096]);
            let _ = memory.read(PhysAddr(at.0.saturating_add(4090)), &mut bytes);
        }
    }
}

/// An ELF core: the input is the file.
pub(crate) fn elf_core(data: &[u8]) {
    let Ok(core) = CoreFile::open(Sparse::of(data)) else {
        return;
    };
    let known = core.known();
    assert_eq!(known.without(core.exist()).count(), 0, "what never existed");
    let headers = data.len() / 56;
    assert!(
        core.notes().len() <= data.len() * headers,
        "longer than the file"
    );
    read(&core, &known);
}

/// A kdump-compressed file, in pieces: the file's length (u32, of which the lower 26 bits count), then for each piece where it is
/// (u32), its length (u16) and its bytes. The first begins as such a file does.
pub(crate) fn kdump_file(data: &[u8]) {
    let mut input = Input(data);
    let size = u64::from(u32::from_le_bytes(input.bytes())) % MAX_SIZE;
    let mut pieces = Vec::new();
    while !input.0.is_empty() {
        let at = u32::from_le_bytes(input.bytes()).into();
        let len = u16::from_le_bytes(input.bytes()).into();
        let (piece, rest) = input.0.split_at(input.0.len().min(len));
        input.0 = rest;
        pieces.push((at, piece));
    }
    pieces.push((0, SIGNATURE.as_slice()));
    let Ok(file) = KdumpFile::open(Sparse { pieces, size }) else {
        return;
    };
    assert!(size >= HEADER as u64);
    let known = file.known();
    assert!(known.count() <= size, "a page is no byte");
    read(&file, &known);
}

/// A flattened stream: the input is what is behind its header.
pub(crate) fn flattened(data: &[u8]) {
    let mut stream = FLAT_SIGNATURE.to_vec();
    stream.extend(FLAT_TYPE_VERSION.map(i64::to_be_bytes).concat());
    stream.resize(FLAT_HEADER, 0);
    stream.extend(data);
    let Ok(file) = FlattenedFile::open(Sparse::of(&stream)) else {
        return;
    };
    // As if the stream's records were written one after the other.
    let mut bytes = vec![0; file.size().min(1 << 20) as usize];
    assert_eq!(file.read_at(0, &mut bytes), Ok(()));
    let mut expected = vec![0; bytes.len()];
    let mut rest = data;
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let (offset, size) = header.split_at(8);
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
        let (offset, size) = (number(offset) as usize, number(size) as usize);
        if offset > i64::MAX as usize {
            break;
        }
        let (written, behind) = behind.split_at(behind.len().min(size));
        let to = expected.get_mut(offset..).unwrap_or_default();
        for (to, from) in to.iter_mut().zip(written) {
            *to = *from;
        }
        rest = behind;
    }
    assert!(bytes == expected, "other bytes than were written");
}
