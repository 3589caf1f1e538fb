#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
//! The serial link: how a dump gets over a line that loses, garbles and repeats bytes, to a
//! receiver that may be slow, late, restarted, or not there at all.
//!
//! Only the protocol is here: two state machines without a clock, a device or a heap of their own.
//! Who owns a UART feeds them bytes and the time.
//!
//! # What is sent
//!
//! The payload writes its dump to an image of a dump partition that lies at the other end of the
//! line: the same superblock, slot and chunks as on a disk, so that all of the tool reads what
//! arrived, and all of the pipeline writes it. Each write is a [`tape::Record`]: where in the image, how
//! long, and its bytes without the zeros at the end. The records one after the other are the
//! *tape*: a sequence of *granules* of 16 bytes, counted from 0; each record begins a granule.
//! The receiver makes the superblock itself.
//!
//! # Frames
//!
//! `0x00`, COBS (Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999) of what follows,
//! `0x00`. COBS, since it costs one byte in 254, keeps the zero for borders, and so finds the next
//! frame after any garbage at once; what lies between zeros and is no frame is console text, and
//! ignored. Little-endian; the CRC-32C covers all before it, and is begun with the first four
//! bytes of the dump id plus the tape's number (in `Sync`: with 0), so that frames of another dump
//! are none.
//!
//! | Frame | at | size | field |
//! |--|--|--|--|
//! | `Sync`, sender | 0 | 1 | 1 |
//! | | 1 | 1 | protocol version |
//! | | 2 | 1 | number of the tape: 0, and one more each time that a sender begins anew in this dump |
//! | | 3 | 16 | dump id |
//! | | 19 | 4 | the first granule that the sender still has: a record begins there |
//! | | 23 | 4 | CRC |
//! | `Data`, sender | 0 | 1 | 2 |
//! | | 1 | 4 | first granule |
//! | | 5 | 16 × n | granules, 1 to 64 |
//! | | | 4 | CRC |
//! | `Ack`, receiver | 0 | 1 | 3 |
//! | | 1 | 2 | receiver id: random, another one after each start |
//! | | 3 | 4 | granules that are on file: all before this one |
//! | | 7 | 0–32 | one bit for each granule from there on, low bit first: whether it is held |
//! | | | 4 | CRC |
//!
//! # Who speaks when
//!
//! The receiver never speaks first: before the crash the line is a console, and what it said would
//! be typed into a login. The sender begins with `Sync` and repeats it as long as it hears nothing.
//! While nobody answers it sends what it has *blindly*, [`sender::BLIND_PASSES`] times: a recorded
//! line then holds the black box twice.
//!
//! A receiver that hears `Sync` answers with `Ack`, and with a further one when data came: at once if
//! the line is quiet after that, otherwise no sooner than twice an `Ack`'s length has come.
//! The sender keeps every record until all of it is on file, and goes on with a new receiver at
//! the start of the first one that it keeps; so a receiver that was restarted needs nothing but
//! its file. The line does not reorder: what was sent before something that arrived, and did not
//! arrive, is lost and sent again. When nothing is acknowledged at all, the oldest granules are sent
//! again after a time that follows the line's.
//!
//! At most [`WINDOW`] granules are on the way; how many of them and how many go into one frame
//! follows the losses: long frames on a clean line (1.1 % of overhead), 16 bytes each where every
//! hundredth byte is damaged. So a slow reader is not overrun for long, either.

pub mod crc;
pub mod frame;
pub mod receiver;
pub mod sender;
pub mod tape;

/// The protocol's version; another one is not understood.
pub const VERSION: u8 = 1;
/// Bytes in a granule.
pub const GRANULE: usize = 16;
/// The most granules on the way: 32 KiB, or 2.8 s at 115,200 baud.
pub const WINDOW: u32 = 2048;
/// Granules that an `Ack` tells of one by one.
pub const TOLD: u32 = 256;
