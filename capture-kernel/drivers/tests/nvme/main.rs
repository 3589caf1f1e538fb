//! The NVMe driver against fake controllers, honest and not.

mod fake;
#[path = "../machine/mod.rs"]
mod machine;

use std::cell::RefCell;
use std::rc::Rc;

use fake::{Fake, FakeRegisters, LBA_FORMAT, Mode, NAMESPACE};
use kdraw_drivers::nvme::{MAX_TRANSFER, MEMORY_BYTES, Nvme};
use kdraw_format::addr::Lba;
use kdraw_pipeline::ports::{
    BlockDevice, Clock, Completion, DeviceError, DmaBuffer, Geometry, Operation, Request,
};
use machine::{SlowClock, flush, refuses_write, request, start};

type Result<T = ()> = std::result::Result<T, DeviceError>;
type Device = Nvme<FakeRegisters>;

fn probe(fake: &Rc<RefCell<Fake>>) -> Result<Device> {
    let memory = fake.borrow_mut().memory.allocate(MEMORY_BYTES);
    fake::bring_up(fake, NAMESPACE, memory, &SlowClock::default(), 10_000_000)
}

fn buffer(fake: &RefCell<Fake>, len: usize) -> DmaBuffer {
    fake.borrow_mut().memory.allocate(len)
}

/// Starts one request on a controller that answers at once. One that is several commands takes as
/// many polls.
fn run(device: &mut Device, request: Request) -> Result<Completion> {
    start(device, request)?;
    let mut polls = (0..2000).map(|_| device.poll());
    Ok(polls.find_map(|done| done).expect("an answer"))
}

#[test]
fn writes_and_reads_back() {
    for (large_blocks, stride) in [(false, 0), (true, 0), (false, 5)] {
        let fake = Fake::new();
        fake.borrow_mut().capabilities |= stride << 32;
        if large_blocks {
            fake.borrow_mut().use_large_blocks();
        }
        let mut device = probe(&fake).unwrap();
        let block_size = fake.borrow().block_size;
        assert_eq!(
            device.geometry(),
            Geometry {
                block_size: block_size as u32,
                blocks: 1024 * 512 / block_size as u64,
                max_transfer: MAX_TRANSFER,
                queue_depth: 15,
            }
        );

        let mut told = String::new();
        device.describe(&mut told).unwrap();
        assert_eq!(told, "NVMe, 15 commands of 384 KiB at once");

        let looks = fake.borrow().looks.get();
        // Often enough that both queues go round several times.
        for round in 1..=40_u8 {
            let lba = u64::from(round % 4) + 1;
            let bytes = buffer(&fake, 8192);
            bytes.bytes.fill(round);
            let written = run(&mut device, request(Operation::Write, lba, bytes)).unwrap();
            assert_eq!((written.result, written.lba), (Ok(()), Lba(lba)));
            let at = lba as usize * block_size;
            assert!(
                fake.borrow().medium[at..][..8192]
                    .iter()
                    .all(|&b| b == round)
            );
            assert!(
                fake.borrow().medium[at + 8192..][..512]
                    .iter()
                    .all(|&b| b != round)
            );

            written.buffer.bytes.fill(0xff);
            let read = run(&mut device, request(Operation::Read, lba, written.buffer)).unwrap();
            assert_eq!(read.result, Ok(()));
            assert!(read.buffer.bytes.iter().all(|&byte| byte == round));
            assert_eq!(flush(&mut device), Ok(()));
        }
        let fake = fake.borrow();
        assert_eq!(fake.flushes, 40);
        assert_eq!(fake.looks.get(), looks, "polling reads no register");
    }
}

#[test]
fn switches_interrupts_off_and_the_bus_on() {
    let fake = Fake::new();
    probe(&fake).unwrap();
    let fake = fake.borrow();
    let word = |at| fake.config.iter().rev().find(|word| word.0 == at);
    assert_eq!(
        word(0x04),
        Some(&(0x04, 0x0010_0406)),
        "no INTx; memory, bus master"
    );
    assert_eq!(word(0x40), Some(&(0x40, 0x0040_5011)));
    assert_eq!(word(0x50), Some(&(0x50, 0x0080_0005)));
}

