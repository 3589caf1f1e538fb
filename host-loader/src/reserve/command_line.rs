//! Puts `crashkernel=` into a kernel command line, and leaves every other byte as it is.
//!
//! Words end at white space that is not within double quotes (`next_arg` in `lib/cmdline.c`); in a
//! shell file those quotes are written `\"`. What follows ` -- ` is for init.

use std::ops::Range;

use super::crashkernel::{self, NAME};

/// Why a command line cannot be made to reserve what it should.
pub const HIDDEN: &str =
    "another crashkernel= stands inside another argument, where Linux finds it too";

/// Makes `line` ask for `crashkernel=VALUE` and for nothing else. One that is there already is
/// replaced where it stands; otherwise it goes to the end.
///
/// # Errors
/// [`HIDDEN`].
pub fn set(line: &[u8], value: &str) -> Result<Vec<u8>, &'static str> {
    let words = words(line);
    let ours: Vec<&Range<usize>> = words.iter().filter(|at| is_ours(line, at)).collect();
    let wanted = format!("{NAME}{value}").into_bytes();
    let mut out = Vec::with_capacity(line.len().saturating_add(wanted.len()));
    let mut copied = match ours.first() {
        Some(first) => {
            out.extend(part(line, 0..first.start));
            out.extend(&wanted);
            first.end
        }
        None => match words.iter().find(|at| part(line, (*at).clone()) == b"--") {
            Some(dashes) => {
                out.extend(part(line, 0..dashes.start));
                out.extend(&wanted);
                out.push(b' ');
                dashes.start
            }
            None => {
                let end = words.last().map_or(0, |last| last.end);
                out.extend(part(line, 0..end));
                if end > 0 {
                    out.push(b' ');
                }
                out.extend(&wanted);
                end
            }
        },
    };
    for other in ours.iter().skip(1) {
        out.extend(part(line, copied..other.start).trim_ascii_end());
        copied = other.end;
    }
    let rest = part(line, copied..line.len());
    // To Linux only a space ends the value.
    if let (true, Some((b'\t', rest))) = (out.ends_with(&wanted), rest.split_first()) {
        out.push(b' ');
        out.extend(rest);
    } else {
        out.extend(rest);
    }
    match crashkernel::plain(&String::from_utf8_lossy(&out)) {
        Some(taken) if taken == value => Ok(out),
        _ => Err(HIDDEN),
    }
}

/// Whether `line` has a `crashkernel=` of its own.
pub fn has_any(line: &[u8]) -> bool {
    words(line).iter().any(|at| is_ours(line, at))
}

fn words(line: &[u8]) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quoted = false;
    for (at, byte) in line.iter().enumerate() {
        quoted ^= *byte == b'"';
        if byte.is_ascii_whitespace() && !quoted {
            words.extend(start.take().map(|start| start..at));
        } else {
            start.get_or_insert(at);
        }
    }
    words.extend(start.map(|start| start..line.len()));
    words
}

fn is_ours(line: &[u8], at: &Range<usize>) -> bool {
    let mut word = part(line, at.clone());
    while let [b'"' | b'\\', rest @ ..] = word {
        word = rest;
    }
    word.starts_with(NAME.as_bytes())
}

fn part(line: &[u8], at: Range<usize>) -> &[u8] {
    line.get(at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_added_replaced_or_left() {
        for (before, after) in [
            ("", "crashkernel=8M"),
            ("  ", "crashkernel=8M  "),
            ("quiet", "quiet crashkernel=8M"),
            ("root=/dev/sda1  ro ", "root=/dev/sda1  ro crashkernel=8M "),
            ("ro\t", "ro crashkernel=8M "),
            ("ro -- single", "ro crashkernel=8M -- single"),
            ("a crashkernel=8M b", "a crashkernel=8M b"),
            ("a crashkernel=256M b", "a crashkernel=8M b"),
            ("crashkernel=256M\tb", "crashkernel=8M b"),
            ("a \"crashkernel=256M\" b", "a crashkernel=8M b"),
            ("a \\\"crashkernel=256M\\\" b", "a crashkernel=8M b"),
            ("a crashkernel=\"256M\" b", "a crashkernel=8M b"),
            ("a crashkernel=512M-2G:64M,2G-:128M@16M", "a crashkernel=8M"),
            (
                "crashkernel=1G,high x  crashkernel=0,low y crashkernel=64M,cma",
                "crashkernel=8M x y",
            ),
            ("crashkernel=8M crashkernel=8M z", "crashkernel=8M z"),
            (
                "dyndbg=\"file a.c +p; file b.c +p\" ro",
                "dyndbg=\"file a.c +p; file b.c +p\" ro crashkernel=8M",
            ),
        ] {
            let found = set(before.as_bytes(), "8M").unwrap();
            assert_eq!(String::from_utf8(found.clone()).unwrap(), after, "{before}");
            assert_eq!(set(&found, "8M").unwrap(), found, "again");
            assert!(has_any(&found));
        }
    }

    #[test]
    fn what_linux_would_find_elsewhere_is_not_hidden() {
        assert_eq!(
            set(b"x=\"a crashkernel=1M b\"", "8M"),
            Ok(b"x=\"a crashkernel=1M b\" crashkernel=8M".to_vec())
        );
        assert_eq!(set(b"-- x=\"a crashkernel=1M b\"", "8M"), Err(HIDDEN));
        assert_eq!(set(b"crashkernel=8M mycrashkernel=4M", "8M"), Err(HIDDEN));
    }
}
