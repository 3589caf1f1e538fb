//! A virtio block device to play against: its registers, over MMIO (both versions) and PCI, and
//! the device behind them, which works on its queue whenever the doorbell rings.
//!
//! It is strict: an access of the wrong width or to a register that the driver has no business
//! with, a wrong order of steps, or an address outside the memory handed out is a panic. And it
//! misbehaves on demand, see [`Mode`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use kdraw_drivers::mmio::MmioRegion;
use kdraw_drivers::pci::{FunctionAddress, HostBridge, Window};
use kdraw_drivers::registers::{Registers, Width};
use kdraw_drivers::virtio::pci::PciTransport;
use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_pipeline::ports::{DeviceError, DmaBuffer};

use crate::machine::Memory;

/// How the driver reaches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// virtio-mmio version 1.
    Legacy,
    /// virtio-mmio version 2.
    Modern,
    /// virtio-pci with modern capabilities.
    Pci,
}

/// How the device answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once and right.
    Good,
    /// Not before [`Disk::release`], and then the last first.
    Hold,
    /// Right, but with this status instead of 0, and nothing transferred.
    Status(u8),
    /// Without writing a status.
    NoStatus,
    /// With this id in the used ring.
    UsedId(u32),
    /// Each first answer repeats in place of the second.
    Twice,
    /// With a used index this much too high.
    Flood(u16),
}

pub const FLUSH: u64 = 1 << 9;
pub const READ_ONLY: u64 = 1 << 5;
pub const BLOCK_SIZE: u64 = 1 << 6;
pub const SIZE_MAX: u64 = 1 << 1;
pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const ORDER_PLATFORM: u64 = 1 << 36;
/// What the driver should pass over: geometry, topology, discard, config-wce, indirect
/// descriptors, event index, packed ring.
pub const UNWANTED: u64 = 1 << 4 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 28 | 1 << 29 | 1 << 34;

/// The device; what it says of itself may be changed before the driver sees it.
#[derive(Debug)]
pub struct Disk {
    pub interface: Interface,
    pub mode: Mode,
    pub device_type: u32,
    pub offered: u64,
    pub capacity: u64,
    pub block_size: u32,
    pub size_max: u32,
    pub queue_size_max: u32,
    /// How many status reads a reset takes.
    pub reset_reads: u32,
    /// Whether FEATURES_OK sticks.
    pub agreeable: bool,
    /// Whether the configuration changes all the time.
    pub restless: bool,
    /// Whether the queue stays in use after a reset.
    pub clinging: bool,

    /// What is on the medium.
    pub medium: Vec<u8>,
    /// Every status written.
    pub statuses: Vec<u8>,
    pub accepted: u64,
    pub flushes: usize,
    /// Transfers that reached the device: (type, sector, bytes).
    pub transfers: Vec<(u32, u64, usize)>,

    memory: Memory,
    status: u8,
    resetting: Cell<u32>,
    generation: Cell<u32>,
    features_select: u32,
    driver_features_select: u32,
    page_size: u64,
    queue: RingSetup,
    seen: u16,
    used: u16,
    held: Vec<u16>,
    last_used: Option<u16>,
}

#[derive(Clone, Debug, Default)]
struct RingSetup {
    size: u64,
    align: u64,
    page: u64,
    descriptors: u64,
    available: u64,
    used: u64,
    ready: bool,
}

impl Disk {
    /// A well-behaved device of 128 KiB that was left running.
    pub fn new(interface: Interface) -> Rc<RefCell<Self>> {
        let mut offered = FLUSH | BLOCK_SIZE | SIZE_MAX | UNWANTED;
        if interface != Interface::Legacy {
            offered |= VERSION_1;
        }
        Rc::new(RefCell::new(Self {
            interface,
            mode: Mode::Good,
            device_type: 2,
            offered,
            capacity: 256,
            block_size: 512,
            size_max: 65536,
            queue_size_max: 1024,
            reset_reads: 0,
            agreeable: true,
            restless: false,
            clinging: false,
            medium: vec![0; 128 << 10],
            statuses: vec![],
            accepted: 0,
            flushes: 0,
            transfers: vec![],
            memory: Memory::default(),
            status: 0xf,
            resetting: Cell::new(0),
            generation: Cell::new(0),
            features_select: 7,
            driver_features_select: 7,
            page_size: 0,
            queue: RingSetup {
                ready: true,
                page: 77,
                ..RingSetup::default()
            },
            seen: 0,
            used: 0,
            held: vec![],
            last_used: None,
        }))
    }

