//! Ten thousand broken device trees: no verdict may panic or fail to end, and a tree that the
//! guard lets through must read the same through the parser.

use kdraw_boards::guard::{self, Census};
use kdraw_boards::{Controller, Error, Machine};

mod trees;

const FIXTURES: [&[u8]; 3] = [
    include_bytes!("../fixtures/qemu-gicv2.dtb"),
    include_bytes!("../fixtures/qemu-gicv3-el2.dtb"),
    include_bytes!("../fixtures/qemu-highmem-off.dtb"),
];

const MUTATIONS: usize = 10_000;

/// SplitMix64: the same mutations on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    /// A number that is likely to hurt, or any.
    fn word(&mut self, near: u32) -> u32 {
        let any = u32::try_from(self.next() >> 32).unwrap();
        let table = [
            0,
            1,
            2,
            3,
            4,
            5,
            8,
            9,
            0x7fff_ffff,
            0x8000_0000,
            u32::MAX - 3,
            u32::MAX,
        ];
        match self.below(4) {
            0 => near.wrapping_add(any % 9).wrapping_sub(4),
            1 => any,
            2 => any % 0x2000,
            _ => table[self.below(table.len())],
        }
    }
}

/// A fixture and where its tokens and property headers stand.
struct Original {
    blob: Vec<u8>,
    strings: std::ops::Range<usize>,
    /// Offsets of the words that steer a reader: tokens, property lengths and name offsets.
    steering: Vec<usize>,
    /// Offsets of property values that are short: numbers, ranges, cell counts.
    values: Vec<usize>,
}

fn word(blob: &[u8], at: usize) -> usize {
    let bytes = blob[at..at + 4].try_into().unwrap();
    usize::try_from(u32::from_be_bytes(bytes)).unwrap()
}

impl Original {
    /// Reads a fixture, which is sound, with the simplest possible reader.
    fn new(blob: Vec<u8>) -> Self {
        let structure = word(&blob, 8)..word(&blob, 8) + word(&blob, 36);
        let strings = word(&blob, 12)..word(&blob, 12) + word(&blob, 32);
        let (mut steering, mut values) = (Vec::new(), Vec::new());
        let mut at = structure.start;
        while at < structure.end {
            steering.push(at);
            match word(&blob, at) {
                1 => {
                    let name = blob[at + 4..].iter().position(|byte| *byte == 0).unwrap();
                    at += 4 + (name + 1).next_multiple_of(4);
                }
                3 => {
                    steering.extend([at + 4, at + 8]);
                    let len = word(&blob, at + 4);
                    values.extend((at + 12..at + 12 + len.min(32) / 4 * 4).step_by(4));
                    at += 12 + len.next_multiple_of(4);
                }
                _ => at += 4,
            }
        }
        Self {
            blob,
            strings,
            steering,
            values,
        }
    }

    /// Breaks a copy in one or two ways.
    fn mutate(&self, random: &mut Random) -> Vec<u8> {
        let mut blob = self.blob.clone();
        for _ in 0..=random.below(2) {
            self.mutate_once(&mut blob, random);
        }
        blob
    }

    fn mutate_once(&self, blob: &mut Vec<u8>, random: &mut Random) {
        let original = self.blob.len();
        match random.below(20) {
            // Any bit, any byte, any name or string.
            0 => flip(blob, random.below(original), 1 << random.below(8)),
            1 => set(blob, random.below(original), &[random.next() as u8]),
            2 => set(
                blob,
                self.strings.start + random.below(self.strings.len()),
                &[0x80, 0],
            ),
            // Words that steer.
            3 => set_word(blob, random.below(10) * 4, random),
            4 | 5 => set_word(
                blob,
                self.steering[random.below(self.steering.len())],
                random,
            ),
            6..=15 => set_word(blob, self.values[random.below(self.values.len())], random),
            // A cut that nothing tells, and one that the header tells.
            16 => blob.truncate(random.below(original)),
            17 => {
                blob.truncate(random.below(original));
                let len = u32::try_from(blob.len()).unwrap();
                set(blob, 4, &len.to_be_bytes());
            }
            // Two pieces of the structure block change places.
            _ => {
                let len = random.below(32) * 4;
                let mut place = || self.steering[random.below(self.steering.len())];
                let (a, b) = (place(), place());
                for offset in 0..len {
                    if a.max(b) + offset < blob.len() {
                        blob.swap(a + offset, b + offset);
                    }
                }
            }
        }
    }
}

