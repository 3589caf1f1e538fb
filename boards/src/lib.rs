//! From a device tree to the machine that the payload runs on.
//!
//! The payload is handed a flattened device tree by whatever loaded it, and believes nothing in
//! it. Three steps, each in a file of its own:
//!
//! 1. [`guard`] walks the whole blob once and refuses whatever is malformed, so that the `fdt`
//!    crate behind it can neither panic nor loop.
//! 2. `tree` makes the few kinds of lookup that are needed, on the `fdt` crate.
//! 3. [`machine`] asks the questions: where is the crash region, the console, the disk?
//!
//! Which boards there are is in a file per family, such as [`qemu_virt`]. Which compatible string
//! means which driver is in a table per kind of device, [`sd`], [`uarts`], [`watchdogs`], since
//! families share them. The support table is in this folder's README.md.
//!
//! What must not live here: register access, drivers, anything that changes memory.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(test)]
extern crate std;

pub mod allwinner;
pub mod amlogic;
pub mod arm_reference;
pub mod device;
pub mod error;
pub mod family;
pub mod guard;
pub mod imx;
pub mod machine;
pub mod marvell;
pub mod qemu_virt;
pub mod qualcomm;
pub mod raspberry_pi;
pub mod rockchip;
pub mod sd;
pub mod sdhci;
pub mod tegra;
pub mod ti_k3;
mod tree;
pub mod uarts;
pub mod watchdogs;
pub mod zynqmp;

pub use device::Device;
pub use error::Error;
pub use family::{ConsoleKind, ControllerKind, Family, Tier, console_kind, controller_kind};
pub use machine::{
    Conduit, Console, Controller, Cpu, EnableMethod, Machine, PciHost, PciSpace, PciWindow, Psci,
    SdHost, Watchdog,
};
pub use sd::SdKind;
pub use sdhci::SdhciQuirks;
pub use watchdogs::{WatchdogKind, watchdog_kind};
