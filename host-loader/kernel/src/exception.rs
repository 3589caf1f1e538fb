//! What an exception was, in words: ESR_ELx.
//!
//! Source: Arm ARM D24.2.40 (ESR_EL1), its tables of exception classes and of fault status
//! codes; `arch/arm64/include/asm/brk-imm.h` for what the kernel's BRK instructions mean.

use kdraw_format::addr::KernelVirtAddr;

use crate::Kernel;

/// Says what a syndrome means: `data abort at the same level: write, level 2 translation fault`.
pub fn in_words(esr: u64) -> String {
    let class = esr >> 26 & 0x3f;
    let syndrome = esr & 0x01ff_ffff;
    let what = match class {
        0x00 => "undefined instruction, or none that is told",
        0x01 => "trapped WFI or WFE",
        0x07 => "trapped use of SIMD or floating point",
        0x0d => "branch to no branch target (BTI)",
        0x0e => "illegal execution state",
        0x15 => "system call (SVC)",
        0x16 => "HVC",
        0x17 => "SMC",
        0x18 => "trapped system register",
        0x19 => "trapped use of SVE",
        0x1c => "pointer authentication failed",
        0x20 => "instruction abort in a program",
        0x21 => "instruction abort in the kernel",
        0x22 => "misaligned program counter",
        0x24 => "data abort in a program",
        0x25 => "data abort in the kernel",
        0x26 => "misaligned stack pointer",
        0x27 => "memory copy or set instruction",
        0x2c => "floating-point exception",
        0x2d => "guarded control stack",
        0x2f => "SError",
        0x30 | 0x31 => "hardware breakpoint",
        0x32 | 0x33 => "single step",
        0x34 | 0x35 => "watchpoint",
        0x3c => return format!("BRK instruction: {}", brk(syndrome & 0xffff)),
        other => return format!("exception class {other:#x}, syndrome {syndrome:#x}"),
    };
    match class {
        0x24 | 0x25 => {
            let access = if syndrome & 1 << 6 != 0 {
                "write"
            } else {
                "read"
            };
            format!("{what}: {access}, {}", fault(syndrome & 0x3f))
        }
        0x20 | 0x21 => format!("{what}: {}", fault(syndrome & 0x3f)),
        _ => what.to_owned(),
    }
}

/// A fault status code.
fn fault(code: u64) -> String {
    let level = code & 3;
    match code {
        0x00..=0x03 => format!("level {level} address size fault"),
        0x04..=0x07 => format!("level {level} translation fault"),
        0x08..=0x0b => format!("level {level} access flag fault"),
        0x0c..=0x0f => format!("level {level} permission fault"),
        0x10 => "synchronous external abort".to_owned(),
        0x11 => "tag check fault".to_owned(),
        0x13 => "synchronous external abort on a level -1 table".to_owned(),
        0x14..=0x17 => format!("synchronous external abort on a level {level} table"),
        0x18 => "synchronous parity or ECC error".to_owned(),
        0x1b => "parity or ECC error on a level -1 table".to_owned(),
        0x1c..=0x1f => format!("parity or ECC error on a level {level} table"),
        0x21 => "misaligned access".to_owned(),
        0x29 => "level -1 address size fault".to_owned(),
        0x2b => "level -1 translation fault".to_owned(),
        0x30 => "TLB conflict".to_owned(),
        other => format!("fault status {other:#x}"),
    }
}

/// What the kernel means by a BRK.
fn brk(immediate: u64) -> String {
    let what = match immediate {
        0x004..=0x006 => "kprobe",
        0x100 => "instruction that is to fault",
        0x400..=0x7ff => "debugger",
        0x800 => "BUG or WARN",
        0x900..=0x9ff => "KASAN",
        0x5500..=0x55ff => "UBSAN",
        0x8000..=0x83ff => "CFI",
        _ => return format!("{immediate:#x}"),
    };
    format!("{what} ({immediate:#x})")
}

