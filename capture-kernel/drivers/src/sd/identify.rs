//! How a card is found: as Linux left it, or from scratch.
//!
//! # From scratch
//! SD (4.2, figure 4-2; 6.4.1): CMD0, CMD8 asks a card of version 2 for its voltage, ACMD41 until
//! it is up and says whether it is addressed in blocks, CMD2 its CID, CMD3 its address, CMD9 its
//! CSD, CMD7 selects it, ACMD51 its SCR; then 4 data lines by ACMD6 and high speed by CMD6, if card
//! and host do both.
//!
//! eMMC (6.4, 6.6.1): what does not answer CMD55 is asked by CMD1 until it is up, gets address 1 by
//! CMD3, and its EXT_CSD is read; then high speed at 52 MHz, 8 or 4 data lines, and DDR if the host
//! does it at the lines' voltage, each by SWITCH and proven by reading EXT_CSD again. A cache is
//! switched on.
//!
//! No voltage is switched and nothing is tuned.
//!
//! # As Linux left it
//! The controller must be running. Whatever was under way is stopped, the card must answer at its
//! address and come to transfer state; deselected for a moment it gives CSD and CID, then SCR or
//! EXT_CSD, and then the proof is read.

use kdraw_pipeline::ports::{Clock, DeviceError};

use super::card::{Card, Facts, Kind, Proof, SCRATCH, device_error};
use super::registers::{Csd, ExtCsd, Scr, ext_csd};
use super::{Answer, BLOCK, Bus, Fault, Host};
use crate::registers::{Registers as _, Width};

/// How long a card may take to power up, in microseconds (SD 4.2.3 and eMMC 6.4.2: 1 s).
const POWER_UP_US: u64 = 1_500_000;
/// 2.7 to 3.6 V, of the operating conditions register (SD 5.1).
const VOLTAGES: u32 = 0x00ff_8000;
/// Power-up is done.
const UP: u32 = 1 << 31;
/// The card is addressed in blocks; in the question: the host can do that.
const BY_BLOCKS: u32 = 1 << 30;
/// CMD8: 2.7 to 3.6 V, and a pattern that comes back (SD 4.3.13).
const CONDITIONS: u32 = 0x1aa;
/// The relative address that an eMMC device is given.
const MMC_ADDRESS: u32 = 1 << 16;

/// Clocks in Hz: SD default and high speed (SD 6.6), MMC before and with high speed (eMMC 5.3.2).
const SD_DEFAULT_HZ: u32 = 25_000_000;
const SD_HIGH_SPEED_HZ: u32 = 50_000_000;
const MMC_DEFAULT_HZ: u32 = 26_000_000;
const MMC_HIGH_SPEED_HZ: u32 = 52_000_000;

const NO_CARD: DeviceError = DeviceError::NotFound("no card answers the SD host controller");
const NO_SENSE: DeviceError = DeviceError::Unusable("what the card says of itself makes no sense");

impl<H: Host, C: Clock> Card<H, C> {
    /// Identifies the card from scratch and runs the bus as fast as it safely may.
    ///
    /// # Errors
    /// As [`Card::new`].
    pub(super) fn identify(&mut self) -> Result<Facts, DeviceError> {
        self.host.restart().map_err(device_error)?;
        self.go_idle();
        match self.sd_power_up()? {
            Some(by_blocks) => self.identify_sd(by_blocks),
            None => {
                // The commands that it did not know have left it anywhere.
                self.go_idle();
                self.identify_mmc()
            }
        }
    }

    /// Resets the card (CMD0).
    fn go_idle(&mut self) {
        // No answer; whether it came is seen by what follows.
        let _ = self.execute(0, 0, Answer::None, None);
        self.pause(1000);
    }

