//! `kdraw`: crash capture for arm64 boards.

use std::process::ExitCode;

use clap::Parser;
use kdraw::cli::{self, Cli};
use kdraw::exit;

fn main() -> ExitCode {
    kdraw::sys::end_with_reader();
    match cli::run(Cli::parse()) {
        Ok(verdict) => verdict.into(),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(usage) => usage.exit(),
            Err(error) => {
                eprintln!("kdraw: {error:#}");
                ExitCode::from(exit::TROUBLE)
            }
        },
    }
}
