//! Kernels made by tests: page tables, memmap and VMCOREINFO of any version and granule.

use std::collections::BTreeMap;

use kdraw_format::addr::{PhysAddr, PhysRange};

use kdraw_linux::classify::PageClass;
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::translate::VirtMem;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

/// Where RAM begins.
pub const RAM: u64 = 0x4000_0000;
/// How long it is.
pub const RAM_LEN: u64 = 16 << 20;
/// The image is the first part of RAM; its struct pages are reserved.
pub const IMAGE_LEN: u64 = 4 << 20;
/// The root page table, in the image.
pub const ROOT: u64 = RAM + (3 << 20);
/// Behind it the memmap, then what the section tables take, then page tables.
const MEMMAP: u64 = RAM + IMAGE_LEN;
const SECTIONS: u64 = MEMMAP + (1 << 20);
const TABLES: u64 = SECTIONS + (1 << 20);

/// Sparse memory of 4 KiB pages: what was never put there cannot be read.
#[derive(Default)]
pub struct Ram {
    pages: BTreeMap<u64, Box<[u8; 4096]>>,
}

impl Ram {
    /// Writes `bytes` at `at`.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let page = self
                .pages
                .entry(at / 4096)
                .or_insert_with(|| Box::new([0; 4096]));
            let inside = (at % 4096) as usize;
            let (now, later) = rest.split_at(rest.len().min(4096 - inside));
            page[inside..inside + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            rest = later;
        }
    }

    /// Writes a word.
    pub fn put_u64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    /// Reads a word that is there.
    pub fn u64(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(PhysAddr(at), &mut bytes).expect("a word of RAM");
        u64::from_le_bytes(bytes)
    }

    /// Makes the 4 KiB page that holds `at` unreadable.
    pub fn lose(&mut self, at: u64) -> Option<Box<[u8; 4096]>> {
        self.pages.remove(&(at / 4096))
    }

    /// Puts a lost page back.
    pub fn restore(&mut self, at: u64, page: Box<[u8; 4096]>) {
        self.pages.insert(at / 4096, page);
    }

    /// Where there are pages.
    pub fn pages(&self) -> Vec<u64> {
        self.pages.keys().map(|page| page * 4096).collect()
    }
}

impl PhysMem for Ram {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = at.0;
        let mut rest = into;
        while !rest.is_empty() {
            let page = self
                .pages
                .get(&(at / 4096))
                .ok_or(Unreadable { at: PhysAddr(at) })?;
            let inside = (at % 4096) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(4096 - inside));
            now.copy_from_slice(&page[inside..inside + now.len()]);
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }
}

/// How a kernel keeps its struct pages.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// What it is called.
    pub name: &'static str,
    /// `SIZE(page)`.
    pub struct_page: u64,
    memmap: Memmap,
    /// Whether the section table has roots of entries; or, the other way, entries.
    extreme: bool,
    /// Bits: lru, private, swapbacked, swapcache, hwpoison, head, reserved.
    flags: [u32; 7],
    slab: Slab,
    hugetlb: HugeTlb,
    order: Order,
    /// `_mapcount` of a free page.
    pub buddy: i32,
    /// `_mapcount` of an offline page.
    pub offline: i32,
    /// `_mapcount` of a page not accepted yet.
    pub unaccepted: Option<i32>,
    compound: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Memmap {
    Symbol,
    Start,
    Sections,
}

#[derive(Clone, Copy, Debug)]
enum Slab {
    Flag(u32),
    Type(i32),
}

#[derive(Clone, Copy, Debug)]
enum HugeTlb {
    Dtor,
    Flag(u32),
    Type(i32),
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Page,
    Folio,
    Flags,
}

const OLD: Version = Version {
    name: "5.10",
    struct_page: 64,
    memmap: Memmap::Sections,
    extreme: true,
    flags: [4, 13, 19, 10, 22, 16, 12],
    slab: Slab::Flag(9),
    hugetlb: HugeTlb::Dtor,
    order: Order::Page,
    buddy: -129,
    offline: -257,
    unaccepted: None,
    compound: "page.compound_head",
};

