//! How a vmcore is wanted, as `extract` and `convert` are told.

use clap::error::ErrorKind;

use crate::extract::Wanted;
use crate::output::Format;
use crate::output::kdump::Compression;

/// The options.
#[derive(clap::Args)]
pub struct VmcoreArgs {
    /// The vmcore's format.
    #[arg(long, value_enum, default_value_t = Name::Kdump)]
    format: Name,
    /// How pages are packed, in kdump and flattened.
    #[arg(long, value_enum, default_value_t)]
    compress: Compression,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// kdump-compressed: for crash, drgn, makedumpfile, libkdumpfile
    Kdump,
    /// ELF: for gdb, and all others too
    Elf,
    /// The kdump file as makedumpfile's stream, which can go to standard output
    Flattened,
    /// The ELF file as such a stream
    FlattenedElf,
    /// Memory alone, from the lowest address of RAM on
    Raw,
}

impl VmcoreArgs {
    /// What is wanted on standard output, where only what is written from front to back can go.
    ///
    /// # Errors
    /// [`clap::Error`]: that is wrong usage.
    pub fn wanted_on_stdout(&self) -> Result<Wanted, clap::Error> {
        let wanted = self.wanted();
        let why = "standard output takes --format flattened and flattened-elf only\n";
        match wanted.flattened {
            true => Ok(wanted),
            false => Err(clap::Error::raw(ErrorKind::ArgumentConflict, why)),
        }
    }

    /// What is wanted.
    pub fn wanted(&self) -> Wanted {
        let format = match self.format {
            Name::Kdump | Name::Flattened => Format::Kdump(self.compress),
            Name::Elf | Name::FlattenedElf => Format::Elf,
            Name::Raw => Format::Raw,
        };
        Wanted {
            format,
            flattened: matches!(self.format, Name::Flattened | Name::FlattenedElf),
        }
    }
}
