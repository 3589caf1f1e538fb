//! Which pages of a kernel go into a dump, and as what; and that every page that is the kernel's
//! is there however the kernel is damaged.

use kdraw_format::addr::FRAME_SIZE;
use kdraw_format::chunk::{Class, Codec};
use kdraw_format::layout::Superblock;
use kdraw_format::walk::{Step, WALK_BUFFER, Walk};
use kdraw_linux::classify::{Classifier, DumpLevel, PageClass};
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;
use kdraw_pipeline::assembly::{Assembly, Recipe};
use kdraw_pipeline::crew::Nobody;
use kdraw_pipeline::dump::{Dump, Ending, choose_slot};
use kdraw_pipeline::lz4::{Portable, Table};
use kdraw_pipeline::marks::Marks;
use kdraw_pipeline::partition::Partition;
use kdraw_pipeline::ports::Clock as _;
use kdraw_pipeline::task::{Scratch, Task};
use kdraw_pipeline::worth::{Census, Evidence, Judge, kept_at};
use kdraw_tests::disk::{Bytes, FakeClock, FakeDisk, buffers, target};
use kdraw_tests::kernel::{KERNEL, Kernel, Page, RAM, ROOT, SHAPES, VERSIONS};

const START: u64 = 1 << 20;

/// A dump of the kernel's memory at level 31, as the payload makes it: of each page of RAM the
/// class that it is dumped as, if it is. Checks that no frame is there twice, and that the frames
/// of a page go together.
fn dumped(kernel: &Kernel) -> Vec<Option<Class>> {
    let superblock = Superblock::new([0x5a; 16], START, 8 << 20, 1, false).unwrap();
    let mut disk = FakeDisk::signed(START + superblock.partition_len, &superblock);
    let clock = FakeClock::new(1);
    let mut partition =
        Partition::open(&mut disk, &clock, &target(&superblock), buffers(4)).unwrap();
    let (slot, old) = choose_slot(&mut partition).unwrap().unwrap();
    let mut dump = Dump::begin(&mut partition, slot, &old, [1; 16], 31).unwrap();

    let info = Vmcoreinfo::new(kernel.text.as_bytes());
    let virt = KernelLayout::from_vmcoreinfo(&info).map(|layout| VirtMem::new(&kernel.ram, layout));
    let ranges = [kernel.range()];
    let judged = virt.as_ref().ok().and_then(|virt| {
        let judge = Judge {
            classifier: Classifier::new(virt, &info).ok()?,
            virt,
            info: &info,
        };
        let census = Census::take(&judge, &ranges);
        Some((judge, census))
    });
    let (mut raw, mut table) = (Vec::new(), Table::new());
    let mut scratch = Scratch {
        raw: &mut raw,
        table: &mut table,
        deflater: None,
    };
    let mut work = |task: &mut Task| task.run::<Portable>(&mut scratch, &kernel.ram);
    let mut nobody = Nobody;
    let recipe = Recipe {
        codec: Codec::Raw,
        deadline: clock.deadline(u64::MAX),
    };
    let mut assembly = Assembly::new(&mut dump, &mut nobody, &mut work, recipe);
    let mut marks = vec![0; Marks::len(&ranges)];
    let marks = Marks::new(&ranges, &mut marks);
    assert!(marks.is_some());
    let evidence = Evidence {
        ranges: &ranges,
        judged,
    };
    evidence
        .give(&mut assembly, kept_at(DumpLevel::KERNEL), marks)
        .unwrap();
    assembly.finish().unwrap().unwrap();
    let header = dump.close(&Ending::default()).unwrap();

    let mut frames = vec![None; (ranges[0].len() / FRAME_SIZE) as usize];
    let place = superblock.slot(0).unwrap();
    let mut walk = Walk::new(Bytes(disk.partition_bytes()), &place, &header);
    let mut buffer = vec![0; WALK_BUFFER];
    while let Some(step) = walk.step(&mut buffer) {
        let Step::Chunk { header, chunk, .. } = step else {
            panic!("{step:?} in a whole dump");
        };
        for run in header.runs(chunk).flatten() {
            let first = (run.first.0 - RAM / FRAME_SIZE) as usize;
            for frame in &mut frames[first..first + run.frames as usize] {
                assert_eq!(frame.replace(run.class), None, "a frame is there twice");
            }
        }
    }
    assert!(walk.trailer_seen());
    let pages = frames.chunks_exact((kernel.page_size() / FRAME_SIZE) as usize);
    pages
        .map(|frames| {
            assert!(frames.iter().all(|class| *class == frames[0]));
            frames[0]
        })
        .collect()
}

