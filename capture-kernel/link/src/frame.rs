//! Frames on the wire: COBS between zeros, with a CRC.

use crate::crc::crc32c;
use crate::{GRANULE, TOLD, VERSION};

/// The most granules in one `Data`.
pub const MAX_GRANULES: usize = 64;
/// The longest frame before COBS: a full `Data`.
const MAX_PLAIN: usize = 1 + 4 + MAX_GRANULES * GRANULE + CRC;
/// The longest frame on the wire.
pub const MAX_WIRE: usize = MAX_PLAIN + MAX_PLAIN / RUN + 3;
/// The longest `Ack` between its zeros.
pub const MAX_ACK: usize = 1 + 2 + 4 + (TOLD / 8) as usize + CRC + 1;

const CRC: usize = 4;
/// The longest run of bytes without a zero that one COBS code covers.
const RUN: usize = 254;

const SYNC: u8 = 1;
const DATA: u8 = 2;
const ACK: u8 = 3;

/// Whose tape it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tape {
    /// The dump's id.
    pub dump_id: [u8; 16],
    /// Which tape of this dump, from 0: a sender that was begun anew counts its granules anew.
    pub number: u8,
}

impl Tape {
    /// What begins the CRCs of its frames.
    pub fn session(&self) -> u32 {
        let first = self.dump_id.first_chunk();
        let word = first.map_or(0, |first| u32::from_le_bytes(*first));
        word.wrapping_add(u32::from(self.number))
    }
}

/// A frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The sender tells what it sends and from where it can.
    Sync {
        /// Which tape.
        tape: Tape,
        /// The first granule that it still has.
        base: u32,
    },
    /// A piece of the tape.
    Data {
        /// Its first granule.
        first: u32,
        /// Whole granules.
        bytes: &'a [u8],
    },
    /// What the receiver has.
    Ack {
        /// Which receiver, or which life of it.
        receiver: u16,
        /// The first granule that is not on file.
        next: u32,
        /// One bit for each granule from `next` on; zeros at the end are left out.
        held: &'a [u8],
    },
}

impl<'a> Frame<'a> {
    /// Writes it as it goes over the wire; returns how many bytes that takes.
    pub fn encode(&self, session: u32, wire: &mut [u8; MAX_WIRE]) -> usize {
        let seed = match self {
            Self::Sync { .. } => 0,
            _ => session,
        };
        let mut cobs = Cobs::new(wire, seed);
        match self {
            Self::Sync { tape, base } => {
                cobs.put(&[SYNC, VERSION, tape.number]);
                cobs.put(&tape.dump_id);
                cobs.put(&base.to_le_bytes());
            }
            Self::Data { first, bytes } => {
                cobs.put(&[DATA]);
                cobs.put(&first.to_le_bytes());
                cobs.put(bytes);
            }
            Self::Ack {
                receiver,
                next,
                held,
            } => {
                cobs.put(&[ACK]);
                cobs.put(&receiver.to_le_bytes());
                cobs.put(&next.to_le_bytes());
                cobs.put(held);
            }
        }
        cobs.finish()
    }

    /// Reads what lay between two zeros, decoding it in place; `None` if it is no frame of this
    /// session. Without a session, only `Sync` can be read.
    pub fn decode(stretch: &'a mut [u8], session: Option<u32>) -> Option<Self> {
        let plain = unstuff(stretch)?;
        let (body, crc) = plain.split_last_chunk::<CRC>()?;
        let (&kind, rest) = body.split_first()?;
        let seed = match kind {
            SYNC => 0,
            _ => session?,
        };
        if crc32c(seed, body) != u32::from_le_bytes(*crc) {
            return None;
        }
        match kind {
            SYNC => {
                let (&[version, number], rest) = rest.split_first_chunk()?;
                let (dump_id, rest) = rest.split_first_chunk()?;
                let base = u32::from_le_bytes(rest.try_into().ok()?);
                let dump_id = *dump_id;
                let tape = Tape { dump_id, number };
                (version == VERSION).then_some(Self::Sync { tape, base })
            }
            DATA => {
                let (first, bytes) = rest.split_first_chunk()?;
                let whole = !bytes.is_empty() && bytes.len().is_multiple_of(GRANULE);
                let first = u32::from_le_bytes(*first);
                (whole && bytes.len() <= MAX_GRANULES.saturating_mul(GRANULE))
                    .then_some(Self::Data { first, bytes })
            }
            ACK => {
                let (receiver, rest) = rest.split_first_chunk()?;
                let (next, held) = rest.split_first_chunk()?;
                (held.len() <= TOLD as usize / 8).then_some(Self::Ack {
                    receiver: u16::from_le_bytes(*receiver),
                    next: u32::from_le_bytes(*next),
                    held,
                })
            }
            _ => None,
        }
    }
}

/// Stuffs and sums bytes as they come.
struct Cobs<'w> {
    wire: &'w mut [u8; MAX_WIRE],
    /// Where the current run's code stands.
    code_at: usize,
    at: usize,
    sum: u32,
}

impl<'w> Cobs<'w> {
    fn new(wire: &'w mut [u8; MAX_WIRE], seed: u32) -> Self {
        let mut this = Self {
            wire,
            code_at: 1,
            at: 2,
            sum: seed,
        };
        this.set(0, 0);
        this
    }

    fn put(&mut self, bytes: &[u8]) {
        self.sum = crc32c(self.sum, bytes);
        for byte in bytes {
            if *byte != 0 {
                self.set(self.at, *byte);
                self.at = self.at.saturating_add(1);
            }
            if *byte == 0 || self.at.saturating_sub(self.code_at) > RUN {
                self.end_run();
            }
        }
    }

