//! The sender's half: keeps records until they are on file, and decides what goes over the wire
//! next.

use crate::frame::{Frame, MAX_GRANULES, MAX_WIRE, Tape};
use crate::tape::Record;
use crate::{GRANULE, TOLD, WINDOW};

/// How often everything is sent while nobody answers.
pub const BLIND_PASSES: u8 = 2;
/// The pause after a pass in which nobody answered, in microseconds.
pub const BLIND_PAUSE_US: u64 = 1_000_000;
/// How often `Sync` is repeated while nothing is heard, in microseconds.
pub const SYNC_EVERY_US: u64 = 250_000;

/// Granules of window, as an index.
const PLACES: usize = WINDOW as usize;
/// Granules in a frame at first, and while nobody answers: what survives a bad line, and wastes
/// little on a good one.
const FIRST_CUT: u32 = 16;
/// Granules on the way at first.
const FIRST_WINDOW: u32 = 512;
/// The fewest granules on the way: 2 KiB.
const LEAST_WINDOW: u32 = 128;
/// Frames that must arrive one after the other before longer ones are tried.
const CLEAN_FRAMES: u32 = 12;
/// Blind frames between two `Sync`.
const BLIND_FRAMES: u32 = 16;
/// How long the first answer is waited for, in microseconds.
const FIRST_WAIT_US: u64 = 150_000;
/// The least and the longest wait for an answer, in microseconds.
const WAIT_US: (u64, u64) = (10_000, 2_000_000);

/// A record and whoever owns its bytes.
#[derive(Debug)]
struct Entry<B> {
    first: u32,
    record: Record,
    bytes: B,
}

impl<B> Entry<B> {
    fn end(&self) -> u32 {
        self.first.wrapping_add(self.record.granules())
    }
}

/// A line that is sent over: at most `N` records are kept.
#[derive(Debug)]
pub struct Sender<B, const N: usize> {
    tape: Tape,
    entries: heapless::Deque<Entry<B>, N>,
    /// The granule after the last record.
    end: u32,
    /// The receiver that is being sent to.
    receiver: Option<u16>,
    /// What it has on file ends here.
    acked: u32,
    /// The first granule that was never sent to it.
    unsent: u32,
    /// For each granule in the window whether the receiver holds it, and when it was sent last:
    /// 0 if it has to be sent again.
    held: [bool; PLACES],
    sent_at: [u16; PLACES],
    /// Granules that have to be sent again, and granules that are held and not on file yet.
    lost: u32,
    ahead: u32,
    /// Counts frames; never 0.
    frame: u16,
    /// Losses of frames before this one have had their effect.
    reacted: u16,
    /// Granules in a frame.
    cut: u32,
    /// Granules on the way at most.
    window: u32,
    /// Granules that arrived since the last loss.
    clean: u32,
    /// When something was acknowledged, or the wait for that began anew, in microseconds.
    progress_us: u64,
    /// How long the next answer is waited for, in microseconds.
    wait_us: u64,
    /// How long an answer takes, in microseconds, and the frame by which that is measured.
    round_trip_us: u64,
    timed: Option<(u16, u64)>,
    heard_us: u64,
    sync_us: u64,
    blind: Blind,
}

/// What an answer told of losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Nothing,
    /// Something that was sent before the last reaction to a loss.
    AsBefore,
    /// Something that was sent since.
    Since,
}

/// How far it got while nobody answered.
#[derive(Clone, Copy, Debug, Default)]
struct Blind {
    passes: u8,
    next: u32,
    frames: u32,
    pause_until_us: u64,
}

fn place(granule: u32) -> usize {
    granule as usize % PLACES
}

/// Whether frame `a` was sent before `b`.
fn before(a: u16, b: u16) -> bool {
    (a.wrapping_sub(b) as i16) < 0
}

impl<B: AsRef<[u8]>, const N: usize> Sender<B, N> {
    /// A sender with nothing to send.
    pub fn new(tape: Tape, now_us: u64) -> Self {
        Self {
            tape,
            entries: heapless::Deque::new(),
            end: 0,
            receiver: None,
            acked: 0,
            unsent: 0,
            held: [false; PLACES],
            sent_at: [0; PLACES],
            lost: 0,
            ahead: 0,
            frame: 1,
            reacted: 1,
            cut: FIRST_CUT,
            window: FIRST_WINDOW,
            clean: 0,
            progress_us: now_us,
            wait_us: FIRST_WAIT_US,
            round_trip_us: FIRST_WAIT_US,
            timed: None,
            heard_us: now_us,
            sync_us: now_us,
            blind: Blind::default(),
        }
    }

