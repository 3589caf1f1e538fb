//! Proof before the crash: what a dump of this machine would hold, whether the running kernel
//! agrees, how large the dump becomes, and how long it takes.

use std::time::{Duration, Instant};

use kdraw_format::addr::{FRAME_SIZE, KernelVirtAddr, PhysRange};
use kdraw_format::chunk::Codec;
use kdraw_linux::classify::{Classifier, DumpLevel, PageClass};
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::live::census::{self, Census, Comparison, LOOKS, overlap};
use crate::live::kcore::Kcore;
use crate::live::meminfo::{MemInfo, Totals};
use crate::live::packing::{Frames, Packing};
use crate::live::page_flags::PageFlags;
use crate::load::options::DumpOptions;
use crate::system::System;

/// Bytes of a dump that are no pages: black box, notes, log, index. About.
const BESIDE_PAGES: u64 = 1 << 20;
/// The same of a literally raw core: headers and notes.
const BESIDE_PLAIN_PAGES: u64 = 128 << 10;

/// Whether the kernel sees its pages as the filter does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Agrees,
    /// It does not: the filter must not be used on this kernel.
    Disagrees,
    /// Nobody could be asked.
    NotPossible,
}

/// What the comparison came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// The outcome.
    pub verdict: Verdict,
    /// What it rests on, for people.
    pub detail: String,
    /// Pages that were compared with /proc/kpageflags.
    pub compared: u64,
    /// Pages that would be left out and are something else, at each look.
    pub mistaken: [u64; LOOKS],
    /// How many of them may be left at the last look.
    pub allowed: u64,
}

impl Proof {
    /// A proof that could not be made.
    pub fn not_possible(why: impl std::fmt::Display) -> Self {
        Self {
            verdict: Verdict::NotPossible,
            detail: why.to_string(),
            compared: 0,
            mistaken: [0; LOOKS],
            allowed: 0,
        }
    }

    /// The level that the dump is to have where `wanted` was asked for.
    ///
    /// Where the filter is wrong, no page is left out. The classes of which the kernel says the
    /// same are not left out either: all of them are told by the same few offsets, so a class
    /// that is right beside one that is wrong is right by luck, and may not be at the panic.
    ///
    /// Where nobody could be asked, the level stays. Many a board's kernel has no /proc/kcore, and
    /// level 0 may not fit where level 31 does. The payload still tries the filter on the kernel's
    /// own image ([`Classifier::new`]), and keeps whatever it cannot tell for certain.
    pub fn level(&self, wanted: DumpLevel) -> DumpLevel {
        match self.verdict {
            Verdict::Disagrees => DumpLevel::ALL_PAGES,
            Verdict::Agrees | Verdict::NotPossible => wanted,
        }
    }

    fn of(comparison: &Comparison) -> Self {
        let (left, allowed) = (comparison.persistent(), comparison.allowed());
        let verdict = if left <= allowed {
            Verdict::Agrees
        } else {
            Verdict::Disagrees
        };
        Self {
            verdict,
            detail: format!(
                "{} pages compared with /proc/kpageflags, {left} differ (allowed: {allowed})",
                comparison.pages
            ),
            compared: comparison.pages,
            mistaken: comparison.mistaken,
            allowed,
        }
    }

    /// Without the kernel's view of each page, its totals are all that there is.
    fn of_totals(census: &Census, meminfo: Option<&MemInfo>, why: &Error) -> Self {
        let mut this = Self::not_possible(why);
        match meminfo {
            Some(meminfo) if census.is_whole() => {
                match meminfo.contradicts(&census.totals(), census.ram) {
                    Some(contradiction) => {
                        this.verdict = Verdict::Disagrees;
                        this.detail = format!("{why}; and {contradiction}");
                    }
                    None => this.detail = format!("{why}; the totals are as in /proc/meminfo"),
                }
            }
            _ => {}
        }
        this
    }
}

/// A class of pages.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ClassRow {
    /// Its name.
    pub class: &'static str,
    /// Pages of the kernel's size.
    pub pages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether they are kept at this level.
    pub kept: bool,
    /// Pages of this class by /proc/kpageflags.
    pub by_kernel: Option<u64>,
}

