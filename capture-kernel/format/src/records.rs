//! Tagged records: how the black box and the trailer hold their fields.
//!
//! A record is {tag u16, reserved u16, length u32, bytes, padding to 8}. A reader skips tags
//! that it does not know.

use crate::bytes::{Get, Put};

const RECORD_HEADER: usize = 8;

/// Writes records into a buffer, as many as fit.
pub struct RecordWriter<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> RecordWriter<'a> {
    /// Starts at the beginning of `out`.
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    /// How many bytes of data a further record can have.
    pub fn room(&self) -> usize {
        self.out
            .len()
            .saturating_sub(self.at)
            .saturating_sub(RECORD_HEADER)
            & !7
    }

    /// Appends one record made of `parts`; false, and nothing written, if it does not fit.
    pub fn put(&mut self, tag: u16, parts: &[&[u8]]) -> bool {
        let len: usize = parts
            .iter()
            .fold(0, |sum, part| part.len().saturating_add(sum));
        let Ok(len32) = u32::try_from(len) else {
            return false;
        };
        if len > self.room() {
            return false;
        }
        let padded = len.next_multiple_of(8);
        let end = self.at.saturating_add(RECORD_HEADER).saturating_add(padded);
        let Some(place) = self.out.get_mut(self.at..end) else {
            return false;
        };
        let mut put = Put::new(place);
        put.u16(tag).u16(0).u32(len32);
        for part in parts {
            put.bytes(part);
        }
        put.finish();
        self.at = end;
        true
    }

    /// Appends one record whose data `fill` writes to the start of the room it is given, and tells
    /// the length of.
    pub fn put_with(&mut self, tag: u16, fill: impl FnOnce(&mut [u8]) -> usize) {
        let room = self.room();
        let Some((header, data)) = self
            .out
            .get_mut(self.at..)
            .and_then(|rest| rest.split_at_mut_checked(RECORD_HEADER))
        else {
            return;
        };
        let len = fill(data.get_mut(..room).unwrap_or_default()).min(room);
        let mut put = Put::new(header);
        put.u16(tag).u16(0).u32(len as u32);
        put.finish();
        let padded = len.next_multiple_of(8);
        if let Some(padding) = data.get_mut(len..padded) {
            padding.fill(0);
        }
        self.at = self.at.saturating_add(RECORD_HEADER).saturating_add(padded);
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.at
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }
}

/// Reads records one after another; ends at the first that does not fit.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let mut get = Get::new(rest);
        let tag = get.u16();
        get.skip(2);
        let len = get.u32() as usize;
        let data = get.slice(len);
        if !get.finish() {
            return None;
        }
        let next = RECORD_HEADER
            .saturating_add(len)
            .checked_next_multiple_of(8)?;
        rest = rest.get(next..).unwrap_or_default();
        Some((tag, data))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_a_cut_ends_them() {
        let mut out = [0xff; 64];
        let mut writer = RecordWriter::new(&mut out);
        assert!(writer.put(1, &[b"hello", b" world"]));
        assert!(writer.put(2, &[]));
        assert!(!writer.put(3, &[&[0; 40]]));
        writer.put_with(4, |room| {
            assert_eq!(room.len(), 24);
            room[..3].fill(9);
            3
        });
        let len = writer.len();
        let found: std::vec::Vec<_> = records(&out[..len]).collect();
        assert_eq!(found, [(1, &b"hello world"[..]), (2, b""), (4, &[9; 3])]);
        assert_eq!(out[len - 5..len], [0; 5]);
        assert_eq!(records(&out[..len - 6]).count(), 2);
    }

    extern crate std;
}
