//! Questions to whoever sits at the terminal. They go to standard error, beside what is printed.

use std::io::{self, IsTerminal, Write};

/// Whether there is a terminal to ask on.
pub fn is_possible() -> bool {
    io::stdin().is_terminal()
}

/// Asks a question, and reads a line; empty at the end of input.
///
/// # Errors
/// If the question cannot be printed or the answer not be read.
pub fn line(question: &str) -> io::Result<String> {
    eprint!("{question} ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Asks a question that is to be answered with yes; anything else is no.
///
/// # Errors
/// As [`line`].
pub fn yes_or_no(question: &str) -> io::Result<bool> {
    let answer = line(&format!("{question} [y/N]"))?;
    Ok(["y", "yes"].contains(&answer.to_lowercase().as_str()))
}