/// One of each column of the table in [`kdraw_linux::classify`], and odd ones.
pub const VERSIONS: [Version; 9] = [
    OLD,
    Version {
        name: "5.10, static sections, struct pages of 56 bytes",
        struct_page: 56,
        extreme: false,
        ..OLD
    },
    Version {
        name: "6.1",
        memmap: Memmap::Start,
        ..OLD
    },
    Version {
        name: "6.4, struct pages of 80 bytes",
        struct_page: 80,
        memmap: Memmap::Start,
        order: Order::Folio,
        ..OLD
    },
    Version {
        name: "6.6",
        memmap: Memmap::Start,
        order: Order::Flags,
        hugetlb: HugeTlb::Flag(8),
        ..OLD
    },
    Version {
        name: "6.9",
        memmap: Memmap::Symbol,
        order: Order::Flags,
        hugetlb: HugeTlb::Type(-2049),
        ..OLD
    },
    NEW,
    Version {
        name: "6.16",
        unaccepted: Some(0xf7_00_00_00_u32 as i32),
        ..NEW
    },
    Version {
        name: "7.1",
        unaccepted: Some(0xf7_00_00_00_u32 as i32),
        compound: "page.compound_info",
        ..NEW
    },
];

const NEW: Version = Version {
    name: "6.12",
    memmap: Memmap::Symbol,
    flags: [5, 14, 17, 10, 21, 6, 13],
    slab: Slab::Type(0xf5_00_00_00_u32 as i32),
    hugetlb: HugeTlb::Type(0xf4_00_00_00_u32 as i32),
    order: Order::Flags,
    buddy: 0xf0_00_00_00_u32 as i32,
    offline: 0xf1_00_00_00_u32 as i32,
    ..OLD
};

/// Page shift, configured and actual address size.
pub type Shape = (u32, u32, u32);

/// All granules and address sizes; 52/52 with small pages is LPA2.
pub const SHAPES: [Shape; 9] = [
    (12, 39, 39),
    (12, 48, 48),
    (12, 52, 48),
    (12, 52, 52),
    (14, 47, 47),
    (14, 52, 52),
    (16, 42, 42),
    (16, 48, 48),
    (16, 52, 48),
];

/// A struct page, or what differs from that of a kernel page.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// `flags`.
    pub flags: u64,
    /// `mapping`.
    pub mapping: u64,
    /// `_mapcount`.
    pub mapcount: i32,
    /// `_refcount`.
    pub refcount: u32,
    /// `private`.
    pub private: u64,
    /// `compound_head`, or `compound_info`.
    pub compound: u64,
}

/// In use by the kernel, for nothing in particular.
pub const KERNEL: Page = Page {
    flags: 0,
    mapping: 0,
    mapcount: -1,
    refcount: 1,
    private: 0,
    compound: 0,
};

/// A kernel.
pub struct Kernel {
    /// Its version.
    pub version: Version,
    /// Its granule and address sizes.
    pub shape: Shape,
    /// Its memory.
    pub ram: Ram,
    /// Its VMCOREINFO.
    pub text: String,
    next_table: u64,
}

impl Kernel {
    /// A kernel whose image is reserved and whose other pages are in use.
    pub fn new(version: Version, shape: Shape) -> Self {
        let mut this = Self {
            version,
            shape,
            ram: Ram::default(),
            text: String::new(),
            next_table: TABLES,
        };
        this.text = this.vmcoreinfo();
        for at in (ROOT..ROOT + this.page_size()).step_by(4096) {
            this.ram.put(at, &[0; 4096]);
        }
        this.map(this.image_va(), RAM, IMAGE_LEN);
        let memmap_len = this.pages() * version.struct_page;
        this.map(
            this.struct_va(RAM >> shape.0),
            MEMMAP,
            memmap_len.next_multiple_of(this.page_size()),
        );
        this.section_tables();
        let [.., reserved] = version.flags;
        for page in 0..this.pages() {
            let flags = if page < IMAGE_LEN >> shape.0 {
                1 << reserved
            } else {
                0
            };
            // The zone, in the top bits.
            let flags = flags | 1 << 62;
            this.put(page, Page { flags, ..KERNEL });
        }
        this
    }

