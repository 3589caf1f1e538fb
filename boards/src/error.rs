//! Why a question to the device tree has no answer.

use crate::guard::GuardError;
use thiserror::Error;

/// Why the device tree, or one thing in it, cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The blob is malformed.
    #[error(transparent)]
    Malformed(#[from] GuardError),
    /// The `fdt` crate stumbled over a blob that the guard let through: our bug.
    #[error("device tree: the parser failed on a tree that was checked (a bug in kdraw)")]
    Parser,
    /// A path does not start with a slash.
    #[error("device tree: a node's path must start with '/'")]
    Path,
    /// No node has this path.
    #[error("device tree: no node has the path asked for")]
    NoNode,
    /// A required property is missing.
    #[error("device tree: property {property} is missing")]
    Missing {
        /// Its name.
        property: &'static str,
    },
    /// A property's length does not fit what it must hold.
    #[error(
        "device tree: property {property} has {len} bytes, which is no whole number of entries"
    )]
    Shape {
        /// Its name.
        property: &'static str,
        /// The length of its value in bytes.
        len: usize,
    },
    /// A property's value makes no sense.
    #[error("device tree: property {property} has the impossible value {value:#x}")]
    Value {
        /// Its name.
        property: &'static str,
        /// The value, or the part of it that is wrong.
        value: u64,
    },
    /// A device, or a bus on the way to it, is switched off.
    #[error("device tree: the device's status, or that of a bus above it, is not \"okay\"")]
    Disabled,
    /// None of a device's compatible strings has a driver.
    #[error(
        "device tree: the payload has no driver for the device; see the support table in boards/README.md"
    )]
    NoDriver,
    /// A device's registers are not visible to the CPU.
    #[error("device tree: no bus above the device maps its address {address:#x} for the CPU")]
    NotMapped {
        /// The address on the device's bus, or on the bus at which the translation ended.
        address: u64,
    },
    /// There is no PSCI node: CPUs cannot be started and the machine not reset this way.
    #[error("device tree: no PSCI firmware is described")]
    NoPsci,
}

// The parser's own errors say less than the guard's, and none can occur behind it.
impl From<fdt::FdtError> for Error {
    fn from(_: fdt::FdtError) -> Self {
        Self::Parser
    }
}
