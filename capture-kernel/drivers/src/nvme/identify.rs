//! What the controller and a namespace say of themselves, in 4096 bytes each.

use kdraw_pipeline::ports::DeviceError;
use tock_registers::interfaces::Readable;

use super::PAGE;
use crate::registers::{Offset, Registers};

/// A controller (Identify with CNS 01h: §5.17.2.1, Figure 275).
#[derive(Debug)]
pub(super) struct ControllerIdentity {
    /// The most bytes in a command.
    pub(super) max_transfer: u64,
    /// Whether it has a volatile write cache, which a flush empties.
    pub(super) volatile_cache: bool,
}

impl ControllerIdentity {
    /// Reads it from the page that begins at `page`.
    pub(super) fn read(memory: &impl Registers, page: usize) -> Self {
        let byte =
            |at: usize| -> u8 { memory.at(Offset::<u8>::new(page.saturating_add(at))).get() };
        // MDTS: a power of two of the smallest page, which is 4 KiB; 0 is no limit.
        let max_transfer = match byte(77) {
            0 => u64::MAX,
            power => PAGE.checked_shl(power.into()).unwrap_or(u64::MAX),
        };
        Self {
            max_transfer: max_transfer.max(PAGE),
            volatile_cache: byte(525) & 1 != 0,
        }
    }
}

/// A namespace (Identify with CNS 00h: NVM Command Set 1.0, §4.1.5.1, Figure 97).
#[derive(Debug)]
pub(super) struct NamespaceIdentity {
    /// Logical blocks.
    pub(super) blocks: u64,
    /// Bytes in a logical block.
    pub(super) block_size: u32,
    /// Whether it is write protected.
    pub(super) read_only: bool,
}

impl NamespaceIdentity {
    /// Reads it from the page that begins at `page`, and checks it.
    pub(super) fn read(memory: &impl Registers, page: usize) -> Result<Self, DeviceError> {
        let byte =
            |at: usize| -> u8 { memory.at(Offset::<u8>::new(page.saturating_add(at))).get() };
        let blocks = memory.at(Offset::<u64>::new(page)).get();
        if blocks == 0 {
            // What an inactive namespace reads as (§5.17.2.1).
            return Err(DeviceError::NotFound("NVMe namespace does not exist"));
        }
        // FLBAS: the low four bits of the format's number, and two more where there are more
        // than 16 formats, of which NLBAF is the last one's number.
        let (formats, chosen) = (byte(25), byte(26));
        let high = if formats > 15 { chosen >> 5 & 3 } else { 0 };
        let format = high << 4 | chosen & 0xf;
        let at = usize::from(format).saturating_mul(4).saturating_add(128);
        let lba_format = memory.at(Offset::<u32>::new(page.saturating_add(at))).get();
        let block_log = lba_format >> 16 & 0xff;
        // The low half is the size of each block's metadata.
        if format > formats || lba_format & 0xffff != 0 || !(9..=12).contains(&block_log) {
            return Err(DeviceError::Unusable(
                "NVMe namespace has blocks with metadata, or not of 512 to 4096 bytes",
            ));
        }
        if blocks.leading_zeros() < block_log {
            return Err(DeviceError::Unusable("NVMe namespace has an absurd size"));
        }
        Ok(Self {
            blocks,
            block_size: 1 << block_log,
            read_only: byte(99) & 1 != 0,
        })
    }
}
