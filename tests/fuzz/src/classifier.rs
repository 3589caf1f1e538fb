//! The classifier, and the walk of the kernel's page tables, on damaged kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};
use kdraw_linux::classify::Classifier;
use kdraw_linux::kernel_map::{Leaves, PageTables, VirtRange};
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;
use kdraw_tests::kernel::{Kernel, RAM_LEN, ROOT, SHAPES, VERSIONS, text_of};

use crate::Input;

/// A kernel's memory with changes.
struct Changed<'a> {
    kernel: &'a Kernel,
    words: BTreeMap<u64, u64>,
    lost: BTreeSet<u64>,
}

impl PhysMem for Changed<'_> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let end = at.0.wrapping_add(into.len() as u64);
        if at.0 > end
            || self
                .lost
                .range(at.0 / 4096..end.div_ceil(4096))
                .next()
                .is_some()
        {
            return Err(Unreadable { at });
        }
        self.kernel.ram.read(at, into)?;
        for (word, value) in self.words.range(at.0.saturating_sub(7)..end) {
            for (byte, value) in (*word..).zip(value.to_le_bytes()) {
                if let Some(inside) = byte.checked_sub(at.0)
                    && let Some(into) = into.get_mut(inside as usize)
                {
                    *into = value;
                }
            }
        }
        Ok(())
    }
}

/// A populated kernel of each version and shape, made when first needed.
fn kernel(version: usize, shape: usize) -> &'static Kernel {
    static KERNELS: [OnceLock<Kernel>; VERSIONS.len() * SHAPES.len()] =
        [const { OnceLock::new() }; VERSIONS.len() * SHAPES.len()];
    KERNELS[version * SHAPES.len() + shape].get_or_init(|| {
        let mut kernel = Kernel::new(VERSIONS[version], SHAPES[shape]);
        kernel.populate();
        kernel
    })
}

/// The classifier and the walk of the page tables on a kernel that the input chooses and changes.
///
/// The input: the version, the shape (a byte each), then changes, each a byte and what it takes:
///
/// | byte % 7 | change | takes |
/// |--|--|--|
/// | 0, 1 | a word of the struct pages of [`Kernel::populate`] | its number (u16), the value (u64) |
/// | 2 | a word of the page tables below the root | its number (u16), the value (u64) |
/// | 3 | a word of the root | its number (u16), the value (u64) |
/// | 4 | 4 KiB that cannot be read | a number (u16) |
/// | 5 | a value in VMCOREINFO | the key's number (u16), the length (u8), the value |
/// | 6 | a key less | its number (u16) |
pub(crate) fn classifier(data: &[u8]) {
    let mut input = Input(data);
    let version = usize::from(input.u8()) % VERSIONS.len();
    let shape = usize::from(input.u8()) % SHAPES.len();
    let kernel = kernel(version, shape);
    let tables: Vec<_> = kernel.tables().collect();
    let pages = kernel.ram.pages();
    let mut keys = kernel.keys();
    let mut memory = Changed {
        kernel,
        words: BTreeMap::new(),
        lost: BTreeSet::new(),
    };
    while !input.0.is_empty() {
        let kind = input.u8() % 7;
        let number = |input: &mut Input<'_>, count: u64| input.below(count);
        match kind {
            0 | 1 => {
                let first = kernel.struct_pa(kernel.base());
                let at = first + number(&mut input, 128 * kernel.version.struct_page / 8) * 8;
                memory.words.insert(at, input.u64());
            }
            2 => {
                let words = kernel.page_size() / 8;
                let at = number(&mut input, tables.len() as u64 * words);
                let table = tables[(at / words) as usize];
                memory.words.insert(table + at % words * 8, input.u64());
            }
            3 => {
                let at = ROOT + number(&mut input, 512) * 8;
                memory.words.insert(at, input.u64());
            }
            4 => {
                let page = number(&mut input, pages.len() as u64) as usize;
                memory.lost.insert(pages[page] / 4096);
            }
            _ => {
                let at = number(&mut input, keys.len().max(1) as u64) as usize;
                let Some(key) = keys.keys().nth(at).cloned() else {
                    continue;
                };
                if kind == 6 {
                    keys.remove(&key);
                } else {
                    let len = usize::from(input.u8()) % 24;
                    let (value, later) = input.0.split_at(input.0.len().min(len));
                    input.0 = later;
                    keys.insert(key, String::from_utf8_lossy(value).into_owned());
                }
            }
        }
    }
    let text = text_of(&keys);
    let info = Vmcoreinfo::new(text.as_bytes());
    let Ok(layout) = KernelLayout::from_vmcoreinfo(&info) else {
        return;
    };
    let virt = VirtMem::new(&memory, layout);
    if let Ok(classifier) = Classifier::new(&virt, &info) {
        // What was populated and what is around it; the rest of RAM costs time only.
        let (page, all) = (kernel.page_size(), kernel.range());
        let start = PhysAddr(all.start.0 + (kernel.base() - 32) * page);
        let end = PhysAddr(all.end.0.min(start.0 + 256 * page));
        check_spans(&classifier, &virt, PhysRange { start, end });
    }
    const LIMIT: u64 = 16;
    assert!(PageTables::new(&virt, LIMIT).count() as u64 <= LIMIT);
    let leaves = Leaves::new(&virt, VirtRange::image(&layout), LIMIT).count() as u64;
    assert!(leaves <= (LIMIT + 1) << (layout.page_shift - 3));
}

/// The spans of a range are the range, and no more pages are in doubt than there are.
pub(crate) fn check_spans<M: PhysMem>(
    classifier: &Classifier,
    virt: &VirtMem<M>,
    range: PhysRange,
) {
    let mut spans = classifier.spans(virt, range);
    let mut next = range.start.pfn().0;
    for span in spans.by_ref() {
        assert_eq!(span.first.0, next, "gap or overlap");
        assert_ne!(span.frames, 0, "empty span");
        next += span.frames;
    }
    assert_eq!(next, range.end.0 / FRAME_SIZE, "not the whole range");
    // A page may end a block and be in doubt itself.
    assert!(spans.doubts().total() <= 2 * RAM_LEN / FRAME_SIZE);
}
