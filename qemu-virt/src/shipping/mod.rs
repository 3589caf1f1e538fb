//! `kdraw ship` against real servers on this machine: nothing is lost, whatever they do.
//!
//! Each kind of place is tried in five ways: all is well; the server is killed in the middle of a
//! file and started again; it is full; the credentials are wrong; it is not there. The first two
//! must end with the same SHA-256 on both sides, the others with an exit code of their own; and the
//! dump here must be as it was, each time.

mod servers;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::run;
use servers::{Kind, Server};

/// Length of the vmcore, in bytes: long enough to be cut off, and several pieces for S3.
const VMCORE: u64 = 40 << 20;
/// MiB of a place that is too small for it.
const SMALL: u32 = 8;
/// The dump's folder.
const DUMP: &str = "20261121T183012Z-5f0c2a77";
/// How long one call of the tool may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// The exit codes that tell what is wrong: kdraw's documentation has them.
const UNREACHABLE: i32 = 4;
const REFUSED: i32 = 5;
const FULL: i32 = 6;

/// What is tried.
const PLACES: [(&str, Option<Kind>); 5] = [
    ("folder", None),
    ("sftp", Some(Kind::Sftp)),
    ("ftp", Some(Kind::Ftp)),
    ("webdav", Some(Kind::WebDav)),
    ("s3", Some(Kind::S3)),
];

/// The names of the tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    PLACES.iter().map(|(name, _)| *name)
}

/// Runs one of them with the tool at `kdraw`, in the folder `out`.
///
/// # Errors
///
/// What was not as it should be.
pub fn play(name: &str, kdraw: &Path, out: &Path) -> Result<String> {
    let (_, kind) = PLACES
        .iter()
        .find(|(known, _)| *known == name)
        .with_context(|| format!("there is no place {name}"))?;
    let root = run::output(Command::new("id").arg("-u"))?.trim() == "0";
    if kind.is_some_and(Kind::needs_root) && !root {
        return Ok("not checked: only root can run this server in a root folder of its own".into());
    }
    run::remove_dir(out)?;
    let dump = Dump::new(out)?;
    let case = Case { kdraw, dump: &dump };
    let said = match kind {
        None => folder(&case, out),
        Some(kind) => {
            servers::ensure(*kind)?;
            server(&case, *kind, &out.join("server"))
        }
    };
    let said = said.with_context(|| format!("files in {}", out.display()))?;
    run::remove_dir(out)?;
    Ok(said)
}

/// The local side.
struct Dump {
    folder: PathBuf,
    sums: String,
}

impl Dump {
    fn new(out: &Path) -> Result<Self> {
        let folder = out.join("crash").join(DUMP);
        run::create_dir(&folder)?;
        let mut vmcore = Vec::new();
        fs::File::open("/dev/urandom")?
            .take(VMCORE)
            .read_to_end(&mut vmcore)?;
        fs::write(folder.join("vmcore"), vmcore)?;
        fs::write(folder.join("dmesg.txt"), "Kernel panic - not syncing\n")?;
        fs::write(folder.join("metadata.json"), r#"{"vmcore": "vmcore"}"#)?;
        let sums = sums(&folder)?;
        Ok(Self { folder, sums })
    }

    /// Checks that nothing was changed, and forgets what was noted.
    fn check(&self, shipped: bool) -> Result<()> {
        ensure!(
            sums(&self.folder)? == self.sums,
            "the dump here was changed"
        );
        let note = self.folder.join(".shipped");
        ensure!(
            note.exists() == shipped,
            "{} is {}there",
            note.display(),
            if shipped { "not " } else { "" }
        );
        if shipped {
            fs::remove_file(&note)?;
        }
        Ok(())
    }
}

/// What `sha256sum` says of the dump's files in a folder.
fn sums(folder: &Path) -> Result<String> {
    let mut command = Command::new("sha256sum");
    command.args(["dmesg.txt", "metadata.json", "vmcore"]);
    run::output(command.current_dir(folder))
}

/// The tool, and what it ships.
struct Case<'a> {
    kdraw: &'a Path,
    dump: &'a Dump,
}