    /// Bytes in a page.
    pub fn page_size(&self) -> u64 {
        1 << self.shape.0
    }

    /// Pages of RAM.
    pub fn pages(&self) -> u64 {
        RAM_LEN >> self.shape.0
    }

    /// The whole RAM.
    pub fn range(&self) -> PhysRange {
        PhysRange {
            start: PhysAddr(RAM),
            end: PhysAddr(RAM + RAM_LEN),
        }
    }

    /// The mask of a page flag, by name in lower case.
    pub fn flag(&self, name: &str) -> u64 {
        let names = [
            "lru",
            "private",
            "swapbacked",
            "swapcache",
            "hwpoison",
            "head",
            "reserved",
        ];
        let number = names.iter().position(|known| *known == name).unwrap();
        1 << self.version.flags[number]
    }

    /// The tables below the root.
    pub fn tables(&self) -> impl Iterator<Item = u64> + use<> {
        (TABLES..self.next_table).step_by(self.page_size() as usize)
    }

    /// Where the image is mapped.
    pub fn image_va(&self) -> u64 {
        (u64::MAX << (self.shape.2 - 1)) + 0x800_0000
    }

    fn memmap_va(&self) -> u64 {
        u64::MAX << (self.shape.2 - 3)
    }

    /// The address of the struct page of an absolute page number.
    pub fn struct_va(&self, number: u64) -> u64 {
        self.memmap_va() + (number - (RAM >> self.shape.0)) * self.version.struct_page
    }

    /// Where the struct page of page `page` of RAM lies.
    pub fn struct_pa(&self, page: u64) -> u64 {
        MEMMAP + page * self.version.struct_page
    }

    fn vmcoreinfo(&self) -> String {
        let (shift, va_bits, actual) = self.shape;
        let version = self.version;
        let image = self.image_va();
        let voffset = image.wrapping_sub(RAM);
        // As arm64_memblock_init lowers it where fewer address bits are in use than configured.
        let lowered = (u64::MAX << actual).wrapping_sub(u64::MAX << va_bits);
        let phys_offset = RAM.wrapping_sub(lowered);
        let mut text = format!(
            "OSRELEASE=synthetic {name}\nPAGESIZE={}\nSYMBOL(swapper_pg_dir)={:x}\nSYMBOL(_stext)={:x}\n\
             NUMBER(VA_BITS)={va_bits}\nNUMBER(TCR_EL1_T1SZ)=0x{:x}\nNUMBER(kimage_voffset)=0x{voffset:x}\n\
             NUMBER(PHYS_OFFSET)=0x{phys_offset:x}\nSIZE(page)={}\nOFFSET(page.flags)=0\nOFFSET(page._refcount)=52\n\
             OFFSET(page.mapping)=24\nOFFSET(page.lru)=8\nOFFSET(page._mapcount)=48\nOFFSET(page.private)=40\n\
             OFFSET({})=8\nLENGTH(zone.free_area)=11\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)={}\n\
             NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)={}\n",
            self.page_size(),
            ROOT.wrapping_add(voffset),
            image + 0x1_0000,
            64 - actual,
            version.struct_page,
            version.compound,
            version.buddy,
            version.offline,
            name = version.name,
        );
        let mut number = |name: &str, value: &dyn ToString| {
            text += &format!("NUMBER({name})={}\n", value.to_string())
        };
        let [lru, private, swapbacked, swapcache, hwpoison, head, _] = version.flags;
        number("PG_lru", &lru);
        number("PG_private", &private);
        number("PG_swapbacked", &swapbacked);
        number("PG_swapcache", &swapcache);
        number("PG_hwpoison", &hwpoison);
        number("PG_head_mask", &(1u64 << head));
        if let Some(unaccepted) = version.unaccepted {
            number("PAGE_UNACCEPTED_MAPCOUNT_VALUE", &unaccepted);
        }
        match version.slab {
            Slab::Flag(bit) => number("PG_slab", &bit),
            Slab::Type(value) => number("PAGE_SLAB_MAPCOUNT_VALUE", &value),
        }
        match version.hugetlb {
            HugeTlb::Dtor => number("HUGETLB_PAGE_DTOR", &2),
            HugeTlb::Flag(bit) => number("PG_hugetlb", &bit),
            HugeTlb::Type(value) => number("PAGE_HUGETLB_MAPCOUNT_VALUE", &value),
        }
        text += &match version.order {
            Order::Page => "OFFSET(page.compound_dtor)=16\nOFFSET(page.compound_order)=17\n".into(),
            Order::Folio => format!(
                "OFFSET(folio._folio_dtor)={}\nOFFSET(folio._folio_order)={}\n",
                version.struct_page + 16,
                version.struct_page + 17
            ),
            Order::Flags => String::new(),
        };
        text += &match version.memmap {
            Memmap::Symbol => format!(
                "SYMBOL(vmemmap)={:x}\n",
                self.memmap_va()
                    .wrapping_sub((RAM >> shift) * version.struct_page)
            ),
            // As the kernel defines vmemmap, with a signed shift.
            Memmap::Start => format!(
                "NUMBER(VMEMMAP_START)=0x{:x}\n",
                self.memmap_va()
                    .wrapping_sub((RAM >> shift) * version.struct_page)
                    .wrapping_add(
                        ((phys_offset as i64 >> shift) as u64).wrapping_mul(version.struct_page)
                    )
            ),
            Memmap::Sections => String::new(),
        };
        // 2^(48 - 30) sections of 1 GiB; with a granule of 4 KiB 256 in a root.
        let count = 1u64 << 18;
        let length = if version.extreme {
            count / (self.page_size() / 16)
        } else {
            count
        };
        // In the linear map.
        let table = (u64::MAX << va_bits).wrapping_add(SECTIONS.wrapping_sub(phys_offset));
        text += &format!(
            "SYMBOL(mem_section)={table:x}\nLENGTH(mem_section)={length}\nSIZE(mem_section)=16\n\
             OFFSET(mem_section.section_mem_map)=0\nNUMBER(MAX_PHYSMEM_BITS)=48\n"
        );
        text
    }

