//! The guard's verdicts: real trees pass, and each rule has a blob that breaks it.

use kdraw_boards::guard::{self, Census, GuardError};

const FIXTURES: [&[u8]; 3] = [
    include_bytes!("../fixtures/qemu-gicv2.dtb"),
    include_bytes!("../fixtures/qemu-gicv3-el2.dtb"),
    include_bytes!("../fixtures/qemu-highmem-off.dtb"),
];

const BEGIN: u32 = 1;
const CLOSE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// The name `n`, padded to a word.
const N: u32 = u32::from_be_bytes(*b"n\0\0\0");
/// Names for properties, and their offsets.
const STRINGS: &[u8] = b"p\0#size-cells\0\xff\0\0endless";
const P: u32 = 0;
const SIZE_CELLS: u32 = 2;
const NOT_ASCII: u32 = 14;
const EMPTY: u32 = 16;
const ENDLESS: u32 = 17;
/// Where the structure block starts in the blobs made here.
const START: usize = 56;

fn blob(structure: &[u32]) -> Vec<u8> {
    let strings = u32::try_from(START + structure.len() * 4).unwrap();
    let len = u32::try_from(STRINGS.len()).unwrap();
    let header = [
        0xd00d_feed,
        strings + len,
        56,
        strings,
        40,
        17,
        16,
        0,
        len,
        strings - 56,
    ];
    let words = header.iter().chain(&[0; 4]).chain(structure);
    let mut blob: Vec<u8> = words.flat_map(|word| word.to_be_bytes()).collect();
    blob.extend(STRINGS);
    blob
}

/// The verdict on a structure block.
fn verdict(structure: &[u32]) -> Result<Census, GuardError> {
    guard::check(&blob(structure)).map(|checked| checked.census())
}

#[test]
fn real_trees_pass_wherever_they_end() {
    for fixture in FIXTURES {
        let mut padded = fixture.to_vec();
        padded.resize(fixture.len() + 4096, 0xa5);
        let checked = guard::check(&padded).unwrap();
        assert_eq!(checked.blob(), fixture);
        assert!(checked.census().nodes > 50 && checked.census().properties > 200);
    }
}

#[test]
fn headers() {
    let sound = blob(&[BEGIN, 0, CLOSE, END]);
    let total = u32::try_from(sound.len()).unwrap();
    let outside = |block, offset, len| GuardError::Block { block, offset, len };
    let table = [
        (0, 0xd00d_feee, GuardError::Magic { found: 0xd00d_feee }),
        (
            1,
            total + 1,
            GuardError::TotalSize {
                found: total + 1,
                limit: sound.len(),
            },
        ),
        (
            1,
            39,
            GuardError::TotalSize {
                found: 39,
                limit: guard::MAX_SIZE,
            },
        ),
        (
            1,
            0x20_0001,
            GuardError::TotalSize {
                found: 0x20_0001,
                limit: guard::MAX_SIZE,
            },
        ),
        (2, 36, outside("structure", 36, 16)),
        (2, 58, outside("structure", 58, 16)),
        (2, u32::MAX - 3, outside("structure", u32::MAX - 3, 16)),
        (3, total, outside("strings", total, 24)),
        (4, 44, outside("memory reservation", 44, 0)),
        (4, 56, GuardError::Reservations { offset: 56 }),
        (
            5,
            16,
            GuardError::Version {
                version: 16,
                last_compatible: 16,
            },
        ),
        (
            6,
            18,
            GuardError::Version {
                version: 17,
                last_compatible: 18,
            },
        ),
        (8, u32::MAX, outside("strings", 72, u32::MAX)),
        (9, 15, outside("structure", 56, 15)),
        (9, 12, GuardError::Truncated { offset: 68 }),
        (9, 4, GuardError::NodeName { offset: 60 }),
        (9, 0, GuardError::Truncated { offset: 56 }),
    ];
    guard::check(&sound).unwrap();
    for (field, value, error) in table {
        let mut blob = sound.clone();
        blob[field * 4..field * 4 + 4].copy_from_slice(&u32::to_be_bytes(value));
        assert_eq!(
            guard::check(&blob).unwrap_err(),
            error,
            "header word {field} = {value:#x}"
        );
    }
    assert_eq!(
        guard::check(&sound[..39]).unwrap_err(),
        GuardError::NoHeader { found: 39 }
    );
}

#[test]
fn sound_structures() {
    let table: &[(&[u32], usize, usize)] = &[
        (&[BEGIN, 0, CLOSE, END], 1, 0),
        (
            &[NOP, BEGIN, 0, NOP, PROP, 0, P, NOP, CLOSE, NOP, END],
            1,
            1,
        ),
        (
            &[
                BEGIN, 0, PROP, 5, P, 0, 0, PROP, 4, SIZE_CELLS, 4, CLOSE, END,
            ],
            1,
            2,
        ),
        (
            &[
                BEGIN, 0, BEGIN, N, PROP, 0, P, CLOSE, BEGIN, N, CLOSE, CLOSE, END,
            ],
            3,
            1,
        ),
        // Firecracker names its root.
        (&[BEGIN, N, CLOSE, END], 1, 0),
    ];
    for (structure, nodes, properties) in table.iter().copied() {
        assert_eq!(
            verdict(structure),
            Ok(Census { nodes, properties }),
            "{structure:x?}"
        );
    }
}