impl Case<'_> {
    fn ship(&self, url: &str, patience: u32) -> Command {
        let mut command = Command::new(self.kdraw);
        command
            .args(["ship", "--patience", &patience.to_string(), url])
            .arg(&self.dump.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end, and checks its exit code and the dump here.
    fn expect(&self, command: &mut Command, code: i32) -> Result<()> {
        self.ended(command.spawn().context("cannot start kdraw")?, code)
    }

    fn ended(&self, mut child: Child, code: i32) -> Result<()> {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if started.elapsed() > PATIENCE {
                child.kill()?;
                bail!("kdraw ship does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        ensure!(
            status.code() == Some(code),
            "kdraw ship ended with {status}, not {code}: {said}"
        );
        self.dump.check(code == 0)
    }

    /// Checks that all has arrived in a folder, and nothing else.
    fn arrived(&self, folder: &Path) -> Result<()> {
        let folder = folder.join(DUMP);
        ensure!(
            sums(&folder)? == self.dump.sums,
            "what arrived is not what was sent"
        );
        run::quiet(
            Command::new("sha256sum")
                .args(["--check", "--strict", "SHA256SUMS"])
                .current_dir(&folder),
        )?;
        for file in run::entries(&folder)? {
            let left = file.extension().is_some_and(|end| end == "part");
            ensure!(!left, "{} was left", file.display());
        }
        Ok(())
    }
}

/// A folder of this machine.
fn folder(case: &Case<'_>, out: &Path) -> Result<String> {
    let place = out.join("place");
    let url = place.to_string_lossy();
    // An NFS mount that is not mounted, say.
    case.expect(&mut case.ship(&url, 0), UNREACHABLE)?;
    run::create_dir(&place)?;
    // The tool itself is killed in the middle, and goes on.
    let mut child = case.ship(&url, 0).spawn()?;
    wait_for(&place, VMCORE / 8)?;
    child.kill()?;
    child.wait()?;
    let part = place.join(DUMP).join("vmcore.part");
    let there = fs::metadata(&part)
        .with_context(|| format!("{} is not there: it was not cut off", part.display()))?
        .len();
    case.expect(&mut case.ship(&url, 0), 0)?;
    case.arrived(&place)?;
    let mut said = format!("cut off at {} KiB", there >> 10);
    if run::output(Command::new("id").arg("-u"))?.trim() == "0" {
        let small = out.join("small");
        run::create_dir(&small)?;
        let ship = case.ship(&small.to_string_lossy(), 0);
        let mut full = Command::new("unshare");
        full.args(["--mount", "sh", "-euc"])
            .arg(format!(
                "mount -t tmpfs -o size={SMALL}m tmpfs \"$0\"; exec \"$@\""
            ))
            .arg(&small)
            .arg(ship.get_program())
            .args(ship.get_args())
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        case.expect(&mut full, FULL)?;
        said += ", too small";
    }
    Ok(said + ", missing: told apart, and equal in the end")
}

/// A server.
fn server(case: &Case<'_>, kind: Kind, folder: &Path) -> Result<String> {
    let mut server = Server::new(kind, folder)?;
    let ship = |server: &Server, to: &str, patience, right| {
        let mut command = case.ship(&server.url(to), patience);
        server.log_in(&mut command, right);
        command
    };
    case.expect(&mut ship(&server, "none", 2, true), UNREACHABLE)
        .context("not there")?;

    server.start(None)?;
    case.expect(&mut ship(&server, "wrong", 2, false), REFUSED)
        .context("wrong credentials")?;
    case.expect(&mut ship(&server, "well", 2, true), 0)
        .and_then(|()| case.arrived(&server.files("well")))
        .context("all is well")?;

    let before = bytes(&server.data)?;
    let child = ship(&server, "killed", 60, true).spawn()?;
    wait_for(&server.data, before + VMCORE / 8)?;
    server.stop()?;
    let there = bytes(&server.data)?.saturating_sub(before);
    let whole = server.files("killed").join(DUMP).join("SHA256SUMS");
    ensure!(!whole.exists(), "the server was not killed in the middle");
    std::thread::sleep(Duration::from_secs(2));
    server.start(None)?;
    case.ended(child, 0)
        .and_then(|()| case.arrived(&server.files("killed")))
        .context("killed in the middle")?;

    server.stop()?;
    server.start(Some(SMALL))?;
    case.expect(&mut ship(&server, "full", 20, true), FULL)
        .context("full")?;
    server.stop()?;
    Ok(format!(
        "killed at {} KiB, full, wrong credentials, unreachable: told apart, and equal in the end",
        there >> 10
    ))
}

/// Waits until a folder holds so many bytes.
fn wait_for(folder: &Path, enough: u64) -> Result<()> {
    let started = Instant::now();
    while bytes(folder)? < enough {
        ensure!(started.elapsed() < PATIENCE, "nothing arrives");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Bytes of all files below a folder. One that vanishes meanwhile has none.
fn bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for path in run::entries(folder)? {
        let Ok(data) = fs::symlink_metadata(&path) else {
            continue;
        };
        sum += match data.is_dir() {
            true => bytes(&path).unwrap_or(0),
            false => data.len(),
        };
    }
    Ok(sum)
}