#[test]
fn kernel_pages_are_dumped_as_what_they_are() {
    for shape in SHAPES {
        let mut kernel = Kernel::new(VERSIONS[6], shape);
        let mut truth = kernel.populate();
        // A stack: two pages apart, mapped in a row; then one that is also the user's.
        let (base, page) = (kernel.base(), kernel.page_size());
        let vmalloc = kernel.image_va() + (1 << 30);
        for (number, of) in [64, 100, 18].into_iter().enumerate() {
            kernel.map(
                vmalloc + number as u64 * page,
                RAM + (base + of) * page,
                page,
            );
        }
        kernel.text += &format!(
            "NUMBER(VMALLOC_START)=0x{vmalloc:x}\nNUMBER(VMALLOC_END)=0x{:x}\n",
            vmalloc + (1 << 24)
        );
        let mut expected: Vec<_> = truth
            .drain(..)
            .map(|class| match class {
                PageClass::Kernel | PageClass::Reserved => Some(Class::Kernel),
                PageClass::Slab => Some(Class::KernelData),
                _ => None,
            })
            .collect();
        for of in [64, 100] {
            expected[(base + of) as usize] = Some(Class::KernelData);
        }
        for table in kernel.tables().chain([ROOT]) {
            expected[((table - RAM) >> shape.0) as usize] = Some(Class::KernelCore);
        }
        let found = dumped(&kernel);
        for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{shape:?}, page {number}");
        }
        assert_eq!(found.len(), expected.len());
    }
}

/// What is done to a kernel, by name.
type Damage = (&'static str, fn(&mut Kernel));

/// Replaces the value of a key; it must be there.
fn set(kernel: &mut Kernel, key: &str, value: &str) {
    let old = kernel.keys()[key].clone();
    let (old, new) = (format!("{key}={old}\n"), format!("{key}={value}\n"));
    kernel.text = kernel.text.replace(&old, &new);
}

const DAMAGES: [Damage; 11] = [
    ("the root page table leads to itself", |kernel| {
        for at in (ROOT..ROOT + kernel.page_size()).step_by(8) {
            kernel.ram.put_u64(at, ROOT | 3);
        }
    }),
    ("half of the root page table leads to itself", |kernel| {
        for at in (ROOT..ROOT + kernel.page_size()).step_by(8) {
            if kernel.ram.u64(at) == 0 {
                kernel.ram.put_u64(at, ROOT | 3);
            }
        }
    }),
    ("the last page table leads to the first", |kernel| {
        let tables: Vec<_> = kernel.tables().collect();
        let last = tables[tables.len() - 1];
        for at in (last..last + kernel.page_size()).step_by(8) {
            kernel.ram.put_u64(at, tables[0] | 3);
        }
    }),
    ("page tables are lost", |kernel| {
        for table in kernel.tables().skip(1).step_by(2) {
            kernel.ram.lose(table);
        }
    }),
    (
        "free blocks and compound pages of absurd orders",
        |kernel| {
            let mapcount = kernel.version.buddy;
            for (number, private) in [11, 63, 64, u64::MAX, 0xffff_ffff_0000_0000]
                .into_iter()
                .enumerate()
            {
                let page = kernel.base() + 100 + number as u64;
                let refcount = 0;
                kernel.put(
                    page,
                    Page {
                        mapcount,
                        private,
                        refcount,
                        ..KERNEL
                    },
                );
            }
            let second = kernel.struct_pa(kernel.base() + 57);
            kernel.ram.put(second, &[0xfe; 48]);
        },
    ),
    ("struct pages of ones", |kernel| {
        let at = kernel.struct_pa(kernel.base() - 8);
        let len = 128 * kernel.version.struct_page as usize;
        kernel.ram.put(at, &vec![0xff; len]);
    }),
    ("another kernel's size of a struct page", |kernel| {
        let another = if kernel.version.struct_page == 64 {
            "56"
        } else {
            "64"
        };
        set(kernel, "SIZE(page)", another);
    }),
    ("an absurd size of a struct page", |kernel| {
        set(kernel, "SIZE(page)", "18446744073709551615");
    }),
    ("no flag that tells user memory", |kernel| {
        kernel.text = kernel.text.replace("NUMBER(PG_lru)", "NUMBER(PG_other)");
    }),
    ("no page size", |kernel| {
        kernel.text = kernel.text.replace("PAGESIZE", "OTHER");
    }),
    (
        "a vmalloc range of all there is, and a memmap without end",
        |kernel| {
            kernel.text += "NUMBER(VMALLOC_START)=0x0\nNUMBER(VMALLOC_END)=0xffffffffffffffff\n\
                        NUMBER(VMEMMAP_END)=0xffffffffffffffff\n\
                        NUMBER(MODULES_VADDR)=0x1\nNUMBER(MODULES_END)=0x0\n";
        },
    ),
];

#[test]
fn however_a_kernel_is_damaged_its_pages_are_dumped() {
    for (name, damage) in DAMAGES {
        for (version, shape) in [(0, 1), (2, 3), (6, 4), (8, 8)] {
            let mut kernel = Kernel::new(VERSIONS[version], SHAPES[shape]);
            let truth = kernel.populate();
            damage(&mut kernel);
            let found = dumped(&kernel);
            assert_eq!(found.len(), truth.len());
            for (number, (found, truth)) in found.iter().zip(&truth).enumerate() {
                let kernels = matches!(
                    truth,
                    PageClass::Kernel | PageClass::Reserved | PageClass::Slab
                );
                assert!(
                    !kernels || found.is_some(),
                    "{name}, {} {:?}: page {number}, {truth:?}, is not there",
                    kernel.version.name,
                    kernel.shape
                );
            }
        }
    }
}
