//! The SD card layer on the standard host controller, against fakes, sound and failing.

mod fake_sd;
mod machine;

use std::cell::RefCell;
use std::rc::Rc;

use fake_sd::bench::{
    Clocked, PASSING_FAULTS, PROOF, PROOF_LBA, Result, clock, describe, known, patterned, run,
    wait, with_proof, write_and_read,
};
use fake_sd::card::{Model, State, Trouble};
use fake_sd::sdhci::Controller;
use fake_sd::{FakeHost as _, FakeRegisters};
use kdraw_drivers::sd::card::{Card, Kind, Known, Proof, SCRATCH, TRIES};
use kdraw_drivers::sd::sdhci::{MAX_TRANSFER, Sdhci, Setup, capability};
use kdraw_drivers::sd::{self, MEMORY_BYTES};
use kdraw_format::addr::Lba;
use kdraw_pipeline::ports::{BlockDevice, Clock, DeviceError, DmaBuffer, Operation};
use machine::{refuses_write, request, start};

type Device = Card<Sdhci<FakeRegisters<Controller>, Clocked>, Clocked>;

const SETUP: Setup = Setup {
    width: 0,
    base_clock_hz: 0,
    max_clock_hz: 0,
    coherent: true,
    broken: 0,
    foreign_clock: false,
};

const ALL: [Model; 5] = [
    Model::SdV1,
    Model::SdV2,
    Model::Sdhc,
    Model::Sdhc3,
    Model::Mmc,
];

fn bring_up(
    registers: FakeRegisters<Controller>,
    clock: Clocked,
    memory: DmaBuffer,
    setup: Setup,
    proof: Option<Proof<'_>>,
) -> Result<Device> {
    let (descriptors, scratch) = sd::memory_for(memory)?;
    let host = Sdhci::new(registers, clock, descriptors, setup);
    Card::new(host, clock, scratch, proof)
}

/// Brings the card up, within what the docs promise.
fn probe(
    controller: &Rc<RefCell<Controller>>,
    setup: Setup,
    known: Option<Known>,
) -> Result<Device> {
    let memory = controller.borrow_mut().allocate(MEMORY_BYTES);
    let clock = clock();
    let registers = FakeRegisters(controller.clone());
    let card = with_proof(known, |proof| {
        bring_up(registers, clock, memory, setup, proof)
    });
    assert!(clock.now_us() < 6_000_000, "{} µs", clock.now_us());
    card
}

fn up(controller: &Rc<RefCell<Controller>>) -> Device {
    probe(controller, SETUP, None).unwrap()
}

#[test]
fn cards_are_identified_and_run_as_fast_as_is_safe() {
    let qemu: fn(Model) -> _ = Controller::new;
    let version_3: fn(Model) -> _ = Controller::version_3;
    let table = [
        (Model::SdV1, qemu, 2 << 20, "SD card", "4 bit at 13.0 MHz"),
        (Model::SdV2, qemu, 2 << 20, "SD card", "4 bit at 26.0 MHz"),
        (Model::Sdhc, qemu, 16 << 20, "SD card", "4 bit at 26.0 MHz"),
        (
            Model::Sdhc3,
            version_3,
            16 << 20,
            "SD card",
            "4 bit at 50.0 MHz",
        ),
        (Model::Mmc, qemu, 8 << 20, "eMMC", "4 bit at 52.0 MHz"),
        (Model::Mmc, version_3, 8 << 20, "eMMC", "8 bit at 50.0 MHz"),
    ];
    for (model, make, blocks, kind, bus) in table {
        let controller = make(model);
        let mut device = up(&controller);
        let text = describe(&device);
        assert!(text.starts_with(kind), "{model:?}: {text}");
        assert!(text.contains("identified from scratch"), "{text}");
        assert!(text.contains(bus), "{model:?}: {text}");
        assert_eq!(device.geometry().blocks, blocks, "{model:?}");
        assert_eq!(controller.borrow().card.state, State::Transfer);
        write_and_read(&controller, &mut device, 3, 4096);
    }
}

