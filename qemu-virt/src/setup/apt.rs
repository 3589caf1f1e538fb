//! A private apt configuration: Debian packages of any suite, of arm64 or of the host's own
//! architecture, without touching the host.
//!
//! apt reads all of its state from folders that its settings name (apt.conf(5), the `Dir` group), so
//! a sources.list, an empty status file and two folders of our own make a complete, separate view
//! of the archive. Signatures are checked as always: each source is bound to Debian's archive keyring.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::mirror;
use crate::run::{self, say};

/// Debian's archive keyring, package debian-archive-keyring.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// A private view of one suite of the Debian archive: packages of one architecture, and sources.
pub struct Apt {
    suite: String,
    dir: PathBuf,
}

/// A version of a package, as the suite's index describes it.
#[derive(Debug)]
pub struct Package {
    /// The package's name.
    pub name: String,
    /// Its Debian version.
    pub version: String,
    /// Its dependencies, as in the control file.
    pub depends: String,
    /// Length of the .deb file in bytes.
    pub size: u64,
}

impl Package {
    /// Reads one stanza of an index.
    fn parse(stanza: &str) -> Option<Self> {
        let field = |key: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        };
        Some(Self {
            name: field("Package")?.to_owned(),
            version: field("Version")?.to_owned(),
            depends: field("Depends").unwrap_or_default().to_owned(),
            size: field("Size")
                .and_then(|size| size.parse().ok())
                .unwrap_or_default(),
        })
    }
}

impl Apt {
    /// Prepares the view of a suite (`bookworm`, `trixie-backports`, `sid`, …) for arm64; downloads
    /// nothing.
    ///
    /// # Errors
    ///
    /// When Debian's keyring is missing or the cache folder cannot be written.
    pub fn new(suite: &str) -> Result<Self> {
        Self::of(suite, "arm64", suite)
    }

    /// The same for programs that are to run on this machine.
    ///
    /// # Errors
    ///
    /// As [`Apt::new`], or when there is no dpkg.
    pub fn of_host(suite: &str) -> Result<Self> {
        let architecture = run::output(Command::new("dpkg").arg("--print-architecture"))
            .context("dpkg does not tell this machine's architecture")?;
        Self::of(suite, architecture.trim(), &format!("{suite}-host"))
    }

    fn of(suite: &str, architecture: &str, folder: &str) -> Result<Self> {
        let dir = crate::material::cache_dir().join("apt").join(folder);
        for folder in ["lists/partial", "cache/archives/partial"] {
            run::create_dir(&dir.join(folder))?;
        }
        let keyring = KEYRINGS
            .iter()
            .find(|path| Path::new(path).exists())
            .with_context(|| {
                format!(
                    "{} does not exist, so packages from Debian cannot be verified; \
                 install the package debian-archive-keyring",
                    KEYRINGS[0]
                )
            })?;
        let mirror = mirror::find()?;
        let mut sources = String::new();
        for kind in ["deb", "deb-src"] {
            let mut add = |address: &str, suite: &str| {
                sources += &format!("{kind} [signed-by={keyring}] {address} {suite} main\n");
            };
            add(&mirror.main, suite);
            if let Some(security) = &mirror.security
                && matches!(suite, "bookworm" | "trixie")
            {
                add(security, &format!("{suite}-security"));
            }
        }
        write_if_different(&dir.join("sources.list"), &sources)?;
        write_if_different(&dir.join("status"), "")?;
        write_if_different(&dir.join("apt.conf"), &configuration(&dir, architecture))?;
        Ok(Self {
            suite: suite.to_owned(),
            dir,
        })
    }

    /// Downloads the suite's index of packages.
    ///
    /// # Errors
    ///
    /// When the mirror cannot be reached, lacks the suite, or is signed by an unknown key.
    pub fn update(&self) -> Result<()> {
        say(format!(
            "reading the package index of Debian {}",
            self.suite
        ));
        let Err(error) = run::quiet(self.command("apt-get").arg("update")) else {
            return Ok(());
        };
        let text = format!("{error:#}");
        let reason = text.lines().find_map(|line| line.strip_prefix("E: "));
        Err(anyhow!("{}", reason.unwrap_or(&text).to_owned())).with_context(|| {
            format!(
                "the package index of Debian {} cannot be had from the mirror in {}; \
                 KDRAW_DEBIAN_MIRROR sets another one (http://…/debian); a key that is missing \
                 comes with a newer debian-archive-keyring",
                self.suite,
                self.dir.join("sources.list").display()
            )
        })
    }

    /// Returns every version of a package that the suite's index has, the newest first.
    ///
    /// # Errors
    ///
    /// When the index cannot be had.
    pub fn versions(&self, name: &str) -> Result<Vec<Package>> {
        if !self.has_index() {
            self.update()?;
        }
        // apt-cache fails for a name that the index does not have.
        let text = run::output(self.command("apt-cache").args(["show", name])).unwrap_or_default();
        Ok(text.split("\n\n").filter_map(Package::parse).collect())
    }

