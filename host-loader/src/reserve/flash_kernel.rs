//! Debian's flash-kernel: `LINUX_KERNEL_CMDLINE`, which goes into the boot script or image that
//! flash-kernel makes. Source: flash-kernel 3.107, /usr/share/flash-kernel/functions.

use super::proposal::Proposal;
use super::root::Root;
use super::shell::{self, Sourced};
use super::{Afterwards, BootLoader};
use crate::error::Error;

const DEFAULTS: &str = "/etc/default/flash-kernel";

/// The boot loader's scripts.
pub struct FlashKernel;

impl BootLoader for FlashKernel {
    fn name(&self) -> &'static str {
        "flash-kernel"
    }

    fn files(&self, _: &Root) -> Vec<String> {
        vec![DEFAULTS.to_owned()]
    }

    fn propose(&self, root: &Root, value: &str) -> Result<Vec<Proposal>, Error> {
        if !root.has(DEFAULTS) {
            return Ok(Vec::new());
        }
        let sourced = Sourced {
            files: self.files(root),
            variables: &["LINUX_KERNEL_CMDLINE_DEFAULTS", "LINUX_KERNEL_CMDLINE"],
            add_to: "LINUX_KERNEL_CMDLINE",
            default: "",
            drop_in: None,
        };
        shell::propose(root, &sourced, value)
    }

    fn afterwards(&self, _: &Root) -> Option<Afterwards> {
        Some(Afterwards::run(&["flash-kernel"]))
    }
}
