//! `kdraw ship`: copies dumps to other machines.
//!
//! The work is `kdraw-ship`'s, a program beside this one: what it takes to speak five protocols is
//! larger than all the rest of kdraw, and no board needs it to capture a panic.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

use crate::config::{Config, ConfigArgs};
use crate::exit::Verdict;
use crate::shipped;
use crate::system::System;

/// The program that does it.
const PROGRAM: &str = "kdraw-ship";

/// Copy dumps to another machine or a mounted folder, and read them back.
///
/// URL is one of:
///   /mnt/dumps                       a folder that is there, an NFS mount for example
///   sftp://USER@HOST:PORT/FOLDER     SSH: the system's `ssh` is run, with its keys and known_hosts
///   ftp://USER@HOST/FOLDER           FTP; ftps:// with TLS
///   https://USER@HOST/FOLDER         WebDAV; http:// without TLS
///   s3://BUCKET/FOLDER?endpoint=https://HOST&region=NAME
///                                    S3, or a store that is compatible; without endpoint, Amazon's
///
/// Each dump gets a folder of its own name there. A file is sent as NAME.part, read back, compared
/// byte by byte with the one here, and then renamed; on S3, where a file appears only once it is
/// whole, it is read back under its name. SHA256SUMS comes last: what has it is complete. After an
/// interruption the transfer goes on where it ended (folders, SFTP, FTP), with the piece that failed
/// (S3), or with the file (WebDAV). An empty file is left out. No file here is ever removed or
/// changed; what arrived is noted in the dump's folder, in .shipped.
///
/// A server that does not answer is tried again, at growing intervals, for --patience seconds.
///
/// No password belongs on a command line. Name the user in the URL, and give the password in the
/// environment, or in a file that [shipping] credentials in /etc/kdraw.conf names and that only its
/// owner may read:
///   KDRAW_SHIP_PASSWORD                        password = "…"            FTP, WebDAV
///   KDRAW_SHIP_TOKEN                           token = "…"               WebDAV
///   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   access_key_id, secret_access_key   S3
/// For SFTP, ssh takes a key without a passphrase or an agent's, as ~/.ssh/config says.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Exit codes: 0 all arrived, or there was nothing to ship; 1 what arrived is not what was sent;
2 wrong usage; 3 other trouble; 4 unreachable; 5 refused: wrong credentials, or no right to write
there; 6 no room there. In each case the dump is still here, whole.

Examples:
  kdraw ship /mnt/dumps
  kdraw ship sftp://dumps@192.0.2.7/srv/dumps /var/crash/2026-11-21T18-30-12Z-5f0c2a77
  KDRAW_SHIP_PASSWORD=… kdraw ship --reports https://board7@dumps.example/dav/board7
  kdraw ship        # whatever is not yet where /etc/kdraw.conf wants it"
)]
pub struct Args {
    /// Where to; without it, `ship` in /etc/kdraw.conf says.
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// Folders of dumps; without them, those in [save] directory that are not there yet.
    #[arg(value_name = "DUMP")]
    pub dumps: Vec<PathBuf>,
    /// Ships the reports only: all but the vmcore.
    #[arg(long)]
    pub reports: bool,
    /// How long a server that does not answer is tried again.
    #[arg(long, value_name = "SECONDS")]
    pub patience: Option<u32>,
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Prints what was done as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command: as another program, which reads the same command line.
///
/// # Errors
/// If that cannot be started.
pub fn run() -> Result<Verdict> {
    let program = program();
    let why = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(why).with_context(|| missing(&program))
}

/// Ships what is not yet where the configuration wants it. Returns nothing if there is nothing to
/// ship, or nowhere.
///
/// # Errors
/// If the dumps cannot be listed, or the program not be started.
pub fn waiting(config: &Config, args: &ConfigArgs, system: &System) -> Result<Option<ExitStatus>> {
    let directory = system.path(&config.save.directory);
    if config.ship.is_empty() || !directory.exists() {
        return Ok(None);
    }
    let mut any = false;
    for folder in shipped::dumps_in(&directory)? {
        let files = shipped::files(&folder, config.shipping.reports_only)?;
        any |= !shipped::is_shipped(&folder, &config.ship, &files);
    }
    if !any {
        return Ok(None);
    }
    let program = program();
    let mut words: Vec<OsString> = vec!["ship".into(), "--sysroot".into()];
    words.push(system.path("/").into());
    words.extend(args.words());
    let status = Command::new(&program)
        .args(words)
        .stdout(std::io::stderr())
        .status();
    status.map(Some).with_context(|| missing(&program))
}

/// Where the program is: beside this one, or wherever the system finds it.
fn program() -> PathBuf {
    let beside = std::env::current_exe().map(|this| this.with_file_name(PROGRAM));
    match beside {
        Ok(path) if path.exists() => path,
        _ => PROGRAM.into(),
    }
}

fn missing(program: &std::path::Path) -> String {
    format!(
        "cannot run {}, which ships dumps; the package kdraw-ship has it; it may also lie beside kdraw",
        program.display()
    )
}
