//! The plan: what `kdraw load` leaves in the crash region for the payload, as the initrd.
//!
//! It names the target, and holds what the payload needs to trust what it finds: the hashes
//! of its own image and of the segments beside it, and the signature that the target must
//! bear. One block of 4096 bytes:
//!
//! | at | size | field |
//! |--|--|--|
//! | 0 | 8 | magic `KDRAWPL\0` |
//! | 8 | 8 | XXH64 of bytes 16..4096 |
//! | 16 | 2 | format version |
//! | 18 | 2 | flags: bit 0 the disk has no partition table that the payload could check; bit 1 no partition is a target |
//! | 20 | 4 | payload image: length of the file, bytes |
//! | 24 | 8 | payload image: [`crate::checksum::image_checksum`] |
//! | 32 | 4+4 | device tree, elfcorehdr: length in bytes, 0 if not known (stock kexec) |
//! | 40 | 8+8 | device tree, elfcorehdr: XXH64 |
//! | 56 | 16 | seed of dump ids, random |
//! | 72 | 16 | UUID that the partition's superblock must have |
//! | 88 | 8+8 | partition: start on its disk, length, bytes |
//! | 104 | 4 | PCI: bus << 8 \| device << 3 \| function; all ones: not on PCI |
//! | 108 | 4 | capture's time budget in seconds, 0: the payload's own default |
//! | 112 | 8 | creation, seconds since 1970 |
//! | 120 | 64 | host name, UTF-8, zero-padded |
//! | 184 | 512 | device-tree path of the target's controller or PCI host bridge |
//! | 696 | 1 | dump level, makedumpfile's bits 0 to 31 |
//! | 697 | 1 | codec of page chunks on the partition, by its number in a chunk |
//! | 698 | 2 | CPUs to use at most, 0: all |
//! | 700 | 4 | NVMe: number of the namespace; 0: not NVMe |
//! | 704 | 1 | card: 0 none, or to be identified from scratch; 1 SD, 2 eMMC |
//! | 705 | 1 | codec of page chunks over the UART |
//! | 706 | 2 | the card's relative address |
//! | 708 | 512 | device-tree path of the UART that is the target, or the fallback if a partition is; empty: none |
//! | 1220 | 2 × 520 | watchdogs: device-tree path of it or its PCI host bridge (512), empty: none; PCI as above (4); seconds until it resets the board, 0: not known (4) |

use crate::bytes::{Get, Put};
use crate::checksum::{block_is_whole, checksum, seal_block};
use crate::chunk::Codec;
use crate::layout::VERSION;

/// Bytes in a plan.
pub const PLAN_LEN: usize = 4096;
/// The longest device-tree path, in bytes.
pub const MAX_PATH: usize = 512;
/// The most watchdogs that a plan names.
pub const MAX_WATCHDOGS: usize = 2;

const MAGIC: [u8; 8] = *b"KDRAWPL\0";
const FLAG_UNCHECKED_TABLE: u16 = 1 << 0;
const FLAG_NO_PARTITION: u16 = 1 << 1;
const NOT_PCI: u32 = u32::MAX;

/// Why a plan cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not a plan, or a damaged one.
    #[error("plan damaged or missing (magic or checksum differs)")]
    Damaged,
    /// A plan for another version of the payload.
    #[error("plan of version {0}, this payload reads version {VERSION}")]
    Version(u16),
    /// A setting that this version does not know.
    #[error("plan's {0} is none that this payload knows")]
    Nonsense(&'static str),
}

/// A PCI function's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    fn to_bits(self) -> u32 {
        u32::from(self.bus) << 8 | u32::from(self.device & 31) << 3 | u32::from(self.function & 7)
    }

    fn from_bits(bits: u32) -> Self {
        let [low, bus, ..] = bits.to_le_bytes();
        Self {
            bus,
            device: low >> 3,
            function: low & 7,
        }
    }

    fn read(get: &mut Get<'_>) -> Option<Self> {
        match get.u32() {
            NOT_PCI => None,
            bits => Some(Self::from_bits(bits)),
        }
    }
}

/// A watchdog that Linux has a driver for. Whether it runs at the crash, only its registers tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// Device-tree path; for a PCI device, of its host bridge.
    pub node: heapless::String<MAX_PATH>,
    /// The PCI function, if it is one.
    pub pci: Option<PciAddress>,
    /// Seconds after which it resets the board; 0 if that is not known.
    pub timeout_s: u32,
}

/// A card that can be used as Linux left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    /// An SD card with this relative address.
    Sd(u16),
    /// An eMMC device with this relative address.
    Mmc(u16),
}

