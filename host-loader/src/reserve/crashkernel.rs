//! `crashkernel=` as Linux understands it: what it reserves on a machine.
//!
//! Forms: `size[@base]`; `start-[end]:size,…[@base]`, of which the first range that the memory
//! falls into counts; `size,high` with an optional `size,low`; `size,cma`. Numbers are decimal,
//! `0x` hexadecimal or `0` octal, with one of K, M, G, T, P, E. Of several plain ones the last
//! counts; `,high` and `,low` count only if there is no plain one; `,cma` comes on top.
//!
//! Linux looks for the name anywhere, inside quotes too, and only a space ends it. Source:
//! `parse_crashkernel` in `kernel/crash_reserve.c` (6.17), `memparse` in `lib/cmdline.c`; for
//! arm64 `arch/arm64/include/asm/crash_reserve.h`: what lies above 4 GiB gets 128 MiB below it
//! unless `,low` says otherwise. `,cma` is for user space to use until the crash; Linux 6.17 has
//! it on x86, later ones elsewhere.

use serde::Serialize;

/// The option's name, with its equals sign.
pub const NAME: &str = "crashkernel=";
const HIGH: &str = ",high";
const LOW: &str = ",low";
const CMA: &str = ",cma";
/// What `,high` takes below 4 GiB if `,low` does not say.
const DEFAULT_LOW: u64 = 128 << 20;
/// For ranges Linux rounds the memory up to this: firmware keeps some of it for itself.
const RAM_STEP: u64 = 128 << 20;

/// What Linux makes of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// There is no `crashkernel=`.
    Absent,
    /// There is one, and nothing is reserved: why.
    Ignored(&'static str),
    /// It reserves this.
    Reserved(Reservation),
}

/// Memory for a crash kernel, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reservation {
    /// How much.
    pub size: u64,
    /// Where, if it is asked for at a physical address.
    pub base: Option<u64>,
    /// Whether it is looked for above 4 GiB first.
    pub high: bool,
    /// What comes on top below 4 GiB if the rest lies above.
    pub low: u64,
    /// What is reserved on top and lent to user space until the crash.
    pub cma: u64,
}

impl Taken {
    /// What is taken from Linux in all, in bytes; what it can still use itself not counted.
    pub fn total(&self) -> u64 {
        match self {
            Self::Reserved(reservation) => reservation.size.saturating_add(reservation.low),
            Self::Absent | Self::Ignored(_) => 0,
        }
    }
}

/// What Linux reserves by `command_line` on an arm64 machine with `ram` bytes of memory.
pub fn taken(command_line: &str, ram: u64) -> Taken {
    match parse(command_line, ram) {
        Ok(Some(found)) if found.size == 0 => Taken::Ignored("it asks for no bytes"),
        Ok(Some(found)) if found.size >= ram => Taken::Ignored("it asks for all memory, or more"),
        Ok(Some(found)) => Taken::Reserved(found),
        Ok(None) => Taken::Absent,
        Err(why) => Taken::Ignored(why),
    }
}

/// The value of the plain `crashkernel=` that Linux takes from `command_line`.
pub fn plain(command_line: &str) -> Option<&str> {
    last(command_line, None)
}

/// Reads a size as Linux would; nothing may follow it.
pub fn size(text: &str) -> Option<u64> {
    let (value, rest) = number(text).ok()?;
    rest.is_empty().then_some(value)
}

/// Writes a size as people would.
pub fn size_text(bytes: u64) -> String {
    for (shift, suffix) in [(30, "G"), (20, "M"), (10, "K")] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

fn parse(line: &str, ram: u64) -> Result<Option<Reservation>, &'static str> {
    // A malformed ",cma" is no error to Linux: what number it begins with counts.
    let cma = last(line, Some(CMA)).map_or(Ok(0), |value| number(value).map(|found| found.0));
    let mut found = Reservation {
        cma: cma.unwrap_or(0),
        ..Reservation::default()
    };
    if let Some(value) = last(line, None) {
        (found.size, found.base) = if value.contains(':') {
            ranges(value, ram)?
        } else {
            simple(value)?
        };
        return Ok(Some(found));
    }
    let Some(value) = last(line, Some(HIGH)) else {
        let alone = last(line, Some(LOW)).or(last(line, Some(CMA)));
        return match alone {
            Some(_) => Err("without a size of its own or a \",high\" it counts for nothing"),
            None => Ok(None),
        };
    };
    found.high = true;
    found.size = suffixed(value, HIGH)?;
    found.low = last(line, Some(LOW)).map_or(Ok(DEFAULT_LOW), |value| suffixed(value, LOW))?;
    Ok(Some(found))
}

