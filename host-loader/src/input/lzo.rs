//! Unpacks LZO1X, which makedumpfile's `-l` packs pages with.
//!
//! A stream is instructions that copy literals from the stream or a match from what came out
//! before. How an instruction below 16 reads depends on how many literals the one before it
//! copied: none, 1 to 3 (behind a match), or more.
//!
//! Source: Linux `Documentation/staging/lzo.rst`.

/// Why a stream cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no LZO1X stream of that length")]
pub struct BadLzo;

/// What the instruction before left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Literals {
    None,
    Few,
    Many,
}

struct Stream<'a> {
    rest: &'a [u8],
}

impl Stream<'_> {
    fn byte(&mut self) -> Option<usize> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(usize::from(*first))
    }

    /// A length: `short` unless that is 0; then `long` more than the bytes that follow say.
    fn length(&mut self, short: usize, long: usize) -> Option<usize> {
        if short != 0 {
            return Some(short);
        }
        let mut length = long;
        loop {
            match self.byte()? {
                0 => length = length.checked_add(255)?,
                last => return length.checked_add(last),
            }
        }
    }

    fn half(&mut self) -> Option<usize> {
        let low = self.byte()?;
        Some(low | self.byte()? << 8)
    }
}

struct Output<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Output<'_> {
    fn literals(&mut self, from: &mut Stream<'_>, count: usize) -> Option<()> {
        let (now, later) = from.rest.split_at_checked(count)?;
        let end = self.len.checked_add(count)?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(now);
        from.rest = later;
        self.len = end;
        Some(())
    }

    fn repeat(&mut self, distance: usize, count: usize) -> Option<()> {
        let end = self.len.checked_add(count)?;
        let mut from = self.len.checked_sub(distance)?;
        // The match may reach into itself: byte by byte.
        while self.len < end {
            let byte = *self.bytes.get(from)?;
            *self.bytes.get_mut(self.len)? = byte;
            from = from.checked_add(1)?;
            self.len = self.len.checked_add(1)?;
        }
        Some(())
    }
}

/// Unpacks a stream; all of `into` must come out of it.
///
/// # Errors
/// [`BadLzo`].
pub fn unpack(stream: &[u8], into: &mut [u8]) -> Result<(), BadLzo> {
    let expected = into.len();
    let mut output = Output {
        bytes: into,
        len: 0,
    };
    match instructions(&mut Stream { rest: stream }, &mut output) {
        Some(()) if output.len == expected => Ok(()),
        _ => Err(BadLzo),
    }
}

fn instructions(stream: &mut Stream<'_>, output: &mut Output<'_>) -> Option<()> {
    let mut before = Literals::None;
    // A stream may begin with literals, more of them than other instructions have.
    if let Some(first @ 18..) = stream.rest.first().copied() {
        stream.byte()?;
        let count = usize::from(first).checked_sub(17)?;
        output.literals(stream, count)?;
        before = if count < 4 {
            Literals::Few
        } else {
            Literals::Many
        };
    }
    loop {
        let code = stream.byte()?;
        let (distance, count, literals) = match (code, before) {
            (0..16, Literals::None) => {
                let count = stream.length(code, 15)?.checked_add(3)?;
                output.literals(stream, count)?;
                before = Literals::Many;
                continue;
            }
            (0..16, _) => {
                let near = (stream.byte()? << 2 | code >> 2).checked_add(1)?;
                match before {
                    Literals::Many => (near.checked_add(2048)?, 3, code & 3),
                    _ => (near, 2, code & 3),
                }
            }
            (16..32, _) => {
                let count = stream.length(code & 7, 7)?.checked_add(2)?;
                let low = stream.half()?;
                let distance = ((code & 8) << 11 | low >> 2).checked_add(16384)?;
                if distance == 16384 {
                    return Some(());
                }
                (distance, count, low & 3)
            }
            (32..64, _) => {
                let count = stream.length(code & 31, 31)?.checked_add(2)?;
                let low = stream.half()?;
                ((low >> 2).checked_add(1)?, count, low & 3)
            }
            _ => {
                let count = match code {
                    64..128 => (code >> 5 & 1).checked_add(3)?,
                    _ => (code >> 5 & 3).checked_add(5)?,
                };
                let distance = (stream.byte()? << 3 | code >> 2 & 7).checked_add(1)?;
                (distance, count, code & 3)
            }
        };
        output.repeat(distance, count)?;
        output.literals(stream, literals)?;
        before = match literals {
            0 => Literals::None,
            _ => Literals::Few,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: [u8; 3] = [0x11, 0, 0];

    fn unpacked(parts: &[&[u8]], len: usize) -> Result<Vec<u8>, BadLzo> {
        let mut out = vec![0xee; len];
        unpack(&parts.concat(), &mut out).map(|()| out)
    }

    #[test]
    fn every_kind_of_instruction() {
        // Literals first, a match of distance 3 that reaches into itself with one literal behind
        // it, two bytes from near, and the end.
        let parts: [&[u8]; 5] = [
            &[17 + 6],
            b"abcdef",
            &[0b0110_1001, 0, b'!'], // 4 bytes, distance 3, 1 literal
            &[0b0000_0000, 1],       // 2 bytes, distance 5
            &END,
        ];
        assert_eq!(unpacked(&parts, 13).unwrap(), b"abcdefdefd!de");
        // A long run of literals, then long matches of both far kinds.
        let many: Vec<u8> = (0..20_000u32).map(|n| ((n * n) >> 7) as u8).collect();
        let mut stream = vec![0];
        let rest = many.len() - 18;
        stream.extend(vec![0; (rest - 1) / 255]);
        stream.push(((rest - 1) % 255 + 1) as u8);
        stream.extend(&many);
        stream.extend([32, 0, 9, (99 << 2) as u8, 1]); // 2 + 31 + 255 + 9, distance 100
        stream.extend([16 + 5, (1000u32 << 2) as u8, (1000 >> 6) as u8]); // 7, distance 17384
        stream.extend(END);
        let mut expected = many;
        for (distance, count) in [(100, 297), (17_384, 7)] {
            for _ in 0..count {
                expected.push(expected[expected.len() - distance]);
            }
        }
        assert_eq!(unpacked(&[&stream], expected.len()).unwrap(), expected);
    }

    #[test]
    fn nonsense_is_refused() {
        for (parts, len) in [
            (&[&END[..]][..], 1),
            (&[&[18, b'a'], &END], 2),
            (&[&[18, b'a']], 1),
            (&[&[18, b'a', 0b0110_0100, 9], &END], 5),
            (&[&[0xff; 9]], 300),
            (&[&[0; 9]], 300),
            (&[], 0),
        ] {
            assert_eq!(unpacked(parts, len), Err(BadLzo), "{parts:?}");
        }
    }
}