/// Everything that is known about a dump that was not made yet. Counts are of what was looked at;
/// sizes and times are of the whole machine.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// The level that the dump is to have.
    pub level: u8,
    /// Bytes of RAM.
    pub ram: u64,
    /// Bytes of it that were looked at.
    pub looked_at: u64,
    /// The kernel's page size, in bytes.
    pub page_size: u64,
    /// Its pages by class.
    pub classes: Vec<ClassRow>,
    /// Totals of the classes that /proc/meminfo has totals of.
    pub totals: Totals,
    /// The kernel's totals.
    pub meminfo: Option<MemInfo>,
    /// Which of them is far from the filter's. Where page by page was compared, that proof counts.
    pub meminfo_contradicts: Option<String>,
    /// Pages that are kept because something about them was implausible, by reason.
    pub doubts: Vec<(&'static str, u64)>,
    /// Pages that are kept though the kernel calls them something that may be left out.
    pub kept_needlessly: u64,
    /// Whether the kernel agrees.
    pub proof: Proof,
    /// Bytes of the pages that are kept.
    pub kept_bytes: u64,
    /// Bytes of those of them that are one byte over and over, and take no room.
    pub filled_bytes: u64,
    /// Bytes that the dump takes. About; at the most where no sample could be packed.
    pub dump_bytes: u64,
    /// Seconds in which the CPUs pack it. About.
    pub packing_s: f64,
    /// CPUs that this was reckoned with.
    pub cpus: u64,
    /// Seconds that the estimate itself took.
    pub took_s: f64,
}

/// What an estimate is made for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Which pages.
    pub options: DumpOptions,
    /// How packed.
    pub codec: Codec,
    /// CPUs that will work.
    pub cpus: u64,
    /// The partition holds a literally raw core.
    pub plain: bool,
}

impl Estimate {
    /// Looks at the running kernel's `ranges`.
    ///
    /// # Errors
    /// [`Error::NotTold`] and [`Error::Content`] if its memory cannot be read, through /proc/kcore:
    /// no estimate and no proof is possible then.
    pub fn of(system: &System, ranges: &[PhysRange], request: &Request) -> Result<Self, Error> {
        let began = Instant::now();
        let kcore = Kcore::open(system)?;
        let info = kcore.vmcoreinfo().ok_or(Error::Content {
            path: system.path("/proc/kcore"),
            found: "no VMCOREINFO".to_owned(),
            expected: "a note with it",
        })?;
        let meminfo = MemInfo::read(system);
        let prepared = KernelLayout::from_vmcoreinfo(&info)
            .map_err(|error| error.to_string())
            .and_then(|layout| {
                let virt = VirtMem::new(&kcore, layout);
                let classifier = Classifier::new(&virt, &info);
                let classifier = classifier.map_err(|error| error.to_string())?;
                Ok((virt, classifier))
            });
        let (census, proof, page_size, known) = match &prepared {
            Ok((virt, classifier)) => {
                let (census, proof) = look(system, classifier, virt, ranges, meminfo.as_ref());
                let known = known_reserved(virt, classifier, &info, ranges);
                (census, proof, census::page_size(virt), known)
            }
            Err(why) => {
                let why = format!("{why}; every page will be dumped");
                let census = Census::unseen(ranges);
                (census, Proof::not_possible(why), FRAME_SIZE, Vec::new())
            }
        };
        let level = proof.level(request.options.level);
        let mut packed = Packed::default();
        for (class, frames) in census.kept(level) {
            let readable = match proof.verdict {
                _ if request.plain => Vec::new(),
                // Where the filter is wrong, nobody knows which pages can be read.
                Verdict::Disagrees => Vec::new(),
                Verdict::Agrees | Verdict::NotPossible => census.readable(class, &known),
            };
            packed.add(&Packing::try_on(&kcore, &readable, request.codec), frames);
        }
        let beside = match request.plain {
            true => BESIDE_PLAIN_PAGES,
            false => BESIDE_PAGES,
        };
        let cpus = request.cpus.max(1);
        Ok(Self {
            level: level.bits(),
            ram: census.ram,
            looked_at: census.looked_at,
            page_size,
            classes: census.rows(level, page_size),
            totals: census.totals(),
            meminfo_contradicts: meminfo
                .filter(|_| census.is_whole())
                .and_then(|meminfo| meminfo.contradicts(&census.totals(), census.ram)),
            meminfo,
            doubts: census.doubts.by_reason().to_vec(),
            kept_needlessly: census.comparison.map_or(0, |found| found.kept_needlessly),
            proof,
            kept_bytes: packed.frames.saturating_mul(FRAME_SIZE),
            filled_bytes: packed.filled.saturating_mul(FRAME_SIZE),
            dump_bytes: packed.bytes.saturating_add(beside),
            packing_s: packed.time.as_secs_f64() / cpus as f64,
            cpus,
            took_s: began.elapsed().as_secs_f64(),
        })
    }
}