/// The last value that ends in `suffix`; with `None`, in none that Linux knows.
fn last<'a>(line: &'a str, suffix: Option<&str>) -> Option<&'a str> {
    let values = line.match_indices(NAME).filter_map(|(at, name)| {
        let value = line.get(at.checked_add(name.len())?..)?;
        value.split(' ').next()
    });
    values
        .filter(|value| match suffix {
            Some(suffix) => value.ends_with(suffix),
            None => ![HIGH, LOW, CMA].iter().any(|known| value.ends_with(known)),
        })
        .last()
}

fn simple(value: &str) -> Result<(u64, Option<u64>), &'static str> {
    let (size, rest) = number(value)?;
    match rest.strip_prefix('@') {
        // What follows the address is not looked at, and address 0 is none.
        Some(base) => Ok((size, number_or_zero(base)?.filter(|&base| base > 0))),
        None if rest.is_empty() => Ok((size, None)),
        None => Err("something unknown follows the size"),
    }
}

fn suffixed(value: &str, suffix: &str) -> Result<u64, &'static str> {
    match number(value)? {
        (size, rest) if rest == suffix => Ok(size),
        _ => Err("something unknown stands between the size and its suffix"),
    }
}

fn ranges(value: &str, ram: u64) -> Result<(u64, Option<u64>), &'static str> {
    let ram = ram.checked_next_multiple_of(RAM_STEP).unwrap_or(u64::MAX);
    let mut rest = value;
    loop {
        let (start, after) = number(rest)?;
        let after = after.strip_prefix('-').ok_or("a range has no '-'")?;
        let (end, after) = if after.starts_with(':') {
            (u64::MAX, after)
        } else {
            number(after)?
        };
        if end <= start {
            return Err("a range ends before it begins");
        }
        let after = after.strip_prefix(':').ok_or("a range has no ':'")?;
        let (size, after) = number(after)?;
        if size >= ram {
            return Err("a range asks for all memory, or more");
        }
        if (start..end).contains(&ram) {
            let base = after.split_once('@').map(|(_, base)| number(base));
            let base = base.transpose()?.map(|(base, _)| base);
            return Ok((size, base.filter(|&base| base > 0 && size > 0)));
        }
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok((0, None)),
        }
    }
}

