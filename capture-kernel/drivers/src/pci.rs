//! PCI functions as Linux configured them, through ECAM.
//!
//! Nothing is enumerated and no BAR is sized or moved: bus numbers, bridges and BARs stay as the
//! dead kernel left them. The plan names one function; this module reads its configuration
//! space, walks its capabilities, translates its BARs to CPU addresses and switches memory
//! decoding and bus mastering on, should they be off.
//!
//! A BAR is the device's word. It is believed only as far as it lies in one of the host bridge's
//! memory windows, so that a wrong one can never point into RAM.
//!
//! Sources: PCI Local Bus Specification 3.0, chapter 6; PCI Express Base Specification, 7.2.2
//! (ECAM); the `ranges` of a host bridge, IEEE 1275 PCI bus binding.

use kdraw_format::addr::{PhysAddr, PhysRange};
use kdraw_pipeline::ports::DeviceError;
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;

use crate::registers::{Offset, Registers};

register_bitfields! [u32,
    // The status register's half is "write 1 to clear": a write must leave it 0.
    COMMAND_STATUS [
        MEMORY_SPACE OFFSET(1) NUMBITS(1) [],
        BUS_MASTER OFFSET(2) NUMBITS(1) [],
        INTERRUPT_DISABLE OFFSET(10) NUMBITS(1) [],
        STATUS OFFSET(16) NUMBITS(16) [],
        CAPABILITY_LIST OFFSET(20) NUMBITS(1) []
    ]
];

const ID: Offset<u32> = Offset::new(0x00);
const COMMAND_STATUS: Offset<u32, COMMAND_STATUS::Register> = Offset::new(0x04);
const CLASS: Offset<u32> = Offset::new(0x08);
const HEADER_TYPE: Offset<u32> = Offset::new(0x0c);
const FIRST_BAR: usize = 0x10;
const BARS: u8 = 6;
const CAPABILITIES: Offset<u32> = Offset::new(0x34);

/// Capabilities that turn interrupts into messages, and their enable bits (PCI 3.0, 6.8.1.3 and
/// 6.8.2.3).
const MESSAGES: [(u8, u32); 2] = [(0x05, 1 << 16), (0x11, 1 << 31)];

/// Bytes of a function's configuration space in ECAM.
pub const CONFIG_SIZE: u64 = 4096;

/// What maps device registers: from a physical address, that many bytes, no more and no less.
///
/// It must refuse a range that is not device space (RAM above all). A range need not be page
/// aligned.
pub type Mapper<'m, R> = &'m mut dyn FnMut(PhysAddr, u64) -> Option<R>;

/// Which function on which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionAddress {
    /// Bus number, as Linux assigned it.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

/// One memory range of a host bridge's `ranges`: where CPU addresses become PCI addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first address on the PCI side.
    pub pci_start: u64,
    /// What the CPU sees.
    pub cpu: PhysRange,
}

/// An ECAM host bridge (`pci-host-ecam-generic`), as the device tree describes it.
#[derive(Clone, Copy, Debug)]
pub struct HostBridge<'w> {
    /// The configuration space (`reg`).
    pub ecam: PhysRange,
    /// The bus whose configuration space comes first in `ecam` (`bus-range`).
    pub first_bus: u8,
    /// The memory windows (`ranges`), 32-bit and 64-bit ones.
    pub windows: &'w [Window],
}

impl<'w> HostBridge<'w> {
    /// Finds the function at `address` and switches memory decoding and bus mastering on.
    ///
    /// # Errors
    /// [`DeviceError::NotFound`] if nobody answers there; [`DeviceError::Unusable`] if its
    /// configuration space is outside `ecam` or cannot be mapped, or if it is a bridge.
    pub fn function<R: Registers>(
        &self,
        address: FunctionAddress,
        map: Mapper<'_, R>,
    ) -> Result<Function<'w, R>, DeviceError> {
        let at = self.config_address(address).ok_or(DeviceError::Unusable(
            "PCI function outside the host bridge's ECAM",
        ))?;
        let config = map(at, CONFIG_SIZE).ok_or(DeviceError::Unusable(
            "PCI configuration space cannot be mapped",
        ))?;
        Function::new(config, self.windows)
    }

    /// Where the configuration space of the function at `address` lies.
    fn config_address(&self, address: FunctionAddress) -> Option<PhysAddr> {
        if address.device >= 32 || address.function >= 8 {
            return None;
        }
        let bus = u64::from(address.bus.checked_sub(self.first_bus)?);
        let offset =
            bus << 20 | u64::from(address.device) << 15 | u64::from(address.function) << 12;
        let at = self.ecam.start.checked_add(offset)?;
        self.ecam
            .contains(&PhysRange::with_len(at, CONFIG_SIZE)?)
            .then_some(at)
    }
}

/// A PCI function, decoding memory and mastering the bus.
#[derive(Debug)]
pub struct Function<'w, R> {
    config: R,
    windows: &'w [Window],
    /// Vendor in the low, device in the high half.
    id: u32,
}