#[test]
fn a_bus_is_no_faster_or_wider_than_card_host_and_board_allow() {
    type Spoil = fn(&mut Controller);
    let no_spoil: Spoil = |_| ();
    let table: [(Model, Spoil, Setup, &str); 7] = [
        (
            Model::Sdhc,
            no_spoil,
            Setup { width: 1, ..SETUP },
            "1 bit at 26.0",
        ),
        (
            Model::Mmc,
            no_spoil,
            Setup { width: 1, ..SETUP },
            "1 bit at 52.0",
        ),
        (
            Model::Sdhc,
            |it| it.card.four_lines = false,
            SETUP,
            "1 bit at 26.0",
        ),
        (
            Model::Sdhc,
            |it| it.card.knows_high_speed = false,
            SETUP,
            "4 bit at 13.0",
        ),
        (
            Model::Sdhc,
            no_spoil,
            Setup {
                broken: capability::HIGH_SPEED,
                ..SETUP
            },
            "4 bit at 13.0",
        ),
        (
            Model::Sdhc,
            no_spoil,
            Setup {
                max_clock_hz: 10_000_000,
                ..SETUP
            },
            "4 bit at 6.5",
        ),
        // Half the clock that is there, if the board says that it is double.
        (
            Model::Sdhc,
            no_spoil,
            Setup {
                base_clock_hz: 104_000_000,
                ..SETUP
            },
            "4 bit at 26.0",
        ),
    ];
    for (model, spoil, setup, bus) in table {
        let controller = Controller::new(model);
        spoil(&mut controller.borrow_mut());
        let mut device = probe(&controller, setup, None).unwrap();
        assert!(
            describe(&device).contains(bus),
            "{bus}: {}",
            describe(&device)
        );
        write_and_read(&controller, &mut device, 3, 4096);
    }
}

#[test]
fn ddr_is_used_where_the_lines_have_its_voltage() {
    let controller = Controller::version_3(Model::Mmc);
    controller.borrow_mut().words[0x3c / 4] = 1 << 19;
    let mut device = up(&controller);
    assert!(
        describe(&device).contains("8 bit at 50.0 MHz DDR"),
        "{}",
        describe(&device)
    );
    assert!(controller.borrow().card.ddr);
    write_and_read(&controller, &mut device, 3, 4096);
}

#[test]
fn every_way_moves_every_byte() {
    const BOTH: u64 = capability::ADMA2 | capability::SDMA;
    let high = 0x1_0000_0000_u64;
    let wide = capability::ADDRESSES_64_V4;
    // (broken capabilities, more capabilities, version, where buffers are, way)
    let table = [
        (0, 0, 1, 0, "ADMA2"),
        (capability::ADMA2, 0, 1, 0, "SDMA"),
        (BOTH, 0, 1, 0, "port"),
        // What is out of reach.
        (0, 0, 1, high, "port"),
        (0, capability::ADDRESSES_64_V3, 2, high, "ADMA2-64"),
        (0, wide, 3, high, "ADMA2-64 v4"),
        (0, wide, 3, 0, "ADMA2"),
    ];
    for (broken, more, version, place, way) in table {
        for model in [Model::Sdhc, Model::Sdhc3, Model::Mmc] {
            let controller = Controller::new(model);
            controller.borrow_mut().version = version;
            controller.borrow_mut().capabilities |= more;
            let mut device = probe(&controller, Setup { broken, ..SETUP }, None).unwrap();
            controller.borrow_mut().ways.clear();
            // One block, several, more than one descriptor, over SDMA's boundaries, all.
            for (turn, len) in [512, 4096, 0x1_2000, 0x8_1000, MAX_TRANSFER as usize]
                .into_iter()
                .enumerate()
            {
                let address = 0x57ff_9000 + place + ((turn as u64) << 27);
                let buffer = controller.borrow_mut().allocate_at(len, address);
                buffer.bytes.fill(turn as u8 + 1);
                for (index, word) in buffer.bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    *word = (index as u32 ^ 0xa5a5_0000).to_le_bytes();
                }
                let expected = buffer.bytes.to_vec();
                let buffer = run(&mut device, Operation::Write, 9, buffer).unwrap();
                assert!(controller.borrow().card.medium[9 * 512..][..len] == expected);
                buffer.bytes.fill(0);
                let buffer = run(&mut device, Operation::Read, 9, buffer).unwrap();
                assert!(buffer.bytes == expected);
            }
            let controller = controller.borrow();
            assert!(
                controller.ways.iter().all(|&used| used == way),
                "{way}: {:?}",
                controller.ways
            );
            assert_eq!(controller.ways.len(), 10, "no retries");
        }
    }
}

