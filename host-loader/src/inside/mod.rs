//! What a crashed kernel shows of itself, as data and in words: for more than one command.

pub mod memory;
pub mod modules;
pub mod records;
pub mod stacks;

/// What of `all` could be read, each as a line, and in words why the rest could not.
pub fn readable<T, L, E: ToString>(
    all: impl IntoIterator<Item = Result<T, E>>,
    line: impl Fn(T) -> L,
) -> (Vec<L>, Vec<String>) {
    let (mut lines, mut lost) = (Vec::new(), Vec::new());
    for one in all {
        match one {
            Ok(one) => lines.push(line(one)),
            Err(why) => lost.push(why.to_string()),
        }
    }
    (lines, lost)
}
