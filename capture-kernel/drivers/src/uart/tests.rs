//! Each UART against a fake of its registers: a FIFO of its own depth, whose bytes leave one by
//! one, and what the other side sent.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::format;
use std::vec::Vec;

use super::*;
use crate::registers::Width;

/// Which register is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Transmit,
    Receive,
    Both,
    Status,
    /// The second status register, if there are two.
    Status2,
    Control,
    Control2,
    Line,
    Identification,
    /// What has to be written before each byte.
    Setup,
    /// Commands, which are remembered.
    Command,
}

/// What a model's registers look like from outside, from its manual.
struct Chip {
    model: Model,
    width: Width,
    depth: usize,
    registers: &'static [(usize, Role)],
    /// The status for: full, empty, idle, something received.
    status: fn(Role, bool, bool, bool, bool) -> u64,
    /// What the control registers must have after it was switched on, if they held all ones or
    /// zeros before: (ones, zeros) in Control and Control2.
    on: [(u64, u64); 2],
}

fn bits(pairs: &[(bool, u32)]) -> u64 {
    pairs.iter().map(|(set, bit)| u64::from(*set) << bit).sum()
}

const fn ns(shift: u8, wide: bool, mini: bool) -> Model {
    Model::Ns16550(Ns16550 { shift, wide, mini })
}

fn line_status(_: Role, _: bool, empty: bool, idle: bool, has: bool) -> u64 {
    bits(&[(has, 0), (empty, 5), (idle, 6)])
}

/// What has to be written before each byte: the length of the transfer, and that it begins.
fn setup(model: Model) -> &'static [(usize, u64)] {
    match model {
        Model::UartDm => &[(0x40, 1)],
        Model::Geni => &[(0x270, 1), (0x600, 1 << 27)],
        _ => &[],
    }
}

