//! The receiver's half: puts the tape together.

use crate::frame::{Frame, MAX_WIRE, Tape};
use crate::{GRANULE, TOLD, WINDOW};

/// Granules of window, as an index.
const PLACES: usize = WINDOW as usize;

/// What a frame told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that is new.
    Nothing,
    /// A sender begins, or goes on, with this tape; the next granule is a record's first.
    Begins {
        /// Whose.
        tape: Tape,
        /// The first granule that there will be.
        base: u32,
    },
    /// A piece of the tape, or a question for what is there: [`Receiver::ack`] is due.
    Asks,
}

/// Who receives. It holds no more than the window; what is complete is taken with
/// [`Receiver::granule`], and acknowledged after that.
#[derive(Debug)]
pub struct Receiver {
    id: u16,
    tape: Option<Tape>,
    /// The first granule that was not taken.
    next: u32,
    window: [[u8; GRANULE]; PLACES],
    held: [bool; PLACES],
    /// Bytes that came since the last `Ack`, and how many must before the next.
    since: usize,
    spacing: usize,
}

fn place(granule: u32) -> usize {
    granule as usize % PLACES
}

impl Receiver {
    /// A receiver that knows nothing yet; `id` is random.
    pub const fn new(id: u16) -> Self {
        Self {
            id,
            tape: None,
            next: 0,
            window: [[0; GRANULE]; PLACES],
            held: [false; PLACES],
            since: 0,
            spacing: 0,
        }
    }

    /// Counts bytes from the line, frames or not.
    pub fn count(&mut self, bytes: usize) {
        self.since = self.since.saturating_add(bytes);
    }

    /// Whether an `Ack` may go out though more may come at once: at least twice its length came
    /// since the last. With one for each short frame, a way back that is slower than the way there
    /// would fill with `Ack`s that are out of date.
    pub fn may_ack(&self) -> bool {
        self.since >= self.spacing
    }

    /// What frames are decoded with; `None` before the first `Sync`.
    pub fn session(&self) -> Option<u32> {
        self.tape.as_ref().map(Tape::session)
    }

    /// Takes a frame.
    pub fn take(&mut self, frame: &Frame<'_>) -> Heard {
        match frame {
            Frame::Sync { tape, base } => {
                // On the same tape the base only grows, up to what was acknowledged.
                if self.tape == Some(*tape) {
                    return Heard::Asks;
                }
                self.tape = Some(*tape);
                self.next = *base;
                self.held = [false; PLACES];
                Heard::Begins {
                    tape: *tape,
                    base: *base,
                }
            }
            Frame::Data { first, bytes } => {
                if self.tape.is_none() {
                    return Heard::Nothing;
                }
                for (index, bytes) in (0..).zip(bytes.as_chunks::<GRANULE>().0) {
                    let granule = first.wrapping_add(index);
                    let ahead = granule.wrapping_sub(self.next);
                    if ahead < WINDOW
                        && let Some(held) = self.held.get_mut(place(granule))
                        && let Some(kept) = self.window.get_mut(place(granule))
                    {
                        *held = true;
                        *kept = *bytes;
                    }
                }
                Heard::Asks
            }
            Frame::Ack { .. } => Heard::Nothing,
        }
    }

    /// Takes the tape's next granule, if it is there.
    pub fn granule(&mut self) -> Option<[u8; GRANULE]> {
        let held = self.held.get_mut(place(self.next))?;
        if !core::mem::take(held) {
            return None;
        }
        let granule = *self.window.get(place(self.next))?;
        self.next = self.next.wrapping_add(1);
        Some(granule)
    }

    /// Forgets the tape, under another id, as a receiver that was restarted: the tape does not
    /// make sense.
    pub fn restart(&mut self, id: u16) {
        self.id = id;
        self.tape = None;
    }

    /// Writes the `Ack` that is due now; returns its length on the wire.
    pub fn ack(&mut self, wire: &mut [u8; MAX_WIRE]) -> usize {
        let mut held = [0u8; TOLD as usize / 8];
        let mut len = 0;
        for (index, byte) in held.iter_mut().enumerate() {
            for bit in 0..8u32 {
                let ahead = (index as u32).saturating_mul(8).saturating_add(bit);
                let granule = self.next.wrapping_add(ahead);
                if self.held.get(place(granule)) == Some(&true) {
                    *byte |= 1 << bit;
                    len = index.saturating_add(1);
                }
            }
        }
        let ack = Frame::Ack {
            receiver: self.id,
            next: self.next,
            held: held.get(..len).unwrap_or_default(),
        };
        let len = ack.encode(self.session().unwrap_or(0), wire);
        (self.since, self.spacing) = (0, len.saturating_mul(2));
        len
    }
}