#[test]
fn lists_pages_and_splits_what_is_too_long() {
    // Bytes, MDTS, and the pages of each command.
    for (len, limit, commands) in [
        (512, 0, &[1][..]),
        (4096, 0, &[1]),
        (4608, 0, &[2]),
        (8192, 0, &[2]),
        (8704, 0, &[3]),
        (264 << 10, 0, &[66]),
        (264 << 10, 7, &[66]),
        (264 << 10, 5, &[32, 32, 2]),
        (264 << 10, 1, &[2; 33]),
        (9 << 10, 1, &[2, 1]),
        (384 << 10, 0, &[96]),
        (384 << 10, 255, &[96]),
    ] {
        let fake = Fake::new();
        fake.borrow_mut().controller[77] = limit;
        let mut device = probe(&fake).unwrap();
        let bytes = buffer(&fake, len);
        for (at, byte) in bytes.bytes.iter_mut().enumerate() {
            *byte = (at >> 8) as u8 ^ at as u8;
        }
        let (address, wanted) = (bytes.device_addr, bytes.bytes.to_vec());
        let done = run(&mut device, request(Operation::Write, 7, bytes)).unwrap();
        assert_eq!((done.result, done.lba), (Ok(()), Lba(7)));
        let written = fake.borrow().medium[7 * 512..][..len].to_vec();
        assert!(written == wanted, "{len} bytes, MDTS {limit}");

        let seen = fake.borrow().seen.clone();
        let counts: Vec<usize> = seen.iter().map(|command| command.3.len()).collect();
        assert_eq!(counts, commands, "{len} bytes, MDTS {limit}");
        let pages = seen.iter().flat_map(|command| command.3.iter().copied());
        assert!(pages.eq((address..).step_by(4096).take(len.div_ceil(4096))));
        let mut next = 7;
        for (_, first, blocks, _) in seen {
            assert_eq!(first, next);
            next += u64::from(blocks);
        }
        assert_eq!(next, 7 + len as u64 / 512);

        done.buffer.bytes.fill(0);
        let done = run(&mut device, request(Operation::Read, 7, done.buffer)).unwrap();
        assert!(done.buffer.bytes == wanted, "{len} bytes, MDTS {limit}");
    }
}

#[test]
fn keeps_many_requests_in_flight_and_takes_answers_in_any_order() {
    for (last_entry, depth) in [(1023, 15), (15, 15), (4, 4), (1, 1)] {
        let fake = Fake::new();
        fake.borrow_mut().capabilities = 1 << 37 | last_entry;
        fake.borrow_mut().mode = Mode::Hold;
        let mut device = probe(&fake).unwrap();
        assert_eq!(device.geometry().queue_depth, depth);
        for _ in 0..3 {
            for lba in 0..depth as u64 {
                let bytes = buffer(&fake, 12 << 10); // with a list of pages each
                bytes.bytes.fill(lba as u8);
                start(&mut device, request(Operation::Write, 24 * lba, bytes)).unwrap();
            }
            let refused = start(
                &mut device,
                request(Operation::Write, 0, buffer(&fake, 512)),
            );
            assert_eq!(refused, Err(DeviceError::QueueFull));
            assert_eq!(flush(&mut device), Err(DeviceError::QueueFull));
            assert!(device.poll().is_none());

            fake.borrow_mut().release();
            let mut lbas: Vec<u64> = std::iter::from_fn(|| device.poll())
                .map(|done| {
                    assert_eq!(done.result, Ok(()));
                    let lba = u64::from(done.buffer.bytes[0]);
                    assert_eq!(24 * lba, done.lba.0, "buffers mixed up");
                    lba
                })
                .collect();
            lbas.sort_unstable();
            assert!(lbas.iter().copied().eq(0..depth as u64), "{lbas:?}");
            for lba in 0..depth {
                let written = &fake.borrow().medium[(lba * 12) << 10..][..12 << 10];
                assert!(written.iter().all(|&byte| byte == lba as u8));
            }
        }
    }
}

