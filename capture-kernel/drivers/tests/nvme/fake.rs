//! An NVMe controller to play against: a PCI function with its configuration space, registers and
//! doorbells, and one namespace behind them; it works on its queues whenever a doorbell rings.
//!
//! It is strict: an access that is not of 32 bits or to a register that the driver has no business
//! with, a wrong order of steps, a field that the specification reserves, or an address outside
//! the memory handed out is a panic. And it misbehaves on demand, see [`Mode`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use kdraw_drivers::nvme::Nvme;
use kdraw_drivers::pci::{FunctionAddress, HostBridge, Window};
use kdraw_drivers::registers::{Registers, Width};
use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_pipeline::ports::{Clock, DeviceError, DmaBuffer};

use crate::machine::Memory;

/// How the controller behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Well.
    Good,
    /// Commands of the I/O queue are answered by [`Fake::release`], the last first.
    Hold,
    /// Commands of the I/O queue end with this status, and nothing is transferred.
    Status(u16),
    /// Every command is answered under this number.
    Id(u16),
    /// Every command is answered as one of this queue.
    Queue(u16),
    /// Every command of the I/O queue is answered twice.
    Twice,
    /// No command is answered.
    Silent,
    /// A fatal status as soon as a doorbell rings.
    Fatal,
    /// Nobody answers on the bus as soon as a doorbell rings.
    Gone,
    /// A fatal status instead of getting ready.
    StillBorn,
    /// Never gets ready.
    NeverUp,
    /// Never goes down.
    NeverDown,
}

/// A command of the I/O queue: opcode, first block, blocks, and pages that it touches.
pub type Seen = (u8, u64, u32, Vec<u64>);

#[derive(Debug)]
pub struct Fake {
    pub mode: Mode,
    pub memory: Memory,
    /// Words of the configuration space; what is not here is 0.
    pub config: Vec<(usize, u32)>,
    /// CAP.
    pub capabilities: u64,
    /// What Identify answers.
    pub controller: Vec<u8>,
    pub namespace: Vec<u8>,
    /// How many reads of CSTS a change of CC.EN takes.
    pub ready_reads: u32,
    /// How Set Features ends.
    pub features_status: u16,
    pub block_size: usize,
    pub medium: Vec<u8>,
    pub seen: Vec<Seen>,
    pub flushes: usize,
    /// Reads of CSTS so far.
    pub looks: Cell<u32>,

    pub enabled: bool,
    ready: bool,
    changing: Cell<u32>,
    fatal: bool,
    gone: bool,
    sizes: u64,
    admin: [u64; 2],
    queues: [Option<Rings>; 2],
    held: Vec<[u64; 8]>,
}

#[derive(Clone, Copy, Debug)]
struct Rings {
    submissions: u64,
    completions: u64,
    entries: u64,
    head: u64,
    tail: u64,
    phase: bool,
}

/// The namespace that there is.
pub const NAMESPACE: u32 = 3;
/// Offset of the first LBA format in a namespace's identity.
pub const LBA_FORMAT: usize = 128;
/// Where the dead kernel's queues are.
const DEAD: u64 = 0xdead_0000;
const BAR_0: u64 = 0x80_0000_4000;

impl Fake {
    /// A good controller that a dead kernel left running: 1024 blocks of 512 bytes, a cache, 64
    /// entries in a queue, no limit of a transfer.
    pub fn new() -> Rc<RefCell<Self>> {
        let mut controller = vec![0; 4096];
        controller[525] = 1;
        let mut namespace = vec![0; 4096];
        namespace[..2].copy_from_slice(&1024_u16.to_le_bytes());
        namespace[LBA_FORMAT + 2] = 9;
        Rc::new(RefCell::new(Self {
            mode: Mode::Good,
            memory: Memory::default(),
            config: vec![
                (0x00, 0x0010_1b36),
                (0x04, 0x0010_0000), // a capability list; everything off
                (0x08, 0x0108_0202),
                (0x10, 0x0000_4004), // BAR 0: 64-bit
                (0x14, 0x0000_0080),
                (0x34, 0x40),
                (0x40, 0x8040_5011), // MSI-X, enabled
                (0x50, 0x0081_0005), // MSI, enabled
            ],
            // CSS: the NVM command set; TO: 2 s; MQES: 63.
            capabilities: 1 << 37 | 4 << 24 | 63,
            controller,
            namespace,
            ready_reads: 2,
            features_status: 0,
            block_size: 512,
            medium: vec![0; 1024 * 512],
            seen: vec![],
            flushes: 0,
            looks: Cell::new(0),
            enabled: true,
            ready: true,
            changing: Cell::new(0),
            fatal: false,
            gone: false,
            sizes: 0,
            admin: [0; 2],
            // The dead kernel's, in memory that is not to be touched.
            queues: [
                Some(Rings::new(DEAD, DEAD + 0x1000, 32)),
                Some(Rings::new(DEAD + 0x2000, DEAD + 0x3000, 32)),
            ],
            held: vec![],
        }))
    }