    /// The entry of section 1, that of RAM.
    fn section_tables(&mut self) {
        let shift = self.shape.0;
        let coded = self
            .memmap_va()
            .wrapping_sub((RAM >> shift) * self.version.struct_page);
        let entries = if self.version.extreme {
            let layout = self.layout();
            let root = SECTIONS + 0x8_0000;
            let root_va = layout.linear_va(PhysAddr(root)).unwrap().0;
            self.ram.put(SECTIONS, &[0; 4096]);
            self.ram.put_u64(SECTIONS, root_va);
            root
        } else {
            SECTIONS
        };
        self.ram.put(entries, &[0; 4096]);
        self.ram.put_u64(entries + 16, coded & !0x3f | 0x1b);
    }

    fn take_table(&mut self) -> u64 {
        let table = self.next_table;
        self.next_table += self.page_size();
        for at in (table..self.next_table).step_by(4096) {
            self.ram.put(at, &[0; 4096]);
        }
        table
    }

    /// Maps pages, one by one.
    pub fn map(&mut self, va: u64, pa: u64, len: u64) {
        for offset in (0..len).step_by(self.page_size() as usize) {
            self.map_page(va + offset, pa + offset, 0x403);
        }
    }

    /// Maps a page with `low`, the descriptor's other bits.
    pub fn map_page(&mut self, va: u64, pa: u64, low: u64) {
        let (shift, va_bits, actual) = self.shape;
        let bits = if shift == 16 { va_bits } else { actual };
        let per_level = shift - 3;
        let levels = (bits - shift).div_ceil(per_level);
        let mut table = ROOT;
        for level in (1..=levels).rev() {
            let below = shift + per_level * (level - 1);
            let width = if level == levels {
                bits - below
            } else {
                per_level
            };
            let at = table + ((va >> below) & ((1 << width) - 1)) * 8;
            if level == 1 {
                self.ram.put_u64(at, pa | low);
                return;
            }
            table = match self.ram.u64(at) {
                0 => {
                    let new = self.take_table();
                    self.ram.put_u64(at, new | 3);
                    new
                }
                // All tables lie below 4 GiB.
                descriptor => descriptor & 0xffff_f000,
            };
        }
    }

