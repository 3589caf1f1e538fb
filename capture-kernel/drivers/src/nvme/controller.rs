//! The controller's registers: capabilities, reset, bring-up of the admin queue, doorbells.
//!
//! Every register is read and written as 32 bits, which is allowed for the 64-bit ones too (§3.1)
//! and works behind hosts that cannot do more.

use kdraw_pipeline::ports::{Clock, Deadline, DeviceError};
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_bitfields;

use crate::pci::{Function, Mapper};
use crate::registers::{Offset, Registers};
use crate::wait_until;

register_bitfields! [u32,
    // §3.1.3.5, Figure 46.
    CC [
        EN OFFSET(0) NUMBITS(1) [],
        CSS OFFSET(4) NUMBITS(3) [],
        MPS OFFSET(7) NUMBITS(4) [],
        SHN OFFSET(14) NUMBITS(2) [],
        /// log2 of the bytes in a submission queue's entry.
        IOSQES OFFSET(16) NUMBITS(4) [],
        /// log2 of the bytes in a completion queue's entry.
        IOCQES OFFSET(20) NUMBITS(4) []
    ],
    // §3.1.3.6, Figure 47.
    CSTS [
        RDY OFFSET(0) NUMBITS(1) [],
        CFS OFFSET(1) NUMBITS(1) []
    ],
    // §3.1.3.8, Figure 49: both sizes count from 0.
    AQA [
        ASQS OFFSET(0) NUMBITS(12) [],
        ACQS OFFSET(16) NUMBITS(12) []
    ]
];

const CAP_LOW: Offset<u32> = Offset::new(0x00);
const CAP_HIGH: Offset<u32> = Offset::new(0x04);
const CC: Offset<u32, CC::Register> = Offset::new(0x14);
const CSTS: Offset<u32, CSTS::Register> = Offset::new(0x1c);
const AQA: Offset<u32, AQA::Register> = Offset::new(0x24);
/// The admin submission queue's address, low half first; the completion queue's follows.
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;

/// Bytes of registers before the doorbells (PCIe Transport 1.0, §3.1.1).
const REGISTERS: u64 = 0x1000;
/// Doorbells used: both of the admin queue, and of one I/O queue.
const DOORBELLS: u64 = 4;
/// CAP.TO's unit in microseconds (§3.1.3.1, Figure 36).
const TIMEOUT_UNIT_US: u64 = 500_000;

/// Class 01h, mass storage; subclass 08h, non-volatile memory; interface 02h, NVM Express I/O
/// controller (PCIe Transport 1.0, §3.8.1.5).
const PCI_CLASS: u32 = 0x01_0802;

/// Whether a PCI function is an NVMe controller.
pub fn is_nvme<R: Registers>(function: &Function<'_, R>) -> bool {
    function.class() == PCI_CLASS
}

/// A controller's registers.
#[derive(Debug)]
pub(super) struct Controller<R> {
    registers: R,
    doorbells: R,
    /// Bytes from one doorbell to the next.
    stride: usize,
    /// The most entries in a queue, at least 2.
    entries_max: u32,
    /// How long enabling and disabling may take.
    ready_us: u64,
}

impl<R: Registers> Controller<R> {
    /// Maps the registers behind BAR 0 and reads what the controller is capable of.
    pub(super) fn new(function: &Function<'_, R>, map: Mapper<'_, R>) -> Result<Self, DeviceError> {
        if !is_nvme(function) {
            return Err(DeviceError::NotFound("PCI function is no NVMe controller"));
        }
        function.silence();
        let mut bar = |offset, len| {
            let at = function.bar_address(0, offset, len)?;
            map(at, len)
        };
        let unmapped = DeviceError::Unusable("NVMe registers cannot be mapped");
        let registers = bar(0, REGISTERS).ok_or(unmapped)?;
        let (low, high) = (registers.at(CAP_LOW).get(), registers.at(CAP_HIGH).get());
        if (low, high) == (u32::MAX, u32::MAX) {
            return Err(GONE);
        }
        // CAP.CSS bit 0: the NVM command set. CAP.MPSMIN: the smallest page is 4 KiB << this.
        if high >> 5 & 1 == 0 || high >> 16 & 0xf != 0 {
            return Err(DeviceError::Unusable(
                "NVMe controller lacks the NVM command set, or pages of 4 KiB",
            ));
        }
        let entries_max = (low & 0xffff).saturating_add(1);
        if entries_max < 2 {
            return Err(DeviceError::Unusable("NVMe queues are too short"));
        }
        // CAP.DSTRD.
        let stride = 4_u64 << (high & 0xf);
        Ok(Self {
            doorbells: bar(REGISTERS, stride.saturating_mul(DOORBELLS)).ok_or(unmapped)?,
            registers,
            stride: stride as usize,
            entries_max,
            // One unit more, since a controller may say 0.
            ready_us: u64::from(low >> 24)
                .saturating_add(1)
                .saturating_mul(TIMEOUT_UNIT_US),
        })
    }

