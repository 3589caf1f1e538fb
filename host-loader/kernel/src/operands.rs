//! Variables that a function reads.
//!
//! Kernels without `CONFIG_KALLSYMS_ALL` name their functions but not their variables. Compilers
//! reach a variable by ADRP, which makes the address of its 4 KiB, and an ADD or a load with the
//! rest. The function is gone through from its first instruction along all branches, each
//! instruction once, with what is known of the registers. What comes out is where to look, to be
//! checked by who asks.
//!
//! Source: Arm Architecture Reference Manual (DDI 0487), C4.1 and C6.2: ADRP, ADD (immediate),
//! LDR and LDRSW (immediate, unsigned offset), branches; AAPCS64, 6.1.1: a call keeps x19 to x28.

use kdraw_format::addr::KernelVirtAddr;

use crate::Kernel;
use crate::read::Piecewise;

/// The most bytes of a function that are looked at.
const MAX_CODE: usize = 4096;

/// What a function does with a variable's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// Makes it, for whatever.
    Address(u64),
    /// Loads so many bytes from it.
    Load(u64, u32),
}

/// The operands of a function, each once.
pub(crate) fn of(kernel: &Kernel<'_>, function: &str) -> Vec<Operand> {
    let Some(symbol) = kernel.symbols().named(function).next() else {
        return Vec::new();
    };
    let len = MAX_CODE.min(usize::try_from(symbol.size).unwrap_or(MAX_CODE));
    let start = KernelVirtAddr(symbol.address);
    let code = Piecewise::new(kernel.virt(), start).up_to(len);
    let words = code.as_chunks::<4>().0.iter().copied();
    let words: Vec<_> = words.map(u32::from_le_bytes).collect();
    found_in(symbol.address, &words)
}

/// What is known of the registers.
type Registers = [Option<u64>; 32];

/// Bits of an instruction, from `first` on.
fn bits(word: u32, first: u32, count: u32) -> u32 {
    let mask = 1u32.wrapping_shl(count).wrapping_sub(1);
    word.wrapping_shr(first) & mask
}

/// A number of `count` bits with a sign, from `first` on.
fn signed(word: u32, first: u32, count: u32) -> u64 {
    let sign = 1u64.wrapping_shl(count.wrapping_sub(1));
    (u64::from(bits(word, first, count)) ^ sign).wrapping_sub(sign)
}

fn found_in(start: u64, words: &[u32]) -> Vec<Operand> {
    let mut found = Vec::new();
    let mut seen = vec![false; words.len()];
    let mut rest: Vec<(u64, Registers)> = vec![(start, [None; 32])];
    while let Some((mut at, mut registers)) = rest.pop() {
        loop {
            let index = (at.wrapping_sub(start) / 4) as usize;
            let (Some(word), Some(seen)) = (words.get(index), seen.get_mut(index)) else {
                break;
            };
            if std::mem::replace(seen, true) {
                break;
            }
            let here = at;
            let target = |first, count| here.wrapping_add(signed(*word, first, count) << 2);
            at = here.wrapping_add(4);
            match *word {
                // B
                word if word & 0xfc00_0000 == 0x1400_0000 => at = target(0, 26),
                // BL, BLR
                word if word & 0xfc00_0000 == 0x9400_0000 => call(&mut registers),
                word if word & 0xffff_fc00 == 0xd63f_0000 => call(&mut registers),
                // RET, BR and others that do not come back; BRK, a BUG()
                word if word & 0xfe00_0000 == 0xd600_0000 => break,
                word if word & 0xffe0_0000 == 0xd420_0000 => break,
                // B.cond; CBZ, CBNZ; TBZ, TBNZ
                word if word & 0xff00_0000 == 0x5400_0000 => rest.push((target(5, 19), registers)),
                word if word & 0x7e00_0000 == 0x3400_0000 => rest.push((target(5, 19), registers)),
                word if word & 0x7e00_0000 == 0x3600_0000 => rest.push((target(5, 14), registers)),
                // What belongs to the system writes no register that is followed.
                word if word & 0xff00_0000 == 0xd500_0000 => {}
                word => {
                    let operand = step(here, word, &mut registers);
                    found.extend(operand.filter(|operand| !found.contains(operand)));
                }
            }
        }
    }
    found
}

/// Forgets what a call need not keep.
fn call(registers: &mut Registers) {
    let lost = registers.iter_mut().take(19);
    lost.for_each(|known| *known = None);
}