impl<'w, R: Registers> Function<'w, R> {
    // Field masks are combined by `+`, which is an OR.
    #[allow(clippy::arithmetic_side_effects)]
    fn new(config: R, windows: &'w [Window]) -> Result<Self, DeviceError> {
        let id = config.at(ID).get();
        // A master abort reads as all ones; vendor 0 does not exist.
        if matches!(id & 0xffff, 0xffff | 0) {
            return Err(DeviceError::NotFound(
                "no PCI function answers at the plan's address",
            ));
        }
        if config.at(HEADER_TYPE).get() >> 16 & 0x7f != 0 {
            return Err(DeviceError::Unusable(
                "PCI function is a bridge, not a device",
            ));
        }
        let command = config.at(COMMAND_STATUS);
        if !command.is_set(COMMAND_STATUS::MEMORY_SPACE)
            || !command.is_set(COMMAND_STATUS::BUS_MASTER)
        {
            command.modify(
                COMMAND_STATUS::MEMORY_SPACE::SET
                    + COMMAND_STATUS::BUS_MASTER::SET
                    + COMMAND_STATUS::STATUS.val(0),
            );
        }
        Ok(Self {
            config,
            windows,
            id,
        })
    }

    /// Gives the configuration space away.
    pub fn into_config(self) -> R {
        self.config
    }

    /// The vendor id.
    pub const fn vendor(&self) -> u16 {
        self.id as u16
    }

    /// The device id.
    pub const fn device(&self) -> u16 {
        (self.id >> 16) as u16
    }

    /// Class, subclass and programming interface, the class in bits 16 to 23.
    pub fn class(&self) -> u32 {
        self.config.at(CLASS).get() >> 8
    }

    /// Switches the function's interrupts off. One that is a message would be a write of the
    /// device's to where the dead kernel told it, and could change that kernel's interrupt tables.
    // Field masks are combined by `+`, which is an OR.
    #[allow(clippy::arithmetic_side_effects)]
    pub fn silence(&self) {
        for (id, enable) in MESSAGES {
            for at in self.capabilities(id) {
                let control = self.config.at(Offset::<u32>::new(at));
                control.set(control.get() & !enable);
            }
        }
        self.config
            .at(COMMAND_STATUS)
            .modify(COMMAND_STATUS::INTERRUPT_DISABLE::SET + COMMAND_STATUS::STATUS.val(0));
    }

    /// Reads the aligned 32 bits at `offset` of the configuration space.
    pub fn config32(&self, offset: usize) -> u32 {
        self.config.at(Offset::<u32>::new(offset)).get()
    }

    /// The offsets of all capabilities with this id, in the list's order.
    ///
    /// The list ends after as many entries as fit the space, so a circular one ends too.
    pub fn capabilities(&self, id: u8) -> impl Iterator<Item = usize> {
        /// 192 bytes behind the header, 4 bytes at least for each.
        const MOST: usize = 48;
        let present = self
            .config
            .at(COMMAND_STATUS)
            .is_set(COMMAND_STATUS::CAPABILITY_LIST);
        let first = if present {
            self.config.at(CAPABILITIES).get()
        } else {
            0
        };
        let next = |pointer: u32| Some(pointer as usize & 0xfc).filter(|&offset| offset >= 0x40);
        core::iter::successors(next(first), move |&at| next(self.config32(at) >> 8))
            .take(MOST)
            .filter(move |&at| self.config32(at) as u8 == id)
    }

    /// The CPU's address of `len` bytes at `offset` in memory BAR `bar`; `None` if that is no
    /// memory BAR, is not assigned, or if the bytes are in none of the bridge's windows.
    pub fn bar_address(&self, bar: u8, offset: u64, len: u64) -> Option<PhysAddr> {
        let low = self.bar(bar)?;
        if low & 1 != 0 {
            return None; // I/O space
        }
        let high = match low >> 1 & 0b11 {
            0b00 => 0,
            0b10 => self.bar(bar.checked_add(1)?)?,
            _ => return None, // reserved
        };
        let base = u64::from(high) << 32 | u64::from(low & !0xf);
        if base == 0 {
            return None; // not assigned
        }
        let pci = base.checked_add(offset)?;
        self.windows.iter().find_map(|window| {
            let start = window
                .cpu
                .start
                .checked_add(pci.checked_sub(window.pci_start)?)?;
            window
                .cpu
                .contains(&PhysRange::with_len(start, len)?)
                .then_some(start)
        })
    }

