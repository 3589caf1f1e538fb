//! The exception that ended the kernel: which address, and what was done to it.
//!
//! The log tells it. Where it does not, the interrupted instruction and the registers do, as far
//! as it is a BRK, or a load or store of one of the common forms.
//!
//! Source: Arm ARM C4.1.94 (loads and stores), C6.2 (BRK, UDF); `arch/arm64/include/asm/brk-imm.h`.

use kdraw_linux::notes::Registers;

use super::kind::{Kind, error_number};
use crate::Kernel;
use crate::exception::Oops;

/// The first page: what is used as an address in it is NULL, or a member of NULL.
const NULL_PAGE: u64 = 4096;

/// What was done to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// It was read.
    Read,
    /// It was written.
    Write,
    /// It was to be executed.
    Jump,
}

/// An exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// The address that could not be used.
    pub address: Option<u64>,
    /// What was done to it.
    pub did: Option<Did>,
    /// The number in the BRK instruction.
    pub brk: Option<u64>,
}

impl Fault {
    /// As the log tells it.
    pub fn of_oops(oops: &Oops) -> Self {
        let class = oops.esr.map(|esr| esr >> 26 & 0x3f);
        let writes = oops.esr.is_some_and(|esr| esr & 1 << 6 != 0);
        Self {
            address: oops.address,
            did: match class {
                Some(0x20 | 0x21) => Some(Did::Jump),
                Some(0x24 | 0x25) if writes => Some(Did::Write),
                Some(0x24 | 0x25) => Some(Did::Read),
                _ => None,
            },
            brk: None,
        }
    }

    /// As the instruction that was interrupted tells it.
    pub fn of_instruction(kernel: &Kernel<'_>, registers: &Registers) -> Self {
        match kernel.read_number(registers.pc, 4) {
            Ok(instruction) => decode(instruction as u32, registers),
            // What is not there to be executed.
            Err(_) => Self {
                address: Some(registers.pc),
                did: Some(Did::Jump),
                brk: None,
            },
        }
    }

    /// What kind of end that is.
    pub fn kind(&self) -> Kind {
        match (self.brk, self.address) {
            (Some(0x800), _) => Kind::Bug,
            (Some(0x900..=0x9ff | 0x5500..=0x55ff), _) => Kind::Sanitizer,
            (Some(0x8000..=0x83ff), _) => Kind::ControlFlow,
            (_, Some(..NULL_PAGE)) => Kind::NullDereference,
            (_, Some(address)) if error_number(address).is_some() => Kind::ErrorPointer,
            (_, Some(address)) if address >> 48 == 0 => Kind::UserAddress,
            (None, Some(_)) => Kind::BadAddress,
            _ => Kind::Oops,
        }
    }
}

/// `bits` bits of an instruction.
fn field(instruction: u32, low: u32, bits: u32) -> u64 {
    let mask = 1u64.checked_shl(bits).unwrap_or(0).wrapping_sub(1);
    u64::from(instruction).checked_shr(low).unwrap_or(0) & mask
}

/// The same, with its sign, times a power of two.
fn signed_field(instruction: u32, low: u32, bits: u32, shift: u32) -> u64 {
    let unused = 64u32.saturating_sub(bits);
    let high = field(instruction, low, bits).checked_shl(unused);
    let value = high.unwrap_or(0).cast_signed().checked_shr(unused);
    let value = value.unwrap_or(0).cast_unsigned();
    value.checked_shl(shift).unwrap_or(0)
}