fn flip(blob: &mut [u8], at: usize, bit: u8) {
    if let Some(byte) = blob.get_mut(at) {
        *byte ^= bit;
    }
}

fn set(blob: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = blob.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn set_word(blob: &mut [u8], at: usize, random: &mut Random) {
    if at + 4 <= blob.len() {
        let near = u32::try_from(word(blob, at)).unwrap();
        set(blob, at, &random.word(near).to_be_bytes());
    }
}

/// Counts what the parser finds in a blob that the guard let through.
fn count(blob: &[u8]) -> Census {
    let tree = fdt::Fdt::new_unaligned_fallible(blob).unwrap();
    let mut census = Census::default();
    let root = fdt::nodes::AsNode::as_node(&tree.root().unwrap());
    let nodes = tree.all_nodes().unwrap().map(|step| step.unwrap().1);
    for node in std::iter::once(root).chain(nodes) {
        node.name().unwrap();
        census.nodes += 1;
        census.properties += node
            .properties()
            .unwrap()
            .iter()
            .map(Result::unwrap)
            .count();
    }
    census
}

/// Asks everything there is to ask.
fn interrogate(machine: &Machine<'_>) {
    let answers = (machine.model(), machine.family().map(|family| family.name));
    let ranges = [machine.crash_region(), machine.elfcorehdr()];
    for range in ranges
        .into_iter()
        .flatten()
        .chain(machine.initrd().ok().flatten())
    {
        assert!(!range.is_empty());
    }
    for range in machine.memory() {
        assert!(!range.is_empty());
    }
    assert!(machine.cpus().count() <= kdraw_boards::machine::MAX_CPUS);
    for path in [
        "/virtio_mmio@a003e00",
        "/pcie@10000000",
        "/intc@8000000/v2m@8020000",
        "/",
        "x",
    ] {
        match machine.controller(path) {
            Ok(Controller::PciHost(host)) => {
                let buses = u64::from(host.bus_end - host.bus_start) + 1;
                assert!(host.ecam.len() >= buses << 20);
            }
            Ok(Controller::VirtioMmio { registers, .. }) => assert!(!registers.is_empty()),
            Ok(Controller::Sd(host)) => assert!(!host.registers.is_empty()),
            Err(error) => assert_ne!(error, Error::Parser),
        }
    }
    assert_ne!(machine.psci(), Err(Error::Parser));
    let _ = (answers, machine.console());
}

#[test]
fn ten_thousand_broken_trees() {
    // The small board has more that matters in fewer bytes, so it gets half of the mutations.
    let small = std::iter::repeat_n(trees::small_board(), FIXTURES.len());
    let originals = small
        .chain(FIXTURES.map(Vec::from))
        .map(Original::new)
        .collect::<Vec<_>>();
    let mut random = Random(2);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..MUTATIONS {
        let blob = originals[round % originals.len()].mutate(&mut random);
        match guard::check(&blob) {
            Ok(checked) => {
                assert_eq!(count(checked.blob()), checked.census(), "round {round}");
                interrogate(&Machine::from_dtb(&blob).unwrap());
                accepted += 1;
            }
            Err(error) => {
                assert_eq!(
                    Machine::from_dtb(&blob).err(),
                    Some(Error::Malformed(error))
                );
                refused += 1;
            }
        }
    }
    // Both ways must have been walked, or the mutations are too mild or too wild.
    assert!(
        accepted > MUTATIONS / 5 && refused > MUTATIONS / 5,
        "{accepted} / {refused}"
    );
}
