#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
//! `kdraw-ship`: what `kdraw ship` runs. Copies dumps to other machines and reads them back.
//!
//! - [`url`] and [`credentials`] say where to and as whom, [`place`] makes OpenDAL's operator of it.
//! - [`source`] is what is sent, [`transfer`] brings one file there, however often that is cut off.
//! - [`error`] tells apart what a person has to do about it.
//!
//! A program of its own, since it is larger than all the rest of kdraw: boards that ship nothing,
//! and initramfs images, do without it.

mod credentials;
mod error;
mod ftp;
mod place;
mod source;
mod transfer;
mod url;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use credentials::Credentials;
use error::ShipError;
use kdraw::cli::Cli;
use kdraw::commands::ship::Args;
use kdraw::shipped::{self, Shipment, Shipped};
use kdraw::system::System;
use kdraw::{exit, progress, text};
use place::Place;
use serde::Serialize;
use source::Source;
use transfer::Transfer;

/// The file that comes last, as `sha256sum --check` reads it.
const SUMS: &str = "SHA256SUMS";

/// What was done.
#[derive(Default, Serialize)]
struct Report {
    url: String,
    /// Folders of dumps that are there now, or were.
    shipped: Vec<PathBuf>,
    /// Folders of dumps that are not.
    waiting: Vec<PathBuf>,
    /// Why not, in a word: unreachable, refused, full, differs or trouble.
    trouble: Option<&'static str>,
    /// Why not.
    why: Option<String>,
}

fn main() -> ExitCode {
    // SIGPIPE stays ignored, as Rust has it: `ssh` may end while it is written to.
    let Some((args, system)) = Cli::parse().ship() else {
        eprintln!("kdraw-ship: this is for `kdraw ship` only");
        return ExitCode::from(2);
    };
    let (code, text) = match run(&args, &system) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(error)) => (error.code(), error.to_string()),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(usage) => usage.exit(),
            Err(error) => (exit::TROUBLE, format!("{error:#}")),
        },
    };
    eprintln!("kdraw: {text}");
    ExitCode::from(code)
}

/// Ships; returns what kept it from shipping all.
fn run(args: &Args, system: &System) -> anyhow::Result<Option<ShipError>> {
    let config = args.config.read(system)?;
    let url = args.url.as_ref().unwrap_or(&config.ship);
    let usage = |why: String| Cli::command().error(clap::error::ErrorKind::ValueValidation, why);
    if url.is_empty() {
        match args.json {
            true => println!("{}", serde_json::to_string_pretty(&Report::default())?),
            false => println!("Nothing to ship: `ship` in the configuration says not where to."),
        }
        return Ok(None);
    }
    // A dump holds what memory held: in a folder, too, it is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let credentials = match Credentials::read(&config.shipping.credentials) {
        Ok(credentials) => credentials,
        Err(error) => return Ok(Some(error)),
    };
    let place = Place::new(url, credentials).map_err(usage)?;
    let reports_only = args.reports || config.shipping.reports_only;
    let directory = system.path(&config.save.directory);
    let mut waiting = Vec::new();
    let mut report = Report {
        url: url.clone(),
        ..Report::default()
    };
    for folder in match args.dumps.is_empty() {
        true if directory.exists() => shipped::dumps_in(&directory)?,
        true => Vec::new(),
        false => args.dumps.clone(),
    } {
        let files = shipped::files(&folder, reports_only)?;
        match shipped::is_shipped(&folder, url, &files) {
            true => report.shipped.push(folder),
            false => waiting.push((folder, files)),
        }
    }
    if waiting.is_empty() && !args.json {
        println!("Nothing to ship: all dumps are there.");
    }
    // TLS needs to be told who computes; ring does on any CPU that there is.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let seconds = args.patience.unwrap_or(config.shipping.patience);
    let patience = Duration::from_secs(seconds.into());
    let mut failed = None;
    for (folder, files) in waiting {
        if failed.is_some() {
            report.waiting.push(folder);
            continue;
        }
        let bar = progress::bar();
        let mut show = |what, at, total| progress::show(&bar, what, at, total);
        let done = runtime.block_on(ship(&place, &folder, &files, patience, &mut show));
        bar.finish_and_clear();
        match done {
            Ok(bytes) => {
                if !args.json {
                    println!("{}: {} at {url}", folder.display(), text::size(bytes));
                }
                report.shipped.push(folder);
            }
            Err(error) => {
                report.waiting.push(folder);
                report.trouble = Some(error.word());
                report.why = Some(error.to_string());
                failed = Some(error);
            }
        }
    }
    // What still waits for a server that does not answer is not waited for.
    runtime.shutdown_background();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(failed)
}

/// Ships a dump, and notes that it is there. Returns how many bytes it has.
async fn ship(
    place: &Place,
    folder: &Path,
    files: &[(String, u64)],
    patience: Duration,
    show: transfer::Show<'_>,
) -> Result<u64, ShipError> {
    let absolute = std::path::absolute(folder).map_err(local("locate", folder))?;
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let mut there = Vec::new();
    let mut connection = None;
    for (file, _) in files.iter().filter(|(file, _)| file != SUMS) {
        let source = Source::file(folder, file)?;
        let transfer = Transfer::new(place, &name, &source, patience, &mut *show);
        there.push(Shipped {
            sha256: transfer.run(&mut connection).await?,
            bytes: source.len,
            name: source.name,
        });
    }
    let sums = there
        .iter()
        .map(|file| format!("{}  {}\n", file.sha256, file.name));
    let sums = Source::text(SUMS, sums.collect());
    let transfer = Transfer::new(place, &name, &sums, patience, &mut *show);
    transfer.run(&mut connection).await?;
    let bytes = there
        .iter()
        .fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let shipment = Shipment {
        url: place.name.clone(),
        at: at.map_or(0, |at| at.as_secs()),
        files: there,
    };
    shipped::note(folder, shipment)?;
    Ok(bytes)
}

fn local(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> kdraw::error::Error {
    kdraw::error::Error::io(action, path)
}
