//! The virtio-blk driver against fake devices, honest and not.

mod fake;
mod machine;

use std::cell::RefCell;
use std::rc::Rc;

use fake::{Disk, FakeRegisters, Interface, Mode, pci_transport};
use kdraw_drivers::virtio::Transport;
use kdraw_drivers::virtio::blk::{MEMORY_BYTES, VirtioBlk};
use kdraw_drivers::virtio::mmio::MmioTransport;
use kdraw_format::addr::Lba;
use kdraw_pipeline::ports::{
    BlockDevice, Clock, Completion, DeviceError, Geometry, Operation, Request,
};
use machine::{SlowClock, flush, refuses_write, request, start};

const INTERFACES: [Interface; 3] = [Interface::Legacy, Interface::Modern, Interface::Pci];

type Result<T = ()> = std::result::Result<T, DeviceError>;

fn bring_up<T: Transport + 'static>(
    disk: &RefCell<Disk>,
    transport: T,
) -> Result<Box<dyn BlockDevice>> {
    let memory = disk.borrow_mut().allocate(MEMORY_BYTES);
    let clock = SlowClock::default();
    Ok(Box::new(VirtioBlk::new(
        transport,
        memory,
        &clock,
        clock.deadline(100_000),
    )?))
}

fn probe(disk: &Rc<RefCell<Disk>>) -> Result<Box<dyn BlockDevice>> {
    let interface = disk.borrow().interface;
    match interface {
        Interface::Pci => bring_up(disk, pci_transport(disk, &[])?),
        _ => bring_up(disk, MmioTransport::new(FakeRegisters::mmio(disk))?),
    }
}

/// Starts one request on a device that answers at once.
fn run(device: &mut dyn BlockDevice, request: Request) -> Result<Completion> {
    start(device, request)?;
    Ok(device.poll().expect("an answer"))
}

#[test]
fn writes_and_reads_back() {
    for interface in INTERFACES {
        for block_size in [512, 4096] {
            let disk = Disk::new(interface);
            disk.borrow_mut().block_size = block_size;
            disk.borrow_mut().offered |= fake::ORDER_PLATFORM;
            if interface == Interface::Legacy {
                disk.borrow_mut().offered &= 0xffff_ffff;
            }
            let mut device = probe(&disk).unwrap();
            assert_eq!(
                device.geometry(),
                Geometry {
                    block_size,
                    blocks: 256 * 512 / u64::from(block_size),
                    max_transfer: 65536,
                    queue_depth: 16,
                }
            );

            // Often enough that the rings go round several times.
            for round in 1..=40_u8 {
                let lba = u64::from(round % 4) + 1;
                let buffer = disk.borrow_mut().allocate(8192);
                buffer.bytes.fill(round);
                let written = run(&mut *device, request(Operation::Write, lba, buffer)).unwrap();
                assert_eq!((written.result, written.lba), (Ok(()), Lba(lba)));
                let at = lba as usize * block_size as usize;
                assert!(
                    disk.borrow().medium[at..][..8192]
                        .iter()
                        .all(|&byte| byte == round)
                );
                assert!(
                    disk.borrow().medium[at + 8192..][..512]
                        .iter()
                        .all(|&b| b != round)
                );

                written.buffer.bytes.fill(0xff);
                let read =
                    run(&mut *device, request(Operation::Read, lba, written.buffer)).unwrap();
                assert_eq!(read.result, Ok(()));
                assert!(read.buffer.bytes.iter().all(|&byte| byte == round));
                assert_eq!(flush(&mut *device), Ok(()));
            }

            let disk = disk.borrow();
            assert_eq!(disk.flushes, 40);
            let wanted = fake::FLUSH | fake::BLOCK_SIZE | fake::SIZE_MAX;
            let modern = wanted | fake::VERSION_1 | fake::ORDER_PLATFORM;
            match interface {
                Interface::Legacy => {
                    assert_eq!(
                        (disk.accepted, &*disk.statuses),
                        (wanted, &[0, 1, 3, 7][..])
                    );
                }
                _ => assert_eq!(
                    (disk.accepted, &*disk.statuses),
                    (modern, &[0, 1, 3, 11, 15][..])
                ),
            }
        }
    }
}

