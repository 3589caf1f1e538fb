//! What cards say of themselves: CSD, SCR, EXT_CSD and card status.
//!
//! All of it is allegation: sizes are computed with checks, and what makes no sense is `None`.

use super::BLOCK;

/// Bits of the card status, R1 (SD 4.10.1, eMMC 6.13).
pub mod status {
    /// The card is ready for data.
    pub const READY_FOR_DATA: u32 = 1 << 8;
    /// eMMC: the last SWITCH was refused.
    pub const SWITCH_ERROR: u32 = 1 << 7;
    /// The address was beyond the card's end.
    pub const OUT_OF_RANGE: u32 = 1 << 31;
    /// A write to a protected range.
    pub const WRITE_PROTECTED: u32 = 1 << 26;
    /// Every bit that tells an error of the command answered or of the one before: out of
    /// range, address, block length, erase sequence and parameter, write protected, lock failed, CRC,
    /// illegal command, ECC, controller, unspecified, CSD overwrite.
    pub const ERRORS: u32 = 0xfdf9_0000;
    /// Those that also come after a command was not understood, and mean only that.
    pub const MISUNDERSTOOD: u32 = 1 << 23 | 1 << 22;

    /// The card's state when it got the command.
    pub const fn state(status: u32) -> u32 {
        status >> 9 & 0xf
    }

    /// Standby: identified and not selected.
    pub const STANDBY: u32 = 3;
    /// Transfer: selected, and no data under way.
    pub const TRANSFER: u32 = 4;
}

/// Card-specific data, 128 bits, most significant word first (SD 5.3, eMMC 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Csd(pub [u32; 4]);

impl Csd {
    /// `len` bits from bit `low` on, at most 32.
    fn bits(&self, low: u32, len: u32) -> u32 {
        let [a, b, c, d] = self.0.map(u128::from);
        let all = a << 96 | b << 64 | c << 32 | d;
        let mask = (1_u64 << len).wrapping_sub(1) as u128;
        (all >> low & mask) as u32
    }

    /// The layout: 0 and 1 for SD cards, 2 for SDUC; another numbering for eMMC.
    pub fn structure(&self) -> u32 {
        self.bits(126, 2)
    }

    /// eMMC: the version of the specification; 4 has EXT_CSD.
    pub fn spec_version(&self) -> u32 {
        self.bits(122, 4)
    }

    /// Whether it knows the commands of a class (SD 4.7.3).
    pub fn has_class(&self, class: u32) -> bool {
        self.bits(84, 12) >> class & 1 != 0
    }

    /// Whether it is write-protected, for good or for now.
    pub fn is_read_only(&self) -> bool {
        self.bits(12, 2) != 0
    }

    /// Blocks of 512 bytes by layout 0, which eMMC up to 2 GiB has too.
    pub fn blocks_by_bytes(&self) -> Option<u64> {
        let exponent = self.bits(47, 3).checked_add(2)?;
        let length = self.bits(80, 4);
        if !(9..=11).contains(&length) {
            return None;
        }
        let count = u64::from(self.bits(62, 12)).checked_add(1)?;
        count.checked_shl(exponent.checked_add(length)?.checked_sub(9)?)
    }

    /// Blocks of 512 bytes by layout 1.
    pub fn blocks_by_blocks(&self) -> Option<u64> {
        u64::from(self.bits(48, 22))
            .checked_add(1)?
            .checked_mul(1024)
    }
}

/// SD configuration register, 64 bits as they come (SD 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scr(pub [u8; 8]);

impl Scr {
    /// Whether it is of version 1.10 or later, and so knows SWITCH_FUNC.
    pub fn can_switch(&self) -> bool {
        let [first, ..] = self.0;
        first & 0xf >= 1
    }

    /// Whether it can do 4 data lines.
    pub fn has_four_lines(&self) -> bool {
        let [_, second, ..] = self.0;
        second & 1 << 2 != 0
    }

    /// Whether it knows SET_BLOCK_COUNT.
    pub fn counts_blocks(&self) -> bool {
        self.commands() & 1 << 1 != 0
    }

