//! The walk of the kernel's page tables, on synthetic kernels, sound and damaged.

use std::collections::BTreeSet;

use kdraw_format::addr::{KernelVirtAddr, PhysAddr};
use kdraw_linux::kernel_map::{ImagePart, Leaves, PageTables, VirtRange, table_limit};
use kdraw_linux::translate::Mapping;
use kdraw_tests::kernel::{IMAGE_LEN, Kernel, RAM, RAM_LEN, ROOT, SHAPES, VERSIONS};

fn kernel(shape: usize) -> Kernel {
    Kernel::new(VERSIONS[6], SHAPES[shape])
}

#[test]
fn all_tables_and_all_pages_are_found() {
    for shape in 0..SHAPES.len() {
        let kernel = kernel(shape);
        let virt = kernel.virt();
        let limit = table_limit(virt.layout(), RAM_LEN);
        let mut walk = PageTables::new(&virt, limit);
        let found: Vec<_> = walk.by_ref().map(|table| table.0).collect();
        let unique: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(found.len(), unique.len());
        assert_eq!(unique, kernel.tables().collect(), "{:?}", kernel.shape);
        assert_eq!(walk.unreadable(), 0);

        let range = VirtRange::image(virt.layout());
        let mut next = (kernel.image_va(), RAM);
        for leaf in Leaves::new(&virt, range, limit) {
            let Mapping { va, pa, len } = leaf.mapping;
            assert_eq!((va.0, pa.0, len), (next.0, next.1, kernel.page_size()));
            assert!(leaf.is_image(virt.layout()));
            next = (next.0 + len, next.1 + len);
        }
        assert_eq!(next.1, RAM + IMAGE_LEN, "{:?}", kernel.shape);
    }
}

#[test]
fn a_range_is_walked_from_its_first_to_its_last_byte() {
    let mut kernel = kernel(1);
    let va = 0xffff_8123_4567_0000;
    kernel.map(va, RAM, 8 * 4096);
    // Around it, in the same table, and in the last page of all.
    kernel.map(u64::MAX - 4095, RAM + 0x8000, 4096);
    let virt = kernel.virt();
    for (first, last, pages) in [
        (va, va + 8 * 4096 - 1, 8),
        (va + 4096, va + 8191, 1),
        (va + 4095, va + 4096, 2),
        (va + 4096, va + 4095, 0),
        (va - 1, va - 1, 0),
        (u64::MAX - 8191, u64::MAX, 1),
        (0, 0xffff_0000_0000_0000, 0),
    ] {
        let range = VirtRange {
            first: KernelVirtAddr(first),
            last: KernelVirtAddr(last),
        };
        assert_eq!(Leaves::new(&virt, range, 100).count(), pages, "{first:#x}");
    }
}

#[test]
fn permissions_are_those_of_the_page_and_of_the_tables_above() {
    let mut kernel = kernel(1);
    let va = 0xffff_8123_4567_0000;
    const RO: u64 = 1 << 7;
    const PXN: u64 = 1 << 53;
    const TABLE_READ_ONLY: u64 = 1 << 62;
    const TABLE_NOT_EXECUTABLE: u64 = 1 << 59;
    for (page, low) in [0, RO, PXN, RO | PXN].into_iter().enumerate() {
        kernel.map_page(va + page as u64 * 4096, RAM, 0x403 | low);
    }
    let parts = |kernel: &Kernel| {
        let virt = kernel.virt();
        let range = VirtRange {
            first: KernelVirtAddr(va),
            last: KernelVirtAddr(va + 0xffff),
        };
        Leaves::new(&virt, range, 100)
            .map(|leaf| leaf.part())
            .collect::<Vec<_>>()
    };
    use ImagePart::{Data, ReadOnly, Text};
    assert_eq!(parts(&kernel), [Text, Text, Data, ReadOnly]);
    let root = ROOT + (va >> 39 & 511) * 8;
    let descriptor = kernel.ram.u64(root);
    kernel.ram.put_u64(root, descriptor | TABLE_NOT_EXECUTABLE);
    assert_eq!(parts(&kernel), [Data, ReadOnly, Data, ReadOnly]);
    let forbidding = TABLE_NOT_EXECUTABLE | TABLE_READ_ONLY;
    kernel.ram.put_u64(root, descriptor | forbidding);
    assert_eq!(parts(&kernel), [ReadOnly; 4]);
}

#[test]
fn blocks_are_leaves() {
    let mut kernel = kernel(1);
    let table = kernel.tables().next().unwrap();
    // 1 GiB at the second descriptor of a table of the second level.
    kernel.ram.put_u64(ROOT, table | 3);
    kernel.ram.put_u64(table + 8, 0x8000_0401);
    let virt = kernel.virt();
    let range = VirtRange {
        first: KernelVirtAddr(0xffff_0000_4000_0000),
        last: KernelVirtAddr(0xffff_0000_4000_0fff),
    };
    let found: Vec<_> = Leaves::new(&virt, range, 100)
        .map(|leaf| leaf.mapping)
        .collect();
    let block = Mapping {
        va: KernelVirtAddr(0xffff_0000_4000_0000),
        pa: PhysAddr(0x8000_0000),
        len: 1 << 30,
    };
    assert_eq!(found, [block]);
}

#[test]
fn tables_that_loop_or_are_lost_end_the_walk_or_are_counted() {
    for shape in 0..SHAPES.len() {
        let mut kernel = kernel(shape);
        let page = kernel.page_size();
        // Two tables in turn, which lead to each other all over.
        let mut tables = kernel.tables();
        let (one, other) = (tables.next().unwrap(), tables.next().unwrap());
        for number in 0..page / 8 {
            let pair = if number % 2 == 0 { one } else { other };
            kernel.ram.put_u64(one + number * 8, pair | 3);
            kernel.ram.put_u64(other + number * 8, pair | 3);
        }
        let limit = 1000;
        for table in [one, other] {
            kernel.ram.put_u64(ROOT, table | 3);
            let virt = kernel.virt();
            assert!(PageTables::new(&virt, limit).count() as u64 <= limit);
            // The limit bounds the leaves as well: a table has no more than it has room for.
            let leaves = Leaves::new(&virt, VirtRange::ALL, limit).count() as u64;
            assert!(leaves <= (limit + 1) * page / 8);
        }
        // Tables that lead to themselves are followed once at each level.
        for number in 0..page / 8 {
            kernel.ram.put_u64(one + number * 8, one | 3);
            kernel.ram.put_u64(other + number * 8, other | 3);
        }
        let virt = kernel.virt();
        assert!(PageTables::new(&virt, limit).count() < 20);
    }
    // A lost table of pages: the tables are all found, its pages are not.
    let mut kernel = kernel(1);
    let lost = kernel.tables().nth(2).unwrap();
    kernel.ram.lose(lost).unwrap();
    let virt = kernel.virt();
    let tables = PageTables::new(&virt, 1000).count();
    assert_eq!(tables, kernel.tables().count());
    let mut leaves = Leaves::new(&virt, VirtRange::ALL, 1000);
    assert!(leaves.by_ref().count() > 0);
    assert_eq!(leaves.unreadable(), 4096 / 64);
}