    /// Makes the namespace's blocks 4 KiB.
    pub fn use_large_blocks(&mut self) {
        self.namespace[25] = 1;
        self.namespace[26] = 1;
        self.namespace[..2].copy_from_slice(&128_u16.to_le_bytes());
        self.namespace[LBA_FORMAT + 4 + 2] = 12;
        self.block_size = 4096;
    }

    /// Makes it one that reported a fatal status to the dead kernel.
    pub fn leave_fatal(&mut self) {
        self.fatal = true;
        self.ready = false;
    }

    /// Whether it is no more as the dead kernel left it.
    pub fn is_reset(&self) -> bool {
        self.queues[0].is_none_or(|rings| rings.submissions != DEAD)
    }

    /// Bytes from one doorbell to the next.
    fn stride(&self) -> usize {
        4 << (self.capabilities >> 32 & 0xf)
    }

    /// Answers all commands held back, the last first.
    pub fn release(&mut self) {
        while let Some(command) = self.held.pop() {
            self.answer(1, command);
        }
    }

    fn read(&self, offset: usize) -> u64 {
        if self.gone {
            return u64::from(u32::MAX);
        }
        match offset {
            0x00 => self.capabilities & 0xffff_ffff,
            0x04 => self.capabilities >> 32,
            0x14 => u64::from(self.enabled) | 0x46 << 16,
            0x1c => {
                self.looks.set(self.looks.get() + 1);
                let left = self.changing.get();
                self.changing.set(left.saturating_sub(1));
                let settled = if left > 0 {
                    !self.enabled
                } else {
                    self.enabled
                };
                let ready = match self.mode {
                    Mode::NeverUp | Mode::StillBorn if self.enabled => false,
                    Mode::NeverDown => true,
                    _ => settled && self.ready,
                };
                let fatal = self.fatal || self.mode == Mode::StillBorn && self.enabled;
                u64::from(ready) | u64::from(fatal) << 1
            }
            other => panic!("read of register {other:#x}"),
        }
    }

    fn write(&mut self, offset: usize, value: u64) {
        match offset {
            0x14 => self.configure(value),
            _ if self.enabled => panic!("write of register {offset:#x} while enabled"),
            0x24 => self.sizes = value,
            0x28 | 0x30 => self.admin[(offset - 0x28) / 8] = value,
            0x2c | 0x34 => self.admin[(offset - 0x2c) / 8] |= value << 32,
            other => panic!("write of register {other:#x}"),
        }
    }

    fn configure(&mut self, value: u64) {
        let enable = value & 1 != 0;
        assert_ne!(enable, self.enabled, "nothing to change");
        assert_eq!(self.changing.get(), 0, "not settled");
        self.enabled = enable;
        self.ready = true;
        self.changing.set(self.ready_reads);
        self.queues = [None; 2];
        self.held.clear();
        self.fatal = false;
        if enable {
            assert_eq!(
                value, 0x0046_0001,
                "NVM commands, 4 KiB pages, 64 and 16 bytes"
            );
            let (last, same) = (self.sizes & 0xfff, self.sizes >> 16);
            assert!(last == same && last > 0);
            let [submissions, completions] = self.admin;
            self.queues[0] = Some(Rings::new(submissions, completions, last + 1));
        }
    }

    fn ring(&mut self, doorbell: usize, value: u64) {
        assert!(self.enabled, "doorbell of a controller that is off");
        match self.mode {
            Mode::Fatal => self.fatal = true,
            Mode::Gone => self.gone = true,
            _ => {}
        }
        let number = doorbell / 2;
        let rings = self.queues[number].expect("doorbell of no queue");
        assert!(value < rings.entries);
        if doorbell % 2 == 1 {
            return;
        }
        let mut head = rings.head;
        while head != value {
            let at = rings.submissions + head * 64;
            let command =
                std::array::from_fn(|word| self.memory.get(at + 8 * word as u64, Width::W64));
            head = (head + 1) % rings.entries;
            if let Some(rings) = &mut self.queues[number] {
                rings.head = head;
            }
            match self.mode {
                Mode::Silent | Mode::Fatal | Mode::Gone => {}
                Mode::Hold if number == 1 => self.held.push(command),
                _ => self.answer(number, command),
            }
        }
    }