    /// The most entries in a queue.
    pub(super) fn entries_max(&self) -> u32 {
        self.entries_max
    }

    /// Resets the controller (§3.7.2): it lets go of all memory, queues, host memory buffer and
    /// commands in flight, and a fatal status is gone.
    pub(super) fn disable(&self, clock: &dyn Clock, deadline: Deadline) -> Result<(), DeviceError> {
        let configuration = self.registers.at(CC);
        let status = self.registers.at(CSTS);
        if configuration.is_set(CC::EN) {
            // Disabling while enabling has undefined results (§3.1.3.5): the dead kernel may have
            // been at it. One that never gets ready is disabled all the same.
            let settled = || status.is_set(CSTS::RDY) || status.is_set(CSTS::CFS);
            self.wait(clock, deadline, settled);
            self.stop();
        }
        let down = self.wait(clock, deadline, || !status.is_set(CSTS::RDY));
        self.present()?;
        match down {
            true => Ok(()),
            false => Err(DeviceError::Timeout("NVMe controller disable")),
        }
    }

    /// Asks for a reset and does not wait for it.
    pub(super) fn stop(&self) {
        let configuration = self.registers.at(CC);
        let off = CC::EN::CLEAR.mask() | CC::SHN::CLEAR.mask();
        configuration.set(configuration.get() & !off);
    }

    /// Enables the controller with an admin queue of `entries` (§3.5.1, steps 2 to 6).
    pub(super) fn enable(
        &self,
        (submissions, completions): (u64, u64),
        entries: u16,
        clock: &dyn Clock,
        deadline: Deadline,
    ) -> Result<(), DeviceError> {
        let last = u32::from(entries.saturating_sub(1));
        let sizes = AQA::ASQS.val(last).value | AQA::ACQS.val(last).value;
        self.registers.at(AQA).set(sizes);
        for (at, address) in [(ASQ, submissions), (ACQ, completions)] {
            let high = at.saturating_add(4);
            self.registers
                .at(Offset::<u32>::new(at))
                .set(address as u32);
            self.registers
                .at(Offset::<u32>::new(high))
                .set((address >> 32) as u32);
        }
        // The NVM command set, pages of 4 KiB, entries of 64 and 16 bytes.
        let on = CC::EN::SET.value
            | CC::CSS.val(0).value
            | CC::MPS.val(0).value
            | CC::IOSQES.val(6).value
            | CC::IOCQES.val(4).value;
        self.registers.at(CC).set(on);
        let status = self.registers.at(CSTS);
        let settled = || status.is_set(CSTS::RDY) || status.is_set(CSTS::CFS);
        let up = self.wait(clock, deadline, settled);
        self.healthy()?;
        match up {
            true => Ok(()),
            false => Err(DeviceError::Timeout("NVMe controller enable")),
        }
    }

    /// Whether the controller is there and well: CSTS.CFS is a fatal status (§9.5), and all ones
    /// are what a bus reads that nobody answers on.
    pub(super) fn healthy(&self) -> Result<(), DeviceError> {
        self.present()?;
        match self.registers.at(CSTS).is_set(CSTS::CFS) {
            true => Err(DeviceError::Unusable(
                "NVMe controller reports a fatal status (CSTS.CFS)",
            )),
            false => Ok(()),
        }
    }

    fn present(&self) -> Result<(), DeviceError> {
        match self.registers.at(CSTS).get() {
            u32::MAX => Err(GONE),
            _ => Ok(()),
        }
    }

    /// Tells the controller the tail of a submission queue (PCIe Transport 1.0, §3.1.2).
    pub(super) fn ring_submissions(&self, queue: u16, tail: u16) {
        self.ring(usize::from(queue).saturating_mul(2), tail);
    }

    /// Tells the controller up to where a completion queue was read.
    pub(super) fn ring_completions(&self, queue: u16, head: u16) {
        let doorbell = usize::from(queue).saturating_mul(2).saturating_add(1);
        self.ring(doorbell, head);
    }

    fn ring(&self, doorbell: usize, value: u16) {
        let at = doorbell.saturating_mul(self.stride);
        self.doorbells
            .at(Offset::<u32>::new(at))
            .set(u32::from(value));
    }

    /// Waits for `condition` as long as the controller may take, and no longer than `deadline`.
    fn wait(&self, clock: &dyn Clock, deadline: Deadline, condition: impl Fn() -> bool) -> bool {
        let limit = clock.deadline(self.ready_us);
        wait_until(clock, deadline, || condition() || limit.passed(clock));
        condition()
    }
}

const GONE: DeviceError = DeviceError::NotFound("NVMe controller does not answer on its bus");
