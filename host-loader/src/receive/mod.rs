//! Receiving a dump over a serial link: [`kdraw_link`]'s receiver, and the file it fills.
//!
//! [`Reception`] takes the line's bytes and says what to answer; [`image`] is the file, [`port`]
//! the line.

pub mod image;
pub mod port;

use std::path::{Path, PathBuf};

use kdraw_format::slot::Outcome;
use kdraw_link::frame::{Deframer, Frame, MAX_WIRE};
use kdraw_link::receiver::{Heard, Receiver};
use kdraw_link::tape::{BLOCK, Reader, Record, Step};

use crate::black_box::{BlackBox, text as printable};
use image::{Image, ImageError, short};

/// The longest piece of console text between two frames that is shown, in bytes.
const MAX_TEXT: usize = 16 << 10;
/// The shortest: less is noise.
const MIN_TEXT: usize = 3;

/// What happened on the line that a person wants to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Console text.
    Text(String),
    /// A dump begins, or goes on, in this file.
    Begins {
        /// The file.
        file: PathBuf,
        /// Whether the dump's beginning is missing: it went to nobody.
        headless: bool,
    },
    /// The black box is on file.
    BlackBox(Box<BlackBox>),
    /// The dump has ended so, and all of it is on disk.
    Ended(Outcome),
}

/// Counts of what came over the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes.
    pub bytes: u64,
    /// Frames.
    pub frames: u64,
    /// Pieces between two zeros that were neither frame nor text.
    pub damaged: u64,
}

/// One receiver, from its first byte to its last.
pub struct Reception {
    output: Option<PathBuf>,
    receiver: Box<Receiver>,
    deframer: Box<Deframer<MAX_TEXT>>,
    reader: Reader,
    record: Option<(Record, Vec<u8>)>,
    image: Option<Image>,
    /// Whether the dump's first granule was, or had been, received.
    asked: bool,
    counts: Counts,
    ended: bool,
}

impl Reception {
    /// Receives into `output`, or into a file in this folder that is named after the dump.
    pub fn new(output: Option<&Path>, id: u16) -> Self {
        Self {
            output: output.map(Path::to_owned),
            receiver: Box::new(Receiver::new(id)),
            deframer: Box::default(),
            reader: Reader::default(),
            record: None,
            image: None,
            asked: false,
            counts: Counts::default(),
            ended: false,
        }
    }

    /// The file, as soon as there is one.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// What came so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes bytes from the line.
    ///
    /// # Errors
    /// [`ImageError`]: what came cannot be kept.
    pub fn take(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), ImageError> {
        self.counts.bytes = self.counts.bytes.saturating_add(bytes.len() as u64);
        self.receiver.count(bytes.len());
        for byte in bytes {
            let session = self.receiver.session();
            let Some(stretch) = self.deframer.take(*byte) else {
                continue;
            };
            let text = shown(stretch);
            let Some(frame) = Frame::decode(stretch, session) else {
                match text {
                    Some(text) => events.push(Event::Text(text)),
                    None => self.counts.damaged = self.counts.damaged.saturating_add(1),
                }
                continue;
            };
            self.counts.frames = self.counts.frames.saturating_add(1);
            match self.receiver.take(&frame) {
                Heard::Nothing => {}
                Heard::Asks => self.asked = true,
                Heard::Begins { tape, base } => {
                    self.asked = true;
                    self.begin(tape.dump_id, base, events)?;
                }
            }
            self.keep(events)?;
        }
        Ok(())
    }

    /// Opens the file of a dump, unless it is open.
    fn begin(
        &mut self,
        dump_id: [u8; 16],
        base: u32,
        events: &mut Vec<Event>,
    ) -> Result<(), ImageError> {
        (self.reader, self.record) = (Reader::default(), None);
        self.ended = false;
        let named = || PathBuf::from(format!("kdraw-{}.img", short(&dump_id)));
        let path = self.output.clone().unwrap_or_else(named);
        let exists = path.exists();
        self.image = Some(Image::open(&path, dump_id)?);
        events.push(Event::Begins {
            file: path,
            headless: base > 0 && !exists,
        });
        Ok(())
    }

    /// Writes what is complete.
    fn keep(&mut self, events: &mut Vec<Event>) -> Result<(), ImageError> {
        while let Some(granule) = self.receiver.granule() {
            match self.reader.take(&granule) {
                Some(Step::Record(record)) => self.record = Some((record, Vec::new())),
                Some(Step::Bytes(bytes)) => {
                    if let Some((_, kept)) = &mut self.record {
                        kept.extend(bytes);
                    }
                }
                None => {
                    // One damaged frame in 2^32 looks sound. The sender still has the record.
                    self.receiver.restart(self.counts.frames as u16);
                    return Ok(());
                }
            }
            if self.reader.is_between()
                && let Some((record, bytes)) = self.record.take()
            {
                self.act(record, &bytes, events)?;
            }
        }
        Ok(())
    }

    fn act(
        &mut self,
        record: Record,
        bytes: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), ImageError> {
        let Some(image) = &mut self.image else {
            return Ok(());
        };
        match record {
            Record::Write { block, len, .. } => {
                let at = u64::from(block).saturating_mul(BLOCK);
                image.write(at, bytes, len.into())?;
                if let Some(found) = image.new_black_box() {
                    events.push(Event::BlackBox(Box::new(found)));
                }
            }
            Record::Flush => {
                image.sync()?;
                if let Some(outcome) = image.outcome()
                    && !self.ended
                {
                    image.fit()?;
                    self.ended = true;
                    events.push(Event::Ended(outcome));
                }
            }
        }
        Ok(())
    }

    /// Whether an answer is due, when the line is quiet at the latest.
    pub fn owes_answer(&self) -> bool {
        self.asked && self.receiver.session().is_some()
    }

    /// The answer that is due, if one is; `quiet` says that the line brings nothing now.
    pub fn answer(&mut self, quiet: bool) -> Option<Vec<u8>> {
        if !self.owes_answer() || !(quiet || self.receiver.may_ack()) {
            return None;
        }
        self.asked = false;
        let mut wire = [0; MAX_WIRE];
        let len = self.receiver.ack(&mut wire);
        wire.get(..len).map(<[u8]>::to_vec)
    }
}

/// A piece between frames, if it is text; a board's colours and the like do not reach the terminal.
fn shown(stretch: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(stretch).ok()?;
    let plain = |found: char| !found.is_control() || matches!(found, '\n' | '\r' | '\t' | '\x1b');
    if text.len() < MIN_TEXT || !text.chars().all(plain) {
        return None;
    }
    let lines = text
        .lines()
        .map(|line| printable(line.trim_end().as_bytes()));
    Some(lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_text_is_shown_without_what_steers_a_terminal() {
        for (said, expected) in [
            ("ok\tdone  \r\nnext\n", Some("ok\tdone\nnext")),
            ("\x1b[2J\x1b]0;x", Some("\u{fffd}[2J\u{fffd}]0;x")),
            ("100 %\r50 %", Some("100 %\u{fffd}50 %")),
            ("größer", Some("größer")),
            ("ok", None),
            ("beep\x07", None),
        ] {
            assert_eq!(shown(said.as_bytes()).as_deref(), expected, "{said:?}");
        }
        assert_eq!(shown(b"\xff\xfe\xfd\xfc"), None);
    }
}