#[test]
fn counted_and_uncounted_transfers_end_as_they_must() {
    for (model, expected) in [
        (Model::Sdhc3, &[23, 25, 13, 23, 18, 24, 13][..]),
        (Model::Mmc, &[23, 25, 13, 23, 18, 24, 13]),
        (Model::Sdhc, &[25, 12, 13, 18, 12, 24, 13]),
    ] {
        let controller = Controller::new(model);
        let mut device = up(&controller);
        controller.borrow_mut().card.heard.clear();
        let buffer = patterned(&controller, 4096, 1);
        let buffer = run(&mut device, Operation::Write, 5, buffer).unwrap();
        run(&mut device, Operation::Read, 5, buffer).unwrap();
        let single = patterned(&controller, 512, 1);
        run(&mut device, Operation::Write, 5, single).unwrap();
        assert_eq!(controller.borrow().card.heard, expected, "{model:?}");
    }
}

#[test]
fn a_card_that_cannot_count_is_stopped() {
    let controller = Controller::new(Model::Sdhc3);
    let mut device = up(&controller);
    let refusal = Trouble::Status(1 << 22);
    controller
        .borrow_mut()
        .card
        .troubles
        .push_back((23, refusal));
    write_and_read(&controller, &mut device, 5, 4096);
    let heard = controller.borrow().card.heard.clone();
    assert!(heard.ends_with(&[25, 12, 13, 18, 12]), "{heard:?}");
}

#[test]
fn a_write_is_done_when_the_card_has_programmed() {
    let controller = Controller::new(Model::Sdhc3);
    let mut device = up(&controller);
    controller.borrow_mut().card.programming = 50;
    controller.borrow_mut().card.heard.clear();
    let buffer = patterned(&controller, 4096, 1);
    run(&mut device, Operation::Write, 5, buffer).unwrap();
    let controller = controller.borrow();
    let asked = controller.card.heard.iter().filter(|&&it| it == 13).count();
    assert!(asked >= 50, "{asked}");
}

#[test]
fn requests_wait_in_line() {
    let controller = Controller::new(Model::Sdhc3);
    let mut device = up(&controller);
    let depth = device.geometry().queue_depth as u64;
    for lba in 0..depth {
        let buffer = patterned(&controller, 8192, lba as u32);
        start(&mut device, request(Operation::Write, lba * 16, buffer)).unwrap();
    }
    let buffer = patterned(&controller, 8192, 9);
    let refused = start(&mut device, request(Operation::Write, 900, buffer));
    assert_eq!(refused, Err(DeviceError::QueueFull));
    for lba in 0..depth {
        let done = wait(&mut device);
        assert_eq!((done.lba, done.result), (Lba(lba * 16), Ok(())));
    }
    assert!(device.poll().is_none());
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    for model in ALL {
        let controller = Controller::new(model);
        let mut device = up(&controller);
        let blocks = device.geometry().blocks;
        for (lba, len, size) in [
            (0, 0, 4096),
            (0, 100, 4096),
            (0, 8192, 4096),
            (blocks, 512, 4096),
            (blocks - 1, 1024, 4096),
            (u64::MAX, 512, 4096),
            (0, MAX_TRANSFER as usize + 512, 2 << 20),
        ] {
            let buffer = controller.borrow_mut().allocate(size);
            refuses_write(&mut device, lba, len, buffer);
        }
    }
}