fn chips() -> [Chip; 12] {
    let wide_8250: &[_] = &[
        (0, Role::Both),
        (8, Role::Identification),
        (12, Role::Line),
        (20, Role::Status),
    ];
    let narrow_8250: &[_] = &[
        (0, Role::Both),
        (2, Role::Identification),
        (3, Role::Line),
        (5, Role::Status),
    ];
    [
        Chip {
            model: Model::Pl011,
            width: Width::W32,
            depth: 16,
            registers: &[
                (0, Role::Both),
                (0x18, Role::Status),
                (0x2c, Role::Line),
                (0x30, Role::Control),
            ],
            status: |_, full, empty, idle, has| {
                bits(&[(!idle, 3), (!has, 4), (full, 5), (empty, 7)])
            },
            on: [(0x301, 0x8000), (0, 0)],
        },
        Chip {
            model: ns(0, false, false),
            width: Width::W8,
            depth: 16,
            registers: narrow_8250,
            status: line_status,
            on: [(0, 0); 2],
        },
        Chip {
            model: ns(2, false, false),
            width: Width::W8,
            depth: 16,
            registers: wide_8250,
            status: line_status,
            on: [(0, 0); 2],
        },
        Chip {
            model: ns(2, true, false),
            width: Width::W32,
            depth: 64,
            registers: wide_8250,
            status: line_status,
            on: [(0, 0); 2],
        },
        Chip {
            model: ns(2, true, true),
            width: Width::W32,
            depth: 8,
            registers: wide_8250,
            // Empty as soon as there is room.
            status: |_, full, _, idle, has| bits(&[(has, 0), (!full, 5), (idle, 6)]),
            on: [(0, 0); 2],
        },
        Chip {
            model: Model::Imx,
            width: Width::W32,
            depth: 32,
            registers: &[
                (0, Role::Receive),
                (0x40, Role::Transmit),
                (0x80, Role::Control),
                (0x84, Role::Control2),
                (0x98, Role::Status),
                (0xb4, Role::Status2),
            ],
            status: |role, full, empty, idle, has| match role {
                Role::Status => bits(&[(has, 0), (idle, 3)]),
                _ => bits(&[(full, 4), (empty, 6)]),
            },
            on: [(1, 0), (0x4006, 0)],
        },
        Chip {
            model: Model::Meson,
            width: Width::W32,
            depth: 64,
            registers: &[
                (0, Role::Transmit),
                (4, Role::Receive),
                (8, Role::Control),
                (0xc, Role::Status),
            ],
            status: |_, full, empty, idle, has| {
                bits(&[(!has, 20), (full, 21), (empty, 22), (!idle, 25)])
            },
            on: [(0xb000, 0), (0, 0)],
        },
        Chip {
            model: Model::Cadence,
            width: Width::W32,
            depth: 64,
            registers: &[(0, Role::Control), (0x2c, Role::Status), (0x30, Role::Both)],
            status: |_, full, empty, idle, has| {
                bits(&[(!has, 1), (empty, 3), (full, 4), (!idle, 11)])
            },
            on: [(0x14, 0x28), (0, 0)],
        },
        Chip {
            model: Model::Lpuart,
            width: Width::W32,
            depth: 32,
            registers: &[
                (0x14, Role::Status),
                (0x18, Role::Control),
                (0x1c, Role::Both),
                (0x24, Role::Control2),
                (0x28, Role::Status2),
            ],
            status: |role, full, empty, idle, has| match role {
                Role::Status => bits(&[(!full, 23), (idle, 22)]),
                // With a transmit FIFO of 32 words that is in use.
                _ => bits(&[(empty, 23), (!has, 22)]) | 0xc0,
            },
            on: [(0xc_0000, 0), (0, 1)],
        },
        Chip {
            model: Model::Mvebu,
            width: Width::W32,
            depth: 32,
            registers: &[(0, Role::Receive), (4, Role::Transmit), (0xc, Role::Status)],
            status: |_, full, empty, idle, has| {
                bits(&[(has, 4), (idle, 6), (full, 11), (empty, 13)])
            },
            on: [(0, 0); 2],
        },
        Chip {
            model: Model::UartDm,
            width: Width::W32,
            depth: 1,
            registers: &[
                (0, Role::Control2),
                (0x08, Role::Status),
                (0x10, Role::Command),
                (0x3c, Role::Control),
                (0x40, Role::Setup),
                (0x70, Role::Transmit),
            ],
            status: |_, _, empty, _, has| bits(&[(has, 0), (empty, 3)]),
            on: [(0, 0xffff_ffff), (0, 0x40)],
        },
        Chip {
            model: Model::Geni,
            width: Width::W32,
            depth: 1,
            registers: &[
                (0x40, Role::Status),
                (0x270, Role::Setup),
                (0x600, Role::Setup),
                (0x604, Role::Command),
                (0x700, Role::Transmit),
            ],
            status: |_, _, empty, _, _| bits(&[(!empty, 0)]),
            on: [(0, 0); 2],
        },
    ]
}

struct Fake {
    chip: Chip,
    fifo: RefCell<VecDeque<u8>>,
    line: RefCell<Vec<u8>>,
    incoming: RefCell<VecDeque<u8>>,
    control: Cell<[u64; 2]>,
    line_control: Cell<u64>,
    /// Whether bytes leave the FIFO: one for each look at the status.
    moves: Cell<bool>,
    looks: Cell<usize>,
    /// What was set up for the next byte.
    setup: RefCell<Vec<(usize, u64)>>,
    /// The length of a transfer that somebody else began.
    foreign: u64,
    commands: RefCell<Vec<u64>>,
}

impl Fake {
    fn new(chip: Chip) -> Self {
        Self {
            chip,
            fifo: RefCell::default(),
            line: RefCell::default(),
            incoming: RefCell::default(),
            control: Cell::new([0; 2]),
            line_control: Cell::new(0),
            moves: Cell::new(true),
            looks: Cell::new(0),
            setup: RefCell::default(),
            foreign: 0,
            commands: RefCell::default(),
        }
    }