    /// Powers an SD card up and tells whether it is addressed in blocks; `None` if it is none.
    fn sd_power_up(&mut self) -> Result<Option<bool>, DeviceError> {
        let version_2 = match self.execute(8, CONDITIONS, Answer::Short, None) {
            Ok([echo, ..]) if echo & 0xfff == CONDITIONS => BY_BLOCKS,
            Ok(_) => return Err(DeviceError::Unusable("the card does not do 3.3 V")),
            Err(_) => 0,
        };
        let deadline = self.clock.deadline(POWER_UP_US);
        loop {
            let answer = self.application(0, 41, VOLTAGES | version_2, Answer::Unchecked, None);
            match answer {
                Ok([conditions, ..]) if conditions & UP != 0 => {
                    return Ok(Some(conditions & BY_BLOCKS != 0));
                }
                Ok(_) => {}
                Err(Fault::CommandTimeout) if version_2 == 0 => return Ok(None),
                Err(fault) => return Err(device_error(fault)),
            }
            if deadline.passed(&self.clock) {
                return Err(DeviceError::Timeout("the SD card's power-up"));
            }
            self.pause(5000);
        }
    }

    /// Does an application command: CMD55 and then itself.
    fn application(
        &mut self,
        rca: u32,
        index: u8,
        argument: u32,
        answer: Answer,
        data: Option<(u32, u32)>,
    ) -> Result<[u32; 4], Fault> {
        self.execute(55, rca, Answer::Short, None)?;
        self.execute(index, argument, answer, data)
    }

    fn identify_sd(&mut self, by_blocks: bool) -> Result<Facts, DeviceError> {
        let cid = self.execute(2, 0, Answer::Long, None);
        let cid = cid.map_err(device_error)?;
        let published = self.execute(3, 0, Answer::Short, None);
        let [published, ..] = published.map_err(device_error)?;
        let rca = published & 0xffff_0000;
        let csd = self.execute(9, rca, Answer::Long, None);
        let csd = Csd(csd.map_err(device_error)?);
        self.select(rca)?;
        let (facts, scr) = self.sd_facts(rca, cid, csd)?;
        if facts.by_blocks != by_blocks {
            return Err(NO_SENSE);
        }
        self.run_sd(rca, csd, scr).map_err(device_error)?;
        Ok(facts)
    }

    /// Selects the card and has it speak in blocks.
    fn select(&mut self, rca: u32) -> Result<(), DeviceError> {
        let selected = self.execute(7, rca, Answer::Short, None);
        selected
            .and_then(|_| self.become_ready(rca))
            .map(|_| ())
            .map_err(device_error)
    }

    /// What there is to know of a selected SD card.
    fn sd_facts(&mut self, rca: u32, cid: [u32; 4], csd: Csd) -> Result<(Facts, Scr), DeviceError> {
        let (blocks, by_blocks) = match csd.structure() {
            0 => (csd.blocks_by_bytes(), false),
            1 => (csd.blocks_by_blocks(), true),
            _ => return Err(DeviceError::Unusable("SD card of an unknown CSD layout")),
        };
        if !by_blocks {
            // Cards addressed in bytes may begin with blocks of another length (SD 4.3.2).
            let set = self.execute(16, BLOCK, Answer::Short, None);
            set.map_err(device_error)?;
        }
        let scr = self.scr(rca).map_err(device_error)?;
        let facts = Facts {
            kind: Kind::Sd,
            rca,
            cid,
            blocks: blocks.ok_or(NO_SENSE)?,
            by_blocks,
            counts: scr.counts_blocks(),
            read_only: csd.is_read_only(),
            cached: false,
        };
        Ok((facts, scr))
    }

    /// Reads the SCR (ACMD51).
    fn scr(&mut self, rca: u32) -> Result<Scr, Fault> {
        self.application(rca, 51, 0, Answer::Short, Some((8, 1)))?;
        let word = self.scratch.read(0, Width::W64);
        Ok(Scr(word.to_le_bytes()))
    }

