//! A dump over a serial line: the payload's pipeline at one end, `kdraw receive`'s reception at
//! the other, and whatever the line does to the bytes between them. What is on file is at any
//! moment a dump that the tool reads.

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use common::{extracted, formatted, open};
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use kdraw::receive::{Event, Reception};
use kdraw::scan::Scan;
use kdraw::verify::verify;
use kdraw_format::black_box::{BLACK_BOX_CHUNK, tag};
use kdraw_format::chunk::{Codec, Kind};
use kdraw_format::records::RecordWriter;
use kdraw_format::slot::Outcome;
use kdraw_link::frame::Tape;
use kdraw_pipeline::dump::{Dump, choose_slot};
use kdraw_pipeline::partition::{Partition, TargetError};
use kdraw_pipeline::ports::{BlockDevice, Clock, DeviceError};
use kdraw_pipeline::serial::{self, Patience, SerialDisk};
use kdraw_tests::capture::{Capture, REASON};
use kdraw_tests::disk::buffers;
use kdraw_tests::memory::{Random, frames};

/// Bytes that the line carries in a millisecond, if nothing else is said.
const RATE: u64 = 200;
/// The same at 115,200 baud, less than half a byte: each takes ten bits.
const SLOW_RATE: u64 = 11;

const PATIENCE: Patience = Patience {
    answer_us: 20_000_000,
    silence_us: 20_000_000,
    total_us: 3_600_000_000,
};

/// The line, its two directions, and the receiver at its end; time goes on as the UART is asked.
struct Line {
    now_us: u64,
    random: Random,
    /// Bytes of 10,000 that are corrupted, lost, and repeated, each.
    noise: u64,
    down: VecDeque<u8>,
    up: VecDeque<u8>,
    /// Bytes that it carries in a millisecond, and what the payload has sent in this one.
    rate: u64,
    sent: u64,
    output: PathBuf,
    reception: Option<Reception>,
    events: Vec<Event>,
    /// When the black box was on file.
    black_box_us: Option<u64>,
    /// When the receiver is killed, in bytes from now, and how long it stays away, in
    /// microseconds.
    kill: Option<(u64, u64)>,
    back_at: Option<u64>,
    /// Whether what the receiver says is lost.
    deaf: bool,
    lives: u16,
    /// Bytes after which the line is dead for good.
    dies_after: Option<u64>,
    carried: u64,
}

impl Line {
    fn new(output: &Path, noise: u64) -> Self {
        Self {
            now_us: 0,
            random: Random(7),
            noise,
            down: VecDeque::new(),
            up: VecDeque::new(),
            rate: RATE,
            sent: 0,
            output: output.to_owned(),
            reception: Some(Reception::new(Some(output), 1)),
            events: Vec::new(),
            black_box_us: None,
            kill: None,
            back_at: None,
            deaf: false,
            lives: 1,
            dies_after: None,
            carried: 0,
        }
    }

    /// What becomes of a byte.
    fn spoil(&mut self, byte: u8) -> Vec<u8> {
        let mut hit = || self.random.below(10_000) < self.noise;
        let (corrupted, lost, repeated) = (hit(), hit(), hit());
        let byte = if corrupted {
            self.random.below(256) as u8
        } else {
            byte
        };
        vec![byte; usize::from(!lost) * (1 + usize::from(repeated))]
    }

    fn millisecond(&mut self) {
        self.now_us += 1000;
        self.sent = 0;
        if self.back_at.is_some_and(|at| self.now_us >= at) {
            self.back_at = None;
            self.lives += 1;
            self.reception = Some(Reception::new(Some(&self.output), self.lives));
        }
        let bytes: Vec<u8> = self.down.drain(..).collect();
        let Some(reception) = &mut self.reception else {
            return;
        };
        reception.take(&bytes, &mut self.events).unwrap();
        if let Some(Event::BlackBox(_)) = self.events.last() {
            self.black_box_us.get_or_insert(self.now_us);
        }
        for byte in reception.answer(bytes.is_empty()).unwrap_or_default() {
            if self.deaf {
                break;
            }
            let spoilt = self.spoil(byte);
            self.up.extend(spoilt);
        }
    }
}

#[derive(Clone)]
struct Uart(Rc<RefCell<Line>>);

impl ErrorType for Uart {
    type Error = Infallible;
}

impl Read for Uart {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Infallible> {
        let mut line = self.0.borrow_mut();
        let count = line.up.len().min(into.len());
        for (place, byte) in into.iter_mut().zip(line.up.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.0.borrow().up.is_empty())
    }
}

impl WriteReady for Uart {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok({
            let line = self.0.borrow();
            line.sent < line.rate
        })
    }
}