fn decode(instruction: u32, registers: &Registers) -> Fault {
    let register = |low| {
        let number = field(instruction, low, 5) as usize;
        registers.x.get(number).copied()
    };
    // Register 31 is the stack pointer where an address is made, and zero elsewhere.
    let base = register(5).unwrap_or(registers.sp);
    let access = |address, writes| Fault {
        address: Some(address),
        did: Some(if writes { Did::Write } else { Did::Read }),
        brk: None,
    };
    let size = field(instruction, 30, 2) as u32;
    let is_vector = field(instruction, 26, 1) == 1;
    let operation = field(instruction, 22, 2);
    let writes = match is_vector {
        true => operation & 1 == 0,
        false => operation == 0,
    };
    let shift = match is_vector && operation & 2 != 0 && size == 0 {
        true => 4,
        false => size,
    };
    if instruction & 0xffe0_001f == 0xd420_0000 {
        return Fault {
            brk: Some(field(instruction, 5, 16)),
            ..Fault::default()
        };
    }
    if instruction & 0x3b00_0000 == 0x3900_0000 {
        let offset = field(instruction, 10, 12).checked_shl(shift).unwrap_or(0);
        return access(base.wrapping_add(offset), writes);
    }
    if instruction & 0x3b20_0000 == 0x3800_0000 {
        const POST: u64 = 1;
        let offset = match field(instruction, 10, 2) {
            POST => 0,
            _ => signed_field(instruction, 12, 9, 0),
        };
        return access(base.wrapping_add(offset), writes);
    }
    if instruction & 0x3b20_0c00 == 0x3820_0800 {
        let index = register(16).unwrap_or(0);
        let index = match field(instruction, 13, 3) {
            2 => index & 0xffff_ffff,
            6 => i64::from(index as i32).cast_unsigned(),
            _ => index,
        };
        let shift = shift.saturating_mul(field(instruction, 12, 1) as u32);
        let offset = index.checked_shl(shift).unwrap_or(0);
        return access(base.wrapping_add(offset), writes);
    }
    if instruction & 0x3b20_0c00 == 0x3820_0000 {
        // Atomics read and write.
        return access(base, true);
    }
    if instruction & 0x3a00_0000 == 0x2800_0000 {
        const POST: u64 = 1;
        let shift = match is_vector {
            true => size.saturating_add(2),
            false => (size >> 1).saturating_add(2),
        };
        let offset = match field(instruction, 23, 2) {
            POST => 0,
            _ => signed_field(instruction, 15, 7, shift),
        };
        return access(base.wrapping_add(offset), field(instruction, 22, 1) == 0);
    }
    if instruction & 0x3f00_0000 == 0x0800_0000 {
        return access(base, field(instruction, 22, 1) == 0);
    }
    Fault::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_tell_their_addresses() {
        let mut registers = Registers {
            x: [0; 31],
            sp: 0x5000,
            pc: 0,
            pstate: 0,
        };
        for (number, register) in (0u64..).zip(&mut registers.x) {
            *register = number << 16;
        }
        for (instruction, address, did) in [
            // str x1, [x0, #64], of a dump: its log says write, at 0x40.
            (0xf900_2001, 0x40, Did::Write),
            // ldr x0, [x0]; ldrb w0, [x0]
            (0xf940_0000, 0, Did::Read),
            (0x3940_0000, 0, Did::Read),
            // ldur x3, [x2, #-8]; str x3, [x2], #8; str x3, [x2, #-16]!
            (0xf85f_8043, 0x1_fff8, Did::Read),
            (0xf800_8443, 0x2_0000, Did::Write),
            (0xf81f_0c43, 0x1_fff0, Did::Write),
            // ldr x0, [x1, x2, lsl #3]; ldr w0, [x1, w2, uxtw]
            (0xf862_7820, 0x11_0000, Did::Read),
            (0xb862_4820, 0x3_0000, Did::Read),
            // stp x29, x30, [sp, #-32]!; ldp x3, x4, [x5, #16]; str q0, [x1, #32]
            (0xa9be_7bfd, 0x4fe0, Did::Write),
            (0xa941_10a3, 0x5_0010, Did::Read),
            (0x3d80_0820, 0x1_0020, Did::Write),
            // ldxr w0, [x1]; stxr w2, w0, [x1]; ldadd w0, w1, [x2]
            (0x885f_7c20, 0x1_0000, Did::Read),
            (0x8802_7c20, 0x1_0000, Did::Write),
            (0xb820_0041, 0x2_0000, Did::Write),
        ] {
            let fault = decode(instruction, &registers);
            assert_eq!(
                (fault.address, fault.did),
                (Some(address), Some(did)),
                "{instruction:#x}"
            );
        }
        assert_eq!(decode(0xd421_0000, &registers).kind(), Kind::Bug);
        // nop
        assert_eq!(decode(0xd503_201f, &registers), Fault::default());
    }

    #[test]
    fn addresses_tell_the_kind() {
        for (address, kind) in [
            (0, Kind::NullDereference),
            (0xfff, Kind::NullDereference),
            (0x1000, Kind::UserAddress),
            (0xffff_ffff_ffff_fff4, Kind::ErrorPointer),
            (0xdead_0000_0000_0100, Kind::BadAddress),
            (0xffff_8000_8000_0000, Kind::BadAddress),
        ] {
            let fault = Fault {
                address: Some(address),
                ..Fault::default()
            };
            assert_eq!(fault.kind(), kind, "{address:#x}");
        }
    }
}
