//! The kernel's log, from the lockless printk ring buffer, by VMCOREINFO alone.
//!
//! `prb` points to a `printk_ringbuffer`: a ring of descriptors, a parallel ring of infos (time
//! stamp, length) and a ring of text. A descriptor's `state_var` holds its id and, in the top two
//! bits, its state; records from `tail_id` to `head_id` whose id matches and whose state is
//! committed or finalized are there. A text block starts with one long (its id); one that would
//! straddle the ring's end starts at offset 0 instead.
//!
//! The format is that of crash's `log`, byte by byte (its `printk.c`, `dump_record`):
//! `[    0.000000] text`, continuation lines indented by the prefix's width, bytes that are
//! neither printable ASCII nor white space as `.`, a record without text as an empty line.
//!
//! Kernels before 5.10 have another log buffer and no `SYMBOL(prb)`: [`PrintkError::Missing`].
//!
//! Bounds: at most as many records as the ring has, and [`MAX_RECORDS`]; at most as much text as
//! the ring has room for, whatever the records claim.
//!
//! Source: `kernel/printk/printk_ringbuffer.{c,h}`, `log_buf_vmcoreinfo_setup` in
//! `kernel/printk/printk.c`.

use core::fmt::Write;

use heapless::String;
use kdraw_format::addr::KernelVirtAddr;

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::memory::PhysMem;
use crate::translate::{TranslateError, VirtMem};
use crate::vmcoreinfo::Vmcoreinfo;

/// The most records that are read, the newest; `log_buf_len=32M` makes as many.
pub const MAX_RECORDS: u64 = 1 << 20;
/// The largest text ring that the kernel accepts (`LOG_BUF_LEN_MAX`), log2.
const MAX_TEXT_BITS: u32 = 31;
/// Larger than every structure of the ring in any kernel so far (`printk_info`: 88 bytes, 112 in 7.2).
const MAX_STRUCT: usize = 256;

/// Bits of an id; the two above are the state.
const ID_MASK: u64 = u64::MAX >> 2;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
/// The id in front of each text block.
const BLOCK_HEADER: u64 = 8;

/// Why there is no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrintkError {
    /// A key of the ring buffer is absent: a kernel before 5.10, or damaged VMCOREINFO.
    #[error("VMCOREINFO has no usable {0}; the log cannot be found (kernels since 5.10 have it)")]
    Missing(&'static str),
    /// A number that no kernel writes.
    #[error("the log's {what} is {found:#x}, which no kernel writes; it was overwritten")]
    Absurd {
        /// Which one.
        what: &'static str,
        /// What stands there.
        found: u64,
    },
    /// The ring's head cannot be read.
    #[error("the head of the log cannot be read: {0}")]
    Unreadable(#[from] TranslateError),
}

/// What was written of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// Records written.
    pub records: u64,
    /// Records lost in whole or part because their memory cannot be read.
    pub unreadable: u64,
    /// Whether records were left out because together they claim more text than the ring has.
    pub cut: bool,
}

/// What the kernel noted of a record besides its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogDetails {
    /// Nanoseconds after boot.
    pub time_ns: u64,
    /// 0, emergency, to 7, debug.
    pub level: u8,
    /// 0 is the kernel itself, others are syslog's.
    pub facility: u8,
    /// The task's number; with bit 31 set a CPU's. `None` if it is not there.
    pub caller: Option<u32>,
}

/// Offsets of the members used of descriptors and infos.
#[derive(Clone, Copy, Debug)]
struct Fields {
    desc_size: usize,
    info_size: usize,
    state: usize,
    begin: usize,
    next: usize,
    time: usize,
    text_len: usize,
}

/// The log of a crashed kernel.
#[derive(Debug)]
pub struct PrintkLog<'a, M> {
    virt: &'a VirtMem<M>,
    fields: Fields,
    descs: KernelVirtAddr,
    infos: KernelVirtAddr,
    text: KernelVirtAddr,
    /// A power of two.
    desc_count: u64,
    /// A power of two.
    text_size: u64,
    first_id: u64,
    /// How many ids from `first_id` on.
    ids: u64,
}

