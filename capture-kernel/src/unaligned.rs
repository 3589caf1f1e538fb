//! Loads and copies at any alignment, each by the instruction that does it.
//!
//! The compiler makes byte loads of them: its target has to work without an MMU too. Here the MMU
//! is on, memory is Normal and SCTLR_ELx.A is clear (entry.s), so the CPU takes any alignment (Arm
//! ARM B2.8.2).

use core::arch::asm;

use kdraw_pipeline::lz4::{COPY, Unaligned};

/// Single instructions.
#[derive(Clone, Copy, Debug)]
pub struct SingleAccess;

impl Unaligned for SingleAccess {
    #[inline(always)]
    fn load(bytes: &[u8], at: usize) -> Option<u64> {
        if at > bytes.len().checked_sub(size_of::<u64>())? {
            return None;
        }
        let value;
        // SAFETY: the slice has eight bytes from `at` on, by the comparison above; it reads them
        // and changes one register.
        unsafe {
            asm!(
                "ldr {value}, [{from}, {at}]",
                from = in(reg) bytes.as_ptr(),
                at = in(reg) at,
                value = lateout(reg) value,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        Some(value)
    }

    #[inline(always)]
    fn copy(from: &[u8; COPY], to: &mut [u8; COPY]) {
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

    #[inline(always)]
    fn hide(mut value: usize) -> usize {
        // SAFETY: no instruction: it leaves memory and registers as they are.
        unsafe {
            asm!(
                "/* {value} */",
                value = inout(reg) value,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        value
    }
}

const _: () = assert!(COPY == 32);
