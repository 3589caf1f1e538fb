//! Virtio over PCI (§4.1), by the modern capabilities.
//!
//! Transitional devices have them too. A legacy-only device (`disable-modern=on`) has its
//! registers in I/O space, which arm64 hosts reach only through a bridge window that need not
//! exist; it is refused.

use kdraw_pipeline::ports::DeviceError;
use tock_registers::interfaces::{Readable, Writeable};

use super::Transport;
use super::queue::QueueAddresses;
use crate::pci::{Function, Mapper};
use crate::registers::{Offset, Registers};

const VENDOR: u16 = 0x1af4;
/// Modern device ids are 0x1040 + device type; transitional ones lie below (§4.1.2).
const MODERN_DEVICES: u16 = 0x1040;
const TRANSITIONAL_BLOCK: u16 = 0x1001;
const BLOCK: u32 = 2;

// struct virtio_pci_cap (§4.1.4).
const CAPABILITY_VENDOR_SPECIFIC: u8 = 0x09;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;
const NOTIFY_CAPABILITY_LEN: u8 = 20;
const CAPABILITY_LEN: u8 = 16;

// struct virtio_pci_common_cfg (§4.1.4.3).
const DEVICE_FEATURES_SELECT: Offset<u32> = Offset::new(0x00);
const DEVICE_FEATURES: Offset<u32> = Offset::new(0x04);
const DRIVER_FEATURES_SELECT: Offset<u32> = Offset::new(0x08);
const DRIVER_FEATURES: Offset<u32> = Offset::new(0x0c);
const STATUS: Offset<u8> = Offset::new(0x14);
const CONFIG_GENERATION: Offset<u8> = Offset::new(0x15);
const QUEUE_SELECT: Offset<u16> = Offset::new(0x16);
const QUEUE_SIZE: Offset<u16> = Offset::new(0x18);
const QUEUE_ENABLE: Offset<u16> = Offset::new(0x1c);
const QUEUE_NOTIFY_OFFSET: Offset<u16> = Offset::new(0x1e);
const QUEUE_DESCRIPTORS: usize = 0x20;
const QUEUE_AVAILABLE: usize = 0x28;
const QUEUE_USED: usize = 0x30;
const COMMON_SIZE: u32 = 0x38;

/// Bytes of the device configuration that are mapped at most, enough for virtio-blk.
const DEVICE_SIZE: u32 = 0x40;
/// Bytes of a queue's doorbell.
const DOORBELL_SIZE: u32 = 2;
const DOORBELL: Offset<u16> = Offset::new(0);

/// A virtio device behind a PCI function.
#[derive(Debug)]
pub struct PciTransport<R> {
    common: R,
    doorbell: R,
    device: R,
    device_type: u32,
}

impl<R: Registers> PciTransport<R> {
    /// Recognizes the virtio device behind `function` and maps its registers.
    ///
    /// Nothing but the queue selection is changed.
    ///
    /// # Errors
    /// [`DeviceError::NotFound`] if this is no virtio device, [`DeviceError::Unusable`] if it
    /// is legacy-only or its register ranges are missing, too short or cannot be mapped.
    pub fn new(function: &Function<'_, R>, map: Mapper<'_, R>) -> Result<Self, DeviceError> {
        if function.vendor() != VENDOR {
            return Err(DeviceError::NotFound("PCI function is no virtio device"));
        }
        let device_type = match function.device() {
            TRANSITIONAL_BLOCK => BLOCK,
            id => id.checked_sub(MODERN_DEVICES).map_or(0, u32::from),
        };

        let common = Structure::find(function, COMMON).ok_or(DeviceError::Unusable(
            "virtio-pci device without modern capabilities (legacy-only, disable-modern=on?)",
        ))?;
        let common = common.map(function, 0, COMMON_SIZE, map)?;

        let missing =
            DeviceError::Unusable("virtio-pci device without notify or device capability");
        let notify = Structure::find(function, NOTIFY).ok_or(missing)?;
        common.at(QUEUE_SELECT).set(0);
        let doorbell_at = u32::from(common.at(QUEUE_NOTIFY_OFFSET).get())
            .checked_mul(notify.notify_multiplier)
            .ok_or(DeviceError::Unusable("virtio-pci doorbell out of range"))?;
        let doorbell = notify.map(function, doorbell_at, DOORBELL_SIZE, map)?;

        let device = Structure::find(function, DEVICE).ok_or(missing)?;
        let device = device.map(function, 0, device.len.min(DEVICE_SIZE), map)?;
        Ok(Self {
            common,
            doorbell,
            device,
            device_type,
        })
    }