/// Faults that pass: everything lands all the same.
#[test]
fn faults_that_pass_are_mended() {
    for model in [Model::Sdhc3, Model::Mmc] {
        for (index, trouble) in PASSING_FAULTS {
            for known in [None, Some(())] {
                let controller = Controller::new(model);
                let mut device = match known {
                    None => up(&controller),
                    Some(()) => taken_over(&controller),
                };
                let text = describe(&device);
                controller
                    .borrow_mut()
                    .card
                    .troubles
                    .push_back((index, trouble));
                let buffer = patterned(&controller, 16 << 10, 3);
                let expected = buffer.bytes.to_vec();
                let result = run(&mut device, Operation::Write, 70, buffer);
                assert!(result.is_ok(), "{trouble:?} at {index}: {result:?}");
                let controller = controller.borrow();
                assert!(controller.card.troubles.is_empty());
                assert!(controller.card.medium[70 * 512..][..16 << 10] == expected);
                // One fault makes nothing slower.
                let now = describe(&device);
                assert_eq!(now, format!("{text}, 1 retries"), "{trouble:?} at {index}");
            }
        }
    }
}

/// A card that has been taken over, in a version 3 controller.
fn taken_over(controller: &Rc<RefCell<Controller>>) -> Device {
    let known = {
        let mut controller = controller.borrow_mut();
        controller.leave_running();
        known(&mut controller.card)
    };
    if known.kind == Kind::Mmc {
        controller.borrow_mut().capabilities |= capability::EIGHT_LINES;
    }
    let device = probe(controller, SETUP, Some(known)).unwrap();
    let text = describe(&device);
    assert!(text.contains("taken over as Linux left it"), "{text}");
    device
}

#[test]
fn a_bus_that_garbles_is_slowed_down() {
    // From 50 MHz; at which clock it works.
    for (limit, tries) in [(25_000_000, 2), (13_000_000, 3), (7_000_000, 4)] {
        let controller = Controller::version_3(Model::Sdhc3);
        let mut device = up(&controller);
        controller.borrow_mut().garbles_above_hz = limit;
        let buffer = patterned(&controller, 16 << 10, 3);
        let expected = buffer.bytes.to_vec();
        run(&mut device, Operation::Write, 70, buffer).unwrap();
        assert!(controller.borrow().card.medium[70 * 512..][..16 << 10] == expected);
        assert!(controller.borrow().hz() <= limit);
        let text = describe(&device);
        assert!(
            text.ends_with(&format!("{tries} retries")),
            "{limit}: {text}"
        );
        // And it stays slow.
        write_and_read(&controller, &mut device, 3, 4096);
        assert_eq!(describe(&device), text);
    }
}

#[test]
fn a_bus_that_is_hopeless_ends_the_request_and_not_the_card() {
    let controller = Controller::version_3(Model::Sdhc3);
    let mut device = up(&controller);
    controller.borrow_mut().garbles_above_hz = 100_000;
    let buffer = patterned(&controller, 4096, 3);
    let result = run(&mut device, Operation::Write, 70, buffer);
    assert!(
        matches!(result, Err(DeviceError::Unusable(_))),
        "{result:?}"
    );
    assert!(describe(&device).ends_with(&format!("{TRIES} retries")));
    controller.borrow_mut().garbles_above_hz = u32::MAX;
    write_and_read(&controller, &mut device, 3, 4096);
}

#[test]
fn a_card_taken_over_that_garbles_is_identified_from_scratch() {
    let controller = Controller::version_3(Model::Sdhc3);
    let mut device = taken_over(&controller);
    controller.borrow_mut().garbles_above_hz = 30_000_000;
    controller.borrow_mut().card.heard.clear();
    write_and_read(&controller, &mut device, 3, 4096);
    let text = describe(&device);
    assert!(
        text.contains("identified from scratch, 4 bit at 25.0 MHz"),
        "{text}"
    );
    assert!(controller.borrow().card.heard.contains(&141));
}

#[test]
fn dma_that_does_not_reach_memory_gives_way() {
    let controller = Controller::new(Model::Sdhc3);
    let mut device = up(&controller);
    for _ in 0..2 {
        let trouble = (25, Trouble::NoMemory(1));
        controller.borrow_mut().card.troubles.push_back(trouble);
    }
    controller.borrow_mut().ways.clear();
    let buffer = patterned(&controller, 4096, 3);
    run(&mut device, Operation::Write, 70, buffer).unwrap();
    assert_eq!(controller.borrow().ways, ["ADMA2", "SDMA", "port"]);
    assert!(describe(&device).contains("by PIO"));
}

