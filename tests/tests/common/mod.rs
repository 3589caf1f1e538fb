//! What the tests across crates share: image files, and reading them back with the tool.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::Path;

use kdraw::commands::format;
use kdraw::extract::{ExtractError, Extracted, Wanted, extract};
use kdraw::input::Vmcore;
use kdraw::output::Format;
use kdraw::output::kdump::Compression;
use kdraw::partition::DumpPartition;
use kdraw::source::{Access, Source};
use kdraw::system::System;
use kdraw_format::layout::{START_UNKNOWN, Superblock};

/// A freshly formatted image file of one slot, or plain.
pub fn formatted(path: &Path, len: u64, plain: bool) -> Superblock {
    fs::write(path, vec![0; len as usize]).unwrap();
    let superblock = Superblock::new([0x5a; 16], START_UNKNOWN, len, 1, plain).unwrap();
    let source = Source::open(path, Access::Overwrite).unwrap();
    format::write(source, &superblock).unwrap();
    superblock
}

pub fn open(path: &Path) -> DumpPartition {
    DumpPartition::open(&System::new("/"), path, None, Access::Mark).unwrap()
}

/// Extracts slot 0 as `kdraw extract` does.
pub fn extracted(partition: &mut DumpPartition, into: &Path) -> Result<Extracted, ExtractError> {
    extracted_as(partition, into, Format::Kdump(Compression::Zlib))
}

/// Extracts slot 0 in a format.
pub fn extracted_as(
    partition: &mut DumpPartition,
    into: &Path,
    format: Format,
) -> Result<Extracted, ExtractError> {
    let slot = partition.slot(0).unwrap();
    let wanted = Wanted {
        format,
        flattened: false,
    };
    extract(partition, &slot, into, wanted, &mut |_, _, _| {})
}

/// The vmcore that came out.
pub fn vmcore(done: &Extracted) -> Vmcore {
    Vmcore::open(&done.folder.join("vmcore")).unwrap()
}