/// What an address is, in words.
pub fn address_in_words(kernel: &Kernel<'_>, address: u64) -> String {
    let layout = kernel.virt().layout();
    let at = KernelVirtAddr(address);
    if address < u64::MAX.checked_shl(layout.va_bits).unwrap_or(0) {
        return match address {
            0..4096 => "NULL, or a member of NULL".to_owned(),
            _ if address >> layout.va_bits == 0 => "an address of a program".to_owned(),
            _ => "between the kernel's and a program's addresses".to_owned(),
        };
    }
    if let Some(place) = kernel.place(address) {
        let module = place.module.map(|name| format!(" [{name}]"));
        return format!(
            "{}+{:#x}{}",
            place.symbol.name,
            place.offset,
            module.unwrap_or_default()
        );
    }
    let what = if layout.image_pa(at).is_some() {
        "the kernel's image"
    } else if layout.linear_pa(at).is_some() {
        "the linear map"
    } else {
        "vmalloc, modules or fixed mappings"
    };
    match kernel.virt().walk(at) {
        Ok(_) => format!("{what}, mapped"),
        Err(_) => format!("{what}, not mapped"),
    }
}

/// An oops, as the log tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oops {
    /// The syndrome.
    pub esr: Option<u64>,
    /// The address that could not be used.
    pub address: Option<u64>,
    /// Where it happened: `function+0x4/0x28`.
    pub pc: Option<String>,
}

impl Oops {
    /// Reads the last one of a log's lines. `pt_regs` has neither syndrome nor address; the log
    /// is the only place.
    pub fn last<'l>(lines: impl Iterator<Item = &'l str>) -> Self {
        let mut oops = Self::default();
        let number = |text: &str| {
            let word = text.split([' ', ',']).next().unwrap_or_default();
            u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()
        };
        for line in lines {
            if let Some((before, address)) = line.split_once(" at virtual address ")
                && before.contains("Unable to handle kernel")
            {
                oops = Self {
                    address: number(address),
                    ..Self::default()
                };
            } else if let Some((_, esr)) = line.split_once("  ESR = ") {
                oops.esr = number(esr);
            } else if let Some((_, rest)) = line.split_once("Internal error: ") {
                // `Oops: 0000000096000004 [#1] SMP`, `Oops - BUG: 00000000f2000800 [#1]`.
                let words = rest.split(' ').find_map(|word| {
                    let is_number = word.len() >= 8;
                    is_number.then(|| u64::from_str_radix(word, 16).ok())?
                });
                if oops.pc.is_some() {
                    oops = Self::default();
                }
                oops.esr = words.or(oops.esr);
            } else if let Some((_, pc)) = line.split_once("pc : ")
                && oops.esr.is_some()
                && oops.pc.is_none()
            {
                let pc = pc.split(' ').next().unwrap_or_default();
                oops.pc = Some(pc.to_owned());
            }
        }
        oops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syndromes_are_told() {
        for (esr, expected) in [
            (
                0x9600_0004,
                "data abort in the kernel: read, level 0 translation fault",
            ),
            (
                0x9600_0046,
                "data abort in the kernel: write, level 2 translation fault",
            ),
            (
                0x8600_000f,
                "instruction abort in the kernel: level 3 permission fault",
            ),
            (
                0x9600_0021,
                "data abort in the kernel: read, misaligned access",
            ),
            (0xf200_0800, "BRK instruction: BUG or WARN (0x800)"),
            (0xbe00_0000, "SError"),
            (0x5600_0000, "system call (SVC)"),
        ] {
            assert_eq!(in_words(esr), expected, "{esr:#x}");
        }
    }

    #[test]
    fn the_last_oops_counts() {
        let log = "Unable to handle kernel paging request at virtual address 00000000deadbeef\n\
            Mem abort info:\n  ESR = 0x0000000096000044\n\
            Internal error: Oops: 0000000096000044 [#1] SMP\npc : first+0x4/0x8\n\
            Internal error: Oops - BUG: 00000000f2000800 [#2] SMP\npc : do_it+0x10/0x20 [mine]\n\
            pc : later+0x0/0x4";
        let oops = Oops::last(log.lines());
        assert_eq!(oops.pc.as_deref(), Some("do_it+0x10/0x20"));
        assert_eq!((oops.esr, oops.address), (Some(0xf200_0800), None));
        let first = Oops::last(log.lines().take(5));
        assert_eq!(
            (first.esr, first.address),
            (Some(0x9600_0044), Some(0xdead_beef))
        );
        assert_eq!(Oops::last("nothing".lines()), Oops::default());
    }
}
