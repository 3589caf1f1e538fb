//! The raw ELF core of a plain partition: checked piece by piece against the checksums in the
//! slot's stream.

use kdraw_format::addr::{Pfn, PhysAddr, PhysRange};
use kdraw_format::trailer::CoreSums;
use kdraw_format::walk::ReadFailed;

use crate::core_file::CoreFile;
use crate::frames::FrameSet;
use crate::partition::DumpPartition;
use crate::scan::Scan;
use crate::source::SharedRead;

/// The longest piece that is read at once.
const MAX_PIECE: u64 = 64 << 20;

/// A window onto a partition: the core, offset 0 being its first byte.
#[derive(Clone, Copy, Debug)]
pub struct CoreWindow<'a> {
    partition: &'a DumpPartition,
    start: u64,
    len: u64,
}

impl<'a> CoreWindow<'a> {
    /// The core of `len` bytes; no longer than the partition has room.
    pub fn new(partition: &'a DumpPartition, len: u64) -> Self {
        let (start, room) = partition
            .superblock
            .plain_core()
            .map_or((0, 0), |(start, room)| (start.0, room));
        Self {
            partition,
            start,
            len: len.min(room),
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl SharedRead for CoreWindow<'_> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
        let failed = ReadFailed { offset };
        let end = offset.checked_add(into.len() as u64).ok_or(failed)?;
        if end > self.len {
            return Err(failed);
        }
        let at = self.start.checked_add(offset).ok_or(failed)?;
        self.partition.source.read_at(at, into)
    }

    fn size(&self) -> u64 {
        self.len
    }
}

/// What was found of a core.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong.
    pub problems: Vec<String>,
    /// Frames that are there.
    pub known: FrameSet,
    /// Frames that are damaged or cannot be read.
    pub missing: FrameSet,
    /// Byte ranges of the core that are damaged.
    pub damaged: Vec<(u64, u64)>,
}

/// The length of the core: as the slot's header says, or else its checksums.
pub fn core_len(scan: &Scan) -> u64 {
    let told = scan.core_sums.as_deref().map(CoreSums::decode);
    match told {
        Some(Ok(sums)) => sums.core_len(),
        _ => scan.header.plain_len,
    }
}

/// Checks the core of a plain partition.
pub fn check(
    partition: &DumpPartition,
    scan: &Scan,
    progress: &mut dyn FnMut(u64, u64),
) -> Checked {
    let mut checked = Checked::default();
    let window = CoreWindow::new(partition, core_len(scan));
    match scan.core_sums.as_deref().map(CoreSums::decode) {
        None => checked
            .problems
            .push("no checksums of the core: it cannot be checked".to_owned()),
        Some(Err(why)) => checked.problems.push(why.to_string()),
        Some(Ok(sums)) => pieces(&window, &sums, &mut checked, progress),
    }
    frames(window, scan, &mut checked);
    checked
}

fn pieces(
    window: &CoreWindow<'_>,
    sums: &CoreSums<'_>,
    checked: &mut Checked,
    progress: &mut dyn FnMut(u64, u64),
) {
    let (piece_len, core_len) = (sums.piece_len(), sums.core_len());
    if piece_len > MAX_PIECE {
        let problem = format!("the core's checksums are for pieces of {piece_len} bytes");
        return checked.problems.push(problem);
    }
    let mut buffer = vec![0; piece_len as usize];
    let (mut at, mut index) = (0u64, 0usize);
    while at < core_len {
        let end = at.saturating_add(piece_len).min(core_len);
        let piece = buffer
            .get_mut(..end.saturating_sub(at) as usize)
            .unwrap_or_default();
        let whole = window.read_at(at, piece).is_ok() && sums.matches(index, piece);
        if !whole {
            checked
                .problems
                .push(format!("core bytes {at:#x}-{end:#x}: damaged"));
            checked.damaged.push((at, end));
        }
        at = end;
        index = index.saturating_add(1);
        progress(at, core_len);
    }
}

/// Which frames are there: those that the core's header names, without those in damaged pieces,
/// behind the core's end, or told to be unreadable. Without the core's header: none.
fn frames(window: CoreWindow<'_>, scan: &Scan, checked: &mut Checked) {
    let header_whole = checked.damaged.first().is_none_or(|(from, _)| *from != 0);
    let core_end = window.len();
    let core = CoreFile::open(window);
    let Ok(core) = core else {
        checked
            .problems
            .push("the core's ELF header cannot be read".to_owned());
        checked.missing = scan.promised();
        return;
    };
    if !header_whole {
        checked
            .problems
            .push("the core's ELF header lies in a damaged piece".to_owned());
    }
    let mut all = FrameSet::default();
    for load in core.loads() {
        all.add_range(load.memory);
        let load_end = load.offset.saturating_add(load.memory.len());
        for (from, to) in checked.damaged.iter().chain([&(core_end, load_end)]) {
            let (from, to) = (
                from.saturating_sub(load.offset),
                to.saturating_sub(load.offset),
            );
            let start = load.memory.start.0.saturating_add(from);
            let end = load.memory.start.0.saturating_add(to);
            // A frame that is hit in part is lost.
            checked.missing.add_range(PhysRange {
                start: PhysAddr(start & !0xfff),
                end: PhysAddr(end.checked_next_multiple_of(4096).unwrap_or(end))
                    .min(load.memory.end),
            });
        }
    }
    all.tidy();
    for (first, end) in scan.promised().without(&all).ranges() {
        checked.missing.add(Pfn(*first), end.saturating_sub(*first));
    }
    checked.missing.tidy();
    checked.known = all.without(&checked.missing).without(&scan.unreadable);
}