    /// Runs the bus of an SD card as fast as card and host do without tuning.
    fn run_sd(&mut self, rca: u32, csd: Csd, scr: Scr) -> Result<(), Fault> {
        let limits = self.host.limits();
        let limit = limits.clock_hz.min(self.clock_limit_hz);
        let mut bus = Bus {
            clock_hz: SD_DEFAULT_HZ.min(limit),
            ..Bus::IDENTIFY
        };
        if limits.width >= 4 && scr.has_four_lines() {
            self.application(rca, 6, 2, Answer::Short, None)?;
            bus.width = 4;
        }
        self.host.set_bus(bus)?;
        // SWITCH_FUNC is in class 10.
        let can_switch = scr.can_switch() && csd.has_class(10);
        if can_switch && limits.high_speed && limit > SD_DEFAULT_HZ && self.high_speed()? {
            bus.high_speed = true;
            bus.clock_hz = SD_HIGH_SPEED_HZ.min(limit);
            self.host.set_bus(bus)?;
        }
        Ok(())
    }

    /// Switches an SD card to high speed (CMD6, SD 4.3.10): function 1 of group 1, all others as
    /// they are. False if it does not.
    fn high_speed(&mut self) -> Result<bool, Fault> {
        const SET: u32 = 1 << 31 | 0x00ff_fff1;
        self.execute(6, SET, Answer::Short, Some((64, 1)))?;
        // Bits 379:376 of the 512 that come, most significant first: the function now selected.
        let selected = self.scratch.read(16, Width::W8) & 0xf;
        // It is in effect 8 clocks later (SD 4.3.10.1): at 400 kHz, 20 µs.
        self.pause(1000);
        Ok(selected == 1)
    }

    fn identify_mmc(&mut self) -> Result<Facts, DeviceError> {
        let deadline = self.clock.deadline(POWER_UP_US);
        loop {
            // 1.8 V is offered too: the lines' voltage is the board's affair.
            let question = BY_BLOCKS | VOLTAGES | 1 << 7;
            let answer = self.execute(1, question, Answer::Unchecked, None);
            let [conditions, ..] = answer.map_err(|_| NO_CARD)?;
            if conditions & UP != 0 {
                break;
            }
            if deadline.passed(&self.clock) {
                return Err(DeviceError::Timeout("the eMMC device's power-up"));
            }
            self.pause(5000);
        }
        let cid = self.execute(2, 0, Answer::Long, None);
        let cid = cid.map_err(device_error)?;
        let rca = MMC_ADDRESS;
        let named = self.execute(3, rca, Answer::Short, None);
        named.map_err(device_error)?;
        let csd = self.execute(9, rca, Answer::Long, None);
        let csd = Csd(csd.map_err(device_error)?);
        self.select(rca)?;
        let (mut facts, ext) = self.mmc_facts(rca, cid, csd)?;
        self.run_mmc(rca, &ext).map_err(device_error)?;
        if ext.cache_kib > 0 {
            // Without it everything works too.
            facts.cached = self.switch(rca, ext_csd::CACHE_CTRL, 1).is_ok();
        }
        Ok(facts)
    }

    /// What there is to know of a selected eMMC device.
    fn mmc_facts(
        &mut self,
        rca: u32,
        cid: [u32; 4],
        csd: Csd,
    ) -> Result<(Facts, ExtCsd), DeviceError> {
        if csd.spec_version() < 4 {
            return Err(DeviceError::Unusable("MMC card from before version 4"));
        }
        let ext = self.ext_csd().map_err(device_error)?;
        if !ext.user_area {
            return Err(DeviceError::Unusable(
                "eMMC device with another partition than the user area selected",
            ));
        }
        let by_blocks = ext.is_block_addressed();
        let blocks = match by_blocks {
            true => Some(u64::from(ext.blocks)),
            false => csd.blocks_by_bytes(),
        };
        let facts = Facts {
            kind: Kind::Mmc,
            rca,
            cid,
            blocks: blocks.ok_or(NO_SENSE)?,
            by_blocks,
            counts: true,
            read_only: csd.is_read_only(),
            cached: ext.cache_on,
        };
        Ok((facts, ext))
    }

    /// Reads EXT_CSD (CMD8).
    fn ext_csd(&mut self) -> Result<ExtCsd, Fault> {
        self.execute(8, 0, Answer::Short, Some((BLOCK, 1)))?;
        let byte = |at| self.scratch.read(at, Width::W8) as u8;
        Ok(ExtCsd::read(byte))
    }