    /// Whether no further record is taken.
    pub fn is_full(&self) -> bool {
        self.entries.is_full()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a record and its bytes, of which there must be as many as it says.
    ///
    /// # Errors
    /// The bytes come back if there is no room.
    pub fn push(&mut self, record: Record, bytes: B, now_us: u64) -> Result<(), B> {
        if self.is_full() {
            return Err(bytes);
        }
        if self.unsent == self.end {
            self.progress_us = now_us;
        }
        let entry = Entry {
            first: self.end,
            record,
            bytes,
        };
        self.end = entry.end();
        // There is room.
        let _ = self.entries.push_back(entry);
        Ok(())
    }

    /// Takes out a record that is on file.
    pub fn done(&mut self) -> Option<B> {
        let first = self.entries.front()?;
        let on_file = self.receiver.is_some() && !reaches(first.end(), self.acked);
        on_file.then(|| self.entries.pop_front().map(|entry| entry.bytes))?
    }

    /// Takes out any record: nobody will have it.
    pub fn give_up(&mut self) -> Option<B> {
        self.entries.pop_front().map(|entry| entry.bytes)
    }

    /// When something was heard last, in microseconds; `None` if nobody ever answered.
    pub fn heard_us(&self) -> Option<u64> {
        self.receiver.map(|_| self.heard_us)
    }

    /// How often everything was sent without an answer.
    pub fn blind_passes(&self) -> u8 {
        self.blind.passes
    }

    /// What frames are decoded with.
    pub fn session(&self) -> u32 {
        self.tape.session()
    }

    fn base(&self) -> u32 {
        self.entries.front().map_or(self.end, |entry| entry.first)
    }

    /// Takes a frame that came in.
    pub fn take(&mut self, frame: &Frame<'_>, now_us: u64) {
        let Frame::Ack {
            receiver,
            next,
            held,
        } = frame
        else {
            return;
        };
        if self.receiver != Some(*receiver) {
            self.begin_anew(*receiver, now_us);
        }
        self.heard_us = now_us;
        let fresh = next.wrapping_sub(self.acked);
        if fresh > self.unsent.wrapping_sub(self.acked) {
            // Older than what is known, or nonsense.
            return;
        }
        let mut arrived = 0u32;
        // The frame that was sent last of those of which something arrived.
        let mut newest: Option<u16> = None;
        let mut note = |sent_at: u16| {
            if sent_at != 0 && newest.is_none_or(|newest| before(newest, sent_at)) {
                newest = Some(sent_at);
            }
        };
        for ahead in 0..fresh {
            let at = place(self.acked.wrapping_add(ahead));
            let (Some(held), Some(sent_at)) = (self.held.get_mut(at), self.sent_at.get_mut(at))
            else {
                continue;
            };
            if core::mem::take(held) {
                self.ahead = self.ahead.saturating_sub(1);
            } else {
                arrived = arrived.saturating_add(1);
                self.lost = self.lost.saturating_sub(u32::from(*sent_at == 0));
                note(core::mem::take(sent_at));
            }
            *sent_at = 0;
        }
        self.acked = *next;
        let told = self.unsent.wrapping_sub(*next).min(TOLD);
        for ahead in 0..told {
            let at = place(next.wrapping_add(ahead));
            let bit = held
                .get(ahead as usize / 8)
                .is_some_and(|byte| byte & (1 << (ahead % 8)) != 0);
            let (Some(held), Some(sent_at)) = (self.held.get_mut(at), self.sent_at.get_mut(at))
            else {
                continue;
            };
            if bit && !*held {
                *held = true;
                self.ahead = self.ahead.saturating_add(1);
                arrived = arrived.saturating_add(1);
                self.lost = self.lost.saturating_sub(u32::from(*sent_at == 0));
                note(*sent_at);
            }
        }
        if arrived > 0 {
            self.progress_us = now_us;
            self.measure(newest, now_us);
        }
        let lost = newest.map_or(Lost::Nothing, |newest| self.find_lost(told, newest));
        self.adapt(arrived, lost);
    }

    /// What was sent before a frame that arrived, and is not held, is lost.
    fn find_lost(&mut self, told: u32, newest: u16) -> Lost {
        let mut lost = Lost::Nothing;
        for ahead in 0..told {
            let at = place(self.acked.wrapping_add(ahead));
            let (Some(held), Some(sent_at)) = (self.held.get(at), self.sent_at.get_mut(at)) else {
                continue;
            };
            if !held && *sent_at != 0 && before(*sent_at, newest) {
                if lost == Lost::Nothing {
                    lost = Lost::AsBefore;
                }
                if !before(*sent_at, self.reacted) {
                    lost = Lost::Since;
                }
                *sent_at = 0;
                self.lost = self.lost.saturating_add(1);
            }
        }
        lost
    }

    fn measure(&mut self, newest: Option<u16>, now_us: u64) {
        let arrived = |(frame, _): &(u16, u64)| newest.is_some_and(|n| !before(n, *frame));
        if let Some((_, sent_us)) = self.timed.take_if(|timed| arrived(timed)) {
            let took = now_us.saturating_sub(sent_us);
            let weighed = self.round_trip_us.saturating_mul(7).saturating_add(took);
            self.round_trip_us = weighed / 8;
        }
        let wait_us = self.round_trip_us.saturating_mul(3);
        self.wait_us = wait_us.clamp(WAIT_US.0, WAIT_US.1);
    }

    fn adapt(&mut self, arrived: u32, lost: Lost) {
        if lost != Lost::Nothing {
            self.clean = 0;
        }
        if lost == Lost::Since {
            self.reacted = self.frame;
            self.cut = (self.cut / 2).max(1);
            self.window = (self.window / 2).max(LEAST_WINDOW);
        }
        if lost != Lost::Nothing {
            return;
        }
        self.window = self.window.saturating_add(arrived / 4).min(WINDOW);
        self.clean = self.clean.saturating_add(arrived);
        if self.clean >= self.cut.saturating_mul(CLEAN_FRAMES) {
            self.clean = 0;
            let more = (self.cut / 2).max(1);
            self.cut = self.cut.saturating_add(more).min(MAX_GRANULES as u32);
        }
    }

    /// Goes on with a receiver that has nothing of the records that are kept.
    fn begin_anew(&mut self, receiver: u16, now_us: u64) {
        self.receiver = Some(receiver);
        self.acked = self.base();
        self.unsent = self.acked;
        self.held = [false; PLACES];
        self.sent_at = [0; PLACES];
        (self.lost, self.ahead) = (0, 0);
        self.timed = None;
        self.progress_us = now_us;
    }

    /// Writes the next frame that is to go over the wire; 0 if there is none now.
    pub fn frame(&mut self, now_us: u64, wire: &mut [u8; MAX_WIRE]) -> usize {
        if now_us >= self.sync_us {
            return self.sync(now_us, wire);
        }
        if self.receiver.is_none() {
            return self.blind_frame(now_us, wire);
        }
        let on_the_way = self.unsent != self.acked;
        if on_the_way && now_us.saturating_sub(self.progress_us) > self.wait_us {
            self.ask_again(now_us);
        }
        let Some(first) = self.next_granule() else {
            return 0;
        };
        let mut bytes = [0; MAX_GRANULES * GRANULE];
        let mut count = 0u32;
        for place in bytes.as_chunks_mut().0.iter_mut().take(self.cut as usize) {
            let granule = first.wrapping_add(count);
            if !self.is_to_send(granule) {
                break;
            }
            *place = self.granule(granule);
            self.mark_sent(granule);
            count = count.saturating_add(1);
        }
        if self.timed.is_none() {
            self.timed = Some((self.frame, now_us));
        }
        self.frame = self.frame.checked_add(1).unwrap_or(1);
        self.data(first, &bytes, count, wire)
    }

    fn data(&self, first: u32, bytes: &[u8], count: u32, wire: &mut [u8; MAX_WIRE]) -> usize {
        let len = (count as usize).saturating_mul(GRANULE);
        let bytes = bytes.get(..len).unwrap_or_default();
        Frame::Data { first, bytes }.encode(self.tape.session(), wire)
    }

    fn sync(&mut self, now_us: u64, wire: &mut [u8; MAX_WIRE]) -> usize {
        self.sync_us = now_us.saturating_add(SYNC_EVERY_US);
        let heard_until = self.heard_us.saturating_add(SYNC_EVERY_US);
        if self.receiver.is_some() && now_us < heard_until {
            self.sync_us = heard_until;
            return 0;
        }
        let sync = Frame::Sync {
            tape: self.tape,
            base: self.base(),
        };
        sync.encode(0, wire)
    }

    /// Sends everything once more, as long as it is one of the first passes.
    fn blind_frame(&mut self, now_us: u64, wire: &mut [u8; MAX_WIRE]) -> usize {
        if self.blind.passes >= BLIND_PASSES || now_us < self.blind.pause_until_us {
            return 0;
        }
        if self.blind.frames >= BLIND_FRAMES {
            self.blind.frames = 0;
            self.sync_us = now_us;
            return self.sync(now_us, wire);
        }
        let first = self.blind.next;
        let count = self.end.wrapping_sub(first).min(FIRST_CUT);
        if count == 0 {
            return 0;
        }
        let mut bytes = [0; MAX_GRANULES * GRANULE];
        for (ahead, place) in (0..count).zip(bytes.as_chunks_mut().0) {
            *place = self.granule(first.wrapping_add(ahead));
        }
        self.blind.next = first.wrapping_add(count);
        self.blind.frames = self.blind.frames.saturating_add(1);
        self.data(first, &bytes, count, wire)
    }

    /// Ends a blind pass: there will be nothing further before what was sent is on file.
    pub fn end_blind_pass(&mut self, now_us: u64) {
        if self.receiver.is_none()
            && self.blind.next == self.end
            && self.blind.passes < BLIND_PASSES
        {
            self.blind.passes = self.blind.passes.saturating_add(1);
            self.blind.next = self.base();
            self.blind.pause_until_us = now_us.saturating_add(BLIND_PAUSE_US);
        }
    }

    /// Nothing was acknowledged for too long: the oldest frame is sent again.
    fn ask_again(&mut self, now_us: u64) {
        self.progress_us = now_us;
        if self.cut == 1 {
            let longer = self.wait_us.saturating_add(self.wait_us / 2);
            self.wait_us = longer.clamp(WAIT_US.0, WAIT_US.1);
        }
        // Perhaps no frame of this length arrives at all: shorter ones soon.
        self.cut = (self.cut / 2).max(1);
        self.timed = None;
        self.adapt(0, Lost::Since);
        let on_the_way = self.unsent.wrapping_sub(self.acked);
        for ahead in 0..on_the_way.min(self.cut) {
            let at = place(self.acked.wrapping_add(ahead));
            let (Some(held), Some(sent_at)) = (self.held.get(at), self.sent_at.get_mut(at)) else {
                continue;
            };
            if !held && core::mem::take(sent_at) != 0 {
                self.lost = self.lost.saturating_add(1);
            }
        }
    }

    /// The granule that is to be sent next.
    fn next_granule(&self) -> Option<u32> {
        let on_the_way = self.unsent.wrapping_sub(self.acked);
        let again = (0..on_the_way)
            .map(|ahead| self.acked.wrapping_add(ahead))
            .find(|granule| self.lost > 0 && self.is_to_send(*granule));
        again.or_else(|| Some(self.unsent).filter(|granule| self.is_to_send(*granule)))
    }

    fn is_to_send(&self, granule: u32) -> bool {
        if reaches(self.end, granule) && reaches(self.unsent, granule) {
            let at = place(granule);
            return self.held.get(at) == Some(&false) && self.sent_at.get(at) == Some(&0);
        }
        let span = granule.wrapping_sub(self.acked);
        let elsewhere = self.lost.saturating_add(self.ahead);
        reaches(self.end, granule) && span < WINDOW && span.saturating_sub(elsewhere) < self.window
    }

    fn mark_sent(&mut self, granule: u32) {
        if granule == self.unsent {
            self.unsent = self.unsent.wrapping_add(1);
        } else {
            self.lost = self.lost.saturating_sub(1);
        }
        if let Some(sent_at) = self.sent_at.get_mut(place(granule)) {
            *sent_at = self.frame;
        }
    }

    /// A granule of the tape.
    fn granule(&self, granule: u32) -> [u8; GRANULE] {
        let mut out = [0; GRANULE];
        let mut entries = self.entries.iter();
        let Some(entry) = entries.find(|entry| reaches(entry.end(), granule)) else {
            return out;
        };
        let Some(index) = granule.wrapping_sub(entry.first).checked_sub(1) else {
            return entry.record.encode();
        };
        let sent = entry.bytes.as_ref().get(..entry.record.sent() as usize);
        let from = (index as usize).saturating_mul(GRANULE);
        let bytes = sent.and_then(|sent| sent.get(from..)).unwrap_or_default();
        out.iter_mut()
            .zip(bytes)
            .for_each(|(place, byte)| *place = *byte);
        out
    }
}

/// Whether `granule` comes before `end`.
fn reaches(end: u32, granule: u32) -> bool {
    (end.wrapping_sub(granule) as i32) > 0
}