    fn answer(&mut self, number: usize, command: [u64; 8]) {
        let [
            first,
            reserved,
            metadata,
            prp1,
            prp2,
            argument,
            argument_12,
            rest,
        ] = command;
        assert_eq!((reserved, metadata, rest), (0, 0, 0));
        assert_eq!(first >> 8 & 0xff, 0, "no fused commands, PRPs");
        let (opcode, id, namespace) = (first as u8, first >> 16 & 0xffff, (first >> 32) as u32);
        let status = if number == 0 {
            let page = || {
                assert_eq!((prp1 % 4096, prp2), (0, 0));
                prp1
            };
            match opcode {
                0x06 => self.identify(page(), argument, namespace),
                0x09 => {
                    assert_eq!((argument, prp1), (7, 0), "one of each queue");
                    self.features_status
                }
                0x05 | 0x01 => self.create(opcode, page(), argument),
                other => panic!("admin command {other:#x}"),
            }
        } else if let Mode::Status(status) = self.mode {
            status
        } else {
            assert_eq!(namespace, NAMESPACE);
            match opcode {
                0x00 => {
                    assert_eq!((prp1, prp2, argument, argument_12), (0, 0, 0, 0));
                    self.flushes += 1;
                }
                0x01 | 0x02 => {
                    self.transfer(opcode, [prp1, prp2], argument, argument_12 as u32 + 1);
                }
                other => panic!("I/O command {other:#x}"),
            }
            0
        };
        let id = match self.mode {
            Mode::Id(id) => id.into(),
            _ => id,
        };
        let times = if self.mode == Mode::Twice && number == 1 {
            2
        } else {
            1
        };
        for _ in 0..times {
            self.complete(number, id, status);
        }
    }

    fn complete(&mut self, number: usize, id: u64, status: u16) {
        let queue = match self.mode {
            Mode::Queue(queue) => queue.into(),
            _ => number as u64,
        };
        let rings = self.queues[number].as_mut().expect("no such queue");
        let entry = rings.completions + rings.tail * 16;
        let phase = u64::from(rings.phase);
        rings.tail = (rings.tail + 1) % rings.entries;
        rings.phase ^= rings.tail == 0;
        let words = [
            0xdead_beef,
            0,
            rings.head | queue << 16,
            id | (phase | u64::from(status) << 1) << 16,
        ];
        for (at, word) in (entry..).step_by(4).zip(words) {
            self.memory.set(at, Width::W32, word);
        }
    }

    fn identify(&mut self, page: u64, structure: u64, namespace: u32) -> u16 {
        let bytes = match (structure, namespace) {
            (1, 0) => &self.controller,
            (0, NAMESPACE) => &self.namespace,
            (0, _) => &vec![0; 4096],
            other => panic!("identify {other:?}"),
        };
        let memory = self.memory.at(page, 4096);
        for (at, byte) in bytes.iter().enumerate() {
            memory.write(at, Width::W8, u64::from(*byte));
        }
        0
    }

    fn create(&mut self, opcode: u8, page: u64, argument: u64) -> u16 {
        let (id, last) = (argument & 0xffff, argument >> 16 & 0xffff);
        let flags = argument >> 32;
        assert_eq!(id, 1);
        assert!(last > 0 && last <= self.capabilities & 0xffff);
        if opcode == 0x05 {
            assert_eq!(flags, 1, "contiguous, no interrupt");
            assert!(self.queues[1].is_none());
            self.queues[1] = Some(Rings::new(0, page, last + 1));
        } else {
            assert_eq!(flags, 1 << 16 | 1, "contiguous, of completion queue 1");
            let rings = self.queues[1].as_mut().expect("completion queue first");
            assert_eq!(rings.entries, last + 1);
            rings.submissions = page;
        }
        0
    }

