//! The command line: every command's options, and what runs it.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::commands;
use crate::exit::{self, Verdict};
use crate::system::System;

/// Captures the memory of a panicking arm64 Linux, and gets it back.
///
/// On the board: `kdraw reserve` has the boot loader reserve memory, `kdraw format` signs a
/// partition, both once; `kdraw load` arms the capture after each boot; `kdraw check` tells what
/// is missing. After a panic the board resets; then `kdraw extract` saves the vmcore.
#[derive(Parser)]
#[command(name = "kdraw", version, long_version = crate::payload::long_version(), after_help = exit::HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Reads /proc, /sys and /dev below this folder (tests).
    #[arg(long, global = true, hide = true, default_value = "/")]
    sysroot: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    Check(commands::check::Args),
    Reserve(commands::reserve::Args),
    Format(commands::format::Args),
    Estimate(commands::estimate::Args),
    Load(commands::load::Args),
    Unload(commands::unload::Args),
    Status(commands::status::Args),
    Test(commands::test::Args),
    List(commands::list::Args),
    Info(commands::info::Args),
    Extract(commands::extract::Args),
    Save(commands::save::Args),
    Ship(commands::ship::Args),
    Convert(commands::convert::Args),
    Open(commands::open::Args),
    Verify(commands::verify::Args),
    Report(commands::report::Args),
    Log(commands::log::Args),
    Bt(commands::bt::Args),
    Dis(commands::dis::Args),
    Sym(commands::sym::Args),
    Read(commands::read::Args),
    Struct(commands::layout::Args),
    Mem(commands::mem::Args),
    Mods(commands::mods::Args),
    Ps(commands::ps::Args),
    Files(commands::files::Args),
    Vm(commands::vm::Args),
    Irq(commands::irq::Args),
    Mounts(commands::mounts::Args),
    Net(commands::net::Args),
    Receive(commands::receive::Args),
    Plan(commands::plan::Args),
    Payload(commands::payload::Args),
}

impl Cli {
    /// The options of `kdraw ship`, for the program that does it, if that is the command.
    pub fn ship(self) -> Option<(commands::ship::Args, System)> {
        match self.command {
            Command::Ship(args) => Some((args, System::new(self.sysroot))),
            _ => None,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What keeps it from being done; wrong usage that shows late as a [`clap::Error`].
pub fn run(cli: Cli) -> Result<Verdict> {
    let system = System::new(cli.sysroot);
    match cli.command {
        Command::Reserve(args) => commands::reserve::run(&args, &system),
        Command::Check(args) => commands::check::run(&args, &system),
        Command::Format(args) => commands::format::run(&args, &system),
        Command::Estimate(args) => commands::estimate::run(&args, &system),
        Command::Load(args) => commands::load::run(&args, &system),
        Command::Unload(args) => commands::unload::run(&args, &system),
        Command::Status(args) => commands::status::run(&args, &system),
        Command::Test(args) => commands::test::run(&args, &system),
        Command::List(args) => commands::list::run(&args, &system),
        Command::Info(args) => commands::info::run(&args, &system),
        Command::Extract(args) => commands::extract::run(&args, &system),
        Command::Save(args) => commands::save::run(&args, &system),
        Command::Ship(_) => commands::ship::run(),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Open(args) => commands::open::run(&args, &system),
        Command::Verify(args) => commands::verify::run(&args, &system),
        Command::Report(args) => commands::report::run(&args, &system),
        Command::Log(args) => commands::log::run(&args, &system),
        Command::Bt(args) => commands::bt::run(&args, &system),
        Command::Dis(args) => commands::dis::run(&args, &system),
        Command::Sym(args) => commands::sym::run(&args, &system),
        Command::Read(args) => commands::read::run(&args, &system),
        Command::Struct(args) => commands::layout::run(&args, &system),
        Command::Mem(args) => commands::mem::run(&args, &system),
        Command::Mods(args) => commands::mods::run(&args, &system),
        Command::Ps(args) => commands::ps::run(&args, &system),
        Command::Files(args) => commands::files::run(&args, &system),
        Command::Vm(args) => commands::vm::run(&args, &system),
        Command::Irq(args) => commands::irq::run(&args, &system),
        Command::Mounts(args) => commands::mounts::run(&args, &system),
        Command::Net(args) => commands::net::run(&args, &system),
        Command::Receive(args) => commands::receive::run(&args),
        Command::Plan(args) => commands::plan::run(&args, &system),
        Command::Payload(args) => commands::payload::run(&args, &system),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_teaches_by_an_example() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        for command in cli
            .get_subcommands()
            .filter(|found| found.get_name() != "help")
        {
            let help = command.clone().render_long_help().to_string();
            let (_, examples) = help.split_once("Example").unwrap_or_default();
            let typed = format!("kdraw {}", command.get_name());
            assert!(examples.contains(&typed), "{}", command.get_name());
        }
    }
}