/// The number that `text` begins with and what follows it, as `memparse` reads it: a suffix alone
/// is a zero.
fn number(text: &str) -> Result<(u64, &str), &'static str> {
    const TOO_LARGE: &str = "a number is too large";
    let hexadecimal = |rest: &&str| rest.starts_with(|digit: char| digit.is_ascii_hexdigit());
    let prefixed = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let (digits, radix) = match prefixed.filter(hexadecimal) {
        Some(rest) => (rest, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let rest = digits.trim_start_matches(|digit: char| digit.is_digit(radix));
    let digits = digits.strip_suffix(rest).unwrap_or_default();
    let value = match digits {
        "" => 0,
        digits => u64::from_str_radix(digits, radix).map_err(|_| TOO_LARGE)?,
    };
    let shift = match rest
        .chars()
        .next()
        .map(|suffix| suffix.to_ascii_uppercase())
    {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        Some('P') => 50,
        Some('E') => 60,
        _ if digits.is_empty() => return Err("a number is missing"),
        _ => return Ok((value, rest)),
    };
    let value = value.checked_mul(1 << shift).ok_or(TOO_LARGE)?;
    Ok((value, rest.get(1..).unwrap_or_default()))
}

/// As [`number`], where Linux takes none for zero.
fn number_or_zero(text: &str) -> Result<Option<u64>, &'static str> {
    match number(text) {
        Ok((value, _)) => Ok(Some(value)),
        Err(_) if !text.starts_with(|first: char| first.is_ascii_digit()) => Ok(None),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1 << 10;
    const M: u64 = 1 << 20;
    const G: u64 = 1 << 30;

    fn of(size: u64) -> Reservation {
        Reservation {
            size,
            ..Reservation::default()
        }
    }

    #[test]
    fn every_form_reserves_what_linux_reserves() {
        let at = |size, base| Reservation {
            base: Some(base),
            ..of(size)
        };
        let high = |size, low| Reservation {
            high: true,
            low,
            ..of(size)
        };
        let cma = |size, cma| Reservation { cma, ..of(size) };
        for (line, ram, expected) in [
            ("crashkernel=8M", G, of(8 * M)),
            ("ro crashkernel=8m quiet", G, of(8 * M)),
            ("crashkernel=8192K", G, of(8 * M)),
            ("crashkernel=0x800000", G, of(8 * M)),
            ("crashkernel=0X8M", G, of(8 * M)),
            ("crashkernel=010M", G, of(8 * M)),
            ("crashkernel=8388608", G, of(8 * M)),
            ("crashkernel=1G", 2 * G, of(G)),
            ("crashkernel=8M@0x60000000", G, at(8 * M, 0x6000_0000)),
            ("crashkernel=8M@1G", G, at(8 * M, G)),
            ("crashkernel=8M@16M,whatever", G, at(8 * M, 16 * M)),
            ("crashkernel=8M@0", G, of(8 * M)),
            ("crashkernel=8M@", G, of(8 * M)),
            ("crashkernel=384M-:128M", G, of(128 * M)),
            ("crashkernel=512M-2G:64M,2G-:128M", G, of(64 * M)),
            ("crashkernel=512M-2G:64M,2G-:128M", 2 * G, of(128 * M)),
            // Firmware kept 64 MiB for itself.
            (
                "crashkernel=512M-2G:64M,2G-:128M",
                2 * G - 64 * M,
                of(128 * M),
            ),
            (
                "crashkernel=512M-2G:64M,2G-:128M@16M",
                G,
                at(64 * M, 16 * M),
            ),
            // Ranges behind the one that fits are not looked at.
            ("crashkernel=0-:8M,rubbish", G, of(8 * M)),
            ("crashkernel=64M crashkernel=8M", G, of(8 * M)),
            ("crashkernel=8M crashkernel=256M,high", 8 * G, of(8 * M)),
            ("crashkernel=256M,high", 8 * G, high(256 * M, 128 * M)),
            (
                "crashkernel=8M,high crashkernel=0,low",
                8 * G,
                high(8 * M, 0),
            ),
            (
                "crashkernel=64K,low crashkernel=8M,high",
                8 * G,
                high(8 * M, 64 * K),
            ),
            ("crashkernel=8M crashkernel=64M,cma", G, cma(8 * M, 64 * M)),
            // Linux looks into other arguments and into quotes.
            ("dyndbg=\"x crashkernel=4M y\"", G, of(4 * M)),
            ("mycrashkernel=4M", G, of(4 * M)),
        ] {
            assert_eq!(taken(line, ram), Taken::Reserved(expected), "{line}");
        }
    }

    #[test]
    fn what_linux_ignores_is_ignored() {
        assert_eq!(taken("ro quiet crashkernel", G), Taken::Absent);
        for line in [
            "crashkernel=",
            "crashkernel=auto",
            "crashkernel=0",
            "crashkernel=K",
            "crashkernel=8MB",
            "crashkernel=\"8M\"",
            "\"crashkernel=8M\"",
            "crashkernel=8M,low",
            "crashkernel=8M,cma",
            "crashkernel=8M,,high",
            "crashkernel=8M,high crashkernel=x,low",
            // A malformed plain one is not made good by a ",high".
            "crashkernel=8M,high crashkernel=x",
            "crashkernel=8M\tquiet",
            "crashkernel=1G",
            "crashkernel=99999999999999999999",
            "crashkernel=16E",
            "crashkernel=2G-:8M",
            "crashkernel=2G-1G:8M",
            "crashkernel=0-8M",
            "crashkernel=0:8M",
            "crashkernel=0-4G,8M:1",
            "crashkernel=0-:2G",
            "crashkernel=0-:0",
            "crashkernel=0-:8M@",
        ] {
            assert!(matches!(taken(line, G), Taken::Ignored(_)), "{line}");
        }
    }

    #[test]
    fn sizes_are_read_back() {
        for bytes in [8 * M, G, 4 * K, 1, 3 * G, 0, 8 * M + 1] {
            assert_eq!(size(&size_text(bytes)), Some(bytes));
        }
        assert_eq!(size_text(10 * M), "10M");
        assert_eq!(size("8M,high"), None);
        assert_eq!(size("x"), None);
    }
}