    pub fn allocate(&mut self, len: usize) -> DmaBuffer {
        self.memory.allocate(len)
    }

    pub fn allocate_at(&mut self, len: usize, device_addr: u64) -> DmaBuffer {
        self.memory.allocate_at(len, device_addr)
    }

    /// Answers all requests held back, the last first.
    pub fn release(&mut self) {
        while let Some(head) = self.held.pop() {
            self.answer(head);
        }
    }

    /// Looks at the queue.
    fn ring(&mut self) {
        assert_eq!(self.status & 4, 4, "doorbell before DRIVER_OK");
        assert!(self.queue.ready);
        assert_eq!(
            self.memory.get(self.queue.available, Width::W16),
            1,
            "interrupts not suppressed"
        );
        while self.seen != self.memory.get(self.queue.available + 2, Width::W16) as u16 {
            let entry = u64::from(self.seen) % self.queue.size;
            let head =
                self.memory
                    .get(self.queue.available + 4 + 2 * entry, Width::W16) as u16;
            self.seen = self.seen.wrapping_add(1);
            match self.mode {
                Mode::Hold => self.held.push(head),
                _ => self.answer(head),
            }
        }
    }

    /// Does what the chain at `head` asks for and says so.
    fn answer(&mut self, head: u16) {
        let mut segments = vec![];
        let mut next = Some(u64::from(head));
        while let Some(index) = next {
            assert!(index < self.queue.size && segments.len() < 3);
            let descriptor = self.queue.descriptors + 16 * index;
            let flags = self.memory.get(descriptor + 12, Width::W16);
            assert_eq!(flags & !3, 0);
            let addr = self.memory.get(descriptor, Width::W64);
            segments.push((
                addr,
                self.memory.get(descriptor + 8, Width::W32) as usize,
                flags & 2 != 0,
            ));
            next = (flags & 1 != 0).then(|| self.memory.get(descriptor + 14, Width::W16));
        }

        let (header, header_len, header_writes) = segments[0];
        assert_eq!((header_len, header_writes), (16, false));
        assert_eq!(self.memory.get(header + 4, Width::W32), 0);
        let kind = self.memory.get(header, Width::W32) as u32;
        let sector = self.memory.get(header + 8, Width::W64);
        let (status, status_len, status_writes) = *segments.last().unwrap();
        assert_eq!((status_len, status_writes), (1, true));

        let works = !matches!(self.mode, Mode::Status(_) | Mode::NoStatus);
        match (kind, &segments[1..segments.len() - 1]) {
            (0 | 1, &[(data, len, device_writes)]) => {
                assert_eq!(device_writes, kind == 0);
                assert!(self.offered & SIZE_MAX == 0 || len <= self.size_max as usize);
                self.transfers.push((kind, sector, len));
                if works {
                    self.transfer(
                        sector as usize * 512,
                        &self.memory.at(data, len),
                        device_writes,
                    );
                }
            }
            (4, []) => {
                assert_eq!(sector, 0);
                self.flushes += 1;
            }
            other => panic!("request {other:?}"),
        }

        match self.mode {
            Mode::Status(value) => self.memory.set(status, Width::W8, value.into()),
            Mode::NoStatus => {}
            _ => self.memory.set(status, Width::W8, 0),
        }
        let id = match (self.mode, self.last_used) {
            (Mode::UsedId(id), _) => id,
            (Mode::Twice, Some(last)) => last.into(),
            _ => head.into(),
        };
        self.last_used = Some(head);
        let entry = self.queue.used + 4 + 8 * (u64::from(self.used) % self.queue.size);
        self.memory.set(entry, Width::W32, id.into());
        self.memory.set(entry + 4, Width::W32, 0xdead_beef); // the length: not to be relied upon
        self.used = self.used.wrapping_add(1);
        let lie = if let Mode::Flood(more) = self.mode {
            more
        } else {
            0
        };
        self.memory.set(
            self.queue.used + 2,
            Width::W16,
            self.used.wrapping_add(lie).into(),
        );
    }

