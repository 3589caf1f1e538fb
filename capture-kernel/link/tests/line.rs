//! Sender and receiver at the two ends of a bad line.
//!
//! Time is simulated: a step is a millisecond, in which so many bytes move in each direction.

use std::collections::VecDeque;

use kdraw_link::frame::{Deframer, Frame, MAX_ACK, MAX_WIRE, Tape};
use kdraw_link::receiver::{Heard, Receiver};
use kdraw_link::sender::{BLIND_PASSES, Sender};
use kdraw_link::tape::{BLOCK, Reader, Record, Step};
use proptest::prelude::*;

const TAPE: Tape = Tape {
    dump_id: [5; 16],
    number: 0,
};

/// A small generator: the same seed gives the same line.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// True so many times in ten thousand.
    fn once_in(&mut self, per_10000: u64) -> bool {
        self.next() % 10_000 < per_10000
    }
}

/// What a line does to bytes, in ten-thousandths.
#[derive(Clone, Copy, Debug, Default)]
struct Noise {
    corrupted: u64,
    lost: u64,
    repeated: u64,
}

/// One direction.
struct Wire {
    random: Random,
    noise: Noise,
    /// Bytes per millisecond.
    rate: usize,
    delay_ms: u64,
    /// Bytes that the far end keeps until they are read; more are lost.
    room: usize,
    waiting: VecDeque<u8>,
    on_the_way: VecDeque<(u64, u8)>,
    there: VecDeque<u8>,
    cut: bool,
}

impl Wire {
    fn new(seed: u64, noise: Noise) -> Self {
        Self {
            random: Random(seed | 1),
            noise,
            rate: 100,
            delay_ms: 1,
            room: 4096,
            waiting: VecDeque::new(),
            on_the_way: VecDeque::new(),
            there: VecDeque::new(),
            cut: false,
        }
    }

    fn go_on(&mut self, now: u64) {
        for _ in 0..self.rate {
            let Some(byte) = self.waiting.pop_front() else {
                break;
            };
            let random = &mut self.random;
            if self.cut || random.once_in(self.noise.lost) {
                continue;
            }
            let byte = match random.once_in(self.noise.corrupted) {
                true => random.next() as u8,
                false => byte,
            };
            let copies = 1 + usize::from(random.once_in(self.noise.repeated));
            for _ in 0..copies {
                self.on_the_way.push_back((now + self.delay_ms, byte));
            }
        }
        while self.on_the_way.front().is_some_and(|(at, _)| *at <= now) {
            let (_, byte) = self.on_the_way.pop_front().unwrap();
            if self.there.len() < self.room {
                self.there.push_back(byte);
            }
        }
    }
}

/// What a receiver keeps on disk.
#[derive(Default)]
struct File {
    writes: Vec<(u32, Vec<u8>)>,
}

/// The receiving side.
struct Far {
    receiver: Box<Receiver>,
    deframer: Deframer<MAX_WIRE>,
    reader: Reader,
    record: Option<(Record, Vec<u8>)>,
    /// Bytes read per millisecond.
    appetite: usize,
    quiet_ms: u64,
    /// Whether an answer is due, and whether the line brought nothing in the last step.
    asks: bool,
    quiet: bool,
}

impl Far {
    fn new(id: u16) -> Self {
        Self {
            receiver: Box::new(Receiver::new(id)),
            deframer: Deframer::default(),
            reader: Reader::default(),
            record: None,
            appetite: 1000,
            quiet_ms: 0,
            asks: false,
            quiet: true,
        }
    }

