//! Signatures: equal for the same way to die, different for different ones.
//!
//! A signature is a checksum of the kind's word and of the innermost [`FRAMES`] functions from
//! the culprit on, by their plain names: no addresses, offsets, modules or what compilers add,
//! and neither what reports a panic nor what every exception and thread comes through. So it does
//! not change with KASLR, from one build to the next, or when a driver moves into a module.
//!
//! Four frames: one or two are shared by different faults in the same helper; far down the stack
//! are other ways to the same fault, and more places for compilers to inline differently.
//! Of a stack overflow it is the functions that call each other, wherever they were interrupted.
//! Where the frames do not make the difference (a panic's text does; or there is no stack) the
//! kernel's words are taken, with numbers and addresses replaced.

use kdraw_format::checksum::checksum;

use super::names::{is_entry, is_interrupt, plain};
use super::{Function, Kind};

/// How many functions count.
pub const FRAMES: usize = 4;

/// What is the same in every crash of the same cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Sixteen hexadecimal digits.
    pub hash: String,
    /// What it was made of besides the kind: functions, or the kernel's words.
    pub parts: Vec<String>,
}

impl Signature {
    /// Makes it of a kind and what tells one from another.
    pub(super) fn new(kind: Kind, parts: Vec<String>) -> Self {
        let text = std::iter::once(kind.word()).chain(parts.iter().map(String::as_str));
        let text = text.collect::<Vec<_>>().join("\n");
        Self {
            hash: format!("{:016x}", checksum(text.as_bytes())),
            parts,
        }
    }
}

/// The functions that count, of a stack from the culprit on. What an interrupt interrupted is
/// chance.
pub(super) fn frames(stack: &[Function]) -> Vec<String> {
    let own = stack.iter().take_while(|frame| !is_interrupt(&frame.name));
    let names = own.map(|frame| plain(&frame.name));
    let names = names.filter(|name| !name.is_empty() && !is_entry(name));
    names.take(FRAMES).map(str::to_owned).collect()
}

/// The kernel's words without what differs from time to time: what has a digit in it is `#`.
pub(super) fn words(reason: &str) -> String {
    let mut words = String::new();
    for word in reason.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let inner = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        match inner.bytes().any(|byte| byte.is_ascii_digit()) {
            true => words.push_str(&word.replacen(inner, "#", 1)),
            false => words.push_str(word),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Function> {
        names
            .iter()
            .zip(1u64..)
            .map(|(name, offset)| Function {
                name: (*name).to_owned(),
                offset,
                size: 0x40,
                module: None,
                interrupted: false,
            })
            .collect()
    }

    #[test]
    fn builds_do_not_matter_and_functions_do() {
        let one = frames(&stack(&["do_it", "caller.isra.0", "el0_svc"]));
        let other = frames(&stack(&["do_it.constprop.0", "caller", "el0_svc_common"]));
        assert_eq!(one, other);
        assert_eq!(one, ["do_it", "caller"]);
        let interrupting = stack(&["do_it", "my_irq", "el1h_64_irq", "anybody"]);
        assert_eq!(frames(&interrupting), ["do_it", "my_irq"]);
        let hash = |kind, names: &[&str]| Signature::new(kind, frames(&stack(names))).hash;
        let bug = hash(Kind::Bug, &["do_it", "caller"]);
        assert_eq!(bug.len(), 16);
        assert_eq!(bug, hash(Kind::Bug, &["do_it", "caller"]));
        assert_ne!(bug, hash(Kind::Oops, &["do_it", "caller"]));
        assert_ne!(bug, hash(Kind::Bug, &["do_it", "another"]));
        assert_eq!(
            hash(Kind::Bug, &["a", "b", "c", "d", "e"]),
            hash(Kind::Bug, &["a", "b", "c", "d", "f"])
        );
    }

    #[test]
    fn numbers_are_replaced() {
        assert_eq!(
            words("Unable to mount root fs on unknown-block(179,2): -6, at 0xdead"),
            "Unable to mount root fs on unknown-block(#,#): -#, at #"
        );
    }
}