#[test]
fn keeps_many_requests_in_flight_and_takes_answers_in_any_order() {
    for (queue_size_max, depth) in [(1024, 16), (64, 16), (40, 10), (4, 1)] {
        let disk = Disk::new(Interface::Modern);
        disk.borrow_mut().queue_size_max = queue_size_max;
        disk.borrow_mut().mode = Mode::Hold;
        let mut device = probe(&disk).unwrap();
        assert_eq!(device.geometry().queue_depth, depth);

        for lba in 0..depth as u64 {
            let buffer = disk.borrow_mut().allocate(512);
            buffer.bytes.fill(lba as u8);
            start(&mut *device, request(Operation::Write, lba, buffer)).unwrap();
        }
        let buffer = disk.borrow_mut().allocate(512);
        let refused = start(&mut *device, request(Operation::Write, 99, buffer));
        assert_eq!(refused, Err(DeviceError::QueueFull));
        assert_eq!(flush(&mut *device), Err(DeviceError::QueueFull));
        assert!(device.poll().is_none());

        disk.borrow_mut().release();
        let mut lbas: Vec<u64> = std::iter::from_fn(|| device.poll())
            .map(|done| {
                assert_eq!(done.result, Ok(()));
                assert_eq!(
                    u64::from(done.buffer.bytes[0]),
                    done.lba.0,
                    "buffers mixed up"
                );
                done.lba.0
            })
            .collect();
        lbas.sort_unstable();
        assert!(lbas.iter().copied().eq(0..depth as u64), "{lbas:?}");
    }
}

#[test]
fn refuses_requests_that_do_not_fit() {
    let disk = Disk::new(Interface::Pci);
    disk.borrow_mut().block_size = 1024; // 128 blocks, 64 KiB in a request
    let mut device = probe(&disk).unwrap();
    for (lba, len, buffer_len) in [
        (0, 0, 4096),
        (0, 512, 4096),
        (0, 1025, 4096),
        (0, 5120, 4096),
        (0, 66560, 131072),
        (0, usize::MAX, 4096),
        (128, 1024, 4096),
        (127, 2048, 4096),
        (u64::MAX, 1024, 4096),
    ] {
        let buffer = disk.borrow_mut().allocate(buffer_len);
        refuses_write(&mut *device, lba, len, buffer);
    }
    assert_eq!(disk.borrow().transfers, []);

    let buffer = disk.borrow_mut().allocate(65536);
    run(&mut *device, request(Operation::Write, 64, buffer)).unwrap();
    assert_eq!(
        disk.borrow().transfers,
        [(1, 128, 65536)],
        "the longest, up to the last block"
    );
}

#[test]
fn only_reads_a_read_only_device() {
    let disk = Disk::new(Interface::Legacy);
    disk.borrow_mut().offered |= fake::READ_ONLY;
    let mut device = probe(&disk).unwrap();
    let buffer = disk.borrow_mut().allocate(512);
    let (error, buffer) = device
        .start(request(Operation::Write, 0, buffer))
        .unwrap_err();
    assert_eq!(error, DeviceError::ReadOnly);
    assert_eq!(
        run(&mut *device, request(Operation::Read, 0, buffer))
            .unwrap()
            .result,
        Ok(())
    );
}

#[test]
fn a_device_without_flush_writes_through() {
    let disk = Disk::new(Interface::Legacy);
    disk.borrow_mut().offered &= !fake::FLUSH;
    assert_eq!(flush(&mut *probe(&disk).unwrap()), Ok(()));
    assert_eq!(disk.borrow().flushes, 0);
}

