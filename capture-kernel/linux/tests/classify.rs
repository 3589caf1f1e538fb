//! The classifier on synthetic kernels, sound and damaged.

use std::collections::BTreeMap;

use kdraw_format::addr::{FRAME_SIZE, PhysAddr, PhysRange};
use kdraw_linux::classify::{Classifier, ClassifyError, Doubts, PageClass};
use kdraw_linux::memory::PhysMem;
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;
use kdraw_tests::kernel::{
    IMAGE_LEN, KERNEL, Kernel, Page, RAM, RAM_LEN, ROOT, SHAPES, VERSIONS, text_of,
};
use proptest::prelude::*;

/// Classes by page, and doubts; checks that the spans are the range.
fn classes(kernel: &Kernel, range: PhysRange) -> (Vec<PageClass>, Doubts) {
    let virt = kernel.virt();
    let classifier = Classifier::new(&virt, &kernel.info()).unwrap();
    spans_of(&classifier, &virt, kernel, range)
}

fn spans_of<M: PhysMem>(
    classifier: &Classifier,
    virt: &VirtMem<M>,
    kernel: &Kernel,
    range: PhysRange,
) -> (Vec<PageClass>, Doubts) {
    let mut spans = classifier.spans(virt, range);
    let mut next = range.start.pfn().0;
    let mut frames = Vec::new();
    let mut last = None;
    for span in spans.by_ref() {
        assert_eq!(span.first.0, next, "gap or overlap");
        assert!(span.frames > 0, "empty span");
        assert_ne!(last, Some(span.class), "spans of one class are one");
        last = Some(span.class);
        next += span.frames;
        frames.extend((0..span.frames).map(|_| span.class));
    }
    assert_eq!(next, range.end.0.div_ceil(FRAME_SIZE));
    assert_eq!(spans.next(), None);
    let per_page = (kernel.page_size() / FRAME_SIZE) as usize;
    // By page: every frame of a page is of its class.
    let ahead = (range.start.pfn().0 as usize) % per_page;
    let mut pages = Vec::new();
    for (number, class) in frames.iter().enumerate() {
        if number == 0 || (number + ahead).is_multiple_of(per_page) {
            pages.push(*class);
        }
        assert_eq!(pages.last(), Some(class));
    }
    (pages, spans.doubts())
}

/// Says where two lists of classes differ.
fn differences(found: &[PageClass], expected: &[PageClass], base: u64) -> String {
    let mut said = String::new();
    for (page, (found, expected)) in found.iter().zip(expected).enumerate() {
        if found != expected {
            said += &format!(
                "{}: {found:?}, not {expected:?}; ",
                page as i64 - base as i64
            );
        }
    }
    said
}

#[test]
fn every_class_is_told_on_every_version_and_granule() {
    for version in VERSIONS {
        for shape in SHAPES {
            let mut kernel = Kernel::new(version, shape);
            let expected = kernel.populate();
            let (found, doubts) = classes(&kernel, kernel.range());
            assert_eq!(
                differences(&found, &expected, kernel.base()),
                "",
                "{} {shape:?}",
                version.name
            );
            assert_eq!(found.len(), expected.len());
            assert_eq!(doubts, Doubts::default(), "{} {shape:?}", version.name);
        }
    }
}

/// What is done to a kernel; pages, from the [base](Kernel::base), that are kernel pages then (all others stay
/// as they were); the doubts.
type Damage = (&'static str, fn(&mut Kernel, u64), &'static [u64], Doubts);

const NO_DOUBTS: Doubts = Doubts {
    unmapped: 0,
    unreadable: 0,
    uninitialized: 0,
    order: 0,
    tail: 0,
    broken_block: 0,
};