    fn role(&self, offset: usize, width: Width) -> Role {
        assert_eq!(width, self.chip.width, "{:?}", self.chip.model);
        let found = self.chip.registers.iter().find(|(at, _)| *at == offset);
        found
            .unwrap_or_else(|| panic!("{:?} has no {offset:#x}", self.chip.model))
            .1
    }
}

impl Registers for &Fake {
    fn size(&self) -> usize {
        0x1000
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        let role = self.role(offset, width);
        match role {
            Role::Both | Role::Receive => {
                assert_eq!(self.line_control.get() & 0x80, 0, "reads the divisor");
                // With an error flag above the byte, as some have it there.
                let byte = self.incoming.borrow_mut().pop_front();
                u64::from(byte.expect("nothing was received"))
            }
            Role::Status | Role::Status2 => {
                self.looks.set(self.looks.get() + 1);
                let mut fifo = self.fifo.borrow_mut();
                if self.moves.get() {
                    self.line.borrow_mut().extend(fifo.pop_front());
                }
                let (full, empty) = (fifo.len() >= self.chip.depth, fifo.is_empty());
                let has = !self.incoming.borrow().is_empty();
                (self.chip.status)(role, full, empty, empty, has)
            }
            Role::Control => self.control.get()[0],
            Role::Control2 => self.control.get()[1],
            // Of the PL011, bit 4: the FIFOs are on.
            Role::Line => self.line_control.get() | 0x10,
            Role::Identification => 0xc1,
            Role::Setup => self.foreign,
            Role::Transmit | Role::Command => panic!("reads what is to be written"),
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let [control, control_2] = self.control.get();
        match self.role(offset, width) {
            Role::Both | Role::Transmit => {
                assert_eq!(self.line_control.get() & 0x80, 0, "writes the divisor");
                let mut fifo = self.fifo.borrow_mut();
                assert!(
                    fifo.len() < self.chip.depth,
                    "overrun of {:?}",
                    self.chip.model
                );
                let set_up = self.setup.take();
                assert_eq!(set_up, setup(self.chip.model), "{:?}", self.chip.model);
                fifo.push_back(u8::try_from(value).unwrap());
            }
            Role::Control => self.control.set([value, control_2]),
            Role::Control2 => self.control.set([control, value]),
            Role::Line => self.line_control.set(value & !0x10),
            Role::Setup => self.setup.borrow_mut().push((offset, value)),
            Role::Command => self.commands.borrow_mut().push(value),
            role => panic!("write to {role:?}"),
        }
    }
}

impl Fake {
    fn uart<C: Clock>(&self, clock: C) -> Uart<&Self, C> {
        Uart::new(self, SwitchedOn::new(&self, self.chip.model), clock)
    }
}

/// Each look takes a millisecond.
#[derive(Default)]
struct SlowClock(Cell<u64>);

impl Clock for SlowClock {
    fn now_us(&self) -> u64 {
        self.0.set(self.0.get() + 1000);
        self.0.get()
    }
}

#[test]
fn all_bytes_go_out_in_order_and_none_is_overrun() {
    let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
    for chip in chips() {
        let fake = Fake::new(chip);
        let mut uart = fake.uart(SlowClock::default());
        uart.write_all(&text).unwrap();
        uart.flush().unwrap();
        assert_eq!(*fake.line.borrow(), text, "{:?}", fake.chip.model);
    }
}

#[test]
fn an_empty_fifo_is_filled_without_asking_for_each_byte() {
    for chip in chips() {
        let fake = Fake::new(chip);
        let mut uart = fake.uart(SlowClock::default());
        fake.moves.set(false);
        fake.looks.set(0);
        assert_eq!(uart.write(&[0x55; 100]), Ok(fake.fifo.borrow().len()));
        let (looks, written) = (fake.looks.get(), fake.fifo.borrow().len());
        assert!(written <= fake.chip.depth);
        let mini = fake.chip.model == ns(2, true, true);
        assert!(
            looks <= 2 + written / 4 || mini,
            "{looks} looks for {written} bytes"
        );
    }
}

#[test]
fn what_was_received_is_read_and_no_more() {
    for chip in chips() {
        let fake = Fake::new(chip);
        let mut uart = fake.uart(SlowClock::default());
        let mut into = [0; 8];
        assert_eq!(uart.read_ready(), Ok(false));
        assert_eq!(uart.read(&mut into), Err(UartError::Silent));
        fake.incoming.borrow_mut().extend(b"kdraw says hello");
        if matches!(fake.chip.model, Model::UartDm | Model::Geni) {
            assert_eq!(uart.read_ready(), Ok(false), "they only send");
            continue;
        }
        assert_eq!(uart.read_ready(), Ok(true));
        let mut all: Vec<u8> = Vec::new();
        while uart.read_ready() == Ok(true) {
            let count = uart.read(&mut into).unwrap();
            all.extend(&into[..count]);
        }
        assert_eq!(all, b"kdraw says hello", "{:?}", fake.chip.model);
    }
}

#[test]
fn a_stuck_line_costs_one_wait_and_recovers() {
    for chip in chips() {
        let fake = Fake::new(chip);
        let clock = SlowClock::default();
        let mut uart = fake.uart(&clock);
        fake.moves.set(false);
        let mut written = 0;
        while let Ok(count) = uart.write(&[1; 100]) {
            written += count;
        }
        let waited = clock.0.get();
        assert!(waited > STUCK_AFTER_US, "{:?}", fake.chip.model);
        for _ in 0..100 {
            assert_eq!(uart.write(b"x"), Err(UartError::Stuck));
        }
        assert!(
            clock.0.get() - waited < 500_000,
            "later writes must not wait"
        );
        assert_eq!(uart.flush(), Err(UartError::Stuck));
        fake.moves.set(true);
        // Where only an empty FIFO is told, that takes as long as it takes.
        let tries = (0..100).find(|_| uart.write(b"d").is_ok());
        assert!(tries.is_some(), "{:?}", fake.chip.model);
        uart.write_all(b"ef").unwrap();
        uart.flush().unwrap();
        let mut expected = std::vec![1; written];
        expected.extend(b"def");
        assert_eq!(*fake.line.borrow(), expected);
    }
}

#[test]
fn it_is_switched_on_and_the_rest_stays() {
    for all in [0, u64::from(u32::MAX)] {
        for chip in chips() {
            let fake = Fake::new(chip);
            fake.control.set([all; 2]);
            fake.line_control.set(0x83);
            let _ = fake.uart(SlowClock::default());
            if fake.chip.model == Model::UartDm {
                assert_eq!(
                    *fake.commands.borrow(),
                    [4],
                    "the transmitter is switched on"
                );
            }
            let is_8250 = matches!(fake.chip.model, Model::Ns16550(_));
            assert_eq!(fake.line_control.get(), if is_8250 { 0x03 } else { 0x83 });
            for (found, (ones, zeros)) in fake.control.get().into_iter().zip(fake.chip.on) {
                let expected = (all | ones) & !zeros;
                let model = format!("{:?}", fake.chip.model);
                assert_eq!(found, expected, "{model}: {found:#x}");
            }
        }
    }
}

#[test]
fn a_transfer_of_the_crashed_kernel_is_cancelled_and_ours_is_not() {
    for (length, busy, cancels) in [(17, true, 1), (17, false, 0), (1, true, 0)] {
        let mut fake = Fake::new(chips().into_iter().next_back().unwrap());
        fake.foreign = length;
        fake.moves.set(false);
        fake.fifo.borrow_mut().extend(busy.then_some(0));
        let _ = SwitchedOn::new(&&fake, Model::Geni);
        assert_eq!(
            *fake.commands.borrow(),
            std::vec![4; cancels],
            "{length} {busy}"
        );
    }
}
