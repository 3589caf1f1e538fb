//! The newest lines of the kernel's log: what was said when it died, and by whom.
//!
//! The log's whole text is [`kdraw_linux::printk`]'s; here are lines, each with who wrote it, so
//! that what two CPUs print at once can be told apart.

use kdraw_linux::printk::PrintkLog;

use crate::Kernel;

/// The newest records that are looked at.
pub const NEWEST_RECORDS: u64 = 2000;
/// Set in a caller that is a CPU in an interrupt, and not a task (`printk_caller_id`).
const IN_INTERRUPT: u32 = 1 << 31;

/// Who wrote to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// The task of this number.
    Task(u32),
    /// This CPU, in an interrupt.
    Cpu(u32),
}

impl Caller {
    /// Of the number that the kernel notes.
    pub fn new(id: u32) -> Self {
        match id & IN_INTERRUPT {
            0 => Self::Task(id),
            _ => Self::Cpu(id & !IN_INTERRUPT),
        }
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who wrote it, if that is known.
    pub caller: Option<Caller>,
    /// What, without the time in front.
    pub text: String,
}

/// The lines of a log's text, such as dmesg.txt: without times, levels and callers in front.
pub fn lines(text: &str) -> Vec<Line> {
    text.lines()
        .map(|line| Line {
            caller: None,
            text: without_prefix(line).to_owned(),
        })
        .collect()
}

/// A line without `<6>`, `[   12.345678]` and `[   T101]` in front, as far as they are there.
fn without_prefix(line: &str) -> &str {
    let mut rest = line;
    if let Some((level, after)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>'))
        && level.bytes().all(|byte| byte.is_ascii_digit())
    {
        rest = after;
    }
    let is_time = |inside: &str| inside.contains('.');
    let is_caller = |inside: &str| inside.starts_with(['T', 'C']);
    for is_it in [is_time, is_caller] as [fn(&str) -> bool; 2] {
        let bracket = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let Some((inside, after)) = bracket else {
            break;
        };
        let inside = inside.trim_start();
        let is_number = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        let mut digits = inside.trim_start_matches(['T', 'C']).bytes();
        if is_it(inside) && digits.all(is_number) {
            rest = after.strip_prefix(' ').unwrap_or(after);
        }
    }
    rest
}

impl Kernel<'_> {
    /// The newest lines of the log; none if it cannot be found.
    pub fn newest_log(&self) -> Vec<Line> {
        let Ok(log) = PrintkLog::open(self.virt(), &self.vmcoreinfo()) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for number in log.ids().saturating_sub(NEWEST_RECORDS)..log.ids() {
            let Ok(Some(details)) = log.details(number) else {
                continue;
            };
            let mut text = Vec::new();
            log.write_record(number, &mut |piece| text.extend_from_slice(piece));
            let text = String::from_utf8_lossy(&text);
            // Further lines of a record are indented by the width of the time.
            let (time, text) = text.split_once("] ").unwrap_or(("", &text));
            let indent = " ".repeat(time.len().saturating_add(2));
            all.extend(text.lines().map(|line| Line {
                caller: details.caller.map(Caller::new),
                text: line.strip_prefix(&indent).unwrap_or(line).to_owned(),
            }));
        }
        all
    }

    /// Who wrote the log's last record.
    pub fn last_caller(&self) -> Option<Caller> {
        let log = PrintkLog::open(self.virt(), &self.vmcoreinfo()).ok()?;
        let details = |number| log.details(number).ok().flatten();
        let last = (0..log.ids()).rev().find_map(details)?.caller?;
        Some(Caller::new(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_front_of_a_line_goes() {
        for (line, expected) in [
            ("[   12.345678] Call trace:", "Call trace:"),
            ("<4>[   12.345678][  T101]  f+0x1/0x2 [m]", " f+0x1/0x2 [m]"),
            ("[    1.0] [    C0] rcu: INFO", "rcu: INFO"),
            ("[    1.0] [  112]     0   112", "[  112]     0   112"),
            ("[drm] ready", "[drm] ready"),
            ("[ffff000000000040] pgd=0", "[ffff000000000040] pgd=0"),
            ("[", "["),
            ("<", "<"),
        ] {
            assert_eq!(without_prefix(line), expected);
        }
    }
}
