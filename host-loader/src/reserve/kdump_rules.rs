//! What kdump would reserve on an arm64 machine, by the rules that its packages ship.

use serde::Serialize;

use super::crashkernel::{self, NAME, Taken};

/// The default of one distribution.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rule {
    /// Whose.
    pub system: &'static str,
    /// The value of `crashkernel=`.
    pub value: &'static str,
    /// Which package or script has it.
    pub source: &'static str,
}

/// The defaults, smallest first.
pub const RULES: [Rule; 3] = [
    Rule {
        system: "Debian",
        value: "384M-:128M",
        source: "kdump-tools 1:1.8.1, /etc/default/grub.d/kdump-tools.cfg",
    },
    // For kernels with 4 KiB pages; with 64 KiB pages 100 MiB more from 4 GiB on.
    Rule {
        system: "Fedora, RHEL",
        value: "2G-4G:256M,4G-64G:320M,64G-:576M",
        source: "kdump-utils, kdump_get_arch_recommend_crashkernel in kdump-lib.sh",
    },
    // On by default since 24.10 on arm64 machines with UEFI and 6 GB.
    Rule {
        system: "Ubuntu",
        value: "2G-4G:320M,4G-32G:512M,32G-64G:1024M,64G-128G:2048M,128G-:4096M",
        source: "kdump-tools since Ubuntu 24.10",
    },
];

impl Rule {
    /// What it reserves on a machine with `ram` bytes of memory; 0 if nothing.
    pub fn reserves(&self, ram: u64) -> u64 {
        match crashkernel::taken(&format!("{NAME}{}", self.value), ram) {
            Taken::Reserved(reservation) => reservation.size,
            Taken::Absent | Taken::Ignored(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_give_their_published_figures() {
        const GIB: u64 = 1 << 30;
        for (ram, expected) in [
            (GIB / 4, [0, 0, 0]),
            (GIB, [128, 0, 0]),
            (2 * GIB, [128, 256, 320]),
            (4 * GIB, [128, 320, 512]),
            (64 * GIB, [128, 576, 2048]),
            (256 * GIB, [128, 576, 4096]),
        ] {
            let found = RULES.map(|rule| rule.reserves(ram) >> 20);
            assert_eq!(found, expected, "{ram}");
        }
    }
}