/// A record that is there.
#[derive(Clone, Copy, Debug)]
struct Record {
    time_ns: u64,
    text: KernelVirtAddr,
    /// `None` if the record has no text block at all.
    text_len: Option<u64>,
}

impl<'a, M: PhysMem> PrintkLog<'a, M> {
    /// Finds the ring buffer.
    ///
    /// # Errors
    /// [`PrintkError`] if the kernel does not export it, or if it is not readable or sane.
    pub fn open(virt: &'a VirtMem<M>, info: &Vmcoreinfo) -> Result<Self, PrintkError> {
        let offset = |name, key| info.offset(name).ok_or(PrintkError::Missing(key));
        macro_rules! offset {
            ($name:literal) => {
                offset($name, concat!("OFFSET(", $name, ")"))?
            };
        }
        let size = |name, key| {
            let size = info.size(name).and_then(|size| usize::try_from(size).ok());
            size.filter(|size| (1..=MAX_STRUCT).contains(size))
                .ok_or(PrintkError::Missing(key))
        };
        let prb = info
            .symbol("prb")
            .ok_or(PrintkError::Missing("SYMBOL(prb)"))?;
        let counter = offset!("atomic_long_t.counter");
        let block = offset!("prb_desc.text_blk_lpos");
        let within = |what, offset: u64, more: u64| {
            // All used inside a structure of at most MAX_STRUCT bytes, checked when read.
            let sum = offset
                .checked_add(more)
                .and_then(|sum| usize::try_from(sum).ok());
            sum.ok_or(PrintkError::Absurd {
                what,
                found: offset,
            })
        };
        let fields = Fields {
            desc_size: size("prb_desc", "SIZE(prb_desc)")?,
            info_size: size("printk_info", "SIZE(printk_info)")?,
            state: within("state offset", offset!("prb_desc.state_var"), counter)?,
            begin: within("block offset", block, offset!("prb_data_blk_lpos.begin"))?,
            next: within("block offset", block, offset!("prb_data_blk_lpos.next"))?,
            time: within("time offset", offset!("printk_info.ts_nsec"), 0)?,
            text_len: within("length offset", offset!("printk_info.text_len"), 0)?,
        };

        let at = |base: KernelVirtAddr, offset: u64| KernelVirtAddr(base.0.wrapping_add(offset));
        let prb = KernelVirtAddr(virt.read_u64(prb)?);
        let desc_ring = at(prb, offset!("printk_ringbuffer.desc_ring"));
        let text_ring = at(prb, offset!("printk_ringbuffer.text_data_ring"));
        let bits = |base, offset, what, max: u32| -> Result<u64, PrintkError> {
            let bits = virt.read_u32(at(base, offset))?;
            let count = (1..=max)
                .contains(&bits)
                .then(|| 1u64.checked_shl(bits))
                .flatten();
            count.ok_or(PrintkError::Absurd {
                what,
                found: bits.into(),
            })
        };
        let pointer = |base, offset| virt.read_u64(at(base, offset)).map(KernelVirtAddr);
        let id = |offset: u64| {
            virt.read_u64(at(at(desc_ring, offset), counter))
                .map(|id| id & ID_MASK)
        };

        // A descriptor per 32 bytes of text (`PRB_AVGBITS`).
        let desc_count = bits(
            desc_ring,
            offset!("prb_desc_ring.count_bits"),
            "descriptor bits",
            MAX_TEXT_BITS,
        )?;
        let text_size = bits(
            text_ring,
            offset!("prb_data_ring.size_bits"),
            "text bits",
            MAX_TEXT_BITS,
        )?;
        let tail = id(offset!("prb_desc_ring.tail_id"))?;
        let head = id(offset!("prb_desc_ring.head_id"))?;
        let claimed = (head.wrapping_sub(tail) & ID_MASK).saturating_add(1);
        let ids = claimed.min(desc_count).min(MAX_RECORDS);
        Ok(Self {
            virt,
            fields,
            descs: pointer(desc_ring, offset!("prb_desc_ring.descs"))?,
            infos: pointer(desc_ring, offset!("prb_desc_ring.infos"))?,
            text: pointer(text_ring, offset!("prb_data_ring.data"))?,
            desc_count,
            text_size,
            first_id: head.wrapping_sub(ids).wrapping_add(1) & ID_MASK,
            ids,
        })
    }

