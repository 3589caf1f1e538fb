//! A node of the tree, and what it is to the payload.

use crate::error::Error;
use crate::family;
use crate::machine::{self, Console, Controller, Watchdog};
use crate::tree::{self, Lineage};
use crate::watchdogs::watchdog_kind;

/// A node and the buses above it.
#[derive(Clone)]
pub struct Device<'a>(pub(crate) Lineage<'a>);

impl<'a> Device<'a> {
    /// Its name with the unit address, such as `mmc@fe330000`; empty for the root.
    pub fn name(&self) -> (&'a str, Option<&'a str>) {
        let name = self.0.node().name().ok();
        name.map_or(("", None), |name| (name.name, name.unit_address))
    }

    /// Iterates over its compatible strings, the most specific first.
    pub fn compatible(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        tree::strings(self.0.node(), "compatible")
    }

    /// Whether it and every bus above it is switched on.
    pub fn is_enabled(&self) -> bool {
        self.0.check_enabled().is_ok()
    }

    /// Whether it is an SD host that holds no card but a function on SDIO, mostly a radio: it
    /// forbids both kinds of cards, or has the function as a child (binding
    /// `mmc/mmc-controller.yaml`; a soldered card may be a child too, `mmc/mmc-card.yaml`).
    pub fn is_sdio_only(&self) -> bool {
        let node = self.0.node();
        let forbids = |name| tree::property(node, name).is_some();
        let is_function = |child| {
            tree::property(child, "reg").is_some()
                && tree::strings(child, "compatible").all(|name| name != "mmc-card")
        };
        (forbids("no-sd") && forbids("no-mmc")) || tree::children(Some(node)).any(is_function)
    }

    /// Finds a driver for it.
    fn driver<T>(&self, kind: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
        // First what most nodes fail at.
        let kind = self.compatible().find_map(kind).ok_or(Error::NoDriver)?;
        self.0.check_enabled()?;
        Ok(kind)
    }

    /// Describes it as a storage controller.
    ///
    /// # Errors
    /// [`Error::NoDriver`] or [`Error::Disabled`] if it cannot be used, and whatever is wrong with
    /// its properties.
    pub fn controller(&self) -> Result<Controller, Error> {
        machine::controller(&self.0, self.driver(family::controller_kind)?)
    }

    /// Describes it as a UART.
    ///
    /// # Errors
    /// As [`Device::controller`].
    pub fn uart(&self) -> Result<Console, Error> {
        machine::uart(&self.0, self.driver(family::console_kind)?)
    }

    /// Describes it as a watchdog.
    ///
    /// # Errors
    /// As [`Device::controller`].
    pub fn watchdog(&self) -> Result<Watchdog, Error> {
        machine::watchdog(&self.0, self.driver(watchdog_kind)?)
    }
}
