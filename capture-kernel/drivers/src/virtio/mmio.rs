//! Virtio over MMIO (§4.2), version 2 and the legacy version 1 (§4.2.4), which QEMU's `virt`
//! machine has by default.

use kdraw_pipeline::ports::DeviceError;
use tock_registers::interfaces::{Readable, Writeable};

use super::Transport;
use super::queue::{ALIGN, QueueAddresses};
use crate::registers::{Offset, Registers};

/// Bytes of register space that every device has; QEMU's have 0x200.
pub const SIZE_MIN: usize = CONFIG + 0x40;

// Both versions.
const MAGIC: Offset<u32> = Offset::new(0x000);
const VERSION: Offset<u32> = Offset::new(0x004);
const DEVICE_ID: Offset<u32> = Offset::new(0x008);
const DEVICE_FEATURES: Offset<u32> = Offset::new(0x010);
const DEVICE_FEATURES_SELECT: Offset<u32> = Offset::new(0x014);
const DRIVER_FEATURES: Offset<u32> = Offset::new(0x020);
const DRIVER_FEATURES_SELECT: Offset<u32> = Offset::new(0x024);
const QUEUE_SELECT: Offset<u32> = Offset::new(0x030);
const QUEUE_SIZE_MAX: Offset<u32> = Offset::new(0x034);
const QUEUE_SIZE: Offset<u32> = Offset::new(0x038);
const QUEUE_NOTIFY: Offset<u32> = Offset::new(0x050);
const STATUS: Offset<u32> = Offset::new(0x070);
const CONFIG: usize = 0x100;

// Version 1.
const GUEST_PAGE_SIZE: Offset<u32> = Offset::new(0x028);
const QUEUE_ALIGN: Offset<u32> = Offset::new(0x03c);
const QUEUE_PAGE: Offset<u32> = Offset::new(0x040);

// Version 2.
const QUEUE_READY: Offset<u32> = Offset::new(0x044);
const QUEUE_DESCRIPTORS: usize = 0x080;
const QUEUE_AVAILABLE: usize = 0x090;
const QUEUE_USED: usize = 0x0a0;
const CONFIG_GENERATION: Offset<u32> = Offset::new(0x0fc);

/// "virt", little-endian.
const MAGIC_VALUE: u32 = 0x7472_6976;

/// A virtio device behind memory-mapped registers.
#[derive(Debug)]
pub struct MmioTransport<R> {
    registers: R,
    legacy: bool,
}

impl<R: Registers> MmioTransport<R> {
    /// Recognizes the device behind `registers` (the node's whole `reg`); changes nothing.
    ///
    /// # Errors
    /// [`DeviceError::NotFound`] if there is no virtio device, [`DeviceError::Unusable`] if it
    /// has another version or `registers` is shorter than [`SIZE_MIN`].
    pub fn new(registers: R) -> Result<Self, DeviceError> {
        if registers.size() < SIZE_MIN {
            return Err(DeviceError::Unusable(
                "virtio-mmio register range too short",
            ));
        }
        if registers.at(MAGIC).get() != MAGIC_VALUE {
            return Err(DeviceError::NotFound(
                "no virtio-mmio device at this address",
            ));
        }
        let legacy = match registers.at(VERSION).get() {
            1 => true,
            2 => false,
            _ => {
                return Err(DeviceError::Unusable(
                    "virtio-mmio version is neither 1 nor 2",
                ));
            }
        };
        if registers.at(DEVICE_ID).get() == 0 {
            return Err(DeviceError::NotFound("virtio-mmio slot is empty"));
        }
        Ok(Self { registers, legacy })
    }

    fn set(&self, register: Offset<u32>, value: u32) {
        self.registers.at(register).set(value);
    }

    /// Writes a 64-bit address as two registers, as §4.2.2 wants.
    fn set_address(&self, offset: usize, address: u64) {
        self.set(Offset::new(offset), address as u32);
        self.set(Offset::new(offset.wrapping_add(4)), (address >> 32) as u32);
    }
}

impl<R: Registers> Transport for MmioTransport<R> {
    fn device_type(&self) -> u32 {
        self.registers.at(DEVICE_ID).get()
    }

    fn is_legacy(&self) -> bool {
        self.legacy
    }

    fn status(&self) -> u8 {
        self.registers.at(STATUS).get() as u8
    }

    fn set_status(&mut self, status: u8) {
        self.set(STATUS, u32::from(status));
    }

    fn device_features(&self) -> u64 {
        let half = |select: u32| {
            self.set(DEVICE_FEATURES_SELECT, select);
            u64::from(self.registers.at(DEVICE_FEATURES).get())
        };
        // A legacy device has only the lower half (§4.2.4).
        half(0) | if self.legacy { 0 } else { half(1) << 32 }
    }

    fn set_driver_features(&mut self, features: u64) {
        self.set(DRIVER_FEATURES_SELECT, 0);
        self.set(DRIVER_FEATURES, features as u32);
        if !self.legacy {
            self.set(DRIVER_FEATURES_SELECT, 1);
            self.set(DRIVER_FEATURES, (features >> 32) as u32);
        }
    }

    fn queue_size_max(&self) -> u16 {
        self.set(QUEUE_SELECT, 0);
        u16::try_from(self.registers.at(QUEUE_SIZE_MAX).get()).unwrap_or(u16::MAX)
    }

    fn enable_queue(&mut self, size: u16, addresses: QueueAddresses) -> Result<(), DeviceError> {
        self.set(QUEUE_SELECT, 0);
        let in_use = if self.legacy { QUEUE_PAGE } else { QUEUE_READY };
        if self.registers.at(in_use).get() != 0 {
            return Err(DeviceError::Unusable(
                "virtqueue still in use after the device's reset",
            ));
        }
        if self.legacy {
            let page = u32::try_from(addresses.descriptors >> ALIGN.ilog2()).map_err(|_| {
                DeviceError::Unusable("virtqueue memory too high for a legacy virtio device")
            })?;
            self.set(GUEST_PAGE_SIZE, ALIGN);
            self.set(QUEUE_SIZE, u32::from(size));
            self.set(QUEUE_ALIGN, ALIGN);
            self.set(QUEUE_PAGE, page);
        } else {
            self.set(QUEUE_SIZE, u32::from(size));
            self.set_address(QUEUE_DESCRIPTORS, addresses.descriptors);
            self.set_address(QUEUE_AVAILABLE, addresses.available);
            self.set_address(QUEUE_USED, addresses.used);
            self.set(QUEUE_READY, 1);
        }
        Ok(())
    }

    fn notify(&mut self) {
        self.set(QUEUE_NOTIFY, 0);
    }

    fn config_generation(&self) -> u32 {
        if self.legacy {
            0
        } else {
            self.registers.at(CONFIG_GENERATION).get()
        }
    }

    fn config32(&self, offset: usize) -> u32 {
        self.registers
            .at(Offset::<u32>::new(CONFIG.saturating_add(offset)))
            .get()
    }
}
