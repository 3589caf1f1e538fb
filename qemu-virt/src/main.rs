//! `cargo xtask`: everything that is done with kdraw on a developer's machine.
//!
//! Each subcommand lives in a module of its own; this file only names them.

use clap::{Parser, Subcommand};

mod bench;
mod board;
mod boards;
mod checks;
mod compare;
mod demo;
mod deny;
mod disk;
mod disk_bus;
mod dist;
mod e2e;
mod fuzz;
mod guest_image;
mod image;
mod kdump_file;
mod kernel_module;
mod man;
mod material;
mod memory;
mod mutants;
mod package;
mod qemu;
mod recording;
mod run;
mod scenario;
mod setup;
mod shipping;
mod test;

/// Builds kdraw, runs it against real kernels under QEMU, and prepares the machine for both.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what this machine lacks: packages, Rust targets, guest kernels.
    Setup(setup::Args),
    /// Shows the main job: a Debian kernel panics, kdraw captures it, the dump is extracted.
    Demo(demo::Args),
    /// Builds the tools and the payload into target/dist.
    Dist(dist::Args),
    /// Writes man pages and shell completions into target/man.
    Man(man::Args),
    /// Makes Debian packages and tarballs in target/package.
    Package(package::Args),
    /// Runs all tests: host tests, checks of the payload, end-to-end scenarios.
    Test(test::Args),
    /// Runs one end-to-end scenario.
    E2e(Box<e2e::Args>),
    /// Feeds what reads foreign bytes with bytes of all kinds, in search of a panic or a loop.
    Fuzz(fuzz::Args),
    /// Tells what the boards of Debian's arm64 kernel resolve to: storage, console, reset.
    Boards(boards::Args),
    /// Measures kdraw and kdump side by side.
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Setup(args) => setup::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Dist(args) => dist::main(&args),
        Command::Man(args) => man::main(&args),
        Command::Package(args) => package::main(&args),
        Command::Test(args) => test::main(&args),
        Command::E2e(args) => e2e::main(&args),
        Command::Fuzz(args) => fuzz::main(&args),
        Command::Boards(args) => boards::main(&args),
        Command::Bench(args) => bench::main(&args),
    }
}