    fn go_on(&mut self, from: &mut VecDeque<u8>, to: &mut VecDeque<u8>, file: &mut File) {
        for _ in 0..self.appetite {
            if self.asks && self.receiver.may_ack() {
                self.answer(to, file);
            }
            let Some(byte) = from.pop_front() else { break };
            self.quiet = false;
            self.receiver.count(1);
            let session = self.receiver.session();
            let Some(stretch) = self.deframer.take(byte) else {
                continue;
            };
            let Some(frame) = Frame::decode(stretch, session) else {
                continue;
            };
            match self.receiver.take(&frame) {
                Heard::Nothing => {}
                Heard::Asks => self.asks = true,
                Heard::Begins { .. } => {
                    self.asks = true;
                    self.reader = Reader::default();
                    self.record = None;
                }
            }
        }
        if self.asks && self.quiet {
            self.answer(to, file);
        }
        self.quiet = true;
    }

    fn answer(&mut self, to: &mut VecDeque<u8>, file: &mut File) {
        while let Some(granule) = self.receiver.granule() {
            match self.reader.take(&granule).expect("a sound tape") {
                Step::Record(record) => self.record = Some((record, Vec::new())),
                Step::Bytes(bytes) => self.record.as_mut().unwrap().1.extend(bytes),
            }
            if self.reader.is_between()
                && let Some((Record::Write { block, len, .. }, mut bytes)) = self.record.take()
            {
                bytes.resize(len as usize, 0);
                file.writes.push((block, bytes));
            }
        }
        let mut wire = [0; MAX_WIRE];
        let len = self.receiver.ack(&mut wire);
        to.extend(&wire[..len]);
        self.asks = false;
    }
}

/// The sending side: writes that are kept until they are on file.
struct Near {
    sender: Box<Sender<Vec<u8>, 4>>,
    deframer: Deframer<MAX_ACK>,
    todo: VecDeque<(u32, Vec<u8>)>,
}

impl Near {
    fn new(todo: &[(u32, Vec<u8>)]) -> Self {
        Self {
            sender: Box::new(Sender::new(TAPE, 0)),
            deframer: Deframer::default(),
            todo: todo.iter().cloned().collect(),
        }
    }

    fn go_on(&mut self, now_us: u64, from: &mut VecDeque<u8>, to: &mut VecDeque<u8>, rate: usize) {
        let session = self.sender.session();
        while let Some(byte) = from.pop_front() {
            if let Some(stretch) = self.deframer.take(byte)
                && let Some(frame) = Frame::decode(stretch, Some(session))
            {
                self.sender.take(&frame, now_us);
            }
        }
        while self.sender.done().is_some() {}
        while !self.sender.is_full()
            && let Some((block, bytes)) = self.todo.pop_front()
        {
            let record = Record::write(block, &bytes).unwrap();
            self.sender.push(record, bytes, now_us).unwrap();
        }
        let mut wire = [0; MAX_WIRE];
        // A UART's FIFO: what is not sent yet is not decided yet.
        while to.len() < rate + 16 {
            let len = self.sender.frame(now_us, &mut wire);
            if len == 0 {
                break;
            }
            to.extend(&wire[..len]);
        }
        self.sender.end_blind_pass(now_us);
    }

    fn is_done(&self) -> bool {
        self.todo.is_empty() && self.sender.is_empty()
    }
}

fn writes(count: u32, len: usize, seed: u64) -> Vec<(u32, Vec<u8>)> {
    let mut random = Random(seed | 1);
    (0..count)
        .map(|block| {
            let kept = random.next() as usize % len;
            let mut bytes: Vec<u8> = (0..kept).map(|_| random.next() as u8).collect();
            bytes.resize(len.next_multiple_of(BLOCK as usize), 0);
            (block, bytes)
        })
        .collect()
}

/// Both ends and the line.
struct World {
    near: Near,
    far: Far,
    down: Wire,
    up: Wire,
    file: File,
    now_ms: u64,
}

impl World {
    fn new(todo: &[(u32, Vec<u8>)], noise: Noise, seed: u64) -> Self {
        Self {
            near: Near::new(todo),
            far: Far::new(1),
            down: Wire::new(seed, noise),
            up: Wire::new(seed ^ 0x5555, noise),
            file: File::default(),
            now_ms: 0,
        }
    }