/// The partition that the dump goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Device-tree path of the controller; for a PCI device, of its host bridge.
    pub controller: heapless::String<MAX_PATH>,
    /// The PCI function, if the controller is one.
    pub pci: Option<PciAddress>,
    /// The NVMe namespace's number (NSID), if the controller is one of NVMe; else 0.
    pub namespace: u32,
    /// The card, if the controller is an SD host and the card need not be identified.
    pub card: Option<Card>,
    /// The partition's first byte on its disk.
    pub partition_start: u64,
    /// The partition's length in bytes.
    pub partition_len: u64,
    /// What its superblock must say.
    pub uuid: [u8; 16],
    /// The disk has no GPT or MBR that names this range (a whole disk, or another table):
    /// the payload cannot check that the partition still is where it was.
    pub unchecked_table: bool,
}

/// A segment's length and checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Bytes.
    pub len: u32,
    /// XXH64 of them.
    pub checksum: u64,
}

impl Seal {
    /// Measures `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            checksum: checksum(bytes),
        }
    }

    /// Whether this seal says nothing.
    pub fn is_unknown(&self) -> bool {
        self.len == 0
    }
}

/// The block of settings for the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The payload's image file, its device-tree word taken as zero.
    pub image: Seal,
    /// The device tree as loaded; unknown if somebody else loads it.
    pub device_tree: Seal,
    /// The elfcorehdr as loaded; unknown if somebody else loads it.
    pub elfcorehdr: Seal,
    /// Random; every dump's id is made from it.
    pub seed: [u8; 16],
    /// The partition that the dump goes to; none if only a serial line is there.
    pub target: Option<Target>,
    /// Device-tree path of the UART that the dump goes over, if there is no partition or it fails;
    /// empty: none.
    pub serial: heapless::String<MAX_PATH>,
    /// Seconds that the capture may take in all; 0: the payload's default.
    pub budget_s: u32,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The machine's name.
    pub hostname: heapless::String<64>,
    /// Which pages are left out: makedumpfile's dump level, 0 to 31.
    pub level: u8,
    /// How page chunks are packed on the partition.
    pub codec: Codec,
    /// How page chunks are packed that go over the UART.
    pub line_codec: Codec,
    /// How many CPUs the payload may use; 0: all.
    pub cpus: u16,
    /// Watchdogs that may run at the crash.
    pub watchdogs: heapless::Vec<Watchdog, MAX_WATCHDOGS>,
}