/// Does what an instruction does that branches nowhere, as far as that is known.
fn step(at: u64, word: u32, registers: &mut Registers) -> Option<Operand> {
    let base = registers.get(bits(word, 5, 5) as usize).copied().flatten();
    let immediate = u64::from(bits(word, 10, 12));
    let load = |size: u32| {
        let offset = immediate.wrapping_mul(size.into());
        base.map(|base| Operand::Load(base.wrapping_add(offset), size))
    };
    let (made, operand) = match word {
        // ADRP: the low two of its 21 bits are apart from the others.
        _ if word & 0x9f00_0000 == 0x9000_0000 => {
            let pages = signed(word, 5, 19) << 2 | u64::from(bits(word, 29, 2));
            let page = (at & !0xfff).wrapping_add(pages << 12);
            (Some(page), None)
        }
        // ADD, 64 bits
        _ if word & 0xff80_0000 == 0x9100_0000 => {
            let shift = bits(word, 22, 1).wrapping_mul(12);
            let made = base.map(|base| base.wrapping_add(immediate.wrapping_shl(shift)));
            (made, made.map(Operand::Address))
        }
        // LDR, of 64 and of 32 bits; LDRSW
        _ if word & 0xffc0_0000 == 0xf940_0000 => (None, load(8)),
        _ if word & 0xffc0_0000 == 0xb940_0000 => (None, load(4)),
        _ if word & 0xffc0_0000 == 0xb980_0000 => (None, load(4)),
        // Whatever it is, it may write the register that is named last.
        _ => (None, None),
    };
    if let Some(register) = registers.get_mut(bits(word, 0, 5) as usize) {
        *register = made;
    }
    operand
}

/// The addresses that are loaded from with one size.
pub(crate) fn loads(operands: &[Operand], wanted: u32) -> Vec<u64> {
    let loads = operands.iter().filter_map(|operand| match operand {
        Operand::Load(address, size) if *size == wanted => Some(*address),
        _ => None,
    });
    loads.collect()
}

/// The only one there is.
pub(crate) fn only(candidates: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut candidates = candidates.into_iter();
    let only = candidates.next()?;
    candidates.next().is_none().then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_found_along_all_branches() {
        // vm_commit_limit() of Debian's 6.1.192, without what does not matter.
        let start = 0xffff_8000_082e_7540;
        let code = [
            0x9000_cec0, // adrp  x0, ffff800009cbf000
            0x910003fd,  // mov   x29, sp
            0xa90153f3,  // stp   x19, x20, [sp, #16]
            0x9113e014,  // add   x20, x0, #0x4f8
            0xf9427c00,  // ldr   x0, [x0, #1272]
            0xb4000120,  // cbz   x0, ffff8000082e7578
            0xb000e681,  // adrp  x1, ffff800009fb8000
            0xd342fc00,  // lsr   x0, x0, #2
            0xa94153f4,  // ldp   x20, x19, [sp, #16]
            0xf9415421,  // ldr   x1, [x1, #680]
            0xa8c27bfd,  // ldp   x29, x30, [sp], #32
            0xd50323bf,  // autiasp
            0x8b010000,  // add   x0, x0, x1
            0xd65f03c0,  // ret
            0x9000cec0,  // adrp  x0, ffff800009cbf000
            0xf942c813,  // ldr   x19, [x0, #1424]
            0x9401c1c4,  // bl    ffff800008357c90
            0xb9800e82,  // ldrsw x2, [x20, #12]
            0xb9400c02,  // ldr   w2, [x0, #12]: unknown after the call
        ];
        let found = found_in(start, &code);
        assert_eq!(
            loads(&found, 8),
            [
                0xffff_8000_09cb_f4f8,
                0xffff_8000_09fb_82a8,
                0xffff_8000_09cb_f590
            ]
        );
        assert_eq!(only(loads(&found, 4)), Some(0xffff_8000_09cb_f504));
        assert!(found.contains(&Operand::Address(0xffff_8000_09cb_f4f8)));
        // adrp x1, two pages back; ldr w1, [x1, #4]; b to itself
        let back = [0xd0ff_ffe1, 0xb940_0421, 0x1400_0000];
        assert_eq!(found_in(0x5008, &back), [Operand::Load(0x3004, 4)]);
        // A branch to nowhere, and one back and forth.
        assert_eq!(found_in(0x5008, &[0x17ff_0000]), []);
        assert_eq!(found_in(0x5008, &[0x1400_0001, 0x17ff_ffff]), []);
    }
}