    fn step(&mut self) {
        self.now_ms += 1;
        let now_us = self.now_ms * 1000;
        self.near.go_on(
            now_us,
            &mut self.up.there,
            &mut self.down.waiting,
            self.down.rate,
        );
        self.down.go_on(self.now_ms);
        let sent = self.up.waiting.len();
        self.far
            .go_on(&mut self.down.there, &mut self.up.waiting, &mut self.file);
        self.far.quiet_ms = if self.up.waiting.len() > sent {
            0
        } else {
            self.far.quiet_ms + 1
        };
        self.up.go_on(self.now_ms);
    }

    /// Goes on until all is on file; returns the milliseconds that it took.
    fn finish(&mut self, limit_ms: u64) -> u64 {
        let start = self.now_ms;
        while !self.near.is_done() {
            self.step();
            assert!(
                self.now_ms - start < limit_ms,
                "{} of {} writes after {limit_ms} ms, {:?}",
                self.file.writes.len(),
                self.file.writes.len() + self.near.todo.len(),
                self.near.sender,
            );
        }
        self.now_ms - start
    }
}

/// What the file ends up as, whatever was written twice.
fn image(writes: &[(u32, Vec<u8>)]) -> Vec<(u32, Vec<u8>)> {
    let mut last = std::collections::BTreeMap::new();
    for (block, bytes) in writes {
        last.insert(*block, bytes.clone());
    }
    last.into_iter().collect()
}

#[test]
fn a_clean_line_costs_little_more_than_its_bytes() {
    let todo = writes(8, 64 << 10, 3);
    let bytes: usize = todo
        .iter()
        .map(|(block, bytes)| Record::write(*block, bytes).unwrap().sent() as usize)
        .sum();
    let mut world = World::new(&todo, Noise::default(), 1);
    let took = world.finish(60_000);
    assert_eq!(world.file.writes, todo);
    let floor = (bytes / world.down.rate) as u64;
    assert!(
        took < floor + floor / 20 + 100,
        "{took} ms for {floor} ms of bytes"
    );
}

/// Sends `count` writes of 40 KiB, of which one byte in a hundred each is corrupted, lost and repeated,
/// over a line that is first `changed`. All arrive within `limit` ms; returns how many percent of the
/// bytes that the line could carry meanwhile were useful.
fn useful_on_a_noisy_line(count: u32, limit: u64, changed: impl FnOnce(&mut World)) -> u64 {
    let noise = Noise {
        corrupted: 100,
        lost: 100,
        repeated: 100,
    };
    let todo = writes(count, 40 << 10, 9);
    let bytes: u64 = todo
        .iter()
        .map(|(block, bytes)| u64::from(Record::write(*block, bytes).unwrap().sent()))
        .sum();
    let mut world = World::new(&todo, noise, 11);
    changed(&mut world);
    let took = world.finish(limit);
    assert_eq!(image(&world.file.writes), todo);
    bytes * 100 / (took * world.down.rate as u64)
}

#[test]
fn one_byte_in_a_hundred_each_corrupted_lost_and_repeated_is_survived() {
    let useful = useful_on_a_noisy_line(6, 600_000, |_| {});
    assert!(useful >= 18, "{useful} % of the line's bytes are useful");
}

/// As QEMU's UART: a noisy line makes for short frames, and an answer to each would be too much.
#[test]
fn a_way_back_that_is_slower_does_not_fill_with_answers() {
    let useful = useful_on_a_noisy_line(12, 2_000_000, |world| {
        (world.down.rate, world.up.rate) = (12, 4);
    });
    assert!(useful >= 18, "{useful} % of the line's bytes are useful");
}

