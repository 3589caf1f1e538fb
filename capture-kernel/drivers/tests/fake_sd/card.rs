//! A fake SD card or eMMC device: the states and commands of the specifications, as far as a block
//! device needs them, and faults on demand.

use std::collections::VecDeque;

/// Which card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Version 1.01: no CMD8, no CMD6, addressed in bytes.
    SdV1,
    /// Version 2.00, addressed in bytes.
    SdV2,
    /// Version 2.00, addressed in blocks.
    Sdhc,
    /// Version 3.01, addressed in blocks, with CMD23.
    Sdhc3,
    /// eMMC 5.1 with a cache.
    Mmc,
}

/// A fault that is armed for the next command with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No answer, and the card has not heard.
    Mute,
    /// An answer with a wrong CRC; the card has heard.
    Garbled,
    /// After so many blocks the data is garbled.
    DataGarbled(u32),
    /// After so many blocks the data stops.
    DataStops(u32),
    /// The host finds no memory after so many blocks.
    NoMemory(u32),
    /// The host never ends.
    Silent,
    /// The answer has these error bits, and nothing is done.
    Status(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Idle = 0,
    Ready = 1,
    Identified = 2,
    Standby = 3,
    Transfer = 4,
    Sending = 5,
    Receiving = 6,
}

/// An answer on the command line.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    None,
    Short(u32),
    Long([u32; 4]),
}

/// What the data lines carry after a command.
#[derive(Clone, Debug)]
pub enum Lines {
    Idle,
    Busy,
    /// These bytes, once.
    Sends(Vec<u8>),
    /// Blocks of the medium from this byte on.
    Reads(usize),
    /// Blocks for the medium from this byte on.
    Writes(usize),
}

#[derive(Debug)]
pub struct Card {
    pub model: Model,
    pub medium: Vec<u8>,
    pub state: State,
    pub rca: u32,
    pub cid: [u32; 4],
    /// Blocks in the CSD or EXT_CSD.
    pub blocks: u64,
    pub protected: bool,
    /// Gone from its slot.
    pub removed: bool,
    /// Questions until power-up is done.
    pub power_up: u32,
    pub width: u8,
    pub high_speed: bool,
    pub ddr: bool,
    /// Whether the answers to CMD6 may be believed.
    pub knows_high_speed: bool,
    pub four_lines: bool,
    pub extensions: bool,
    /// Status questions until a write is programmed.
    pub programming: u32,
    pub ext_csd: [u8; 512],
    /// A block whose writing fails.
    pub bad_block: Option<u64>,
    pub troubles: VecDeque<(u8, Trouble)>,
    /// Every command, ACMD as 100 more.
    pub heard: Vec<u8>,
    /// Bytes written since the cache was flushed.
    pub unflushed: usize,
    application: bool,
    switching: bool,
    busy: u32,
    count: Option<u32>,
    errors: u32,
    block_length_set: bool,
}

/// Device type bits: 26 and 52 MHz, DDR52.
const DEVICE_TYPE: u8 = 0b111;

impl Card {
    pub fn new(model: Model) -> Self {
        let mut ext_csd = [0; 512];
        ext_csd[196] = DEVICE_TYPE;
        ext_csd[249..253].copy_from_slice(&1024_u32.to_le_bytes());
        Self {
            model,
            medium: vec![0; 2 << 20],
            state: State::Idle,
            rca: 0,
            cid: [0x0312_3456, 7, 8, 0x99 << 8],
            blocks: match model {
                Model::SdV1 | Model::SdV2 => 2 << 20,
                Model::Mmc => 8 << 20,
                _ => 16 << 20,
            },
            protected: false,
            removed: false,
            power_up: 3,
            width: 1,
            high_speed: false,
            ddr: false,
            knows_high_speed: true,
            four_lines: true,
            extensions: false,
            programming: 0,
            ext_csd,
            bad_block: None,
            troubles: VecDeque::new(),
            heard: vec![],
            unflushed: 0,
            application: false,
            switching: false,
            busy: 0,
            count: None,
            errors: 0,
            block_length_set: false,
        }
    }