#[test]
fn ignores_limits_that_were_not_negotiated() {
    let disk = Disk::new(Interface::Modern);
    disk.borrow_mut().offered &= !(fake::BLOCK_SIZE | fake::SIZE_MAX);
    disk.borrow_mut().block_size = 0;
    disk.borrow_mut().size_max = 0;
    let geometry = probe(&disk).unwrap().geometry();
    assert_eq!((geometry.block_size, geometry.max_transfer), (512, 1 << 20));
}

#[test]
fn refuses_devices_that_make_no_sense() {
    type Spoil = fn(&mut Disk);
    let table: &[(Spoil, &str)] = &[
        (
            |disk| disk.device_type = 1,
            "no such device: virtio device is not a block device",
        ),
        (
            |disk| disk.capacity = 0,
            "device unusable: virtio-blk capacity is zero or absurd",
        ),
        (
            |disk| disk.capacity = u64::MAX,
            "device unusable: virtio-blk capacity is zero or absurd",
        ),
        (
            |disk| disk.capacity = 1 << 55,
            "device unusable: virtio-blk capacity is zero or absurd",
        ),
        (|disk| disk.block_size = 0, "block size"),
        (|disk| disk.block_size = 256, "block size"),
        (|disk| disk.block_size = 520, "block size"),
        (|disk| disk.block_size = 8192, "block size"),
        (|disk| disk.block_size = 1 << 31, "block size"),
        (|disk| disk.size_max = 511, "segment limit"),
        (
            |disk| disk.queue_size_max = 0,
            "virtqueue missing or too short",
        ),
        (
            |disk| disk.queue_size_max = 3,
            "virtqueue missing or too short",
        ),
        (
            |disk| disk.reset_reads = u32::MAX,
            "device did not answer in time: virtio device reset",
        ),
        (|disk| disk.clinging = true, "still in use"),
    ];
    let modern: &[(Spoil, &str)] = &[
        (
            |disk| disk.offered &= !fake::VERSION_1,
            "without VIRTIO_F_VERSION_1",
        ),
        (|disk| disk.agreeable = false, "refuses the features"),
        (
            |disk| {
                disk.agreeable = false;
                disk.offered |= fake::ACCESS_PLATFORM;
            },
            "behind an IOMMU",
        ),
        (
            |disk| disk.restless = true,
            "device did not answer in time: virtio configuration",
        ),
    ];
    for interface in INTERFACES {
        let more = if interface == Interface::Legacy {
            &[][..]
        } else {
            modern
        };
        for (spoil, message) in table.iter().chain(more) {
            let disk = Disk::new(interface);
            spoil(&mut disk.borrow_mut());
            let error = probe(&disk)
                .err()
                .unwrap_or_else(|| panic!("{message}: accepted"));
            assert!(
                error.to_string().contains(message),
                "{interface:?}: {error}, not {message}"
            );
            let told = disk.borrow().statuses.last().copied();
            assert!(
                matches!(told, None | Some(0 | 128)),
                "left in status {told:?}"
            );
        }
    }
}

#[test]
fn waits_for_a_slow_reset() {
    for interface in INTERFACES {
        let disk = Disk::new(interface);
        disk.borrow_mut().reset_reads = 50;
        assert!(probe(&disk).is_ok());
    }
}

#[test]
fn reports_errors_and_goes_on() {
    for (mode, status) in [
        (Mode::Status(1), 1),
        (Mode::Status(2), 2),
        (Mode::NoStatus, 0xff),
    ] {
        let disk = Disk::new(Interface::Modern);
        let mut device = probe(&disk).unwrap();
        disk.borrow_mut().mode = mode;
        let buffer = disk.borrow_mut().allocate(512);
        let done = run(&mut *device, request(Operation::Write, 5, buffer)).unwrap();
        assert_eq!(
            (done.lba, done.result),
            (Lba(5), Err(DeviceError::Io { status }))
        );
        assert_eq!(flush(&mut *device), Err(DeviceError::Io { status }));

        disk.borrow_mut().mode = Mode::Good;
        let done = run(&mut *device, request(Operation::Write, 5, done.buffer)).unwrap();
        assert_eq!(done.result, Ok(()));
    }
}

