//! `kdraw net`: network devices and their addresses.

use anyhow::Result;
use kdraw_kernel::net::{self, Device};
use serde::Serialize;

use super::dump_args::DumpArgs;
use crate::exit::Verdict;
use crate::inside::readable;
use crate::system::System;

/// List network devices and their addresses.
///
/// Those of the first network namespace, with the `struct net_device` of each, whether it was set
/// up, its operational state as ip(8) shows it, largest packet, hardware address, and addresses
/// with the bits of their networks. Exit code 1 if a device is absent.
#[derive(clap::Args)]
#[command(after_help = "Example: kdraw net vmcore")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What is shown.
#[derive(Serialize)]
struct Shown {
    devices: Vec<Line>,
    /// What could not be read.
    lost: Vec<String>,
}

/// A device.
#[derive(Serialize)]
struct Line {
    /// Its `struct net_device`.
    device: u64,
    name: String,
    index: u64,
    up: bool,
    state: &'static str,
    mtu: u64,
    mac: Option<String>,
    addresses: Vec<String>,
}

impl Line {
    fn new(device: Device) -> Self {
        let hardware = device.hardware.iter().map(|byte| format!("{byte:02x}"));
        let hardware: Vec<_> = hardware.collect();
        let addresses = device.addresses.iter();
        Self {
            device: device.device,
            name: device.name,
            index: device.index,
            up: device.is_up,
            state: device.state,
            mtu: device.mtu,
            mac: (!hardware.is_empty()).then(|| hardware.join(":")),
            addresses: addresses
                .map(|(address, bits)| format!("{address}/{bits}"))
                .collect(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the devices cannot be found.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let (devices, lost) = readable(net::read(kernel)?);
        let devices = devices.into_iter().map(Line::new).collect();
        let shown = Shown { devices, lost };
        if args.json {
            println!("{}", serde_json::to_string_pretty(&shown)?);
        } else {
            print(&shown);
        }
        Ok(Verdict::from_good(shown.lost.is_empty()))
    })
}

fn print(shown: &Shown) {
    println!(
        "{:<16}  {:>3}  {:<15}  {:<4}  {:<14}  {:>6}  {:<17}  ADDRESSES",
        "NET_DEVICE", "NO", "NAME", "SET", "STATE", "MTU", "MAC"
    );
    for line in &shown.devices {
        let shown = format!(
            "{:016x}  {:>3}  {:<15}  {:<4}  {:<14}  {:>6}  {:<17}  {}",
            line.device,
            line.index,
            line.name,
            if line.up { "up" } else { "down" },
            line.state,
            line.mtu,
            line.mac.as_deref().unwrap_or("-"),
            line.addresses.join(" ")
        );
        println!("{}", shown.trim_end());
    }
    for lost in &shown.lost {
        println!("absent: {lost}");
    }
}