/// What packing all that is kept would come to.
#[derive(Default)]
struct Packed {
    frames: u64,
    filled: u64,
    bytes: u64,
    time: Duration,
}

impl Packed {
    fn add(&mut self, sample: &Packing, frames: u64) {
        self.frames = self.frames.saturating_add(frames);
        self.filled = self.filled.saturating_add(sample.filled_in(frames));
        self.bytes = self.bytes.saturating_add(sample.bytes_for(frames));
        self.time = self.time.saturating_add(sample.time_for(frames));
    }
}

fn look(
    system: &System,
    classifier: &Classifier,
    virt: &VirtMem<&Kcore>,
    ranges: &[PhysRange],
    meminfo: Option<&MemInfo>,
) -> (Census, Proof) {
    let compared = PageFlags::open(system).and_then(|mut flags| {
        Census::take(classifier, virt, ranges, Some(&mut flags))
            .map_err(Error::io("read", system.path("/proc/kpageflags")))
    });
    match compared {
        Ok(census) => {
            let proof = match &census.comparison {
                Some(comparison) => Proof::of(comparison),
                None => Proof::not_possible("nothing was compared"),
            };
            (census, proof)
        }
        Err(why) => {
            let census = Census::take(classifier, virt, ranges, None).unwrap_or_default();
            let proof = Proof::of_totals(&census, meminfo, &why);
            (census, proof)
        }
    }
}

/// Where the pages lie that Linux itself had reserved, and reads and writes: image and memmap.
///
/// Firmware reserves pages too, and a board may answer a read of those with an abort, which kills
/// this healthy system. (The payload survives it.) They are never read here.
fn known_reserved(
    virt: &VirtMem<&Kcore>,
    classifier: &Classifier,
    info: &Vmcoreinfo<'_>,
    ranges: &[PhysRange],
) -> Vec<PhysRange> {
    let mut known: Vec<PhysRange> = virt.image(info).into_iter().collect();
    for memmap in ranges
        .iter()
        .filter_map(|range| classifier.memmap(virt, *range))
    {
        let mut at = memmap.first.0;
        while let Ok((start, len)) = virt.translate(KernelVirtAddr(at)) {
            let left = memmap.last.0.saturating_sub(at).saturating_add(1);
            let piece = PhysRange::with_len(start, len.min(left));
            match (known.last_mut(), piece) {
                (Some(last), Some(piece)) if last.end == piece.start => last.end = piece.end,
                (_, piece) => known.extend(piece),
            }
            match at.checked_add(len).filter(|next| *next <= memmap.last.0) {
                Some(next) if len > 0 => at = next,
                _ => break,
            }
        }
    }
    known.sort_by_key(|range| range.start);
    known
}

impl Census {
    /// Whether all RAM was looked at.
    fn is_whole(&self) -> bool {
        self.looked_at >= self.ram
    }

