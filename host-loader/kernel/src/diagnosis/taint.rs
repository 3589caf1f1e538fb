//! Taints: what the kernel holds against itself, in words.
//!
//! Source: `include/linux/panic.h`, `kernel/panic.c` (`taint_flags`),
//! `Documentation/admin-guide/tainted-kernels.rst`.

use crate::Kernel;

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// The letter that the kernel prints.
    pub letter: char,
    /// What it means.
    pub meaning: &'static str,
    /// The loaded modules that carry it.
    pub modules: Vec<String>,
}

/// Letters and meanings, by bit.
const TAINTS: [(char, &str); 20] = [
    ('P', "a proprietary module was loaded"),
    ('F', "a module was loaded by force"),
    ('S', "the CPU or the kernel is out of specification"),
    ('R', "a module was removed by force"),
    ('M', "the machine told of a hardware error"),
    ('B', "a page was in a bad state"),
    ('U', "a program asked for it"),
    ('D', "the kernel had an oops before, or in this crash"),
    ('A', "an ACPI table was overridden"),
    ('W', "the kernel warned of something"),
    ('C', "a staging driver was loaded"),
    ('I', "a bug of the firmware is worked around"),
    ('O', "a module from outside the kernel's source was loaded"),
    ('E', "a module without a good signature was loaded"),
    ('L', "a soft lockup happened"),
    ('K', "the kernel was patched live"),
    ('X', "the distribution says so"),
    ('T', "structures are laid out at random"),
    ('N', "a test was run in the kernel"),
    ('J', "a device's firmware was changed by fwctl"),
];
/// Taints that modules carry.
pub const OUT_OF_TREE: char = 'O';

fn bit(letter: char) -> Option<u32> {
    (0u32..)
        .zip(TAINTS)
        .find(|(_, (known, _))| *known == letter)
        .map(|(bit, _)| bit)
}

/// Whether a set of bits has a letter's.
pub fn has(mask: u64, letter: char) -> bool {
    let mask = bit(letter).and_then(|bit| mask.checked_shr(bit));
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// The kernel's taints: what it noted, or what its reports say.
pub fn read(kernel: Option<&Kernel<'_>>, told: Option<&str>) -> Option<Vec<Taint>> {
    let mask = kernel.and_then(|kernel| {
        let at = kernel.symbol("tainted_mask")?;
        kernel.read_u64(at).ok()
    });
    let mask = match (mask, told) {
        (Some(mask), _) => mask,
        (None, Some(letters)) => letters
            .chars()
            .filter_map(bit)
            .fold(0, |mask, bit| mask | 1u64.checked_shl(bit).unwrap_or(0)),
        (None, None) => return None,
    };
    let modules = kernel.and_then(|kernel| kernel.modules().ok());
    let modules = modules.unwrap_or_default();
    let all = TAINTS.iter().filter(|(letter, _)| has(mask, *letter));
    let taints = all.map(|(letter, meaning)| Taint {
        letter: *letter,
        meaning,
        modules: modules
            .iter()
            .filter(|module| has(module.taints, *letter))
            .map(|module| module.name.clone())
            .collect(),
    });
    Some(taints.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_bits() {
        let told = read(None, Some("GOE")).unwrap();
        let letters: String = told.iter().map(|taint| taint.letter).collect();
        assert_eq!(letters, "OE");
        assert!(has(1 << 12, 'O') && !has(1 << 12, 'E'));
        assert_eq!(read(None, Some("")), Some(Vec::new()));
        assert_eq!(read(None, None), None);
    }
}
