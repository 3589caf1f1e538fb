//! Loads and copies at any alignment, each by the instruction that does it.
//!
//! The compiler makes byte loads of them: its target has to work without an MMU too. Here the MMU
//! is on, memory is Normal and SCTLR_ELx.A is clear (entry.s), so the CPU takes any alignment (Arm
//! ARM B2.8.2).

use core::arch::asm;

use kdraw_pipeline::lz4::Unaligned;

/// Single instructions.
#[derive(Clone, Copy, Debug)]
pub struct SingleAccess;

impl Unaligned for SingleAccess {
    #[inline(always)]
    fn load(bytes: &[u8; 8]) -> u64 {
        let value;
        // SAFETY: it reads the eight bytes behind a reference, and changes one register.
        unsafe {
            asm!(
                "ldr {value}, [{from}]",
                from = in(reg) bytes,
                value = out(reg) value,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value
    }

    #[inline(always)]
    fn copy(from: &[u8; 32], to: &mut [u8; 32]) {
        // SAFETY: it reads 32 bytes behind one reference, writes those behind the other, and
        // changes two registers.
        unsafe {
            asm!(
                "ldp {low:q}, {high:q}, [{from}]",
                "stp {low:q}, {high:q}, [{to}]",
                from = in(reg) from,
                to = in(reg) to,
                low = out(vreg) _,
                high = out(vreg) _,
                options(nostack, preserves_flags),
            );
        }
    }
}