impl Plan {
    /// Writes it into a block, sealed.
    pub fn encode(&self, block: &mut [u8; PLAN_LEN]) {
        let none = Target::default();
        let (target, no_partition) = match &self.target {
            Some(target) => (target, 0),
            None => (&none, FLAG_NO_PARTITION),
        };
        let unchecked = if target.unchecked_table {
            FLAG_UNCHECKED_TABLE
        } else {
            0
        };
        let mut put = Put::new(block);
        put.bytes(&MAGIC)
            .u64(0)
            .u16(VERSION)
            .u16(unchecked | no_partition)
            .u32(self.image.len)
            .u64(self.image.checksum)
            .u32(self.device_tree.len)
            .u32(self.elfcorehdr.len)
            .u64(self.device_tree.checksum)
            .u64(self.elfcorehdr.checksum)
            .bytes(&self.seed)
            .bytes(&target.uuid)
            .u64(target.partition_start)
            .u64(target.partition_len)
            .u32(target.pci.map_or(NOT_PCI, PciAddress::to_bits))
            .u32(self.budget_s)
            .u64(self.created)
            .text(&self.hostname, 64)
            .text(&target.controller, MAX_PATH)
            .u8(self.level)
            .u8(self.codec as u8)
            .u16(self.cpus)
            .u32(target.namespace)
            .u8(match target.card {
                None => 0,
                Some(Card::Sd(_)) => 1,
                Some(Card::Mmc(_)) => 2,
            })
            .u8(self.line_codec as u8)
            .u16(match target.card {
                None => 0,
                Some(Card::Sd(rca) | Card::Mmc(rca)) => rca,
            })
            .text(&self.serial, MAX_PATH);
        for watchdog in &self.watchdogs {
            put.text(&watchdog.node, MAX_PATH)
                .u32(watchdog.pci.map_or(NOT_PCI, PciAddress::to_bits))
                .u32(watchdog.timeout_s);
        }
        put.finish();
        seal_block(block);
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`PlanError`] if `bytes` do not begin with a whole plan of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, PlanError> {
        let block = bytes.get(..PLAN_LEN).ok_or(PlanError::Damaged)?;
        if !block_is_whole(block, MAGIC) {
            return Err(PlanError::Damaged);
        }
        let mut get = Get::new(block);
        get.skip(16);
        let version = get.u16();
        if version != VERSION {
            return Err(PlanError::Version(version));
        }
        let flags = get.u16();
        let image = Seal {
            len: get.u32(),
            checksum: get.u64(),
        };
        let (device_tree_len, elfcorehdr_len) = (get.u32(), get.u32());
        let device_tree = Seal {
            len: device_tree_len,
            checksum: get.u64(),
        };
        let elfcorehdr = Seal {
            len: elfcorehdr_len,
            checksum: get.u64(),
        };
        let (seed, uuid) = (get.array(), get.array());
        let (partition_start, partition_len) = (get.u64(), get.u64());
        let pci = PciAddress::read(&mut get);
        let (budget_s, created) = (get.u32(), get.u64());
        let hostname = get.text(64);
        let controller = get.text(MAX_PATH);
        let (level, codec, cpus) = (get.u8(), get.u8(), get.u16());
        let namespace = get.u32();
        let (card, line_codec) = (get.u8(), get.u8());
        let card = match (card, get.u16()) {
            (0, _) => None,
            (1, rca) => Some(Card::Sd(rca)),
            (2, rca) => Some(Card::Mmc(rca)),
            _ => return Err(PlanError::Nonsense("card")),
        };
        let serial = get.text(MAX_PATH);
        let watchdogs = [(); MAX_WATCHDOGS].map(|()| Watchdog {
            node: get.text(MAX_PATH),
            pci: PciAddress::read(&mut get),
            timeout_s: get.u32(),
        });
        let named = |watchdog: &Watchdog| !watchdog.node.is_empty();
        let [codec, line_codec] = [codec, line_codec]
            .map(|codec| Codec::from_number(codec).ok_or(PlanError::Nonsense("codec")));
        if level > 31 {
            return Err(PlanError::Nonsense("dump level"));
        }
        Ok(Self {
            image,
            device_tree,
            elfcorehdr,
            seed,
            target: (flags & FLAG_NO_PARTITION == 0).then_some(Target {
                controller,
                pci,
                namespace,
                card,
                partition_start,
                partition_len,
                uuid,
                unchecked_table: flags & FLAG_UNCHECKED_TABLE != 0,
            }),
            serial,
            budget_s,
            created,
            hostname,
            level,
            codec: codec?,
            line_codec: line_codec?,
            cpus,
            watchdogs: watchdogs.into_iter().filter(named).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_round_trips_and_a_flipped_bit_shows() {
        let plan = Plan {
            image: Seal::of(b"image"),
            device_tree: Seal::of(b"tree"),
            elfcorehdr: Seal::default(),
            seed: [1; 16],
            target: Some(Target {
                controller: heapless::String::try_from("/pcie@10000000").unwrap(),
                pci: Some(PciAddress {
                    bus: 1,
                    device: 31,
                    function: 7,
                }),
                namespace: 2,
                card: Some(Card::Mmc(1)),
                partition_start: 1 << 30,
                partition_len: 1 << 31,
                uuid: [2; 16],
                unchecked_table: true,
            }),
            serial: heapless::String::try_from("/soc/serial@7e215040").unwrap(),
            budget_s: 600,
            created: 1_763_600_000,
            hostname: heapless::String::try_from("böard").unwrap(),
            level: 31,
            codec: Codec::Lz4,
            line_codec: Codec::Deflate,
            cpus: 3,
            watchdogs: [
                Watchdog {
                    node: heapless::String::try_from("/pcie@10000000").unwrap(),
                    pci: Some(PciAddress {
                        bus: 0,
                        device: 2,
                        function: 0,
                    }),
                    timeout_s: 10,
                },
                Watchdog {
                    node: heapless::String::try_from("/soc/watchdog@7e100000").unwrap(),
                    pci: None,
                    timeout_s: 0,
                },
            ]
            .into_iter()
            .collect(),
        };
        let mut block = [0; PLAN_LEN];
        plan.encode(&mut block);
        assert_eq!(Plan::decode(&block), Ok(plan.clone()));
        block[4000] ^= 1;
        assert_eq!(Plan::decode(&block), Err(PlanError::Damaged));
        let absurd = Plan {
            level: 32,
            ..plan.clone()
        };
        absurd.encode(&mut block);
        assert_eq!(Plan::decode(&block), Err(PlanError::Nonsense("dump level")));
        let on_soc = Plan {
            target: plan.target.clone().map(|target| Target {
                pci: None,
                card: Some(Card::Sd(0xaaaa)),
                ..target
            }),
            watchdogs: heapless::Vec::new(),
            ..plan.clone()
        };
        on_soc.encode(&mut block);
        assert_eq!(Plan::decode(&block), Ok(on_soc));
        let serial_only = Plan {
            target: None,
            ..plan
        };
        serial_only.encode(&mut block);
        assert_eq!(Plan::decode(&block), Ok(serial_only));
    }
}