#[test]
fn what_the_card_refuses_costs_one_request() {
    let controller = Controller::new(Model::Sdhc3);
    let mut device = up(&controller);
    controller.borrow_mut().card.bad_block = Some(75);
    for lba in [60, 70, 80] {
        let buffer = patterned(&controller, 5120, lba as u32);
        let result = run(&mut device, Operation::Write, lba, buffer);
        match lba {
            70 => assert!(matches!(result, Err(DeviceError::Io { .. })), "{result:?}"),
            _ => assert!(result.is_ok(), "{lba}: {result:?}"),
        }
    }
}

#[test]
fn read_only_cards_are_only_read() {
    for model in ALL {
        let controller = Controller::new(model);
        controller.borrow_mut().card.protected = true;
        let mut device = up(&controller);
        let buffer = patterned(&controller, 4096, 3);
        let refused = start(&mut device, request(Operation::Write, 0, buffer));
        assert_eq!(refused, Err(DeviceError::ReadOnly));
        let buffer = patterned(&controller, 4096, 3);
        run(&mut device, Operation::Read, 0, buffer).unwrap();
    }
    // Protected after it was identified.
    let controller = Controller::new(Model::Sdhc3);
    let mut device = up(&controller);
    controller.borrow_mut().card.protected = true;
    let buffer = patterned(&controller, 4096, 3);
    let refused = run(&mut device, Operation::Write, 0, buffer);
    assert_eq!(refused.unwrap_err(), DeviceError::ReadOnly);
}

#[test]
fn a_card_that_is_gone_ends_everything_in_time() {
    for operation in [Operation::Write, Operation::Read] {
        let controller = Controller::new(Model::Sdhc3);
        let memory = controller.borrow_mut().allocate(MEMORY_BYTES);
        let clock = clock();
        let registers = FakeRegisters(controller.clone());
        let mut device = bring_up(registers, clock, memory, SETUP, None).unwrap();
        controller.borrow_mut().card.removed = true;
        let before = clock.now_us();
        let buffer = patterned(&controller, 4096, 3);
        let result = run(&mut device, operation, 0, buffer);
        let gone = DeviceError::NotFound("the card does not answer any more");
        assert_eq!(result.unwrap_err(), gone);
        assert!(clock.now_us() - before < 3_000_000);
        let buffer = patterned(&controller, 4096, 3);
        assert_eq!(start(&mut device, request(operation, 0, buffer)), Err(gone));
        let deadline = clock.deadline(1000);
        assert_eq!(device.flush(clock, deadline), Err(gone));
    }
}

#[test]
fn another_card_is_never_written() {
    for mid_write in [false, true] {
        let controller = Controller::new(Model::Sdhc3);
        let mut device = up(&controller);
        {
            let card = &mut controller.borrow_mut().card;
            // Another one was put in: it is idle and knows no address.
            (card.cid[1], card.state, card.rca) = (1234, State::Idle, 0);
            (card.width, card.high_speed) = (1, false);
            if mid_write {
                card.troubles.push_back((23, Trouble::Mute));
            }
        }
        let buffer = patterned(&controller, 4096, 3);
        let result = run(&mut device, Operation::Write, 0, buffer);
        assert!(
            matches!(result, Err(DeviceError::NotFound(_))),
            "{result:?}"
        );
        assert!(
            controller
                .borrow()
                .card
                .medium
                .iter()
                .all(|&byte| byte == 0)
        );
    }
}

#[test]
fn a_card_that_lost_its_power_is_identified_again() {
    let controller = Controller::new(Model::Sdhc3);
    let mut device = up(&controller);
    {
        let card = &mut controller.borrow_mut().card;
        (card.state, card.rca, card.power_up) = (State::Idle, 0, 2);
        (card.width, card.high_speed) = (1, false);
    }
    write_and_read(&controller, &mut device, 8, 8192);
    assert!(describe(&device).ends_with("1 retries"));
}

#[test]
fn power_that_is_refused_for_a_while_is_asked_for_again() {
    let controller = Controller::new(Model::Sdhc);
    controller.borrow_mut().power_refusals = 100;
    let mut device = up(&controller);
    assert_eq!(controller.borrow().power_refusals, 0);
    write_and_read(&controller, &mut device, 8, 8192);
}

