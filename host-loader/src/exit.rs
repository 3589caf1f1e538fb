//! The exit codes of every command.

use std::process::ExitCode;

/// How a command that ran to its end came out; errors are told apart from both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Exit code 0: done, or all is well.
    Good,
    /// Exit code 1: done, and the finding is bad: damage, losses, not armed.
    Bad,
}

/// Exit code 3: it could not be done; the message says why.
pub const TROUBLE: u8 = 3;

/// Exit code 4 of `kdraw ship`: nobody answers there.
pub const UNREACHABLE: u8 = 4;
/// Exit code 5 of `kdraw ship`: the credentials are wrong, or do not allow to write.
pub const REFUSED: u8 = 5;
/// Exit code 6 of `kdraw ship`: no room.
pub const FULL: u8 = 6;

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Good => Self::SUCCESS,
            Verdict::Bad => Self::from(1),
        }
    }
}

impl Verdict {
    /// Good if `good`.
    pub fn from_good(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// What `--help` says about exit codes.
pub const HELP: &str = "Exit codes: 0 done, all is well; 1 done, and the finding is bad (damage, \
losses, a panic would not be captured); 2 wrong usage; 3 it could not be done.";
