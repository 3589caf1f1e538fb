//! Little-endian fields in fixed-size blocks: the encoder and decoder under every structure.
//!
//! Both are total: a put or get past the end is remembered and told once by `finish`, so that
//! a structure's layout reads as one plain list of fields.

/// Writes fields one after another into a block.
pub(crate) struct Put<'a> {
    out: &'a mut [u8],
    at: usize,
    overflow: bool,
}

impl<'a> Put<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self {
            out,
            at: 0,
            overflow: false,
        }
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        let end = self.at.saturating_add(value.len());
        match self.out.get_mut(self.at..end) {
            Some(place) => place.copy_from_slice(value),
            None => self.overflow = true,
        }
        self.at = end;
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Writes `text` cut to `width` bytes and padded with zeros.
    pub(crate) fn text(&mut self, text: &str, width: usize) -> &mut Self {
        let mut end = text.len().min(width);
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        let kept = text.as_bytes().get(..end).unwrap_or_default();
        self.bytes(kept);
        self.zeros(width.saturating_sub(kept.len()))
    }

    pub(crate) fn zeros(&mut self, count: usize) -> &mut Self {
        let end = self.at.saturating_add(count);
        match self.out.get_mut(self.at..end) {
            Some(place) => place.fill(0),
            None => self.overflow = true,
        }
        self.at = end;
        self
    }

    /// Zeroes the rest of the block; whether everything fitted.
    pub(crate) fn finish(&mut self) -> bool {
        if let Some(rest) = self.out.get_mut(self.at..) {
            rest.fill(0);
        }
        !self.overflow
    }
}

/// Reads fields one after another from a block.
pub(crate) struct Get<'a> {
    from: &'a [u8],
    at: usize,
    short: bool,
}

impl<'a> Get<'a> {
    pub(crate) fn new(from: &'a [u8]) -> Self {
        Self {
            from,
            at: 0,
            short: false,
        }
    }

    pub(crate) fn slice(&mut self, len: usize) -> &'a [u8] {
        let end = self.at.saturating_add(len);
        let found = self.from.get(self.at..end);
        self.at = end;
        self.short |= found.is_none();
        found.unwrap_or_default()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        self.slice(N).try_into().unwrap_or([0; N])
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Reads a zero-padded text field; what is not UTF-8 is cut off.
    pub(crate) fn text<const N: usize>(&mut self, width: usize) -> heapless::String<N> {
        let field = self.slice(width);
        let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
        let bytes = field.get(..end).unwrap_or_default();
        let text = match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => bytes
                .get(..e.valid_up_to())
                .and_then(|good| core::str::from_utf8(good).ok())
                .unwrap_or_default(),
        };
        let mut out = heapless::String::new();
        for c in text.chars() {
            if out.push(c).is_err() {
                break;
            }
        }
        out
    }

    pub(crate) fn skip(&mut self, count: usize) {
        self.slice(count);
    }

    /// Whether every field was there.
    pub(crate) fn finish(&self) -> bool {
        !self.short
    }
}
