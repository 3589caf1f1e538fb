//! Debian's u-boot-menu: `U_BOOT_PARAMETERS`, from which u-boot-update writes extlinux.conf.
//!
//! It sources /etc/default/u-boot, then the fragments in /usr/share and in /etc. Where none of
//! them sets the variable it takes /etc/kernel/cmdline, or else `ro quiet`. Source:
//! u-boot-update(8) of u-boot-menu 4.2.2.

use super::kernel_install::{self, KernelInstall};
use super::proposal::Proposal;
use super::root::Root;
use super::shell::{self, Sourced};
use super::{Afterwards, BootLoader};
use crate::error::Error;

const DEFAULTS: &str = "/etc/default/u-boot";
const OF_PACKAGES: &str = "/usr/share/u-boot-menu/conf.d";
const MORE: &str = "/etc/u-boot-menu/conf.d";
const VARIABLE: &str = "U_BOOT_PARAMETERS";

/// The boot loader's menu.
pub struct UBootMenu;

impl BootLoader for UBootMenu {
    fn name(&self) -> &'static str {
        "u-boot-menu"
    }

    fn files(&self, root: &Root) -> Vec<String> {
        let mut files = sourced(root);
        files.push(kernel_install::FILE.to_owned());
        files
    }

    fn propose(&self, root: &Root, value: &str) -> Result<Vec<Proposal>, Error> {
        if !root.has(DEFAULTS) {
            return Ok(Vec::new());
        }
        let files = sourced(root);
        let mut set_by = None;
        for path in &files {
            if let Some(found) = root.read(path)?
                && shell::assigns(&found.bytes, VARIABLE)
            {
                set_by = Some(path);
            }
        }
        if set_by.is_none() && root.has(kernel_install::FILE) {
            return KernelInstall.propose(root, value);
        }
        let by_package = set_by.is_some_and(|path| path.starts_with(OF_PACKAGES));
        let sourced = Sourced {
            variables: &[VARIABLE],
            add_to: VARIABLE,
            default: "ro quiet",
            drop_in: by_package.then(|| format!("{MORE}/zz-kdraw.conf")),
            files,
        };
        shell::propose(root, &sourced, value)
    }

    fn afterwards(&self, root: &Root) -> Option<Afterwards> {
        let used = root.has(DEFAULTS);
        used.then(|| Afterwards::run(&["u-boot-update"]))
    }
}

/// The files that it sources, in that order.
fn sourced(root: &Root) -> Vec<String> {
    let mut files = vec![DEFAULTS.to_owned()];
    files.extend(root.list(OF_PACKAGES, ".conf"));
    files.extend(root.list(MORE, ".conf"));
    files
}