    /// Writes a 64-bit address as two accesses, as §4.1.3.1 wants.
    fn set_address(&self, offset: usize, address: u64) {
        self.common
            .at(Offset::<u32>::new(offset))
            .set(address as u32);
        let high = Offset::<u32>::new(offset.wrapping_add(4));
        self.common.at(high).set((address >> 32) as u32);
    }
}

/// Where a capability says that a group of registers lies.
#[derive(Clone, Copy, Debug)]
struct Structure {
    bar: u8,
    offset: u32,
    len: u32,
    /// Of the notify structure only.
    notify_multiplier: u32,
}

impl Structure {
    /// Finds the first usable capability of `kind`: the device lists them in its order of
    /// preference, and the driver passes over what it cannot use (§4.1.4.1).
    fn find<R: Registers>(function: &Function<'_, R>, kind: u8) -> Option<Self> {
        let len_min = if kind == NOTIFY {
            NOTIFY_CAPABILITY_LEN
        } else {
            CAPABILITY_LEN
        };
        function
            .capabilities(CAPABILITY_VENDOR_SPECIFIC)
            .find_map(|at| {
                let word =
                    |index: usize| function.config32(at.saturating_add(index.saturating_mul(4)));
                let [_, _, len, found] = word(0).to_le_bytes();
                if found != kind || len < len_min {
                    return None;
                }
                let structure = Self {
                    bar: word(1) as u8,
                    offset: word(2),
                    len: word(3),
                    notify_multiplier: if kind == NOTIFY { word(4) } else { 0 },
                };
                function.bar_address(structure.bar, u64::from(structure.offset), 4)?;
                Some(structure)
            })
    }

    /// Maps `len` bytes from `start` in the structure.
    fn map<R: Registers>(
        &self,
        function: &Function<'_, R>,
        start: u32,
        len: u32,
        map: Mapper<'_, R>,
    ) -> Result<R, DeviceError> {
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(DeviceError::Unusable("virtio-pci register range too short"));
        }
        let offset = u64::from(self.offset).saturating_add(u64::from(start));
        function
            .bar_address(self.bar, offset, u64::from(len))
            .and_then(|address| map(address, u64::from(len)))
            .ok_or(DeviceError::Unusable(
                "virtio-pci BAR outside the host bridge's windows",
            ))
    }
}

impl<R: Registers> Transport for PciTransport<R> {
    fn device_type(&self) -> u32 {
        self.device_type
    }

    fn is_legacy(&self) -> bool {
        false
    }

    fn status(&self) -> u8 {
        self.common.at(STATUS).get()
    }

    fn set_status(&mut self, status: u8) {
        self.common.at(STATUS).set(status);
    }

    fn device_features(&self) -> u64 {
        let half = |select: u32| {
            self.common.at(DEVICE_FEATURES_SELECT).set(select);
            u64::from(self.common.at(DEVICE_FEATURES).get())
        };
        half(0) | half(1) << 32
    }

    fn set_driver_features(&mut self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.common.at(DRIVER_FEATURES_SELECT).set(select);
            self.common.at(DRIVER_FEATURES).set(half);
        }
    }

    fn queue_size_max(&self) -> u16 {
        self.common.at(QUEUE_SELECT).set(0);
        self.common.at(QUEUE_SIZE).get()
    }

    fn enable_queue(&mut self, size: u16, addresses: QueueAddresses) -> Result<(), DeviceError> {
        self.common.at(QUEUE_SELECT).set(0);
        if self.common.at(QUEUE_ENABLE).get() != 0 {
            return Err(DeviceError::Unusable(
                "virtqueue still in use after the device's reset",
            ));
        }
        self.common.at(QUEUE_SIZE).set(size);
        self.set_address(QUEUE_DESCRIPTORS, addresses.descriptors);
        self.set_address(QUEUE_AVAILABLE, addresses.available);
        self.set_address(QUEUE_USED, addresses.used);
        self.common.at(QUEUE_ENABLE).set(1);
        Ok(())
    }

    fn notify(&mut self) {
        self.doorbell.at(DOORBELL).set(0);
    }

    fn config_generation(&self) -> u32 {
        u32::from(self.common.at(CONFIG_GENERATION).get())
    }

    fn config32(&self, offset: usize) -> u32 {
        self.device.at(Offset::<u32>::new(offset)).get()
    }
}