    /// Reads the BAR register with this number.
    fn bar(&self, number: u8) -> Option<u32> {
        let offset = usize::from(number).checked_mul(4)?.checked_add(FIRST_BAR)?;
        (number < BARS).then(|| self.config32(offset))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use crate::registers::Width;

    /// A configuration space of which only the given words are not zero.
    #[derive(Debug)]
    struct Config(core::cell::RefCell<Vec<(usize, u32)>>);

    impl Registers for Config {
        fn size(&self) -> usize {
            4096
        }

        fn read(&self, offset: usize, width: Width) -> u64 {
            assert_eq!(width, Width::W32);
            let words = self.0.borrow();
            words
                .iter()
                .rev()
                .find(|word| word.0 == offset)
                .map_or(0, |word| word.1.into())
        }

        fn write(&self, offset: usize, width: Width, value: u64) {
            assert_eq!(
                (offset, width),
                (0x04, Width::W32),
                "only the command register is written"
            );
            self.0.borrow_mut().push((offset, value as u32));
        }
    }

    const WINDOWS: &[Window] = &[
        Window {
            pci_start: 0x1000_0000,
            cpu: PhysRange {
                start: PhysAddr(0x5000_0000),
                end: PhysAddr(0x6000_0000),
            },
        },
        Window {
            pci_start: 0x80_0000_0000,
            cpu: PhysRange {
                start: PhysAddr(0x80_0000_0000),
                end: PhysAddr(0x81_0000_0000),
            },
        },
    ];

    fn function(words: &[(usize, u32)]) -> Result<Function<'static, Config>, DeviceError> {
        let mut all = std::vec![(0x00, 0x1042_1af4), (0x04, 0x0010_0006)];
        all.extend_from_slice(words);
        Function::new(Config(all.into()), WINDOWS)
    }

    #[test]
    fn finds_configuration_space_only_inside_the_ecam() {
        let bridge = HostBridge {
            ecam: PhysRange {
                start: PhysAddr(0x3000_0000),
                end: PhysAddr(0x3020_0000),
            },
            first_bus: 4,
            windows: WINDOWS,
        };
        for (bus, device, function, expected) in [
            (4, 0, 0, Some(0x3000_0000)),
            (4, 2, 1, Some(0x3001_1000)),
            (5, 31, 7, Some(0x301f_f000)),
            (3, 0, 0, None),
            (6, 0, 0, None),
            (4, 32, 0, None),
            (4, 0, 8, None),
        ] {
            let found = bridge.config_address(FunctionAddress {
                bus,
                device,
                function,
            });
            assert_eq!(found, expected.map(PhysAddr), "{bus}:{device}.{function}");
        }
    }

    #[test]
    fn refuses_what_is_no_device() {
        assert!(matches!(
            function(&[(0, u32::MAX)]),
            Err(DeviceError::NotFound(_))
        ));
        assert!(matches!(
            function(&[(0, 0x1042_0000)]),
            Err(DeviceError::NotFound(_))
        ));
        assert!(matches!(
            function(&[(0x0c, 0x0001_0000)]),
            Err(DeviceError::Unusable(_))
        ));
        assert!(
            function(&[(0x0c, 0x0080_0000)]).is_ok(),
            "a multi-function device is a device"
        );
    }

    #[test]
    fn switches_decoding_on_and_clears_no_status_bit() {
        let on = function(&[]).unwrap();
        assert_eq!(
            on.config.0.borrow().len(),
            2,
            "nothing to do, nothing written"
        );
        let off = function(&[(0x04, 0xf910_0400)]).unwrap();
        assert_eq!(off.config32(0x04), 0x0000_0406);
    }

    #[test]
    fn walks_capabilities_even_in_circles() {
        let listed = |words: &[(usize, u32)]| -> Vec<usize> {
            function(words).unwrap().capabilities(9).collect()
        };
        let list = [
            (0x34, 0x40),
            (0x40, 0x0010_5009),
            (0x50, 0x0000_6311),
            (0x60, 0x0000_0009),
        ];
        assert_eq!(listed(&list), [0x40, 0x60], "low pointer bits are reserved");
        assert_eq!(listed(&[(0x34, 0x40), (0x40, 0x4009)]).len(), 48);
        assert_eq!(
            listed(&[(0x34, 0x10)]),
            [] as [usize; 0],
            "pointer into the header"
        );
        let unlisted = [(0x04, 0x0000_0006), (0x34, 0x40), (0x40, 0x0009)];
        assert_eq!(
            listed(&unlisted),
            [] as [usize; 0],
            "status says that there is no list"
        );
    }

    #[test]
    fn believes_a_bar_only_inside_a_window() {
        let function = function(&[
            (0x10, 0x1000_1000), // 0: 32-bit, translated
            (0x14, 0x0000_c001), // 1: I/O
            (0x18, 0x0000_400c),
            (0x1c, 0x0000_0080), // 2, 3: 64-bit
            (0x20, 0x4000_0000), // 4: no window (RAM, on a `virt` machine)
            (0x24, 0x1fff_f00c), // 5: 64-bit without an upper half
        ])
        .unwrap();
        for (bar, offset, len, expected) in [
            (0, 0x20, 0x38, Some(0x5000_1020)),
            (0, 0x0fff_e000, 0x1000, Some(0x5fff_f000)),
            (0, 0x0fff_e001, 0x1000, None),
            (0, u64::MAX, 1, None),
            (0, 0, u64::MAX, None),
            (1, 0, 4, None),
            (2, 0x3000, 0x1000, Some(0x80_0000_7000)),
            (4, 0, 4, None),
            (5, 0, 4, None),
            (6, 0, 4, None),
            (255, 0, 4, None),
        ] {
            let found = function.bar_address(bar, offset, len);
            assert_eq!(
                found,
                expected.map(PhysAddr),
                "BAR {bar} + {offset:#x}, {len:#x} bytes"
            );
        }
    }
}