#[test]
fn a_dead_host_or_an_empty_slot_is_told() {
    let empty = Controller::new(Model::Sdhc);
    empty.borrow_mut().card.removed = true;
    let found = probe(&empty, SETUP, None);
    let no_card = DeviceError::NotFound("no card answers the SD host controller");
    assert_eq!(found.unwrap_err(), no_card);

    let stuck = Controller::new(Model::Sdhc);
    stuck.borrow_mut().stuck = true;
    let found = probe(&stuck, SETUP, None);
    assert_eq!(
        found.unwrap_err(),
        DeviceError::Timeout("the SD host controller")
    );

    let slow = Controller::new(Model::Sdhc);
    slow.borrow_mut().card.power_up = u32::MAX;
    let found = probe(&slow, SETUP, None);
    assert_eq!(
        found.unwrap_err(),
        DeviceError::Timeout("the SD card's power-up")
    );

    let unslowable = Controller::new(Model::Sdhc);
    let setup = Setup {
        foreign_clock: true,
        ..SETUP
    };
    assert!(probe(&unslowable, setup, None).is_err());
    assert!(unslowable.borrow().card.heard.is_empty());

    let controller = Controller::new(Model::Sdhc);
    let memory = controller.borrow_mut().allocate(MEMORY_BYTES - 4096);
    let registers = FakeRegisters(controller.clone());
    let short = bring_up(registers, clock(), memory, SETUP, None);
    assert!(matches!(short, Err(DeviceError::Unusable(_))));
}

#[test]
fn a_running_card_is_taken_over_as_it_is() {
    for model in [Model::Sdhc, Model::Sdhc3, Model::Mmc] {
        // Linux may have died while it read or wrote.
        for state in [
            State::Transfer,
            State::Sending,
            State::Receiving,
            State::Standby,
        ] {
            let controller = Controller::new(model);
            controller.borrow_mut().leave_running();
            controller.borrow_mut().card.state = state;
            controller.borrow_mut().words[0x24 / 4] = 3;
            let hz = controller.borrow().hz();
            let mut device = {
                let mut it = controller.borrow_mut();
                it.card.medium[PROOF_LBA as usize * 512..][..SCRATCH].fill(PROOF);
                if model == Model::Mmc {
                    it.capabilities |= capability::EIGHT_LINES;
                }
                let kind = if model == Model::Mmc {
                    Kind::Mmc
                } else {
                    Kind::Sd
                };
                let rca = it.card.rca as u16;
                drop(it);
                probe(&controller, SETUP, Some(Known { kind, rca })).unwrap()
            };
            let text = describe(&device);
            assert!(text.contains("taken over"), "{model:?} {state:?}: {text}");
            assert_eq!(controller.borrow().hz(), hz);
            assert!(!controller.borrow().card.heard.contains(&0));
            write_and_read(&controller, &mut device, 8, 8192);
        }
    }
}

#[test]
fn what_cannot_be_taken_over_is_identified() {
    type Spoil = fn(&mut Controller);
    let table: [(&str, Spoil); 8] = [
        ("no clock", |it| it.words[0x2c / 4] = 0),
        ("no power", |it| it.words[0x28 / 4] &= !0x100),
        ("another address", |it| it.card.rca = 0x1111),
        ("not identified", |it| it.card.state = State::Idle),
        ("another bus width", |it| it.card.width = 1),
        ("a cache that may be on", |it| it.card.extensions = true),
        ("wrong proof", |it| {
            it.card.medium[PROOF_LBA as usize * 512 + 77] = 0
        }),
        ("a proof that cannot be read", |it| {
            it.card.troubles.push_back((18, Trouble::DataGarbled(3)));
        }),
    ];
    for (what, spoil) in table {
        let controller = Controller::new(Model::Sdhc3);
        controller.borrow_mut().leave_running();
        let rca = controller.borrow().card.rca as u16;
        controller.borrow_mut().card.medium[PROOF_LBA as usize * 512..][..SCRATCH].fill(PROOF);
        spoil(&mut controller.borrow_mut());
        let known = Known {
            kind: Kind::Sd,
            rca,
        };
        let mut device = probe(&controller, SETUP, Some(known)).unwrap();
        let text = describe(&device);
        assert!(text.contains("identified from scratch"), "{what}: {text}");
        write_and_read(&controller, &mut device, 8, 8192);
    }
}

