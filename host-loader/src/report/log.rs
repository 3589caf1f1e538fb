//! The end of the log, with its times.

use kdraw_kernel::Kernel;
use kdraw_kernel::read::printable;
use kdraw_linux::printk::{PrintkError, PrintkLog};
use serde::Serialize;

use crate::extract::dmesg;
use crate::inside::records::Record;

/// The most records that a report shows: what an oops and a panic print, and as much before.
const SHOWN: u64 = 200;
/// What the kernel prints first when it dies.
const BEGINNINGS: [&str; 6] = [
    "Unable to handle kernel ",
    "kernel BUG at ",
    "Internal error: ",
    "BUG: ",
    "watchdog: BUG: ",
    "Kernel panic - not syncing: ",
];
/// What the panic says.
const PANIC: &str = "Kernel panic - not syncing: ";
/// The most records between the first words of a crash and its last.
const CRASH: usize = 150;
/// Longer than what stands between two of them.
const SILENCE_NS: u64 = 2_000_000_000;

/// The end of the log.
#[derive(Clone, Debug, Serialize)]
pub struct Log {
    /// `ring buffer`, `kernel log chunks` or `black box`.
    pub origin: &'static str,
    /// How many records there were in all.
    pub total: u64,
    /// Records that cannot be read.
    pub unreadable: u64,
    /// The last ones.
    pub records: Vec<Record>,
    /// With which of them the crash begins.
    pub crash: Option<usize>,
    /// Nanoseconds of silence before that.
    pub silence_ns: Option<u64>,
    /// Why the kernel died, in its own words.
    #[serde(skip)]
    pub reason: Option<String>,
    /// What the machine is, as the log's start tells it.
    #[serde(skip)]
    pub model: Option<String>,
    /// The command line, as the log's start tells it.
    #[serde(skip)]
    pub command_line: Option<String>,
}

impl Log {
    /// Reads the kernel's own buffer.
    ///
    /// # Errors
    /// [`PrintkError`].
    pub fn of(kernel: &Kernel<'_>) -> Result<Self, PrintkError> {
        let log = PrintkLog::open(kernel.virt(), &kernel.vmcoreinfo())?;
        let mut found = Self::empty("ring buffer");
        let first_shown = log.ids().saturating_sub(SHOWN);
        let mut text = Vec::new();
        for number in 0..log.ids() {
            let details = match log.details(number) {
                Ok(Some(details)) => details,
                Ok(None) => continue,
                Err(_) => {
                    found.unreadable = found.unreadable.saturating_add(1);
                    continue;
                }
            };
            found.total = found.total.saturating_add(1);
            // Of what came before, only what was logged at boot's start is looked at.
            if number < first_shown && details.time_ns > 0 {
                continue;
            }
            text.clear();
            if !log.write_record(number, &mut |piece| text.extend_from_slice(piece)) {
                found.unreadable = found.unreadable.saturating_add(1);
            }
            let record = Record::new(&details, &String::from_utf8_lossy(&text));
            found.note_identity(&record.text);
            if number >= first_shown {
                found.records.push(record);
            }
        }
        found.find_crash();
        found.reason = log.panic_reason().headline().map(printable_line);
        Ok(found)
    }

    /// Reads what the capture saved of it; `None` if that is nothing.
    pub fn saved(log: &dmesg::Log) -> Option<Self> {
        let text = String::from_utf8_lossy(&log.text);
        let mut found = Self::empty(log.origin);
        let records: Vec<_> = text.lines().filter_map(Record::printed).collect();
        for record in &records {
            found.note_identity(&record.text);
        }
        found.total = records.len() as u64;
        let skip = records.len().saturating_sub(SHOWN as usize);
        found.records = records.into_iter().skip(skip).collect();
        found.find_crash();
        (found.total > 0).then_some(found)
    }

    /// A log of no records.
    pub(super) fn empty(origin: &'static str) -> Self {
        Self {
            origin,
            total: 0,
            unreadable: 0,
            records: Vec::new(),
            crash: None,
            silence_ns: None,
            reason: None,
            model: None,
            command_line: None,
        }
    }

    fn note_identity(&mut self, text: &str) {
        if let Some(model) = text.strip_prefix("Machine model: ") {
            self.model = Some(model.to_owned());
        } else if let Some(line) = text.strip_prefix("Kernel command line: ") {
            self.command_line = Some(line.to_owned());
        }
    }

    /// The crash begins with the first of its words before the last panic, which follow each
    /// other closely.
    fn find_crash(&mut self) {
        let is_first = |record: &Record| {
            BEGINNINGS
                .iter()
                .any(|first| record.text.starts_with(first))
        };
        let panics = |record: &Record| record.text.starts_with(PANIC);
        let records = &self.records;
        let last = records
            .iter()
            .rposition(panics)
            .or_else(|| records.iter().rposition(is_first));
        let Some(last) = last else {
            return;
        };
        let mut first = last;
        let mut later = records.get(last).map_or(0, |record| record.time_ns);
        for (number, record) in records.iter().enumerate().take(last).rev().take(CRASH) {
            if later.saturating_sub(record.time_ns) > SILENCE_NS {
                break;
            }
            later = record.time_ns;
            if is_first(record) {
                first = number;
            }
        }
        let time = |number: usize| records.get(number).map(|record| record.time_ns);
        let before = first.checked_sub(1).and_then(time);
        self.silence_ns = before.and_then(|before| time(first)?.checked_sub(before));
        self.crash = Some(first);
    }

    /// When the last record was written: how long the kernel had run, in nanoseconds.
    pub fn uptime_ns(&self) -> Option<u64> {
        let times = self.records.iter().map(|record| record.time_ns);
        times.max()
    }
}

fn printable_line(line: &str) -> String {
    printable(line.trim().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        let log = dmesg::Log {
            text: text.into(),
            origin: "black box",
            unreadable: 0,
            trouble: None,
        };
        Log::saved(&log).unwrap()
    }

    #[test]
    fn a_crash_begins_where_its_cause_is_told() {
        let found = log("[    0.000000] Machine model: A Board\n\
            [    0.000000] Kernel command line: quiet\n\
            [    1.000000] BUG: an older one\n\
            [   90.000000] all is well\n\
            [  100.500000] Unable to handle kernel paging request\n\
            [  100.600000] Internal error: Oops: 1 [#1]\n\
            [  100.600000]   of two lines\n\
            [  100.700000] Kernel panic - not syncing: Oops: Fatal exception\n\
            [  100.800000] Bye!\n");
        assert_eq!((found.total, found.crash), (9, Some(4)));
        assert_eq!(found.silence_ns, Some(10_500_000_000));
        assert_eq!(found.uptime_ns(), Some(100_800_000_000));
        assert_eq!(found.model.as_deref(), Some("A Board"));
        assert_eq!(found.command_line.as_deref(), Some("quiet"));
    }

    #[test]
    fn a_log_without_a_crash_has_none() {
        let found = log("[    1.000000] one\nwithout a time\n");
        assert_eq!((found.crash, found.silence_ns), (None, None));
        assert_eq!(found.records.len(), 2);
    }
}