#[test]
fn a_slow_reader_is_not_lost_to() {
    let todo = writes(6, 64 << 10, 4);
    let bytes: u64 = todo
        .iter()
        .map(|(block, bytes)| u64::from(Record::write(*block, bytes).unwrap().sent()))
        .sum();
    let mut world = World::new(&todo, Noise::default(), 1);
    world.far.appetite = 10;
    let took = world.finish(200_000);
    assert_eq!(world.file.writes, todo);
    // It reads 10 bytes in a millisecond: at least half of what it reads is new.
    assert!(took < bytes / 10 * 2, "{took} ms for {bytes} bytes");
}

#[test]
fn a_long_way_is_filled() {
    let todo = writes(6, 64 << 10, 4);
    let mut world = World::new(&todo, Noise::default(), 1);
    (world.down.delay_ms, world.up.delay_ms) = (75, 75);
    world.down.rate = 12;
    world.up.rate = 12;
    let bytes: u64 = todo
        .iter()
        .map(|(block, bytes)| u64::from(Record::write(*block, bytes).unwrap().sent()))
        .sum();
    let took = world.finish(400_000);
    assert!(took < bytes / 12 * 5 / 4 + 2000, "{took} ms");
}

#[test]
fn without_a_receiver_everything_is_said_twice_and_then_no_more() {
    let todo = writes(3, 8192, 2);
    let mut world = World::new(&todo, Noise::default(), 1);
    // A recorder: it takes everything in and says nothing.
    world.up.cut = true;
    let mut said = 0;
    for _ in 0..10_000 {
        world.step();
        said += 1;
        if world.near.sender.blind_passes() == BLIND_PASSES {
            break;
        }
    }
    assert!(said < 3_000, "{said} ms");
    assert_eq!(world.file.writes, todo, "one pass is enough to read it");
    world.up.there.clear();
    // Only calls from now on.
    let before = world.down.random.clone().0;
    for _ in 0..1000 {
        world.step();
    }
    assert_eq!(world.near.sender.blind_passes(), BLIND_PASSES);
    assert_ne!(before, world.down.random.0, "it still calls");
    // And whoever comes late gets it.
    world.up.cut = false;
    world.far = Far::new(9);
    world.file = File::default();
    world.finish(10_000);
    assert_eq!(world.file.writes, todo);
}

#[test]
fn a_tape_begun_anew_is_a_new_one() {
    let mut world = World::new(&writes(3, 8192, 2), Noise::default(), 1);
    world.finish(10_000);
    let last = writes(1, 4096, 7);
    world.near = Near::new(&last);
    let tape = Tape { number: 1, ..TAPE };
    *world.near.sender = Sender::new(tape, world.now_ms * 1000);
    world.finish(10_000);
    assert_eq!(world.file.writes.last(), last.last());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_the_line_does_all_arrives_once_it_works(
        seed: u64,
        corrupted in 0u64..150,
        lost in 0u64..150,
        repeated in 0u64..150,
        delay in 1u64..60,
        appetite in 20usize..2000,
        events in proptest::collection::vec((1u64..3000, 0u8..3), 0..5),
    ) {
        let todo = writes(8, 9000, seed);
        let noise = Noise { corrupted, lost, repeated };
        let mut world = World::new(&todo, noise, seed);
        (world.down.delay_ms, world.up.delay_ms) = (delay, delay / 2 + 1);
        world.far.appetite = appetite;
        let mut id = 1;
        for (wait, event) in events {
            for _ in 0..wait {
                world.step();
            }
            match event {
                // The receiver is killed, and begun anew with its file.
                0 => {
                    id += 1;
                    world.far = Far::new(id);
                    world.far.appetite = appetite;
                }
                // The cable is pulled.
                1 => {
                    (world.up.cut, world.down.cut) = (true, true);
                    for _ in 0..wait {
                        world.step();
                    }
                    (world.up.cut, world.down.cut) = (false, false);
                }
                // The console speaks.
                _ => world.down.waiting.extend(b"\r\n[  12.3] random: crng init done\r\n"),
            }
        }
        world.finish(900_000);
        prop_assert_eq!(image(&world.file.writes), todo);
    }
}