#[test]
fn a_foreign_clock_stays_as_linux_left_it() {
    let controller = Controller::version_3(Model::Sdhc3);
    controller.borrow_mut().leave_running();
    controller.borrow_mut().card.medium[PROOF_LBA as usize * 512..][..SCRATCH].fill(PROOF);
    let known = Known {
        kind: Kind::Sd,
        rca: controller.borrow().card.rca as u16,
    };
    let setup = Setup {
        foreign_clock: true,
        ..SETUP
    };
    let clock_register = controller.borrow().words[0x2c / 4];
    let mut device = probe(&controller, setup, Some(known)).unwrap();
    assert_eq!(controller.borrow().words[0x2c / 4], clock_register);
    write_and_read(&controller, &mut device, 8, 8192);
}

#[test]
fn a_cache_is_flushed() {
    let controller = Controller::new(Model::Mmc);
    let mut device = up(&controller);
    assert_eq!(controller.borrow().card.ext_csd[33], 1, "switched on");
    let buffer = patterned(&controller, 4096, 3);
    run(&mut device, Operation::Write, 0, buffer).unwrap();
    assert_ne!(controller.borrow().card.unflushed, 0);
    let clock = clock();
    let deadline = clock.deadline(100_000);
    controller.borrow_mut().card.programming = 20;
    assert_eq!(device.flush(clock, deadline), Ok(()));
    assert_eq!(controller.borrow().card.unflushed, 0);

    // A device that stays busy costs no more than the deadline and one wait for it.
    controller.borrow_mut().card.programming = u32::MAX;
    let deadline = clock.deadline(100_000);
    let silent = device.flush(clock, deadline);
    assert!(matches!(silent, Err(DeviceError::Timeout(_))), "{silent:?}");

    // No cache, nothing to flush.
    let controller = Controller::new(Model::Sdhc);
    let mut device = up(&controller);
    controller.borrow_mut().card.heard.clear();
    assert_eq!(device.flush(clock, deadline), Ok(()));
    assert!(controller.borrow().card.heard.is_empty());
}

#[test]
fn the_end_of_busy_is_seen_without_its_interrupt() {
    let controller = Controller::new(Model::Sdhc);
    controller.borrow_mut().no_busy_interrupt = true;
    let mut device = up(&controller);
    write_and_read(&controller, &mut device, 8, 8192);
    assert!(!describe(&device).contains("retries"));
}

/// Device-register accesses for each MiB written in chunks of the size that a capture's have, when
/// the device is never waited for. Each more is a trap under a hypervisor, and a wait for a slow
/// bus on hardware.
#[test]
fn a_mebibyte_takes_few_register_accesses() {
    const CHUNK: usize = 256 << 10;
    for (model, broken, limit) in [
        (Model::Sdhc3, 0, 84),
        (Model::Mmc, 0, 84),
        (Model::Sdhc, 0, 84),
        (Model::Sdhc3, capability::ADMA2, 84),
        // Through the port each word is an access, and each block a look and a clearing.
        (
            Model::Sdhc3,
            capability::ADMA2 | capability::SDMA,
            (1 << 20) / 4 + 2 * 2048 + 84,
        ),
    ] {
        let controller = Controller::new(model);
        let mut device = probe(&controller, Setup { broken, ..SETUP }, None).unwrap();
        let mut buffers: Vec<_> = (0..4)
            .map(|seed| patterned(&controller, CHUNK, seed))
            .collect();
        // The first request selects the way.
        let buffer = buffers.pop().unwrap();
        buffers.push(run(&mut device, Operation::Write, 0, buffer).unwrap());
        controller.borrow_mut().accesses = 0;
        for (turn, buffer) in buffers.into_iter().enumerate() {
            run(&mut device, Operation::Write, turn as u64 * 512, buffer).unwrap();
        }
        let accesses = controller.borrow().accesses;
        println!("{model:?}, without {broken:#x}: {accesses} accesses per MiB");
        assert!(accesses <= limit, "{model:?}: {accesses} accesses");
    }
}
