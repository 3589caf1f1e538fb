//! Why the kernel died, in its own words: the line of the log that says so.
//!
//! A plain panic says it itself ("Kernel panic - not syncing: sysrq triggered crash"). After an
//! oops the panic only says that there was one ("Oops: Fatal exception"); what happened stands
//! some lines before: "Unable to handle kernel NULL pointer dereference …", "kernel BUG at …".
//!
//! Source: `kernel/panic.c`, `arch/arm64/mm/fault.c` (`die_kernel_fault`),
//! `arch/arm64/kernel/traps.c` (`die`).

use heapless::String;

use crate::memory::PhysMem;
use crate::printk::PrintkLog;

const PANIC: &str = "Kernel panic - not syncing: ";
/// Repeats the reason at the panic's end.
const PANIC_END: &str = "---[ end Kernel panic";
const CAUSES: [&str; 2] = ["Unable to handle kernel ", "kernel BUG at "];
const EFFECT: &str = "Internal error: ";
/// The most records between an oops's cause ("Unable to handle …", then the fault's registers
/// and page table entries) and "Internal error".
const CAUSE_TO_EFFECT: usize = 64;
/// The most records searched for the reason.
const MAX_SEARCHED: usize = 1 << 14;

/// A line of the log, cut to 256 bytes.
pub type Line = String<256>;

/// Why the kernel died, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PanicReason {
    /// The line with "Kernel panic - not syncing: ", from there on.
    pub panic: Option<Line>,
    /// The last oops, if the panic says no more than that there was one, or if there is none:
    /// "Unable to handle kernel …" or "kernel BUG at …", or else "Internal error: …".
    pub oops: Option<Line>,
}

impl PanicReason {
    /// The line that tells most: the oops if the panic only says that there was one.
    pub fn headline(&self) -> Option<&str> {
        match (&self.panic, &self.oops) {
            (Some(panic), Some(oops)) if is_effect_of_oops(panic) => Some(oops),
            (Some(line), _) | (None, Some(line)) => Some(line),
            (None, None) => None,
        }
    }
}

fn is_effect_of_oops(panic: &Line) -> bool {
    find(panic, "Fatal exception").is_some()
}

impl<M: PhysMem> PrintkLog<'_, M> {
    /// Looks for why the kernel died: from the newest record backwards.
    pub fn panic_reason(&self) -> PanicReason {
        let mut found = PanicReason::default();
        let mut effect_at = None;
        let mut cause_known = false;
        let mut buffer = [0; 256];
        for (age, n) in (0..self.ids()).rev().take(MAX_SEARCHED).enumerate() {
            // The lines that explain an oops are printed shortly before it.
            cause_known |= effect_at.is_some_and(|at| age.saturating_sub(at) > CAUSE_TO_EFFECT);
            if let Some(panic) = &found.panic
                && (cause_known || !is_effect_of_oops(panic))
            {
                break;
            }
            let Some(text) = self.text_start(n, &mut buffer) else {
                continue;
            };
            for line in text.lines() {
                if found.panic.is_none() && find(line, PANIC_END).is_none() {
                    found.panic = from_marker(line, &[PANIC]);
                }
                if cause_known {
                    continue;
                }
                if let Some(cause) = from_marker(line, &CAUSES) {
                    found.oops = Some(cause);
                    cause_known = true;
                } else if effect_at.is_none() {
                    found.oops = from_marker(line, &[EFFECT]);
                    effect_at = found.oops.is_some().then_some(age);
                }
            }
        }
        found
    }
}

/// The line from the first of `markers` on, if it has one.
fn from_marker(line: &str, markers: &[&str]) -> Option<Line> {
    let at = markers.iter().find_map(|marker| find(line, marker))?;
    // As long as the buffer that it was read into, at the most.
    Line::try_from(line.get(at..)?).ok()
}

/// Where `marker` begins in a line. For lines this short, what [`str::find`] computes of the marker
/// before it looks at the line costs more than the search.
fn find(line: &str, marker: &str) -> Option<usize> {
    let (line, marker) = (line.as_bytes(), marker.as_bytes());
    line.windows(marker.len())
        .position(|part| part.first() == marker.first() && part == marker)
}

#[cfg(test)]
mod tests {
    use crate::printk::tests::Ring;

    #[test]
    fn the_reason_is_the_panic_or_the_oops_behind_it() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (
                &[
                    "sysrq: Trigger a crash",
                    "Kernel panic - not syncing: sysrq triggered crash",
                    "CPU: 1",
                ],
                Some("Kernel panic - not syncing: sysrq triggered crash"),
            ),
            (
                &[
                    "Unable to handle kernel NULL pointer dereference at 0",
                    "Mem abort info:",
                    "Internal error: Oops: 96000044 [#1] SMP",
                    "Kernel panic - not syncing: Oops: Fatal exception",
                    "---[ end Kernel panic - not syncing: Oops ]---",
                ],
                Some("Unable to handle kernel NULL pointer dereference at 0"),
            ),
            // A fault while panicking: newer than the reason.
            (
                &[
                    "Kernel panic - not syncing: sysrq triggered crash",
                    "Unable to handle kernel paging request at 8",
                ],
                Some("Kernel panic - not syncing: sysrq triggered crash"),
            ),
            (
                &["Internal error: Oops - BUG: 0 [#1]", "Modules linked in:"],
                Some("Internal error: Oops - BUG: 0 [#1]"),
            ),
            (&["all is well"], None),
        ];
        for (lines, headline) in cases {
            let mut ring = Ring::new(0);
            ring.tail(0);
            for line in *lines {
                ring.print(0, line.as_bytes());
            }
            let reason = ring.with(|log| log.panic_reason());
            assert_eq!(reason.headline(), *headline);
        }
    }
}
