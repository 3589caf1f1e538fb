//! GRUB's defaults: /etc/default/grub and, where the distribution reads them, the files of
//! /etc/default/grub.d, of which kdump-tools brings one.
//!
//! `GRUB_CMDLINE_LINUX_DEFAULT` comes last on the line of every entry but the recovery ones
//! (10_linux). It is set in a file of ours that is sourced after all others, so that the package's
//! own stays as it is; without such a folder (upstream, Fedora) in /etc/default/grub.

use super::proposal::Proposal;
use super::root::Root;
use super::shell::{self, Sourced};
use super::{Afterwards, BootLoader};
use crate::error::Error;

const DEFAULTS: &str = "/etc/default/grub";
const MORE: &str = "/etc/default/grub.d";
const OURS: &str = "/etc/default/grub.d/zz-kdraw.cfg";

/// The boot loader.
pub struct Grub;

impl BootLoader for Grub {
    fn name(&self) -> &'static str {
        "GRUB"
    }

    fn files(&self, root: &Root) -> Vec<String> {
        let mut files = vec![DEFAULTS.to_owned()];
        files.extend(root.list(MORE, ".cfg"));
        files
    }

    fn propose(&self, root: &Root, value: &str) -> Result<Vec<Proposal>, Error> {
        // grub-common, which is there without GRUB too, has files in grub.d, but not this one.
        if !root.has(DEFAULTS) {
            return Ok(Vec::new());
        }
        let sourced = Sourced {
            files: self.files(root),
            variables: &["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"],
            add_to: "GRUB_CMDLINE_LINUX_DEFAULT",
            default: "",
            drop_in: root.has_folder(MORE).then(|| OURS.to_owned()),
        };
        shell::propose(root, &sourced, value)
    }

    fn afterwards(&self, root: &Root) -> Option<Afterwards> {
        let of_fedora = root.has("/usr/sbin/grub2-mkconfig") || root.has("/boot/grub2/grub.cfg");
        Some(if of_fedora {
            Afterwards::run(&["grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"])
        } else {
            Afterwards::run(&["update-grub"])
        })
    }
}