    /// The classes that are kept, with the frames that the whole machine has of each.
    fn kept(&self, level: DumpLevel) -> impl Iterator<Item = (PageClass, u64)> {
        PageClass::ALL
            .into_iter()
            .filter(move |class| !class.dropped_at(level))
            .map(|class| (class, self.bytes(&[class]) / FRAME_SIZE))
    }

    /// Runs of frames of `class` that can be read: of the reserved ones only those that are
    /// `known`.
    fn readable(&self, class: PageClass, known: &[PhysRange]) -> Vec<Frames> {
        // On kernels where nothing tells reserved pages they are among the kernel's.
        let told = self.frames.get(PageClass::Reserved as usize) != Some(&0);
        let only_known = class == PageClass::Reserved || class == PageClass::Kernel && !told;
        let spans = self.spans.iter().filter(|span| span.class == class);
        let ranges = spans.filter_map(|span| {
            let len = span.frames.saturating_mul(FRAME_SIZE);
            PhysRange::with_len(span.first.addr()?, len)
        });
        let frames = |range: PhysRange| (range.start.pfn().0, range.len() / FRAME_SIZE);
        if only_known {
            let known =
                ranges.flat_map(|range| known.iter().filter_map(move |k| overlap(k, &range)));
            known.map(frames).collect()
        } else {
            ranges.map(frames).collect()
        }
    }

    /// What was found, for the whole machine.
    fn scaled(&self, bytes: u64) -> u64 {
        let whole = u128::from(bytes).saturating_mul(self.ram.into());
        let scaled = whole.checked_div(self.looked_at.into()).unwrap_or(0);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    fn bytes(&self, classes: &[PageClass]) -> u64 {
        let counts = classes
            .iter()
            .filter_map(|class| self.frames.get(*class as usize));
        let frames = counts.fold(0u64, |sum, frames| sum.saturating_add(*frames));
        self.scaled(frames.saturating_mul(FRAME_SIZE))
    }

    fn totals(&self) -> Totals {
        Totals {
            free: self.bytes(&[PageClass::Free]),
            cache: self.bytes(&[PageClass::Cache, PageClass::CachePrivate]),
            user: self.bytes(&[PageClass::User]),
        }
    }

    fn rows(&self, level: DumpLevel, page_size: u64) -> Vec<ClassRow> {
        PageClass::ALL
            .into_iter()
            .zip(self.frames)
            .map(|(class, frames)| {
                let bytes = frames.saturating_mul(FRAME_SIZE);
                let by_kernel = self.comparison.as_ref();
                ClassRow {
                    class: class.name(),
                    pages: bytes.checked_div(page_size).unwrap_or(0),
                    bytes,
                    kept: !class.dropped_at(level),
                    by_kernel: by_kernel
                        .and_then(|found| found.by_kernel.get(class as usize).copied()),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kdraw_format::addr::{Pfn, PhysAddr};
    use kdraw_linux::classify::Span;

    #[test]
    fn what_firmware_may_have_reserved_is_not_read() {
        use PageClass::{Kernel, Reserved, Slab};
        let mut census = Census::default();
        for (first, frames, class) in [
            (0, 10, Reserved),
            (10, 5, Kernel),
            (15, 5, Slab),
            (25, 5, Kernel),
        ] {
            census.frames[class as usize] += frames;
            census.spans.push(Span {
                first: Pfn(first),
                frames,
                class,
            });
        }
        let frames = |first: u64, end: u64| PhysRange {
            start: PhysAddr(first * FRAME_SIZE),
            end: PhysAddr(end * FRAME_SIZE),
        };
        let known = [frames(2, 4), frames(8, 12)];
        let read = |census: &Census, class| census.readable(class, &known);
        assert_eq!(read(&census, Reserved), [(2, 2), (8, 2)]);
        assert_eq!(read(&census, Kernel), [(10, 5), (25, 5)]);
        assert_eq!(read(&census, Slab), [(15, 5)]);
        // No reserved page is told: the kernel's may be some.
        census.frames[Reserved as usize] = 0;
        assert_eq!(read(&census, Kernel), [(10, 2)]);
        assert_eq!(read(&census, Slab), [(15, 5)]);
    }
}
