//! Boot entries of systemd-boot, and of Fedora's GRUB: `options` in loader/entries/*.conf.
//!
//! Several `options` lines are put together in their order. Entries that start no Linux, such as a
//! shell, are left alone. Source: the Boot Loader Specification, type 1.

use super::command_line;
use super::lines;
use super::proposal::Proposal;
use super::root::Root;
use super::{Afterwards, BootLoader};
use crate::error::Error;

const FOLDERS: [&str; 3] = [
    "/boot/loader/entries",
    "/efi/loader/entries",
    "/boot/efi/loader/entries",
];

/// The boot loader.
pub struct SystemdBoot;

impl BootLoader for SystemdBoot {
    fn name(&self) -> &'static str {
        "systemd-boot"
    }

    fn files(&self, root: &Root) -> Vec<String> {
        let entries = FOLDERS.iter().flat_map(|folder| root.list(folder, ".conf"));
        entries.collect()
    }

    fn propose(&self, root: &Root, value: &str) -> Result<Vec<Proposal>, Error> {
        let mut proposals = Vec::new();
        for path in self.files(root) {
            let Some(found) = root.read(&path)? else {
                continue;
            };
            if let Some(after) = edit(&path, &found.bytes, value)? {
                proposals.push(Proposal::of_text(&path, found, after));
            }
        }
        Ok(proposals)
    }

    fn afterwards(&self, _: &Root) -> Option<Afterwards> {
        None
    }
}

/// The entry with the setting; `None` if it starts no Linux.
fn edit(path: &str, text: &[u8], value: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut lines = lines::split(text);
    let of = |line: &lines::Line, key: &[u8]| {
        lines::keyword(&line.body).is_some_and(|(word, _)| word == key)
    };
    let Some(linux) = lines.iter().position(|line| of(line, b"linux")) else {
        return Ok(None);
    };
    if !lines.iter().any(|line| of(line, b"options")) {
        lines::insert(&mut lines, linux.saturating_add(1), b"options".to_vec());
    }
    let last = lines.iter().rposition(|line| of(line, b"options"));
    let has_any = |line: &lines::Line| of(line, b"options") && command_line::has_any(&line.body);
    let some_has = lines.iter().any(has_any);
    for (number, line) in lines.iter_mut().enumerate() {
        let due = if some_has {
            has_any(line)
        } else {
            Some(number) == last
        };
        if due {
            let edited = lines::edit_rest(&line.body, |rest| command_line::set(rest, value));
            line.body = edited.map_err(|why| Error::CommandLine {
                path: path.into(),
                line: number.saturating_add(1),
                why,
            })?;
        }
    }
    Ok(Some(lines::join(&lines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_option_lines_get_it_once() {
        for (before, after) in [
            (
                "linux /l\noptions a\noptions b\n",
                "linux /l\noptions a\noptions b crashkernel=8M\n",
            ),
            (
                "linux /l\noptions crashkernel=1M a\noptions b",
                "linux /l\noptions crashkernel=8M a\noptions b",
            ),
            (
                "title x\nlinux /l",
                "title x\nlinux /l\noptions crashkernel=8M\n",
            ),
            (
                "linux /l\r\n#options a\r\n",
                "linux /l\r\noptions crashkernel=8M\r\n#options a\r\n",
            ),
        ] {
            let found = edit("x", before.as_bytes(), "8M").unwrap().unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), after);
        }
        assert!(
            edit("x", b"efi /shell.efi\noptions x", "8M")
                .unwrap()
                .is_none()
        );
    }
}
