//! What the tests of all hosts do with their devices.

use std::cell::RefCell;

use kdraw_drivers::sd::card::{Kind, Known, Proof, SCRATCH};
use kdraw_format::addr::Lba;
use kdraw_pipeline::ports::{BlockDevice, Completion, DeviceError, DmaBuffer, Operation};

use super::card::{Card, Model, Trouble};
use super::{FakeHost, SlowClock};
use crate::machine::{request, start};

pub type Clocked = &'static SlowClock;
pub type Result<T = ()> = std::result::Result<T, DeviceError>;

/// The block that proves a card, and what is in it.
pub const PROOF_LBA: u64 = 64;
pub const PROOF: u8 = 0x5a;

/// Faults that pass, and the command that each strikes.
pub const PASSING_FAULTS: [(u8, Trouble); 11] = [
    (25, Trouble::Mute),
    (25, Trouble::Garbled),
    (25, Trouble::DataGarbled(0)),
    (25, Trouble::DataGarbled(5)),
    (25, Trouble::DataStops(5)),
    (25, Trouble::Silent),
    (25, Trouble::Status(1 << 19)),
    (13, Trouble::Mute),
    (13, Trouble::Garbled),
    (23, Trouble::Mute),
    (23, Trouble::Garbled),
];

pub fn clock() -> Clocked {
    Box::leak(Box::default())
}

/// What a kernel knows of the card, whose medium is made to prove it.
pub fn known(card: &mut Card) -> Known {
    card.medium[PROOF_LBA as usize * 512..][..SCRATCH].fill(PROOF);
    Known {
        kind: match card.model {
            Model::Mmc => Kind::Mmc,
            _ => Kind::Sd,
        },
        rca: card.rca as u16,
    }
}

/// Hands the proof of what is `known` to `bring_up`.
pub fn with_proof<T>(known: Option<Known>, bring_up: impl FnOnce(Option<Proof<'_>>) -> T) -> T {
    let mut is_right = |bytes: &[u8; SCRATCH]| bytes.iter().all(|&byte| byte == PROOF);
    bring_up(known.map(|known| Proof {
        known,
        lba: Lba(PROOF_LBA),
        is_right: &mut is_right,
    }))
}

pub fn describe(device: &dyn BlockDevice) -> String {
    let mut text = String::new();
    device.describe(&mut text).unwrap();
    text
}

/// A buffer in which every word differs.
pub fn patterned(host: &RefCell<impl FakeHost + ?Sized>, len: usize, seed: u32) -> DmaBuffer {
    let buffer = host.borrow_mut().slot().allocate(len);
    for (index, word) in buffer.bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *word = (index as u32 * 7 + seed).to_le_bytes();
    }
    buffer
}

/// Polls until a request has ended.
pub fn wait(device: &mut dyn BlockDevice) -> Completion {
    (0..1_000_000)
        .find_map(|_| device.poll())
        .expect("a request ends")
}

pub fn run(
    device: &mut dyn BlockDevice,
    operation: Operation,
    lba: u64,
    buffer: DmaBuffer,
) -> Result<DmaBuffer> {
    start(device, request(operation, lba, buffer))?;
    let done = wait(device);
    assert_eq!(done.lba, Lba(lba));
    done.result.map(|()| done.buffer)
}

/// Writes `len` patterned bytes at block `lba` and checks that they, and only they, land; then
/// reads them back.
pub fn write_and_read(
    host: &RefCell<impl FakeHost + ?Sized>,
    device: &mut dyn BlockDevice,
    lba: u64,
    len: usize,
) {
    let at = lba as usize * 512;
    host.borrow_mut().slot().card.medium.fill(0xee);
    let buffer = patterned(host, len, lba as u32);
    let expected = buffer.bytes.to_vec();
    let buffer = run(device, Operation::Write, lba, buffer).unwrap();
    {
        let mut host = host.borrow_mut();
        let medium = &host.slot().card.medium;
        assert!(medium[at..][..len] == expected, "{len} bytes at {lba}");
        let untouched = vec![0xee; medium.len()];
        assert!(medium[..at] == untouched[..at]);
        assert!(medium[at + len..] == untouched[at + len..]);
    }
    buffer.bytes.fill(0);
    let buffer = run(device, Operation::Read, lba, buffer).unwrap();
    assert!(buffer.bytes == expected);
}