    /// Whether it has extension registers, by which Linux may have switched a cache on that only
    /// those flush (SD 5.8.3).
    pub fn has_extensions(&self) -> bool {
        self.commands() & 1 << 2 != 0
    }

    fn commands(&self) -> u8 {
        let [_, _, _, fourth, ..] = self.0;
        fourth
    }
}

/// Fields of EXT_CSD by their first byte (eMMC 7.4).
pub mod ext_csd {
    /// Write 1: flush the cache.
    pub const FLUSH_CACHE: u8 = 32;
    /// Bit 0: the cache is on.
    pub const CACHE_CTRL: u8 = 33;
    /// Bits 2:0: which partition is accessed; 0 is the user area.
    pub const PARTITION_CONFIG: u8 = 179;
    /// Data lines and edges.
    pub const BUS_WIDTH: u8 = 183;
    /// Timing.
    pub const HS_TIMING: u8 = 185;
    /// Bits: 1 high speed at 52 MHz, 2 DDR at 52 MHz and 1.8 or 3 V.
    pub const DEVICE_TYPE: u8 = 196;
    /// Blocks, 32 bits.
    pub const SEC_COUNT: u8 = 212;
    /// Cache size in KiB, 32 bits.
    pub const CACHE_SIZE: u8 = 249;
}

/// Extended card-specific data of an eMMC device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtCsd {
    /// Blocks of 512 bytes.
    pub blocks: u32,
    /// [`ext_csd::DEVICE_TYPE`].
    pub device_type: u8,
    /// [`ext_csd::CACHE_SIZE`].
    pub cache_kib: u32,
    /// Whether the cache is on.
    pub cache_on: bool,
    /// Whether the user area is what is accessed.
    pub user_area: bool,
}

impl ExtCsd {
    /// Reads the 512 bytes through `byte`.
    pub fn read(byte: impl Fn(usize) -> u8) -> Self {
        let word = |at: u8| {
            let byte = |more: u8| byte(usize::from(at.saturating_add(more)));
            u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        };
        let byte = |at: u8| byte(usize::from(at));
        Self {
            blocks: word(ext_csd::SEC_COUNT),
            device_type: byte(ext_csd::DEVICE_TYPE),
            cache_kib: word(ext_csd::CACHE_SIZE),
            cache_on: byte(ext_csd::CACHE_CTRL) & 1 != 0,
            user_area: byte(ext_csd::PARTITION_CONFIG) & 7 == 0,
        }
    }

    /// Whether the device is addressed in blocks: all above 2 GiB are (eMMC 7.4.30; Linux
    /// decides so too, `mmc_decode_ext_csd`).
    pub const fn is_block_addressed(&self) -> bool {
        self.blocks > (2 << 30) / BLOCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decoded() {
        // (CSD, by bytes, by blocks). The first is the example of SD 5.3.2's layout with the
        // largest card of version 1: 4096 × 512 × 1024 bytes; the second a card of 32 GiB.
        let csd = |fields: &[(u32, u32)]| {
            let all = fields
                .iter()
                .fold(0_u128, |all, &(low, value)| all | u128::from(value) << low);
            Csd([all >> 96, all >> 64, all >> 32, all].map(|word| word as u32))
        };
        let small = csd(&[(80, 10), (62, 0xfff), (47, 7), (84, 0x5b5)]);
        assert_eq!(small.structure(), 0);
        assert_eq!(small.blocks_by_bytes(), Some(4096 * 512 * 1024 / 512));
        assert!(small.has_class(10) && !small.has_class(11) && !small.is_read_only());
        let large = csd(&[(126, 1), (48, 0xffff), (13, 1)]);
        assert_eq!(large.structure(), 1);
        assert_eq!(large.blocks_by_blocks(), Some(64 << 20));
        assert!(large.is_read_only());
        for length in [0, 8, 12, 15] {
            assert_eq!(csd(&[(80, length)]).blocks_by_bytes(), None);
        }
        let most = csd(&[(48, 0x3f_ffff)]);
        assert_eq!(most.blocks_by_blocks(), Some(1 << 32));
    }
}
