//! What the user decides about a capture: where the dump goes, which pages, how packed, on how
//! many CPUs. The command line says it, or else the configuration.

use std::path::PathBuf;

use clap::error::ErrorKind;
use kdraw_format::chunk::Codec;
use kdraw_format::layout::Superblock;
use kdraw_linux::classify::DumpLevel;
use serde::{Deserialize, Serialize};

use crate::config::{self, Config, ConfigArgs};
use crate::load::target::Destination;
use crate::system::System;

/// Options of every command that makes a plan.
#[derive(Clone, Debug, clap::Args)]
pub struct CaptureArgs {
    /// Where a dump is to go: a signed partition, or serial:NAME for the line of /dev/NAME, where
    /// `kdraw receive` takes it. /etc/kdraw.conf may say it.
    #[arg(long, value_name = "DEVICE|serial:NAME")]
    target: Option<String>,
    /// The serial line that it goes over if the partition fails, as serial:ttyAMA0.
    #[arg(long, value_name = "serial:NAME")]
    fallback: Option<String>,
    /// The payload's image, instead of the one inside this program.
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
    /// The id that the partition must have, as `kdraw format` printed it.
    #[arg(long)]
    uuid: Option<String>,
    /// For a target on an SD card or eMMC: have the payload identify the card from scratch instead
    /// of using it as Linux left it, should a capture to the card fail.
    #[arg(long)]
    identify_card: bool,
    #[command(flatten)]
    dump: DumpArgs,
    /// Seconds that a capture may take; 0, the default, leaves it to the payload.
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u32>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl CaptureArgs {
    /// What is wanted: what the command line says, then what the configuration says.
    ///
    /// # Errors
    /// If the configuration cannot be read; [`clap::Error`], wrong usage, if nobody names a target.
    pub fn wish(&self, system: &System) -> anyhow::Result<(Destination, Wish)> {
        let config = self.config.read(system)?;
        let mut wish = Wish::configured(&config);
        if let Some(target) = &self.target {
            wish.take_target(target);
        }
        if let Some(fallback) = &self.fallback {
            wish.fallback = Some(fallback.as_str().into());
        }
        if let Some(uuid) = &self.uuid {
            wish.uuid = Some(uuid.clone());
        }
        wish.identify_card |= self.identify_card;
        wish.dump = self.dump.or(&config);
        wish.budget_s = self.budget.unwrap_or(wish.budget_s);
        let target = wish.target.clone().ok_or_else(|| {
            let why = format!(
                "no target: say --target DEVICE, or target = \"DEVICE\" in {}\n",
                config::FILE
            );
            clap::Error::raw(ErrorKind::MissingRequiredArgument, why)
        })?;
        Ok((target, wish))
    }
}

/// What is wanted of a capture.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where the dump goes.
    pub target: Option<Destination>,
    /// Where it goes if that fails.
    pub fallback: Option<Destination>,
    /// The id that the partition must have.
    pub uuid: Option<String>,
    /// Whether the payload is to identify the card from scratch.
    pub identify_card: bool,
    /// Which pages, how packed.
    pub dump: DumpOptions,
    /// Seconds that it may take; 0 leaves it to the payload.
    pub budget_s: u32,
}

impl Wish {
    /// What the configuration says.
    pub fn configured(config: &Config) -> Self {
        let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let destination = |text: &str| said(text).map(|text| text.as_str().into());
        Self {
            target: destination(&config.target),
            fallback: destination(&config.fallback),
            uuid: said(&config.uuid),
            identify_card: config.identify_card,
            dump: config.dump(),
            budget_s: config.budget,
        }
    }

    /// Takes another target. The fallback and the id were for the one before.
    pub fn take_target(&mut self, target: &str) {
        self.target = Some(target.into());
        self.fallback = None;
        self.uuid = None;
    }
}

/// Options about the pages of a dump.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DumpArgs {
    /// Which pages are left out: a number of makedumpfile's, or the name of what is kept; 31 unless
    /// /etc/kdraw.conf says another.
    ///
    /// The number is the sum of what is left out: 1 pages of zeros, 2 page cache without private
    /// data, 4 page cache with private data too, 8 memory of processes, 16 free pages. Names:
    /// `all` (0) leaves out nothing; `kernel` (31) leaves out all of these and keeps what the
    /// kernel itself uses; `kernel+user` (23) keeps processes' memory too, and so +cache,
    /// +private, +free and +zero. What cannot be told apart with certainty is kept.
    #[arg(long, value_name = "LEVEL")]
    level: Option<DumpLevel>,
    /// How pages are packed, auto by default; those that do not shrink are stored as they are.
    #[arg(long, value_enum)]
    compress: Option<Compress>,
    /// CPUs that may work on the dump; 0, the default, for all.
    #[arg(long, value_name = "N")]
    cpus: Option<u16>,
}

impl DumpArgs {
    /// What the command line says, or else the configuration.
    pub fn or(self, config: &Config) -> DumpOptions {
        let DumpOptions {
            level,
            compress,
            cpus,
        } = config.dump();
        DumpOptions {
            level: self.level.unwrap_or(level),
            compress: self.compress.unwrap_or(compress),
            cpus: self.cpus.unwrap_or(cpus),
        }
    }
}

/// Which pages a dump has, how packed, on how many CPUs.
#[derive(Clone, Copy, Debug)]
pub struct DumpOptions {
    /// Which pages are left out.
    pub level: DumpLevel,
    /// How pages are packed.
    pub compress: Compress,
    /// CPUs that may work on the dump; 0 for all.
    pub cpus: u16,
}

/// What pages are packed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compress {
    /// LZ4 for a partition, Deflate for a serial line.
    #[default]
    Auto,
    /// LZ4, on all CPUs.
    Lz4,
    /// Deflate, on one CPU: a third smaller, twenty times the work.
    Deflate,
    /// Nothing.
    None,
}

impl Compress {
    /// The codec that the plan names for a partition.
    pub fn codec(self) -> Codec {
        match self {
            Self::Auto | Self::Lz4 => Codec::Lz4,
            Self::Deflate => Codec::Deflate,
            Self::None => Codec::Raw,
        }
    }

    /// The codec that the plan names for a serial line.
    pub fn line_codec(self) -> Codec {
        match self {
            Self::Auto => Codec::Deflate,
            other => other.codec(),
        }
    }
}

/// How many of `cpus` CPUs work where a plan says `limit`, 0 standing for all, and `codec`.
pub fn cpus_at_work(cpus: u64, limit: u16, codec: Codec) -> u64 {
    match limit {
        // Only the first has memory for it.
        _ if codec == Codec::Deflate => 1,
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