    /// What VMCOREINFO says of the layout.
    pub fn layout(&self) -> KernelLayout {
        KernelLayout::from_vmcoreinfo(&self.info()).unwrap()
    }

    /// VMCOREINFO.
    pub fn info(&self) -> Vmcoreinfo<'_> {
        Vmcoreinfo::new(self.text.as_bytes())
    }

    /// The kernel's view of its memory.
    pub fn virt(&self) -> VirtMem<&Ram> {
        VirtMem::new(&self.ram, self.layout())
    }

    /// Writes the struct page of page `page` of RAM.
    pub fn put(&mut self, page: u64, fields: Page) {
        let mut bytes = vec![0u8; self.version.struct_page as usize];
        let mut set = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        set(0, &fields.flags.to_le_bytes());
        set(8, &fields.compound.to_le_bytes());
        set(24, &fields.mapping.to_le_bytes());
        set(40, &fields.private.to_le_bytes());
        set(48, &fields.mapcount.to_le_bytes());
        set(52, &fields.refcount.to_le_bytes());
        self.ram.put(self.struct_pa(page), &bytes);
    }

    /// A free block, all of it.
    pub fn free(&mut self, page: u64, order: u32) {
        for inside in page..page + (1 << order) {
            self.put(
                inside,
                Page {
                    refcount: 0,
                    ..KERNEL
                },
            );
        }
        let mapcount = self.version.buddy;
        let private = u64::from(order);
        self.put(
            page,
            Page {
                mapcount,
                refcount: 0,
                private,
                ..KERNEL
            },
        );
    }

    /// A compound page, all of it: `first` is its first struct page, without `PG_head`.
    pub fn compound(&mut self, page: u64, order: u32, first: Page, hugetlb: bool) {
        let head_va = self.struct_va(page + (RAM >> self.shape.0));
        let tail = Page {
            compound: head_va | 1,
            refcount: 0,
            mapping: 0xdead_0000_0000_0400,
            ..KERNEL
        };
        for inside in page + 1..page + (1 << order) {
            self.put(inside, tail);
        }
        let mut first = first;
        first.flags |= self.flag("head");
        let second = self.struct_pa(page + 1);
        let mut flags = 0;
        match self.version.order {
            Order::Flags => flags |= u64::from(order),
            Order::Page | Order::Folio => self.ram.put(second + 17, &[order as u8]),
        }
        match self.version.hugetlb {
            HugeTlb::Dtor => self.ram.put(second + 16, &[if hugetlb { 2 } else { 1 }]),
            HugeTlb::Flag(bit) if hugetlb => flags |= 1 << bit,
            HugeTlb::Type(value) if hugetlb => first.mapcount = value,
            _ => {}
        }
        self.put(page, first);
        self.ram.put_u64(second, flags);
    }

    /// What marks a struct page as slab.
    pub fn slab(&self) -> Page {
        match self.version.slab {
            Slab::Flag(bit) => Page {
                flags: 1 << bit,
                ..KERNEL
            },
            Slab::Type(mapcount) => Page { mapcount, ..KERNEL },
        }
    }

    /// The first page that [`Self::populate`] uses: at 8 MiB.
    pub fn base(&self) -> u64 {
        (8 << 20) >> self.shape.0
    }

    /// Puts pages of each class behind the middle of RAM; returns what each page of RAM is.
    pub fn populate(&mut self) -> Vec<PageClass> {
        let kernel = self;
        let base = kernel.base();
        let flag = |name| kernel.flag(name);
        let (lru, private, swapbacked) = (flag("lru"), flag("private"), flag("swapbacked"));
        let (swapcache, hwpoison) = (flag("swapcache"), flag("hwpoison"));
        let (offline, unaccepted) = (kernel.version.offline, kernel.version.unaccepted);
        let reserved = IMAGE_LEN >> kernel.shape.0;
        let mut expected: Vec<_> = (0..kernel.pages())
            .map(|page| {
                if page < reserved {
                    PageClass::Reserved
                } else {
                    PageClass::Kernel
                }
            })
            .collect();
        let mut is = |at: u64, pages: u64, class| {
            for page in &mut expected[(base + at) as usize..(base + at + pages) as usize] {
                *page = class;
            }
        };
        let page = |flags, mapping| Page {
            flags,
            mapping,
            ..KERNEL
        };

        kernel.free(base, 4);
        is(0, 16, PageClass::Free);
        kernel.free(base + 16, 0);
        is(16, 1, PageClass::Free);
        for (at, single, class) in [
            (18, page(lru | swapbacked, 0x1001), PageClass::User),
            (19, page(lru, 0x1000), PageClass::Cache),
            (20, page(lru | private, 0x1000), PageClass::CachePrivate),
            (21, page(swapbacked | swapcache, 0), PageClass::Cache),
            // Neither alone is a page of the swap cache.
            (22, page(swapbacked, 0), PageClass::Kernel),
            (23, page(swapcache, 0), PageClass::Kernel),
            // Anonymous memory in the swap cache is the user's.
            (
                60,
                page(swapbacked | swapcache | lru, 0x1001),
                PageClass::User,
            ),
            (61, page(lru | hwpoison, 0x1000), PageClass::HwPoison),
            (
                62,
                Page {
                    mapcount: offline,
                    ..KERNEL
                },
                PageClass::Offline,
            ),
            // Mapped by processes, as driver buffers are.
            (
                63,
                Page {
                    mapcount: 3,
                    ..KERNEL
                },
                PageClass::Kernel,
            ),
        ] {
            kernel.put(base + at, single);
            is(at, 1, class);
        }
        // What lies over `mapping` in a slab page may be odd.
        let slab = Page {
            mapping: 0x1001,
            ..kernel.slab()
        };
        kernel.compound(base + 24, 3, slab, false);
        is(24, 8, PageClass::Slab);
        kernel.put(base + 17, slab);
        is(17, 1, PageClass::Slab);
        kernel.compound(base + 32, 4, page(lru | swapbacked, 0x1001), false);
        is(32, 16, PageClass::User);
        kernel.compound(base + 48, 3, KERNEL, true);
        is(48, 8, PageClass::User);
        kernel.compound(base + 56, 2, page(lru, 0x1000), false);
        is(56, 4, PageClass::Cache);
        kernel.compound(base + 64, 1, KERNEL, false);
        // Broken inside of a compound page, and inside of a free block.
        kernel.compound(base + 72, 2, page(lru, 0x1000), false);
        is(72, 4, PageClass::Cache);
        let address = kernel.struct_pa(base + 74);
        kernel.ram.put_u64(address, hwpoison);
        is(74, 1, PageClass::HwPoison);
        kernel.free(base + 80, 2);
        is(80, 4, PageClass::Free);
        let address = kernel.struct_pa(base + 83);
        kernel.ram.put_u64(address, hwpoison);
        is(83, 1, PageClass::HwPoison);
        // A broken huge page is not read at all.
        kernel.compound(base + 88, 3, page(hwpoison, 0), true);
        is(88, 8, PageClass::HwPoison);
        if let Some(mapcount) = unaccepted
            && kernel.shape.0 == 12
        {
            kernel.free(base + 1024, 10);
            kernel.put(
                base + 1024,
                Page {
                    mapcount,
                    refcount: 0,
                    ..KERNEL
                },
            );
            is(1024, 1024, PageClass::Free);
        }
        expected
    }

    /// The lines of the text by key, for tests that leave some out.
    pub fn keys(&self) -> BTreeMap<String, String> {
        let lines = self.text.lines().filter_map(|line| line.split_once('='));
        lines
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    }
}

/// Makes a text of keys.
pub fn text_of(keys: &BTreeMap<String, String>) -> String {
    let lines: Vec<_> = keys
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    lines.concat()
}
