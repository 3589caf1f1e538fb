//! Instructions as text.
//!
//! Decoded by disarm64, whose text is objdump's under `-M no-aliases`; a few names that everybody
//! knows an instruction by are put in their place (Arm ARM, C6.2, "alias conditions").

use disarm64::decoder::decode;
use disarm64::format_insn::format_insn_pc;

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub mnemonic: String,
    /// With what, as objdump has it.
    pub operands: String,
    /// Where it branches to, or what `adr` is the address of. Not `adrp`'s page: what lies at
    /// its beginning is not what is meant.
    pub target: Option<u64>,
}

impl Instruction {
    /// Decodes the instruction at an address; none if it is none that is known.
    pub fn decode(word: u32, at: u64) -> Option<Self> {
        let mut text = String::new();
        format_insn_pc(at, &mut text, &decode(word)?).ok()?;
        let (mnemonic, operands) = text.split_once('\t').unwrap_or((&text, ""));
        let (mnemonic, operands) = (mnemonic.trim(), operands.trim());
        let target = takes_address(mnemonic).then(|| last_number(operands));
        let (mnemonic, operands) = usual_name(mnemonic, operands);
        Some(Self {
            mnemonic,
            operands,
            target: target.flatten(),
        })
    }
}

/// Whether its last operand is an address that is meant.
fn takes_address(mnemonic: &str) -> bool {
    let names = ["b", "bl", "cbz", "cbnz", "tbz", "tbnz", "adr"];
    mnemonic.starts_with("b.") || names.contains(&mnemonic)
}

fn last_number(operands: &str) -> Option<u64> {
    let last = operands.rsplit([',', ' ']).next()?;
    u64::from_str_radix(last.strip_prefix("0x")?, 16).ok()
}

/// The name that everybody knows it by, and the operands that it has then.
fn usual_name(mnemonic: &str, operands: &str) -> (String, String) {
    let parts: Vec<_> = operands.split(", ").collect();
    let named = match (mnemonic, parts.as_slice()) {
        ("ret", ["x30"]) => Some(("ret", String::new())),
        ("ands", ["wzr" | "xzr", rest @ ..]) => Some(("tst", rest.join(", "))),
        ("subs", ["wzr" | "xzr", rest @ ..]) => Some(("cmp", rest.join(", "))),
        ("adds", ["wzr" | "xzr", rest @ ..]) => Some(("cmn", rest.join(", "))),
        ("orr", [to, "wzr" | "xzr", from]) if !from.starts_with('#') => {
            Some(("mov", format!("{to}, {from}")))
        }
        ("add", [to, from, "#0x0"]) if *to == "sp" || *from == "sp" => {
            Some(("mov", format!("{to}, {from}")))
        }
        ("movz", [to, value, "lsl #0x0"]) => Some(("mov", format!("{to}, {value}"))),
        ("sub", [to, "wzr" | "xzr", rest @ ..]) => {
            Some(("neg", format!("{to}, {}", rest.join(", "))))
        }
        ("madd", [to, left, right, "wzr" | "xzr"]) => {
            Some(("mul", format!("{to}, {left}, {right}")))
        }
        ("smaddl", [to, left, right, "xzr"]) => Some(("smull", format!("{to}, {left}, {right}"))),
        ("umaddl", [to, left, right, "xzr"]) => Some(("umull", format!("{to}, {left}, {right}"))),
        ("csinc", [to, "wzr" | "xzr", "wzr" | "xzr", condition]) => {
            opposite(condition).map(|condition| ("cset", format!("{to}, {condition}")))
        }
        ("ubfm" | "sbfm", [to, from, first, last]) => shift(mnemonic, to, first, last)
            .map(|(name, bits)| (name, format!("{to}, {from}, #{bits}"))),
        _ => None,
    };
    match named {
        Some((name, operands)) => (name.to_owned(), operands),
        None => (mnemonic.to_owned(), operands.to_owned()),
    }
}

/// The shift that a move of a bit field is, if it is one.
fn shift(mnemonic: &str, to: &str, first: &str, last: &str) -> Option<(&'static str, u32)> {
    let number = |text: &str| text.strip_prefix('#')?.parse::<u32>().ok();
    let (first, last) = (number(first)?, number(last)?);
    let highest: u32 = if to.starts_with('w') { 31 } else { 63 };
    match mnemonic {
        "ubfm" if last == highest => Some(("lsr", first)),
        "sbfm" if last == highest => Some(("asr", first)),
        "ubfm" if last.checked_add(1) == Some(first) => Some(("lsl", highest.checked_sub(last)?)),
        _ => None,
    }
}

/// The condition that holds where another does not.
fn opposite(condition: &str) -> Option<&'static str> {
    Some(match condition.trim() {
        "eq" => "ne",
        "ne" => "eq",
        "cs" => "cc",
        "cc" => "cs",
        "mi" => "pl",
        "pl" => "mi",
        "vs" => "vc",
        "vc" => "vs",
        "hi" => "ls",
        "ls" => "hi",
        "ge" => "lt",
        "lt" => "ge",
        "gt" => "le",
        "le" => "gt",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `objdump -d` of GNU binutils 2.40 has for them, but for `stadd`.
    #[test]
    fn as_objdump_has_them() {
        for (word, expected) in [
            (0xd503_233f, "paciasp"),
            (0xd503_23bf, "autiasp"),
            (0xd65f_03c0, "ret"),
            (0xd65f_0020, "ret x1"),
            (0xd503_24df, "bti jc"),
            (0xd503_201f, "nop"),
            (0xf940_03e0, "ldr x0, [sp]"),
            (0xb820_003f, "ldadd w0, wzr, [x1]"),
            (0x9100_03fd, "mov x29, sp"),
            (0xaa01_03e0, "mov x0, x1"),
            (0x2a00_03e1, "mov w1, w0"),
            (0x5280_0020, "mov w0, #0x1"),
            (0xd421_0000, "brk #0x800"),
            (0xd538_4101, "mrs x1, sp_el0"),
            (0x9b20_7c41, "smull x1, w2, w0"),
            (0x5302_7c20, "lsr w0, w1, #2"),
            (0xd37e_f420, "lsl x0, x1, #2"),
            (0x937f_fc20, "asr x0, x1, #63"),
            (0xcb01_03e0, "neg x0, x1"),
            (0x1a9f_07e0, "cset w0, ne"),
            (0xf100_041f, "cmp x0, #0x1"),
            (0xf240_02ff, "tst x23, #0x1"),
        ] {
            let found = Instruction::decode(word, 0x1000).unwrap();
            let text = format!("{} {}", found.mnemonic, found.operands);
            assert_eq!((text.trim(), found.target), (expected, None), "{word:#x}");
        }
    }

    #[test]
    fn addresses_in_the_code() {
        for (word, at, mnemonic, target) in [
            (
                0x97ff_ffff,
                0xffff_8000_8001_0004,
                "bl",
                0xffff_8000_8001_0000,
            ),
            (0x1400_001f, 0x24, "b", 0xa0),
            (0x5400_0041, 0x10, "b.ne", 0x18),
            (0xb400_0040, 0x10, "cbz", 0x18),
            (0x3600_0041, 0x10, "tbz", 0x18),
            (0x1000_0041, 0x10, "adr", 0x18),
        ] {
            let found = Instruction::decode(word, at).unwrap();
            assert_eq!(
                (found.mnemonic.as_str(), found.target),
                (mnemonic, Some(target))
            );
        }
    }

    #[test]
    fn what_is_no_instruction() {
        assert_eq!(Instruction::decode(0xffff_ffff, 0), None);
    }
}