    fn transfer(&mut self, offset: usize, memory: &MmioRegion, to_memory: bool) {
        for (index, byte) in self.medium[offset..][..memory.size()]
            .iter_mut()
            .enumerate()
        {
            if to_memory {
                memory.write(index, Width::W8, u64::from(*byte));
            } else {
                *byte = memory.read(index, Width::W8) as u8;
            }
        }
    }

    fn read_status(&self) -> u64 {
        let left = self.resetting.get();
        self.resetting.set(left.saturating_sub(1));
        if left > 0 { 0xf } else { self.status.into() }
    }

    fn write_status(&mut self, value: u64) {
        let value = u8::try_from(value).unwrap();
        self.statuses.push(value);
        self.status = value;
        if value == 0 {
            self.resetting.set(self.reset_reads);
            self.accepted = 0;
            (self.seen, self.used) = (0, 0);
            if !self.clinging {
                self.queue = RingSetup::default();
            }
        } else if !self.agreeable {
            self.status &= !8;
        }
        if value & 4 != 0 && value & 128 == 0 {
            assert!(self.queue.ready, "DRIVER_OK without a queue");
        }
    }

    fn offered_half(&self) -> u64 {
        match self.features_select {
            0 => self.offered & 0xffff_ffff,
            1 if self.interface != Interface::Legacy => self.offered >> 32,
            other => panic!("feature word {other}"),
        }
    }

    fn accept_half(&mut self, value: u64) {
        assert_eq!(
            self.status, 3,
            "features belong between DRIVER and FEATURES_OK"
        );
        match self.driver_features_select {
            0 => self.accepted |= value,
            1 if self.interface != Interface::Legacy => self.accepted |= value << 32,
            other => panic!("feature word {other}"),
        }
        assert_eq!(
            self.accepted & !self.offered,
            0,
            "features that were not offered"
        );
    }

    fn start_queue(&mut self) {
        let negotiated = if self.interface == Interface::Legacy {
            3
        } else {
            11
        };
        assert_eq!(self.status, negotiated, "queue set up at the wrong time");
        let queue = &mut self.queue;
        assert!(queue.size.is_power_of_two() && queue.size <= self.queue_size_max.into());
        if self.interface == Interface::Legacy {
            assert_eq!((self.page_size, queue.align), (4096, 4096));
            queue.descriptors = queue.page * self.page_size;
            queue.available = queue.descriptors + 16 * queue.size;
            queue.used = (queue.available + 4 + 2 * queue.size + 2).next_multiple_of(queue.align);
        }
        queue.ready = true;
    }

    fn next_generation(&self) -> u64 {
        self.generation
            .set((self.generation.get() + u32::from(self.restless)) & 0xff);
        self.generation.get().into()
    }

    fn config(&self, offset: usize, width: Width) -> u64 {
        match (offset, width) {
            (0, Width::W32) => self.capacity & 0xffff_ffff,
            (4, Width::W32) => self.capacity >> 32,
            (8, Width::W32) => self.size_max.into(),
            (20, Width::W32) => self.block_size.into(),
            other => panic!("configuration read {other:?}"),
        }
    }

