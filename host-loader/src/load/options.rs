//! What the user decides about a dump: which pages, how packed, on how many CPUs.

use kdraw_format::chunk::Codec;
use kdraw_format::layout::Superblock;

/// Options of every command that makes a plan.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DumpOptions {
    /// What is left out: the sum of makedumpfile's bits.
    ///
    /// 1 pages of zeros, 2 page cache without private data, 4 page cache with private data too,
    /// 8 memory of processes, 16 free pages. 0 leaves out nothing, 31 all but what the kernel
    /// itself uses.
    #[arg(long, value_name = "LEVEL", default_value_t = 31, value_parser = clap::value_parser!(u8).range(0..=31))]
    pub level: u8,
    /// How pages are packed; those that do not shrink are stored as they are.
    #[arg(long, value_enum, default_value = "lz4")]
    pub compress: Compress,
    /// CPUs that may work on the dump; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub cpus: u16,
}

/// What pages are packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Compress {
    /// One LZ4 block per chunk.
    Lz4,
    /// Nothing.
    None,
}

impl Compress {
    /// The codec that the plan names.
    pub fn codec(self) -> Codec {
        match self {
            Self::Lz4 => Codec::Lz4,
            Self::None => Codec::Raw,
        }
    }
}

impl DumpOptions {
    /// What of this a partition can have: a plain one gets every page as it is.
    pub fn on(self, superblock: &Superblock) -> Self {
        if superblock.plain {
            Self {
                level: 0,
                compress: Compress::None,
                ..self
            }
        } else {
            self
        }
    }
}
