//! Watchdogs: timers that reset the board unless they are petted in time.
//!
//! They are used as the crashed kernel left them. One that runs is petted; its timeout stays, but
//! for the BCM2835's, which cannot be asked for it. One that does not run is left alone, until the
//! board is to be reset by it. No function waits.
//!
//! What petting and resetting mean is a handful of register accesses each: one file per device.

mod bcm2835;
mod cadence;
mod designware;
pub mod i6300esb;
mod imx;
mod meson;
mod rti;
mod sbsa;
mod sp805;
mod sunxi;

pub use imx::Imx;

use crate::registers::Registers;

/// Which watchdog it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// The power management block of Broadcom's BCM2835 and its descendants.
    Bcm2835,
    /// Synopsys DesignWare's.
    DesignWare,
    /// NXP's, of i.MX and Layerscape.
    Imx(Imx),
    /// TI's real time interrupt module.
    Rti,
    /// Cadence's.
    Cadence,
    /// Allwinner's.
    Sunxi,
    /// Amlogic's.
    Meson,
    /// Arm's generic one, of SBSA and BSA; its second range is the refresh frame.
    Sbsa,
    /// Arm's SP805.
    Sp805,
    /// Intel's 6300ESB on PCI; its second range is the configuration space.
    I6300esb,
}

/// A watchdog.
#[derive(Debug)]
pub struct Watchdog<R> {
    model: Model,
    registers: R,
    /// The second range, of those that have one.
    second: Option<R>,
}

impl<R: Registers> Watchdog<R> {
    /// Uses the watchdog behind `registers`, and `second` if the model has two ranges. Changes
    /// nothing.
    pub const fn new(model: Model, registers: R, second: Option<R>) -> Self {
        Self {
            model,
            registers,
            second,
        }
    }

    /// Whether it counts, and resets the board at the end.
    pub fn is_running(&self) -> bool {
        let registers = &self.registers;
        match self.model {
            Model::Bcm2835 => bcm2835::is_running(registers),
            Model::DesignWare => designware::is_running(registers),
            Model::Imx(imx) => imx.is_running(registers),
            Model::Rti => rti::is_running(registers),
            Model::Cadence => cadence::is_running(registers),
            Model::Sunxi => sunxi::is_running(registers),
            Model::Meson => meson::is_running(registers),
            Model::Sbsa => sbsa::is_running(registers),
            Model::Sp805 => sp805::is_running(registers),
            Model::I6300esb => self.second.as_ref().is_some_and(i6300esb::is_running),
        }
    }

    /// Begins its time anew, if it is running. One with a window in which it may be petted (TI's)
    /// is left alone outside of it.
    pub fn pet(&self) {
        let registers = &self.registers;
        match (self.model, &self.second) {
            (Model::Bcm2835, _) => bcm2835::pet(registers),
            (Model::DesignWare, _) => designware::pet(registers),
            (Model::Imx(imx), _) => imx.pet(registers),
            (Model::Rti, _) => rti::pet(registers),
            (Model::Cadence, _) => cadence::pet(registers),
            (Model::Sunxi, _) => sunxi::pet(registers),
            (Model::Meson, _) => meson::pet(registers),
            (Model::Sbsa, Some(refresh)) => sbsa::pet(refresh),
            (Model::Sp805, _) => sp805::pet(registers),
            (Model::I6300esb, _) => i6300esb::pet(registers),
            (Model::Sbsa, None) => {}
        }
    }

    /// Has it reset the board, within a second; starts it if it is not running.
    pub fn reset(&self) {
        let registers = &self.registers;
        match (self.model, &self.second) {
            (Model::Bcm2835, _) => bcm2835::reset(registers),
            (Model::DesignWare, _) => designware::reset(registers),
            (Model::Imx(imx), _) => imx.reset(registers),
            (Model::Rti, _) => rti::reset(registers),
            (Model::Cadence, _) => cadence::reset(registers),
            (Model::Sunxi, _) => sunxi::reset(registers),
            (Model::Meson, _) => meson::reset(registers),
            (Model::Sbsa, _) => sbsa::reset(registers),
            (Model::Sp805, _) => sp805::reset(registers),
            (Model::I6300esb, Some(config)) => i6300esb::reset(registers, config),
            (Model::I6300esb, None) => {}
        }
    }
}

#[cfg(test)]
mod tests;
