//! One chunk of pages: which frames it is to hold, and the computation that makes it.
//!
//! A task owns the buffer that it fills, and what it does is computation over evidence that is
//! only read: any CPU can do it. It copies the frames, tells those that fault or hold one repeated
//! byte, packs the others, and sums the result. Where in the stream the chunk will stand is decided
//! afterwards, so that tasks may end in any order.

use kdraw_format::addr::{FRAME_SIZE, Pfn};
use kdraw_format::chunk::{
    Body, ChunkError, Class, Codec, Content, MAX_RUNS, Run, data_offset, seal_body,
};
use kdraw_format::layout::BLOCK;
use kdraw_format::working_memory::{CHUNK_RAW, CHUNK_STORED};
use kdraw_linux::memory::PhysMem;

use crate::deflate::Deflater;
use crate::frames::filled_with;
use crate::lz4::{self, Table, Unaligned};
use crate::ports::{self, DmaBuffer};

/// The most frames in one task.
pub const TASK_FRAMES: usize = CHUNK_RAW as usize / FRAME;
const FRAME: usize = FRAME_SIZE as usize;
/// A chunk is stored raw unless packing saves one part in so many: unpacking costs time too.
const WORTH_PACKING: usize = 16;

// Even if every frame is a run of its own.
const _: () = assert!(TASK_FRAMES <= MAX_RUNS);
const _: () = assert!(BLOCK + TASK_FRAMES * FRAME <= CHUNK_STORED as usize);
const _: () = assert!(data_offset(TASK_FRAMES) <= BLOCK);

/// Consecutive frames of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first frame.
    pub first: Pfn,
    /// How many.
    pub frames: u64,
    /// What they are.
    pub class: Class,
}

impl Piece {
    /// Passes over frames at its start, as many as it has of `frames`.
    pub fn skip(&mut self, frames: u64) {
        let frames = frames.min(self.frames);
        self.first.0 = self.first.0.saturating_add(frames);
        self.frames = self.frames.saturating_sub(frames);
    }
}

/// Runs of at most [`TASK_FRAMES`] frames.
pub type Runs = heapless::Vec<Run, TASK_FRAMES>;

/// Which frames a chunk is to hold, and how.
#[derive(Clone, Debug)]
pub struct Order {
    pieces: Runs,
    frames: usize,
    codec: Codec,
}

impl Order {
    /// An order of no frames yet.
    pub const fn new(codec: Codec) -> Self {
        Self {
            pieces: Runs::new(),
            frames: 0,
            codec,
        }
    }

    /// How many frames it has.
    pub fn frames(&self) -> u64 {
        self.frames as u64
    }

    /// Whether it has no frame yet.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        self.frames >= TASK_FRAMES
    }

    /// Takes frames from the start of `piece` as long as there is room.
    pub fn take(&mut self, piece: &mut Piece) {
        let room = TASK_FRAMES.saturating_sub(self.frames);
        let frames = piece.frames.min(room as u64);
        append(
            &mut self.pieces,
            Run {
                first: piece.first,
                frames: frames as u32,
                content: Content::Stored,
                class: piece.class,
            },
        );
        self.frames = self.frames.saturating_add(frames as usize);
        piece.skip(frames);
    }
}

/// Appends a run, or makes the last one longer; false if there is no room for it.
pub(crate) fn append<const N: usize>(runs: &mut heapless::Vec<Run, N>, run: Run) -> bool {
    match runs.last_mut() {
        _ if run.frames == 0 => true,
        Some(last)
            if last.first.0.saturating_add(u64::from(last.frames)) == run.first.0
                && (last.content, last.class) == (run.content, run.class)
                && last.frames.checked_add(run.frames).is_some() =>
        {
            last.frames = last.frames.saturating_add(run.frames);
            true
        }
        _ => runs.push(run).is_ok(),
    }
}

/// What a CPU works with: room for [`CHUNK_RAW`] bytes of frames, and the compressors' memory.
pub struct Scratch<'s> {
    /// Frames as they are read.
    pub raw: &'s mut [u8],
    /// Where LZ4 saw bytes.
    pub table: &'s mut Table,
    /// What Deflate works in; without it, what was to be packed by it is packed by LZ4.
    pub deflater: Option<Deflater<'s>>,
}

/// What became of an order.
#[derive(Clone, Debug)]
pub struct Product {
    /// Its frames and what is told of them.
    pub runs: Runs,
    /// How the data is packed.
    pub codec: Codec,
    /// Bytes of data as stored, and as they are when unpacked.
    pub stored_len: usize,
    /// Bytes of data when unpacked.
    pub raw_len: usize,
    /// The chunk's body in the task's buffer; `None` if no frame has data.
    pub body: Option<Body>,
}

/// An order, the buffer for its chunk, and the outcome.
#[derive(Debug)]
pub struct Task {
    order: Order,
    /// Where the chunk is made; of [`CHUNK_STORED`] bytes. `None` once it was taken away.
    buffer: Option<DmaBuffer>,
    /// What was made; `None` before it was done.
    product: Option<Result<Product, ChunkError>>,
}

