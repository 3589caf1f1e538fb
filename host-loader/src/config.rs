//! `/etc/kdraw.conf`: what the commands do where no option says otherwise.
//!
//! TOML. Every key has a default, so an empty file and none mean the same; `kdraw.conf` in the
//! source explains each. A key that is not known is an error: a setting that is silently not
//! taken is found out after the crash.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kdraw_linux::classify::DumpLevel;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::Error;
use crate::load::options::{Compress, DumpOptions};
use crate::system::System;

/// Where it is.
pub const FILE: &str = "/etc/kdraw.conf";

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where a dump goes: a partition's device or `serial:NAME`; empty: nothing is said.
    pub target: String,
    /// The serial line that it goes over if the partition fails; empty: none.
    pub fallback: String,
    /// The id that the partition must have; empty: any.
    pub uuid: String,
    /// Which pages are left out.
    #[serde(with = "level")]
    pub level: DumpLevel,
    /// How pages are packed.
    pub compress: Compress,
    /// CPUs that may work on the dump; 0 for all.
    pub cpus: u16,
    /// Seconds that a capture may take; 0 leaves it to the payload.
    pub budget: u32,
    /// Have the payload identify the target's card from scratch.
    pub identify_card: bool,
    /// Where saved dumps are copied to, as `kdraw ship` takes it; empty: nowhere.
    pub ship: String,
    /// What makes the kernel panic, and what it does then.
    pub panic: Panic,
    /// Where dumps are saved at boot.
    pub save: Save,
    /// How saved dumps are copied.
    pub shipping: Shipping,
}

/// Settings of the running kernel, under its own names. What is false or 0 is not asked for, and
/// left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Panic {
    /// An oops is a panic.
    pub panic_on_oops: bool,
    /// The console's sysrq-c works.
    pub sysrq: bool,
    /// A hung task is a panic.
    pub hung_task_panic: bool,
    /// A soft lockup is a panic.
    pub softlockup_panic: bool,
    /// A hard lockup is a panic.
    pub hardlockup_panic: bool,
    /// Seconds after which a panic that nobody captured reboots the machine.
    pub panic: u32,
    /// The kernel's own panic notifiers run before the capture.
    pub crash_kexec_post_notifiers: bool,
}

impl Default for Panic {
    fn default() -> Self {
        Self {
            panic_on_oops: true,
            sysrq: true,
            hung_task_panic: false,
            softlockup_panic: false,
            hardlockup_panic: false,
            panic: 10,
            crash_kexec_post_notifiers: false,
        }
    }
}

/// Where dumps are saved at boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Save {
    /// A folder is made for each dump in this one.
    pub directory: PathBuf,
    /// How many are kept; 0 for all.
    pub keep: u32,
    /// MiB that stay free on its file system.
    pub min_free_mib: u64,
    /// Programs in this folder are run for each saved dump.
    pub hooks: PathBuf,
}

impl Default for Save {
    fn default() -> Self {
        Self {
            directory: "/var/crash".into(),
            keep: 5,
            min_free_mib: 1024,
            hooks: "/etc/kdraw.d".into(),
        }
    }
}

/// How saved dumps are copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shipping {
    /// The vmcore stays here.
    pub reports_only: bool,
    /// A file with passwords and keys, for its owner only; empty: none.
    pub credentials: PathBuf,
    /// Seconds for which a server that does not answer is tried again.
    pub patience: u32,
}

impl Default for Shipping {
    fn default() -> Self {
        Self {
            reports_only: false,
            credentials: PathBuf::new(),
            patience: 120,
        }
    }
}

/// The option of commands that read the configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// Reads this instead of /etc/kdraw.conf.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The option, for another command's command line.
    pub fn words(&self) -> Vec<OsString> {
        let word = |path: &PathBuf| vec!["--config".into(), path.into()];
        self.config.as_ref().map(word).unwrap_or_default()
    }

    /// Reads the file; all defaults if nobody named one and there is none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Config`], [`Error::UnknownKey`].
    pub fn read(&self, system: &System) -> Result<Config, Error> {
        match &self.config {
            None if !system.exists(FILE) => Ok(Config::default()),
            None => Config::parse(&system.text(FILE)?, &system.path(FILE)),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
                Config::parse(&text, path)
            }
        }
    }
}

impl Config {
    /// Reads the text of the file at `path`.
    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let wrong = |why: toml::de::Error| Error::Config {
            path: path.to_owned(),
            why: why.to_string().trim_end().to_owned(),
        };
        let table: Table = text.parse().map_err(wrong)?;
        let known = known_keys();
        if let Some(key) = keys(&table).into_iter().find(|key| !known.contains(key)) {
            return Err(Error::UnknownKey {
                path: path.to_owned(),
                nearest: nearest(&key, &known),
                key,
            });
        }
        toml::from_str(text).map_err(wrong)
    }

    /// The pages of a dump, as far as this decides.
    pub fn dump(&self) -> DumpOptions {
        DumpOptions {
            level: self.level,
            compress: self.compress,
            cpus: self.cpus,
        }
    }
}