impl Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let mut line = self.0.borrow_mut();
        let count = bytes.len().min((line.rate - line.sent) as usize);
        line.sent += count as u64;
        for byte in &bytes[..count] {
            line.carried += 1;
            let carried = line.carried;
            if line.dies_after.is_some_and(|bytes| carried > bytes) {
                continue;
            }
            if let Some((at, away)) = line.kill
                && carried >= at
            {
                line.kill = None;
                line.reception = None;
                line.back_at = Some(line.now_us + away);
            }
            if line.reception.is_some() {
                let spoilt = line.spoil(*byte);
                line.down.extend(spoilt);
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl Clock for Uart {
    fn now_us(&self) -> u64 {
        // Ten looks at the clock take a millisecond.
        let mut line = self.0.borrow_mut();
        if line.random.below(10) == 0 {
            line.millisecond();
        }
        line.now_us
    }
}

fn capture() -> Capture {
    Capture {
        codec: Codec::Deflate,
        log: b"[    1.000000] a line of the log\n".repeat(500),
        ..Capture::new(3)
    }
}

/// Sends a capture over the line.
fn send(capture: &Capture, line: Line, patience: Patience) -> (Result<(), TargetError>, Line) {
    over(line, patience, capture.id, |disk, clock| {
        let written = capture.through(disk, clock, &serial::target(capture.id))?;
        written.expect("a free slot");
        Ok(())
    })
}

/// Does something with the disk that a line is.
fn over<T>(
    line: Line,
    patience: Patience,
    dump_id: [u8; 16],
    work: impl FnOnce(&mut dyn BlockDevice, &dyn Clock) -> T,
) -> (T, Line) {
    let line = Uart(Rc::new(RefCell::new(line)));
    let tape = Tape { dump_id, number: 0 };
    let mut disk = SerialDisk::new(line.clone(), line.clone(), tape, patience).unwrap();
    let done = work(&mut disk, &line);
    drop(disk);
    let mut line = Rc::try_unwrap(line.0).ok().unwrap().into_inner();
    // What is still on the line arrives.
    line.millisecond();
    (done, line)
}

fn ended(line: &Line) -> Option<Outcome> {
    line.events.iter().find_map(|event| match event {
        Event::Ended(outcome) => Some(*outcome),
        _ => None,
    })
}

/// What `kdraw verify` has against an image.
fn problems(image: &Path) -> Vec<String> {
    let report = verify(&mut open(image), &mut |_, _| {});
    let slots = report.slots.into_iter().flat_map(|slot| slot.problems);
    report.problems.into_iter().chain(slots).collect()
}

fn vmcore(image: &Path, folder: &Path) -> Vec<u8> {
    let done = extracted(&mut open(image), folder).unwrap();
    fs::read(done.folder.join("vmcore")).unwrap()
}

/// The same capture's vmcore, over no line at all and without packing.
fn vmcore_from_disk(capture: &Capture, folder: &Path) -> Vec<u8> {
    let capture = Capture {
        codec: Codec::Raw,
        ..capture.clone()
    };
    let path = folder.join("disk.img");
    formatted(&path, 4 << 20, false);
    capture.into_file(&path);
    vmcore(&path, &folder.join("disk"))
}

#[test]
fn what_came_over_the_line_is_what_a_disk_would_have() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("line.img");
    let capture = capture();
    let (sent, line) = send(&capture, Line::new(&image, 0), PATIENCE);
    sent.unwrap();
    assert_eq!(ended(&line), Some(Outcome::Complete));
    assert!(line.events.iter().any(|event| matches!(
        event,
        Event::BlackBox(found) if found.reason.as_deref() == Some(REASON)
    )));
    assert_eq!(problems(&image), Vec::<String>::new());
    let mut partition = open(&image);
    let slot = partition.slots().next().unwrap();
    let scan = Scan::of(&mut partition, &slot, &mut |_, _| {});
    assert!(scan.codecs.iter().any(|(codec, _)| *codec == "deflate"));
    let expected = vmcore_from_disk(&capture, folder.path());
    assert_eq!(vmcore(&image, &folder.path().join("line")), expected);
    // The image is as long as its dump, and a little; slots are whole MiB.
    let len = fs::metadata(&image).unwrap().len();
    assert!(len < line.carried + (3 << 20), "{len} bytes");
}

#[test]
fn one_byte_in_a_hundred_each_corrupted_lost_and_repeated_and_it_completes() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("line.img");
    let capture = capture();
    let (sent, line) = send(&capture, Line::new(&image, 100), PATIENCE);
    sent.unwrap();
    assert_eq!(ended(&line), Some(Outcome::Complete));
    assert_eq!(problems(&image), Vec::<String>::new());
    let expected = vmcore_from_disk(&capture, folder.path());
    assert_eq!(vmcore(&image, &folder.path().join("line")), expected);
}

