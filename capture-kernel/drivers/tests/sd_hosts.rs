//! The card layer on the hosts that are not standard, each against its fake, sound and failing.
//!
//! What the card layer does by itself is tested on the standard host, in `sdhci.rs`.

mod fake_sd;
mod machine;

use std::cell::RefCell;
use std::rc::Rc;

use fake_sd::bench::{
    Clocked, PASSING_FAULTS, Result, clock, describe, known, patterned, run, with_proof,
    write_and_read,
};
use fake_sd::card::{Model, State, Trouble};
use fake_sd::{
    FakeHost, FakeRegisters, dw_mmc as fake_dw_mmc, meson_gx as fake_meson_gx, usdhc as fake_usdhc,
};
use kdraw_drivers::registers::Width;
use kdraw_drivers::sd::card::{Card, Known, MAX_TRANSFER, Proof, TRIES};
use kdraw_drivers::sd::dw_mmc::{self, DwMmc, Make};
use kdraw_drivers::sd::meson_gx::{self, MesonGx};
use kdraw_drivers::sd::sdhci::{self, Sdhci, capability};
use kdraw_drivers::sd::usdhc::Layout;
use kdraw_drivers::sd::{self, MEMORY_BYTES, Wiring};
use kdraw_pipeline::ports::{BlockDevice, Clock as _, DeviceError, DmaBuffer, Operation};
use machine::{request, start};

const WIRING: Wiring = Wiring {
    width: 8,
    high_speed: true,
    max_clock_hz: 100_000_000,
};

