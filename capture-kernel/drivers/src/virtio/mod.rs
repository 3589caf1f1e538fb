//! Virtio: what all of its devices have in common.
//!
//! A device is reached through a [`Transport`] (registers in memory or a PCI function) and fed
//! through a split [`queue`]; the steps that bring any device up are functions here.
//!
//! Section numbers in these modules are those of the OASIS Virtual I/O Device specification 1.2.

pub mod blk;
pub mod mmio;
pub mod pci;
pub mod queue;

use kdraw_pipeline::ports::{Clock, Deadline, DeviceError};

use crate::wait_until;
use queue::QueueAddresses;

/// Device status bits (§2.1).
pub(crate) mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const FAILED: u8 = 128;
}

/// Feature bits that concern every device (§6).
pub(crate) mod feature {
    pub const VERSION_1: u64 = 1 << 32;
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    pub const ORDER_PLATFORM: u64 = 1 << 36;
}

/// How a driver and its device reach each other.
///
/// Nothing here waits. All queue methods concern queue 0, the only one that is used.
pub trait Transport {
    /// The device type (§5).
    fn device_type(&self) -> u32;

    /// Whether this is the interface from before virtio 1.0 (§2.2.3, §4.2.4).
    fn is_legacy(&self) -> bool;

    /// Reads the device status.
    fn status(&self) -> u8;

    /// Writes the device status; 0 asks for a reset.
    fn set_status(&mut self, status: u8);

    /// What the device offers.
    fn device_features(&self) -> u64;

    /// Tells the device what the driver takes.
    fn set_driver_features(&mut self, features: u64);

    /// The longest queue that the device can do, in descriptors; 0 if there is no queue.
    fn queue_size_max(&self) -> u16;

    /// Gives the device its queue of `size` descriptors.
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] if the device cannot be told such addresses or already uses
    /// the queue.
    fn enable_queue(&mut self, size: u16, addresses: QueueAddresses) -> Result<(), DeviceError>;

    /// Tells the device that the queue has something new.
    fn notify(&mut self);

    /// Changes whenever the device configuration changes; constant on a legacy device.
    fn config_generation(&self) -> u32;

    /// Reads the aligned 32 bits at `offset` of the device configuration.
    fn config32(&self, offset: usize) -> u32;
}

/// Resets the device: whatever it was doing in memory for the dead kernel ends here (§2.4.1,
/// §4.1.4.3.2, §4.2.2.2).
///
/// # Errors
/// [`DeviceError::Timeout`] if it does not say that it is reset by `deadline`.
pub(crate) fn reset(
    transport: &mut impl Transport,
    clock: &dyn Clock,
    deadline: Deadline,
) -> Result<(), DeviceError> {
    transport.set_status(0);
    if wait_until(clock, deadline, || transport.status() == 0) {
        Ok(())
    } else {
        Err(DeviceError::Timeout("virtio device reset"))
    }
}

/// Takes those features of `wanted` that a reset device offers, and answers them.
///
/// The device is left ready for its queue to be set up.
///
/// # Errors
/// [`DeviceError::Unusable`] if the device speaks no virtio 1 where it should, or does not
/// accept the choice.
pub(crate) fn negotiate(transport: &mut impl Transport, wanted: u64) -> Result<u64, DeviceError> {
    transport.set_status(status::ACKNOWLEDGE);
    transport.set_status(status::ACKNOWLEDGE | status::DRIVER);

    let offered = transport.device_features();
    if transport.is_legacy() {
        // 32 feature bits and no FEATURES_OK (§2.2.3, §3.1.2).
        let features = offered & wanted & u64::from(u32::MAX);
        transport.set_driver_features(features);
        return Ok(features);
    }

    if offered & feature::VERSION_1 == 0 {
        return Err(DeviceError::Unusable(
            "modern virtio interface without VIRTIO_F_VERSION_1",
        ));
    }
    // The barriers here order accesses for devices outside the CPU too, so ORDER_PLATFORM
    // (§6.1: a driver should accept it) costs nothing.
    let features = offered & (wanted | feature::VERSION_1 | feature::ORDER_PLATFORM);
    transport.set_driver_features(features);

    let negotiated = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
    transport.set_status(negotiated);
    if transport.status() & status::FEATURES_OK != 0 {
        Ok(features)
    } else if offered & feature::ACCESS_PLATFORM != 0 {
        Err(DeviceError::Unusable(
            "virtio device sits behind an IOMMU (VIRTIO_F_ACCESS_PLATFORM)",
        ))
    } else {
        Err(DeviceError::Unusable(
            "virtio device refuses the features chosen",
        ))
    }
}

/// Reads from the device configuration until no change came between (§2.5.1).
///
/// # Errors
/// [`DeviceError::Timeout`] if it keeps changing until `deadline`.
pub(crate) fn read_config<T: Transport, V>(
    transport: &T,
    clock: &dyn Clock,
    deadline: Deadline,
    read: impl Fn(&T) -> V,
) -> Result<V, DeviceError> {
    let mut value = None;
    wait_until(clock, deadline, || {
        let before = transport.config_generation();
        value = Some(read(transport)).filter(|_| transport.config_generation() == before);
        value.is_some()
    });
    value.ok_or(DeviceError::Timeout("virtio configuration keeps changing"))
}