    /// Writes the whole log to `sink`, piece by piece, in one pass.
    pub fn write(&self, sink: &mut dyn FnMut(&[u8])) -> LogSummary {
        self.write_from(0, sink)
    }

    /// Writes the newest records that together have at most `max_bytes` bytes.
    pub fn write_tail(&self, max_bytes: u64, sink: &mut dyn FnMut(&[u8])) -> LogSummary {
        let mut bytes = 0u64;
        let older = (0..self.ids).rev().find(|n| {
            if let Ok(Some(record)) = self.record(*n) {
                self.print(&record, &mut |piece| {
                    bytes = bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                });
            }
            bytes > max_bytes
        });
        self.write_from(older.map_or(0, |n| n.saturating_add(1)), sink)
    }

    /// Writes the newest records that `buffer` has room for to its start; returns how many bytes.
    pub fn tail(&self, buffer: &mut [u8]) -> usize {
        // Each record is printed where there is room, and moved to before the younger ones.
        let len = buffer.len();
        let mut start = len;
        for n in (0..self.ids).rev() {
            let Ok(Some(record)) = self.record(n) else {
                continue;
            };
            let mut used = Some(0usize);
            self.print(&record, &mut |piece| {
                used = used.and_then(|used| {
                    let end = used.checked_add(piece.len()).filter(|end| *end <= start)?;
                    buffer.get_mut(used..end)?.copy_from_slice(piece);
                    Some(end)
                });
            });
            let Some(used) = used else { break };
            start = start.saturating_sub(used);
            buffer.copy_within(..used, start);
        }
        buffer.copy_within(start.., 0);
        len.saturating_sub(start)
    }

    fn write_from(&self, first: u64, sink: &mut dyn FnMut(&[u8])) -> LogSummary {
        let mut summary = LogSummary::default();
        let mut room = self.text_size;
        for n in first..self.ids {
            let complete = match self.record(n) {
                Ok(Some(record)) => {
                    let Some(rest) = room.checked_sub(record.text_len.unwrap_or(0)) else {
                        summary.cut = true;
                        break;
                    };
                    room = rest;
                    summary.records = summary.records.saturating_add(1);
                    self.print(&record, sink)
                }
                Ok(None) => true,
                Err(_) => false,
            };
            if !complete {
                summary.unreadable = summary.unreadable.saturating_add(1);
            }
        }
        summary
    }

    /// Reads the `n`th record; `None` if nothing was committed there.
    fn record(&self, n: u64) -> Result<Option<Record>, TranslateError> {
        let id = self.first_id.wrapping_add(n) & ID_MASK;
        let index = id & self.desc_count.wrapping_sub(1);
        let fields = &self.fields;
        let mut buffer = [0; MAX_STRUCT];

        let desc = self.element(self.descs, index, fields.desc_size, &mut buffer)?;
        let (Some(state), Some(begin), Some(next)) = (
            u64_at(desc, fields.state),
            u64_at(desc, fields.begin),
            u64_at(desc, fields.next),
        ) else {
            return Ok(None);
        };
        let there = matches!(state >> 62, COMMITTED | FINALIZED);
        if !there || state & ID_MASK != id {
            return Ok(None);
        }

        let info = self.element(self.infos, index, fields.info_size, &mut buffer)?;
        let (Some(time_ns), Some(claimed)) =
            (u64_at(info, fields.time), u16_at(info, fields.text_len))
        else {
            return Ok(None);
        };
        let (start, text_len) = self.block(begin, next, claimed.into());
        let text = KernelVirtAddr(self.text.0.wrapping_add(start));
        Ok(Some(Record {
            time_ns,
            text,
            text_len,
        }))
    }

