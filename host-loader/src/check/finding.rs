//! What came of a requirement, as a line for people and as JSON.

use std::io::IsTerminal;

use serde::Serialize;

use crate::check::fix::Remedy;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is so.
    Green,
    /// It works with less than it could, or could not be told.
    Amber,
    /// It is not so.
    Red,
}

/// What was found about some requirement.
#[derive(Clone, Debug)]
pub struct Judgement {
    state: State,
    reason: String,
    fix: Option<String>,
    remedy: Option<Remedy>,
}

impl Judgement {
    /// It is so.
    pub fn green(reason: impl Into<String>) -> Self {
        Self {
            state: State::Green,
            reason: reason.into(),
            fix: None,
            remedy: None,
        }
    }

    /// It works with less than it could, or could not be told.
    pub fn amber(reason: impl Into<String>) -> Self {
        Self {
            state: State::Amber,
            ..Self::green(reason)
        }
    }

    /// It is not so.
    pub fn red(reason: impl Into<String>) -> Self {
        Self {
            state: State::Red,
            ..Self::green(reason)
        }
    }

    /// The one command that sets it right.
    pub fn fix(self, command: impl Into<String>) -> Self {
        Self {
            fix: Some(command.into()),
            ..self
        }
    }

    /// It can be set right by `kdraw check --fix`, as by that command.
    pub fn remedy(self, remedy: Remedy) -> Self {
        Self {
            remedy: Some(remedy),
            ..self
        }
    }

    /// Names the requirement.
    pub fn of(self, requirement: &'static str) -> Finding {
        Finding {
            requirement,
            state: self.state,
            reason: self.reason,
            fix: self.fix,
            fixable: self.remedy.is_some(),
            remedy: self.remedy,
        }
    }
}

/// What was found about a requirement.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its name.
    pub requirement: &'static str,
    /// How it stands.
    pub state: State,
    /// Why.
    pub reason: String,
    /// The command that sets it right, or what has to be done.
    pub fix: Option<String>,
    /// Whether `kdraw check --fix` does it.
    pub fixable: bool,
    /// What it does.
    #[serde(skip)]
    pub remedy: Option<Remedy>,
}

/// How a whole list stands: as its worst.
pub fn worst(findings: &[Finding]) -> State {
    let states = findings.iter().map(|finding| finding.state);
    states.max().unwrap_or(State::Green)
}

/// Prints a list, a line for each and one for its fix, and how many there are of each state.
pub fn print(findings: &[Finding]) {
    let colour = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    for finding in findings {
        let (word, sgr) = match finding.state {
            State::Green => ("green", 32),
            State::Amber => ("amber", 33),
            State::Red => ("RED  ", 31),
        };
        let word = match colour {
            true => format!("\x1b[1;{sgr}m{word}\x1b[0m"),
            false => word.to_owned(),
        };
        println!("{word}  {:<16} {}", finding.requirement, finding.reason);
        if let Some(fix) = &finding.fix {
            println!("       {:<16} {fix}", "  fix:");
        }
    }
    let count = |state| {
        let of_it = findings.iter().filter(|finding| finding.state == state);
        of_it.count()
    };
    println!(
        "{} green, {} amber, {} red",
        count(State::Green),
        count(State::Amber),
        count(State::Red)
    );
}
