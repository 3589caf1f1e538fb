//! A text file as lines that keep their ends, so that what is not touched stays as it is.

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Without its end.
    pub body: Vec<u8>,
    /// `\n`, `\r\n`, or nothing at the end of a file.
    pub end: &'static [u8],
}

/// Cuts `text` into lines.
pub fn split(text: &[u8]) -> Vec<Line> {
    let lines = text.split_inclusive(|&byte| byte == b'\n').map(|line| {
        let ends: [&[u8]; 2] = [b"\r\n", b"\n"];
        let cut = |end: &'static [u8]| Some((line.strip_suffix(end)?, end));
        let (body, end) = ends.into_iter().find_map(cut).unwrap_or((line, b""));
        Line {
            body: body.to_vec(),
            end,
        }
    });
    lines.collect()
}

/// Puts lines together again.
pub fn join(lines: &[Line]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| [&line.body, line.end].concat())
        .collect()
}

/// Puts a line behind the first `at` ones, with the ends that the file has.
pub fn insert(lines: &mut Vec<Line>, at: usize, body: Vec<u8>) {
    let end = match lines.first() {
        Some(first) if !first.end.is_empty() => first.end,
        _ => b"\n",
    };
    let at = at.min(lines.len());
    if let Some(before) = at.checked_sub(1).and_then(|before| lines.get_mut(before))
        && before.end.is_empty()
    {
        before.end = end;
    }
    lines.insert(at, Line { body, end });
}

/// The first word of a line, and what follows it and the white space behind it; `None` if the line
/// is empty or a comment.
pub fn keyword(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = body.trim_ascii_start();
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (word, rest) = line.split_at_checked(end.unwrap_or(line.len()))?;
    (!word.is_empty() && !word.starts_with(b"#")).then_some((word, rest.trim_ascii_start()))
}

/// Edits what follows a line's keyword.
///
/// # Errors
/// What `edit` says.
pub fn edit_rest<E>(
    body: &[u8],
    edit: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let rest = keyword(body).map_or(&b""[..], |(_, rest)| rest);
    let mut out = body.strip_suffix(rest).unwrap_or_default().to_vec();
    if !out.last().is_some_and(u8::is_ascii_whitespace) {
        out.push(b' ');
    }
    out.extend(edit(rest)?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        for text in ["", "a", "a\n", "a\r\nb\n\n\r\nc", "\n", "\r"] {
            assert_eq!(join(&split(text.as_bytes())), text.as_bytes());
        }
        let mut lines = split(b"a\r\nb");
        insert(&mut lines, 9, b"c".to_vec());
        assert_eq!(join(&lines), b"a\r\nb\r\nc\r\n");
        let mut none = Vec::new();
        insert(&mut none, 0, b"c".to_vec());
        assert_eq!(join(&none), b"c\n");
    }

    #[test]
    fn keywords_are_told_from_comments() {
        assert_eq!(
            keyword(b"\tappend  a b"),
            Some((&b"append"[..], &b"a b"[..]))
        );
        assert_eq!(keyword(b"append"), Some((&b"append"[..], &b""[..])));
        assert_eq!(keyword(b" # append a"), None);
        assert_eq!(keyword(b" "), None);
        let double = |rest: &[u8]| Ok::<_, ()>(rest.repeat(2));
        assert_eq!(edit_rest(b"  k \tv", double).unwrap(), b"  k \tvv");
        assert_eq!(edit_rest(b"k", double).unwrap(), b"k ");
    }
}