    /// Where a block's text starts in the ring and how long it is at most.
    fn block(&self, begin: u64, next: u64, claimed: u64) -> (u64, Option<u64>) {
        let mask = self.text_size.wrapping_sub(1);
        let (mut begin, mut next) = (begin & mask, next & mask);
        // Both the same: FAILED_LPOS or NO_LPOS, a record without a block.
        if begin == next {
            return (0, None);
        }
        if next == 0 {
            // Fills the ring to its last byte: allowed since 6.18, a wrap to 0 never looks so.
            next = self.text_size;
        } else if begin > next {
            begin = 0;
        }
        let start = begin.saturating_add(BLOCK_HEADER);
        (start, Some(next.saturating_sub(start).min(claimed)))
    }

    fn element<'b>(
        &self,
        ring: KernelVirtAddr,
        index: u64,
        size: usize,
        buffer: &'b mut [u8; MAX_STRUCT],
    ) -> Result<&'b [u8], TranslateError> {
        let stride = u64::try_from(size).unwrap_or(0);
        let at = KernelVirtAddr(ring.0.wrapping_add(index.wrapping_mul(stride)));
        let element = buffer.get_mut(..size).unwrap_or_default();
        self.virt.read(at, element)?;
        Ok(element)
    }

    /// Prints one record as crash does; tells whether all of its text could be read.
    fn print(&self, record: &Record, sink: &mut dyn FnMut(&[u8])) -> bool {
        let mut complete = true;
        if let Some(text_len) = record.text_len {
            let prefix = prefix(record.time_ns);
            sink(prefix.as_bytes());
            let mut done = 0;
            let mut buffer = [0; MAX_STRUCT];
            while done < text_len {
                let Ok(text) = self.text_at(record, text_len, done, &mut buffer) else {
                    complete = false;
                    break;
                };
                done = done.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
                for line in text.split_inclusive(|byte| *byte == b'\n') {
                    sink(line);
                    if line.ends_with(b"\n") {
                        sink(INDENT.get(..prefix.len()).unwrap_or(INDENT));
                    }
                }
            }
        }
        sink(b"\n");
        complete
    }

    /// Reads as much of the text from `skip` on as the buffer takes, made printable.
    fn text_at<'b>(
        &self,
        record: &Record,
        text_len: u64,
        skip: u64,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], TranslateError> {
        let rest = usize::try_from(text_len.saturating_sub(skip)).unwrap_or(usize::MAX);
        let len = rest.min(buffer.len());
        let text = buffer.get_mut(..len).unwrap_or_default();
        self.virt
            .read(KernelVirtAddr(record.text.0.wrapping_add(skip)), text)?;
        for byte in text.iter_mut() {
            // What isprint(3) and isspace(3) accept in the C locale.
            if !matches!(*byte, b' '..=b'~' | b'\t'..=b'\r') {
                *byte = b'.';
            }
        }
        Ok(text)
    }

    /// Reads what was noted of the `n`th record; `None` if nothing was committed there.
    ///
    /// VMCOREINFO does not tell where facility and level are: in the bytes behind the text's
    /// length, where they have been since the structure exists (5.10), the caller behind them.
    ///
    /// # Errors
    /// [`TranslateError`] if the record cannot be read.
    pub fn details(&self, n: u64) -> Result<Option<LogDetails>, TranslateError> {
        let Some(record) = self.record(n)? else {
            return Ok(None);
        };
        let index = self.first_id.wrapping_add(n) & self.desc_count.wrapping_sub(1);
        let mut buffer = [0; MAX_STRUCT];
        let info = self.element(self.infos, index, self.fields.info_size, &mut buffer)?;
        let behind = info.get(self.fields.text_len..).unwrap_or_default();
        let byte = |at: usize| behind.get(at).copied().unwrap_or(0);
        Ok(Some(LogDetails {
            time_ns: record.time_ns,
            // Five bits of flags, three of level.
            level: byte(3) >> 5,
            facility: byte(2),
            caller: u32_at(behind, 4),
        }))
    }

    /// Writes the `n`th record; tells whether all of it could be read.
    pub fn write_record(&self, n: u64, sink: &mut dyn FnMut(&[u8])) -> bool {
        match self.record(n) {
            Ok(Some(record)) => self.print(&record, sink),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// How many records there may be.
    pub fn ids(&self) -> u64 {
        self.ids
    }

    /// The start of the `n`th record's text, made printable; `None` if there is none.
    pub(crate) fn text_start<'b>(&self, n: u64, buffer: &'b mut [u8]) -> Option<&'b str> {
        let record = self.record(n).ok()??;
        let text = self.text_at(&record, record.text_len?, 0, buffer).ok()?;
        core::str::from_utf8(text).ok()
    }
}