    /// Returns the newest versions of packages that the suite must have, in one go: to start apt
    /// for each of many takes minutes.
    ///
    /// # Errors
    ///
    /// When the suite lacks one of them or the index cannot be had.
    pub fn require_all(&self, names: &[String]) -> Result<Vec<Package>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        if !self.has_index() {
            self.update()?;
        }
        let mut command = self.command("apt-cache");
        let text = run::output(command.args(["show", "--no-all-versions"]).args(names))?;
        let packages: Vec<Package> = text.split("\n\n").filter_map(Package::parse).collect();
        for name in names {
            if packages.iter().all(|package| package.name != *name) {
                bail!("Debian {} has no package {name}", self.suite);
            }
        }
        Ok(packages)
    }

    /// Returns the newest version of a package, or `None` when the suite has no such package.
    ///
    /// # Errors
    ///
    /// When the index cannot be had.
    pub fn newest(&self, name: &str) -> Result<Option<Package>> {
        Ok(self.versions(name)?.into_iter().next())
    }

    /// Returns the newest version of a package that the suite must have.
    ///
    /// # Errors
    ///
    /// When the suite has no such package or the index cannot be had.
    pub fn require(&self, name: &str) -> Result<Package> {
        if let Some(found) = self.newest(name)? {
            return Ok(found);
        }
        self.update()?;
        self.newest(name)?
            .with_context(|| format!("Debian {} has no package {name}", self.suite))
    }

    /// Downloads exactly this package into `dir` and returns the file.
    ///
    /// # Errors
    ///
    /// When the mirror does not have it (any more) or it is damaged.
    pub fn download(&self, package: &Package, dir: &Path) -> Result<PathBuf> {
        let megabytes = package.size.div_ceil(1_000_000);
        say(format!(
            "downloading {} {} of Debian {} ({megabytes} MB)",
            package.name, package.version, self.suite
        ));
        let wanted = format!("{}={}", package.name, package.version);
        run::create_dir(dir)?;
        let fetch = || {
            run::quiet(
                self.command("apt-get")
                    .args(["download", &wanted])
                    .current_dir(dir),
            )
        };
        if fetch().is_err() {
            // A stale index names files that the mirror has replaced since.
            self.update()?;
            fetch().with_context(|| {
                format!(
                    "cannot download {wanted} of Debian {} from the mirror",
                    self.suite
                )
            })?;
        }
        let prefix = format!("{}_", package.name);
        run::entries(dir)?
            .into_iter()
            .find(|file| {
                file.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with(&prefix) && name.ends_with(".deb"))
            })
            .ok_or_else(|| {
                anyhow!(
                    "apt-get downloaded no file {prefix}*.deb to {}",
                    dir.display()
                )
            })
    }

    /// Returns packages and what they depend on, however indirectly, as apt resolves it for an
    /// empty machine.
    ///
    /// # Errors
    ///
    /// When the suite lacks one of them or the index cannot be had.
    pub fn with_dependencies(&self, names: &[&str]) -> Result<Vec<Package>> {
        if !self.has_index() {
            self.update()?;
        }
        let install = ["--simulate", "--no-install-recommends", "install"];
        let said = run::output(self.command("apt-get").args(install).args(names))?;
        let chosen: Vec<String> = said
            .lines()
            .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
            .map(str::to_owned)
            .collect();
        self.require_all(&chosen)
    }

    /// Downloads and unpacks packages on top of each other into `root`, without their scripts.
    ///
    /// # Errors
    ///
    /// As [`Apt::download`], or when the files cannot be written.
    pub fn unpack(&self, packages: &[Package], root: &Path) -> Result<()> {
        let downloads = self.fetch(packages)?;
        for file in run::entries(&downloads)? {
            run::quiet(Command::new("dpkg-deb").arg("-x").arg(&file).arg(root))?;
        }
        run::remove_dir(&downloads)
    }

    /// As [`Apt::unpack`], and leaves dpkg's database as if they were installed
    /// (deb-control(5), dpkg(1): `/var/lib/dpkg/status` and `info/NAME.list`).
    ///
    /// # Errors
    ///
    /// As [`Apt::unpack`].
    pub fn install(&self, packages: &[Package], root: &Path) -> Result<()> {
        let downloads = self.fetch(packages)?;
        let mut files = run::entries(&downloads)?;
        // It has the links that make /bin one of /usr.
        files.sort_by_key(|file| !file.to_string_lossy().contains("/base-files_"));
        let info = root.join("var/lib/dpkg/info");
        let write = |path: &Path, text: String| {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        let mut status = String::new();
        for file in &files {
            let deb = |option: &str| {
                let mut command = Command::new("dpkg-deb");
                command.arg(option).arg(file);
                command
            };
            run::quiet(deb("-x").arg(root))?;
            run::create_dir(&info)?;
            let control = run::output(&mut deb("-f"))?;
            let field = |name: &str| {
                let value = |line: &'_ str| Some(line.strip_prefix(name)?.trim().to_owned());
                control.lines().find_map(value).unwrap_or_default()
            };
            let name = field("Package:");
            let list = match field("Multi-Arch:").as_str() {
                "same" => format!("{name}:{}.list", field("Architecture:")),
                _ => format!("{name}.list"),
            };
            // The sixth word of `tar tv`, and so on: names of Debian's files have no spaces.
            let listed = run::output(&mut deb("-c"))?;
            let names = listed
                .lines()
                .filter_map(|line| line.split_whitespace().nth(5));
            let names = names.map(|name| match name.trim_matches(['.', '/']) {
                "" => "/.\n".to_owned(),
                _ => format!("{}\n", name.trim_start_matches('.').trim_end_matches('/')),
            });
            write(&info.join(list), names.collect())?;
            status += &format!("{}\nStatus: install ok installed\n\n", control.trim_end());
        }
        run::create_dir(&root.join("var/lib/dpkg/updates"))?;
        write(&info.join("format"), "1\n".into())?;
        write(&root.join("var/lib/dpkg/status"), status)?;
        run::remove_dir(&downloads)
    }

    /// Downloads packages into a folder, and returns that.
    fn fetch(&self, packages: &[Package]) -> Result<PathBuf> {
        let downloads = self.dir.join("debs");
        run::remove_dir(&downloads)?;
        run::create_dir(&downloads)?;
        let bytes: u64 = packages.iter().map(|package| package.size).sum();
        let names: Vec<&str> = packages.iter().map(|package| &*package.name).collect();
        say(format!(
            "downloading {} of Debian {} ({} MB)",
            names.join(", "),
            self.suite,
            bytes.div_ceil(1_000_000)
        ));
        let wanted: Vec<String> = packages
            .iter()
            .map(|package| format!("{}={}", package.name, package.version))
            .collect();
        let fetch = || {
            run::quiet(
                self.command("apt-get")
                    .arg("download")
                    .args(&wanted)
                    .current_dir(&downloads),
            )
        };
        if fetch().is_err() {
            // A stale index names files that the mirror has replaced since.
            self.update()?;
            fetch()?;
        }
        Ok(downloads)
    }

    /// Downloads the source package `name` and unpacks it, patched, into `dir`.
    ///
    /// # Errors
    ///
    /// When the suite has no such source package, or dpkg-dev is not installed.
    pub fn source(&self, name: &str, dir: &Path) -> Result<()> {
        if !self.has_index() {
            self.update()?;
        }
        say(format!(
            "downloading the source package {name} of Debian {}",
            self.suite
        ));
        let downloads = self.dir.join("sources");
        run::remove_dir(&downloads)?;
        run::create_dir(&downloads)?;
        let fetch = || {
            run::quiet(
                self.command("apt-get")
                    .args(["source", "--download-only", name])
                    .current_dir(&downloads),
            )
        };
        if fetch().is_err() {
            self.update()?;
            fetch()?;
        }
        let description = run::entries(&downloads)?
            .into_iter()
            .find(|file| file.extension().is_some_and(|extension| extension == "dsc"))
            .with_context(|| format!("apt-get downloaded no .dsc file of {name}"))?;
        // apt has checked the files against the signed index; the uploader's key is not needed.
        run::quiet(
            Command::new("dpkg-source")
                .args(["--no-check", "-x"])
                .arg(&description)
                .arg(dir),
        )?;
        run::remove_dir(&downloads)
    }

    fn has_index(&self) -> bool {
        run::entries(&self.dir.join("lists")).is_ok_and(|files| {
            files
                .iter()
                .any(|file| file.to_string_lossy().contains("_Packages"))
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-q")
            .arg("-c")
            .arg(self.dir.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}

/// Returns the apt.conf of the private root `dir`; it is read after the machine's own.
fn configuration(dir: &Path, architecture: &str) -> String {
    let dir = dir.display();
    format!(
        r#"APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
Dir::Etc::sourcelist "{dir}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "{dir}/lists";
Dir::State::status "{dir}/status";
Dir::Cache "{dir}/cache";
// An index that cannot be had is an error, also where an old one is there.
APT::Update::Error-Mode "any";
// A mirror that was frozen some weeks ago serves as well: guests need a kernel, not today's.
Acquire::Check-Valid-Until "false";
// Only the index of packages: no translations, no AppStream metadata.
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
// The user `_apt`, to whom root's apt switches, may not be able to reach the cache folder.
APT::Sandbox::User "root";
"#
    )
}

/// Writes a file unless it already says that.
fn write_if_different(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the names of the packages that a control field lists, versions and alternatives dropped.
///
/// # Errors
///
/// When the field names no package at all.
pub fn names(depends: &str) -> Result<Vec<&str>> {
    let names: Vec<&str> = depends
        .split(',')
        .filter_map(|entry| entry.split_whitespace().next())
        .collect();
    if names.is_empty() {
        bail!("the package depends on nothing, where a kernel's name was expected");
    }
    Ok(names)
}
