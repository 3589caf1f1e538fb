//! /etc/kernel/cmdline: what kernel-install puts into the entries, or into the unified images, of
//! kernels that are installed from now on; u-boot-menu takes it too.
//!
//! White space and line ends separate; lines that begin with `#` are comments. Without the file
//! kernel-install takes the running kernel's command line. Source: kernel-install(8).

use super::command_line;
use super::lines;
use super::proposal::Proposal;
use super::root::Root;
use super::{Afterwards, BootLoader};
use crate::error::Error;

/// The file.
pub const FILE: &str = "/etc/kernel/cmdline";

/// What installs kernels for several boot loaders.
pub struct KernelInstall;

impl BootLoader for KernelInstall {
    fn name(&self) -> &'static str {
        "kernel-install"
    }

    fn files(&self, _: &Root) -> Vec<String> {
        vec![FILE.to_owned()]
    }

    fn propose(&self, root: &Root, value: &str) -> Result<Vec<Proposal>, Error> {
        let Some(found) = root.read(FILE)? else {
            return Ok(Vec::new());
        };
        let after = edit(&found.bytes, value)?;
        Ok(vec![Proposal::of_text(FILE, found, after)])
    }

    fn afterwards(&self, root: &Root) -> Option<Afterwards> {
        // Entries are edited themselves, and u-boot-update reads the file.
        let images = root.has_folder("/boot/efi/EFI/Linux") || root.has_folder("/efi/EFI/Linux");
        let images = images || root.has_folder("/boot/EFI/Linux");
        images.then(|| Afterwards::tell(&["kernel-install", "add-all"]))
    }
}

fn edit(text: &[u8], value: &str) -> Result<Vec<u8>, Error> {
    let mut lines = lines::split(text);
    let holds = |line: &lines::Line| lines::keyword(&line.body).is_some();
    if !lines.iter().any(holds) {
        let end = lines.len();
        lines::insert(&mut lines, end, Vec::new());
    }
    let last = lines
        .iter()
        .rposition(holds)
        .unwrap_or(lines.len().saturating_sub(1));
    let some_has = lines
        .iter()
        .any(|line| holds(line) && command_line::has_any(&line.body));
    for (number, line) in lines.iter_mut().enumerate() {
        let comment = line.body.trim_ascii_start().starts_with(b"#");
        let due = if some_has {
            !comment && command_line::has_any(&line.body)
        } else {
            number == last
        };
        if due {
            let edited = command_line::set(&line.body, value);
            line.body = edited.map_err(|why| Error::CommandLine {
                path: FILE.into(),
                line: number.saturating_add(1),
                why,
            })?;
        }
    }
    Ok(lines::join(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_takes_it_unless_another_has_it() {
        for (before, after) in [
            ("", "crashkernel=8M\n"),
            ("# none yet\n", "# none yet\ncrashkernel=8M\n"),
            ("root=x\nquiet", "root=x\nquiet crashkernel=8M"),
            (
                "crashkernel=1M\n#crashkernel=2M\nquiet\n",
                "crashkernel=8M\n#crashkernel=2M\nquiet\n",
            ),
            ("ro quiet\r\n\r\n", "ro quiet crashkernel=8M\r\n\r\n"),
        ] {
            let found = edit(before.as_bytes(), "8M").unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), after);
        }
    }
}