/// As wide as the widest prefix, and more.
const INDENT: &[u8] = &[b' '; 32];

/// `[    1.234567] `.
fn prefix(time_ns: u64) -> String<32> {
    const NS: u64 = 1_000_000_000;
    let mut prefix = String::new();
    // Cannot fail: at most 21 characters.
    let _ = write!(prefix, "[{:5}.{:06}] ", time_ns / NS, time_ns % NS / 1000);
    prefix
}

#[cfg(test)]
pub(crate) mod tests {
    use std::string::String;
    use std::vec::Vec;

    use super::*;
    use crate::memory::tests::Ram;
    use crate::translate::tests::layout;

    const INFO: &str = "SYMBOL(prb)=ffff800080100000\nOFFSET(printk_ringbuffer.desc_ring)=0\n\
OFFSET(printk_ringbuffer.text_data_ring)=48\nOFFSET(prb_desc_ring.count_bits)=0\nOFFSET(prb_desc_ring.descs)=8\n\
OFFSET(prb_desc_ring.infos)=16\nOFFSET(prb_desc_ring.head_id)=24\nOFFSET(prb_desc_ring.tail_id)=32\n\
SIZE(prb_desc)=24\nOFFSET(prb_desc.state_var)=0\nOFFSET(prb_desc.text_blk_lpos)=8\n\
OFFSET(prb_data_blk_lpos.begin)=0\nOFFSET(prb_data_blk_lpos.next)=8\nSIZE(printk_info)=88\n\
OFFSET(printk_info.ts_nsec)=8\nOFFSET(printk_info.text_len)=16\nOFFSET(prb_data_ring.size_bits)=0\n\
OFFSET(prb_data_ring.data)=8\nOFFSET(atomic_long_t.counter)=0\n";

    const PRB: u64 = 0x4010_1000;
    const DESCS: u64 = 0x4011_0000;
    const INFOS: u64 = 0x4012_0000;
    const TEXT: u64 = 0x4013_0000;
    const TEXT_SIZE: u64 = 512;
    const DESC_COUNT: u64 = 8;
    /// The test layout's distance of virtual and physical image addresses.
    const VOFFSET: u64 = 0xffff_8000_4000_0000;

    /// A ring of 8 descriptors and 512 bytes of text, written as the kernel does.
    pub(crate) struct Ring {
        ram: Ram,
        next_id: u64,
        lpos: u64,
    }

    impl Ring {
        pub(crate) fn new(first_id: u64) -> Self {
            let mut ram = Ram::default();
            ram.put_u64(0x4010_0000, PRB + VOFFSET);
            ram.put(PRB, &3u32.to_le_bytes());
            ram.put_u64(PRB + 8, DESCS + VOFFSET);
            ram.put_u64(PRB + 16, INFOS + VOFFSET);
            ram.put(PRB + 48, &9u32.to_le_bytes());
            ram.put_u64(PRB + 56, TEXT + VOFFSET);
            for at in [DESCS, INFOS, TEXT] {
                ram.put(at, &[0; 4096]);
            }
            Self {
                ram,
                next_id: first_id & ID_MASK,
                lpos: 0,
            }
        }

