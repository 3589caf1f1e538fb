//! Arm's own: the Juno board, and the FVP and Foundation models.
//!
//! - Storage: NVMe on PCI (Juno from its second revision, r1, on; FVP). The card slot's PL180 has no
//!   driver, and the trees of the models do not say that their virtio-blk sees the CPU's caches.
//! - Console: PL011. Watchdog: SP805, or Arm's generic one. Reset: PSCI. CPUs: PSCI, but spin
//!   tables on the oldest models.
//!
//! Source: Linux arch/arm64/boot/dts/arm.

use crate::family::{Family, Tier};

/// The family's wiring.
pub const FAMILY: Family = Family {
    name: "Arm Juno, FVP",
    tier: Tier::Modelled,
    boards: &["arm,juno", "arm,fvp-base-revc", "arm,foundation-aarch64"],
    controllers: &[],
    consoles: &[],
};
