//! Both ends of the serial link, each with another end that says anything.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use kdraw::receive::Reception;
use kdraw_format::layout::{BLOCK, Superblock};
use kdraw_link::frame::{Deframer, Frame, MAX_GRANULES, MAX_WIRE, Tape};
use kdraw_link::sender::Sender;
use kdraw_link::tape::Record;
use kdraw_link::{GRANULE, VERSION};
use tempfile::TempDir;

use crate::Input;

const DUMP_ID: [u8; 16] = [0xd5; 16];

/// The longest write here, in bytes: more than the window of 32 KiB, so that it is taken in parts.
const MAX_WRITE: u64 = 40 << 10;

fn tape(number: u8) -> Tape {
    let dump_id = DUMP_ID;
    Tape { dump_id, number }
}

/// The receiver and its file, with a sender that says anything.
///
/// The input: what is said, each a byte and what it takes:
///
/// | byte % 5 | said | takes |
/// |--|--|--|
/// | 0 | `Sync` | the tape's number (u8), its base (u32), which is the next granule then |
/// | 1 | the next granule: a record's first | block, length, bytes sent (u32 each) |
/// | 2 | the next granules | how many (u8), their bytes |
/// | 3 | other granules | how far off (u16), how many (u8), their bytes |
/// | 4 | no frame | how many bytes (u8), the bytes |
pub(crate) fn receiver(data: &[u8]) {
    static FOLDER: OnceLock<Mutex<TempDir>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| Mutex::new(tempfile::tempdir().unwrap()));
    let folder = folder.lock().unwrap();
    let path = folder.path().join("image");
    let _ = std::fs::remove_file(&path);
    let mut reception = Reception::new(Some(&path), 1);
    let (mut session, mut next) = (tape(0), 0u32);
    let mut input = Input(data);
    while !input.0.is_empty() {
        let kind = input.u8() % 5;
        let mut said = [0; MAX_WIRE];
        let granules = |input: &mut Input<'_>| {
            let count = usize::from(input.u8()) % MAX_GRANULES + 1;
            (0..count)
                .flat_map(|_| input.bytes::<GRANULE>())
                .collect::<Vec<u8>>()
        };
        let word = |input: &mut Input<'_>| u32::from_le_bytes(input.bytes());
        let len = match kind {
            0 => {
                (session.number, next) = (input.u8(), word(&mut input));
                let sync = Frame::Sync {
                    tape: session,
                    base: next,
                };
                sync.encode(0, &mut said)
            }
            1 => {
                let [block, len, sent] = [(); 3].map(|()| word(&mut input));
                let bytes = Record::Write { block, len, sent }.encode();
                let first = next;
                next = next.wrapping_add(1);
                Frame::Data {
                    first,
                    bytes: &bytes,
                }
                .encode(session.session(), &mut said)
            }
            2 | 3 => {
                let mut first = next;
                if kind == 3 {
                    first = first
                        .wrapping_add(input.below(4096) as u32)
                        .wrapping_sub(2048);
                }
                let bytes = granules(&mut input);
                if kind == 2 {
                    next = next.wrapping_add((bytes.len() / GRANULE) as u32);
                }
                Frame::Data {
                    first,
                    bytes: &bytes,
                }
                .encode(session.session(), &mut said)
            }
            _ => {
                let len = usize::from(input.u8());
                for byte in &mut said[..len] {
                    *byte = input.u8();
                }
                len
            }
        };
        if reception.take(&said[..len], &mut Vec::new()).is_err() {
            // No place for a dump.
            return;
        }
        if let Some(mut answer) = reception.answer(true) {
            let end = answer.len() - 1;
            let ack = Frame::decode(&mut answer[1..end], Some(session.session()));
            assert!(matches!(ack, Some(Frame::Ack { .. })), "{ack:?}");
        }
        if let Some(image) = reception.image() {
            check_image(&path, image.end());
        }
    }
}

/// Whatever was said: the file is a signed partition.
fn check_image(path: &PathBuf, end: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::open(path).unwrap();
    let mut block = [0; BLOCK];
    file.read_exact_at(&mut block, 0).unwrap();
    let superblock = Superblock::decode(&block).unwrap();
    let len = file.metadata().unwrap().len();
    assert_eq!((superblock.uuid, superblock.partition_len), (DUMP_ID, len));
    assert!(end < len, "{end} of {len}");
}

/// The sender, with a receiver that says anything.
///
/// The input: what happens, each a byte and what it takes:
///
/// | byte % 4 | happens | takes |
/// |--|--|--|
/// | 0 | a write | its length (u16) |
/// | 1 | `Ack` | the receiver (u8), the next granule (u16, from where it all began), what is held (4 bytes) |
/// | 2 | time goes by | milliseconds (u8) |
/// | 3 | frames are asked for | how many (u8) |
pub(crate) fn sender(data: &[u8]) {
    let mut now_us = 0;
    let mut sender = Sender::<Vec<u8>, 4>::new(tape(0), now_us);
    // The writes that are kept, by where they end.
    let mut kept = VecDeque::new();
    let (mut begin, mut end) = (0, 0);
    let mut input = Input(data);
    while !input.0.is_empty() {
        match input.u8() % 4 {
            0 => {
                let bytes = vec![VERSION; input.below(MAX_WRITE) as usize];
                let record = Record::write(0, &bytes).unwrap();
                assert_eq!(sender.is_full(), kept.len() == 4);
                if sender.push(record, bytes, now_us).is_ok() {
                    end += record.granules();
                    kept.push_back((end, record.sent()));
                }
            }
            1 => {
                let receiver = u16::from(input.u8() % 2);
                let next = input.below(1 << 16) as u32;
                let held = &input.bytes::<4>();
                let ack = Frame::Ack {
                    receiver,
                    next,
                    held,
                };
                sender.take(&ack, now_us);
            }
            2 => now_us += u64::from(input.u8()) * 1000,
            _ => {
                for _ in 0..input.u8() {
                    let mut wire = [0; MAX_WIRE];
                    let len = sender.frame(now_us, &mut wire);
                    if len == 0 {
                        sender.end_blind_pass(now_us);
                        break;
                    }
                    check_frame(&wire[..len], begin, end);
                }
            }
        }
        while let Some(bytes) = sender.done() {
            let (ends, sent) = kept.pop_front().unwrap();
            assert_eq!(bytes.len(), sent as usize);
            begin = ends;
        }
        assert_eq!(sender.is_empty(), kept.is_empty());
    }
}

/// What is sent is a frame, of granules that are kept.
fn check_frame(wire: &[u8], begin: u32, end: u32) {
    let mut deframer = Deframer::<MAX_WIRE>::default();
    let (zero, rest) = wire.split_last().unwrap();
    for byte in rest {
        assert!(deframer.take(*byte).is_none());
    }
    let stretch = deframer.take(*zero).unwrap();
    match Frame::decode(stretch, Some(tape(0).session())) {
        Some(Frame::Sync { base, .. }) => assert_eq!(base, begin),
        Some(Frame::Data { first, bytes }) => {
            let last = first + (bytes.len() / GRANULE) as u32;
            assert!(begin <= first && last <= end, "{first} to {last} of {end}");
        }
        other => panic!("{other:?}"),
    }
}
