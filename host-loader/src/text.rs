//! Numbers and times as people read them.

/// Bytes as `512 B`, `4.0 KiB`, `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 1024.0 {
        let Some(larger) = units.next() else { break };
        value /= 1024.0;
        unit = Some(larger);
    }
    format!("{value:.1} {}", unit.unwrap_or(&""))
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A checksum of 64 bits.
pub fn hash(checksum: u64) -> String {
    format!("{checksum:016x}")
}

/// A UUID's bytes as `01234567-89ab-…`.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let digits = hex(bytes);
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if [8, 12, 16, 20].contains(&at) {
            out.push('-');
        }
        out.push(digit);
    }
    out
}

/// Seconds since 1970 as `2026-11-21 01:36:10 UTC`.
pub fn time(seconds: u64) -> String {
    let t = Civil::new(seconds);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        t.year, t.month, t.day, t.hour, t.minute, t.second
    )
}

/// Seconds since 1970 as `20261121T013610Z`, fit for file names.
pub fn stamp(seconds: u64) -> String {
    let t = Civil::new(seconds);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        t.year, t.month, t.day, t.hour, t.minute, t.second
    )
}

/// Microseconds as `1.234 s` or `12.3 ms`.
pub fn duration(microseconds: u64) -> String {
    let ms = microseconds as f64 / 1000.0;
    if ms < 1000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.3} s", ms / 1000.0)
    }
}

/// The time now, in seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// The proleptic Gregorian calendar, counted in years that begin in March so that the leap
    /// day comes last. Times beyond year 60000 or so are clamped.
    #[allow(
        clippy::arithmetic_side_effects,
        reason = "all numbers are below 2^45 after the clamp"
    )]
    fn new(seconds: u64) -> Self {
        let seconds = seconds.min(1 << 41);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let days = days + 719_468; // from 0000-03-01
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_827_696, "2000-02-29 12:34:56 UTC"),
            (1_709_164_800, "2024-02-29 00:00:00 UTC"),
            (1_795_225_170, "2026-11-21 01:39:30 UTC"),
        ] {
            assert_eq!(time(seconds), expected);
        }
        assert_eq!(stamp(951_827_696), "20000229T123456Z");
        assert!(!time(u64::MAX).is_empty());
    }

    #[test]
    fn sizes_and_names_are_short() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 30), "3.0 GiB");
        assert_eq!(duration(12_340), "12.3 ms");
        assert_eq!(uuid(&[0xab; 16]), "abababab-abab-abab-abab-abababababab");
    }
}