    fn read_mmio(&self, offset: usize) -> u64 {
        let legacy = self.interface == Interface::Legacy;
        match offset {
            0x000 => 0x7472_6976,
            0x004 => {
                if legacy {
                    1
                } else {
                    2
                }
            }
            0x008 => self.device_type.into(),
            0x010 => self.offered_half(),
            0x034 => self.queue_size_max.into(),
            0x040 if legacy => self.queue.page,
            0x044 if !legacy => self.queue.ready.into(),
            0x070 => self.read_status(),
            0x0fc if !legacy => self.next_generation(),
            0x100.. => self.config(offset - 0x100, Width::W32),
            _ => panic!("read of {offset:#x}"),
        }
    }

    fn write_mmio(&mut self, offset: usize, value: u64) {
        let legacy = self.interface == Interface::Legacy;
        let low = |old: u64| old & !0xffff_ffff | value;
        let high = |old: u64| old & 0xffff_ffff | value << 32;
        match offset {
            0x014 => self.features_select = value as u32,
            0x024 => self.driver_features_select = value as u32,
            0x020 => self.accept_half(value),
            0x030 => assert_eq!(value, 0, "queue 0 only"),
            0x038 => self.queue.size = value,
            0x050 => self.ring(),
            0x070 => self.write_status(value),
            0x028 if legacy => self.page_size = value,
            0x03c if legacy => self.queue.align = value,
            0x040 if legacy => {
                self.queue.page = value;
                self.start_queue();
            }
            0x044 if !legacy => self.start_queue(),
            0x080 if !legacy => self.queue.descriptors = low(self.queue.descriptors),
            0x084 if !legacy => self.queue.descriptors = high(self.queue.descriptors),
            0x090 if !legacy => self.queue.available = low(self.queue.available),
            0x094 if !legacy => self.queue.available = high(self.queue.available),
            0x0a0 if !legacy => self.queue.used = low(self.queue.used),
            0x0a4 if !legacy => self.queue.used = high(self.queue.used),
            _ => panic!("write of {offset:#x}"),
        }
    }

    /// The layout of [`CAPABILITIES`].
    fn read_bar(&self, offset: usize, width: Width) -> u64 {
        match (offset, width) {
            (0x04, Width::W32) => self.offered_half(),
            (0x14, Width::W8) => self.read_status(),
            (0x15, Width::W8) => self.next_generation(),
            (0x18, Width::W16) => self.queue_size_max.into(),
            (0x1c, Width::W16) => self.queue.ready.into(),
            (0x1e, Width::W16) => 3,
            (0x2000..0x3000, _) => self.config(offset - 0x2000, width),
            other => panic!("read of {other:x?}"),
        }
    }

    fn write_bar(&mut self, offset: usize, width: Width, value: u64) {
        let low = |old: u64| old & !0xffff_ffff | value;
        let high = |old: u64| old & 0xffff_ffff | value << 32;
        match (offset, width) {
            (0x00, Width::W32) => self.features_select = value as u32,
            (0x08, Width::W32) => self.driver_features_select = value as u32,
            (0x0c, Width::W32) => self.accept_half(value),
            (0x14, Width::W8) => self.write_status(value),
            (0x16, Width::W16) => assert_eq!(value, 0, "queue 0 only"),
            (0x18, Width::W16) => self.queue.size = value,
            (0x1c, Width::W16) => self.start_queue(),
            (0x20, Width::W32) => self.queue.descriptors = low(self.queue.descriptors),
            (0x24, Width::W32) => self.queue.descriptors = high(self.queue.descriptors),
            (0x28, Width::W32) => self.queue.available = low(self.queue.available),
            (0x2c, Width::W32) => self.queue.available = high(self.queue.available),
            (0x30, Width::W32) => self.queue.used = low(self.queue.used),
            (0x34, Width::W32) => self.queue.used = high(self.queue.used),
            (0x300c, Width::W16) => self.ring(), // 3 · multiplier 4
            other => panic!("write of {other:x?}"),
        }
    }
}

/// One of the device's register ranges.
#[derive(Debug)]
pub struct FakeRegisters {
    disk: Rc<RefCell<Disk>>,
    place: Place,
    pub size: usize,
}