#[test]
fn a_receiver_that_is_killed_goes_on_with_its_file() {
    for kill_at in [10, 20_000, 300_000, 700_000] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("line.img");
        let mut line = Line::new(&image, 10);
        line.kill = Some((kill_at, 3_000_000));
        let capture = capture();
        let (sent, line) = send(&capture, line, PATIENCE);
        sent.unwrap();
        assert_eq!((ended(&line), line.lives), (Some(Outcome::Complete), 2));
        let expected = vmcore_from_disk(&capture, folder.path());
        assert_eq!(vmcore(&image, &folder.path().join("line")), expected);
    }
}

#[test]
fn without_a_receiver_the_black_box_is_said_twice_and_time_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("line.img");
    let mut line = Line::new(&image, 0);
    line.reception = None;
    let patience = Patience {
        answer_us: 5_000_000,
        ..PATIENCE
    };
    let (sent, line) = send(&capture(), line, patience);
    let nobody = DeviceError::Timeout("nobody answers on the serial line");
    assert_eq!(sent, Err(TargetError::Device(nobody)));
    assert!(
        (5_000_000..6_000_000).contains(&line.now_us),
        "{}",
        line.now_us
    );
    assert!(line.carried < 10_000, "{} bytes", line.carried);
}

#[test]
fn the_largest_black_box_takes_less_than_15_s_at_115200_baud() {
    for deaf in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let line = Line {
            rate: SLOW_RATE,
            deaf,
            ..Line::new(&folder.path().join("line.img"), 0)
        };
        let ((), line) = over(line, PATIENCE, [7; 16], |disk, clock| {
            let target = serial::target([7; 16]);
            let mut partition = Partition::open(disk, clock, &target, buffers(2)).unwrap();
            let (slot, old) = choose_slot(&mut partition).unwrap().unwrap();
            let mut dump = Dump::begin(&mut partition, slot, &old, [7; 16], 31).unwrap();
            let fill = |records: &mut RecordWriter<'_>| {
                records.put(tag::REASON, &[REASON.as_bytes()]);
                // Bytes of which none is sent short.
                records.put_with(tag::LOG_TAIL, |room| {
                    room.fill(0xff);
                    room.len()
                });
            };
            dump.records(Kind::BlackBox, BLACK_BOX_CHUNK, fill).unwrap();
            assert_eq!(dump.len(), BLACK_BOX_CHUNK as u64);
            assert_eq!(dump.first_is_durable().is_err(), deaf);
        });
        let took_us = line.black_box_us.unwrap();
        assert!(took_us < 15_000_000, "{took_us} µs, deaf: {deaf}");
    }
}

#[test]
fn a_recording_of_a_line_without_a_receiver_has_the_black_box() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("line.img");
    let mut line = Line::new(&image, 2);
    // It hears, and is not heard.
    line.deaf = true;
    let patience = Patience {
        answer_us: 5_000_000,
        ..PATIENCE
    };
    let (sent, line) = send(&capture(), line, patience);
    assert!(sent.is_err());
    assert_eq!(ended(&line), None);
    let mut partition = open(&image);
    let slot = partition.slot(0).unwrap();
    let scan = Scan::of(&mut partition, &slot, &mut |_, _| {});
    assert_eq!(scan.black_box.unwrap().reason.as_deref(), Some(REASON));
}

#[test]
fn a_silent_receiver_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("line.img");
    let mut line = Line::new(&image, 0);
    line.kill = Some((100_000, u64::MAX / 2));
    let patience = Patience {
        silence_us: 4_000_000,
        ..PATIENCE
    };
    let (sent, _) = send(&capture(), line, patience);
    let silent = DeviceError::Timeout("the receiver on the serial line fell silent");
    assert_eq!(sent, Err(TargetError::Device(silent)));
}

#[test]
fn cut_anywhere_the_file_is_a_dump() {
    let capture = capture();
    let all: Vec<_> = frames().collect();
    let mut before = 0;
    for dies_after in (0..60).map(|step| 2_000 + step * step * 400) {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("line.img");
        let mut line = Line::new(&image, 5);
        line.dies_after = Some(dies_after);
        let patience = Patience {
            answer_us: 3_000_000,
            silence_us: 500_000,
            ..PATIENCE
        };
        let (sent, line) = send(&capture, line, patience);
        if sent.is_ok() {
            assert_eq!(ended(&line), Some(Outcome::Complete));
            break;
        }
        let mut partition = open(&image);
        let slot = partition.slot(0).unwrap();
        let scan = Scan::of(&mut partition, &slot, &mut |_, _| {});
        assert!(scan.lost.is_empty(), "a prefix: {:?}", scan.lost);
        assert!(scan.black_box.is_some() || scan.chunks == 0);
        if scan.chunks > 0 {
            // More bytes, more frames, but for what the noise costs.
            let known = scan.known().count();
            assert!(
                known + 64 >= before,
                "{known} frames after {dies_after} bytes"
            );
            before = known;
            extracted(&mut partition, &folder.path().join("out")).unwrap();
        }
        assert!(before < all.len() as u64);
    }
    assert!(before > 200, "{before} frames of {}", all.len());
}