type Bring = dyn Fn(Clocked, DmaBuffer, Option<Proof<'_>>) -> Result<Box<dyn BlockDevice>>;

/// A host and how it is brought up.
struct Rig {
    name: &'static str,
    host: Rc<RefCell<dyn FakeHost>>,
    bring_up: Box<Bring>,
}

impl Rig {
    /// Brings the card up, within what the docs promise.
    fn probe(&self, known: Option<Known>) -> Result<Box<dyn BlockDevice>> {
        let memory = self.host.borrow_mut().slot().allocate(MEMORY_BYTES);
        let clock = clock();
        let card = with_proof(known, |proof| (self.bring_up)(clock, memory, proof));
        assert!(clock.now_us() < 6_000_000, "{} µs", clock.now_us());
        card
    }

    fn up(&self) -> Box<dyn BlockDevice> {
        self.probe(None).unwrap()
    }

    /// Takes the card over as a kernel left it.
    fn take_over(&self) -> Box<dyn BlockDevice> {
        let known = {
            let mut host = self.host.borrow_mut();
            host.leave_running();
            known(&mut host.slot().card)
        };
        let device = self.probe(Some(known)).unwrap();
        let text = describe(&*device);
        assert!(text.contains("taken over as Linux left it"), "{text}");
        device
    }

    /// Arms a trouble for the next command with this number.
    fn trouble(&self, index: u8, trouble: Trouble) {
        let mut host = self.host.borrow_mut();
        host.slot().card.troubles.push_back((index, trouble));
    }
}

fn dw_mmc_rig(make: Make, model: Model, width: Width) -> Rig {
    let mut controller = fake_dw_mmc::Controller::new(make, model);
    if make == Make::Synopsys {
        controller.width = width;
        controller.words[0x70 / 4] = match width {
            Width::W16 => 0,
            Width::W32 => 1 << 7,
            _ => 2 << 7,
        };
    }
    let host = Rc::new(RefCell::new(controller));
    let registers = host.clone();
    Rig {
        name: match make {
            Make::Synopsys => "dw_mmc",
            Make::Allwinner => "sunxi-mmc",
        },
        host,
        bring_up: Box::new(move |clock, memory, proof| {
            let registers = FakeRegisters(registers.clone());
            let setup = dw_mmc::Setup {
                make,
                wiring: WIRING,
                fifo_depth: 0,
            };
            let (_, scratch) = sd::memory_for(memory)?;
            let host = DwMmc::new(registers, clock, setup);
            Ok(Box::new(Card::new(host, clock, scratch, proof)?))
        }),
    }
}

fn usdhc_rig(model: Model, broken: u64) -> Rig {
    let host = Rc::new(RefCell::new(fake_usdhc::Controller::new(model)));
    let registers = host.clone();
    Rig {
        name: "SDHCI 3.00",
        host,
        bring_up: Box::new(move |clock, memory, proof| {
            let registers = Layout::Usdhc(FakeRegisters(registers.clone()));
            let setup = sdhci::Setup {
                width: 8,
                base_clock_hz: 200_000_000,
                coherent: true,
                broken,
                ..sdhci::Setup::default()
            };
            let (descriptors, scratch) = sd::memory_for(memory)?;
            let host = Sdhci::new(registers, clock, descriptors, setup);
            Ok(Box::new(Card::new(host, clock, scratch, proof)?))
        }),
    }
}

fn meson_gx_rig(model: Model, version_3: bool) -> Rig {
    let host = fake_meson_gx::Controller::new(version_3, model);
    let host = Rc::new(RefCell::new(host));
    let registers = host.clone();
    Rig {
        name: "meson-gx-mmc",
        host,
        bring_up: Box::new(move |clock, memory, proof| {
            let registers = FakeRegisters(registers.clone());
            let setup = meson_gx::Setup {
                wiring: WIRING,
                version_3,
                coherent: true,
            };
            let (descriptors, scratch) = sd::memory_for(memory)?;
            let host = MesonGx::new(registers, clock, descriptors, setup);
            Ok(Box::new(Card::new(host, clock, scratch, proof)?))
        }),
    }
}

/// Every host, with this card.
fn rigs(model: Model) -> Vec<Rig> {
    vec![
        dw_mmc_rig(Make::Synopsys, model, Width::W32),
        dw_mmc_rig(Make::Allwinner, model, Width::W32),
        usdhc_rig(model, 0),
        meson_gx_rig(model, true),
    ]
}

/// Their variants, which differ in how data moves or in where a few registers are.
fn variants(model: Model) -> Vec<Rig> {
    vec![
        dw_mmc_rig(Make::Synopsys, model, Width::W64),
        dw_mmc_rig(Make::Synopsys, model, Width::W16),
        usdhc_rig(model, capability::ADMA2),
        meson_gx_rig(model, false),
    ]
}

const ALL: [Model; 5] = [
    Model::SdV1,
    Model::SdV2,
    Model::Sdhc,
    Model::Sdhc3,
    Model::Mmc,
];

#[test]
fn cards_are_identified_and_every_byte_lands() {
    for model in ALL {
        for rig in rigs(model).into_iter().chain(variants(model)) {
            let mut device = rig.up();
            let text = describe(&*device);
            assert!(text.contains("identified from scratch"), "{text}");
            assert!(text.contains(rig.name), "{text}");
            let lines = if model == Model::Mmc {
                "8 bit"
            } else {
                "4 bit"
            };
            assert!(text.contains(lines), "{model:?}: {text}");
            {
                let mut host = rig.host.borrow_mut();
                let hz = host.hz();
                assert!((12_000_000..=52_000_000).contains(&hz), "{text}: {hz} Hz");
                assert_eq!(host.slot().card.state, State::Transfer);
            }
            let most = match model {
                Model::Sdhc3 => MAX_TRANSFER as usize,
                _ => 0x2000,
            };
            for len in [512, 4096, 0x1_2000, most] {
                write_and_read(&*rig.host, &mut *device, 9, len);
            }
            assert!(!describe(&*device).contains("retries"));
        }
    }
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
            for rig in rigs(model) {
                let (known, hz) = {
                    let mut host = rig.host.borrow_mut();
                    host.leave_running();
                    host.slot().card.state = state;
                    let hz = host.hz();
                    (known(&mut host.slot().card), hz)
                };
                let mut device = rig.probe(Some(known)).unwrap();
                let text = describe(&*device);
                assert!(text.contains("taken over"), "{model:?} {state:?}: {text}");
                {
                    let mut host = rig.host.borrow_mut();
                    assert_eq!(host.hz(), hz);
                    assert!(!host.slot().card.heard.contains(&0));
                }
                write_and_read(&*rig.host, &mut *device, 8, 8192);
            }
        }
    }
}

