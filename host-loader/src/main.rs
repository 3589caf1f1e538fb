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
                eprintln!("kdraw: {}", told(&error));
                ExitCode::from(exit::TROUBLE)
            }
        },
    }
}

/// An error and its causes, each once: many tell their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.ends_with(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.extend([colon, &cause]);
        }
    }
    text
}