    fn is_mmc(&self) -> bool {
        self.model == Model::Mmc
    }

    fn by_blocks(&self) -> bool {
        !matches!(self.model, Model::SdV1 | Model::SdV2)
    }

    /// Selected and running as a kernel would have left it.
    pub fn leave_running(&mut self) {
        self.state = State::Transfer;
        self.rca = if self.is_mmc() { 1 } else { 0xaaaa };
        self.width = if self.is_mmc() { 8 } else { 4 };
        self.high_speed = true;
        self.block_length_set = true;
        self.ext_csd[183] = 2;
        self.ext_csd[185] = 1;
    }

    /// The trouble that is armed for this command.
    pub fn trouble(&mut self, index: u8) -> Option<Trouble> {
        let armed = self.troubles.front().filter(|(on, _)| *on == index)?.1;
        self.troubles.pop_front();
        Some(armed)
    }

    fn status(&mut self) -> u32 {
        let ready = self.busy == 0;
        let state = match ready {
            true => self.state as u32,
            false => 7,
        };
        self.busy = self.busy.saturating_sub(1);
        let application = u32::from(self.application) << 5;
        core::mem::take(&mut self.errors) | state << 9 | u32::from(ready) << 8 | application
    }

    fn csd(&self) -> [u32; 4] {
        let mut fields = vec![(84, 0x5b5_u32), (80, 9), (13, u32::from(self.protected))];
        if self.model == Model::SdV1 {
            fields[0].1 = 0x1b5; // no class 10
        }
        match self.model {
            Model::SdV1 | Model::SdV2 => {
                // 2^21 blocks: 4096 units of 512 blocks.
                fields.extend([(62, 0xfff), (47, 7)]);
            }
            Model::Mmc => fields.extend([(126, 3), (122, 4), (62, 0xfff), (47, 7)]),
            _ => fields.extend([(126, 1), (48, (self.blocks / 1024 - 1) as u32)]),
        }
        let all = fields
            .iter()
            .fold(0_u128, |all, &(low, value)| all | u128::from(value) << low);
        [all >> 96, all >> 64, all >> 32, all].map(|word| word as u32)
    }

    fn ext_csd(&self) -> Vec<u8> {
        let mut bytes = self.ext_csd.to_vec();
        bytes[212..216].copy_from_slice(&(self.blocks as u32).to_le_bytes());
        bytes
    }

    /// The first byte of the medium that an address means, or the error bit.
    fn place(&self, address: u32, blocks: u64) -> Result<usize, u32> {
        let first = match self.by_blocks() {
            true => u64::from(address),
            false if address.is_multiple_of(512) => u64::from(address / 512),
            false => return Err(1 << 30),
        };
        assert!(self.by_blocks() || self.block_length_set, "no CMD16");
        match first + blocks <= self.blocks {
            true => Ok(first as usize * 512),
            false => Err(1 << 31),
        }
    }

