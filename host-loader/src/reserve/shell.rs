//! Boot settings that are shell files: variables whose values become the command line.
//!
//! GRUB's defaults, u-boot-menu's and flash-kernel's are sourced, one file after the other, so the
//! last assignment counts, unless it refers to the one before (`VAR="$VAR …"`, `VAR+=…`). What is
//! more than a quoted value (a command, quotes within quotes) is refused, not guessed at.

use std::ops::Range;

use super::command_line;
use super::crashkernel::{self, NAME};
use super::lines;
use super::proposal::Proposal;
use super::root::Root;
use crate::error::Error;

/// Which files are sourced, and which variables matter.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// The files, in the order in which they are sourced. Only those below /etc are edited; the
    /// others belong to packages.
    pub files: Vec<String>,
    /// The variables whose values end up on the command line.
    pub variables: &'static [&'static str],
    /// The one that a setting is added to.
    pub add_to: &'static str,
    /// What it stands for if it is set nowhere.
    pub default: &'static str,
    /// A file that is sourced last: made if the setting is added, instead of editing another.
    pub drop_in: Option<String>,
}

/// An assignment in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Assignment {
    name: String,
    /// Where the value is, its quotes included; empty if it is not understood.
    value: Range<usize>,
    /// Whether it is added to what the variable was.
    adds: bool,
    /// The line it begins on, counted from 1.
    line: usize,
}

impl Assignment {
    /// What the variable holds after it, if it held `before`.
    fn evaluate(&self, text: &[u8], before: &str) -> String {
        let word = part(text, &self.value);
        let quotes = |quote: &'static [u8]| word.strip_prefix(quote)?.strip_suffix(quote);
        let value = quotes(b"\"").or(quotes(b"'")).unwrap_or(word);
        let value = String::from_utf8_lossy(value).replace("\\\"", "\"");
        if self.adds {
            return format!("{before}{value}");
        }
        let name = &self.name;
        value
            .replace(&format!("${{{name}}}"), before)
            .replace(&format!("${name}"), before)
    }
}

/// Proposes what makes the variables ask for `crashkernel=VALUE`: every value that has one gets
/// this one. If that is not enough, because there is none or another file overrides it, the
/// setting is added.
///
/// # Errors
/// [`Error::Io`], or [`Error::CommandLine`] if a value is not understood.
pub fn propose(root: &Root, sourced: &Sourced, value: &str) -> Result<Vec<Proposal>, Error> {
    let mut proposals = Vec::new();
    // What each variable holds in the end, other variables left as they are named.
    let mut held = vec![String::new(); sourced.variables.len()];
    let mut last_set_in = None;
    for path in &sourced.files {
        let Some(found) = root.read(path)? else {
            continue;
        };
        let may_edit = path.starts_with("/etc/");
        let mut text = found.bytes.clone();
        if may_edit {
            let ours = |found: &Assignment, text: &[u8]| {
                sourced.variables.contains(&found.name.as_str())
                    && contains(part(text, &found.value), NAME.as_bytes())
            };
            text = edit(path, text, ours, value)?;
        }
        for assignment in assignments(&text) {
            let names = sourced.variables.iter().zip(&mut held);
            for (_, held) in names.filter(|(name, _)| **name == assignment.name) {
                *held = assignment.evaluate(&text, held);
            }
            if assignment.name == sourced.add_to {
                last_set_in = may_edit.then_some(proposals.len());
            }
        }
        if may_edit {
            proposals.push(Proposal::of_text(path, found, text));
        }
    }
    if crashkernel::plain(&held.join(" ")) != Some(value) {
        match (&sourced.drop_in, last_set_in) {
            (Some(path), _) if root.has(path) => {
                let made = proposals.iter_mut().find(|made| made.path == *path);
                add(made, sourced, value)?;
            }
            (Some(path), _) => {
                let name = sourced.add_to;
                let text = format!(
                    "# Made by `kdraw reserve`; `kdraw reserve --undo` takes it away again.\n\
                     {name}=\"${name} {NAME}{value}\"\n"
                );
                proposals.push(Proposal::new_text(root, path, text)?);
            }
            (None, at) => {
                let proposal = proposals.get_mut(at.unwrap_or(0));
                add(proposal, sourced, value)?;
            }
        }
    }
    Ok(proposals)
}