    fn transfer(&mut self, opcode: u8, prp: [u64; 2], first: u64, blocks: u32) {
        let len = blocks as usize * self.block_size;
        let limit = match self.controller[77] {
            0 => None,
            power => 4096_usize.checked_shl(power.into()),
        };
        assert!(limit.is_none_or(|limit| len <= limit), "longer than MDTS");
        let count = len.div_ceil(4096);
        let mut pages = vec![prp[0]];
        match count {
            1 => assert_eq!(prp[1], 0),
            2 => pages.push(prp[1]),
            _ => {
                assert_eq!(prp[1] % 8, 0);
                let inside = prp[1] % 4096 + 8 * (count as u64 - 1) <= 4096;
                assert!(inside, "the list crosses a page");
                let entries = (prp[1]..).step_by(8).take(count - 1);
                pages.extend(entries.map(|at| self.memory.get(at, Width::W64)));
            }
        }
        let mut at = first as usize * self.block_size;
        let end = at + len;
        for &page in &pages {
            assert_eq!(page % 4096, 0);
            let piece = (end - at).min(4096);
            let memory = self.memory.at(page, piece);
            for (index, byte) in self.medium[at..at + piece].iter_mut().enumerate() {
                match opcode {
                    0x02 => memory.write(index, Width::W8, u64::from(*byte)),
                    _ => *byte = memory.read(index, Width::W8) as u8,
                }
            }
            at += piece;
        }
        self.seen.push((opcode, first, blocks, pages));
    }
}

impl Rings {
    fn new(submissions: u64, completions: u64, entries: u64) -> Self {
        assert_eq!((submissions % 4096, completions % 4096), (0, 0));
        Self {
            submissions,
            completions,
            entries,
            head: 0,
            tail: 0,
            phase: true,
        }
    }
}

/// One of the function's register ranges.
#[derive(Debug)]
pub struct FakeRegisters {
    fake: Rc<RefCell<Fake>>,
    place: Place,
    size: usize,
}

#[derive(Debug)]
enum Place {
    Config,
    Registers,
    Doorbells,
}

impl Registers for FakeRegisters {
    fn size(&self) -> usize {
        self.size
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        assert_eq!(width, Width::W32);
        assert!(offset + 4 <= self.size);
        let fake = self.fake.borrow();
        match self.place {
            Place::Config => {
                let mut words = fake.config.iter().rev();
                words
                    .find(|word| word.0 == offset)
                    .map_or(0, |word| word.1.into())
            }
            Place::Registers => fake.read(offset),
            Place::Doorbells => panic!("read of a doorbell"),
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        assert_eq!(width, Width::W32);
        assert!(offset + 4 <= self.size);
        let mut fake = self.fake.borrow_mut();
        match self.place {
            // The status register is "write 1 to clear": it keeps its capability list bit.
            Place::Config if offset == 0x04 => {
                assert_eq!(value >> 16, 0, "clears a status bit");
                fake.config.push((offset, 0x0010_0000 | value as u32));
            }
            Place::Config => fake.config.push((offset, value as u32)),
            Place::Registers => fake.write(offset, value),
            Place::Doorbells => {
                let stride = fake.stride();
                assert_eq!(offset % stride, 0);
                fake.ring(offset / stride, value);
            }
        }
    }
}

/// Brings up the driver.
pub fn bring_up(
    fake: &Rc<RefCell<Fake>>,
    namespace: u32,
    memory: DmaBuffer,
    clock: &dyn Clock,
    timeout_us: u64,
) -> Result<Nvme<FakeRegisters>, DeviceError> {
    let window = PhysRange::with_len(PhysAddr(0x80_0000_0000), 1 << 39).unwrap();
    let bridge = HostBridge {
        ecam: PhysRange::with_len(PhysAddr(0x40_1000_0000), 256 << 20).unwrap(),
        first_bus: 0,
        windows: &[Window {
            pci_start: window.start.0,
            cpu: window,
        }],
    };
    let mut map = |at: PhysAddr, len: u64| {
        let place = match at.0 {
            0x40_1001_0000 => Place::Config,
            BAR_0 => Place::Registers,
            at if at == BAR_0 + 0x1000 => Place::Doorbells,
            _ => return None,
        };
        Some(FakeRegisters {
            fake: fake.clone(),
            place,
            size: usize::try_from(len).ok()?,
        })
    };
    let address = FunctionAddress {
        bus: 0,
        device: 2,
        function: 0,
    };
    let function = bridge.function(address, &mut map)?;
    let deadline = clock.deadline(timeout_us);
    Nvme::new(&function, &mut map, namespace, memory, clock, deadline)
}