#[test]
fn broken_structures() {
    use GuardError::*;
    let at = |word: usize| START + word * 4;
    let table: &[(&[u32], GuardError)] = &[
        (
            &[END],
            Token {
                offset: at(0),
                found: END,
            },
        ),
        (
            &[PROP, 0, P, END],
            Token {
                offset: at(0),
                found: PROP,
            },
        ),
        (&[BEGIN, 0, CLOSE], Truncated { offset: at(3) }),
        (
            &[BEGIN, 0, END],
            Token {
                offset: at(2),
                found: END,
            },
        ),
        (
            &[BEGIN, 0, CLOSE, CLOSE, END],
            Token {
                offset: at(3),
                found: CLOSE,
            },
        ),
        (
            &[BEGIN, 0, CLOSE, BEGIN, 0, CLOSE, END],
            Token {
                offset: at(3),
                found: BEGIN,
            },
        ),
        (&[BEGIN, 0, CLOSE, END, END], AfterEnd { offset: at(3) }),
        (&[BEGIN, 0, CLOSE, END, NOP], AfterEnd { offset: at(3) }),
        (
            &[BEGIN, 0, 7, CLOSE, END],
            Token {
                offset: at(2),
                found: 7,
            },
        ),
        (
            &[BEGIN, 0, BEGIN, 0, CLOSE, CLOSE, END],
            NodeName { offset: at(3) },
        ),
        (
            &[BEGIN, 0, BEGIN, 0x612f_6100, CLOSE, CLOSE, END],
            NodeName { offset: at(3) },
        ),
        (
            &[BEGIN, 0, BEGIN, 0x6120_6100, CLOSE, CLOSE, END],
            NodeName { offset: at(3) },
        ),
        (
            &[BEGIN, 0, BEGIN, 0x61ff_6100, CLOSE, CLOSE, END],
            NodeName { offset: at(3) },
        ),
        (&[BEGIN, 0, BEGIN, 0x6161_6161], NodeName { offset: at(3) }),
        (
            &[BEGIN, 0, BEGIN, N, CLOSE, PROP, 0, P, CLOSE, END],
            PropertyAfterNode { offset: at(5) },
        ),
        (
            &[BEGIN, 0, PROP, 9, P, CLOSE, END],
            Truncated { offset: at(5) },
        ),
        (
            &[BEGIN, 0, PROP, u32::MAX, P, CLOSE, END],
            Truncated { offset: at(5) },
        ),
        (&[BEGIN, 0, PROP, 0], Truncated { offset: at(4) }),
        (
            &[BEGIN, 0, PROP, 0, NOT_ASCII, CLOSE, END],
            PropertyName { offset: at(2) },
        ),
        (
            &[BEGIN, 0, PROP, 0, EMPTY, CLOSE, END],
            PropertyName { offset: at(2) },
        ),
        (
            &[BEGIN, 0, PROP, 0, ENDLESS, CLOSE, END],
            PropertyName { offset: at(2) },
        ),
        (
            &[BEGIN, 0, PROP, 0, u32::MAX, CLOSE, END],
            PropertyName { offset: at(2) },
        ),
        (
            &[BEGIN, 0, PROP, 0, SIZE_CELLS, CLOSE, END],
            CellCount { offset: at(2) },
        ),
        (
            &[BEGIN, 0, PROP, 4, SIZE_CELLS, 5, CLOSE, END],
            CellCount { offset: at(2) },
        ),
        (
            &[BEGIN, 0, PROP, 8, SIZE_CELLS, 0, 1, CLOSE, END],
            CellCount { offset: at(2) },
        ),
    ];
    for (structure, error) in table {
        assert_eq!(verdict(structure), Err(*error), "{structure:x?}");
    }
}

#[test]
fn depth_and_names_have_limits() {
    let nested = |levels: usize| {
        let open = [BEGIN, 0].into_iter().chain([BEGIN, N].repeat(levels));
        verdict(
            &open
                .chain([CLOSE].repeat(levels + 1))
                .chain([END])
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        nested(guard::MAX_DEPTH),
        Ok(Census {
            nodes: guard::MAX_DEPTH + 1,
            properties: 0
        })
    );
    let offset = START + 8 * (guard::MAX_DEPTH + 1);
    assert_eq!(
        nested(guard::MAX_DEPTH + 1),
        Err(GuardError::TooDeep { offset })
    );

    let named = |letters: usize| {
        let mut name = vec![b'n'; letters];
        name.resize((letters + 1).next_multiple_of(4), 0);
        let name = name
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()));
        let open = [BEGIN, 0, BEGIN].into_iter().chain(name);
        verdict(&open.chain([CLOSE, CLOSE, END]).collect::<Vec<_>>())
    };
    assert_eq!(
        named(guard::MAX_NAME),
        Ok(Census {
            nodes: 2,
            properties: 0
        })
    );
    assert_eq!(
        named(guard::MAX_NAME + 1),
        Err(GuardError::NodeName { offset: START + 12 })
    );
}
