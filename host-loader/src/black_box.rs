//! The black box's records, read for people: reason, system, registers, end of the log.

use kdraw_format::black_box::{CPU_RECORD, tag};
use kdraw_format::records::records;
use serde::{Deserialize, Serialize};

/// What a black box says; fields that it lacks are `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlackBox {
    /// The panic's reason, one line.
    pub reason: Option<String>,
    /// The crashed kernel's release.
    pub os_release: Option<String>,
    /// The crashed kernel's build id.
    pub build_id: Option<String>,
    /// When it crashed, in seconds since 1970.
    pub crash_time: Option<u64>,
    /// uname: system, node, release, version, machine.
    pub uname: Vec<String>,
    /// The board's model.
    pub model: Option<String>,
    /// The machine's name when the plan was made.
    pub hostname: Option<String>,
    /// The payload's version.
    pub payload_version: Option<String>,
    /// XXH64 of the payload's image.
    pub payload_hash: Option<u64>,
    /// How the payload was entered.
    pub entry: Option<Entry>,
    /// The crash region's first byte and the byte after its last.
    pub crash_region: Option<(u64, u64)>,
    /// The registers of every CPU that stopped.
    pub cpus: Vec<Cpu>,
    /// The end of the kernel log.
    #[serde(skip)]
    pub log_tail: String,
}

/// The state in which the payload was entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The CPU that panicked, by its MPIDR.
    pub mpidr: u64,
    /// The exception level, 1 or 2.
    pub exception_level: u64,
    /// Whether the kernel ran with VHE.
    pub vhe: bool,
    /// SCTLR at entry.
    pub sctlr: u64,
}

/// One CPU's registers when it stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its number in note order.
    pub number: u32,
    /// The task that ran on it.
    pub pid: u32,
    /// x0 to x30, sp, pc, pstate.
    pub registers: Vec<u64>,
}

impl Cpu {
    /// The stack pointer.
    pub fn sp(&self) -> u64 {
        self.registers.get(31).copied().unwrap_or(0)
    }

    /// The program counter.
    pub fn pc(&self) -> u64 {
        self.registers.get(32).copied().unwrap_or(0)
    }
}

impl BlackBox {
    /// Reads the records of a black-box chunk's data.
    pub fn parse(data: &[u8]) -> Self {
        let mut found = Self::default();
        for (tag, bytes) in records(data) {
            found.take(tag, bytes);
        }
        found
    }

    fn take(&mut self, tag: u16, bytes: &[u8]) {
        let text = || Some(text(bytes));
        let words: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
        match tag {
            tag::REASON => self.reason = text(),
            tag::OS_RELEASE => self.os_release = text(),
            tag::BUILD_ID => self.build_id = text(),
            tag::CRASH_TIME => self.crash_time = words.first().copied(),
            tag::UNAME => {
                self.uname = self::text(bytes).lines().map(str::to_owned).collect();
            }
            tag::MODEL => self.model = text(),
            tag::HOSTNAME => self.hostname = text(),
            tag::PAYLOAD_VERSION => self.payload_version = text(),
            tag::PAYLOAD_HASH => self.payload_hash = words.first().copied(),
            tag::LOG_TAIL => self.log_tail = self::text(bytes),
            tag::CRASH_REGION => {
                if let [start, end, ..] = words[..] {
                    self.crash_region = Some((start, end));
                }
            }
            tag::ENTRY => {
                if let [mpidr, exception_level, vhe, sctlr, ..] = words[..] {
                    self.entry = Some(Entry {
                        mpidr,
                        exception_level,
                        vhe: vhe != 0,
                        sctlr,
                    });
                }
            }
            tag::CPU if bytes.len() == CPU_RECORD => {
                if let [ids, registers @ ..] = &words[..] {
                    self.cpus.push(Cpu {
                        number: *ids as u32,
                        pid: (ids >> 32) as u32,
                        registers: registers.to_vec(),
                    });
                }
            }
            _ => {}
        }
    }
}

/// Text of a dead kernel: what is not UTF-8 or would move the cursor is replaced.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| *c != '\0')
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kdraw_format::records::RecordWriter;

    #[test]
    fn records_become_fields_and_control_characters_do_not_pass() {
        let mut data = [0; 1024];
        let mut writer = RecordWriter::new(&mut data);
        let mut cpu = [0u8; CPU_RECORD];
        cpu[0] = 3;
        cpu[4] = 77;
        cpu[8 + 32 * 8] = 0xcc;
        let region = [1u64.to_le_bytes(), 9u64.to_le_bytes()].concat();
        assert!(writer.put(tag::REASON, &[b"bad \x1b[31mthing\n"]));
        assert!(writer.put(tag::CPU, &[&cpu]));
        assert!(writer.put(tag::CRASH_REGION, &[&region]));
        assert!(writer.put(tag::CRASH_TIME, &[&7u64.to_le_bytes()]));
        assert!(writer.put(999, &[b"new"]));
        assert!(writer.put(tag::ENTRY, &[b"short"]));
        let len = writer.len();
        let found = BlackBox::parse(&data[..len]);
        assert_eq!(found.reason.as_deref(), Some("bad \u{fffd}[31mthing\n"));
        assert_eq!((found.cpus[0].number, found.cpus[0].pid), (3, 77));
        assert_eq!(found.cpus[0].pc(), 0xcc);
        assert_eq!(found.crash_region, Some((1, 9)));
        assert_eq!(found.crash_time, Some(7));
        assert_eq!(found.entry, None);
    }
}
