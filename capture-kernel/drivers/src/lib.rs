#![no_std]
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
//! Polled, bounded device drivers for the capture kernel.
//!
//! Here lives what knows registers: block devices, UARTs and watchdogs. What a dump is, and which
//! device sits where, is somebody else's business ([`kdraw_pipeline`] and `kdraw-boards`).
//!
//! Rules that every driver here keeps:
//! - The device was left running by a dead kernel: it is reset first, before any of its
//!   memory is reused. An SD card's bus may stay as it runs; its controller's data engine may not.
//! - No interrupts, no heap, no locks. Every wait has a deadline; `start` and `poll` of a
//!   [`BlockDevice`](kdraw_pipeline::ports::BlockDevice) never wait.
//! - What a device says is an allegation: ring entries, sizes and capabilities are checked
//!   before use, and nonsense ends in a
//!   [`DeviceError`](kdraw_pipeline::ports::DeviceError).
//! - Drivers see hardware through the [`registers::Registers`] trait only, so the same code
//!   plays against fake devices in tests. `unsafe` stands in [`mmio`] and [`dma`] alone.

pub mod barrier;
pub mod disk;
pub mod dma;
pub mod line;
pub mod mmio;
pub mod nvme;
pub mod pci;
pub mod registers;
pub mod sd;
pub mod uart;
pub mod virtio;
pub mod watchdog;

use kdraw_pipeline::ports::{Clock, Deadline};

/// Polls `condition` until it holds; false if `deadline` passed first.
///
/// The condition is asked at least once, and once more after the deadline, so that a CPU
/// that was held up does not blame the device.
fn wait_until(clock: &dyn Clock, deadline: Deadline, mut condition: impl FnMut() -> bool) -> bool {
    while !condition() {
        if deadline.passed(clock) {
            return condition();
        }
        core::hint::spin_loop();
    }
    true
}