#[test]
fn refuses_requests_that_do_not_fit() {
    let fake = Fake::new();
    fake.borrow_mut().use_large_blocks(); // 128 blocks
    let mut device = probe(&fake).unwrap();
    for (lba, len, buffer_len) in [
        (0, 0, 4096),
        (0, 512, 4096),
        (0, 4097, 8192),
        (0, 8192, 4096),
        (
            0,
            MAX_TRANSFER as usize + 4096,
            MAX_TRANSFER as usize + 4096,
        ),
        (0, usize::MAX, 4096),
        (128, 4096, 4096),
        (127, 8192, 8192),
        (u64::MAX, 4096, 4096),
    ] {
        refuses_write(&mut device, lba, len, buffer(&fake, buffer_len));
    }
    let misaligned = fake.borrow_mut().memory.allocate_at(4096, 0x7000_0200);
    let refused = start(&mut device, request(Operation::Write, 0, misaligned));
    assert_eq!(refused, Err(DeviceError::BadRequest));
    assert_eq!(fake.borrow().seen, []);

    let last = request(Operation::Write, 32, buffer(&fake, MAX_TRANSFER as usize));
    assert_eq!(
        run(&mut device, last).unwrap().result,
        Ok(()),
        "the longest, to the end"
    );
}

#[test]
fn only_reads_what_is_write_protected() {
    let fake = Fake::new();
    fake.borrow_mut().namespace[99] = 1;
    let mut device = probe(&fake).unwrap();
    let (error, bytes) = device
        .start(request(Operation::Write, 0, buffer(&fake, 512)))
        .unwrap_err();
    assert_eq!(error, DeviceError::ReadOnly);
    let read = run(&mut device, request(Operation::Read, 0, bytes)).unwrap();
    assert_eq!(read.result, Ok(()));

    for status in [0x020, 0x182] {
        let fake = Fake::new();
        let mut device = probe(&fake).unwrap();
        fake.borrow_mut().mode = Mode::Status(status);
        let done = run(
            &mut device,
            request(Operation::Write, 0, buffer(&fake, 512)),
        )
        .unwrap();
        assert_eq!(done.result, Err(DeviceError::ReadOnly));
    }
}

#[test]
fn a_controller_without_a_cache_is_not_flushed() {
    let fake = Fake::new();
    fake.borrow_mut().controller[525] = 0;
    assert_eq!(flush(&mut probe(&fake).unwrap()), Ok(()));
    assert_eq!(fake.borrow().flushes, 0);
}

#[test]
fn takes_any_queues_if_their_number_cannot_be_set() {
    let fake = Fake::new();
    fake.borrow_mut().features_status = 0x4002;
    assert!(probe(&fake).is_ok());
}

#[test]
fn refuses_controllers_that_make_no_sense() {
    type Spoil = fn(&mut Fake);
    let table: &[(Spoil, &str)] = &[
        (
            |fake| fake.config.push((0x08, 0x0108_0102)),
            "is no NVMe controller",
        ),
        (
            |fake| fake.config.push((0x14, 0x7f)),
            "registers cannot be mapped",
        ),
        (|fake| fake.capabilities = u64::MAX, "does not answer"),
        (
            |fake| fake.capabilities &= !(1 << 37),
            "lacks the NVM command set",
        ),
        (|fake| fake.capabilities |= 1 << 48, "pages of 4 KiB"),
        (|fake| fake.capabilities &= !0xffff, "queues are too short"),
        (
            |fake| fake.mode = Mode::NeverDown,
            "in time: NVMe controller disable",
        ),
        (
            |fake| fake.mode = Mode::NeverUp,
            "in time: NVMe controller enable",
        ),
        (|fake| fake.mode = Mode::StillBorn, "fatal status"),
        (
            |fake| fake.mode = Mode::Silent,
            "in time: NVMe admin command",
        ),
        (|fake| fake.mode = Mode::Fatal, "fatal status"),
        (|fake| fake.mode = Mode::Gone, "does not answer"),
        (|fake| fake.mode = Mode::Id(1), "was not given"),
        (|fake| fake.mode = Mode::Queue(1), "another queue"),
        (|fake| fake.namespace.fill(0), "namespace does not exist"),
        (|fake| fake.namespace[LBA_FORMAT] = 8, "metadata"),
        (|fake| fake.namespace[LBA_FORMAT + 2] = 8, "512 to 4096"),
        (|fake| fake.namespace[LBA_FORMAT + 2] = 13, "512 to 4096"),
        (|fake| fake.namespace[26] = 1, "metadata"),
        (|fake| fake.namespace[7] = 0x80, "absurd size"),
    ];
    for (spoil, message) in table {
        let fake = Fake::new();
        spoil(&mut fake.borrow_mut());
        let error = probe(&fake)
            .err()
            .unwrap_or_else(|| panic!("{message}: accepted"));
        assert!(
            error.to_string().contains(message),
            "{error}, not {message}"
        );
        // What was reset is off: it must not write to memory any more.
        let reset = fake.borrow().is_reset();
        assert!(!reset || !fake.borrow().enabled, "{message}: left on");
    }
}