#[test]
fn what_cannot_be_taken_over_is_identified() {
    type Spoil = fn(&mut dyn FakeHost);
    let table: [(&str, Spoil); 4] = [
        ("another address", |it| it.slot().card.rca = 0x1111),
        ("not identified", |it| it.slot().card.state = State::Idle),
        ("another bus width", |it| it.slot().card.width = 1),
        ("a proof that cannot be read", |it| {
            let trouble = (18, Trouble::DataGarbled(3));
            it.slot().card.troubles.push_back(trouble);
        }),
    ];
    for (what, spoil) in table {
        for rig in rigs(Model::Sdhc3) {
            let known = {
                let mut host = rig.host.borrow_mut();
                host.leave_running();
                let known = known(&mut host.slot().card);
                spoil(&mut *host);
                known
            };
            let mut device = rig.probe(Some(known)).unwrap();
            let text = describe(&*device);
            assert!(text.contains("identified from scratch"), "{what}: {text}");
            write_and_read(&*rig.host, &mut *device, 8, 8192);
        }
    }
}

#[test]
fn a_host_without_its_clock_is_not_taken_over() {
    for rig in rigs(Model::Sdhc3) {
        // As it comes out of power-on.
        let known = known(&mut rig.host.borrow_mut().slot().card);
        let device = rig.probe(Some(known)).unwrap();
        assert!(describe(&*device).contains("identified from scratch"));
    }
}

/// Faults that pass: everything lands all the same.
#[test]
fn faults_that_pass_are_mended() {
    for model in [Model::Sdhc3, Model::Mmc] {
        for (index, trouble) in PASSING_FAULTS {
            for taken_over in [false, true] {
                for rig in rigs(model) {
                    let mut device = match taken_over {
                        false => rig.up(),
                        true => rig.take_over(),
                    };
                    let text = describe(&*device);
                    rig.trouble(index, trouble);
                    let buffer = patterned(&*rig.host, 16 << 10, 3);
                    let expected = buffer.bytes.to_vec();
                    let result = run(&mut *device, Operation::Write, 70, buffer);
                    assert!(result.is_ok(), "{trouble:?} at {index}: {result:?}");
                    let mut host = rig.host.borrow_mut();
                    let card = &host.slot().card;
                    assert!(card.troubles.is_empty());
                    assert!(card.medium[70 * 512..][..16 << 10] == expected);
                    // One fault makes nothing slower.
                    let now = describe(&*device);
                    assert_eq!(now, format!("{text}, 1 retries"), "{trouble:?} at {index}");
                }
            }
        }
    }
}

#[test]
fn reading_is_mended_too() {
    for trouble in [
        Trouble::Mute,
        Trouble::DataGarbled(2),
        Trouble::DataStops(5),
        Trouble::Silent,
    ] {
        for rig in rigs(Model::Sdhc3) {
            let mut device = rig.up();
            {
                let mut host = rig.host.borrow_mut();
                let blocks = host.slot().card.medium[70 * 512..].chunks_mut(512);
                for (index, block) in blocks.take(32).enumerate() {
                    block.fill(index as u8 + 1);
                }
            }
            rig.trouble(18, trouble);
            let buffer = patterned(&*rig.host, 16 << 10, 3);
            let buffer = run(&mut *device, Operation::Read, 70, buffer).unwrap();
            let mut host = rig.host.borrow_mut();
            let medium = &host.slot().card.medium;
            assert!(
                buffer.bytes == &medium[70 * 512..][..16 << 10],
                "{trouble:?}"
            );
        }
    }
}

#[test]
fn a_bus_that_garbles_is_slowed_down_or_ends_the_request() {
    for rig in rigs(Model::Sdhc3) {
        let mut device = rig.up();
        rig.host.borrow_mut().slot().garbles_above_hz = 13_000_000;
        write_and_read(&*rig.host, &mut *device, 70, 16 << 10);
        assert!(rig.host.borrow().hz() <= 13_000_000);

        rig.host.borrow_mut().slot().garbles_above_hz = 1000;
        let buffer = patterned(&*rig.host, 4096, 3);
        let result = run(&mut *device, Operation::Write, 70, buffer);
        assert!(
            matches!(result, Err(DeviceError::Unusable(_))),
            "{result:?}"
        );
        let text = describe(&*device);
        let retries = text.rsplit(", ").next().unwrap().to_owned();
        let retries: u8 = retries.strip_suffix(" retries").unwrap().parse().unwrap();
        assert!(retries > TRIES, "{text}");
        rig.host.borrow_mut().slot().garbles_above_hz = u32::MAX;
        write_and_read(&*rig.host, &mut *device, 3, 4096);
    }
}