/// Whether a file assigns to `variable`.
pub fn assigns(text: &[u8], variable: &str) -> bool {
    let found = assignments(text);
    found.iter().any(|found| found.name == variable)
}

/// Adds the setting to the last assignment of a file, or as a new one.
fn add(proposal: Option<&mut Proposal>, sourced: &Sourced, value: &str) -> Result<(), Error> {
    let Some(proposal) = proposal else {
        return Ok(());
    };
    let text = proposal.after.clone();
    let mut found = assignments(&text).into_iter();
    let last = found.rfind(|found| found.name == sourced.add_to);
    proposal.after = match last {
        Some(last) => edit(&proposal.path, text, |found, _| *found == last, value)?,
        None => {
            let mut lines = lines::split(&text);
            let commented = lines.iter().position(|line| {
                let body = line.body.trim_ascii_start();
                let body = body.strip_prefix(b"#").map(<[u8]>::trim_ascii_start);
                let body = body.and_then(|body| body.strip_prefix(sourced.add_to.as_bytes()));
                body.is_some_and(|body| body.starts_with(b"="))
            });
            let at = commented.map_or(lines.len(), |at| at.saturating_add(1));
            let line = format!("{}=\"{} {NAME}{value}\"", sourced.add_to, sourced.default);
            lines::insert(&mut lines, at, line.replace("=\" ", "=\"").into_bytes());
            lines::join(&lines)
        }
    };
    Ok(())
}

/// Sets `crashkernel=VALUE` in the assignments that `which` picks.
fn edit(
    path: &str,
    mut text: Vec<u8>,
    which: impl Fn(&Assignment, &[u8]) -> bool,
    value: &str,
) -> Result<Vec<u8>, Error> {
    let found = assignments(&text).into_iter();
    let due: Vec<_> = found.filter(|found| which(found, &text)).collect();
    // From the end on, so that what comes before stays where it is.
    for assignment in due.into_iter().rev() {
        let word = match text.get(assignment.value.start) {
            Some(b'"' | b'\'') if assignment.value.is_empty() => Err("a quote is not closed"),
            _ => set_in_word(part(&text, &assignment.value), value),
        };
        let word = word.map_err(|why| Error::CommandLine {
            path: path.into(),
            line: assignment.line,
            why,
        })?;
        text.splice(assignment.value, word);
    }
    Ok(text)
}

/// Sets `crashkernel=VALUE` in a value with its quotes.
fn set_in_word(word: &[u8], value: &str) -> Result<Vec<u8>, &'static str> {
    const TOO_CLEVER: &str = "the value is not one plain or quoted string";
    let inner = match word {
        [] => word,
        [quote @ (b'"' | b'\''), inner @ .., last] if quote == last => inner,
        _ if word.iter().any(|byte| b"\"'\\".contains(byte)) => return Err(TOO_CLEVER),
        _ => word,
    };
    let quote = match word.first() {
        Some(b'\'') => b'\'',
        _ => b'"',
    };
    let closes_early = quoted_len(word).is_some_and(|len| len != word.len());
    if closes_early || contains(inner, b"`") || contains(inner, b"$(") {
        return Err(TOO_CLEVER);
    }
    let inner = command_line::set(inner, value)?;
    Ok([&[quote], &inner[..], &[quote]].concat())
}

/// All assignments that begin a line.
fn assignments(text: &[u8]) -> Vec<Assignment> {
    let mut found = Vec::new();
    let (mut at, mut line) = (0usize, 1usize);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let mut end = at;
        if let Some((name, adds, value_at)) = assigned(rest) {
            let start = at.saturating_add(value_at);
            let len = word_len(text.get(start..).unwrap_or_default());
            end = start.saturating_add(len.unwrap_or(0));
            found.push(Assignment {
                adds,
                name,
                value: start..end,
                line,
            });
        }
        let rest = text.get(end..).unwrap_or_default();
        let to_next = rest.iter().position(|&byte| byte == b'\n');
        let next = to_next.map_or(text.len(), |len| end.saturating_add(len).saturating_add(1));
        let newlines = part(text, &(at..next))
            .iter()
            .filter(|&&byte| byte == b'\n');
        line = line.saturating_add(newlines.count());
        at = next;
    }
    found
}