#[test]
fn a_lying_ring_ends_the_device_and_gives_all_buffers_back() {
    for mode in [
        Mode::UsedId(1),        // not the head of a chain
        Mode::UsedId(6),        // a head that is not in flight
        Mode::UsedId(48),       // behind the last chain
        Mode::UsedId(65535),    // a multiple of 3, behind the table
        Mode::UsedId(0x1_0000), // its low half is in flight
        Mode::UsedId(u32::MAX),
        Mode::Twice,
        Mode::Flood(1),
        Mode::Flood(0x8000),
        Mode::Flood(0xfffd), // backwards
    ] {
        let disk = Disk::new(Interface::Modern);
        let mut device = probe(&disk).unwrap();
        disk.borrow_mut().mode = mode;
        for lba in 0..2 {
            let buffer = disk.borrow_mut().allocate(512);
            start(&mut *device, request(Operation::Write, lba, buffer)).unwrap();
        }

        let results: Vec<Result> = std::iter::from_fn(|| device.poll())
            .map(|done| done.result)
            .collect();
        assert_eq!(results.len(), 2, "{mode:?}");
        for (number, result) in results.iter().enumerate() {
            let honest = mode == Mode::Twice && number == 0;
            let unusable = matches!(result, Err(DeviceError::Unusable(_)));
            assert_eq!(unusable, !honest, "{mode:?}: {results:?}");
        }
        assert_eq!(
            disk.borrow().statuses.last(),
            Some(&0),
            "the device is not reset"
        );

        let buffer = disk.borrow_mut().allocate(512);
        let refused = start(&mut *device, request(Operation::Write, 0, buffer));
        assert!(
            matches!(refused, Err(DeviceError::Unusable(_))),
            "{refused:?}"
        );
        assert!(matches!(flush(&mut *device), Err(DeviceError::Unusable(_))));
        assert!(device.poll().is_none());
    }
}

#[test]
fn a_silent_device_costs_no_more_than_the_deadline() {
    let disk = Disk::new(Interface::Modern);
    disk.borrow_mut().mode = Mode::Hold;
    disk.borrow_mut().queue_size_max = 8; // two requests in flight
    let mut device = probe(&disk).unwrap();
    let buffer = disk.borrow_mut().allocate(512);
    start(&mut *device, request(Operation::Write, 7, buffer)).unwrap();
    assert!(device.poll().is_none());
    assert_eq!(
        flush(&mut *device),
        Err(DeviceError::Timeout("virtio-blk flush"))
    );

    // A late answer to the flush that was given up is nobody's, but makes room.
    assert_eq!(flush(&mut *device), Err(DeviceError::QueueFull));
    disk.borrow_mut().release();
    assert_eq!(device.poll().map(|done| done.lba), Some(Lba(7)));
    assert!(device.poll().is_none());
    for lba in 0..2 {
        let buffer = disk.borrow_mut().allocate(512);
        assert_eq!(
            start(&mut *device, request(Operation::Write, lba, buffer)),
            Ok(())
        );
    }
}