#[test]
fn a_card_taken_over_that_garbles_is_identified_from_scratch() {
    for rig in rigs(Model::Sdhc3) {
        let mut device = rig.take_over();
        rig.host.borrow_mut().slot().garbles_above_hz = 30_000_000;
        write_and_read(&*rig.host, &mut *device, 3, 4096);
        let text = describe(&*device);
        assert!(text.contains("identified from scratch"), "{text}");
    }
}

#[test]
fn read_only_cards_are_only_read() {
    for rig in rigs(Model::Sdhc3) {
        rig.host.borrow_mut().slot().card.protected = true;
        let mut device = rig.up();
        let buffer = patterned(&*rig.host, 4096, 3);
        let refused = start(&mut *device, request(Operation::Write, 0, buffer));
        assert_eq!(refused, Err(DeviceError::ReadOnly));
        let buffer = patterned(&*rig.host, 4096, 3);
        run(&mut *device, Operation::Read, 0, buffer).unwrap();
    }
    // Protected after it was identified.
    for rig in rigs(Model::Sdhc3) {
        let mut device = rig.up();
        rig.host.borrow_mut().slot().card.protected = true;
        let buffer = patterned(&*rig.host, 4096, 3);
        let refused = run(&mut *device, Operation::Write, 0, buffer);
        assert_eq!(refused.unwrap_err(), DeviceError::ReadOnly);
    }
}

#[test]
fn a_card_that_is_gone_ends_everything_in_time() {
    for operation in [Operation::Write, Operation::Read] {
        for rig in rigs(Model::Sdhc3) {
            let memory = rig.host.borrow_mut().slot().allocate(MEMORY_BYTES);
            let clock = clock();
            let mut device = (rig.bring_up)(clock, memory, None).unwrap();
            rig.host.borrow_mut().slot().card.removed = true;
            let before = clock.now_us();
            let buffer = patterned(&*rig.host, 4096, 3);
            let result = run(&mut *device, operation, 0, buffer);
            let gone = DeviceError::NotFound("the card does not answer any more");
            assert_eq!(result.unwrap_err(), gone);
            assert!(clock.now_us() - before < 3_000_000);
        }
    }
}

#[test]
fn a_dead_host_or_an_empty_slot_is_told() {
    for rig in rigs(Model::Sdhc) {
        rig.host.borrow_mut().slot().card.removed = true;
        let no_card = DeviceError::NotFound("no card answers the SD host controller");
        assert_eq!(rig.probe(None).err(), Some(no_card));
    }
    for rig in rigs(Model::Sdhc) {
        rig.host.borrow_mut().slot().stuck = true;
        let dead = DeviceError::Timeout("the SD host controller");
        assert_eq!(rig.probe(None).err(), Some(dead));
    }
}

/// Device-register accesses for each MiB written, when the device is never waited for.
#[test]
fn a_mebibyte_takes_few_register_accesses() {
    const CHUNK: usize = 256 << 10;
    let limits = [265_000, 296_000, 110, 96, 133_000, 529_000, 266_400, 96];
    let all = rigs(Model::Sdhc3).into_iter().chain(variants(Model::Sdhc3));
    for (rig, limit) in all.zip(limits) {
        let mut device = rig.up();
        let buffers = (0..4).map(|seed| patterned(&*rig.host, CHUNK, seed));
        let buffers: Vec<_> = buffers.collect();
        rig.host.borrow_mut().slot().accesses = 0;
        for (turn, buffer) in buffers.into_iter().enumerate() {
            run(&mut *device, Operation::Write, turn as u64 * 512, buffer).unwrap();
        }
        let accesses = rig.host.borrow_mut().slot().accesses;
        println!("{}: {accesses} accesses per MiB", rig.name);
        assert!(accesses <= limit, "{}: {accesses} accesses", rig.name);
    }
}