    /// Runs the bus of an eMMC device as fast as device and host do without tuning.
    fn run_mmc(&mut self, rca: u32, ext: &ExtCsd) -> Result<(), Fault> {
        let limits = self.host.limits();
        let limit = limits.clock_hz.min(self.clock_limit_hz);
        let mut bus = Bus {
            clock_hz: MMC_DEFAULT_HZ.min(limit),
            ..Bus::IDENTIFY
        };
        if ext.device_type & 1 << 1 != 0 && limits.high_speed && limit > MMC_DEFAULT_HZ {
            self.switch(rca, ext_csd::HS_TIMING, 1)?;
            bus.high_speed = true;
            bus.clock_hz = MMC_HIGH_SPEED_HZ.min(limit);
        }
        self.host.set_bus(bus)?;
        let ddr = bus.high_speed && limits.ddr && ext.device_type & 1 << 2 != 0;
        // (data lines, both edges, value of BUS_WIDTH), best first.
        let modes = [(8, true, 6), (4, true, 5), (8, false, 2), (4, false, 1)];
        for (width, edges, value) in modes {
            if width > limits.width || edges && !ddr {
                continue;
            }
            let wider = Bus {
                width,
                ddr: edges,
                ..bus
            };
            let switched = self.switch(rca, ext_csd::BUS_WIDTH, value);
            if switched.and_then(|()| self.host.set_bus(wider)).is_ok()
                && self.ext_csd().as_ref() == Ok(ext)
            {
                return Ok(());
            }
            // The command line works in any width: back, and on to the next.
            self.host.set_bus(bus)?;
            self.switch(rca, ext_csd::BUS_WIDTH, 0)?;
        }
        Ok(())
    }

    /// Uses the card as Linux left it; `None` if that does not work.
    pub(super) fn take_over(&mut self, mut proof: Proof<'_>) -> Option<Facts> {
        let rca = u32::from(proof.known.rca) << 16;
        self.host.take_over().ok()?;
        // Refused by a card that has nothing to stop.
        let _ = self.execute(12, 0, Answer::ShortBusy, None);
        self.become_ready(rca).ok()?;
        // Nobody has address 0: deselects.
        self.execute(7, 0, Answer::None, None).ok()?;
        let csd = self.execute(9, rca, Answer::Long, None).map(Csd).ok()?;
        let cid = self.execute(10, rca, Answer::Long, None).ok()?;
        self.select(rca).ok()?;
        let facts = match proof.known.kind {
            Kind::Sd => {
                let (facts, scr) = self.sd_facts(rca, cid, csd).ok()?;
                if scr.has_extensions() {
                    return None;
                }
                facts
            }
            Kind::Mmc => self.mmc_facts(rca, cid, csd).ok()?.0,
        };
        self.prove(&facts, &mut proof).then_some(facts)
    }

    /// Reads the block that proves that the card is the right one and can be read.
    fn prove(&mut self, facts: &Facts, proof: &mut Proof<'_>) -> bool {
        const BLOCKS: u32 = SCRATCH as u32 / BLOCK;
        let end = proof.lba.checked_add(u64::from(BLOCKS));
        if end.is_none_or(|end| end.0 > facts.blocks) {
            return false;
        }
        let address = match facts.by_blocks {
            true => Some(proof.lba.0),
            false => proof.lba.0.checked_mul(u64::from(BLOCK)),
        };
        let Some(address) = address.and_then(|address| u32::try_from(address).ok()) else {
            return false;
        };
        let read = self.execute(18, address, Answer::Short, Some((BLOCK, BLOCKS)));
        let _ = self.execute(12, 0, Answer::ShortBusy, None);
        if read.is_err() || self.become_ready(facts.rca).is_err() {
            return false;
        }
        let mut bytes = [0; SCRATCH];
        for (index, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let at = index.saturating_mul(8);
            *word = self.scratch.read(at, Width::W64).to_le_bytes();
        }
        (proof.is_right)(&bytes)
    }
}