#[test]
fn recognizes_mmio_devices() {
    let recognize = |interface, spoil: fn(&mut Disk), size| {
        let disk = Disk::new(interface);
        spoil(&mut disk.borrow_mut());
        let mut registers = FakeRegisters::mmio(&disk);
        registers.size = size;
        MmioTransport::new(registers).map(|transport| transport.is_legacy())
    };
    assert_eq!(recognize(Interface::Legacy, |_| (), 0x200), Ok(true));
    assert_eq!(recognize(Interface::Modern, |_| (), 0x200), Ok(false));
    let empty = recognize(Interface::Legacy, |disk| disk.device_type = 0, 0x200);
    assert_eq!(
        empty,
        Err(DeviceError::NotFound("virtio-mmio slot is empty"))
    );
    let short = recognize(Interface::Modern, |_| (), 0x100);
    assert!(matches!(short, Err(DeviceError::Unusable(_))));

    // A legacy device takes a page number of 32 bits.
    let disk = Disk::new(Interface::Legacy);
    let transport = MmioTransport::new(FakeRegisters::mmio(&disk)).unwrap();
    let memory = disk.borrow_mut().allocate_at(MEMORY_BYTES, 1 << 44);
    let clock = SlowClock::default();
    let high = VirtioBlk::new(transport, memory, &clock, clock.deadline(100_000));
    assert!(high.unwrap_err().to_string().contains("too high"));
}

#[test]
fn checks_the_memory_that_it_is_given() {
    for (len, device_addr) in [
        (MEMORY_BYTES - 1, 0x1000),
        (4096, 0x1000),
        (MEMORY_BYTES, 0x1800),
    ] {
        let disk = Disk::new(Interface::Modern);
        let transport = MmioTransport::new(FakeRegisters::mmio(&disk)).unwrap();
        let memory = disk.borrow_mut().allocate_at(len, device_addr);
        let clock = SlowClock::default();
        let result = VirtioBlk::new(transport, memory, &clock, clock.deadline(100_000));
        assert!(
            matches!(result, Err(DeviceError::Unusable(_))),
            "{len} bytes at {device_addr:#x}"
        );
    }
}

#[test]
fn believes_pci_capabilities_only_as_far_as_they_make_sense() {
    type Changes = &'static [(usize, u32)];
    let table: &[(Changes, Option<&str>)] = &[
        (&[], None),
        (&[(0x00, 0x1001_1af4)], None), // transitional
        (&[(0x00, 0x1042_8086)], Some("no virtio device")),
        (&[(0x04, 0x0000_0006)], Some("legacy-only")),
        (&[(0x34, 0)], Some("legacy-only")),
        (&[(0x44, 0)], Some("legacy-only")), // the common structure in I/O space
        (&[(0x44, 6)], Some("legacy-only")), // in no BAR
        (&[(0x40, 0x010f_5009)], Some("legacy-only")), // capability too short
        (&[(0x4c, 0x37)], Some("range too short")),
        (&[(0x70, 0x0210_9809)], Some("without notify or device")),
        (&[(0x60, 0x0610_7009)], Some("without notify or device")),
        (&[(0x7c, 0x0d)], Some("range too short")), // the doorbell is at 0xc
        (&[(0x80, 0x4000_0000)], Some("range too short")),
        (&[(0x80, 0x8000_0000)], Some("doorbell out of range")),
        (
            &[(0x48, 0xffff_0000), (0x24, 0xff)],
            Some("outside the host bridge's windows"),
        ),
        (
            &[(0x48, 0xffff_0000)],
            Some("outside the host bridge's windows"),
        ), // the mapper refuses
        // An unusable common structure first, the good one behind it.
        (&[(0x50, 0x0110_6009), (0x58, 0), (0x44, 0)], None),
    ];
    for (changes, refusal) in table {
        let disk = Disk::new(Interface::Pci);
        let result = pci_transport(&disk, changes);
        match (result, refusal) {
            (Ok(transport), None) => {
                let mut device = bring_up(&disk, transport).unwrap();
                assert_eq!(flush(&mut *device), Ok(()));
            }
            (Err(error), Some(message)) => {
                assert!(error.to_string().contains(message), "{changes:x?}: {error}");
                assert_eq!(disk.borrow().statuses, [], "{changes:x?}");
            }
            (result, _) => panic!("{changes:x?}: {result:?}"),
        }
    }
}