    /// Ends the frame; returns its length.
    fn finish(mut self) -> usize {
        self.put(&self.sum.to_le_bytes());
        self.end_run();
        // Where a further run's code would stand, the closing zero does.
        self.set(self.code_at, 0);
        self.at
    }

    fn end_run(&mut self) {
        let code = self.at.saturating_sub(self.code_at);
        self.set(self.code_at, code as u8); // 255 at most
        self.code_at = self.at;
        self.at = self.at.saturating_add(1);
    }

    fn set(&mut self, at: usize, byte: u8) {
        if let Some(place) = self.wire.get_mut(at) {
            *place = byte;
        }
    }
}

/// Undoes COBS in place.
fn unstuff(stretch: &mut [u8]) -> Option<&[u8]> {
    let (mut from, mut to) = (0usize, 0usize);
    while from < stretch.len() {
        let code = usize::from(*stretch.get(from)?);
        let end = from.checked_add(code).filter(|_| code > 0)?;
        if end > stretch.len() {
            return None;
        }
        stretch.copy_within(from.saturating_add(1)..end, to);
        to = to.saturating_add(code).saturating_sub(1);
        from = end;
        if code <= RUN && from < stretch.len() {
            *stretch.get_mut(to)? = 0;
            to = to.saturating_add(1);
        }
    }
    stretch.get(..to)
}

/// Cuts what comes over the wire at its zeros; `N` is the longest stretch that is kept.
#[derive(Debug, Default)]
pub struct Deframer<const N: usize> {
    bytes: heapless::Vec<u8, N>,
    too_long: bool,
    /// The stretch has ended: the next byte begins another one.
    over: bool,
}

impl<const N: usize> Deframer<N> {
    /// Takes a byte; at a zero, returns what lay before it, if there was something of at most `N`
    /// bytes.
    pub fn take(&mut self, byte: u8) -> Option<&mut [u8]> {
        if self.over {
            *self = Self::default();
        }
        if byte != 0 {
            self.too_long |= self.bytes.push(byte).is_err();
            return None;
        }
        self.over = true;
        let whole = !self.too_long && !self.bytes.is_empty();
        whole.then_some(&mut self.bytes[..])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The frame after a way over a perfect wire, after text.
    fn over_the_wire(frame: &Frame<'_>, seen: impl FnOnce(Option<Frame<'_>>)) -> usize {
        let mut wire = [0xaa; MAX_WIRE];
        let len = frame.encode(7, &mut wire);
        assert_eq!((wire[0], wire[len - 1]), (0, 0));
        assert!(!wire[1..len - 1].contains(&0), "{frame:?}");
        let mut deframer = Deframer::<MAX_WIRE>::default();
        let mut bytes = b"login: ".to_vec();
        bytes.extend(&wire[..len - 1]);
        let texts = bytes.iter().filter(|byte| deframer.take(**byte).is_some());
        assert_eq!(texts.count(), 1, "the text alone");
        seen(Frame::decode(deframer.take(0).unwrap(), Some(7)));
        len
    }

    #[test]
    fn the_longest_frames_fit() {
        for fill in [0, 1, 0xff] {
            let bytes = vec![fill; MAX_GRANULES * GRANULE];
            let data = Frame::Data {
                first: u32::MAX,
                bytes: &bytes,
            };
            let len = over_the_wire(&data, |seen| assert_eq!(seen, Some(data)));
            assert!(len <= MAX_WIRE, "{len}");
            let ack = Frame::Ack {
                receiver: 0,
                next: 0,
                held: &[fill; 32],
            };
            let len = over_the_wire(&ack, |seen| assert_eq!(seen, Some(ack)));
            assert!(len <= MAX_ACK + 2, "{len}");
        }
    }

    #[test]
    fn a_frame_of_another_session_or_version_is_none() {
        let mut wire = [0; MAX_WIRE];
        let data = Frame::Data {
            first: 1,
            bytes: &[3; GRANULE],
        };
        let len = data.encode(7, &mut wire);
        for session in [Some(8), None] {
            let mut stretch = wire[1..len - 1].to_vec();
            assert_eq!(Frame::decode(&mut stretch, session), None);
        }
        let tape = Tape {
            dump_id: [0; 16],
            number: 1,
        };
        let sync = Frame::Sync { tape, base: 5 };
        let len = sync.encode(7, &mut wire);
        let mut stretch = wire[1..len - 1].to_vec();
        assert_eq!(Frame::decode(&mut stretch, None), Some(sync));
        let mut body = vec![SYNC, VERSION + 1];
        body.extend([0; 21]);
        let mut cobs = Cobs::new(&mut wire, 0);
        cobs.put(&body);
        let len = cobs.finish();
        assert_eq!(Frame::decode(&mut wire[1..len - 1], None), None);
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(
            first: u32,
            granules in 1..=MAX_GRANULES,
            zeros in 0u8..=255,
            seed: u8,
        ) {
            let bytes: Vec<u8> = (0..granules * GRANULE)
                .map(|i| (i as u8).wrapping_mul(seed))
                .map(|byte| if byte < zeros { 0 } else { byte })
                .collect();
            let data = Frame::Data { first, bytes: &bytes };
            over_the_wire(&data, |seen| assert_eq!(seen, Some(data)));
        }

        #[test]
        fn garbage_is_no_frame_and_no_panic(mut bytes: Vec<u8>) {
            prop_assert_eq!(Frame::decode(&mut bytes, Some(7)), None);
        }
    }
}