#[test]
fn implausible_struct_pages_are_kernel_pages_and_counted() {
    let table: &[Damage] = &[
        (
            "a free page of an order that no zone has",
            |kernel, base| {
                let at = kernel.struct_pa(base + 16);
                kernel.ram.put_u64(at + 40, 11);
            },
            &[16],
            Doubts {
                order: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "a free page of an order beyond all bounds",
            |kernel, base| {
                let at = kernel.struct_pa(base + 16);
                kernel.ram.put_u64(at + 40, 0xffff_ffff_0000_0000);
            },
            &[16],
            Doubts {
                order: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "a free page of an order that its place cannot have",
            |kernel, base| {
                let at = kernel.struct_pa(base + 16);
                kernel.ram.put_u64(at + 40, 5);
            },
            &[16],
            Doubts {
                order: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "a free page that is referenced",
            |kernel, base| {
                let mapcount = kernel.version.buddy;
                kernel.put(base + 16, Page { mapcount, ..KERNEL });
            },
            &[16],
            Doubts {
                order: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "a free block with a page in use inside",
            |kernel, base| kernel.put(base + 5, KERNEL),
            &[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            Doubts {
                broken_block: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "a free block larger than it was, over pages in use",
            |kernel, base| {
                let at = kernel.struct_pa(base);
                kernel.ram.put_u64(at + 40, 6);
                kernel.put(base + 17, KERNEL);
            },
            &[17],
            Doubts {
                broken_block: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "a huge page with a page inside that is none of its tails",
            |kernel, base| kernel.put(base + 40, KERNEL),
            &[40, 41, 42, 43, 44, 45, 46, 47],
            Doubts {
                broken_block: 1,
                tail: 7,
                ..NO_DOUBTS
            },
        ),
        (
            "a huge page with a tail of another inside",
            |kernel, base| {
                let at = kernel.struct_pa(base + 47);
                kernel.ram.put_u64(at + 8, 0xffff_0000_1111_0001);
            },
            &[47],
            Doubts {
                broken_block: 1,
                tail: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "a head at a place where its order cannot be",
            |kernel, base| {
                let lru = kernel.flag("lru");
                kernel.compound(
                    base + 57,
                    1,
                    Page {
                        flags: lru,
                        ..KERNEL
                    },
                    false,
                );
            },
            // 57 was to tell the order of 56.
            &[56, 57, 58, 59],
            Doubts {
                order: 2,
                tail: 2,
                ..NO_DOUBTS
            },
        ),
        (
            "a head without tails",
            |kernel, base| {
                let flags = kernel.flag("lru") | kernel.flag("head");
                kernel.put(base + 18, Page { flags, ..KERNEL });
            },
            &[18],
            Doubts {
                order: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "a tail without head",
            |kernel, base| {
                kernel.put(
                    base + 19,
                    Page {
                        compound: 0x1001,
                        ..KERNEL
                    },
                )
            },
            &[19],
            Doubts {
                tail: 1,
                ..NO_DOUBTS
            },
        ),
        (
            "struct pages of ones",
            |kernel, base| {
                let at = kernel.struct_pa(base + 18);
                let len = 4 * kernel.version.struct_page as usize;
                kernel.ram.put(at, &vec![0xff; len]);
            },
            &[18, 19, 20, 21],
            Doubts {
                uninitialized: 4,
                ..NO_DOUBTS
            },
        ),
        (
            "ones inside of a huge page",
            |kernel, base| {
                let at = kernel.struct_pa(base + 46);
                let len = 2 * kernel.version.struct_page as usize;
                kernel.ram.put(at, &vec![0xff; len]);
            },
            &[46, 47],
            Doubts {
                broken_block: 1,
                uninitialized: 2,
                ..NO_DOUBTS
            },
        ),
        (
            "struct pages of zeros",
            |kernel, base| {
                let at = kernel.struct_pa(base + 18);
                let len = 4 * kernel.version.struct_page as usize;
                kernel.ram.put(at, &vec![0; len]);
            },
            &[18, 19, 20, 21],
            NO_DOUBTS,
        ),
    ];
    for (name, damage, kernel_pages, doubts) in table {
        for version in VERSIONS {
            // Its small huge pages are all of one order, so one damage fits all granules.
            for shape in [SHAPES[1], SHAPES[4], SHAPES[6]] {
                let mut kernel = Kernel::new(version, shape);
                let mut expected = kernel.populate();
                let base = kernel.base();
                damage(&mut kernel, base);
                for page in *kernel_pages {
                    expected[(base + page) as usize] = PageClass::Kernel;
                }
                let (found, counted) = classes(&kernel, kernel.range());
                let context = format!("{name}, {}, {shape:?}", version.name);
                assert_eq!(differences(&found, &expected, base), "", "{context}");
                assert_eq!(counted, *doubts, "{context}");
            }
        }
    }
}

#[test]
fn hugetlb_pages_whose_memmap_is_mapped_over_and_over_are_whole() {
    // 2 MiB: 512 struct pages, 8 pages of them, all mapped to the first.
    let version = VERSIONS[2];
    let mut kernel = Kernel::new(version, (12, 48, 48));
    let page = 2560;
    kernel.compound(page, 9, KERNEL, true);
    let first = kernel.struct_pa(page);
    for copy in 1..8 {
        let va = kernel.struct_va(page + copy * 64 + (RAM >> 12));
        kernel.map_page(va, first, 0x403);
    }
    let (found, doubts) = classes(&kernel, kernel.range());
    assert_eq!(doubts, NO_DOUBTS);
    let huge = &found[page as usize..page as usize + 512];
    assert!(huge.iter().all(|class| *class == PageClass::User));
    // The same is not believed of other compound pages.
    kernel.compound(page, 9, kernel.slab(), false);
    let (found, _) = classes(&kernel, kernel.range());
    assert_eq!(found[page as usize + 64], PageClass::Kernel);
}

#[test]
fn an_absent_or_absurd_key_makes_no_classifier() {
    let optional = [
        "PG_hwpoison",
        "OFFLINE",
        "UNACCEPTED",
        "HUGE",
        "hugetlb",
        "dtor",
    ];
    let others = [
        "OSRELEASE",
        "page.lru",
        "T1SZ",
        "compound_order",
        "_folio_order",
    ];
    for version in VERSIONS {
        let mut kernel = Kernel::new(version, (12, 48, 48));
        let expected = kernel.populate();
        let layout = kernel.layout();
        let keys = kernel.keys();
        let new = |keys: &BTreeMap<String, String>| {
            let text = text_of(keys);
            let virt = VirtMem::new(&kernel.ram, layout);
            Classifier::new(&virt, &Vmcoreinfo::new(text.as_bytes()))
        };
        assert!(new(&keys).is_ok());
        // Each key of pages left out.
        let of_layout = |key: &str| {
            [
                "PAGESIZE",
                "swapper",
                "_stext",
                "VA_BITS",
                "kimage",
                "PHYS_OFFSET",
            ]
            .iter()
            .any(|name| key.contains(name))
        };
        for key in keys.keys().filter(|key| !of_layout(key)) {
            let mut fewer = keys.clone();
            fewer.remove(key);
            let context = format!("{}, without {key}", version.name);
            let result = new(&fewer);
            let memmap = ["mem_section", "PHYSMEM_BITS", "vmemmap", "VMEMMAP"];
            let another = !version.name.contains("5.10");
            let spare = another && memmap.iter().any(|name| key.contains(name));
            // Without its length, the section table is taken to be of the usual form.
            let length = key == "LENGTH(mem_section)";
            let usual = length && version.name == "5.10";
            let mut harmless = others.iter().chain(&optional);
            if harmless.any(|name| key.contains(name)) || spare || usual {
                // Fewer classes, perhaps, but no wrong ones.
                let virt = kernel.virt();
                let (found, _) = spans_of(&result.unwrap(), &virt, &kernel, kernel.range());
                for (found, expected) in found.iter().zip(&expected) {
                    let kept = matches!(found, PageClass::Kernel | PageClass::Slab);
                    let broken = !expected.readable();
                    assert!(found == expected || kept || broken, "{context}");
                }
            } else {
                let error = result.map(|_| ()).expect_err(&context);
                let missing = matches!(error, ClassifyError::Missing(_));
                assert!(missing || length, "{context}: {error}");
            }
        }
        // Values that no kernel has.
        for (key, values) in [
            (
                "SIZE(page)",
                &["0", "48", "57", "136", "18446744073709551615"][..],
            ),
            ("OFFSET(page.flags)", &["4", "128", "18446744073709551608"]),
            ("OFFSET(page._mapcount)", &["50", "200"]),
            ("OFFSET(page.mapping)", &["0", "8", "40", "48", "1000"]),
            ("NUMBER(PG_lru)", &["64", "-1", "4294967296"]),
            ("NUMBER(PG_head_mask)", &["0", "3", "-1"]),
            (
                "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)",
                &["-1", "0", "4294967296"],
            ),
            (
                "LENGTH(zone.free_area)",
                &["0", "33", "18446744073709551615"],
            ),
        ] {
            for value in values {
                let mut wrong = keys.clone();
                *wrong.get_mut(key).unwrap() = (*value).into();
                let context = format!("{}, {key}={value}", version.name);
                let error = new(&wrong).map(|_| ()).expect_err(&context);
                assert!(
                    matches!(error, ClassifyError::Absurd(..) | ClassifyError::Overlap(_)),
                    "{context}: {error}"
                );
            }
        }
        // Values that some kernel has, but not this one: the image's struct pages tell.
        for size in [56, 64, 72, 80, 96, 128] {
            if size == version.struct_page {
                continue;
            }
            let mut wrong = keys.clone();
            *wrong.get_mut("SIZE(page)").unwrap() = format!("{size}");
            assert!(new(&wrong).is_err(), "{}, SIZE(page)={size}", version.name);
        }
        for key in [
            "SYMBOL(vmemmap)",
            "NUMBER(VMEMMAP_START)",
            "SYMBOL(mem_section)",
        ] {
            for value in ["0xffffffffffff0000", "0", "0xffff800000001000"] {
                let mut wrong = keys.clone();
                if let Some(place) = wrong.get_mut(key) {
                    let hex = value.trim_start_matches("0x");
                    *place = if key.contains("NUMBER") { value } else { hex }.into();
                    // There may be another source, and it is right.
                    if let Ok(classifier) = new(&wrong) {
                        let virt = kernel.virt();
                        let (found, _) = spans_of(&classifier, &virt, &kernel, kernel.range());
                        assert_eq!(found, expected, "{}, {key}={value}", version.name);
                    }
                }
            }
        }
    }
}

#[test]
fn memory_lost_anywhere_makes_kernel_pages_and_nothing_else() {
    for version in VERSIONS {
        for shape in [(12, 48, 48), (12, 52, 52), (14, 47, 47), (16, 52, 48)] {
            let mut kernel = Kernel::new(version, shape);
            let expected = kernel.populate();
            for at in kernel.ram.pages() {
                let lost = kernel.ram.lose(at).unwrap();
                let virt = kernel.virt();
                if let Ok(classifier) = Classifier::new(&virt, &kernel.info()) {
                    let range = kernel.range();
                    let (found, doubts) = spans_of(&classifier, &virt, &kernel, range);
                    let mut wrong = 0;
                    for (found, expected) in found.iter().zip(&expected) {
                        let kernel = matches!(found, PageClass::Kernel | PageClass::Reserved);
                        assert!(found == expected || kernel, "{at:#x} lost");
                        wrong += u64::from(found != expected);
                    }
                    assert!(wrong == 0 || doubts.total() > 0, "{at:#x} lost: {wrong}");
                }
                kernel.ram.restore(at, lost);
            }
        }
    }
}

#[test]
fn page_tables_that_loop_end() {
    for shape in SHAPES {
        for version in [VERSIONS[0], VERSIONS[6]] {
            let mut kernel = Kernel::new(version, shape);
            kernel.populate();
            let tables: Vec<_> = kernel.tables().collect();
            for table in tables.into_iter().chain([ROOT]) {
                // Every descriptor leads back to the root.
                for at in (table..table + kernel.page_size()).step_by(8) {
                    kernel.ram.put_u64(at, ROOT | 3);
                }
                let virt = kernel.virt();
                if let Ok(classifier) = Classifier::new(&virt, &kernel.info()) {
                    spans_of(&classifier, &virt, &kernel, kernel.range());
                }
            }
        }
    }
}

#[test]
fn outside_of_the_memmap_there_are_kernel_pages_only() {
    for version in VERSIONS {
        for shape in SHAPES {
            let kernel = Kernel::new(version, shape);
            // Before RAM, behind it, and around it.
            for (start, end, known) in [
                (0, RAM, 0),
                (RAM + RAM_LEN, RAM + (3 << 30), 0),
                (RAM - (1 << 30), RAM + RAM_LEN + (1 << 30), RAM_LEN),
            ] {
                let range = PhysRange {
                    start: PhysAddr(start),
                    end: PhysAddr(end),
                };
                let (found, doubts) = classes(&kernel, range);
                let pages = (end - start) >> shape.0;
                assert_eq!(found.len() as u64, pages);
                let context = format!("{} {shape:?} {start:#x}", version.name);
                // The last page of the memmap holds some struct pages more, of zeros.
                let slack = kernel.page_size() / version.struct_page + 1;
                let outside = pages - (known >> shape.0);
                let none = doubts.unmapped + doubts.unreadable;
                assert!(
                    none <= outside && none + slack >= outside,
                    "{context}: {doubts:?}"
                );
                assert_eq!(doubts.total(), none, "{context}");
            }
        }
    }
}

#[test]
fn the_memmap_of_a_range_is_where_its_struct_pages_are() {
    for version in VERSIONS {
        for shape in SHAPES {
            let kernel = Kernel::new(version, shape);
            let virt = kernel.virt();
            let classifier = Classifier::new(&virt, &kernel.info()).unwrap();
            let found = classifier.memmap(&virt, kernel.range()).unwrap();
            let number = RAM >> shape.0;
            assert_eq!(found.first.0, kernel.struct_va(number));
            let end = kernel.struct_va(number + kernel.pages());
            assert_eq!(found.last.0, end - 1, "{} {shape:?}", version.name);
            let empty = PhysRange {
                start: PhysAddr(RAM),
                end: PhysAddr(RAM),
            };
            assert_eq!(classifier.memmap(&virt, empty), None);
        }
    }
}

#[test]
fn empty_and_crooked_ranges_are_covered() {
    let mut kernel = Kernel::new(VERSIONS[2], (16, 48, 48));
    kernel.populate();
    let virt = kernel.virt();
    let classifier = Classifier::new(&virt, &kernel.info()).unwrap();
    for (start, end, frames) in [
        (RAM, RAM, 0),
        (RAM + 8192, RAM, 0),
        (RAM, RAM + 1, 1),
        (RAM + 4096, RAM + 8192, 1),
        (RAM + 4097, RAM + 8193, 2),
        (RAM + 61440, RAM + 69632, 2),
        (u64::MAX - 4096, u64::MAX, 2),
    ] {
        let range = PhysRange {
            start: PhysAddr(start),
            end: PhysAddr(end),
        };
        let spans: Vec<_> = classifier.spans(&virt, range).collect();
        let total: u64 = spans.iter().map(|span| span.frames).sum();
        assert_eq!(total, frames, "{start:#x} {end:#x} {spans:?}");
        if let Some(span) = spans.first() {
            assert_eq!(span.first, PhysAddr(start).pfn());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_struct_pages_are_covered_exactly_once(
        version in 0..VERSIONS.len(),
        shape in 0..SHAPES.len(),
        noise in proptest::collection::vec((any::<u16>(), any::<u64>(), 0u8..6), 1..400),
        start in 0..RAM_LEN / 2,
        len in 0..RAM_LEN,
    ) {
        let mut kernel = Kernel::new(VERSIONS[version], SHAPES[shape]);
        kernel.populate();
        let base = kernel.base();
        let words = (kernel.pages() - base) * kernel.version.struct_page / 8;
        for (at, value, kind) in noise {
            let flags = [
                kernel.flag("head"),
                kernel.flag("lru"),
                kernel.version.buddy as u32 as u64,
                value % 24,
                value,
                value << 32 | 0xffff_ffff,
            ];
            let at = kernel.struct_pa(base) + u64::from(at) % words * 8;
            kernel.ram.put_u64(at, flags[usize::from(kind)]);
        }
        let range = PhysRange {
            start: PhysAddr(RAM + start),
            end: PhysAddr(RAM + (start + len).min(RAM_LEN)),
        };
        let (found, doubts) = classes(&kernel, range);
        prop_assert!(doubts.total() <= 2 * found.len() as u64);
        // The image is the kernel's, whatever else is overwritten.
        for (page, class) in found.iter().enumerate() {
            let at = RAM + start + page as u64 * kernel.page_size();
            if at + kernel.page_size() <= RAM + IMAGE_LEN {
                prop_assert_eq!(*class, PageClass::Reserved);
            }
        }
    }
}