/// The variable that a line assigns to, whether with `+=`, and where its value begins.
fn assigned(line: &[u8]) -> Option<(String, bool, usize)> {
    let body = line.trim_ascii_start();
    let body = body
        .strip_prefix(b"export ")
        .map_or(body, <[u8]>::trim_ascii_start);
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let end = body.iter().position(|byte| !is_name(byte))?;
    let (name, rest) = body.split_at_checked(end)?;
    let value = rest.strip_prefix(b"=").or(rest.strip_prefix(b"+="))?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    // A blank first line would be taken for white space before the name.
    let blank = line
        .get(..line.len().checked_sub(body.len())?)?
        .contains(&b'\n');
    let at = line.len().checked_sub(value.len())?;
    (!name.is_empty() && !blank).then_some((name, rest.starts_with(b"+"), at))
}

/// Bytes of the shell word that `text` begins with; `None` if a quote is not closed.
fn word_len(text: &[u8]) -> Option<usize> {
    let mut at = 0usize;
    while let Some(rest) = text.get(at..) {
        match rest.first() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'&' | b'|') => break,
            Some(b'"' | b'\'') => at = at.checked_add(quoted_len(rest)?)?,
            Some(b'\\') => at = at.checked_add(2)?.min(text.len()),
            Some(_) => at = at.checked_add(1)?,
        }
    }
    Some(at)
}

/// Bytes of the quoted string that `text` begins with, its quotes included.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let (&quote, _) = text
        .split_first()
        .filter(|(first, _)| b"\"'".contains(first))?;
    let mut escaped = false;
    let closing = text.iter().skip(1).position(|&byte| {
        let closes = byte == quote && !escaped;
        escaped = quote == b'"' && byte == b'\\' && !escaped;
        closes
    })?;
    closing.checked_add(2)
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

fn part<'a>(text: &'a [u8], at: &Range<usize>) -> &'a [u8] {
    text.get(at.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_quotes() {
        for (before, after) in [
            ("\"\"", "\"crashkernel=8M\""),
            ("", "\"crashkernel=8M\""),
            ("quiet", "\"quiet crashkernel=8M\""),
            ("\"quiet\"", "\"quiet crashkernel=8M\""),
            ("'quiet'", "'quiet crashkernel=8M'"),
            ("\"$X crashkernel=384M-:128M\"", "\"$X crashkernel=8M\""),
            ("\"a \\\"b c\\\"\"", "\"a \\\"b c\\\" crashkernel=8M\""),
            ("\"a\n b\"", "\"a\n b crashkernel=8M\""),
        ] {
            let found = set_in_word(before.as_bytes(), "8M").unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), after);
        }
        for clever in [
            "\"a\"'b'",
            "'a'\"b\"'c'",
            "`cat x`",
            "\"$(cat x)\"",
            "a\\ b",
            "crashkernel=\"1M\"",
        ] {
            assert!(set_in_word(clever.as_bytes(), "8M").is_err(), "{clever}");
        }
    }

    #[test]
    fn values_are_what_the_shell_makes_of_them() {
        let text = b"A=\"a \\\"b\\\"\"\nA=\"$A c ${A}\"\nA+=d\nA='x $B'\n";
        let mut held = String::new();
        let steps = assignments(text).into_iter().map(|found| {
            held = found.evaluate(text, &held);
            held.clone()
        });
        let expected = ["a \"b\"", "a \"b\" c a \"b\"", "a \"b\" c a \"b\"d", "x $B"];
        assert_eq!(steps.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn assignments_are_found_where_the_shell_finds_them() {
        let text = b"# A=\"x\"\n#A=1\n A='b c' # d\nexport B=$B\"x\ny\"\n\nif true; then\n\tA+=z\nfi\nC=\"open\n";
        let found = assignments(text);
        let told: Vec<_> = found
            .iter()
            .map(|found| {
                (
                    &found.name[..],
                    part(text, &found.value),
                    found.adds,
                    found.line,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("A", &b"'b c'"[..], false, 3),
                ("B", b"$B\"x\ny\"", false, 4),
                ("A", b"z", true, 8),
                ("C", b"", false, 10),
            ]
        );
    }
}