    /// Hears a command at a clock of `hz`.
    pub fn command(&mut self, index: u8, argument: u32, hz: u32) -> (Reply, Lines) {
        let unidentified = (self.state as u32) < State::Standby as u32;
        if self.removed || unidentified && hz > 400_000 {
            return (Reply::None, Lines::Idle);
        }
        let application = core::mem::take(&mut self.application);
        self.high_speed |= core::mem::take(&mut self.switching);
        self.heard.push(index + 100 * u8::from(application));
        if !matches!(index, 18 | 25) {
            // SET_BLOCK_COUNT is for the command right behind it (SD 4.7.4).
            self.count = None;
        }
        let silent = (Reply::None, Lines::Idle);
        let mmc = self.is_mmc();
        let mine = argument >> 16 == self.rca;
        let selected = self.state as u32 >= State::Transfer as u32;
        match (application, index, self.state) {
            (_, 0, _) => {
                assert_eq!(argument, 0);
                self.state = State::Idle;
                (self.width, self.high_speed, self.ddr) = (1, false, false);
                (self.rca, self.busy, self.count) = (0, 0, None);
                self.block_length_set = false;
                for field in [33, 183, 185] {
                    self.ext_csd[field] = 0;
                }
                silent
            }
            (false, 1, State::Idle) if mmc => {
                assert_eq!(argument & 0x40ff_8000, 0x40ff_8000);
                (Reply::Short(self.powering_up(1 << 30)), Lines::Idle)
            }
            (false, 2, State::Ready) => {
                self.state = State::Identified;
                (Reply::Long(self.cid), Lines::Idle)
            }
            (false, 3, State::Identified) => {
                self.state = State::Standby;
                if mmc {
                    self.rca = argument >> 16;
                    return (Reply::Short(0x0500), Lines::Idle);
                }
                self.rca = 0xb368;
                (Reply::Short(self.rca << 16 | 0x0500), Lines::Idle)
            }
            (false, 6, State::Transfer) if mmc => self.switch(argument),
            (true, 6, State::Transfer) if !mmc => {
                self.width = if argument == 2 { 4 } else { 1 };
                (Reply::Short(self.status()), Lines::Idle)
            }
            (false, 6, State::Transfer) if self.model != Model::SdV1 => {
                assert_eq!(argument, 0x80ff_fff1);
                let mut answer = vec![0; 64];
                // In effect only behind the data of the answer.
                self.switching = self.knows_high_speed;
                answer[16] = if self.switching { 1 } else { 0xf };
                (Reply::Short(self.status()), Lines::Sends(answer))
            }
            (false, 7, _) if mine => {
                self.state = State::Transfer;
                (Reply::Short(self.status()), Lines::Idle)
            }
            (false, 7, _) => {
                if selected {
                    self.state = State::Standby;
                }
                silent
            }
            (false, 8, State::Transfer) if mmc => {
                (Reply::Short(self.status()), Lines::Sends(self.ext_csd()))
            }
            (false, 8, State::Idle) if !mmc && self.model != Model::SdV1 => {
                (Reply::Short(argument & 0xfff), Lines::Idle)
            }
            (false, 9, State::Standby) if mine => (Reply::Long(self.csd()), Lines::Idle),
            (false, 10, State::Standby) if mine => (Reply::Long(self.cid), Lines::Idle),
            (false, 12, State::Sending | State::Receiving) => {
                let status = self.status();
                self.state = State::Transfer;
                (Reply::Short(status), Lines::Busy)
            }
            (false, 13, State::Standby | State::Transfer | State::Sending | State::Receiving)
                if mine =>
            {
                (Reply::Short(self.status()), Lines::Idle)
            }
            (false, 16, State::Transfer) => {
                assert_eq!(argument, 512);
                self.block_length_set = true;
                (Reply::Short(self.status()), Lines::Idle)
            }
            (false, 17 | 18, State::Transfer) => {
                let blocks = self.count.unwrap_or(1).into();
                match self.place(argument, blocks) {
                    Ok(at) => {
                        let status = self.status();
                        self.state = State::Sending;
                        (Reply::Short(status), Lines::Reads(at))
                    }
                    Err(error) => (Reply::Short(self.status() | error), Lines::Idle),
                }
            }
            (false, 23, State::Transfer) if matches!(self.model, Model::Mmc | Model::Sdhc3) => {
                self.count = Some(argument & 0xffff);
                (Reply::Short(self.status()), Lines::Idle)
            }
            (false, 24 | 25, State::Transfer) => {
                assert_eq!(self.busy, 0, "written to while it programs");
                let blocks = self.count.unwrap_or(1).into();
                match self.place(argument, blocks) {
                    Ok(_) if self.protected => (Reply::Short(self.status() | 1 << 26), Lines::Idle),
                    Ok(at) => {
                        let status = self.status();
                        self.state = State::Receiving;
                        (Reply::Short(status), Lines::Writes(at))
                    }
                    Err(error) => (Reply::Short(self.status() | error), Lines::Idle),
                }
            }
            (true, 41, State::Idle) if !mmc => {
                assert_eq!(argument & 0x00ff_8000, 0x00ff_8000);
                let host_does = argument & 1 << 30 != 0;
                assert!(host_does || !self.by_blocks(), "HCS not set");
                let conditions = self.powering_up(u32::from(self.by_blocks()) << 30);
                (Reply::Short(conditions), Lines::Idle)
            }
            (true, 51, State::Transfer) if !mmc => {
                let mut scr = [0_u8; 8];
                scr[0] = if self.model == Model::SdV1 { 0 } else { 2 };
                scr[1] = 1 | u8::from(self.four_lines) << 2;
                scr[3] = u8::from(self.model == Model::Sdhc3) << 1;
                scr[3] |= u8::from(self.extensions) << 2;
                (Reply::Short(self.status()), Lines::Sends(scr.to_vec()))
            }
            (false, 55, State::Idle) if !mmc => {
                self.application = true;
                (Reply::Short(self.status()), Lines::Idle)
            }
            (false, 55, _) if !mmc && mine => {
                self.application = true;
                (Reply::Short(self.status()), Lines::Idle)
            }
            _ => {
                self.errors |= 1 << 22;
                silent
            }
        }
    }

