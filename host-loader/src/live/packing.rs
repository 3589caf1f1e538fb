//! How small what is kept becomes, by packing a sample of it as the payload would.
//!
//! Each class is tried by itself, as each is a kind of its own and the payload's chunks have one
//! class each, nearly all. The sample is chunks of consecutive pages, evenly spread, read through /proc/kcore and
//! made by the payload's own [`Task`]. So the ratio is that of this memory, and the speed that of
//! this CPU. On three kernels of 1 GiB the dumps were 2 to 10 % smaller than this foretold.

use std::cell::Cell;
use std::time::{Duration, Instant};

use kdraw_format::addr::{FRAME_SIZE, Pfn, PhysAddr};
use kdraw_format::chunk::{Class, Codec, Content, data_offset};
use kdraw_format::layout::BLOCK;
use kdraw_format::working_memory::{CHUNK_RAW, CHUNK_STORED, DEFLATE};
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_pipeline::deflate::Deflater;
use kdraw_pipeline::lz4::{Portable, Table};
use kdraw_pipeline::ports::{DmaBuffer, Task as _};
use kdraw_pipeline::task::{Order, Piece, Product, Scratch, TASK_FRAMES, Task};

/// Chunks in a sample, at most: 24 MiB of pages.
const CHUNKS: u64 = 96;
/// The sample ends after this, however small it is.
const TIME: Duration = Duration::from_millis(400);
/// The sample is taken in passes, one of eight of its chunks after the other, each between those
/// before: wherever it ends, it is spread evenly.
const PASSES: [usize; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// Consecutive frames: the first, and how many.
pub type Frames = (u64, u64);

/// What a sample told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packing {
    /// Frames that were tried.
    pub frames: u64,
    /// Those of them that are one byte over and over: they take no room.
    pub filled: u64,
    /// Bytes of the chunks that the others make, headers included.
    pub stored: u64,
    /// Time that it took, without reading.
    pub time: Duration,
}

impl Packing {
    /// Packs a sample of `pages`, which are in order.
    pub fn try_on(memory: &impl PhysMem, pages: &[Frames], codec: Codec) -> Self {
        Self::try_within(TIME, memory, pages, codec)
    }

    fn try_within(time: Duration, memory: &impl PhysMem, pages: &[Frames], codec: Codec) -> Self {
        let orders = sample(pages, codec);
        let mut packer = Packer {
            memory: Timed {
                memory,
                reading: Cell::default(),
            },
            table: Box::new(Table::new()),
            deflate: vec![0; const { DEFLATE as usize / size_of::<u64>() }],
            raw: vec![0; CHUNK_RAW as usize],
            buffer: None,
            found: Self::default(),
        };
        let began = Instant::now();
        for pass in PASSES {
            for order in orders.iter().skip(pass).step_by(PASSES.len()) {
                if began.elapsed() > time {
                    break;
                }
                packer.pack(order);
            }
        }
        packer.found
    }

    /// The bytes that `frames` frames like the sample take; as they are if there was no sample.
    pub fn bytes_for(&self, frames: u64) -> u64 {
        match self.frames {
            0 => frames.saturating_mul(FRAME_SIZE),
            _ => self.share(self.stored, frames),
        }
    }

    /// How many of `frames` frames are filled.
    pub fn filled_in(&self, frames: u64) -> u64 {
        self.share(self.filled, frames)
    }

    /// The time that one CPU packs `frames` frames in.
    pub fn time_for(&self, frames: u64) -> Duration {
        let micros = u64::try_from(self.time.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.share(micros, frames))
    }

    fn share(&self, of: u64, frames: u64) -> u64 {
        let whole = u128::from(of).saturating_mul(frames.into());
        let share = whole.checked_div(self.frames.into()).unwrap_or(0);
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// Cuts runs of frames into chunks, as the payload does, and returns those of the sample.
fn sample(pages: &[Frames], codec: Codec) -> Vec<Order> {
    let frames = pages.iter().map(|(_, frames)| *frames);
    let frames = frames.fold(0, u64::saturating_add);
    let step = frames.div_ceil(TASK_FRAMES as u64).div_ceil(CHUNKS).max(1);
    let (mut sample, mut number) = (Vec::new(), 0u64);
    let mut order = Order::new(codec);
    let mut end = |order: &mut Order| {
        let order = std::mem::replace(order, Order::new(codec));
        if number.is_multiple_of(step) && !order.is_empty() {
            sample.push(order);
        }
        number = number.saturating_add(1);
    };
    for (first, frames) in pages {
        let mut piece = Piece {
            first: Pfn(*first),
            frames: *frames,
            class: Class::Kernel,
        };
        while piece.frames > 0 {
            order.take(&mut piece);
            if order.is_full() {
                end(&mut order);
            }
        }
    }
    end(&mut order);
    sample
}

/// Memory that tells how long it was read.
struct Timed<'m, M> {
    memory: &'m M,
    reading: Cell<Duration>,
}

impl<M: PhysMem> PhysMem for Timed<'_, M> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let began = Instant::now();
        let result = self.memory.read(at, into);
        let reading = self.reading.get().saturating_add(began.elapsed());
        self.reading.set(reading);
        result
    }
}