        /// Writes a descriptor and an info and moves the head.
        fn entry(&mut self, state: u64, begin: u64, next: u64, time: u64, len: u16) {
            let index = self.next_id % DESC_COUNT;
            self.ram
                .put_u64(DESCS + 24 * index, self.next_id | state << 62);
            self.ram.put_u64(DESCS + 24 * index + 8, begin);
            self.ram.put_u64(DESCS + 24 * index + 16, next);
            self.ram.put_u64(INFOS + 88 * index + 8, time);
            self.ram.put(INFOS + 88 * index + 16, &len.to_le_bytes());
            self.ram.put_u64(PRB + 24, self.next_id | FINALIZED << 62);
            self.next_id = (self.next_id + 1) & ID_MASK;
        }

        pub(crate) fn tail(&mut self, id: u64) {
            self.ram.put_u64(PRB + 32, id & ID_MASK);
        }

        /// Writes a record, wrapping as kernels before 6.18 do.
        pub(crate) fn print(&mut self, time: u64, text: &[u8]) {
            let size = (8 + text.len() as u64).next_multiple_of(8);
            let begin = self.lpos;
            let (mut at, mut next) = (begin, begin + size);
            if begin / TEXT_SIZE != next / TEXT_SIZE {
                at = next / TEXT_SIZE * TEXT_SIZE;
                next = at + size;
            }
            self.ram.put_u64(TEXT + at % TEXT_SIZE, self.next_id);
            self.ram.put(TEXT + at % TEXT_SIZE + 8, text);
            self.lpos = next;
            self.entry(FINALIZED, begin, next, time, text.len() as u16);
        }

        fn read(&self) -> (String, LogSummary) {
            self.with(|log| {
                let mut out = Vec::new();
                let summary = log.write(&mut |piece| out.extend_from_slice(piece));
                (String::from_utf8(out).unwrap(), summary)
            })
        }

        pub(crate) fn with<T>(&self, use_log: impl FnOnce(PrintkLog<&Ram>) -> T) -> T {
            let virt = VirtMem::new(&self.ram, layout(12, 48, 48));
            use_log(PrintkLog::open(&virt, &Vmcoreinfo::new(INFO.as_bytes())).unwrap())
        }
    }

    #[test]
    fn records_look_as_in_crash() {
        let mut ring = Ring::new(6);
        ring.tail(6);
        ring.print(0, b"Booting Linux");
        ring.print(1_234_567_890, b"two\nlines \x1b[1m\xc3\xa9\t.");
        ring.entry(0, 0, 8, 0, 8); // reserved: still being written
        ring.entry(COMMITTED, 1, 1, 5, 3); // no room for its text (FAILED_LPOS)
        ring.print(123_456_789_012_345, b"");
        assert_eq!(
            ring.read().0,
            "[    0.000000] Booting Linux\n\
             [    1.234567] two\n               lines .[1m..\t.\n\
             \n\
             [123456.789012] \n"
        );
    }

    #[test]
    fn text_wraps_and_ids_wrap() {
        // 100 records through a ring that holds 8, with ids around the end of the id space.
        let mut ring = Ring::new(ID_MASK - 49);
        for n in 0..100u64 {
            ring.print(n * 1000, std::format!("record number {n}").as_bytes());
        }
        ring.tail(50 - 8);
        let (text, summary) = ring.read();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[0], "[    0.000092] record number 92");
        assert_eq!(lines[7], "[    0.000099] record number 99");
        assert_eq!(
            summary,
            LogSummary {
                records: 8,
                unreadable: 0,
                cut: false
            }
        );

