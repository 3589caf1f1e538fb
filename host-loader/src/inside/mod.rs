//! What a crashed kernel shows of itself, as data and in words: for more than one command.

pub mod memory;
pub mod modules;
pub mod records;
pub mod stacks;
pub mod tracer;

/// What of `all` could be read, and in words why the rest could not.
pub fn readable<T, E: ToString>(
    all: impl IntoIterator<Item = Result<T, E>>,
) -> (Vec<T>, Vec<String>) {
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    for one in all {
        match one {
            Ok(one) => found.push(one),
            Err(why) => lost.push(why.to_string()),
        }
    }
    (found, lost)
}
