//! Records of the log as data.

use kdraw_linux::printk::LogDetails;
use serde::Serialize;

/// Names of levels, as dmesg(1) has them.
pub const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
];
/// Names of facilities, as dmesg(1) has them; the kernel's own is 0.
const FACILITIES: [&str; 12] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp",
];

/// A record.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Nanoseconds after boot.
    pub time_ns: u64,
    /// As dmesg(1) names it; empty if it is not told.
    pub level: &'static str,
    /// As dmesg(1) names it.
    pub facility: String,
    /// `T12` or `C0`.
    pub caller: Option<String>,
    /// Without the time in front.
    pub text: String,
}

/// A record's level.
pub fn level(details: &LogDetails) -> &'static str {
    let level = LEVELS.get(usize::from(details.level));
    level.copied().unwrap_or_default()
}

/// A record's facility.
pub fn facility(details: &LogDetails) -> String {
    let known = FACILITIES.get(usize::from(details.facility));
    known.map_or_else(|| details.facility.to_string(), |name| (*name).to_owned())
}

/// Who wrote a record: `T12`, or `C0` in an interrupt.
pub fn caller(details: &LogDetails) -> Option<String> {
    /// Set for a CPU's number (`printk_caller_id`).
    const CPU: u32 = 1 << 31;
    let caller = details.caller?;
    Some(match caller & CPU {
        0 => format!("T{caller}"),
        _ => format!("C{}", caller & !CPU),
    })
}

impl Record {
    /// Of its details and as it was printed.
    pub fn new(details: &LogDetails, printed: &str) -> Self {
        // Without the time in front, and without the indentation of further lines.
        let (prefix, text) = printed.split_once("] ").unwrap_or(("", printed));
        let indent = " ".repeat(prefix.len().saturating_add(2));
        let lines = text
            .lines()
            .map(|line| line.strip_prefix(&indent).unwrap_or(line));
        Self {
            time_ns: details.time_ns,
            level: level(details),
            facility: facility(details),
            caller: caller(details),
            text: lines.collect::<Vec<_>>().join("\n"),
        }
    }

    /// Seconds after boot: `12.345678`.
    pub fn seconds(&self) -> String {
        let micros = self.time_ns / 1000 % 1_000_000;
        format!("{}.{micros:06}", self.time_ns / 1_000_000_000)
    }

    /// In a line, or more, as dmesg(1) prints it.
    pub fn in_line(&self) -> String {
        let text = self.text.replace('\n', "\n               ");
        format!("[{:>12}] {text}", self.seconds())
    }

    /// Of a line of text, `[    1.234567] …`, which tells neither level nor facility. `None` for
    /// an empty one.
    pub fn printed(line: &str) -> Option<Self> {
        let time = |text: &str| {
            let (seconds, micros) = text.trim().split_once('.')?;
            let seconds: u64 = seconds.parse().ok()?;
            let nanos = micros.parse::<u64>().ok()?.checked_mul(1000)?;
            seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
        };
        let parts = line
            .strip_prefix('[')
            .and_then(|line| line.split_once("] "));
        let told = parts.and_then(|(before, text)| Some((time(before)?, text)));
        let (time_ns, text) = told.unwrap_or((0, line));
        (!text.is_empty()).then(|| Self {
            time_ns,
            level: "",
            facility: String::new(),
            caller: None,
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_further_lines_lose_their_indentation() {
        let details = LogDetails {
            time_ns: 1_500_000_000,
            level: 3,
            facility: 0,
            caller: Some(1 << 31 | 2),
        };
        let printed = "[    1.500000] one\n               two\n";
        let record = Record::new(&details, printed);
        assert_eq!(record.text, "one\ntwo");
        assert_eq!(record.caller.as_deref(), Some("C2"));
    }
}