    fn powering_up(&mut self, more: u32) -> u32 {
        self.power_up = self.power_up.saturating_sub(1);
        if self.power_up > 0 {
            return 0x00ff_8000;
        }
        self.state = State::Ready;
        1 << 31 | more | 0x00ff_8000
    }

    /// eMMC: SWITCH.
    fn switch(&mut self, argument: u32) -> (Reply, Lines) {
        assert_eq!(argument >> 24, 3, "write byte");
        let (field, value) = (argument >> 16 & 0xff, (argument >> 8) as u8);
        match field {
            32 => self.unflushed = 0,
            33 => self.ext_csd[33] = value,
            183 => {
                assert!(value < 4 || self.high_speed, "DDR without high speed");
                self.ddr = value >= 4;
                self.width = [1, 4, 8, 0, 0, 4, 8][usize::from(value)];
                self.ext_csd[183] = value;
            }
            185 => {
                self.high_speed = value == 1;
                self.ext_csd[185] = value;
            }
            _ => self.errors |= 1 << 7,
        }
        self.busy = self.programming;
        (Reply::Short(self.status()), Lines::Busy)
    }

    /// Whether data can be understood as the host runs the bus.
    pub fn understands(&self, width: u8, hz: u32, high_speed: bool, ddr: bool) -> bool {
        let limit = match (self.high_speed, self.is_mmc()) {
            (true, true) => 52_000_000,
            (true, false) => 50_000_000,
            (false, true) => 26_000_000,
            (false, false) => 25_000_000,
        };
        width == self.width && hz <= limit && high_speed == self.high_speed && ddr == self.ddr
    }

    /// Takes a block into the medium.
    pub fn write_block(&mut self, at: usize, block: &[u8]) {
        if self.bad_block == Some(at as u64 / 512) {
            self.errors |= 1 << 21;
            return;
        }
        self.medium[at..][..block.len()].copy_from_slice(block);
        self.unflushed += block.len();
    }

    /// The host has moved all blocks.
    pub fn end_of_data(&mut self, multiple: bool, blocks: u32) {
        match self.count.take() {
            Some(count) if multiple => {
                assert_eq!(count, blocks, "SET_BLOCK_COUNT and the host's count");
                self.state = State::Transfer;
            }
            _ if multiple => {}
            _ => self.state = State::Transfer,
        }
        self.busy = self.programming;
    }
}
