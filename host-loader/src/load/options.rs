//! What the user decides about a dump: which pages, how packed, on how many CPUs.

use kdraw_format::chunk::Codec;
use kdraw_format::layout::Superblock;
use kdraw_linux::classify::DumpLevel;

/// Options of every command that makes a plan.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DumpOptions {
    /// Which pages are left out: a number of makedumpfile's, or the name of what is kept.
    ///
    /// The number is the sum of what is left out: 1 pages of zeros, 2 page cache without private
    /// data, 4 page cache with private data too, 8 memory of processes, 16 free pages. Names:
    /// `all` (0) leaves out nothing; `kernel` (31) leaves out all of these and keeps what the
    /// kernel itself uses; `kernel+user` (23) keeps processes' memory too, and so +cache,
    /// +private, +free and +zero. What cannot be told apart with certainty is kept.
    #[arg(long, value_name = "LEVEL", default_value = "31")]
    pub level: DumpLevel,
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

/// How many of `cpus` CPUs work where a plan says `limit`; 0 stands for all.
pub fn cpus_at_work(cpus: u64, limit: u16) -> u64 {
    match limit {
        0 => cpus,
        limit => cpus.min(limit.into()),
    }
}

impl DumpOptions {
    /// What of this a partition can have: a plain one gets every page as it is.
    pub fn on(self, superblock: &Superblock) -> Self {
        if superblock.plain {
            Self {
                level: DumpLevel::ALL_PAGES,
                compress: Compress::None,
                ..self
            }
        } else {
            self
        }
    }
}