struct Packer<'m, M> {
    memory: Timed<'m, M>,
    table: Box<Table>,
    deflate: Vec<u64>,
    raw: Vec<u8>,
    buffer: Option<DmaBuffer>,
    found: Packing,
}

impl<M: PhysMem> Packer<'_, M> {
    fn pack(&mut self, order: &Order) {
        // A task's buffer lives for ever, as in the payload; there is one.
        let buffer = self.buffer.take().unwrap_or_else(|| DmaBuffer {
            bytes: vec![0; CHUNK_STORED as usize].leak(),
            device_addr: 0,
        });
        let mut scratch = Scratch {
            raw: &mut self.raw,
            table: &mut self.table,
            deflater: Deflater::new(&mut self.deflate),
        };
        let mut task = Task::new(order.clone(), buffer);
        let (began, read_before) = (Instant::now(), self.memory.reading.get());
        task.run::<Portable>(&mut scratch, &self.memory);
        let reading = self.memory.reading.get().saturating_sub(read_before);
        let working = began.elapsed().saturating_sub(reading);
        if let Ok((buffer, product)) = task.done() {
            self.buffer = buffer;
            self.found.add(&product, working);
        }
    }
}

impl Packing {
    fn add(&mut self, product: &Product, time: Duration) {
        for run in &product.runs {
            let frames = u64::from(run.frames);
            match run.content {
                Content::Unreadable => continue,
                Content::Filled(_) => self.filled = self.filled.saturating_add(frames),
                Content::Stored => {}
            }
            self.frames = self.frames.saturating_add(frames);
        }
        self.time = self.time.saturating_add(time);
        if product.body.is_some() {
            let len = data_offset(product.runs.len()).saturating_add(product.stored_len);
            let len = len.next_multiple_of(BLOCK);
            self.stored = self.stored.saturating_add(len as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames by number: odd ones are filled, every third is text, the others noise. Those of the
    /// first MiB cannot be read.
    struct Memory;

    impl PhysMem for Memory {
        fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
            if at.0 < 1 << 20 {
                return Err(Unreadable { at });
            }
            for (index, bytes) in into.chunks_mut(FRAME_SIZE as usize).enumerate() {
                let frame = at.pfn().0 + index as u64;
                let mut noise = frame.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                for (index, byte) in bytes.iter_mut().enumerate() {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    *byte = match frame {
                        odd if odd % 2 == 1 => 0x5a,
                        third if third % 3 == 0 => b"text "[index % 5],
                        _ => noise as u8,
                    };
                }
            }
            Ok(())
        }
    }

    #[test]
    fn a_sample_is_whole_chunks_evenly_spread() {
        let frames = |kept: &[Frames]| -> Vec<u64> {
            let orders = sample(kept, Codec::Raw);
            orders.iter().map(Order::frames).collect()
        };
        let full = TASK_FRAMES as u64;
        assert_eq!(frames(&[]), [0u64; 0]);
        assert_eq!(frames(&[(0, 3), (10, full), (9000, 1)]), [full, 4]);
        let many = frames(&[(0, 1), (2, 10 * CHUNKS * full - 1)]);
        assert_eq!(many, [full; CHUNKS as usize]);
    }

    #[test]
    fn filled_frames_take_no_room_and_noise_takes_all_of_its_own() {
        let kept = [(256, 6 * 64)];
        let found = Packing::try_within(Duration::MAX, &Memory, &kept, Codec::Lz4);
        assert_eq!((found.frames, found.filled), (6 * 64, 3 * 64));
        // Of the other half a third is text, which packs to nearly nothing.
        let noise = 2 * 64 * FRAME_SIZE;
        assert!(found.stored > noise && found.stored < noise + noise / 10);
        assert_eq!(found.filled_in(60_000), 30_000);
        let raw = Packing::try_within(Duration::MAX, &Memory, &kept, Codec::Raw);
        let headers = 6 * BLOCK as u64;
        assert_eq!(raw.stored, 3 * 64 * FRAME_SIZE + headers);
    }

    #[test]
    fn what_cannot_be_read_is_no_part_of_the_sample() {
        let found = Packing::try_within(Duration::MAX, &Memory, &[(0, 512)], Codec::Lz4);
        assert_eq!(found.frames, 256);
        let none = Packing::try_within(Duration::MAX, &Memory, &[(0, 100)], Codec::Lz4);
        assert_eq!((none.frames, none.bytes_for(5)), (0, 5 * FRAME_SIZE));
    }
}