impl ports::Task for Task {
    type Order = Order;
    type Buffer = DmaBuffer;

    fn new(order: Order, buffer: DmaBuffer) -> Self {
        Self {
            order,
            buffer: Some(buffer),
            product: None,
        }
    }

    fn unused(&mut self) -> Option<DmaBuffer> {
        match &self.product {
            Some(Ok(product)) if product.body.is_none() => self.buffer.take(),
            _ => None,
        }
    }
}

impl Task {
    /// Does it.
    pub fn run<U: Unaligned>(&mut self, scratch: &mut Scratch<'_>, memory: &impl PhysMem) {
        let bytes = self.buffer.as_mut().map(|buffer| &mut *buffer.bytes);
        let bytes = bytes.unwrap_or_default();
        self.product = Some(match self.order.codec {
            Codec::Raw => store(&self.order, bytes, memory),
            Codec::Lz4 | Codec::Deflate => pack::<U>(&self.order, bytes, scratch, memory),
        });
    }

    /// The buffer, if it was not taken away, and what was made.
    ///
    /// # Errors
    /// [`ChunkError`] if the chunk did not fit the buffer, or was never made: defects both.
    pub fn done(self) -> Result<(Option<DmaBuffer>, Product), ChunkError> {
        let product = self.product.unwrap_or(Err(ChunkError::TooLarge))?;
        Ok((self.buffer, product))
    }
}

/// Makes a raw chunk: the frames are read to where they stay, behind a header of a whole block.
fn store(order: &Order, bytes: &mut [u8], memory: &impl PhysMem) -> Result<Product, ChunkError> {
    let mut runs = Runs::new();
    let place = bytes.get_mut(BLOCK..).ok_or(ChunkError::TooLarge)?;
    let len = gather(order, place, memory, &mut runs)?;
    product(bytes, BLOCK, runs, Codec::Raw, len, len)
}

/// Makes a compressed chunk, or a raw one of what does not shrink.
fn pack<U: Unaligned>(
    order: &Order,
    bytes: &mut [u8],
    scratch: &mut Scratch<'_>,
    memory: &impl PhysMem,
) -> Result<Product, ChunkError> {
    let mut runs = Runs::new();
    let len = gather(order, scratch.raw, memory, &mut runs)?;
    let raw = scratch.raw.get(..len).ok_or(ChunkError::TooLarge)?;
    let header_len = data_offset(runs.len());
    let place = bytes
        .get_mut(header_len..)
        .and_then(|place| place.get_mut(..len))
        .ok_or(ChunkError::TooLarge)?;
    let most = len.saturating_sub(len / WORTH_PACKING);
    let room = place.get_mut(..most).ok_or(ChunkError::TooLarge)?;
    let (codec, packed) = match &mut scratch.deflater {
        Some(deflater) if order.codec == Codec::Deflate => {
            (Codec::Deflate, deflater.compress::<U>(raw, room))
        }
        _ => (Codec::Lz4, lz4::compress::<U>(raw, room, scratch.table)),
    };
    match packed {
        Some(packed) => product(bytes, header_len, runs, codec, packed, len),
        None => {
            place.copy_from_slice(raw);
            product(bytes, header_len, runs, Codec::Raw, len, len)
        }
    }
}

fn product(
    bytes: &mut [u8],
    header_len: usize,
    runs: Runs,
    codec: Codec,
    stored_len: usize,
    raw_len: usize,
) -> Result<Product, ChunkError> {
    let body = match raw_len {
        0 => None,
        _ => Some(seal_body(bytes, header_len, stored_len)?),
    };
    Ok(Product {
        runs,
        codec,
        stored_len,
        raw_len,
        body,
    })
}

/// Reads the order's frames into the start of `into`, without gaps, but for those that fault or
/// hold one repeated byte; tells each one's fate in `runs` and returns the bytes read.
fn gather(
    order: &Order,
    into: &mut [u8],
    memory: &impl PhysMem,
    runs: &mut Runs,
) -> Result<usize, ChunkError> {
    let mut kept = 0usize;
    for piece in &order.pieces {
        for pfn in (piece.first.0..).map(Pfn).take(piece.frames as usize) {
            let end = kept.saturating_add(FRAME);
            let frame = into.get_mut(kept..end).ok_or(ChunkError::TooLarge)?;
            let content = if !read(memory, pfn, frame) {
                Content::Unreadable
            } else if let Some(byte) = filled_with(frame) {
                Content::Filled(byte)
            } else {
                kept = end;
                Content::Stored
            };
            // There is room: no more runs than frames.
            append(
                runs,
                Run {
                    first: pfn,
                    frames: 1,
                    content,
                    class: piece.class,
                },
            );
        }
    }
    Ok(kept)
}

fn read(memory: &impl PhysMem, pfn: Pfn, into: &mut [u8]) -> bool {
    pfn.addr().is_some_and(|at| memory.read(at, into).is_ok())
}