#[test]
fn block_formats_beyond_the_sixteenth_are_found() {
    let fake = Fake::new();
    let mut spoiled = fake.borrow_mut();
    spoiled.namespace[25] = 18;
    spoiled.namespace[26] = 1 << 5 | 2; // the 19th
    spoiled.namespace[LBA_FORMAT + 4 * 2 + 2] = 77;
    spoiled.namespace[LBA_FORMAT + 4 * 18 + 2] = 10;
    drop(spoiled);
    assert_eq!(probe(&fake).unwrap().geometry().block_size, 1024);
}

#[test]
fn waits_as_long_as_the_controller_states_and_no_longer() {
    // Reads of the status that a change takes, CAP.TO, the caller's deadline in ms, and what comes.
    for (reads, units, deadline_ms, good) in [
        (100, 1, 60_000, true),
        (200, 0, 60_000, true),
        (3000, 1, 60_000, false),
        (3000, 20, 60_000, true),
        (3000, 20, 1_000, false),
        (u32::MAX, 255, 2_000, false),
    ] {
        let fake = Fake::new();
        fake.borrow_mut().ready_reads = reads;
        fake.borrow_mut().capabilities = 1 << 37 | units << 24 | 63;
        let memory = fake.borrow_mut().memory.allocate(MEMORY_BYTES);
        let clock = SlowClock::default();
        let result = fake::bring_up(&fake, NAMESPACE, memory, &clock, deadline_ms * 1000);
        assert_eq!(result.is_ok(), good, "{reads} reads, CAP.TO {units}");
        if let Err(error) = result {
            assert!(matches!(error, DeviceError::Timeout(_)), "{error}");
            let limit_ms = deadline_ms.min((units + 1) * 500);
            let took_ms = clock.now_us() / 1000;
            assert!(took_ms <= limit_ms + 20, "{took_ms} ms of {limit_ms}");
        }
    }
}

#[test]
fn a_controller_that_was_off_or_dead_is_brought_up() {
    for spoil in [
        (|fake| fake.enabled = false) as fn(&mut Fake),
        (|fake| fake.leave_fatal()) as fn(&mut Fake),
    ] {
        let fake = Fake::new();
        spoil(&mut fake.borrow_mut());
        let mut device = probe(&fake).unwrap();
        assert_eq!(flush(&mut device), Ok(()));
    }
}

#[test]
fn reports_errors_and_goes_on() {
    // A write fault, an unrecovered read error, an internal error; with and without "do not retry".
    for (status, told) in [(0x280, 0x280), (0x4281, 0x281), (0x006, 0x006)] {
        let fake = Fake::new();
        fake.borrow_mut().controller[77] = 1; // several commands
        let mut device = probe(&fake).unwrap();
        fake.borrow_mut().mode = Mode::Status(status);
        let write = request(Operation::Write, 5, buffer(&fake, 64 << 10));
        let done = run(&mut device, write).unwrap();
        let error = Err(DeviceError::Io { status: told });
        assert_eq!((done.lba, done.result), (Lba(5), error));
        assert_eq!(flush(&mut device), error);

        fake.borrow_mut().mode = Mode::Good;
        let done = run(&mut device, request(Operation::Write, 5, done.buffer)).unwrap();
        assert_eq!(done.result, Ok(()));
        assert_eq!(flush(&mut device), Ok(()));
    }
}

