//! A signed partition: its superblock, slot headers and journal.

use std::path::Path;

use kdraw_format::addr::PartOffset;
use kdraw_format::chunk::{ChunkHeader, Kind};
use kdraw_format::layout::{BLOCK, JOURNAL_RECORD, JOURNAL_RECORDS, SlotPlace, Superblock};
use kdraw_format::slot::{Outcome, SlotHeader};
use kdraw_format::walk::ReadAt;

use crate::error::Error;
use crate::source::{Access, Source};
use crate::system::System;
use crate::text;

/// A kdraw partition that was found and opened.
#[derive(Debug)]
pub struct DumpPartition {
    /// Its bytes.
    pub source: Source,
    /// What `kdraw format` wrote.
    pub superblock: Superblock,
}

/// One record of the black-box journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalRecord {
    /// Never written.
    Empty,
    /// A black box: the dump's id and the records in it.
    Written {
        /// The dump id of the capture that wrote it.
        dump_id: [u8; 16],
        /// [`kdraw_format::black_box`] records.
        data: Vec<u8>,
    },
    /// Neither zero nor a whole black box.
    Damaged,
}

impl DumpPartition {
    /// Opens the kdraw partition that `path` is or contains.
    ///
    /// # Errors
    /// As [`Source::open_signed`].
    pub fn open(
        system: &System,
        path: &Path,
        number: Option<u32>,
        access: Access,
    ) -> Result<Self, Error> {
        let mut source = Source::open_signed(system, path, number, access)?;
        let superblock = source.superblock().map_err(|why| Error::Unsigned {
            path: path.to_owned(),
            source: why,
        })?;
        Ok(Self { source, superblock })
    }

    /// All slots.
    pub fn slots(&self) -> impl Iterator<Item = SlotPlace> + use<> {
        let superblock = self.superblock.clone();
        (0..superblock.slots).filter_map(move |index| superblock.slot(index))
    }

    /// The slots with dumps that nobody has extracted.
    pub fn waiting(&mut self) -> Vec<SlotPlace> {
        let slots = self.slots();
        slots.filter(|slot| !self.header(slot).is_free()).collect()
    }

    /// How many slots a dump could go to without one being lost that nobody has extracted.
    pub fn free_slots(&mut self) -> u32 {
        let slots = u32::try_from(self.slots().count()).unwrap_or(u32::MAX);
        slots.saturating_sub(u32::try_from(self.waiting().len()).unwrap_or(u32::MAX))
    }

    /// The slot with a number.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`].
    pub fn slot(&self, index: u32) -> Result<SlotPlace, Error> {
        self.superblock.slot(index).ok_or(Error::NoSuchSlot {
            asked: index,
            slots: self.superblock.slots,
        })
    }

    /// Both copies of a slot's header; `None` for one that is damaged.
    pub fn header_copies(&mut self, slot: &SlotPlace) -> [Option<SlotHeader>; 2] {
        [0, 1].map(|copy| {
            let mut block = [0; BLOCK];
            self.source
                .read_at(slot.header(copy).0, &mut block)
                .ok()
                .and_then(|()| SlotHeader::decode(&block, slot.index))
        })
    }

    /// The slot's header: the newer whole copy, or what the first chunk that can be found tells.
    pub fn header(&mut self, slot: &SlotPlace) -> SlotHeader {
        let [a, b] = self.header_copies(slot);
        SlotHeader::newest(a, b).unwrap_or_else(|| self.header_from_chunks(slot))
    }

    /// Makes up for a lost header: every chunk knows whose it is.
    fn header_from_chunks(&mut self, slot: &SlotPlace) -> SlotHeader {
        let mut block = [0; BLOCK];
        let end = self.source.len();
        let found = (0..slot.stream_len())
            .step_by(BLOCK)
            .take_while(|offset| *offset < end)
            .find_map(|offset| {
                let at = slot.stream_start().0.checked_add(offset)?;
                self.source.read_at(at, &mut block).ok()?;
                let chunk = ChunkHeader::decode(&block).ok()?;
                (chunk.stream_offset == offset).then_some(chunk.dump_id)
            });
        let plain_len = self.superblock.plain_core().map_or(0, |(_, len)| len);
        SlotHeader {
            outcome: match found {
                Some(_) => Outcome::Writing,
                None => Outcome::Empty,
            },
            index: slot.index,
            dump_id: found.unwrap_or_default(),
            plain_len,
            ..SlotHeader::default()
        }
    }

    /// Writes both copies of a slot's header, each durable before the next.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_header(&mut self, slot: &SlotPlace, header: &SlotHeader) -> Result<(), Error> {
        let mut block = [0; BLOCK];
        header.encode(&mut block);
        for copy in [0, 1] {
            self.source.write_at(slot.header(copy), &block)?;
            self.source.sync()?;
        }
        Ok(())
    }

    /// Marks a slot's dump as extracted, so that the slot is free.
    ///
    /// # Errors
    /// As [`Self::write_header`].
    pub fn mark_extracted(&mut self, slot: &SlotPlace) -> Result<(), Error> {
        let mut header = self.header(slot);
        header.extracted = Some(text::now());
        header.generation = header.generation.saturating_add(1);
        self.write_header(slot, &header)
    }

    /// Reads one record of the journal.
    pub fn journal_record(&mut self, index: u64) -> JournalRecord {
        let PartOffset(at) = Superblock::journal_record(index);
        let mut record = vec![0; JOURNAL_RECORD as usize];
        if self.source.read_at(at, &mut record).is_err() {
            return JournalRecord::Damaged;
        }
        if record.iter().all(|&byte| byte == 0) {
            return JournalRecord::Empty;
        }
        let Ok(header) = ChunkHeader::decode(&record) else {
            return JournalRecord::Damaged;
        };
        match header.data(&record) {
            Ok(data) if header.kind == Kind::BlackBox => JournalRecord::Written {
                dump_id: header.dump_id,
                data: data.to_vec(),
            },
            _ => JournalRecord::Damaged,
        }
    }

    /// Reads the whole journal.
    pub fn journal(&mut self) -> Vec<JournalRecord> {
        (0..JOURNAL_RECORDS)
            .map(|index| self.journal_record(index))
            .collect()
    }
}