#[derive(Debug)]
enum Place {
    Mmio,
    Config(Vec<(usize, u32)>),
    Bar(usize),
}

impl FakeRegisters {
    pub fn mmio(disk: &Rc<RefCell<Disk>>) -> Self {
        Self {
            disk: disk.clone(),
            place: Place::Mmio,
            size: 0x200,
        }
    }
}

impl Registers for FakeRegisters {
    fn size(&self) -> usize {
        self.size
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        if offset + width.bytes() > self.size {
            return u64::MAX;
        }
        let disk = self.disk.borrow();
        match &self.place {
            Place::Mmio => {
                assert_eq!(width, Width::W32);
                disk.read_mmio(offset)
            }
            Place::Config(words) => {
                assert_eq!(width, Width::W32);
                words
                    .iter()
                    .rev()
                    .find(|word| word.0 == offset)
                    .map_or(0, |word| word.1.into())
            }
            Place::Bar(start) => disk.read_bar(start + offset, width),
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        assert!(offset + width.bytes() <= self.size);
        let mut disk = self.disk.borrow_mut();
        match self.place {
            Place::Mmio => {
                assert_eq!(width, Width::W32);
                disk.write_mmio(offset, value);
            }
            Place::Config(_) => panic!("write to configuration space"),
            Place::Bar(start) => disk.write_bar(start + offset, width, value),
        }
    }
}

const ECAM: u64 = 0x40_1000_0000;
const BAR_4: u64 = 0x80_0000_4000;

/// The configuration space of a device like QEMU's: the first capability of each kind is good.
pub const CONFIG_SPACE: &[(usize, u32)] = &[
    (0x04, 0x0010_0006), // a capability list; bus master, memory space
    (0x10, 0x0000_c001), // BAR 0: I/O
    (0x20, 0x0000_400c), // BAR 4: 64-bit
    (0x24, 0x0000_0080),
    (0x34, 0x40),
    (0x40, 0x0110_5009),
    (0x44, 4),
    (0x48, 0x0000),
    (0x4c, 0x1000), // common
    (0x50, 0x0310_6009),
    (0x54, 4),
    (0x58, 0x1000),
    (0x5c, 0x1000), // interrupt status
    (0x60, 0x0410_7009),
    (0x64, 4),
    (0x68, 0x2000),
    (0x6c, 0x1000), // device
    (0x70, 0x0214_9809),
    (0x74, 4),
    (0x78, 0x3000),
    (0x7c, 0x1000),
    (0x80, 4),           // notify
    (0x98, 0x0514_0009), // configuration access window, not used
];

/// Brings up the PCI transport to the device, with these words of [`CONFIG_SPACE`] changed.
pub fn pci_transport(
    disk: &Rc<RefCell<Disk>>,
    changes: &[(usize, u32)],
) -> Result<PciTransport<FakeRegisters>, DeviceError> {
    let window = PhysRange::with_len(PhysAddr(0x80_0000_0000), 1 << 39).unwrap();
    let bridge = HostBridge {
        ecam: PhysRange::with_len(PhysAddr(ECAM), 256 << 20).unwrap(),
        first_bus: 0,
        windows: &[Window {
            pci_start: window.start.0,
            cpu: window,
        }],
    };
    let mut map = |at: PhysAddr, len: u64| {
        let size = usize::try_from(len).unwrap();
        let place = match at.0 {
            0x40_1001_0000 => {
                let id = (0, 0x1040_1af4 + (disk.borrow().device_type << 16));
                Place::Config([CONFIG_SPACE, &[id], changes].concat())
            }
            at => Place::Bar(
                usize::try_from(at.checked_sub(BAR_4)?)
                    .ok()
                    .filter(|&at| at < 0x4000)?,
            ),
        };
        Some(FakeRegisters {
            disk: disk.clone(),
            place,
            size,
        })
    };
    let address = FunctionAddress {
        bus: 0,
        device: 2,
        function: 0,
    };
    let function = bridge.function(address, &mut map)?;
    PciTransport::new(&function, &mut map)
}
