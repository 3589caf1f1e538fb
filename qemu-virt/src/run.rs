//! Runs commands, with errors that say which command failed and what it printed.

use std::path::{Path, PathBuf};

/// Returns the workspace's root folder.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}