        // Since 6.18 a block may end exactly where the ring ends.
        let mut ring = Ring::new(0);
        ring.tail(0);
        ring.ram.put(TEXT + TEXT_SIZE - 8, b"to brim!");
        ring.entry(FINALIZED, TEXT_SIZE - 16, TEXT_SIZE, 0, 8);
        assert_eq!(ring.read().0, "[    0.000000] to brim!\n");
    }

    #[test]
    fn lying_records_are_bounded() {
        // A length beyond the block; a block that ends before its text starts; an absurd tail;
        // another record's id.
        let mut ring = Ring::new(0);
        ring.tail(5);
        ring.print(0, b"good");
        ring.entry(FINALIZED, 0, 16, 0, 60_000);
        ring.entry(FINALIZED, 0, 4, 0, 60_000);
        ring.ram.put_u64(DESCS + 24 * 7, 8 | FINALIZED << 62);
        let (text, _) = ring.read();
        assert_eq!(
            text,
            "[    0.000000] good\n[    0.000000] good....\n[    0.000000] \n"
        );

        // Every record claims the whole ring.
        let mut ring = Ring::new(0);
        ring.tail(0);
        for _ in 0..8 {
            ring.entry(FINALIZED, 0, TEXT_SIZE - 1, 0, 60_000);
        }
        let (_, summary) = ring.read();
        assert_eq!(
            summary,
            LogSummary {
                records: 1,
                unreadable: 0,
                cut: true
            }
        );
    }

    #[test]
    fn unreadable_memory_is_counted_and_passed_over() {
        let mut ring = Ring::new(0);
        ring.tail(0);
        ring.print(0, b"before");
        ring.print(0, b"after");
        // The text ring is somewhere else: prefixes remain.
        ring.ram.put_u64(PRB + 56, 0xffff_8000_8fff_0000);
        let (text, summary) = ring.read();
        assert_eq!(text, "[    0.000000] \n[    0.000000] \n");
        assert_eq!(summary.unreadable, 2);
    }

    #[test]
    fn the_tail_starts_at_a_record() {
        let mut ring = Ring::new(0);
        ring.tail(0);
        for n in 0..8 {
            ring.print(0, std::format!("line {n}").as_bytes());
        }
        // Each takes 22 bytes.
        for (max, lines) in [(0, 0), (21, 0), (22, 1), (65, 2), (66, 3), (10_000, 8)] {
            let mut out = Vec::new();
            let summary = ring.with(|log| log.write_tail(max, &mut |piece| out.extend(piece)));
            assert_eq!(
                (summary.records, out.len()),
                (lines, 22 * lines as usize),
                "{max}"
            );
            assert!(out.is_empty() || out.ends_with(b"line 7\n"));
            let mut buffer = std::vec![b'?'; max.min(1000) as usize];
            let len = ring.with(|log| log.tail(&mut buffer));
            assert_eq!(buffer[..len], out, "{max}");
        }
    }

    #[test]
    fn what_is_no_ring_is_refused() {
        let open = |ring: &Ring, info: &str| {
            let virt = VirtMem::new(&ring.ram, layout(12, 48, 48));
            PrintkLog::open(&virt, &Vmcoreinfo::new(info.as_bytes())).err()
        };
        let ring = Ring::new(0);
        for (from, to, missing) in [
            ("SYMBOL(prb)", "SYMBOL(log_buf)", "SYMBOL(prb)"),
            ("SIZE(prb_desc)=24", "SIZE(prb_desc)=0", "SIZE(prb_desc)"),
            (
                "SIZE(printk_info)=88",
                "SIZE(printk_info)=100000",
                "SIZE(printk_info)",
            ),
            (
                "OFFSET(prb_desc_ring.infos)",
                "OFFSET(x)",
                "OFFSET(prb_desc_ring.infos)",
            ),
        ] {
            assert_eq!(
                open(&ring, &INFO.replace(from, to)),
                Some(PrintkError::Missing(missing))
            );
        }
        let mut bad = Ring::new(0);
        bad.ram.put(PRB, &64u32.to_le_bytes());
        let what = "descriptor bits";
        assert_eq!(
            open(&bad, INFO),
            Some(PrintkError::Absurd { what, found: 64 })
        );
        bad.ram.put_u64(0x4010_0000, 0x1234);
        assert!(matches!(open(&bad, INFO), Some(PrintkError::Unreadable(_))));
    }
}