/// The keys that there are, those of a section as `section.key`.
fn known_keys() -> Vec<String> {
    keys(&Table::try_from(Config::default()).unwrap_or_default())
}

/// The keys of a table, those of the tables in it as `section.key`.
fn keys(table: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(section) => {
                found.extend(keys(section).iter().map(|below| format!("{key}.{below}")));
            }
            _ => found.push(key.clone()),
        }
    }
    found
}

/// The known key that looks most like `key`. A key in the wrong section is found, too.
fn nearest(key: &str, known: &[String]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |other: &&String| (edits(&last(key), &last(other)), edits(key, other));
    known
        .iter()
        .min_by_key(distance)
        .cloned()
        .unwrap_or_default()
}

/// How many letters have to be changed, put in or taken out to make one word of the other
/// (Levenshtein's distance, row by row).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, letter) in from.chars().enumerate() {
        let mut diagonal = at;
        let mut left = at.saturating_add(1);
        let mut next = vec![left];
        for (other, above) in to.iter().zip(row.iter().skip(1)) {
            let changed = diagonal.saturating_add(usize::from(*other != letter));
            left = changed.min(above.min(&left).saturating_add(1));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// A level in the file: makedumpfile's number, or the name of what is kept.
mod level {
    use kdraw_linux::classify::DumpLevel;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(i64),
        Name(String),
    }

    pub fn serialize<S: Serializer>(level: &DumpLevel, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(level.bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DumpLevel, D::Error> {
        let text = match Written::deserialize(from)? {
            Written::Number(number) => number.to_string(),
            Written::Name(name) => name,
        };
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that ships.
    const EXAMPLE: &str = include_str!("../kdraw.conf");

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(text, Path::new("kdraw.conf"))
    }

    /// The example with what it has behind a `#` switched on: `#key = value`.
    fn switched_on() -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        };
        EXAMPLE.lines().map(line).collect()
    }

    #[test]
    fn the_example_says_each_default() {
        assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
        assert_eq!(parse(&switched_on()).unwrap(), Config::default());
        let table: Table = switched_on().parse().unwrap();
        let known: Table = Table::try_from(Config::default()).unwrap();
        let sorted = |mut keys: Vec<String>| {
            keys.sort();
            keys
        };
        assert_eq!(sorted(keys(&table)), sorted(keys(&known)));
        // A default that is another in the file is noticed.
        let other = switched_on().replace("panic = 10", "panic = 11");
        assert_ne!(parse(&other).unwrap(), Config::default());
    }

    #[test]
    fn settings_are_taken() {
        let found = parse(
            "target = '/dev/vda4'\nlevel = 'kernel+user'\ncompress = 'none'\n\
             [panic]\npanic = 0\n[save]\nkeep = 2\n",
        )
        .unwrap();
        assert_eq!(found.target, "/dev/vda4");
        assert_eq!((found.level.bits(), found.compress), (23, Compress::None));
        assert_eq!((found.panic.panic, found.save.keep), (0, 2));
        assert!(found.panic.panic_on_oops);
        assert_eq!(parse("level = 17").unwrap().level.bits(), 17);
    }

    #[test]
    fn what_is_wrong_is_named_with_the_nearest_key() {
        for (text, parts) in [
            ("levle = 31", &["`levle`", "`level`"][..]),
            ("directory = '/x'", &["`directory`", "`save.directory`"]),
            ("[save]\nkep = 1", &["`save.kep`", "`save.keep`"]),
            (
                "[panic]\nkernel.sysrq = 1",
                &["`panic.kernel.sysrq`", "`panic.sysrq`"],
            ),
            ("[ship]\nurl = 'x'", &["`ship.url`"]),
            ("level = 32", &["line 1", "a number from 0 to 31"]),
            ("\ncpus = 'all'", &["line 2", "cpus"]),
            ("target = ", &["line 1"]),
            ("compress = 'zip'", &["lz4"]),
        ] {
            let why = parse(text).unwrap_err().to_string();
            for part in [&["kdraw.conf"], parts].concat() {
                assert!(why.contains(part), "{part} is not in: {why}");
            }
        }
    }

    #[test]
    fn edits_are_counted() {
        for (from, to, expected) in [("", "", 0), ("", "ab", 2), ("levle", "level", 2)] {
            assert_eq!((edits(from, to), edits(to, from)), (expected, expected));
        }
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
