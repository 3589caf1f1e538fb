//! extlinux.conf, as U-Boot's distro boot and UEFI's of NVIDIA read it: `append` of every label.
//!
//! Keywords are taken in any case; `#` begins a comment. A label without `append` boots with the
//! boot loader's own arguments, which a line of ours would replace, so none is added. Source:
//! `doc/README.pxe` and `boot/pxe_utils.c` of U-Boot.

use super::command_line;
use super::lines;
use super::proposal::Proposal;
use super::root::Root;
use super::{Afterwards, BootLoader};
use crate::error::Error;

const FILES: [&str; 3] = [
    "/boot/extlinux/extlinux.conf",
    "/boot/firmware/extlinux/extlinux.conf",
    "/extlinux/extlinux.conf",
];

/// The boot loader.
pub struct Extlinux;

impl BootLoader for Extlinux {
    fn name(&self) -> &'static str {
        "extlinux.conf"
    }

    fn files(&self, _: &Root) -> Vec<String> {
        FILES.map(str::to_owned).to_vec()
    }

    fn propose(&self, root: &Root, value: &str) -> Result<Vec<Proposal>, Error> {
        let mut proposals: Vec<Proposal> = Vec::new();
        for path in FILES {
            let Some(found) = root.read(path)? else {
                continue;
            };
            let (after, bare) = edit(path, &found.bytes, value)?;
            let mut proposal = Proposal::of_text(path, found, after);
            proposal.notes.extend(bare.iter().map(|label| {
                format!(
                    "{path}: label {label} has no append line and boots with the boot loader's own \
                     arguments; it stays without a reservation"
                )
            }));
            proposals.push(proposal);
        }
        Ok(proposals)
    }

    fn afterwards(&self, _: &Root) -> Option<Afterwards> {
        None
    }
}

/// The text with the setting in every `append`, and the labels that have none.
fn edit(path: &str, text: &[u8], value: &str) -> Result<(Vec<u8>, Vec<String>), Error> {
    let mut lines = lines::split(text);
    let mut bare = Vec::new();
    let mut label = None;
    for (number, line) in lines.iter_mut().enumerate() {
        let Some((word, rest)) = lines::keyword(&line.body) else {
            continue;
        };
        if word.eq_ignore_ascii_case(b"label") {
            bare.extend(label.replace(String::from_utf8_lossy(rest).into_owned()));
        } else if word.eq_ignore_ascii_case(b"append") {
            label = None;
            let edited = lines::edit_rest(&line.body, |rest| command_line::set(rest, value));
            line.body = edited.map_err(|why| Error::CommandLine {
                path: path.into(),
                line: number.saturating_add(1),
                why,
            })?;
        }
    }
    bare.extend(label);
    Ok((lines::join(&lines), bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_several_append_lines_or_none_are_told_apart() {
        let text = b"LABEL a\n  APPEND x\n  append y\nlabel b\nlabel c\n\tappend";
        let (after, bare) = edit("x", text, "8M").unwrap();
        assert_eq!(
            String::from_utf8(after).unwrap(),
            "LABEL a\n  APPEND x crashkernel=8M\n  append y crashkernel=8M\nlabel b\nlabel c\n\
             \tappend crashkernel=8M"
        );
        assert_eq!(bare, ["b"]);
    }
}