#[test]
fn a_controller_that_lies_is_ended_and_gives_all_buffers_back() {
    for mode in [
        Mode::Id(2),  // not in flight
        Mode::Id(14), // the last one
        Mode::Id(15), // there is none
        Mode::Id(u16::MAX),
        Mode::Queue(0),
        Mode::Queue(2),
        Mode::Twice,
    ] {
        let fake = Fake::new();
        let mut device = probe(&fake).unwrap();
        fake.borrow_mut().mode = mode;
        for lba in 0..2 {
            start(
                &mut device,
                request(Operation::Write, lba, buffer(&fake, 512)),
            )
            .unwrap();
        }
        let results: Vec<Result> = std::iter::from_fn(|| device.poll())
            .map(|done| done.result)
            .collect();
        assert_eq!(results.len(), 2, "{mode:?}");
        let unusable = |result: &Result| matches!(result, Err(DeviceError::Unusable(_)));
        assert!(unusable(&results[1]), "{mode:?}: {results:?}");
        assert!(!fake.borrow().enabled, "the controller is not reset");
        ends(&mut device, &fake, unusable);
    }
}

/// Checks that nothing works any more.
fn ends(device: &mut Device, fake: &RefCell<Fake>, is_told: impl Fn(&Result) -> bool) {
    let refused = start(device, request(Operation::Write, 0, buffer(fake, 512)));
    assert!(is_told(&refused), "{refused:?}");
    assert!(is_told(&flush(device)));
    assert!(device.poll().is_none());
}

#[test]
fn a_fatal_status_or_a_controller_that_is_gone_ends_everything_soon() {
    for (mode, told) in [
        (Mode::Fatal, "fatal status"),
        (Mode::Gone, "does not answer"),
    ] {
        let fake = Fake::new();
        let mut device = probe(&fake).unwrap();
        fake.borrow_mut().mode = mode;
        for lba in 0..3 {
            start(
                &mut device,
                request(Operation::Write, lba, buffer(&fake, 512)),
            )
            .unwrap();
        }
        let looks = fake.borrow().looks.get();
        let ended = (0..5000).filter_map(|_| device.poll());
        let is_told = |result: &Result| result.is_err_and(|error| error.to_string().contains(told));
        let results: Vec<_> = ended.map(|done| is_told(&done.result)).collect();
        assert_eq!(results, [true; 3], "{mode:?}");
        assert!(fake.borrow().looks.get() - looks <= 4, "looked too often");
        ends(&mut device, &fake, is_told);
    }
}

#[test]
fn a_silent_controller_costs_no_more_than_the_deadline() {
    let fake = Fake::new();
    fake.borrow_mut().mode = Mode::Hold;
    fake.borrow_mut().capabilities = 1 << 37 | 2; // two commands in flight
    let mut device = probe(&fake).unwrap();
    start(
        &mut device,
        request(Operation::Write, 7, buffer(&fake, 512)),
    )
    .unwrap();
    assert!(device.poll().is_none());
    assert_eq!(flush(&mut device), Err(DeviceError::Timeout("NVMe flush")));

    // A late answer to the flush that was given up is nobody's, but makes room.
    assert_eq!(flush(&mut device), Err(DeviceError::QueueFull));
    fake.borrow_mut().release();
    assert_eq!(device.poll().map(|done| done.lba), Some(Lba(7)));
    assert!(device.poll().is_none());
    for lba in 0..2 {
        let write = request(Operation::Write, lba, buffer(&fake, 512));
        assert_eq!(start(&mut device, write), Ok(()));
    }
}

#[test]
fn checks_the_memory_and_the_namespace_that_it_is_given() {
    for (len, device_addr) in [(MEMORY_BYTES - 1, 0x1000), (MEMORY_BYTES, 0x1800)] {
        let fake = Fake::new();
        let memory = fake.borrow_mut().memory.allocate_at(len, device_addr);
        let result = fake::bring_up(&fake, NAMESPACE, memory, &SlowClock::default(), 10_000_000);
        assert!(matches!(result, Err(DeviceError::Unusable(_))), "{len}");
    }
    let fake = Fake::new();
    let memory = fake.borrow_mut().memory.allocate(MEMORY_BYTES);
    let result = fake::bring_up(&fake, 1, memory, &SlowClock::default(), 10_000_000);
    assert!(matches!(result, Err(DeviceError::NotFound(_))));
}
