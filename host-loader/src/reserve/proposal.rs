//! A change of one file that is shown before it is made.

use std::path::PathBuf;

use similar::TextDiff;

use super::root::{Found, Root};
use crate::error::Error;

/// What a file is to become.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Its absolute path in the system that is changed.
    pub path: String,
    /// Where it really is.
    pub real: PathBuf,
    /// What is in it; `None` if it does not exist yet.
    pub before: Option<Vec<u8>>,
    /// What is to be in it.
    pub after: Vec<u8>,
    /// How a file that is no text is shown: before and after.
    pub shown: Option<(String, String)>,
    /// What people should know of it.
    pub notes: Vec<String>,
}

impl Proposal {
    /// A file that exists.
    pub fn of_text(path: &str, found: Found, after: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            real: found.real,
            before: Some(found.bytes),
            after,
            shown: None,
            notes: Vec::new(),
        }
    }

    /// A file that is made.
    ///
    /// # Errors
    /// [`Error::Io`] if links on the way to it lead in a circle.
    pub fn new_text(root: &Root, path: &str, text: String) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            real: root.real(path)?,
            before: None,
            after: text.into_bytes(),
            shown: None,
            notes: Vec::new(),
        })
    }

    /// Whether anything changes.
    pub fn changes(&self) -> bool {
        self.before.as_ref() != Some(&self.after)
    }

    /// The change as a unified diff.
    pub fn diff(&self) -> String {
        let (before, after) = match &self.shown {
            Some((before, after)) => (before.clone(), after.clone()),
            None => (
                text(self.before.as_deref().unwrap_or_default()),
                text(&self.after),
            ),
        };
        diff(&self.path, self.before.is_some(), &before, true, &after)
    }
}

/// A unified diff of what `path` holds before and after, where it exists.
pub fn diff(path: &str, was: bool, before: &str, is: bool, after: &str) -> String {
    let name = |exists: bool| if exists { path } else { "/dev/null" };
    TextDiff::from_lines(before, after)
        .unified_diff()
        .header(name(was), name(is))
        .to_string()
}

/// Bytes as text to be shown.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
