//! Reads a flattened stream that was saved as a file as if it were the file that it makes.

use std::collections::BTreeMap;

use kdraw_format::walk::ReadFailed;

use crate::output::sink::{FLAT_END, FLAT_HEADER, FLAT_SIGNATURE, FLAT_TYPE_VERSION};
use crate::source::SharedRead;

const RECORD_HEADER: u64 = 16;

/// Why a file is no flattened stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlattenedError {
    /// Its header cannot be read, or is of another type or version.
    #[error("its header is not that of a flattened stream of type 1, version 1")]
    Header,
    /// A record makes no sense.
    #[error("the record at byte {0:#x} makes no sense")]
    Record(u64),
}

/// A part of the file that the stream makes.
#[derive(Clone, Copy, Debug)]
struct Part {
    end: u64,
    /// Where its bytes are in the stream.
    at: u64,
}

/// A flattened stream; what no record covers reads as zeros.
pub struct FlattenedFile<R> {
    source: R,
    /// By their first byte; disjoint.
    parts: BTreeMap<u64, Part>,
    size: u64,
    whole: bool,
}

impl<R: SharedRead> FlattenedFile<R> {
    /// Whether `source` begins as a flattened stream does.
    pub fn looks_like(source: &R) -> bool {
        let mut signature = [0; 16];
        source.read_at(0, &mut signature).is_ok() && signature == *FLAT_SIGNATURE
    }

    /// Reads where everything is. Of bytes that are written twice the later ones count. A stream
    /// that ends early is taken as far as it goes.
    ///
    /// # Errors
    /// [`FlattenedError`].
    pub fn open(source: R) -> Result<Self, FlattenedError> {
        let mut header = [0; 32];
        source
            .read_at(0, &mut header)
            .map_err(|_| FlattenedError::Header)?;
        let (_, numbers) = header.split_at(16);
        if numbers != FLAT_TYPE_VERSION.map(i64::to_be_bytes).concat() {
            return Err(FlattenedError::Header);
        }
        let mut file = Self {
            source,
            parts: BTreeMap::new(),
            size: 0,
            whole: false,
        };
        let mut at = FLAT_HEADER as u64;
        while let Some(next) = file.take(at)? {
            at = next;
        }
        Ok(file)
    }

    /// Takes the record at `at`; where the next one is, or nothing at the end.
    fn take(&mut self, at: u64) -> Result<Option<u64>, FlattenedError> {
        let mut record = [0; RECORD_HEADER as usize];
        if self.source.read_at(at, &mut record).is_err() {
            return Ok(None);
        }
        let (offset, size) = record.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, i64::from_be_bytes);
        let (offset, size) = (number(offset), number(size));
        if (offset, size) == (FLAT_END, FLAT_END) {
            self.whole = true;
            return Ok(None);
        }
        let wrong = FlattenedError::Record(at);
        let offset = u64::try_from(offset).map_err(|_| wrong)?;
        let size = u64::try_from(size).map_err(|_| wrong)?;
        let data = at.saturating_add(RECORD_HEADER);
        let there = self.source.size().saturating_sub(data).min(size);
        let end = offset.checked_add(there).ok_or(wrong)?;
        if there > 0 {
            self.cut(offset, end);
            self.parts.insert(offset, Part { end, at: data });
            self.size = self.size.max(end);
        }
        Ok((there == size).then(|| data.saturating_add(size)))
    }

    /// Makes room: what was between the two offsets goes.
    fn cut(&mut self, from: u64, to: u64) {
        while let Some((&start, &part)) = self.parts.range(..to).next_back() {
            if part.end <= from {
                return;
            }
            self.parts.remove(&start);
            if part.end > to {
                let skip = to.saturating_sub(start);
                let at = part.at.saturating_add(skip);
                self.parts.insert(to, Part { at, ..part });
            }
            if start < from {
                self.parts.insert(start, Part { end: from, ..part });
            }
        }
    }

    /// Whether the stream has its end.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}

impl<R: SharedRead> SharedRead for FlattenedFile<R> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        let failed = ReadFailed { offset };
        let end = offset.checked_add(into.len() as u64).ok_or(failed)?;
        if end > self.size {
            return Err(failed);
        }
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let here = self.parts.range(..=at).next_back();
            let here = here.filter(|(_, part)| at < part.end);
            let next = match here {
                Some((_, part)) => part.end,
                None => {
                    let later = self.parts.range(at..).next();
                    later.map_or(end, |(start, _)| *start)
                }
            };
            let len = next.min(end).saturating_sub(at) as usize;
            let (now, later) = rest.split_at_mut_checked(len).ok_or(failed)?;
            match here {
                Some((start, part)) => {
                    let inside = at.saturating_sub(*start);
                    self.source.read_at(part.at.saturating_add(inside), now)?;
                }
                None => now.fill(0),
            }
            at = next.min(end);
            rest = later;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sink::{Flattened, Sink};

    impl SharedRead for Vec<u8> {
        fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
            let from = offset as usize;
            let bytes = self
                .get(from..from + into.len())
                .ok_or(ReadFailed { offset })?;
            into.copy_from_slice(bytes);
            Ok(())
        }

        fn size(&self) -> u64 {
            self.len() as u64
        }
    }

    #[test]
    fn later_records_count_and_gaps_are_zero() {
        let mut stream = Vec::new();
        let mut sink = Flattened::new(&mut stream, "x".into());
        let mut expected = vec![0u8; 64];
        // (offset, byte, length)
        for (at, byte, len) in [
            (10u64, 1u8, 20usize),
            (15, 2, 5),
            (50, 3, 14),
            (28, 4, 4),
            (8, 5, 3),
            (48, 6, 16),
        ] {
            sink.put(at, &vec![byte; len]).unwrap();
            expected[at as usize..at as usize + len].fill(byte);
        }
        sink.end(64).unwrap();
        let read = |file: &FlattenedFile<Vec<u8>>, len| {
            let mut bytes = vec![0xee; len];
            file.read_at(0, &mut bytes).unwrap();
            bytes
        };
        let file = FlattenedFile::open(stream.clone()).unwrap();
        assert!(file.is_whole() && FlattenedFile::looks_like(&stream));
        assert_eq!(read(&file, 64), expected);
        assert!(file.read_at(60, &mut [0; 5]).is_err());
        // Cut in the data of the last record.
        stream.truncate(stream.len() - 20);
        let cut = FlattenedFile::open(stream.clone()).unwrap();
        assert!(!cut.is_whole());
        assert_eq!(read(&cut, 60)[48..], [6; 12]);
        stream[4096] = 0x80;
        let wrong = FlattenedFile::open(stream.clone()).err();
        assert_eq!(wrong, Some(FlattenedError::Record(4096)));
        stream[31] = 2;
        let wrong = FlattenedFile::open(stream).err();
        assert_eq!(wrong, Some(FlattenedError::Header));
    }
}
